"""How a command ends: its exit code, and an error as one plain paragraph on stderr.

::

    0    done
    1    the run failed: no memory, no network, a model that cannot be loaded, a finding of the doctor
    2    what was given cannot work: an option, a photo, a clip, a file that is in the way
    130  interrupted, as shells have it for Ctrl-C
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import typer
from typer.core import TyperGroup

from svdkit.errors import Cancelled, ImageError, SettingsError, SvdkitError, SvdkitWarning

FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 130


class RefusedInput(Exception):  # noqa: N818 - it marks another error, which has the name
    """What the user gave was found wrong before any work; the cause says what and why."""


@contextmanager
def judging_input() -> Iterator[None]:
    """Turn errors of svdkit's tree inside into ``RefusedInput``, with the same text.

    Example:
        >>> with judging_input():  # doctest: +SKIP
        ...     clip = Clip.read("missing.mp4")
    """
    try:
        yield
    except SvdkitError as error:
        raise RefusedInput(str(error)) from error


class Commands(TyperGroup):
    """The group of commands, which turns every error into a paragraph and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take ``--debug`` from anywhere: people add it at the end of the command that failed."""
        if "--debug" in args:
            args = ["--debug", *(word for word in args if word != "--debug")]
        return list(super().parse_args(ctx, args))

    def invoke(self, ctx: Any) -> Any:
        """Run the command; raise ``typer.Exit`` with the right code when it fails."""
        with warnings.catch_warnings():
            warnings.simplefilter("always", SvdkitWarning)
            warnings.showwarning = _show_warning(warnings.showwarning)
            try:
                return super().invoke(ctx)
            except (Exception, KeyboardInterrupt) as error:
                # typer's own errors know their exit codes; a closed pipe (svdkit models | head) is its business too.
                if hasattr(error, "exit_code") or isinstance(error, typer.Abort | BrokenPipeError):
                    raise
                if ctx.params["debug"]:
                    typer.echo(traceback.format_exc(), err=True)
                typer.echo(describe(error), err=True)
                raise typer.Exit(exit_code(error)) from error


def exit_code(error: BaseException) -> int:
    """Choose the exit code of an error: 1, 2 or 130, see above.

    Example:
        >>> exit_code(ImageError("photo.jpg is empty")), exit_code(KeyboardInterrupt())
        (2, 130)
    """
    if isinstance(error, KeyboardInterrupt | Cancelled):
        return INTERRUPTED
    return WRONG_INPUT if isinstance(error, RefusedInput | ImageError | SettingsError) else FAILED


def describe(error: BaseException) -> str:
    """Say in a paragraph what ended a command; of an error that is not svdkit's own, also what to do.

    Example:
        >>> describe(ImageError("photo.jpg is empty; choose another file"))
        'error: photo.jpg is empty; choose another file'
    """
    if isinstance(error, KeyboardInterrupt):
        return "stopped: interrupted; what was saved before is complete"
    if isinstance(error, SvdkitError | RefusedInput):
        return f"error: {error}"
    doctor = "; svdkit doctor tells whether the installation is sound" if isinstance(error, ImportError) else ""
    text = f"{type(error).__name__}: {error}".rstrip(":. ")
    return f"error: {text}. svdkit did not expect this{doctor}; the same command with --debug shows where it happened"


def _show_warning(usual: Any) -> Any:
    """Print svdkit's warnings as notes, without the line of code that Python adds; leave all others alone."""

    def show(  # noqa: PLR0917 - Python calls it with these positions
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, SvdkitWarning):
            typer.echo(f"note: {message}", err=True)
        else:
            usual(message, category, filename, lineno, file, line)

    return show
