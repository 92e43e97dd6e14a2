"""What one call can change, under diffusers' names, and what of it really reaches the UNet."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping
from typing import Any, ClassVar

from svdkit.settings.base import Settings, setting
from svdkit.settings.check import number, whole

_MAX_FRAMES = 256
_MAX_SEED = 2**63 - 1  # torch.Generator takes more, but numpy's and JSON readers' int64 do not
_LEAST_GUIDANCE = 1.01  # the next number above 1 is 1.0078 in bf16: anything nearer is rounded to 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditioning:
    """The three numbers that tell the UNet how the clip should move, as it receives them.

    diffusers passes them on as ``added_time_ids``; each goes through a sinusoidal embedding of 256 numbers, so
    any number between and beyond the trained ones is taken, and means less the further out it is.

    Attributes:
        fps: Frames a second, **one less** than the setting: SVD was trained on fps − 1.
        motion_bucket_id: Amount of motion.
        noise_aug_strength: Standard deviation of the noise added to the photo (pixel values −1 to 1).

    Example:
        >>> ClipSettings(fps=7).conditioning
        Conditioning(fps=6, motion_bucket_id=127, noise_aug_strength=0.02)
    """

    fps: int
    motion_bucket_id: int
    noise_aug_strength: float

    def to_dict(self) -> dict[str, Any]:
        """Give the three numbers as plain JSON values.

        Returns:
            Name to number.

        Example:
            >>> ClipSettings().conditioning.to_dict()["fps"]
            6
        """
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipSettings(Settings):
    """What one call can change; the names are those of diffusers' ``StableVideoDiffusionPipeline``.

    Attributes:
        height: Pixels, a multiple of 8 from 16 to 2048; None for the model's own. 8 is what the VAE shrinks by and
            what diffusers asks for (a single cell, 8 × 8, cannot be decoded). The UNet halves three times more, so
            off a multiple of 64 its levels do not meet exactly: diffusers 0.32 and later resize them on the way up.
        width: Pixels, like height. The full models were trained at height 576, width 1024.
        num_frames: 2 to 256; None for the model's own (14 or 25). One frame alone is refused: diffusers' guidance
            ramp then has only its first value, and the call fails with the default guidance.
        num_inference_steps: 1 to 1000 denoising steps.
        min_guidance_scale: 0 to 100, at the first frame; a straight line runs from it to the last frame's.
        max_guidance_scale: 0 to 100, at the last frame. 1 or less switches guidance off, which halves the work;
            between 1 and 1.01 nothing is allowed, since half precision rounds it to 1.
        fps: 1 to 60 frames a second that the motion is made for; the UNet receives fps − 1. Stability's own
            script warns when that is below 5 or above 30. Not how fast the file plays: that is playback_fps.
        motion_bucket_id: 0 to 1023, more is more motion. Stability's own script warns above 255; above 256 bf16
            no longer has every whole number.
        noise_aug_strength: 0 to 10, standard deviation of noise added to the photo, whose pixels run from −1 to 1;
            0.02 to 0.1 is usual, more lets go of the photo.
        decode_chunk_size: Frames decoded at once, 1 to num_frames; None for :func:`choose_decode_chunk_size`
            (diffusers' own None means all frames, which needs 32 GB or more for 25 frames at 576 × 1024).
        seed: 0 to 2**63 − 1; None draws one, which is then recorded.
        playback_fps: 0.1 to 240 frames a second at which the file plays; None for fps.

    Raises:
        SettingsError: Unknown names, bad values or an impossible combination; all are listed.

    Example:
        >>> ClipSettings(motion_bucket_id=180, seed=7).replace(fps=10).conditioning.fps
        9
    """

    height: int | None = setting(None, whole(16, 2048, step=8, optional=True))
    width: int | None = setting(None, whole(16, 2048, step=8, optional=True))
    num_frames: int | None = setting(None, whole(2, _MAX_FRAMES, optional=True))
    num_inference_steps: int = setting(25, whole(1, 1000))
    min_guidance_scale: float = setting(1.0, number(0, 100))
    max_guidance_scale: float = setting(3.0, number(0, 100))
    fps: int = setting(7, whole(1, 60))
    motion_bucket_id: int = setting(127, whole(0, 1023))
    noise_aug_strength: float = setting(0.02, number(0, 10))
    decode_chunk_size: int | None = setting(None, whole(1, _MAX_FRAMES, optional=True))
    seed: int | None = setting(None, whole(0, _MAX_SEED, optional=True))
    playback_fps: float | None = setting(None, number(0.1, 240, optional=True))

    # What other tools call the same things.
    _also_known_as: ClassVar[Mapping[str, str]] = {
        "steps": "num_inference_steps",
        "num_steps": "num_inference_steps",
        "frames": "num_frames",
        "video_frames": "num_frames",
        "guidance_scale": "max_guidance_scale",
        "cfg": "max_guidance_scale",
        "min_cfg": "min_guidance_scale",
        "fps_id": "fps",
        "motion": "motion_bucket_id",
        "motion_bucket": "motion_bucket_id",
        "cond_aug": "noise_aug_strength",
        "augmentation_level": "noise_aug_strength",
        "decoding_t": "decode_chunk_size",
        "chunk_size": "decode_chunk_size",
        "generator": "seed",
    }

    @property
    def conditioning(self) -> Conditioning:
        """What the UNet really receives.

        Returns:
            fps − 1, the motion bucket and the noise augmentation.

        Example:
            >>> ClipSettings(fps=6).conditioning.fps
            5
        """
        return Conditioning(
            fps=self.fps - 1, motion_bucket_id=self.motion_bucket_id, noise_aug_strength=self.noise_aug_strength
        )

    def resolve(self, *, height: int, width: int, num_frames: int, seed: int | None = None) -> ClipSettings:
        """Fill in everything left open, so that the result alone repeats the clip.

        Args:
            height: The model's own height in pixels.
            width: The model's own width in pixels.
            num_frames: The model's own number of frames.
            seed: Seed when the settings have none; drawn when None.

        Returns:
            Settings with no None in them.

        Raises:
            SettingsError: The filled-in settings cannot work together, as a decode_chunk_size above num_frames.

        Example:
            >>> ClipSettings(seed=7).resolve(height=576, width=1024, num_frames=25).decode_chunk_size
            5
        """
        frames = num_frames if self.num_frames is None else self.num_frames
        drawn = secrets.randbelow(2**32) if seed is None else seed  # short enough to type, exact in JavaScript
        fill = {
            "height": height,
            "width": width,
            "num_frames": frames,
            "decode_chunk_size": choose_decode_chunk_size(frames),
            "seed": drawn,
            "playback_fps": float(self.fps),
        }
        return self.replace(**{name: value for name, value in fill.items() if getattr(self, name) is None})

    @classmethod
    def _clashes(cls, clean: Mapping[str, Any]) -> list[str]:
        chunk, frames = clean.get("decode_chunk_size"), clean.get("num_frames")
        problems = []
        if chunk is not None and frames is not None and chunk > frames:
            problems.append(
                f"decode_chunk_size={chunk} with num_frames={frames}: at most all frames are decoded at once; "
                f"leave it out, or use {choose_decode_chunk_size(frames)}"
            )
        if "min_guidance_scale" in clean and "max_guidance_scale" in clean:
            problems += _guidance_clash(clean["min_guidance_scale"], clean["max_guidance_scale"])
        return problems


def _guidance_clash(first: float, last: float) -> list[str]:
    """Find guidance that diffusers switches on and off within one call, which ends in a shape error.

    It decides by the last frame's scale whether to encode for guidance, and by the largest scale of the ramp, in
    the model's precision, whether to denoise with it (``do_classifier_free_guidance`` in
    pipeline_stable_video_diffusion.py).
    """
    given = f"min_guidance_scale={first:g} with max_guidance_scale={last:g}"
    if last <= 1 < first:
        return [f"{given}: diffusers switches guidance off by the last frame's scale; use a maximum of at least 1.01"]
    if last > 1 and max(first, last) < _LEAST_GUIDANCE:
        return [f"{given}: half precision rounds them to 1; use a maximum of 1 (no guidance) or at least 1.01"]
    return []


def choose_decode_chunk_size(num_frames: int) -> int:
    """Choose how many frames to decode at once when the user leaves it open.

    The largest size from 4 to 8 that divides the frames, since equal chunks need one compiled graph; else 5, or
    the next best that leaves no frame alone at the end (a lone frame has no neighbours to be smooth with). Up to
    8 a chunk needs 9 to 12 GiB at 576 × 1024, and up to 6 less than the UNet: 1.13 to 1.48 GiB a frame, measured on
    fake tensors. Up to 5 frames are decoded at once.

    Args:
        num_frames: Frames of the clip, at least 1.

    Returns:
        Frames a chunk, 1 to 8.

    Example:
        >>> [choose_decode_chunk_size(frames) for frames in (14, 25, 16, 13, 26)]
        [7, 5, 8, 5, 4]
    """
    if num_frames <= 5:
        return max(1, num_frames)
    even = [size for size in (8, 7, 6, 5, 4) if num_frames % size == 0 and size < num_frames]
    no_lone_frame = [size for size in (5, 4, 6, 7, 8) if num_frames % size != 1]
    return (even or no_lone_frame)[0]
