"""Progress of a run: how far a stage is, how long the rest will take, and where that is shown."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
        elif isinstance(self.report, _Stages):
            self.report.screen.close()

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
        return lambda _: None
    kind = "auto" if progress is True else progress
    if kind in {"auto", "terminal", "notebook"}:
        return _Stages(Screen(kind))
    known = "'auto', 'notebook', 'terminal', True, False, or a function that takes a Progress"
    raise SettingsError(f"progress={progress!r} is not known; give {known}")


class Screen:
    """A place that is rewritten ten times a second at most: an output of a notebook, a line of a terminal.

    No widgets, so Colab and VS Code show it, and so do executed copies. A log, where nothing can be rewritten, gets a
    line every ``log_seconds``, by default only the last.
    """

    def __init__(self, kind: str = "auto", *, log_seconds: float = math.nan) -> None:
        kind = ("terminal" if notebook_kind() == "terminal" else "notebook") if kind == "auto" else kind
        self.in_notebook = kind == "notebook"
        self.rewrites = self.in_notebook or sys.stderr.isatty()
        self._between = _SECONDS_BETWEEN_UPDATES if self.rewrites else log_seconds
        self._last, self._line_is_open = -math.inf, False
        self._handle: Any = None

    def show(self, text: str, *, html: str = "", first: bool = False, last: bool = False) -> None:
        """Show a text in place of the one before; the first and the last are always shown, but in a log."""
        now = time.monotonic()
        if not (last or (first and self.rewrites) or now - self._last >= self._between):
            return
        self._last = now
        if self.in_notebook:
            self._display({"text/plain": text} | ({"text/html": html} if html else {}))
            return
        # \033[K clears what a longer text has left behind.
        self._write(f"\r{text}\033[K" if self.rewrites else text, ended=last or not self.rewrites)

    def line(self, text: str) -> None:
        """Write a line that stays."""
        self._write(f"\r\033[K{text}" if sys.stderr.isatty() else text, ended=True)

    def close(self) -> None:
        """End an unfinished line, so that what is written next, such as an error, begins on its own."""
        if self._line_is_open:
            self._write("", ended=True)

    def _write(self, text: str, *, ended: bool) -> None:
        sys.stderr.write(text + "\n" * ended)
        sys.stderr.flush()
        self._line_is_open = not ended

    def _display(self, bundle: dict[str, str]) -> None:
        from IPython.display import display

        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


class _Stages:
    """Shows the stages of a run: a line each on a terminal, a row each in one output of a notebook."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self._stages: dict[str, Progress] = {}

    def __call__(self, progress: Progress) -> None:
        self._stages[progress.stage] = progress
        bar = "#" * (_BAR_CELLS * progress.step // progress.steps)
        text = f"{progress.stage:<8}{f'[{bar:-<{_BAR_CELLS}}] ' if self.screen.rewrites else ''}{progress}"
        html = ""
        if self.screen.in_notebook:
            text = "\n".join(f"{name:<8}{stage}" for name, stage in self._stages.items())
            html = f'<table style="border:0">{"".join(map(_row, self._stages.values()))}</table>'
        self.screen.show(text, html=html, first=progress.step == 0, last=progress.done)


def _row(progress: Progress) -> str:
    bar = f'<progress aria-label="{progress.stage}" value="{progress.step}" max="{progress.steps}"></progress>'
    cell = '<td style="text-align:left;padding:0 1em 0 0">'
    return f"<tr>{cell}{progress.stage}</td>{cell}{bar}</td>{cell}{progress}</td></tr>"
