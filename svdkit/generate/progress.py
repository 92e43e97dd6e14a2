"""Progress of a run: what a stage has done, how long it took, and where that is shown.

``Meter`` counts the steps of one stage and reads the clock; a *report* (any callable that takes a
:class:`Progress`) shows it. Reports for a terminal and for a notebook are here; a caller may give its own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from svdkit.environment import notebook_kind
from svdkit.errors import SettingsError
from svdkit.units import format_seconds

if TYPE_CHECKING:
    from types import TracebackType

# A person cannot read faster than this, and every update of a notebook is a message to the browser.
_SECONDS_BETWEEN_UPDATES = 0.1
_BAR_CELLS = 20


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far one stage of a run has come.

    Attributes:
        stage: ``"encode"``, ``"denoise"`` or ``"decode"``.
        step: Steps done, 0 to ``steps``. A step is a network (encode), a denoising step, or a chunk of frames.
        steps: Steps of the stage, at least 1.
        elapsed_seconds: Since the stage began, at least 0. On a GPU it may lag behind the hardware inside a stage,
            because svdkit waits for the device only where stages meet; the last report of a stage is exact.
        remaining_seconds: Estimate for the rest of this stage; None before the first step is done.

    Example:
        >>> Progress(stage="denoise", step=5, steps=25, elapsed_seconds=2.0, remaining_seconds=8.0).done
        False
    """

    stage: str
    step: int
    steps: int
    elapsed_seconds: float
    remaining_seconds: float | None

    @property
    def done(self) -> bool:
        """Whether the stage is complete."""
        return self.step >= self.steps


Report = Callable[[Progress], object]


class Meter:
    """Counts and times the steps of one stage, as a context manager.

    Args:
        stage: Name of the stage, as in :class:`Progress`.
        steps: How many steps it has, at least 1.
        report: Is called at the start, after each step and at the end.
        synchronize: Waits for the device; called where the stage begins and ends, never between steps.

    Example:
        >>> with Meter("decode", steps=1, report=print, synchronize=lambda: None) as meter:
        ...     meter.step()
        >>> meter.seconds > 0
        True
    """

    def __init__(self, stage: str, *, steps: int, report: Report, synchronize: Callable[[], object]) -> None:
        self.seconds = 0.0
        self._stage = stage
        self._steps = steps
        self._report = report
        self._synchronize = synchronize
        self._done = 0
        self._start = 0.0
        self._first_step_seconds = 0.0

    def __enter__(self) -> Meter:
        self._synchronize()
        self._start = time.perf_counter()
        self._tell()
        return self

    def step(self) -> None:
        """Count one step; the last one is reported when the stage ends, with the exact time."""
        self._done += 1
        self.seconds = time.perf_counter() - self._start
        if self._done == 1:
            self._first_step_seconds = self.seconds
        if self._done < self._steps:
            self._tell()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._synchronize()
            self.seconds = time.perf_counter() - self._start
            self._done = self._steps
            self._tell()
        elif hasattr(self._report, "stop"):
            self._report.stop()

    def _tell(self) -> None:
        self._report(
            Progress(
                stage=self._stage,
                step=self._done,
                steps=self._steps,
                elapsed_seconds=self.seconds,
                remaining_seconds=self._remaining_seconds(),
            )
        )

    def _remaining_seconds(self) -> float | None:
        if self._done == 0:
            return None
        if self._done == 1:
            return self.seconds * (self._steps - 1)
        # The first step also warms up kernels and, once, compiles: it says little about the others.
        per_step = (self.seconds - self._first_step_seconds) / (self._done - 1)
        return per_step * (self._steps - self._done)


def reporter(progress: bool | str | Report = "auto") -> Report:  # noqa: FBT001 - it is the value of progress=
    """Choose where progress is shown.

    Args:
        progress: ``"auto"`` or True: the notebook where there is one, else the terminal. ``"notebook"`` and
            ``"terminal"`` choose by hand. False shows nothing. A callable is returned as it is; it receives a
            :class:`Progress` and may raise ``Cancelled`` to stop the run.

    Returns:
        A callable that takes a :class:`Progress`.

    Raises:
        SettingsError: for any other value.

    Example:
        >>> report = reporter(False)
    """
    if callable(progress):
        return progress
    if progress is False:
        return _silent
    if progress is True or progress == "auto":
        progress = "terminal" if notebook_kind() == "terminal" else "notebook"
    if progress == "terminal":
        return TerminalReport(sys.stderr)
    if progress == "notebook":
        return NotebookReport()
    message = (
        f"progress={progress!r} is not known; give 'auto', 'notebook', 'terminal', True, False, or a function that "
        "takes a Progress"
    )
    raise SettingsError(message)


def _silent(progress: Progress) -> None:
    """Show nothing."""


class _Throttle:
    """Lets the first and last report of a stage through, and ten a second between them."""

    def __init__(self) -> None:
        self._last = float("-inf")

    def lets_through(self, progress: Progress) -> bool:
        now = time.monotonic()
        if 0 < progress.step < progress.steps and now - self._last < _SECONDS_BETWEEN_UPDATES:
            return False
        self._last = now
        return True


def describe(progress: Progress) -> str:
    """Say in words how far a stage is.

    Returns:
        For example ``"5/25, 2.0 s, about 8.0 s left"``, or only the time for a stage that is done.

    Example:
        >>> describe(Progress(stage="decode", step=3, steps=3, elapsed_seconds=1.5, remaining_seconds=0.0))
        '1.5 s'
    """
    if progress.done:
        return format_seconds(progress.elapsed_seconds)
    if progress.remaining_seconds is None:
        return f"{progress.step}/{progress.steps}"
    elapsed, remaining = format_seconds(progress.elapsed_seconds), format_seconds(progress.remaining_seconds)
    return f"{progress.step}/{progress.steps}, {elapsed}, about {remaining} left"


class TerminalReport:
    """One line a stage, rewritten in place on a terminal; in a log file only the line of the finished stage.

    Args:
        stream: Where to write; its ``isatty`` says whether a line can be rewritten.

    Example:
        >>> generate(pipe, "rocket", progress=TerminalReport(sys.stdout))  # doctest: +SKIP
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._rewrites = stream.isatty()
        self._line_is_open = False
        self._throttle = _Throttle()

    def __call__(self, progress: Progress) -> None:
        """Show one report."""
        if not (progress.done or self._rewrites) or not self._throttle.lets_through(progress):
            return
        cells = _BAR_CELLS * progress.step // progress.steps
        bar = f"[{'#' * cells}{'-' * (_BAR_CELLS - cells)}] " if self._rewrites else ""
        # \033[K clears what a longer text has left behind.
        start, clear = ("\r", "\033[K") if self._rewrites else ("", "")
        end = "\n" if progress.done else ""
        self._stream.write(f"{start}{progress.stage:<8}{bar}{describe(progress)}{clear}{end}")
        self._stream.flush()
        self._line_is_open = not progress.done

    def stop(self) -> None:
        """End an unfinished line, so that the error message begins on its own."""
        if self._line_is_open:
            self._stream.write("\n")
            self._stream.flush()
            self._line_is_open = False


class NotebookReport:
    """A row a stage, updated in place through an IPython display handle: no widgets, so Colab and VS Code show it.

    Example:
        >>> generate(pipe, "rocket", progress=NotebookReport())  # doctest: +SKIP
    """

    def __init__(self) -> None:
        self._stages: dict[str, Progress] = {}
        self._handle: Any = None
        self._throttle = _Throttle()

    def __call__(self, progress: Progress) -> None:
        """Show one report."""
        self._stages[progress.stage] = progress
        if self._throttle.lets_through(progress):
            self._show()

    def _show(self) -> None:
        from IPython.display import display

        stages = self._stages.values()
        bundle = {
            "text/html": f'<table style="border:0">{"".join(_row(stage) for stage in stages)}</table>',
            "text/plain": "\n".join(f"{stage.stage:<8}{describe(stage)}" for stage in stages),
        }
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)


def _row(progress: Progress) -> str:
    bar = f'<progress aria-label="{progress.stage}" value="{progress.step}" max="{progress.steps}"></progress>'
    cell = '<td style="text-align:left;padding:0 1em 0 0">'
    return f"<tr>{cell}{progress.stage}</td>{cell}{bar}</td>{cell}{describe(progress)}</td></tr>"
