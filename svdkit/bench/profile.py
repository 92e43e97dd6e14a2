"""A grid of settings, measured: one load a precision and memory plan, in a process that may be killed without harm."""

from __future__ import annotations

import contextlib
import itertools
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from svdkit.bench.protocol import (
    Protocol,
    describe_run,
    header_of,
    interleave,
    load_report,
    make_record,
    record_of,
    trials_of,
)
from svdkit.bench.record import failure_of, read_records, records_file, write_record
from svdkit.bench.stats import ratio, spread
from svdkit.child import Child, EndedError
from svdkit.errors import Cancelled, SettingsError
from svdkit.given import user_path
from svdkit.image import Frame, fit
from svdkit.models import find_model
from svdkit.pipeline import load
from svdkit.settings import ClipSettings, LoadSettings
from svdkit.units import format_count

if TYPE_CHECKING:
    from svdkit.bench.protocol import Cell, Header
    from svdkit.bench.record import Record
    from svdkit.child import Channel


_WORKER = "svdkit.bench.profile:work_group"
_GRACE_SECONDS = 60  # after Ctrl-C, for what is running on the device, and for the records


@dataclass
class Group:
    """The cells of one load."""

    load: LoadSettings
    frame: Frame
    cells: list[tuple[ClipSettings, str]]  # each with its method
    results: Path
    protocol: Protocol
    say: Callable[[str], object]
    label: str = ""
    turn: int = 0  # which of the protocol's processes comes next
    headers: list[Header] = field(default_factory=list)  # of the cells, as far as they are known
    load_seconds: float = 0.0

    @property
    def is_slow(self) -> bool:
        """Whether one process has to do."""
        return self.load_seconds > self.protocol.max_load_seconds

    def wanted(self) -> list[Cell]:
        """Give the cells to be measured in this turn: those that went well in each turn so far."""
        best = _best(self.results, self.protocol)
        return [
            (header, method)
            for header, (_, method) in zip(self.headers, self.cells, strict=True)
            if _num_processes(best.get((method, header["id"])), self.protocol) == self.turn
        ]

    def run(self, turn: int, pipe: Any) -> None:
        """Measure once more, in a process of its own or with a pipeline; what is there already is known after once."""
        self.turn = turn
        if turn and (self.is_slow or not self.wanted()):
            return
        if pipe is None:
            self.in_child()
        else:
            self.measure(pipe, self.hear)

    def hear(self, message: str | tuple[list[Header], float]) -> None:
        """Show a text, or note what is known of the cells when the model is loaded."""
        if isinstance(message, str):
            self.say(self.label + message)
        else:
            self.headers, self.load_seconds = message

    def measure(self, pipe: Any, tell: Callable[[Any], object]) -> None:
        """Measure what is wanted; interrupted, keep what has enough repeats."""
        known = [describe_run(pipe, self.frame, clip) for clip, _ in self.cells], pipe.svdkit.load_seconds
        self.hear(known)
        tell(known)
        share = self.protocol if self.is_slow else self.protocol.share
        cells = self.wanted()
        trials = trials_of(pipe, self.frame, cells)
        each_once = [*dict.fromkeys(itertools.chain(*trials))]
        try:
            interleave(pipe, each_once, replace(share, memory=share.memory and not self.turn), tell)
        finally:
            for (header, _), parts in zip(cells, trials, strict=True):
                record = record_of(parts, header, load_seconds=self.load_seconds)
                if record.error or len(record.order) >= share.min_repeats:
                    write_record(self.results, record)

    def in_child(self) -> None:
        """Measure in a process of its own; if that does not come to the end, the cells not done are failed rows."""
        info = find_model(self.load.model)
        model = {"name": info.name, "revision": None, "weights": self.load.weights}
        asked = self.load.replace(model=info.name)
        self.headers = self.headers or [header_of(asked, clip, model, self.frame) for clip, _ in self.cells]
        child = Child(_WORKER, grace_seconds=_GRACE_SECONDS)
        failure: Header = {}
        try:
            child.say(replace(self, say=str))  # without what may not be sent
            failure = self._listen(child)
        except KeyboardInterrupt:
            with contextlib.suppress(EndedError):
                child.say(None)
                self._listen(child)
            raise
        except EndedError as error:
            reason = {"type": "Ended", "message": f"the process that measured this cell {error}"}
            failure = {"status": "error", "error": reason}
        finally:
            child.end()
        for header, method in self.wanted() if failure and not self.turn else ():
            if method == self.cells[0][1]:  # else a check of one that is composed
                write_record(self.results, make_record(header, method=method, **failure))

    def _listen(self, child: Child) -> Header:
        """Hear a child to its end; give how it failed, if it did."""
        while not isinstance(message := child.hear(), dict):
            self.hear(message)
        return message


def work_group(channel: Channel) -> None:
    """Measure, in a process of its own; interrupted, keep what is complete."""
    failure: dict[str, Any] = {}
    try:
        group = channel.hear()
        channel.say("loading")
        group.measure(load(settings=group.load), channel.say)
    except KeyboardInterrupt:
        pass
    except Exception as error:  # noqa: BLE001 - a model that cannot be loaded is a row for each of its cells
        failure = failure_of(error)
    channel.end()  # who hears the next word may close the channel while it is being said
    channel.say(failure)


def _num_processes(record: Record | None, protocol: Protocol) -> int:
    """In how many processes a record has its repeats; 0 where it failed, or lacks the memory that is wanted."""
    if not record or (protocol.memory and not record.memory):
        return 0
    return sum(len(seconds) >= protocol.share.min_repeats for seconds in record.timed)


def _best(results: Path, protocol: Protocol) -> dict[tuple[str, str], Record]:
    """Read the record of each method and cell: of several the best, else the last."""
    records = read_records(results) if records_file(results).is_file() else []
    ranked = sorted(records, key=lambda record: (record.status == "ok", _num_processes(record, protocol)))
    return {(record.method, record.id): record for record in ranked}


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
    count = len(loads) * len(clips)
    drawn = np.random.default_rng(seed).choice(count, size=min(check, count) if composed else count, replace=False)
    is_drawn = iter(np.isin(range(count), drawn))
    protocol = protocol or Protocol()
    protocol = protocol if pipe is None else replace(protocol, processes=1)
    say = progress if callable(progress) else partial(print, flush=True) if progress else lambda _text: None
    with tempfile.TemporaryDirectory(prefix="svdkit-") as own:
        folder, groups = user_path(results or own), list[Group]()
        for one in loads:
            cells = [(clip, "composed") for clip in clips if composed]
            cells += [(clip, "measured") for clip in clips if next(is_drawn)]
            label = f"{one.dtype}, {one.memory}: " if loads[1:] else ""
            groups.append(Group(one, frame, cells, folder, protocol, say, label))
        try:
            for turn, group in itertools.product(range(protocol.processes), groups):
                group.run(turn, pipe)
        except KeyboardInterrupt:
            text = "stopped; what was complete is kept, and the same call with the same results folder goes on"
            raise Cancelled(text, finished=_collect(groups)) from None
        records = _collect(groups)
    found = agreement(records)
    if found["cells"]:
        told = f"median of {format_count(int(found['cells']), 'cell')}; mean with sign {found['bias']:+.1%}"
        say(f"composed and measured seconds differ by {found['median']:.1%} ({told})")
    return records


def agreement(records: Sequence[Record]) -> dict[str, float]:
    """Compare cells that were both composed and measured whole, and tell how far processes differ.

    "median" and "worst" are without sign, "bias" is the mean with it: above 0 composed cells come out too slow.
    """
    timed = {(record.method, record.id): record.timed for record in records if record.timed}
    pairs = [(timed.get(("composed", name)), whole) for (way, name), whole in timed.items() if way == "measured"]
    off = [ratio(composed, whole).value - 1 for composed, whole in pairs if composed]
    noise = max((found for found in map(spread, timed.values()) if found >= 0), default=math.nan)
    known = np.array(off or [math.nan])
    middle, worst = float(np.median(abs(known))), float(np.max(abs(known)))
    return {"cells": len(off), "median": middle, "worst": worst, "bias": float(np.mean(known)), "noise": noise}


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
    sizes = {"height": photo.height, "width": photo.width}
    for name, size in sizes.items():
        if getattr(clip, name) not in {None, size}:
            raise SettingsError(f"clip has {name}={getattr(clip, name)}, but the photo was fitted to {size}; give one")
    known = info.num_frames if info.weights_bytes else None  # else a hub model that is not known yet
    steps, frames = clip.num_inference_steps or info.num_inference_steps, clip.num_frames or known
    return photo, clip.replace(**sizes, num_frames=frames, num_inference_steps=steps, seed=clip.seed or 0)


def _collect(groups: Sequence[Group]) -> list[Record]:
    """The records of all cells, composed ones first."""
    best = _best(groups[0].results, groups[0].protocol)
    ids = dict.fromkeys(header["id"] for group in groups for header in group.headers)
    return [best[key] for key in itertools.product(("composed", "measured"), ids) if key in best]
