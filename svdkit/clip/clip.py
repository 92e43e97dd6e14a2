"""The clip: frames with their playback rate and provenance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from svdkit.clip.display import contact_sheet, figure_html, row_html
from svdkit.clip.provenance import Provenance, check_fps
from svdkit.clip.stills import Frames, check_size
from svdkit.clip.storage import Parts, read_parts, write_parts
from svdkit.errors import ClipError


@dataclass(frozen=True, eq=False, repr=False)
class Clip:
    """Frames, how fast they play, and where they come from.

    Two clips are equal when their frames, rate and provenance are; ``Provenance`` says what of it counts.

    Attributes:
        frames: uint8 RGB (frames, height, width, 3), values 0 to 255; kept as a read-only copy.
        fps: Playback, 0.1 to 240 frames a second.
        provenance: What made the clip; None for a video that svdkit did not make. Such a clip can be shown and
            saved, and is not marked as AI-generated; only ``replay`` refuses it.
        photo: The fitted photo (PIL, RGB), saved beside the clip for ``replay``; or None.

    Raises:
        ClipError: A part is not what it should be.

    Example:
        >>> clip = Clip(np.zeros((14, 72, 128, 3), np.uint8), fps=7)
        >>> clip
        Clip(video · 14 frames · 7 fps, height=72, width=128)
        >>> clip.duration_seconds
        2.0
    """

    frames: Frames
    fps: float = field(kw_only=True)
    provenance: Provenance | None = field(default=None, kw_only=True)
    photo: Image.Image | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        """Check every part; copy the frames, so that nothing can change them later."""
        _check_frames(self.frames)
        frames = np.array(self.frames, order="C")
        frames.flags.writeable = False
        object.__setattr__(self, "frames", frames)
        object.__setattr__(self, "fps", check_fps(self.fps))
        if not isinstance(self.provenance, Provenance | None):
            raise ClipError(f"provenance is a {type(self.provenance).__name__}; give a Provenance, or None")
        if not isinstance(self.photo, Image.Image | None):
            raise ClipError(f"photo is a {type(self.photo).__name__}; give the PIL image of the fitted photo, or None")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Clip):
            return NotImplemented
        same = self.fps == other.fps and self.provenance == other.provenance
        return same and np.array_equal(self.frames, other.frames)

    __hash__ = None  # type: ignore[assignment]  # equality compares megabytes of frames

    def __repr__(self) -> str:
        return f"Clip({self.label}, height={self.height}, width={self.width})"

    @property
    def num_frames(self) -> int:
        """Number of frames.

        Example:
            >>> Clip(np.zeros((14, 72, 128, 3), np.uint8), fps=7).num_frames
            14
        """
        return len(self.frames)

    @property
    def height(self) -> int:
        """Pixels.

        Example:
            >>> Clip(np.zeros((14, 72, 128, 3), np.uint8), fps=7).height
            72
        """
        return int(self.frames.shape[1])

    @property
    def width(self) -> int:
        """Pixels.

        Example:
            >>> Clip(np.zeros((14, 72, 128, 3), np.uint8), fps=7).width
            128
        """
        return int(self.frames.shape[2])

    @property
    def duration_seconds(self) -> float:
        """Seconds of playback.

        Example:
            >>> Clip(np.zeros((14, 72, 128, 3), np.uint8), fps=7).duration_seconds
            2.0
        """
        return self.num_frames / self.fps

    @property
    def label(self) -> str:
        """One line for captions and tables; the built-in model is always called micro, never SVD.

        Example:
            >>> Clip(np.zeros((14, 72, 128, 3), np.uint8), fps=7).label
            'video · 14 frames · 7 fps'
        """
        made = self.provenance
        frames = f"{self.num_frames} frame{'s' if self.num_frames > 1 else ''}"
        parts = [made.name if made else "video", frames, f"{self.fps:g} fps"]
        for name, words in (("motion_bucket_id", "bucket"), ("seed", "seed")):
            if made and made.settings.get(name) is not None:
                parts.append(f"{words} {made.settings[name]}")
        return " · ".join(parts)

    def save(
        self, path: str | Path, *, overwrite: bool = True, keep_photo: bool = True, scale: float | None = None
    ) -> Path:
        """Save the clip, by suffix; with ``<stem>.json`` and, when it has a photo, ``<stem>.photo.png`` beside it.

        .mp4 (H.264, plays everywhere), .webm, .webp, .gif, or .png: the folder ``<stem>_frames`` of lossless frames.
        Provenance goes into the file's metadata too, with the IPTC mark of AI-generated media. mp4 and webm need
        even sizes: an odd one grows by a repeated row or column, which ``Clip.read`` cuts off again.

        All files are written under temporary names first and renamed at the end: photo, clip, JSON last. After an
        error nothing is left behind; should the machine stop between two renames, the clip's own metadata wins.

        Args:
            path: Where to; the folder must exist.
            overwrite: Whether existing files may be replaced.
            keep_photo: Whether the fitted photo goes beside the clip. Leave it out for photos that are private.
            scale: Size of the saved frames as a factor, for example 4 for a clip of micro; true size when left out.

        Returns:
            The file or folder written.

        Raises:
            ClipError: The suffix is unknown, a file is in the way, or the disk is full or read-only.

        Example:
            >>> clip.save("walk.mp4")  # doctest: +SKIP
            PosixPath('walk.mp4')
        """
        parts = Parts(frames=self.frames, fps=self.fps, provenance=self.provenance, photo=self.photo)
        return write_parts(path, parts, overwrite=overwrite, keep_photo=keep_photo, scale=scale)

    @classmethod
    def read(cls, path: str | Path) -> Clip:
        """Read a clip back from any of its files, or a video that svdkit did not make.

        Args:
            path: An .mp4, .webm, .webp or .gif file, a folder of PNG frames, or the ``<stem>.json`` beside one.

        Returns:
            The clip. Its provenance comes from the file's metadata, else from the JSON beside it; a video with neither
            has None. The photo is read when it lies beside and is the very one the clip was made from. Frames of
            lossy formats differ a little from those saved; those of a file saved with ``scale=`` are as large as there.

        Raises:
            ClipError: There is no clip, it is broken, or it is larger than svdkit reads (1 GiB of raw frames).

        Warns:
            SvdkitWarning: Provenance or photo do not belong to the clip, or frames are missing.

        Example:
            >>> Clip.read("walk.mp4").provenance.settings["seed"]  # doctest: +SKIP
            1
        """
        parts = read_parts(path)
        return cls(parts.frames, fps=parts.fps, provenance=parts.provenance, photo=parts.photo)

    def contact_sheet(self, *, columns: int | None = None, cell_width: int | None = None) -> Image.Image:
        """Lay all frames on one picture, numbered from 1, with the settings below.

        Args:
            columns: Frames a row; 5 when left out.
            cell_width: Pixels of a frame on the sheet; its own width within 200 to 320 when left out.

        Raises:
            ClipError: ``columns`` or ``cell_width`` is not a whole number from 1 to 4096.

        Example:
            >>> Clip(np.zeros((14, 72, 128, 3), np.uint8), fps=7).contact_sheet().size
            (1048, 448)
        """
        return contact_sheet(self.frames, caption=self._settings_line(), columns=columns, cell_width=cell_width)

    def _settings_line(self) -> str:
        parts = [self.label, f"height {self.height}", f"width {self.width}"]
        settings = self.provenance.settings if self.provenance else {}
        for name, words in (("num_inference_steps", "{} steps"), ("noise_aug_strength", "noise aug {}")):
            if settings.get(name) is not None:
                parts.append(words.format(settings[name]))
        if settings.get("max_guidance_scale") is not None:
            parts.append(f"guidance {settings.get('min_guidance_scale')} to {settings['max_guidance_scale']}")
        return " · ".join(parts)

    def _figure(self, caption: str) -> str:
        return figure_html(self.frames, fps=self.fps, caption=caption)

    def _repr_html_(self) -> str:
        return self._figure(self.label)


@dataclass(frozen=True, eq=False)
class SideBySide:
    """Clips to be shown next to one another; a notebook displays it.

    Attributes:
        clips: The clips, from left to right.
        labels: A caption for each; plain text.

    Raises:
        ClipError: There is no clip, or not one label a clip.

    Example:
        >>> SideBySide(clips=(), labels=())
        Traceback (most recent call last):
        svdkit.errors.ClipError: there is nothing to show; give at least one Clip
    """

    clips: tuple[Clip, ...]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        """Check that clips and labels match."""
        if not self.clips:
            raise ClipError("there is nothing to show; give at least one Clip")
        if not all(isinstance(clip, Clip) for clip in self.clips):
            raise ClipError("side_by_side shows Clip objects only; read files with Clip.read first")
        if len(self.labels) != len(self.clips):
            raise ClipError(f"{len(self.labels)} labels for {len(self.clips)} clips; give one label a clip")

    def _repr_html_(self) -> str:
        pairs = zip(self.clips, self.labels, strict=True)
        return row_html([clip._figure(str(label)) for clip, label in pairs])  # noqa: SLF001 - the class beside


def side_by_side(clips: Sequence[Clip], labels: Sequence[str] | None = None) -> SideBySide:
    """Show clips next to one another, started together; they play without JavaScript too, then each on its own.

    Args:
        clips: From left to right; narrow pages break the row.
        labels: A caption for each; the clips' own labels when left out.

    Returns:
        An object that a notebook displays.

    Raises:
        ClipError: There is no clip, or not one label a clip.

    Example:
        >>> side_by_side([calm, lively], ["bucket 60", "bucket 180"])  # doctest: +SKIP
    """
    clips = tuple(clips)
    texts = [getattr(clip, "label", "") for clip in clips] if labels is None else labels
    return SideBySide(clips=clips, labels=tuple(texts))


def _check_frames(frames: object) -> None:
    if not isinstance(frames, np.ndarray):
        raise ClipError(f"frames are a {type(frames).__name__}; give one array, for a list of pictures np.stack(them)")
    if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise ClipError(f"frames have shape {frames.shape}; give (frames, height, width, 3), at least one frame")
    if frames.dtype != np.uint8:
        raise ClipError(f"frames are {frames.dtype}; give uint8, values 0 to 255; of values 0 to 1 take 255 times")
    check_size(height=frames.shape[1], width=frames.shape[2], num_frames=frames.shape[0])
