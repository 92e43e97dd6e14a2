"""What makes the clips of a sweep: loads once, runs each stage once for all runs that share it.

``python -m svdkit.sweep.worker`` is the child process of the local engine: one JSON object a line, calls on stdin,
answers on stdout. It ends with its driver, also when that was killed.
"""

from __future__ import annotations

import base64
import errno
import io
import json
import os
import queue
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from svdkit.bench.record import Record
from svdkit.environment import summary
from svdkit.errors import SvdkitError, SvdkitWarning
from svdkit.settings import ClipSettings, LoadSettings
from svdkit.sweep.commit import write_whole

if TYPE_CHECKING:
    from svdkit.clip import Clip
    from svdkit.image import Frame

Task = Mapping[str, Any]
"""A run as plain JSON: "id", "load", "clip", "image" (``Frame.to_dict()``), "model", and "options"."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_machine = lru_cache(maxsize=1)(summary)


class NotNumbersError(SvdkitError):
    """The clip has values that are not numbers."""


class DiskFullError(SvdkitError):
    """There is no room for the results; the sweep stops, and continues when there is."""


class Runner:
    """Makes clips with one model. The output of each stage is kept until a run needs another one.

    Example:
        >>> runner = Runner()  # doctest: +SKIP
        >>> runner.load(task)  # doctest: +SKIP
        >>> record = runner.run(task, folder=Path("work/3f0c"), photo=png)  # doctest: +SKIP
    """

    def __init__(self) -> None:
        self._pipe: Any = None
        self._frames: dict[str, Frame] = {}
        self._kept: dict[str, tuple[object, Any, dict[str, int | None]]] = {}
        self._fresh: set[str] = set()
        self._is_warm = False

    def load(self, task: Task) -> None:
        """Load the model of a task.

        Raises:
            SvdkitError: It cannot be loaded, or is another revision than the one the run ids were made with.
        """
        from svdkit.generate.keys import describe_model
        from svdkit.pipeline import load

        self._pipe = load(settings=LoadSettings.from_dict(task["load"]))
        self._pipe.set_progress_bar_config(disable=True)
        found = describe_model(self._pipe)
        if found["revision"] != task["model"]["revision"]:
            raise SvdkitError(
                f"this worker has revision {found['revision']} of {found['name']}, the sweep was planned with "
                f"{task['model']['revision']}: give all machines the same model, or set revision in load"
            )

    def run(self, task: Task, *, folder: Path, photo: bytes | None = None) -> Record:
        """Make a clip, and its files in a new folder; a failure is a record too.

        Args:
            task: What to make; its model is loaded.
            folder: Where to; it must not exist, its parent must.
            photo: PNG of the fitted photo; needed the first time that it is used.

        Raises:
            DiskFullError: There is no room for the files.
        """
        started_at = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        try:
            return self._make(task, folder, photo, started_at=started_at)
        except Exception as error:  # noqa: BLE001 - whatever ends a run is its row
            if is_disk_full(error):
                raise DiskFullError(str(error)) from error
            self._recover(error)
            return failed(task, error, started_at=started_at)

    def _make(self, task: Task, folder: Path, photo: bytes | None, *, started_at: str) -> Record:
        from svdkit.generate import decode, denoise, encode

        settings, frame = ClipSettings.from_dict(task["clip"]), self._frame(task, photo)
        self._warm_up(frame, settings)
        self._fresh.clear()
        self._run_stages(frame, settings, encode, denoise, decode)
        clip = self._as_asked(self._kept["decode"][1], settings)
        start = time.perf_counter()
        folder.mkdir()
        save(clip, folder, scale=task["options"].get("scale"))
        export = time.perf_counter() - start
        record = self._record(task, clip, started_at=started_at, export=export)
        write_whole(folder / "record.json", json.dumps(record.to_dict(), indent=1) + "\n")
        return record

    def _run_stages(self, frame: Frame, settings: ClipSettings, encode: Any, denoise: Any, decode: Any) -> None:
        pipe, earlier = self._pipe, self._kept.get("encode", (None, None))[1]
        encoded = self._stage("encode", frame, settings, lambda: encode(pipe, frame, settings, reuse=earlier))
        denoised = self._stage("denoise", frame, settings, lambda: denoise(pipe, encoded, settings))
        self._stage("decode", frame, settings, lambda: _strictly(lambda: decode(pipe, denoised, settings)))

    def _stage(self, stage: str, frame: Frame, settings: ClipSettings, make: Callable[[], Any]) -> Any:
        """Give a stage's output: the one kept when it depends on nothing that changed, else a new one."""
        from svdkit.generate.keys import model_identity, stage_key

        key = stage_key(stage, settings, image_sha256=frame.sha256, model=model_identity(self._pipe))
        if self._kept.get(stage, (None,))[0] != key:
            _reset_peak()
            output = make()
            self._kept[stage] = (key, output, _peak())
            self._fresh.add(stage)
        return self._kept[stage][1]

    def _as_asked(self, clip: Clip, settings: ClipSettings) -> Clip:
        """Give a kept clip the playback rate of this run, which is in no stage's key."""
        from dataclasses import replace

        made, fps = clip.provenance, settings.playback_fps
        if made is None or fps is None or fps == clip.fps:
            return clip
        return replace(clip, fps=fps, provenance=replace(made, settings=settings.to_dict()))

    def _warm_up(self, frame: Frame, settings: ClipSettings) -> None:
        """Make two steps first on a GPU, whose first clip also starts kernels and compiles: not a run's own time."""
        from svdkit.generate import decode, denoise, encode
        from svdkit.generate.loop import execution_device

        if not self._is_warm and execution_device(self._pipe).type != "cpu":
            short = settings.replace(num_inference_steps=min(2, settings.num_inference_steps))
            self._run_stages(frame, short, encode, denoise, decode)
            self._kept.clear()
        self._is_warm = True

    def _frame(self, task: Task, photo: bytes | None) -> Frame:
        from PIL import Image

        from svdkit.image import Frame

        sha256 = task["image"]["sha256"]
        if sha256 not in self._frames and photo is not None:
            with Image.open(io.BytesIO(photo)) as image:
                self._frames[sha256] = Frame.from_dict(task["image"], image=image.convert("RGB"))
        return self._frames[sha256]

    def _record(self, task: Task, clip: Clip, *, started_at: str, export: float) -> Record:
        made = clip.provenance
        assert made is not None  # noqa: S101 - clips of generate have it
        seconds = {**made.stage_seconds, "export": export}
        seconds["total"] = sum(seconds.values())
        memory = {stage: self._kept[stage][2] for stage in ("encode", "denoise", "decode")}
        options = task["options"]
        return Record(
            **_same(task, started_at=started_at),
            status="ok",
            load=made.load,
            clip=made.settings,
            method="measured" if len(self._fresh) == 3 else "composed",
            samples={"timed": {stage: [value] for stage, value in seconds.items()}},
            order=[options.get("position", 0)],
            memory={**memory, "total": _largest(memory)},
            quality=_quality(clip) if options.get("quality", True) else {},
            cost=_cost(seconds["total"], options),
            artifacts={name: f"runs/{task['id']}/{file}" for name, file in _FILES.items()},
        )

    def _recover(self, error: BaseException) -> None:
        """After a failure: nothing kept from it, and memory given back."""
        import gc
        import traceback

        import torch

        traceback.clear_frames(error.__traceback__)  # it holds the stage's tensors
        self._kept.clear()
        gc.collect()
        torch.cuda.empty_cache()


_FILES = {"clip": "clip.mp4", "poster": "poster.jpg"}


def save(clip: Clip, folder: Path, *, scale: float | None = None) -> None:
    """Write a run's files: ``clip.mp4``, which carries its provenance, and ``poster.jpg``, its first frame."""
    from PIL import Image

    clip.save(folder / _FILES["clip"], keep_photo=False, scale=scale)
    (folder / "clip.json").unlink()  # the same stands in the video and in record.json
    with (folder / _FILES["poster"]).open("wb") as file:
        Image.fromarray(clip.frames[0]).save(file, "JPEG", quality=85)
        file.flush()
        os.fsync(file.fileno())


def failed(task: Task, error: BaseException | tuple[str, str], *, started_at: str = "", status: str = "") -> Record:
    """Make the row of a run that failed: "oom" for an error that means so, else "error" unless a status is given.

    Example:
        >>> failed(task, ("Timeout", "no answer in 60 s"), status="timeout").status  # doctest: +SKIP
        'timeout'
    """
    kind, message = error if isinstance(error, tuple) else (type(error).__name__, str(error))
    if not status:
        status = "oom" if isinstance(error, BaseException) and _is_out_of_memory(error) else "error"
    started_at = started_at or datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    load = {**task["load"], "model": task["model"]["name"]}
    reason = {"type": kind, "message": message[:2000]}
    return Record(**_same(task, started_at=started_at), status=status, load=load, clip=dict(task["clip"]), error=reason)


def is_disk_full(error: BaseException | None) -> bool:
    """Say whether an error, or what caused it, means that no room is left for files."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__ or error.__context__
    return False


def _same(task: Task, *, started_at: str) -> dict[str, Any]:
    """Give what the record of a run has however it ends."""
    values = {name: task[name] for name in ("id", "image", "model")}
    command = task["options"].get("command", "")
    return {**values, "environment": _machine(), "started_at": started_at, "command": command}


def _is_out_of_memory(error: BaseException) -> bool:
    from svdkit.generate.ladder import is_out_of_memory

    return is_out_of_memory(error)


def _strictly(decode: Callable[[], Clip]) -> Clip:
    """Decode, and refuse a clip whose values are not numbers: a black row in a table would pass for a result."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clip = decode()
    for warning in caught:
        if issubclass(warning.category, SvdkitWarning) and "not numbers" in str(warning.message):
            raise NotNumbersError(str(warning.message))
    return clip


def _quality(clip: Clip) -> dict[str, Any]:
    from math import isfinite

    from svdkit.bench.quality import measure_quality

    chunk = clip.provenance.settings["decode_chunk_size"] if clip.provenance else None
    found = measure_quality(clip.frames, fps=clip.fps, photo=clip.photo, decode_chunk_size=chunk)
    return {name: value if value is None or isfinite(value) else None for name, value in found.items()}


def _cost(seconds: float, options: Mapping[str, Any]) -> dict[str, Any]:
    price = options.get("hourly_price")
    if price is None:
        return {}
    return {"hourly_price": price, "currency": options["currency"], "money": seconds / 3600 * price}


def _reset_peak() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _peak() -> dict[str, int | None]:
    import psutil
    import torch

    cuda = torch.cuda.is_available()
    return {
        "peak_allocated_bytes": int(torch.cuda.max_memory_allocated()) if cuda else None,
        "peak_reserved_bytes": int(torch.cuda.max_memory_reserved()) if cuda else None,
        "process_bytes": int(psutil.Process().memory_info().rss),
    }


def _largest(memory: Mapping[str, Mapping[str, int | None]]) -> dict[str, int | None]:
    sizes = list(memory.values())
    return {name: max((size[name] or 0) for size in sizes) or None for name in sizes[0]}


def main(runner: Runner | None = None) -> None:
    """Answer the calls of a driver until it goes away."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not stand between answers
    calls: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin, calls), daemon=True).start()
    runner = runner or Runner()
    while True:
        call = calls.get()
        answers.write(json.dumps(_answer(runner, call)) + "\n")
        answers.flush()


def _listen(stream: IO[str], calls: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in stream:
        calls.put(json.loads(line))
    os._exit(0)  # the driver is gone: nobody would commit what is being made


def _answer(runner: Runner, call: dict[str, Any]) -> dict[str, Any]:
    task = call["task"]
    try:
        if call["do"] == "load":
            runner.load(task)
            return {}
        photo = base64.b64decode(call["photo"]) if call.get("photo") else None
        return {"record": runner.run(task, folder=Path(call["folder"]), photo=photo).to_dict()}
    except DiskFullError as error:
        return {"full": str(error)}
    except Exception as error:  # noqa: BLE001 - of loading, and shown in every row of the group
        return {"record": failed(task, error).to_dict()}


if __name__ == "__main__":
    main()
