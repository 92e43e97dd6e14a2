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
import statistics
import sys
import time
import traceback
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, partial, reduce
from typing import TYPE_CHECKING, Any

from svdkit.bench.measure import TIMED_STAGES, Measurement, Seconds, measure
from svdkit.bench.memory import Bytes, higher, measure_memory, open_nvml
from svdkit.bench.record import Record, failure_of, now, run_id
from svdkit.bench.stats import median
from svdkit.environment import machine
from svdkit.errors import SettingsError
from svdkit.generate import decode, denoise, encode, generate
from svdkit.generate.loop import execution_device
from svdkit.generate.stages import describe_model, resolve
from svdkit.pipeline import LoadReport, report_of
from svdkit.settings import ClipSettings, LoadSettings

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


Header = dict[str, Any]
"""What was asked, as a record has it: load, clip, model, image, id."""
Cell = tuple[Header, str]
"""A header, and whether it is "measured" whole or "composed"."""

_WEIGHTY = 0.1  # share of a composed clip from which on a stage that never became warm counts


@dataclass(eq=False)
class Trial:
    """Something that is run and timed again and again, and what came of it."""

    run: Callable[[], object]
    value: Callable[[Measurement], float] = lambda m: m.total  # what has to be warm and narrow
    seconds: Callable[[Measurement, int], Seconds] = lambda m, _: m.seconds  # by stage, of so many steps
    runs: dict[str, list[Measurement]] = field(default_factory=lambda: {"cold": [], "warm_up": [], "timed": []})
    order: list[int] = field(default_factory=list)
    counted: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # while a run was measured
    memory: dict[str, Bytes] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    error: Exception | None = None

    def gain(self) -> float:
        """By how much the last run was faster than the one before, as a fraction; NaN of one alone."""
        *_, before, last = (math.nan, *map(self.value, self.runs["cold"] + self.runs["warm_up"]))
        return before / last - 1 if last else math.nan

    def is_narrow(self, half_width: float) -> bool:
        """Whether the interval of the timed runs is narrow enough; never below five of them."""
        found = median([[*map(self.value, self.runs["timed"])]])
        return found.high - found.low < 2 * half_width * found.value

    @contextmanager
    def catching(self) -> Iterator[None]:
        """Keep an error, without the tensors that it holds: a failed run is a row, whatever it was."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - see above
            traceback.clear_frames(error.__traceback__)
            self.error = error.with_traceback(None)
            gc.collect()
            import torch

            torch.cuda.empty_cache()


def interleave(pipe: Any, trials: Sequence[Trial], protocol: Protocol, tell: Callable[[str], object]) -> None:
    """Run trials in turn; what one raises ends that one. Interrupted, the trials have what was measured until then."""
    nvml = open_nvml(execution_device(pipe))
    positions = itertools.count()
    for phase, text, turn in _plan(trials, protocol):
        tell(text)
        for trial in turn:
            before = nvml.counters() if nvml and phase == "timed" else {}
            with trial.catching():
                with measure(pipe) as measured:
                    trial.run()
                trial.runs[phase].append(measured)
                after = nvml.counters() if nvml else {}
                for name in before.keys() & after.keys():
                    trial.counted[name].append(after[name] - before[name])
            trial.order += [next(positions)] if phase == "timed" else []
    for trial in _running(trials) if protocol.memory else ():
        tell("memory")
        watched: Any = nvml.watch() if nvml else nullcontext({})
        with trial.catching():
            with measure_memory(pipe) as sizes, watched as state:
                trial.run()
            trial.memory = sizes  # an interrupt leaves none rather than half of them
            trial.cost |= state


def _running(trials: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in trials if not trial.error]


def _plan(trials: Sequence[Trial], protocol: Protocol) -> Iterator[tuple[str, str, list[Trial]]]:
    """Say phase by phase what to run: once cold, warm-ups until two agree, repeats until all are narrow or it is late.

    Each round of repeats begins with another trial.
    """
    for number, trial in enumerate(trials, start=1):
        before = _compile_cost()
        yield "cold", f"cold run {number} of {len(trials)}", [trial]
        trial.cost |= _compile_cost() - before
    for number in range(1, protocol.max_warm_ups + 1):
        if restless := [each for each in _running(trials) if not abs(each.gain()) < protocol.warm_up_difference]:
            yield "warm_up", f"warm-up {number}", restless
    for trial in _running(trials):
        trial.cost |= {"never_warm": True} if trial.gain() > protocol.warm_up_difference else {}
    end = time.monotonic() + protocol.budget_seconds
    for repeat in range(protocol.max_repeats):
        left = _running(trials)
        is_enough = repeat >= protocol.min_repeats and (
            time.monotonic() >= end or all(trial.is_narrow(protocol.half_width) for trial in left)
        )
        if is_enough or not left:
            return
        turn, text = repeat % len(left), f"repeat {repeat + 1}, {protocol.min_repeats} to {protocol.max_repeats}"
        yield "timed", text, left[turn:] + left[:turn]


def _compile_cost() -> Counter[str]:
    """Seconds that torch has compiled in this process, and graph breaks; nothing where it has never compiled."""
    if "torch._dynamo" not in sys.modules:
        return Counter()
    from torch._dynamo import utils

    seconds: Any = sum(utils.compilation_time_metrics.get("_compile.compile_inner", ()))  # a Counter takes floats too
    return Counter(compile_seconds=seconds, graph_breaks=sum(utils.counters["graph_break"].values()))


def load_report(pipe: Any) -> LoadReport:
    """Give the report of ``load``; a SettingsError for pipelines made otherwise, whose weights are not known."""
    if not (report := report_of(pipe)).is_ours:
        raise SettingsError("this pipeline does not say what it was loaded from; make it with svdkit.load(...)")
    return report


def header_of(load: LoadSettings, clip: Any, model: dict[str, Any], frame: Frame) -> Header:
    """Give what a record says of what was asked, with its id."""
    asked = {"load": load.to_dict(), "clip": clip.to_dict(), "model": model}
    return {**asked, "image": frame.to_dict(), "id": run_id(**asked, image_sha256=frame.sha256)}


def describe_run(pipe: Any, frame: Frame, clip: ClipSettings) -> Header:
    """Give the header of what a pipeline would do; a SettingsError for what cannot work."""
    return header_of(load_report(pipe).settings, resolve(pipe, clip, frame), describe_model(pipe), frame)


def make_record(header: Header, **values: Any) -> Record:
    """Put a record together; ok, if the values do not say otherwise."""
    environment = machine(header["load"].get("device", "auto"))
    return Record(**{"status": "ok", "started_at": now(), "environment": environment, **header, **values})


@cache
def process_name() -> str:
    """Name this process, as records do: no number of the system's, which another one may get."""
    return uuid.uuid4().hex[:8]


def trials_of(pipe: Any, frame: Frame, cells: Sequence[Cell]) -> list[list[Trial]]:
    """Give the trials of each cell: one of the whole clip, or those of its stages, which cells share.

    What one stage makes the next one uses. A whole clip that stepped down would be the record of another cell.
    """
    composed = [header["clip"] for header, method in cells if method == "composed"]
    steps = [clip["num_inference_steps"] for clip in composed] or [1]
    # Of one step alone the first, which may fetch weights, cannot be told from the others.
    lengths = itertools.cycle((min(max(2, min(steps)), max(steps)), max(steps)))
    made: dict[str, Any] = {}

    def encode_photo() -> None:
        made["encoded"] = encode(pipe, frame, ClipSettings.from_dict(composed[0]))

    def denoise_in_turn() -> None:
        encoded = made["encoded"]
        made["denoised"] = denoise(pipe, encoded, encoded.settings.replace(num_inference_steps=next(lengths)))

    def decode_by(chunk: int) -> None:
        denoised = made["denoised"]
        decode(pipe, denoised, denoised.settings.replace(decode_chunk_size=chunk))

    stages = [Trial(encode_photo), Trial(denoise_in_turn, lambda m: _steps(m)[1], stretch)]
    chunks = {clip["decode_chunk_size"]: Trial(partial(decode_by, clip["decode_chunk_size"])) for clip in composed}
    whole = partial(generate, pipe, frame, progress=False, step_down=False)
    return [
        [*stages, chunks[header["clip"]["decode_chunk_size"]]]
        if method == "composed"
        else [Trial(partial(whole, ClipSettings.from_dict(header["clip"])))]
        for header, method in cells
    ]


def record_of(trials: Sequence[Trial], header: Header, *, load_seconds: float) -> Record:
    """Make a cell's record of the clip that was measured whole, or of its stages; what one ran into, the cell did."""
    is_whole, steps = len(trials) == 1, header["clip"]["num_inference_steps"]
    samples: dict[str, dict[str, list[float]]] = {"cold": {}}
    rounds: list[Any] = []
    for phase in trials[0].runs if is_whole else ("timed",):
        rounds = [*zip(*([trial.seconds(run, steps) for run in trial.runs[phase]] for trial in trials), strict=False)]
        samples[phase] = _add_up(rounds)
    samples["cold"] = {"load": [load_seconds], **samples["cold"]}
    memory: dict[str, Bytes] = {}
    if all(trial.memory for trial in trials):
        memory = {stage: sizes for trial in trials for stage, sizes in trial.memory.items()}
        memory["total"] = reduce(higher, (trial.memory["total"] for trial in trials))
    error = next((trial.error for trial in trials if trial.error), None)
    return make_record(
        header,
        method="measured" if is_whole else "composed",
        samples=samples,
        order=trials[-1].order[: len(rounds)],
        processes=[process_name()] * len(rounds),
        memory=memory,
        cost=_cost(trials),
        **(failure_of(error) if error else {}),
    )


def _cost(trials: Sequence[Trial]) -> dict[str, Any]:
    """Say what else a clip measured whole took, and what speaks against a cell's seconds: throttling, never warm."""
    cost: dict[str, Any] = {}
    if len(trials) == 1:
        cost |= trials[0].cost
        if joules := trials[0].counted["energy_joules"]:
            cost["energy_joules"] = statistics.median(joules)
    held = [zip(trial.counted["throttled_seconds"], trial.runs["timed"], strict=False) for trial in trials]
    shares = [[seconds / run.total for seconds, run in pairs] for pairs in held]
    if throttled := [max(each) for each in zip(*shares, strict=False)]:
        cost["throttled_fraction"] = throttled
    seconds = {trial: sum(run.total for run in trial.runs["timed"]) for trial in trials}
    if sum(own for trial, own in seconds.items() if "never_warm" in trial.cost) > _WEIGHTY * sum(seconds.values()):
        cost["never_warm"] = True
    return cost


def _steps(measured: Measurement) -> tuple[int, float]:
    """Steps of a denoising, and UNet seconds of one after the first, which may fetch weights; of the one, if alone."""
    calls = [seconds for stage, seconds in measured.calls if stage == "unet"]
    count = sum(stage == "scheduler" for stage, _ in measured.calls)
    each = len(calls) // count  # guidance in two passes calls twice a step
    return count, sum(calls[each:]) / (count - 1) if count > 1 else sum(calls)


def stretch(measured: Measurement, steps: int) -> Seconds:
    """Seconds by stage of a denoising as if it had had so many steps.

    What is done once stays: the first step, what frees the device, what no stage accounts for (the checks before the
    first step; 0.02 ms more with each step of micro, of 4.4 ms). Everything else is in proportion.
    """
    (count, step), own = _steps(measured), measured.seconds
    stages = {stage: value * steps / count for stage, value in own.items() if stage != "total"}
    stages |= {"unet": own["unet"] + (steps - count) * step, "unattributed": own["unattributed"]}
    return {**stages, "total": sum(stages.values())}


def _add_up(rounds: Sequence[Sequence[Seconds]]) -> dict[str, list[float]]:
    """Add the parts of each round; give a list of rounds by stage."""
    stages = {stage for parts in rounds for part in parts for stage in part}
    names = [stage for stage in (*TIMED_STAGES, "unattributed", "total") if stage in stages]
    return {stage: [sum(part.get(stage, 0.0) for part in parts) for parts in rounds] for stage in names}
