"""A clip's files: the video or the folder of frames, ``<stem>.json`` and ``<stem>.photo.png`` beside it."""

from __future__ import annotations

import io
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from svdkit.clip.files import Content, write_files
from svdkit.clip.provenance import Document, Provenance
from svdkit.clip.stills import Decoded, Frames, Tags, check_size, encode_png, read_png, resize
from svdkit.clip.video import decode, encode
from svdkit.errors import ClipError, ImageError, SvdkitWarning
from svdkit.image import Frame

SUFFIXES = (".mp4", ".webm", ".webp", ".gif", ".png")
"""What can be saved, and looked for beside a JSON in this order; ".png" is a folder of frames."""

_MAX_SIDECAR_BYTES = 2**20
_DEFAULT_FPS = 7.0  # SVD's usual rate, for foreign frames that tell none


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """What the files of a clip hold, under the names of ``Clip``'s arguments.

    Example:
        >>> read_parts("walk.mp4").fps  # doctest: +SKIP
        7.0
    """

    frames: Frames
    fps: float
    provenance: Provenance | None
    photo: Image.Image | None


def write_parts(path: str | Path, parts: Parts, *, overwrite: bool, keep_photo: bool, scale: float | None) -> Path:
    """Write a clip's files, all or none; ``Clip.save`` documents the arguments.

    Returns:
        The video file, or the folder of frames.

    Raises:
        ClipError: The suffix is unknown, a file is in the way, or the disk is full or read-only.

    Example:
        >>> write_parts("walk.mp4", parts, overwrite=True, keep_photo=True, scale=None)  # doctest: +SKIP
        PosixPath('walk.mp4')
    """
    path = _as_path(path)
    suffix, stem, made = path.suffix.lower(), path.stem, parts.provenance
    if suffix not in SUFFIXES:
        known = ".mp4 (plays everywhere), .webm, .webp, .gif or .png (a folder of frames)"
        raise ClipError(f"{path.name!r} has no suffix of a clip; use {known}")
    count, height, width = parts.frames.shape[:3]
    document = Document(fps=parts.fps, num_frames=count, height=height, width=width, provenance=made)
    title = f"AI-generated video ({made.name}, svdkit {made.svdkit_version})" if made else None
    tags = Tags(comment=document.to_text(), title=title)
    frames = parts.frames if scale is None else resize(parts.frames, scale=scale)
    files: dict[Path, Content] = {}
    if keep_photo and parts.photo is not None:
        files[path.with_name(f"{stem}.photo.png")] = _png(parts.photo)
    if suffix == ".png":
        target = path.with_name(f"{stem}_frames")
        files[target] = {f"{i:04d}.png": encode_png(frame, tags=tags) for i, frame in enumerate(frames, start=1)}
    else:
        target = path
        files[target] = encode(frames, suffix=suffix, fps=parts.fps, tags=tags)
    files[path.with_name(f"{stem}.json")] = document.to_text(indent=1).encode() + b"\n"
    write_files(files, overwrite=overwrite)
    return target


def _png(photo: Image.Image) -> bytes:
    buffer = io.BytesIO()
    clean = Image.frombytes("RGB", photo.size, photo.convert("RGB").tobytes())  # without the photo's own metadata
    clean.save(buffer, "PNG")
    return buffer.getvalue()


def read_parts(path: str | Path) -> Parts:
    """Read a clip from any of its files; ``Clip.read`` documents what comes from where.

    Raises:
        ClipError: There is no clip, or it cannot be decoded.

    Example:
        >>> read_parts("walk.mp4").provenance.kind  # doctest: +SKIP
        'micro'
    """
    path = _as_path(path)
    try:
        media, stem = _find(path)
        decoded = decode(media)
        own = _document(decoded.comment, name=media.name)
        document = _choose(own, _sidecar(media.with_name(f"{stem}.json")), name=media.name)
        made = document.provenance if document else None
        photo = _photo(media.with_name(f"{stem}.photo.png"), made)
    except OSError as error:
        raise ClipError(f"{path} cannot be read ({error.strerror or error}); check the path and its rights") from error
    fps = document.fps if document else min(max(decoded.fps or _DEFAULT_FPS, 0.1), 240.0)
    return Parts(frames=_as_made(decoded, document, fps=fps, name=media.name), fps=fps, provenance=made, photo=photo)


def _as_path(path: object) -> Path:
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str):
        raise ClipError(f"a clip's path is a text or a Path, not {path!r:.80}")
    if "\0" in text:
        raise ClipError(f"{text!r:.80} is not a path: it contains a null character")
    return Path(text)


def _find(path: Path) -> tuple[Path, str]:
    """Return the video file or folder of frames that a path means, and the stem of the files beside it."""
    path = path.resolve() if path.name in {"", ".."} else path
    if not path.name:
        raise ClipError(f"{path} is no clip; give a video file or a folder of PNG frames")
    frames = path.with_name(f"{path.stem}_frames")
    if path.suffix.lower() == ".json" and path.is_file():
        if _sidecar(path, strict=True) is None:
            raise ClipError(f"{path.name} is not the JSON that svdkit writes beside a clip; give the clip itself")
        beside = [frames if suffix == ".png" else path.with_suffix(suffix) for suffix in SUFFIXES]
        found = [media for media in beside if media.exists()]
        if not found:
            raise ClipError(f"{path.name} has no clip beside it; put {beside[0].name} into its folder")
        return found[0], path.stem
    if path.suffix.lower() == ".png" and frames.is_dir():
        return frames, path.stem
    if path.is_dir():
        return path, path.name.removesuffix("_frames") or path.name
    if path.suffix.lower() == ".png" and path.is_file():
        raise ClipError(f"{path.name} is a single picture; give the folder of frames, or a video file")
    if not path.is_file():
        raise ClipError(f"{path} is not there; check the name and the folder")
    return path, path.stem


def _sidecar(path: Path, *, strict: bool = False) -> Document | None:
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_SIDECAR_BYTES:
        return None  # no JSON of ours
    return _document(path.read_bytes(), name=path.name, strict=strict)


def _document(text: str | bytes | None, *, name: str, strict: bool = False) -> Document | None:
    """Parse; a broken document is a warning only, for the frames can still be read."""
    try:
        return None if text is None else Document.from_text(text)
    except ClipError as error:
        if strict:
            raise ClipError(f"{name} is broken ({error}); give the clip itself") from error
        _warn(f"the provenance in {name} is broken and left out: {error}")
        return None


def _choose(own: Document | None, beside: Document | None, *, name: str) -> Document | None:
    """Take the document inside the file, which cannot be parted from it, else the one beside."""
    if own and beside and own.provenance != beside.provenance:
        _warn(f"the JSON beside {name} belongs to another clip; the provenance inside {name} is used")
    return own or beside


def _as_made(decoded: Decoded, document: Document | None, *, fps: float, name: str) -> Frames:
    """Bring frames back to the number and size they had: formats join equal frames, and make odd sizes even."""
    frames = decoded.at(fps)
    if document is None:
        return frames
    if decoded.delays == (0.0,):  # webp keeps a clip in which nothing moves as a still picture
        check_size(height=frames.shape[1], width=frames.shape[2], num_frames=document.num_frames)
        frames = np.repeat(frames, document.num_frames, axis=0)
    if len(frames) < document.num_frames:
        _warn(f"{name} holds {len(frames)} of its {document.num_frames} frames; it was cut short")
    height, width = document.height, document.width
    grown = (height + height % 2, width + width % 2)
    return frames[:, :height, :width] if frames.shape[1:3] == grown else frames


def _photo(path: Path, made: Provenance | None) -> Image.Image | None:
    """Read the fitted photo beside a clip, if it is the one the clip was made from."""
    if made is None or not path.is_file():
        return None
    try:
        return Frame.from_dict(made.image, image=read_png(path)).image
    except (ClipError, ImageError) as error:
        _warn(f"{path.name} is left out: {error}")
        return None


def _warn(text: str) -> None:
    warnings.warn(text, SvdkitWarning, stacklevel=5)  # the caller of Clip.read, from most depths
