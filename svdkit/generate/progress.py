"""Progress of a run: how far a stage is, how long the rest will take, and where that is shown."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TextIO

from svdkit.environment import notebook_kind
from svdkit.errors import SettingsError
from svdkit.units import format_seconds

# A person cannot read faster than this, and every update of a notebook is a message to the browser.
_SECONDS_BETWEEN_UPDATES = 0.1
_BAR_CELLS = 20


@dataclass(frozen=True)
class Progress:
    """How far one stage of a run has come; its text is ``"5/25, 2.0 s, about 8.0 s left"``."""

    stage: str  # "encode", "denoise" or "decode"
    step: int  # steps done: networks (encode), denoising steps, chunks of frames (decode)
    steps: int  # of the stage, at least 1
    elapsed_seconds: float  # exact when the stage is done: on a GPU svdkit waits for the device only between stages
    remaining_seconds: float | None  # estimate for the rest of this stage; None before the first step is done

    @property
    def done(self) -> bool:
        """Whether the stage is complete."""
        return self.step >= self.steps

    def __str__(self) -> str:
        elapsed = format_seconds(self.elapsed_seconds)
        if self.done:
            return elapsed
        if self.remaining_seconds is None:
            return f"{self.step}/{self.steps}"
        return f"{self.step}/{self.steps}, {elapsed}, about {format_seconds(self.remaining_seconds)} left"


Report = Callable[[Progress], object]
Shown = bool | str | Report  # the values of progress=


@dataclass
class Meter:
    """Times a stage and reports its start, steps and end; ``synchronize`` waits for the device at start and end."""

    stage: str
    steps: int
    report: Report
    synchronize: Callable[[], object]
    seconds: float = 0.0
    _done: int = 0
    _first_step_seconds: float = 0.0

    def __enter__(self) -> Meter:
        self.synchronize()
        self._start = time.perf_counter()
        self._tell()
        return self

    def step(self) -> None:
        """Count one step; the last one is reported when the stage ends, with the exact time."""
        self._done += 1
        self.seconds = time.perf_counter() - self._start
        if self._done == 1:
            self._first_step_seconds = self.seconds
        if self._done < self.steps:
            self._tell()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.synchronize()
            self.seconds = time.perf_counter() - self._start
            self._done = self.steps
            self._tell()
        elif isinstance(self.report, _TerminalReport):
            self.report.end_line()

    def _tell(self) -> None:
        remaining = None
        if self._done == 1:
            remaining = self.seconds * (self.steps - 1)
        elif self._done > 1:
            # The first step also warms up kernels and, once, compiles: it says little about the others.
            remaining = (self.seconds - self._first_step_seconds) / (self._done - 1) * (self.steps - self._done)
        self.report(Progress(self.stage, self._done, self.steps, self.seconds, remaining))


def reporter(progress: Shown = "auto") -> Report:
    """Choose where progress is shown: the values are those of ``generate``; True means "auto"."""
    if callable(progress):
        return progress
    if progress is False:
        return _Report()
    if progress is True or progress == "auto":
        progress = "terminal" if notebook_kind() == "terminal" else "notebook"
    if progress == "terminal":
        return _TerminalReport(sys.stderr)
    if progress == "notebook":
        return _NotebookReport()
    known = "'auto', 'notebook', 'terminal', True, False, or a function that takes a Progress"
    raise SettingsError(f"progress={progress!r} is not known; give {known}")


class _Report:
    """Lets the first and the last report of a stage through, and ten a second between them; shows nothing itself."""

    _last = float("-inf")

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.step in {0, progress.steps} or now - self._last >= _SECONDS_BETWEEN_UPDATES:
            self._last = now
            self._show(progress)

    def _show(self, progress: Progress) -> None: ...


class _TerminalReport(_Report):
    """One line a stage, rewritten in place on a terminal; in a log file only the line of the finished stage."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._rewrites, self._line_is_open = stream, stream.isatty(), False

    def _show(self, progress: Progress) -> None:
        if self._rewrites:
            bar = "#" * (_BAR_CELLS * progress.step // progress.steps)
            # \033[K clears what a longer text has left behind.
            self._write(f"\r{progress.stage:<8}[{bar:-<{_BAR_CELLS}}] {progress}\033[K")
        elif progress.done:
            self._write(f"{progress.stage:<8}{progress}")
        if progress.done:
            self.end_line()

    def end_line(self) -> None:
        """End an unfinished line, so that what is written next, such as an error, begins on its own."""
        if self._line_is_open:
            self._write("\n")
        self._line_is_open = False

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
        self._line_is_open = True


class _NotebookReport(_Report):
    """A row a stage, updated in place through a display handle: no widgets, so Colab and VS Code show it."""

    def __init__(self) -> None:
        self._stages: dict[str, Progress] = {}
        self._handle: Any = None

    def _show(self, progress: Progress) -> None:
        from IPython.display import display

        self._stages[progress.stage] = progress
        html = "".join(_row(stage) for stage in self._stages.values())
        plain = "\n".join(f"{name:<8}{stage}" for name, stage in self._stages.items())
        bundle = {"text/html": f'<table style="border:0">{html}</table>', "text/plain": plain}
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


def _row(progress: Progress) -> str:
    bar = f'<progress aria-label="{progress.stage}" value="{progress.step}" max="{progress.steps}"></progress>'
    cell = '<td style="text-align:left;padding:0 1em 0 0">'
    return f"<tr>{cell}{progress.stage}</td>{cell}{bar}</td>{cell}{progress}</td></tr>"
