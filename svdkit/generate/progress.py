"""Progress of a run: how far a stage is, how long the rest will take, and where that is shown."""

from __future__ import annotations

import math
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

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

    def __enter__(self) -> Meter:
        self.synchronize()
        self._times = [time.perf_counter()]  # of the start, and of the end of each step
        self._tell(0)
        return self

    def step(self) -> None:
        """Count one step; the last one is reported when the stage ends, with the exact time."""
        self._times.append(time.perf_counter())
        if len(self._times) <= self.steps:
            self._tell(len(self._times) - 1)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.synchronize()
            self._times.append(time.perf_counter())
            self._tell(self.steps)
        elif isinstance(screen := getattr(self.report, "__self__", None), Screen):
            screen.close()

    def _tell(self, done: int) -> None:
        self.seconds = self._times[-1] - self._times[0]
        # The first step also warms up kernels and, once, compiles: it says little about the others.
        warm = 1 if done > 1 else 0
        pace = (self._times[-1] - self._times[warm]) / max(done - warm, 1)
        self.report(Progress(self.stage, done, self.steps, self.seconds, pace * (self.steps - done) if done else None))


def reporter(progress: Shown = "auto") -> Report:
    """Choose where progress is shown: the values are those of ``generate``; True means "auto"."""
    if callable(progress):
        return progress
    if progress is False:
        return lambda _: None
    kind = "auto" if progress is True else progress
    if kind in {"auto", "terminal", "notebook"}:
        return Screen(kind).show_stage
    known = "'auto', 'notebook', 'terminal', True, False, or a function that takes a Progress"
    raise SettingsError(f"progress={progress!r} is not known; give {known}")


class Screen:
    """A place that is rewritten ten times a second at most: an output of a notebook, a line of a terminal.

    No widgets, so Colab and VS Code show it, and so do executed copies. A log, where nothing can be rewritten, gets a
    line every ``log_seconds``, by default only the last.
    """

    def __init__(self, kind: str = "auto", *, log_seconds: float = math.nan) -> None:
        self.in_notebook = notebook_kind() != "terminal" if kind == "auto" else kind == "notebook"
        self._rewrites = self.in_notebook or sys.stderr.isatty()
        self._between = _SECONDS_BETWEEN_UPDATES if self._rewrites else log_seconds
        self._last, self._displayed, self._is_open = -math.inf, False, False
        self._display_id = f"svdkit-{secrets.token_hex(6)}"  # of a notebook all outputs with one id are rewritten
        self._stages: dict[str, Progress] = {}

    def show(self, text: str, *, html: str = "", last: bool = False) -> None:
        """Show a text in place of the one before; the last of something is always shown, and what comes after it."""
        now = time.monotonic()
        if not last and not now - self._last >= self._between:
            return
        self._last = -math.inf if last else now
        if not self.in_notebook:
            # \033[K clears what a longer text has left behind.
            self._is_open = self._rewrites and not last
            _write(f"\r{text}\033[K" if self._rewrites else text, end="" if self._is_open else "\n")
            return
        from IPython.display import display

        bundle = {"text/plain": text, **({"text/html": html} if html else {})}
        display(bundle, raw=True, display_id=self._display_id, update=self._displayed)
        self._displayed = True

    def close(self) -> None:
        """End a line that is being rewritten, so that what comes next, such as an error, begins on its own."""
        if self._is_open:
            self._is_open = False
            _write("")

    def line(self, text: str) -> None:
        """Write a line that stays."""
        _write(f"\r\033[K{text}" if sys.stderr.isatty() else text)

    def show_stage(self, progress: Progress) -> None:
        """Show a stage of a run: a line each on a terminal, a row each in one output of a notebook."""
        bar, html = "#" * (_BAR_CELLS * progress.step // progress.steps), ""
        text = f"{progress.stage:<8}{f'[{bar:-<{_BAR_CELLS}}] ' if self._rewrites else ''}{progress}"
        if self.in_notebook:
            self._stages[progress.stage] = progress
            text = "\n".join(f"{name:<8}{stage}" for name, stage in self._stages.items())
            html = f'<table style="border:0">{"".join(map(_row, self._stages.values()))}</table>'
        self.show(text, html=html, last=progress.done)


def _write(text: str, *, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)  # noqa: T201 - progress is what stderr is for


def _row(progress: Progress) -> str:
    bar = f'<progress aria-label="{progress.stage}" value="{progress.step}" max="{progress.steps}"></progress>'
    cell = '<td style="text-align:left;padding:0 1em 0 0">'
    return f"<tr>{cell}{progress.stage}</td>{cell}{bar}</td>{cell}{progress}</td></tr>"
