"""A clip's files: the video or the folder of frames, ``<stem>.json`` and ``<stem>.photo.png`` beside it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from svdkit.clip.formats import (
    Decoded,
    Frames,
    Tags,
    check_encoder,
    check_rate,
    check_size,
    decode_file,
    encode_file,
    encode_png,
    read_png,
)
from svdkit.clip.provenance import Document, Provenance, clip_number
from svdkit.disk import refusal, try_room, write_synced
from svdkit.errors import ClipError, ImageError, SvdkitWarning, shown
from svdkit.given import user_path
from svdkit.image import Frame
from svdkit.settings.base import number

SUFFIXES = (".mp4", ".webm", ".webp", ".gif", ".png")
"""What can be saved, and looked for beside a JSON in this order; ".png" is a folder of frames."""

_Content = bytes | dict[str, bytes]  # of a file, or of a folder's files by name


def scaled_size(*, height: int, width: int, num_frames: int, scale: float) -> tuple[int, int]:
    """Give height and width of frames that are saved at a scale, even ones; a ClipError for what cannot be saved."""
    scale = clip_number(scale, number(1e-9, 16), name="scale", give="a factor above 0, at most 16")
    height, width = (max(2, 2 * round(side * scale / 2)) for side in (height, width))
    check_size(height=height, width=width, num_frames=num_frames)
    return height, width


def resize(frames: Frames, *, scale: float) -> Frames:
    """Scale frames by a factor (Lanczos), to even sizes."""
    count, height, width = frames.shape[:3]
    height, width = scaled_size(height=height, width=width, num_frames=count, scale=scale)
    scaled = [Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS) for frame in frames]
    return np.stack([np.asarray(image) for image in scaled])


def check_saving(path: Path, *, num_bytes: int) -> None:
    """Try what saving a clip will need before it is made: an encoder, names, and room for its frames; a ClipError."""
    check_encoder(path.suffix.lower())
    try:
        for end in (path.suffix, ".photo.png", "_frames"):
            with contextlib.suppress(FileNotFoundError):
                os.lstat(path.with_name(path.stem + end))
        try_room(path.parent, num_bytes)
    except (OSError, ValueError) as error:
        raise ClipError(f"{path.name} cannot be saved in {str(path.parent)!r}: {refusal(error)}") from error


def write_clip(
    path: str | Path,
    frames: Frames,
    document: Document,
    *,
    photo: Image.Image | None,
    overwrite: bool,
    keep_frames: bool = False,
) -> Path:
    """Write a clip's files, all or none; ``Clip.save`` documents the arguments."""
    path, made = _as_path(path), document.provenance
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        known = ".mp4 (plays everywhere), .webm, .webp, .gif or .png (a folder of frames)"
        raise ClipError(f"{path.name!r} has no suffix of a clip; use {known}")
    check_rate(suffix, document.fps)
    title = f"AI-generated video ({made.name}, svdkit {made.svdkit_version})" if made else ""
    tags = Tags(comment=document.to_text(), title=title)
    files: dict[Path, _Content] = {}
    if photo is not None:
        files[path.with_name(f"{path.stem}.photo.png")] = encode_png(np.asarray(photo.convert("RGB")))
    target = path.with_name(f"{path.stem}_frames") if suffix == ".png" else path
    if suffix == ".png":
        files[target] = {f"{i:04d}.png": encode_png(frame, tags=tags) for i, frame in enumerate(frames, start=1)}
    else:
        try:
            files[target] = encode_file(frames, suffix=suffix, fps=document.fps, tags=tags)
        except ClipError as error:
            kept = _keep(path, frames, document, photo=photo) if keep_frames else None
            if kept is None:
                raise
            raise ClipError(f"{error}. The frames are kept in {str(kept)!r}, which Clip.read opens") from error
    files[path.with_name(f"{path.stem}.json")] = document.to_text(indent=1).encode() + b"\n"
    _write_all(files, overwrite=overwrite)
    return target


def _keep(path: Path, frames: Frames, document: Document, *, photo: Image.Image | None) -> Path | None:
    """Keep a clip that could not be encoded as PNG, in a new folder beside it or among temporary files."""
    for place in (path.parent, None):
        with contextlib.suppress(OSError, ClipError), contextlib.ExitStack() as stack:
            folder = tempfile.mkdtemp(prefix=f"{path.stem}-", dir=place)
            stack.callback(shutil.rmtree, folder)
            kept = write_clip(Path(folder, f"{path.stem}.png"), frames, document, photo=photo, overwrite=False)
            stack.pop_all()
            return kept
    return None


def _write_all(files: dict[Path, _Content], *, overwrite: bool) -> None:
    """Write files and folders of files: first all into a hidden folder beside them, then each is renamed, in order."""
    first = next(iter(files))
    old = {path for path in files if os.path.lexists(path)}
    renamed: set[Path] = set()
    try:
        for path in old:
            _check_replaceable(path, files[path], overwrite=overwrite)
        with tempfile.TemporaryDirectory(dir=first.parent, prefix=".svdkit-", ignore_cleanup_errors=True) as staging:
            for path, content in files.items():
                _write(Path(staging, path.name), content)
            for path in files:
                _rename(Path(staging, path.name), path, aside=Path(f"{staging}.old"))
                renamed.add(path)
    except BaseException as error:
        for path in renamed - old:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not isinstance(error, OSError | ValueError):  # ValueError: a name that the file system cannot encode
            raise
        changed = sorted(path.name for path in old if path in renamed or not os.path.lexists(path))
        state = f"No longer as before: {', '.join(changed)}; save again." if changed else "Nothing was changed."
        raise ClipError(
            f"{first.name} could not be saved in {str(first.parent)!r}: {refusal(error)}. {state}"
        ) from error


def _check_replaceable(path: Path, content: _Content, *, overwrite: bool) -> None:
    if not overwrite:
        raise ClipError(f"{path} exists; pass overwrite=True to replace it, or choose another name")
    if path.is_dir() and isinstance(content, bytes):
        raise ClipError(f"{path} is a folder; choose another name")
    names = [entry.name for entry in path.iterdir()] if path.is_dir() else [path.name]
    if isinstance(content, dict) and not all(re.fullmatch(r"\d+\.png", name) for name in names):
        raise ClipError(f"{path} holds more than numbered PNG frames and is not replaced; choose another name")


def _write(path: Path, content: _Content) -> None:
    if isinstance(content, dict):
        path.mkdir()
        for name, part in content.items():
            _write(path / name, part)
    else:
        write_synced(path, content)


def _rename(new: Path, target: Path, *, aside: Path) -> None:
    """Rename, over an old folder too, which ``os.replace`` alone cannot do."""
    replace = os.replace
    if not target.is_dir():
        replace(new, target)
        return
    replace(target, aside)
    try:
        replace(new, target)
    except BaseException:
        replace(aside, target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def read_clip(path: str | Path) -> dict[str, Any]:
    """Read the arguments of ``Clip`` from any of its files; ``Clip.read`` documents what comes from where."""
    path = _as_path(path)
    try:
        media, stem = _find(path)
        decoded = decode_file(media)
        sidecar = media.parent / f"{stem}.json"
        is_ours = sidecar.is_file() and sidecar.stat().st_size <= 2**20  # no JSON of ours is larger
        beside = _parse(sidecar.read_bytes(), name=sidecar.name) if is_ours else None
        document = _parse(decoded.comment, name=media.name)
        if document and beside and document.provenance != beside.provenance:
            _warn(f"the JSON beside {media.name} belongs to another clip; the provenance inside {media.name} is used")
        document = document or beside  # the one inside the file cannot be parted from it
        made = document.provenance if document else None
        photo = _photo(media.parent / f"{stem}.photo.png", made)
    except OSError as error:
        raise ClipError(f"{path} cannot be read ({error.strerror or error}); check the path and its rights") from error
    fps = _rate(decoded, document, name=media.name)
    frames = decoded.at(fps)
    if document is None:
        return {"frames": frames, "fps": fps}
    height, width = document.height, document.width
    if decoded.delays == (0.0,):  # webp keeps a clip in which nothing moves as a still picture
        check_size(height=frames.shape[1], width=frames.shape[2], num_frames=document.num_frames)
        frames = np.repeat(frames, document.num_frames, axis=0)
    if len(frames) < document.num_frames:
        _warn(f"{media.name} holds {len(frames)} of its {document.num_frames} frames; it was cut short")
    if frames.shape[1:3] == (height + height % 2, width + width % 2):  # mp4 and webm made odd sizes even
        frames = frames[:, :height, :width]
    return {"frames": frames, "fps": fps, "provenance": made, "photo": photo}


def _rate(decoded: Decoded, document: Document | None, *, name: str) -> float:
    """Choose how fast a clip plays: as it was saved, unless another program gave the file another rate since."""
    if document and decoded.has_rate(document.fps, num_frames=document.num_frames):
        return document.fps
    found = decoded.fps or 7.0  # SVD's usual rate
    fps = min(max(found, 0.1), 240.0)
    if fps != found:
        _warn(f"{name} plays at {found:g} frames a second; a clip has 0.1 to 240, so it is read at {fps:g}")
    elif document:
        _warn(f"{name} was re-timed since it was saved, from {document.fps:g} to {fps:.4g} frames a second; read so")
    return fps


def _as_path(path: object) -> Path:
    text: object = None
    with contextlib.suppress(Exception):  # the object is the caller's: its __fspath__() can raise anything
        text = os.fspath(path)  # type: ignore[call-overload]  # see above
    if not isinstance(text, str):
        raise ClipError(f"a clip's path is a text or a Path, not {shown(path)}")
    if "\0" in text:
        raise ClipError(f"{shown(text)} is not a path: it contains a null character")
    return user_path(text)


def _find(path: Path) -> tuple[Path, str]:
    """Return the video file or folder of frames that a path means, and the stem of the files beside it."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 - "." needs a name, and links keep theirs
    suffix, frames = path.suffix.lower(), path.parent / f"{path.stem}_frames"
    if path.is_dir():
        return path, path.name.removesuffix("_frames")
    if suffix == ".png" and frames.is_dir():
        return frames, path.stem
    if not path.is_file():
        raise ClipError(f"{path} is not there; check the name and the folder")
    if suffix == ".png":
        raise ClipError(f"{path.name} is a single picture; give the folder of frames, or a video file")
    if suffix != ".json":
        return path, path.stem
    for media in (*(path.with_suffix(known) for known in SUFFIXES[:-1]), frames):
        if media.exists():
            return media, path.stem
    raise ClipError(f"{path.name} has no clip beside it; put {path.stem}.mp4 into its folder")


def _parse(text: object, *, name: str) -> Document | None:
    """Parse; a broken document is a warning only, for the frames can still be read."""
    try:
        return Document.from_text(text) if isinstance(text, str | bytes) else None
    except ClipError as error:
        _warn(f"the provenance in {name} is broken and left out: {error}")
        return None


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
