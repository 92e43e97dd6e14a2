"""A clip's files: the video or the folder of frames, ``<stem>.json`` and ``<stem>.photo.png`` beside it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from svdkit.clip.formats import Frames, check_encoder, check_rate, check_size, decode_file, encode_file, encode_png
from svdkit.clip.provenance import Document, clip_number
from svdkit.disk import refusal, try_room, write_synced
from svdkit.errors import ClipError, ImageError, SvdkitWarning, shown
from svdkit.given import user_path
from svdkit.image import Frame, read_image
from svdkit.settings.base import number

SUFFIXES = (".mp4", ".webm", ".webp", ".gif", ".png")
"""What can be saved, and looked for beside a JSON in this order; ".png" is a folder of frames."""


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
    way = Image.Resampling.LANCZOS
    return np.stack([np.asarray(Image.fromarray(frame).resize((width, height), way)) for frame in frames])


def check_saving(path: Path, *, num_bytes: int) -> None:
    """Try what saving a clip will need before it is made: an encoder, names, and room for its frames; a ClipError."""
    check_encoder(path.suffix.lower())
    try:
        with contextlib.suppress(FileNotFoundError):
            os.lstat(path.with_name(f"{path.stem}.photo.png"))  # the longest name
        try_room(path.parent, num_bytes)
    except (OSError, ValueError) as error:
        raise ClipError(f"{path.name} cannot be saved in {str(path.parent)!r}: {refusal(error)}") from error


def write_clip(
    clip: Any, path: object, *, overwrite: bool, keep_photo: bool, keep_frames: bool, scale: float | None
) -> Path:
    """Write a clip's files, all or none; ``Clip.save`` documents the arguments."""
    path = _as_path(path)
    stem, suffix = path.stem, path.suffix.lower()
    if suffix not in SUFFIXES:
        known = ".mp4 (plays everywhere), .webm, .webp, .gif or .png (a folder of frames)"
        raise ClipError(f"{path.name!r} has no suffix of a clip; use {known}")
    check_rate(suffix, clip.fps)
    names = ("fps", "num_frames", "height", "width", "provenance")
    document = Document(**{name: getattr(clip, name) for name in names})
    frames, tags = clip.frames if scale is None else resize(clip.frames, scale=scale), document.tags()
    files: dict[str, bytes] = {}
    if keep_photo and clip.photo is not None:
        files[f"{stem}.photo.png"] = encode_png(np.asarray(clip.photo.convert("RGB")))
    try:
        if suffix == ".png":
            files |= {f"{stem}_frames/{i:04d}.png": encode_png(frame, tags=tags) for i, frame in enumerate(frames, 1)}
        else:
            files[path.name] = encode_file(frames, suffix=suffix, fps=clip.fps, tags=tags)
    except ClipError as error:
        kept = _keep(clip, path, keep_photo=keep_photo, scale=scale) if keep_frames else None
        if kept is None:
            raise
        raise ClipError(f"{error}. The frames are kept in {str(kept)!r}, which Clip.read opens") from error
    files[f"{stem}.json"] = document.to_text(indent=1).encode() + b"\n"
    _write_all(path.parent, files, overwrite=overwrite)
    return path.with_name(f"{stem}_frames") if suffix == ".png" else path


def _keep(clip: Any, path: Path, **how: Any) -> Path | None:
    """Keep a clip that could not be encoded as PNG, under a new name beside it or among temporary files."""
    for place in (path.parent, None):
        with contextlib.suppress(OSError), contextlib.ExitStack() as undo:
            folder = tempfile.mkdtemp(prefix=f"{path.stem}-", dir=place)  # of this user alone: photos are private
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            with contextlib.suppress(OSError, ClipError):
                new = Path(folder, f"{path.stem}.png")
                kept = write_clip(clip, new, overwrite=False, keep_frames=False, **how)
                undo.pop_all()
                return kept
    return None


def _write_all(folder: Path, files: dict[str, bytes], *, overwrite: bool) -> None:
    """Write files, of a folder too: first all into a hidden folder beside them, then each is renamed, in order."""
    names = list(dict.fromkeys(name.partition("/")[0] for name in files))
    old = {name for name in names if os.path.lexists(folder / name)}
    renamed: set[str] = set()
    try:
        for name in old:
            _check_replaceable(folder / name, is_file=name in files, overwrite=overwrite)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".svdkit-", ignore_cleanup_errors=True) as staging:
            for name, content in files.items():
                path = Path(staging, name)
                path.parent.mkdir(exist_ok=True)
                write_synced(path, content)
            for name in names:
                _rename(Path(staging, name), folder / name, aside=Path(f"{staging}.old"))
                renamed.add(name)
    except BaseException as error:
        for path in (folder / name for name in renamed - old):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not isinstance(error, OSError | ValueError):  # ValueError: a name that the file system cannot encode
            raise
        changed = sorted(name for name in old if name in renamed or not os.path.lexists(folder / name))
        state = f"No longer as before: {', '.join(changed)}; save again." if changed else "Nothing was changed."
        raise ClipError(f"{names[0]} could not be saved in {str(folder)!r}: {refusal(error)}. {state}") from error


def _check_replaceable(path: Path, *, is_file: bool, overwrite: bool) -> None:
    if not overwrite:
        raise ClipError(f"{path} exists; pass overwrite=True to replace it, or choose another name")
    if is_file and path.is_dir():
        raise ClipError(f"{path} is a folder; choose another name")
    if not is_file and not (path.is_dir() and all(re.fullmatch(r"\d+\.png", each.name) for each in path.iterdir())):
        raise ClipError(f"{path} holds more than numbered PNG frames and is not replaced; choose another name")


def _rename(new: Path, target: Path, *, aside: Path) -> None:
    """Rename, over an old folder too, which ``os.replace`` alone cannot do."""
    if target.is_dir():
        target.replace(aside)
    try:
        new.replace(target)
    except BaseException:
        if aside.exists():
            aside.replace(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def read_clip(path: object) -> dict[str, Any]:
    """Read the arguments of ``Clip`` from any of its files; ``Clip.read`` documents what comes from where."""
    path = _as_path(path)
    try:
        media, stem = _find(path)
        decoded = decode_file(media)
        document = _optional(media.name, Document.from_text, decoded.comment)
        sidecar = media.with_name(f"{stem}.json")
        if not document and sidecar.is_file() and sidecar.stat().st_size <= 2**20:  # no JSON of ours is larger
            document = _optional(sidecar.name, Document.from_text, sidecar.read_bytes())
    except (OSError, ValueError, ImageError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ClipError(f"{path} cannot be read ({reason}); check the path and its rights") from error
    found = decoded.fps or 7.0  # SVD's usual rate
    fps = document.fps if document else min(max(found, 0.1), 240.0)
    if not document and fps != found:
        _warn(f"{media.name} plays at {found:g} frames a second; a clip has 0.1 to 240, so it is read at {fps:g}")
    frames = decoded.frames
    if decoded.delays:
        still = document.num_frames if document else 1  # webp keeps a clip in which nothing moves as a still picture
        repeats = [max(1, round(delay * fps / 1000)) if delay else still for delay in decoded.delays]
        check_size(height=frames.shape[1], width=frames.shape[2], num_frames=sum(repeats))
        frames = np.repeat(frames, repeats, axis=0)
    if document is None:
        return {"frames": frames, "fps": fps}
    if len(frames) < document.num_frames:
        _warn(f"{media.name} holds {len(frames)} of its {document.num_frames} frames; it was cut short")
    height, width, made = document.height, document.width, document.provenance
    if frames.shape[1:3] == (height + height % 2, width + width % 2):  # mp4 and webm made odd sizes even
        frames = frames[:, :height, :width]
    photo = media.with_name(f"{stem}.photo.png")
    fitted = _optional(photo.name, _photo, photo, made.image) if made and photo.is_file() else None
    return {"frames": frames, "fps": fps, "provenance": made, "photo": fitted}


def _as_path(path: Any) -> Path:
    try:
        return user_path(os.fspath(path))
    except Exception:  # noqa: BLE001 - the object is the caller's: its __fspath__() can raise anything
        raise ClipError(f"a clip's path is a text or a Path, not {shown(path)}") from None


def _find(path: Path) -> tuple[Path, str]:
    """Return the video file or folder of frames that a path means, and the stem of the files beside it."""
    path = Path(os.path.abspath(path))  # noqa: PTH100 - "." needs a name, and links keep theirs
    if path.is_dir():
        return path, path.name.removesuffix("_frames")
    frames = path.with_name(f"{path.stem}_frames")
    beside = {".png": [frames], ".json": [*map(path.with_suffix, SUFFIXES[:-1]), frames]}
    for media in beside.get(path.suffix.lower(), [path]):
        if media.is_file() or media.is_dir():
            return media, path.stem
    if path.is_file():
        raise ClipError(f"{path.name} has no clip beside it; give a video, a folder of frames, or the JSON beside one")
    raise ClipError(f"{path} is not there; check the name and the folder")


def _photo(path: Path, described: dict[str, Any]) -> Image.Image:
    """Read the fitted photo beside a clip, if it is the one the clip was made from."""
    image = read_image(path)
    image.info = {}
    return Frame.from_dict(described, image=image).image


def _optional(name: str, read: Callable[..., Any], *given: Any) -> Any:
    """Read what a clip can do without: what is broken or another clip's is a warning, for the frames can be read."""
    try:
        return read(*given)
    except (ClipError, ImageError) as error:
        _warn(f"what {name} says of the clip is broken and left out: {error}")
        return None


def _warn(text: str) -> None:
    warnings.warn(text, SvdkitWarning, stacklevel=5)  # the caller of Clip.read, from most depths
