"""What needs a reload, what a call can change, and what other tools really send; all frozen and checked when built."""

from __future__ import annotations

import dataclasses
import functools
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from svdkit.errors import SettingsError, shown
from svdkit.settings.base import FLAG, Settings, choice, explained, nearest, number, setting, text

_SIDE, _SCALE = number(16, 2048, step=8), number(0, 100)
_SEED = number(0, 2**63 - 1, step=1)  # int64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conditioning:
    """The three numbers that tell the UNet how the clip should move, as it receives them (``added_time_ids``).

    They are the settings' own but for fps, which is **one less**: SVD was trained on fps − 1.

    Example:
        >>> ClipSettings(fps=7).conditioning
        Conditioning(fps=6, motion_bucket_id=127, noise_aug_strength=0.02)
    """

    fps: int
    motion_bucket_id: int
    noise_aug_strength: float

    def to_dict(self) -> dict[str, Any]:
        """Give the three numbers as plain JSON values."""
        return dataclasses.asdict(self)


@explained
@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipSettings(Settings):
    """What one call can change; the names are those of diffusers' ``StableVideoDiffusionPipeline``.

    Raises:
        SettingsError: Unknown names, bad values or an impossible combination; all are listed.

    Example:
        >>> ClipSettings(motion_bucket_id=180, seed=7).replace(fps=10).conditioning.fps
        9
    """

    height: int | None = setting(None, _SIDE, "pixels, a multiple of 8; the model's own when left out.")
    width: int | None = setting(None, _SIDE, "pixels, a multiple of 8; the model's own when left out.")
    num_frames: int | None = setting(
        None,
        number(2, 256, step=1),
        "frames of the clip; the model's own when left out. Far from what it was trained on, it falls apart.",
    )
    num_inference_steps: int | None = setting(
        None,
        number(1, 1000, step=1),
        "steps of denoising; its time grows with them, one for one. 25 is usual; after that little changes.",
    )
    min_guidance_scale: float = setting(
        1.0, _SCALE, "how strictly the first frame follows the photo. 1 is free, 3 is firm."
    )
    max_guidance_scale: float | None = setting(
        None,
        _SCALE,
        "how strictly the last frame follows the photo. 1 for both switches guidance off: half the work.",
    )
    fps: int = setting(
        7,
        number(1, 60, step=1),
        "the speed that the motion is made for; the network is told one less. It does not change the file.",
    )
    motion_bucket_id: int = setting(
        127,
        number(0, 1023, step=1),
        "how much should move, usually 1 to 255. High values also break more.",
    )
    noise_aug_strength: float = setting(
        0.02,
        number(0, 10),
        "noise on the photo, whose pixels run from −1 to 1, before the network sees it. More lets go of the photo and "
        "moves more.",
    )
    decode_chunk_size: int | None = setting(
        None,
        number(1, 256, step=1),
        "frames decoded at once. Smaller needs less memory, and looks the same but for flicker. svdkit chooses when it "
        "is left out.",
    )
    seed: int | None = setting(
        None,
        _SEED,
        "where chance begins. Another seed often changes more than any setting; try three. Drawn and recorded when "
        "left out.",
    )
    playback_fps: float | None = setting(
        None, number(0.1, 240), "how fast the file plays; as fps when left out. It does not reach the network."
    )

    @property
    def conditioning(self) -> Conditioning:
        """What the UNet really receives: fps − 1, the motion bucket and the noise augmentation."""
        bucket, noise = self.motion_bucket_id, self.noise_aug_strength
        return Conditioning(fps=self.fps - 1, motion_bucket_id=bucket, noise_aug_strength=noise)

    def resolve(
        self,
        *,
        height: int,
        width: int,
        num_frames: int,
        num_inference_steps: int = 25,
        max_guidance_scale: float = 3.0,
        seed: int | None = None,
    ) -> ClipSettings:
        """Fill in everything left open, so that the result alone repeats the clip.

        The values given are the model's own (``ModelInfo.clip_defaults``); a seed is drawn when there is none here or
        there.

        Raises:
            SettingsError: The values are bad, or cannot work together, as a decode_chunk_size above num_frames.

        Example:
            >>> ClipSettings(seed=7).resolve(height=576, width=1024, num_frames=25).decode_chunk_size
            5
        """
        drawn = secrets.randbelow(2**32) if seed is None else seed  # short enough to type, exact in JavaScript
        fill: dict[str, Any] = {"height": height, "width": width, "num_frames": num_frames, "seed": drawn}
        fill |= {"num_inference_steps": num_inference_steps, "max_guidance_scale": max_guidance_scale}
        fill |= {"playback_fps": float(self.fps)}
        found = self.replace(**fill | {name: value for name, value in self.to_dict().items() if value is not None})
        if unset := [name for name in fill if getattr(found, name) is None]:
            raise SettingsError(f"resolve: {', '.join(unset)} must not be None; give the model's own")
        chunk = found.decode_chunk_size or choose_decode_chunk_size(found.num_frames or 1)
        return found.replace(decode_chunk_size=chunk)

    @classmethod
    def _clashes(cls, clean: Mapping[str, Any]) -> list[str]:
        problems = []
        chunk, frames = clean.get("decode_chunk_size"), clean.get("num_frames")
        if chunk is not None and frames is not None and chunk > frames:
            advice = f"leave it out, or use {choose_decode_chunk_size(frames)}"
            given = f"decode_chunk_size={chunk} with num_frames={frames}"
            problems.append(f"{given}: at most all frames are decoded at once; {advice}")
        # diffusers decides by the last frame's scale whether to encode for guidance, and by the largest of the ramp, in
        # the model's precision, whether to denoise with it (do_classifier_free_guidance): both or neither, or it fails.
        first, last = clean.get("min_guidance_scale"), clean.get("max_guidance_scale")
        if first is None or last is None:
            return problems
        given = f"min_guidance_scale={first:g} with max_guidance_scale={last:g}"
        if last <= 1 < first:
            rule = "diffusers switches guidance off by the last frame's scale"
            problems.append(f"{given}: {rule}; use a maximum of at least 1.01")
        elif last > 1 and max(first, last) < 1.01:  # the next number above 1 is 1.0078 in bf16
            advice = "use a maximum of 1 (no guidance) or at least 1.01"
            problems.append(f"{given}: half precision rounds them to 1; {advice}")
        return problems


def choose_decode_chunk_size(num_frames: int) -> int:
    """Choose how many frames to decode at once when the user leaves it open.

    The largest size from 4 to 8 that divides the frames, since equal chunks need one compiled graph; else 5, or
    the next best that leaves no frame alone at the end (it has no neighbours to be smooth with). A frame needs 1.13
    to 1.48 GiB at 576 × 1024 (measured on fake tensors), so up to 6 need less than the UNet.

    Example:
        >>> [choose_decode_chunk_size(frames) for frames in (14, 25, 16, 13, 26)]
        [7, 5, 8, 5, 4]
    """
    if num_frames <= 5:
        return max(1, num_frames)
    even = [size for size in (8, 7, 6, 5, 4) if num_frames % size == 0 and size < num_frames]
    no_lone_frame = [size for size in (5, 4, 6, 7, 8) if num_frames % size != 1]
    return (even or no_lone_frame)[0]


@functools.cache
def _presets() -> dict[str, Any]:
    """Read what other tools send when their users leave everything alone: one line, its source, what differs from ours.

    The fps that such a tool shows to its user reaches the UNet as it is, less one, or not at all.
    """
    return json.loads(Path(__file__).with_name("presets.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def presets() -> dict[str, str]:
    """List the presets: name to one line of what it sends.

    Example:
        >>> list(presets())
        ['diffusers', 'comfyui', 'generative-models', 'generative-models-svd', 'generative-models-gradio',
         'generative-models-streamlit', 'marketplace', 'hf-space']
    """
    return {name: known["line"] for name, known in _presets().items()}


def clip_preset(name: str) -> ClipSettings:
    """Give the settings that make svdkit send what another tool sends; size, frames, seed and chunk stay open.

    Args:
        name: One of :func:`presets`; SettingsError for any other.

    Example:
        >>> clip_preset("comfyui").conditioning
        Conditioning(fps=5, motion_bucket_id=127, noise_aug_strength=0.0)
    """
    try:
        values = _presets()[name]["clip"]
    except (KeyError, TypeError):
        guess = nearest(name, _presets())
        hint = f"did you mean {guess!r}?" if guess else f"choose one of {', '.join(_presets())}"
        raise SettingsError(f"there is no preset {shown(name)}; {hint}") from None
    return ClipSettings(**{"num_inference_steps": 25, **values})


_SOURCE = choice("auto", "hub", "modelscope", "folder")
_DEVICE = text(
    "'auto', 'cpu', 'cuda', 'cuda:<number>' or 'mps'",
    pattern=r"auto|cpu|cuda(:[0-9]{1,3})?|mps",
    names=("cuda", "mps"),
)


def _switch(meaning: str) -> Any:
    return setting(default=False, check=FLAG, meaning=meaning)


def _refuse(_: object) -> NoReturn:
    raise ValueError


@explained
@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadSettings(Settings):
    """What a change of needs the model to be loaded again.

    Raises:
        SettingsError: Unknown names, bad values or an impossible combination; all are listed.

    Example:
        >>> LoadSettings(model="svd-xt", dtype="fp16").memory
        'auto'
    """

    model: str = setting(
        "micro",
        text("a name such as 'svd-xt', a folder or a hub id"),
        "a name (micro, svd, svd-xt, svd-xt-1.1), a folder in diffusers' layout, or a hub id.",
    )
    weights: str = setting(
        "trained",
        choice("trained", "random"),
        "which weights: trained, or random: full size without a download; real time and memory, no picture.",
    )
    dtype: str = setting(
        "auto",
        choice("auto", "fp32", "fp16", "bf16", "fp8"),
        "precision: fp32, fp16, bf16, fp8 (UNet stored in 8 bits, half precision), or auto: by the device.",
    )
    memory: str = setting(
        "auto",
        choice("auto", "resident", "offload", "group-offload", "sequential"),
        "what is on the device: resident (all), offload (one model at a time), group-offload (one block), sequential "
        "(one layer), or auto: by the free memory.",
    )
    forward_chunking: bool = _switch("feed-forward layers in slices: less memory, a little slower, same maths.")
    two_pass_guidance: bool = _switch("guidance as two passes: half the activations, same maths.")
    compile: bool = _switch("compile UNet and decoder: minutes at the first clip of a size, then faster.")
    device: str = setting("auto", _DEVICE, "what computes: cpu, cuda, cuda:1, mps, or auto: the best one here.")
    revision: str | None = setting(
        None, text("a branch, tag or commit", pattern=r"\S+"), "branch, tag or commit of the hub's repository."
    )
    source: str = setting("auto", _SOURCE, "where weights come from: hub, modelscope, folder or auto.")
    random_seed: int = setting(0, _SEED, "where chance begins, for random weights.")
    # Kept for acceleration presets, and in every record; None is all that it can be.
    preset: str | None = setting(None, ("left out (this version has no acceleration presets)", _refuse))

    @classmethod
    def _clashes(cls, clean: Mapping[str, Any]) -> list[str]:
        if clean.get("source") != "folder" or (revision := clean.get("revision")) is None:
            return []
        rule = f"revision={revision!r} with source='folder': a folder has no revisions"
        return [f"{rule}; leave revision out, or use source='hub'"]
