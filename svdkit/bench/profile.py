"""A grid of settings, measured: one load a precision and memory plan, in a process that may be killed without harm."""

from __future__ import annotations

import contextlib
import itertools
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from svdkit.bench.protocol import Protocol, describe_run, load_report, make_record, measure_group
from svdkit.bench.record import failure_of, read_records, records_file, run_id, write_record
from svdkit.bench.stats import ratio
from svdkit.child import Child, EndedError
from svdkit.errors import Cancelled, SettingsError
from svdkit.given import user_path
from svdkit.image import Frame, fit
from svdkit.models import find_model
from svdkit.pipeline import load
from svdkit.settings import ClipSettings, LoadSettings
from svdkit.units import format_count

if TYPE_CHECKING:
    from svdkit.bench.record import Record
    from svdkit.bench.stats import Samples
    from svdkit.child import Channel


_WORKER = "svdkit.bench.profile:work_group"
_GRACE_SECONDS = 60  # after Ctrl-C, for what is running on the device, and for the records


@dataclass
class Group:
    """The cells of one load."""

    load: LoadSettings
    frame: Frame
    clips: list[ClipSettings]
    whole: list[int]
    results: Path
    composed: bool
    protocol: Protocol
    say: Callable[[str], object]
    turn: int = 0  # which of the protocol's processes comes next
    ids: list[str] = field(default_factory=list)  # of the cells, filled here

    def headers(self, pipe: Any) -> list[dict[str, Any]]:
        """What is known of the cells when the model is loaded."""
        return [describe_run(pipe, self.frame, clip) for clip in self.clips]

    def wanted(self) -> Callable[[str, str], bool]:
        """Make a function that says whether a cell is to be measured in this turn: if each turn so far went well."""
        have: dict[tuple[str, str], int] = {}
        for each in _read_all(self.results):
            key = each.id, each.method
            have[key] = max(have.get(key, 0), _num_processes(each, self.protocol))
        return lambda name, method: have.get((name, method), 0) == self.turn

    def run(self, turn: int, pipe: Any) -> None:
        """Measure once more, in a process of its own or with a pipeline; what is there already is known after once."""
        self.turn = turn
        if turn and self.loaded_slowly():
            return
        wanted = self.wanted()
        left = [name for name in self.ids if self.composed and wanted(name, "composed")]
        left += [self.ids[index] for index in self.whole if turn and wanted(self.ids[index], "measured")]
        if left or not turn:
            self.in_child() if pipe is None else self.here(pipe)

    def loaded_slowly(self) -> bool:
        """Whether one process has to do."""
        mine = [record for record in _read_all(self.results) if record.id in self.ids]
        loads = [record.samples.get("cold", {}).get("load", [0.0])[0] for record in mine if record.status == "ok"]
        return max(loads, default=0.0) > self.protocol.max_load_seconds

    def here(self, pipe: Any) -> None:
        """Measure with a pipeline that is loaded already."""
        self.ids = [header["id"] for header in self.headers(pipe)]
        is_slow = pipe.svdkit.load_seconds > self.protocol.max_load_seconds
        share = replace(self.protocol, processes=1) if is_slow else self.protocol.share
        measure_group(
            pipe,
            self.frame,
            self.clips,
            whole=self.whole,
            composed=self.composed,
            protocol=replace(share, memory=share.memory and not self.turn),
            wanted=self.wanted(),
            keep=partial(write_record, self.results),
            tell=self.say,
        )

    def in_child(self) -> None:
        """Measure in a process of its own; if it does not come to the end, the cells not done are failed rows."""
        old = _read_all(self.results)
        heard: dict[str, Any] = {"headers": self._asked()}
        child = Child(_WORKER, grace_seconds=_GRACE_SECONDS)
        try:
            child.say(replace(self, say=str))  # without what may not be sent
            self._listen(child, heard)
        except KeyboardInterrupt:
            with contextlib.suppress(EndedError):
                child.say(None)
                self._listen(child, heard)
            raise
        except EndedError as error:
            heard["error"] = {"type": "Ended", "message": f"the process that measured this cell {error}"}
        finally:
            child.end()
            self.ids = [header["id"] for header in heard["headers"]]
        if "error" in heard:
            self._fail(heard, old=old)

    def _listen(self, child: Child, heard: dict[str, Any]) -> None:
        while "done" not in heard:
            message = child.hear()
            heard |= message
            if "text" in message:
                self.say(message["text"])

    def _asked(self) -> list[dict[str, Any]]:
        """What is known of the cells before the model is loaded."""
        info = find_model(self.load.model)
        model = {"name": info.name, "revision": None, "weights": self.load.weights}
        common = {"load": self.load.replace(model=info.name).to_dict(), "model": model}
        image = self.frame.to_dict()
        asked: list[dict[str, Any]] = [{**common, "clip": clip.to_dict()} for clip in self.clips]
        return [{**cell, "image": image, "id": run_id(**cell, image_sha256=self.frame.sha256)} for cell in asked]

    def _fail(self, heard: dict[str, Any], *, old: list[Record]) -> None:
        """Write a row for each cell that has neither a good record nor one of this run."""
        values = {"status": heard.get("status", "error"), "error": heard["error"]}
        method = "composed" if self.composed else "measured"
        now = _read_all(self.results)
        there = [record for record in now if record not in old or _num_processes(record, self.protocol)]
        there_ids = {record.id for record in there if record.method == method}
        for header in heard["headers"]:
            if header["id"] not in there_ids:
                write_record(self.results, make_record(header, method=method, **values))


def work_group(channel: Channel) -> None:
    """Measure, in a process of its own; interrupted, keep what is complete."""
    try:
        group = replace(channel.hear(), say=lambda text: channel.say({"text": text}))
        group.say("loading")
        pipe = load(settings=group.load)
        channel.say({"headers": group.headers(pipe)})
        group.here(pipe)
    except KeyboardInterrupt:
        pass
    except Exception as error:  # noqa: BLE001 - a model that cannot be loaded is a row for each of its cells
        channel.say(failure_of(error))
    channel.end()  # who hears the next word may close the channel while it is being said
    channel.say({"done": True})


def _num_processes(record: Record, protocol: Protocol) -> int:
    """In how many processes a record has its repeats; 0 where it failed, or lacks the memory that is wanted."""
    good = record.status == "ok" and bool(record.memory or not protocol.memory)
    repeats = Counter(record.processes or [""] * len(record.order))
    return sum(count >= protocol.share.min_repeats for count in repeats.values()) if good else 0


def _read_all(results: Path) -> list[Record]:
    """Read the records of a results folder; none where it has none yet."""
    return read_records(results) if records_file(results).is_file() else []


def profile(
    model: Any = None,
    *,
    photo: Any = "rocket",
    clip: ClipSettings | None = None,
    load: LoadSettings | None = None,
    num_inference_steps: Sequence[int] | None = None,
    decode_chunk_size: Sequence[int] | None = None,
    dtype: Sequence[str] | None = None,
    memory: Sequence[str] | None = None,
    composed: bool = True,
    check: int = 2,
    protocol: Protocol | None = None,
    results: str | Path | None = None,
    seed: int = 0,
    progress: bool | Callable[[str], object] = True,
) -> list[Record]:
    """Measure time and memory of all combinations of the lists.

    Seconds add up over stages, so a model is loaded once a precision and memory plan, and then encodes, denoises the
    shortest and the longest length and decodes with each chunk size; the cells are composed of these. A few cells are
    measured whole as well: ``agreement(records)`` says how far the composed ones are off.

    Each model is loaded in several processes of its own, those of other precisions and plans in between: ``compare``
    has to know what differs from process to process. A pipeline is measured in this process alone. Out of memory, an
    error and a killed process are records too. After Ctrl-C, or in another session, the same call with the same results
    folder goes on where it ended; what failed is tried again, and what has fewer repeats than asked for is measured
    again.

    Args:
        model: As ``load`` takes it; or a pipeline from ``load``, which is used in this process; None for that of
            ``load=``, else micro.
        photo: Anything ``svdkit.fit`` takes, or a ``Frame``.
        clip: What all cells have in common: frames, height, width and so on. A seed that is None is 0.
        load: What all loads have in common.
        num_inference_steps: Denoising steps; None for the clip's own. So for the next three.
        decode_chunk_size: Frames decoded at once.
        dtype: "fp32", "fp16", "bf16" or "fp8"; on a CPU the first and third make sense.
        memory: "resident", "offload", "group-offload" or "sequential".
        composed: False measures every cell whole.
        check: How many cells are measured whole besides, drawn by ``seed``.
        protocol: How often to measure.
        results: A folder, whose ``records.jsonl`` the records are appended to; None keeps them in memory only.
        seed: Of the draw.
        progress: True prints a line at a time, False is silent; or a function that takes the line.

    Returns:
        A record a cell, composed ones first, in the order of the lists, then the cells measured whole.

    Raises:
        SettingsError: Values that are not allowed; before anything is loaded.
        Cancelled: After Ctrl-C; ``finished`` has the records made.

    Example:
        >>> quick = Protocol(min_repeats=1, budget_seconds=0, max_warm_ups=0, memory=False)
        >>> found = profile("micro", num_inference_steps=[1, 2], check=0, protocol=quick, progress=False)
        >>> [record.method for record in found]
        ['composed', 'composed']
    """
    for name, number in {"check": check, "seed": seed}.items():
        if type(number) is not int or number < 0:
            raise SettingsError(f"{name}={number!r:.60} is not a whole number from 0")
    pipe: Any = None if isinstance(model, str | Path | None) else model
    if pipe is not None and (dtype or memory or load):
        raise SettingsError("a pipeline is loaded already: leave out dtype, memory and load, or give the model's name")
    base = load or LoadSettings()
    if pipe is None and model is not None:
        base = base.replace(model=str(model))
    loads = [base.replace(**values) for values in _grid(dtype=dtype, memory=memory)]
    frame, common = _resolve(pipe, base, photo, clip or ClipSettings())
    axes = _grid(num_inference_steps=num_inference_steps, decode_chunk_size=decode_chunk_size)
    clips = [common.replace(**values) for values in axes]
    whole = _draw(len(loads), len(clips), count=check if composed else len(loads) * len(clips), seed=seed)
    protocol = protocol or Protocol()
    protocol = protocol if pipe is None else replace(protocol, processes=1)
    say = progress if callable(progress) else _print if progress else lambda _text: None
    groups: list[Group] = []
    with contextlib.ExitStack() as stack:
        folder = user_path(results or stack.enter_context(tempfile.TemporaryDirectory(prefix="svdkit-")))
        for settings, cells in zip(loads, whole, strict=True):
            name = f"{settings.dtype}, {settings.memory}: " if loads[1:] else ""
            tell = partial(_say_of, say, name)
            groups.append(Group(settings, frame, clips, cells, folder, composed, protocol, tell))
        try:
            for turn, group in itertools.product(range(protocol.processes), groups):
                group.run(turn, pipe)
        except KeyboardInterrupt:
            text = "stopped; what was complete is kept, and the same call with the same results folder goes on"
            raise Cancelled(text, finished=_collect(folder, groups)) from None
        records = _collect(folder, groups)
    found = agreement(records)
    if found["cells"]:
        told = f"median of {format_count(int(found['cells']), 'cell')}; mean with sign {found['bias']:+.1%}"
        say(f"composed and measured seconds differ by {found['median']:.1%} ({told})")
    return records


def agreement(records: Sequence[Record]) -> dict[str, float]:
    """Compare cells that were both composed and measured whole, and tell how far processes differ.

    "median" and "worst" are without sign, "bias" is the mean with it: above 0 composed cells come out too slow.
    """
    cells: dict[tuple[str, str], Samples] = {}
    for record in records:
        if record.timed:
            key = record.method, record.id
            cells[key] = [*cells.get(key, []), *record.timed]
    both = [name for way, name in cells if way == "measured" and ("composed", name) in cells]
    pairs = [(cells["composed", name], cells["measured", name]) for name in both]
    off = np.array([ratio(*pair).value - 1 for pair in pairs] or [np.nan])
    middles = [[float(np.median(process)) for process in samples] for samples in cells.values()]
    noise = max((max(each) / min(each) - 1 for each in middles if len(each) > 1), default=float("nan"))
    middle, worst = float(np.median(abs(off))), float(np.max(abs(off)))
    return {"cells": len(pairs), "median": middle, "worst": worst, "bias": float(np.mean(off)), "noise": noise}


def _grid(**lists: Any) -> list[dict[str, Any]]:
    """All combinations of the lists that were given, each value once."""
    given = {name: values for name, values in lists.items() if values is not None}
    for name, values in given.items():
        if not isinstance(values, list | tuple) or not values:
            raise SettingsError(f"{name}={values!r:.60} is not a list of values; write {name}=[…], or leave it out")
    combinations = itertools.product(*(dict.fromkeys(values) for values in given.values()))
    return [dict(zip(given, values, strict=True)) for values in combinations]


def _resolve(pipe: Any, load: LoadSettings, photo: Any, clip: ClipSettings) -> tuple[Frame, ClipSettings]:
    """Fit the photo, and fix what the cells have in common; a seed drawn anew each time would be another run."""
    info = find_model(load.model) if pipe is None else load_report(pipe).model
    if not isinstance(photo, Frame):
        photo = fit(photo, height=clip.height or info.height, width=clip.width or info.width)
    for name, size in {"height": photo.height, "width": photo.width}.items():
        if getattr(clip, name) not in {None, size}:
            raise SettingsError(f"clip has {name}={getattr(clip, name)}, but the photo was fitted to {size}; give one")
    frames = info.num_frames if info.weights_bytes else None  # else a hub model that is not known yet
    clip = clip.replace(height=photo.height, width=photo.width, num_frames=clip.num_frames or frames)
    clip = clip.replace(num_inference_steps=clip.num_inference_steps or info.num_inference_steps)
    return photo, clip.replace(seed=clip.seed or 0)


def _draw(loads: int, clips: int, *, count: int, seed: int) -> list[list[int]]:
    """Draw cells, by their number within each load."""
    cells = loads * clips
    drawn = np.random.default_rng(seed).choice(cells, size=min(count, cells), replace=False).tolist()
    drawn = sorted(drawn) if count >= cells else drawn
    return [[cell % clips for cell in drawn if cell // clips == load] for load in range(loads)]


def _collect(folder: Path, groups: Sequence[Group]) -> list[Record]:
    """The records of all cells, composed ones first; of several of a cell the best, else the last."""
    found: dict[tuple[str, str], Record] = {}

    def rank(record: Record) -> tuple[object, ...]:
        return record.status == "ok", _num_processes(record, groups[0].protocol), bool(record.memory)

    for record in _read_all(folder):
        key = record.method, record.id
        found[key] = max((record, found.get(key, record)), key=rank)
    ids = dict.fromkeys(name for group in groups for name in group.ids)
    return [found[key] for key in itertools.product(("composed", "measured"), ids) if key in found]


def _say_of(say: Callable[[str], object], name: str, text: str) -> None:
    say(name + text)


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
