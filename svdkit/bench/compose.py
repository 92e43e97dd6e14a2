"""Many cells from few runs: seconds are additive over stages, so stages are measured apart and added up.

A grid of steps and chunks needs one encoding, denoising of the shortest and the longest length in turn, and one
decoding a chunk size. A composed sample is the sum of the parts of one round, so that what slows the machine for a
while slows all of a sample, and no run is used twice in a cell.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

from svdkit.bench.memory import higher
from svdkit.bench.protocol import Protocol, Trial, describe, interleave, make_record, record_of, samples_of, whole_clip
from svdkit.bench.watch import STAGES
from svdkit.generate import decode, denoise, encode
from svdkit.settings import ClipSettings

if TYPE_CHECKING:
    from svdkit.bench.measure import Measurement
    from svdkit.bench.record import Record
    from svdkit.image import Frame


def measure_group(
    pipe: Any,
    frame: Frame,
    clips: Sequence[ClipSettings],
    *,
    whole: Sequence[int],
    composed: bool,
    protocol: Protocol,
    done: Counter[tuple[str, str]],
    keep: Callable[[Record], object],
    tell: Callable[[str], object],
) -> None:
    """Measure the cells of one load that are not done yet; interrupted, keep those that have enough repeats.

    Args:
        pipe: From ``svdkit.load``.
        frame: The fitted photo.
        clips: A cell each; they differ in steps and decode chunk only.
        whole: Which of them are measured whole; a cell may stand twice.
        composed: Whether all of them are composed too.
        protocol: How often.
        done: How many good records there are by id and method.
        keep: Called with each record.
        tell: Called with a line of progress.
    """
    headers = [describe(pipe, frame, clip) for clip in clips]
    done = Counter(done)
    trials = []
    for header in (headers[index] for index in whole):
        done[header["id"], "measured"] -= 1
        if done[header["id"], "measured"] < 0:
            trials.append((whole_clip(pipe, frame, ClipSettings.from_dict(header["clip"])), header))
    missing = [header for header in headers if composed and not done[header["id"], "composed"]]
    parts = Parts(pipe, frame, [ClipSettings.from_dict(header["clip"]) for header in missing])
    seconds = pipe.svdkit.load_seconds
    try:
        interleave(pipe, [*(trial for trial, _ in trials), *parts.trials], protocol, tell)
    finally:
        for trial, header in trials:
            if trial.error or len(trial.timed) >= protocol.min_repeats:
                keep(record_of(trial, header, load_seconds=seconds))
        for header in missing:
            record = parts.record(header, load_seconds=seconds)
            if record.error or len(record.order) >= protocol.min_repeats:
                keep(record)


class Parts:
    """The stages of a group of cells, each a trial of its own; what one makes the next one uses."""

    def __init__(self, pipe: Any, frame: Frame, clips: Sequence[ClipSettings]) -> None:
        self._pipe = pipe
        self._frame = frame
        self._made: dict[str, Any] = {}
        lengths = sorted({clip.num_inference_steps or 1 for clip in clips})
        if lengths[1:]:  # of one step alone the first, which may fetch weights, cannot be told from the others
            lengths = [max(2, lengths[0]), lengths[-1]]
        self._lengths = itertools.cycle(lengths)
        self.encode = Trial(partial(self._encode, *clips[:1]))
        self.denoise = Trial(self._denoise, step_seconds)
        self.decode = {chunk: Trial(partial(self._decode, chunk)) for chunk in {c.decode_chunk_size for c in clips}}
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
        timed = [add_up(one.seconds, stretch(two, steps), three.seconds) for one, two, three in rounds]
        sizes: dict[str, Any] = {}
        if all(trial.memory for trial in three):
            sizes = {stage: value for trial in three for stage, value in trial.memory.items()}
            sizes["total"] = reduce(higher, (trial.memory["total"] for trial in three))
        return make_record(
            header,
            failure=next((trial.error for trial in three if trial.error), None),
            method="composed",
            samples={"cold": {"load": [load_seconds]}, "timed": samples_of(timed)},
            order=last.order[: len(timed)],
            memory=sizes,
        )


def _steps(measured: Measurement) -> tuple[list[float], int]:
    """Seconds of each UNet call of a denoising, and its steps; guidance in two passes calls twice a step."""
    calls = [seconds for stage, seconds in measured.calls if stage == "unet"]
    return calls, sum(stage == "scheduler" for stage, _ in measured.calls)


def step_seconds(measured: Measurement) -> float:
    """Seconds of one UNet step after the first, which may fetch weights; the first where there is no other."""
    calls, count = _steps(measured)
    first = len(calls) // count
    return sum(calls[first:]) / (count - 1) if count > 1 else sum(calls)


def stretch(measured: Measurement, steps: int) -> dict[str, float]:
    """Seconds by stage of a denoising as if it had had so many steps.

    What is done once, the first step and what frees the device, stays; everything else is in proportion.
    """
    count = _steps(measured)[1]
    once = measured.seconds["unet"] - (count - 1) * step_seconds(measured)
    seconds = {stage: value * steps / count for stage, value in measured.seconds.items()}
    return {**seconds, "unet": once + (steps - 1) * step_seconds(measured)}


def add_up(*parts: dict[str, float]) -> dict[str, float]:
    """Add seconds by stage; the total is their sum."""
    names = [stage for stage in (*STAGES, "unattributed") if any(stage in part for part in parts)]
    seconds = {stage: sum(part.get(stage, 0.0) for part in parts) for stage in names}
    return {**seconds, "total": sum(seconds.values())}
