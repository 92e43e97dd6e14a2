"""How far a sweep is: runs done, time left from measured stages, failures so far."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from svdkit.environment import notebook_kind
from svdkit.sweep.jobs import STAGES, Job
from svdkit.units import format_seconds

if TYPE_CHECKING:
    from typing_extensions import Self

    from svdkit.bench.record import Record

_SECONDS_BETWEEN_LINES = 30.0  # of a log file


class Display:
    """One line, rewritten on a terminal and in a notebook; in a log one line in 30 s, and one for each failure.

    Example:
        >>> with Display(runs, finished) as display:  # doctest: +SKIP
        ...     display.ended(record)
        12/60 runs, 1 failed, about 2 min left
    """

    def __init__(
        self, runs: Sequence[tuple[Mapping[str, Any], Job]], finished: Mapping[str, Record], *, shown: bool = True
    ) -> None:
        self._total, self._shown = len(runs), shown
        self._work = {task["id"]: work for task, work in _work([run for run in runs if run[0]["id"] not in finished])}
        mine = [finished[task["id"]] for task, _ in runs if task["id"] in finished]
        self._done, self._failed = len(mine), sum(record.status != "ok" for record in mine)
        self._seconds, self._did = dict.fromkeys(STAGES, 0.0), dict.fromkeys(STAGES, 0.0)
        self._begun, self._last, self._handle = time.monotonic(), -math.inf, None

    def __enter__(self) -> Self:
        if self._done and self._shown:
            print(f"{self._done} of {self._total} runs are there already", file=sys.stderr)  # noqa: T201 - see below
        return self

    def __exit__(self, *_: object) -> None:
        self._show(f"{self}", last=True)

    def ended(self, record: Record) -> None:
        """Count a run that ended."""
        self._done += 1
        work = self._work.pop(record.id, {})
        for stage, amount in work.items():
            seconds = record.samples.get("timed", {}).get(stage)
            if seconds:
                self._seconds[stage] += seconds[0]
                self._did[stage] += amount
        if record.status != "ok":
            self._failed += 1
            reason = record.error or {}
            self._line(f"{record.id}: {record.status}: {reason.get('type')}: {reason.get('message', '')[:160]}")
        self._show(f"{self}", last=False)

    @property
    def remaining_seconds(self) -> float:
        """Estimate for the rest, of one worker; not a number before every stage was measured."""
        pace = {stage: self._seconds[stage] / self._did[stage] for stage in STAGES if self._did[stage]}
        return sum(amount * pace.get(stage, math.nan) for work in self._work.values() for stage, amount in work.items())

    def __str__(self) -> str:
        left = self.remaining_seconds
        rest = f", about {format_seconds(left)} left" if self._work and math.isfinite(left) else ""
        return f"{self._done}/{self._total} runs, {self._failed} failed{rest}"

    def _show(self, text: str, *, last: bool) -> None:
        now = time.monotonic()
        rewrites = sys.stderr.isatty() or notebook_kind() != "terminal"
        if not self._shown or not (last or now - self._last >= (0.1 if rewrites else _SECONDS_BETWEEN_LINES)):
            return
        self._last = now
        if notebook_kind() != "terminal":
            self._in_notebook(text)
        elif rewrites:
            sys.stderr.write(f"\r{text}\033[K" + ("\n" if last else ""))
            sys.stderr.flush()
        else:
            self._line(text)

    def _in_notebook(self, text: str) -> None:
        from IPython.display import display

        bundle = {"text/plain": text}
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)

    def _line(self, text: str) -> None:
        if self._shown:
            start = "\r\033[K" if sys.stderr.isatty() else ""
            print(f"{start}{text}", file=sys.stderr, flush=True)  # noqa: T201 - progress is for people


def _work(runs: Sequence[tuple[Mapping[str, Any], Job]]) -> list[tuple[Mapping[str, Any], dict[str, float]]]:
    """Say for each run which stages it will have to do, and how much of each, so that sizes can be compared."""
    seen: set[object] = set()
    found = []
    for task, job in runs:
        clip: Any = job.clip
        pixels = clip.height * clip.width
        amounts = {"encode": pixels, "denoise": pixels * clip.num_frames * clip.num_inference_steps}
        amounts["decode"] = pixels * clip.num_frames
        found.append((task, {stage: amounts[stage] for stage in STAGES if job.keys[stage] not in seen}))
        seen |= {job.keys[stage] for stage in STAGES}
    return found
