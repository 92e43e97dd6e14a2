"""What the commands take, and how they end: an exit code, and an error as a paragraph on stderr.

::

    0    done
    1    the run failed: no memory, no network, a model that cannot be loaded, a finding of the doctor
    2    what was given cannot work: an option, a photo, a clip, a file that is in the way
    130  interrupted, as shells have it for Ctrl-C

An option is a parameter of a command's function, explained in its docstring, or a setting, explained at its field.
"""

from __future__ import annotations

import inspect
import re
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from svdkit import __version__
from svdkit.errors import Cancelled, ImageError, SettingsError, SvdkitError, SvdkitWarning
from svdkit.settings import ClipSettings, LoadSettings

FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 130

CLIP = tuple(ClipSettings.__dataclass_fields__)
LOAD = tuple(name for name in LoadSettings.__dataclass_fields__ if name != "preset")
_PANELS = {
    "The photo": ("fit", "focus", "border"),
    "The clip": ("preset", *CLIP),
    "The model": LOAD,
    "File": ("output", "overwrite", "keep_photo", "scale"),
}
_SHORT = {"output": ["-o"], "output_folder": ["-o"], "results": ["-o"], "parameter": ["-p"], "quiet": ["-q"]}
_RANGES = {"cell_minutes": (0.01, None), "port": (0, 65535), "price": (0, None), "workers": (1, None)}

Command = TypeVar("Command", bound=Callable[..., object])


class RefusedInput(SvdkitError):  # noqa: N818 - it marks another error, which has the name
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
        """Take ``--debug`` from anywhere, and papermill's ``-p NAME VALUE``: two words, of which it makes one."""
        if args[:1] == ["--version"]:
            typer.echo(f"svdkit {__version__}")
            raise typer.Exit
        found = ["--debug"] if "--debug" in args else []
        words = iter(word for word in args if word != "--debug")
        for word in words:
            found.append(word)
            if word in {"-p", "--parameter"} and (name := next(words, "")):
                found.append(name if "=" in name else f"{name}={next(words, '')}")
        return list(super().parse_args(ctx, found))

    def invoke(self, ctx: Any) -> Any:
        """Run the command; raise ``typer.Exit`` with the right code when it fails."""
        with warnings.catch_warnings():
            warnings.simplefilter("always", SvdkitWarning)
            warnings.showwarning = _note  # type: ignore[assignment]  # Python gives all its arguments by position
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
    if isinstance(error, SvdkitError):
        return f"error: {error}"
    doctor = "; svdkit doctor tells whether the installation is sound" if isinstance(error, ImportError) else ""
    text = f"{type(error).__name__}: {error}".rstrip(":. ")
    return f"error: {text}. svdkit did not expect this{doctor}; the same command with --debug shows where it happened"


def _note(message: Warning | str, category: type[Warning], *where: Any) -> None:
    """Print svdkit's warnings as notes, without the line of code that Python adds; all others as Python does."""
    usual = warnings.formatwarning(message, category, *where[:2])
    typer.echo(f"note: {message}" if issubclass(category, SvdkitWarning) else usual, err=True)


def takes(*settings: str) -> Callable[[Command], Command]:
    """Make arguments and options of a command's parameters, with the help of its docstring, and of settings.

    The settings come in its ``**given``: written out, they would be a second list of their names, types and defaults,
    to be kept right by hand. typer reads a command's ``__signature__``, as any tool does.
    """

    def decorate(command: Command) -> Command:
        command.__doc__, _, about = inspect.cleandoc(command.__doc__ or "").partition("\n\nArgs:\n")
        texts = dict(re.findall(r"(?m)^ {4}(\w+): (.+(?:\n {8}.+)*)", about))
        own = inspect.signature(command, eval_str=True).parameters.values()
        parameters = [_explained(each, texts.get(each.name, "")) for each in own if each.kind is not each.VAR_KEYWORD]
        parameters += map(_setting, settings)
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # functions take any name
        return command

    return decorate


def _setting(name: str) -> inspect.Parameter:
    """Make an option of a setting. Not given, it is None (a switch: False), so that a preset's value can stand."""
    kind = ClipSettings if name in CLIP else LoadSettings
    given = inspect.signature(kind.__init__, eval_str=True).parameters[name]
    text = kind.__dataclass_fields__[name].metadata["help"]
    text = text[0].upper() + text[1:]
    if given.annotation is bool:
        return _explained(given, text)
    if name == "seed":
        given, text = given.replace(annotation=list[int]), f"{text} Several give variations: --seed 1 --seed 2."
    elif given.default is not None:
        text += f" Default: {'svd-xt where a GPU can hold it, else micro' if name == 'model' else given.default}."
    return _explained(given.replace(default=None, annotation=given.annotation | None), text)


def _explained(given: inspect.Parameter, text: str) -> inspect.Parameter:
    """Add what typer needs: the help and, for an option, its flags (a switch that is off has no --no-) and panel."""
    name, text = given.name, " ".join(text.split())
    if given.kind is not given.KEYWORD_ONLY:
        return given.replace(annotation=Annotated[given.annotation, typer.Argument(help=text)])
    flags = [f"--{name.replace('_', '-')}", *_SHORT.get(name, ())]
    if given.default is True or given.annotation == bool | None:
        flags[0] += f"/--no{flags[0][1:]}"
    panel = next((title for title, names in _PANELS.items() if name in names), None)
    low, high = _RANGES.get(name, (None, None))
    is_open = given.default is None  # which old typers show
    option = typer.Option(*flags, help=text, rich_help_panel=panel, min=low, max=high, show_default=not is_open)
    return given.replace(annotation=Annotated[given.annotation, option])


def chosen(given: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Pick from a command's ``**given`` the settings of one kind that the user gave."""
    return {name: given[name] for name in names if given.get(name) is not None}
