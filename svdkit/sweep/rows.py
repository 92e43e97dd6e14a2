"""How a run becomes a row: its files, its record, and what a failure means."""

from __future__ import annotations

import errno
import io
import math
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdkit.bench.record import Record
from svdkit.disk import number_of, write_synced
from svdkit.environment import machine
from svdkit.errors import SvdkitError

if TYPE_CHECKING:
    from svdkit.clip import Clip

Task = Mapping[str, Any]
"""A run as plain JSON: "id", "load", "clip", "image" (``Frame.to_dict()``), "model", "forecast", and "options"."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FILES = {"clip": "clip.mp4", "poster": "poster.jpg"}


class NotNumbersError(SvdkitError):
    """The clip has values that are not numbers."""


class DiskFullError(SvdkitError):
    """There is no room for the results; the sweep stops, and continues when there is."""


def save(clip: Clip, folder: Path, *, scale: float | None = None) -> None:
    """Write a run's files: ``clip.mp4``, which carries its provenance, and ``poster.jpg``, its first frame."""
    from PIL import Image

    clip.save(folder / _FILES["clip"], keep_photo=False, keep_frames=False, scale=scale)
    (folder / "clip.json").unlink()  # the same stands in the video and in record.json
    buffer = io.BytesIO()
    Image.fromarray(clip.frames[0]).save(buffer, "JPEG", quality=85)
    write_synced(folder / _FILES["poster"], buffer.getvalue())


def made(task: Task, clip: Clip, *, seconds: Mapping[str, float], memory: Mapping[str, Any], **rest: Any) -> Record:
    """Make the row of a clip; ``seconds`` and ``memory`` are of its stages, ``rest`` more of the record.

    Seconds of a stage that several runs share stand in the row of each: they are what this clip would cost alone.
    """
    assert clip.provenance is not None  # noqa: S101 - clips of generate have it
    seconds = {**seconds, "total": sum(seconds.values())}
    options, sizes = task["options"], list(memory.values())
    largest = {name: max(size[name] or 0 for size in sizes) or None for name in sizes[0]}
    price = options.get("hourly_price")
    money = {} if price is None else {"hourly_price": price, "money": seconds["total"] / 3600 * price}
    return Record(
        **_same(task),
        **rest,
        status="ok",
        load=clip.provenance.load,
        clip=clip.provenance.settings,
        samples={"timed": {stage: [value] for stage, value in seconds.items()}},
        order=[options["position"]],
        memory={**memory, "total": largest},
        quality=_quality(clip) if options["quality"] else {},
        cost={**money, "currency": options["currency"]} if money else {},
        artifacts={name: f"runs/{task['id']}/{file}" for name, file in _FILES.items()},
    )


def failed(task: Task, error: BaseException | tuple[str, str], *, status: str = "", started_at: str = "") -> Record:
    """Make the row of a run that failed: "oom" for an error that means so, else "error", unless a status is given.

    Example:
        >>> failed(task, ("Timeout", "no answer in 60 s"), status="timeout").status  # doctest: +SKIP
        'timeout'
    """
    kind, message = error if isinstance(error, tuple) else (type(error).__name__, str(error))
    if isinstance(error, BaseException) and not status:
        from svdkit.pipeline.device import is_out_of_memory

        status = "oom" if is_out_of_memory(error) else ""
    return Record(
        **_same(task),
        status=status or "error",
        load={**task["load"], "model": task["model"]["name"]},
        clip=dict(task["clip"]),
        error={"type": kind, "message": message[:2000]},
        started_at=started_at or now(),
    )


def now() -> str:
    """Give the time as records have it: ISO 8601 in UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def is_disk_full(error: BaseException | None) -> bool:
    """Say whether an error, or what caused it, means that no room is left for files."""
    while error is not None:
        if isinstance(error, DiskFullError) or number_of(error) in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def _same(task: Task) -> dict[str, Any]:
    """Give what the record of a run has however it ends."""
    values = {name: task[name] for name in ("id", "image", "model", "forecast")}
    return {**values, "environment": machine(str(task["load"]["device"])), "command": task["options"]["command"]}


def _quality(clip: Clip) -> dict[str, Any]:
    from svdkit.bench.quality import measure_quality

    chunk = clip.provenance.settings["decode_chunk_size"] if clip.provenance else None
    found = measure_quality(clip.frames, fps=clip.fps, photo=clip.photo, decode_chunk_size=chunk)
    return {name: value if value is None or math.isfinite(value) else None for name, value in found.items()}
