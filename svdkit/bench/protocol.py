"""How clips are timed so that the numbers can be trusted, and many cells come from few runs.

Each thing that is timed runs once cold, is warmed up until two runs agree, and is then repeated in turn with all the
others, so that a machine that slows down slows all of them alike. Raw samples are kept. Memory comes last, in a pass of
its own.

Seconds are additive over stages, so stages are measured apart and added up: a grid of steps and chunks needs one
encoding, denoising of the shortest and the longest length in turn, and one decoding a chunk size. A composed sample is
the sum of the parts of one round, so that what slows the machine for a while slows all of a sample, and no run is used
twice in a cell.
"""

from __future__ import annotations

import gc
import itertools
import math
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache, partial, reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from svdkit.bench.measure import TIMED_STAGES, Measurement, measure
from svdkit.bench.memory import Bytes, higher, measure_memory, open_nvml
from svdkit.bench.record import Record, failure_of, now, run_id
from svdkit.bench.stats import median
from svdkit.environment import machine
from svdkit.errors import SettingsError
from svdkit.generate import decode, denoise, encode, generate
from svdkit.generate.loop import execution_device
from svdkit.generate.stages import describe_model, resolve
from svdkit.pipeline import LoadReport, report_of
from svdkit.settings import ClipSettings

if TYPE_CHECKING:
    from svdkit.image import Frame


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How often to measure.

    Attributes:
        min_repeats: Timed repeats at least; below 5 there is no interval.
        max_repeats: Timed repeats at most.
        half_width: Half of the 95 % interval over the median at which it is narrow enough; 0.01 is 1 %.
        budget_seconds: When to stop repeating, once there are ``min_repeats``.
        processes: In how many processes a profile measures each cell: what differs between them decides how sure a
            comparison can be. Repeats and budget are shared among them. Of one alone no difference is called real.
        max_load_seconds: A model that took longer to load is not loaded again: one process does all.
        warm_up_difference: Two clips that differ by less are warm; 0.02 is 2 %.
        max_warm_ups: Warm-up runs at most, the cold one apart.
        memory: Whether a memory pass follows.
    """

    min_repeats: int = 5
    max_repeats: int = 30
    half_width: float = 0.01
    budget_seconds: float = 300.0
    processes: int = 3
    max_load_seconds: float = 120.0
    warm_up_difference: float = 0.02
    max_warm_ups: int = 5
    memory: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.min_repeats <= self.max_repeats:
            given = f"min_repeats={self.min_repeats}, max_repeats={self.max_repeats}"
            raise SettingsError(f"{given} allow no repeat; give 1 or more, the second not below the first")
        if self.processes < 1:
            raise SettingsError(f"processes={self.processes} measures nothing; give 1 or more")

    @property
    def share(self) -> Protocol:
        """What each of the processes does."""
        least, most = (math.ceil(count / self.processes) for count in (self.min_repeats, self.max_repeats))
        seconds = self.budget_seconds / self.processes
        return replace(self, min_repeats=least, max_repeats=most, budget_seconds=seconds, processes=1)


_WEIGHTY = 0.1  # share of a composed clip from which on a stage that never became warm counts


@dataclass
class _Trial:
    """Something that is run and timed again and again, and what came of it."""

    run: Callable[[], object]
    value: Callable[[Measurement], float] = lambda m: m.total  # what has to be warm and narrow
    cold: list[Measurement] = field(default_factory=list)
    warm_up: list[Measurement] = field(default_factory=list)
    timed: list[Measurement] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    memory: dict[str, Bytes] = field(default_factory=dict)
    counted: dict[str, list[float]] = field(default_factory=dict)  # by the GPU, for each timed run
    cost: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None

    @property
    def throttled(self) -> list[float]:
        """Share of each timed run in which power or heat held the clocks down."""
        held = self.counted.get("throttled_seconds", [])
        return [seconds / measured.total for seconds, measured in zip(held, self.timed, strict=False)]

    def gain(self) -> float:
        """By how much the last run was faster than the one before, as a fraction; NaN of one alone."""
        *_, before, last = (float("nan"), *map(self.value, (*self.cold, *self.warm_up)))
        return before / last - 1 if last else math.nan

    def is_warm(self, difference: float) -> bool:
        """Whether the last two runs agree."""
        return abs(self.gain()) < difference

    def is_narrow(self, half_width: float) -> bool:
        """Whether the interval of the timed runs is narrow enough; never below five of them."""
        found = median([[self.value(each) for each in self.timed]])
        return found.high - found.low < 2 * half_width * found.value


def _interleave(pipe: Any, trials: Sequence[_Trial], protocol: Protocol, tell: Callable[[str], object]) -> None:
    """Run trials in turn; what one raises ends that one. Interrupted, the trials have what was measured until then."""
    for number, trial in enumerate(trials, start=1):
        tell(f"cold run {number} of {len(trials)}")
        before = _compile_cost()
        _attempt(pipe, trial, trial.cold)
        trial.cost |= {name: value - before[name] for name, value in _compile_cost().items() if value > before[name]}
    for number in range(1, protocol.max_warm_ups + 1):
        for trial in [each for each in _running(trials) if not each.is_warm(protocol.warm_up_difference)]:
            tell(f"warm-up {number}")
            _attempt(pipe, trial, trial.warm_up)
    for trial in _running(trials) if protocol.max_warm_ups else ():
        trial.cost |= {"never_warm": True} if trial.gain() > protocol.warm_up_difference else {}
    _repeat(pipe, trials, protocol, tell)
    for trial in _running(trials) if protocol.memory else ():
        tell("memory")
        _attempt(pipe, trial, None)


def _running(trials: Sequence[_Trial]) -> list[_Trial]:
    return [trial for trial in trials if trial.error is None]


def _repeat(pipe: Any, trials: Sequence[_Trial], protocol: Protocol, tell: Callable[[str], object]) -> None:
    """Time all trials in turn until all are narrow or time is up; each round begins with another one."""
    nvml = open_nvml(execution_device(pipe))
    end, position = time.monotonic() + protocol.budget_seconds, 0
    for repeat in range(protocol.max_repeats):
        left = _running(trials)
        is_late = time.monotonic() >= end
        if not left:
            return
        if repeat >= protocol.min_repeats and (is_late or all(each.is_narrow(protocol.half_width) for each in left)):
            return
        tell(f"repeat {repeat + 1}, {protocol.min_repeats} to {protocol.max_repeats}")
        turn = repeat % len(left)
        for trial in [*left[turn:], *left[:turn]]:
            before = nvml.counters() if nvml else {}
            _attempt(pipe, trial, trial.timed)
            trial.order.append(position)
            position += 1
            after = nvml.counters() if nvml and not trial.error else {}
            for name in before.keys() & after.keys():
                trial.counted.setdefault(name, []).append(after[name] - before[name])


def _attempt(pipe: Any, trial: _Trial, samples: list[Measurement] | None) -> None:
    """Run a trial once, timed, or for its memory; an error is kept, without the tensors that it holds."""
    try:
        if samples is None:
            nvml = open_nvml(execution_device(pipe))
            with measure_memory(pipe) as sizes, ExitStack() as stack:
                state = stack.enter_context(nvml.watch()) if nvml else {}
                trial.run()
            trial.memory = sizes  # an interrupt leaves none rather than half of them
            trial.cost |= state
        else:
            with measure(pipe) as measured:
                trial.run()
            samples.append(measured)
    except Exception as error:  # noqa: BLE001 - a failed run is a row, whatever it was
        traceback.clear_frames(error.__traceback__)
        trial.error = error.with_traceback(None)
        gc.collect()
        import torch

        torch.cuda.empty_cache()


def _compile_cost() -> dict[str, float]:
    """Seconds that torch has compiled in this process, and graph breaks; nothing where it has never compiled."""
    if "torch._dynamo" not in sys.modules:
        return {"compile_seconds": 0.0, "graph_breaks": 0}
    from torch._dynamo import utils

    seconds = sum(utils.compilation_time_metrics.get("_compile.compile_inner", ()))
    return {"compile_seconds": float(seconds), "graph_breaks": sum(utils.counters["graph_break"].values())}


def _samples_of(measured: Iterable[dict[str, float]]) -> dict[str, list[float]]:
    """Turn one dict of stages a run into one list of runs a stage."""
    runs = list(measured)
    return {stage: [run.get(stage, 0.0) for run in runs] for stage in (runs[0] if runs else ())}


def load_report(pipe: Any) -> LoadReport:
    """Give the report of ``load``; a SettingsError for pipelines made otherwise, whose weights are not known."""
    if not (report := report_of(pipe)).is_ours:
        raise SettingsError("this pipeline does not say what it was loaded from; make it with svdkit.load(...)")
    return report


def describe_run(pipe: Any, frame: Frame, clip: ClipSettings) -> dict[str, Any]:
    """Give what a record says of what was asked, with its id; a SettingsError for what cannot work."""
    asked = {"load": load_report(pipe).settings.to_dict(), "clip": resolve(pipe, clip, frame).to_dict()}
    asked["model"] = describe_model(pipe)
    return {**asked, "image": frame.to_dict(), "id": run_id(**asked, image_sha256=frame.sha256)}


def make_record(header: dict[str, Any], *, failure: Exception | None = None, **values: Any) -> Record:
    """Put a record together: ok, or a row that says what went wrong."""
    if failure is not None:
        values |= failure_of(failure)
    values.setdefault("environment", machine(header["load"].get("device", "auto")))
    return Record(**{"status": "ok", "started_at": now(), **header, **values})


def _record_of(trial: _Trial, header: dict[str, Any], *, load_seconds: float) -> Record:
    """Make the record of a clip that was measured whole."""
    cost = dict(trial.cost)
    if joules := trial.counted.get("energy_joules"):
        cost["energy_joules"] = float(np.median(joules))
    if trial.throttled:
        cost["throttled_fraction"] = trial.throttled
    phases = {"cold": trial.cold, "warm_up": trial.warm_up, "timed": trial.timed}
    samples = {phase: _samples_of(each.seconds for each in runs) for phase, runs in phases.items()}
    samples["cold"] = {"load": [load_seconds], **samples["cold"]}
    values = {"samples": samples, "order": trial.order, "memory": trial.memory, "cost": cost}
    return make_record(header, failure=trial.error, **values, processes=[process_name()] * len(trial.order))


@cache
def process_name() -> str:
    """Name this process, as records do: no number of the system's, which another one may get."""
    return uuid.uuid4().hex[:8]


def _whole_clip(pipe: Any, frame: Frame, clip: ClipSettings) -> _Trial:
    """Make a trial of one clip, from the fitted photo to its frames; it does not step down when memory runs out."""
    return _Trial(lambda: generate(pipe, frame, clip, progress=False, step_down=False))


def measure_group(
    pipe: Any,
    frame: Frame,
    clips: Sequence[ClipSettings],
    *,
    whole: Sequence[int],
    composed: bool,
    protocol: Protocol,
    wanted: Callable[[str, str], bool],
    keep: Callable[[Record], object],
    tell: Callable[[str], object],
) -> None:
    """Measure those cells of one load that are wanted, by id and method; interrupted, keep what has enough repeats."""
    headers = [describe_run(pipe, frame, clip) for clip in clips]
    trials = [
        (_whole_clip(pipe, frame, ClipSettings.from_dict(header["clip"])), header)
        for header in (headers[index] for index in whole)
        if wanted(header["id"], "measured")
    ]
    missing = [header for header in headers if composed and wanted(header["id"], "composed")]
    parts = _StageTrials(pipe, frame, [ClipSettings.from_dict(header["clip"]) for header in missing])
    seconds = pipe.svdkit.load_seconds
    try:
        _interleave(pipe, [*(trial for trial, _ in trials), *parts.trials], protocol, tell)
    finally:
        for trial, header in trials:
            if trial.error or len(trial.timed) >= protocol.min_repeats:
                keep(_record_of(trial, header, load_seconds=seconds))
        for header in missing:
            record = parts.record(header, load_seconds=seconds)
            if record.error or len(record.order) >= protocol.min_repeats:
                keep(record)


class _StageTrials:
    """The stages of a group of cells, each a trial of its own; what one makes the next one uses."""

    def __init__(self, pipe: Any, frame: Frame, clips: Sequence[ClipSettings]) -> None:
        self._pipe = pipe
        self._frame = frame
        self._made: dict[str, Any] = {}
        lengths = sorted({clip.num_inference_steps or 1 for clip in clips})
        if lengths[1:]:  # of one step alone the first, which may fetch weights, cannot be told from the others
            lengths = [max(2, lengths[0]), lengths[-1]]
        self._lengths = itertools.cycle(lengths)
        self.encode = _Trial(partial(self._encode, *clips[:1]))
        self.denoise = _Trial(self._denoise, _step_seconds)
        self.decode = {chunk: _Trial(partial(self._decode, chunk)) for chunk in {c.decode_chunk_size for c in clips}}
        self.trials = [self.encode, self.denoise, *self.decode.values()] if clips else []

    def _encode(self, clip: ClipSettings) -> None:
        self._made["encoded"] = encode(self._pipe, self._frame, clip)

    def _denoise(self) -> None:
        encoded = self._made["encoded"]
        clip = encoded.settings.replace(num_inference_steps=next(self._lengths))
        self._made["denoised"] = denoise(self._pipe, encoded, clip)

    def _decode(self, chunk: int | None) -> None:
        denoised = self._made["denoised"]
        decode(self._pipe, denoised, denoised.settings.replace(decode_chunk_size=chunk))

    def record(self, header: dict[str, Any], *, load_seconds: float) -> Record:
        """Compose the record of a cell; out of memory in one of its stages is out of memory."""
        steps = header["clip"]["num_inference_steps"]
        last = self.decode[header["clip"]["decode_chunk_size"]]
        three = (self.encode, self.denoise, last)
        rounds = zip(*(trial.timed for trial in three), strict=False)
        timed = [_add_up(one.seconds, stretch(two, steps), three.seconds) for one, two, three in rounds]
        sizes: dict[str, Any] = {}
        if all(trial.memory for trial in three):
            sizes = {stage: value for trial in three for stage, value in trial.memory.items()}
            sizes["total"] = reduce(higher, (trial.memory["total"] for trial in three))
        return make_record(
            header,
            failure=next((trial.error for trial in three if trial.error), None),
            method="composed",
            samples={"cold": {"load": [load_seconds]}, "timed": _samples_of(timed)},
            order=last.order[: len(timed)],
            processes=[process_name()] * len(timed),
            memory=sizes,
            cost=self._marks(three),
        )

    def _marks(self, trials: Sequence[_Trial]) -> dict[str, Any]:
        """What is to be said of a cell's stages: never warm, throttled."""
        throttled = [max(shares) for shares in zip(*(trial.throttled for trial in trials), strict=False)]
        marks: dict[str, Any] = {"throttled_fraction": throttled} if throttled else {}
        seconds = [sum(measured.total for measured in trial.timed) for trial in trials]
        late = sum(own for own, trial in zip(seconds, trials, strict=True) if trial.cost.get("never_warm"))
        return marks | ({"never_warm": True} if late > _WEIGHTY * sum(seconds) else {})


def _steps(measured: Measurement) -> tuple[list[float], int]:
    """Seconds of each UNet call of a denoising, and its steps; guidance in two passes calls twice a step."""
    calls = [seconds for stage, seconds in measured.calls if stage == "unet"]
    return calls, sum(stage == "scheduler" for stage, _ in measured.calls)


def _step_seconds(measured: Measurement) -> float:
    """Seconds of one UNet step after the first, which may fetch weights; the first where there is no other."""
    calls, count = _steps(measured)
    first = len(calls) // count
    return sum(calls[first:]) / (count - 1) if count > 1 else sum(calls)


def stretch(measured: Measurement, steps: int) -> dict[str, float]:
    """Seconds by stage of a denoising as if it had had so many steps.

    What is done once stays: the first step, what frees the device, what no stage accounts for (the checks before the
    first step; 0.02 ms more with each step of micro, of 4.4 ms). Everything else is in proportion.
    """
    count = _steps(measured)[1]
    once = measured.seconds["unet"] - (count - 1) * _step_seconds(measured)
    each = {stage: value * steps / count for stage, value in measured.seconds.items() if stage != "unattributed"}
    return {**measured.seconds, **each, "unet": once + (steps - 1) * _step_seconds(measured)}


def _add_up(*parts: dict[str, float]) -> dict[str, float]:
    """Add seconds by stage; the total is their sum."""
    names = [stage for stage in (*TIMED_STAGES, "unattributed") if any(stage in part for part in parts)]
    seconds = {stage: sum(part.get(stage, 0.0) for part in parts) for stage in names}
    return {**seconds, "total": sum(seconds.values())}
