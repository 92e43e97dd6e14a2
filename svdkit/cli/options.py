"""What the commands take, and how they end: one option a setting; an exit code, and an error as a paragraph on stderr.

::

    0    done
    1    the run failed: no memory, no network, a model that cannot be loaded, a finding of the doctor
    2    what was given cannot work: an option, a photo, a clip, a file that is in the way
    130  interrupted, as shells have it for Ctrl-C
"""

from __future__ import annotations

import dataclasses
import inspect
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, TextIO, TypeVar, get_type_hints

import typer
from typer.core import TyperGroup

from svdkit.errors import Cancelled, ImageError, SettingsError, SvdkitError, SvdkitWarning
from svdkit.settings import ClipSettings, LoadSettings

FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 130


class RefusedInput(Exception):  # noqa: N818 - it marks another error, which has the name
    """What the user gave was found wrong before any work; the cause says what and why."""


@contextmanager
def judging_input() -> Iterator[None]:
    """Turn errors of svdkit's tree inside into ``RefusedInput``, with the same text."""
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
                typer.echo(error_text(error), err=True)
                raise typer.Exit(exit_code(error)) from error


def exit_code(error: BaseException) -> int:
    """Choose the exit code of an error: 1, 2 or 130, see above."""
    if isinstance(error, KeyboardInterrupt | Cancelled):
        return INTERRUPTED
    return WRONG_INPUT if isinstance(error, RefusedInput | ImageError | SettingsError) else FAILED


def error_text(error: BaseException) -> str:
    """Say in a paragraph what ended a command; of an error that is not svdkit's own, also what to do."""
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


Command = TypeVar("Command", bound=Callable[..., object])

CLIP = tuple(ClipSettings.__dataclass_fields__)
LOAD = tuple(name for name in LoadSettings.__dataclass_fields__ if name != "preset")


def takes(*groups: list[inspect.Parameter]) -> Callable[[Command], Command]:
    """Give a command, in its ``**given``, more options than its signature writes out.

    Written out, the two dozen settings would be a second list of their names, types and defaults, to be kept right by
    hand. typer reads a command's ``__signature__``, as any tool does.
    """

    def decorate(command: Command) -> Command:
        hints = get_type_hints(command, include_extras=True)
        own = [
            parameter.replace(annotation=hints[name])
            for name, parameter in inspect.signature(command).parameters.items()
            if parameter.kind is not parameter.VAR_KEYWORD
        ]
        parameters = [*own, *(parameter for group in groups for parameter in group)]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # functions take any name
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def settings_options(
    kind: type[ClipSettings | LoadSettings], names: Iterable[str], *, panel: str
) -> list[inspect.Parameter]:
    """Make an option of each setting: ``motion_bucket_id`` becomes ``--motion-bucket-id``; its help is the field's.

    An option that is not given is None (a switch: False), so that a preset's value can stand; the seed is a list.
    """
    types, fields = get_type_hints(kind), kind.__dataclass_fields__
    return [_option(fields[name], types[name], panel=panel) for name in names]


def chosen(given: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Pick from a command's ``**given`` the settings of one kind that the user gave."""
    return {name: given[name] for name in names if given.get(name) is not None}


def _option(field: dataclasses.Field[Any], kind: Any, *, panel: str) -> inspect.Parameter:
    text = field.metadata["help"][0].upper() + field.metadata["help"][1:]
    is_switch = kind is bool
    if field.name == "seed":
        kind, text = list[int] | None, f"{text} Several give variations: --seed 1 --seed 2."
    elif field.default is not None and not is_switch:
        text += f" Default: {field.default}."
    option = typer.Option(f"--{field.name.replace('_', '-')}", help=text, rich_help_panel=panel)
    kind = kind if is_switch or field.name == "seed" else kind | None
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=False if is_switch else None,
        annotation=Annotated[kind, option],
    )
