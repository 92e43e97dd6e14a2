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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, TextIO, TypeVar, get_type_hints

import typer
from typer.core import TyperGroup

from svdkit.errors import Cancelled, ImageError, SettingsError, SvdkitError, SvdkitWarning
from svdkit.settings import ClipSettings, LoadSettings  # noqa: TC001 - typer reads annotations at run time

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
                typer.echo(describe(error), err=True)
                raise typer.Exit(exit_code(error)) from error


def exit_code(error: BaseException) -> int:
    """Choose the exit code of an error: 1, 2 or 130, see above."""
    if isinstance(error, KeyboardInterrupt | Cancelled):
        return INTERRUPTED
    return WRONG_INPUT if isinstance(error, RefusedInput | ImageError | SettingsError) else FAILED


def describe(error: BaseException) -> str:
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

CLIP_HELP = {
    "height": "Pixels, a multiple of 8; the model's own when left out.",
    "width": "Pixels, a multiple of 8; the model's own when left out.",
    "num_frames": "Length of the clip; the model's own when left out.",
    "num_inference_steps": "Denoising steps: more take longer and show more detail.",
    "motion_bucket_id": "Amount of motion, usually 1 to 255.",
    "fps": "Frames a second that the motion is made for, 1 to 60.",
    "playback_fps": "Frames a second at which the file plays; as --fps when left out.",
    "seed": "Where chance begins: the same seed gives the same clip. Several give variations: --seed 1 --seed 2.",
    "noise_aug_strength": "Noise on the photo: more lets go of it.",
    "min_guidance_scale": "Guidance at the first frame.",
    "max_guidance_scale": "Guidance at the last frame.",
    "decode_chunk_size": "Frames decoded at once: fewer take less memory.",
}
LOAD_HELP = {
    "model": "micro, svd, svd-xt, svd-xt-1.1, a folder in diffusers layout, or a hub id.",
    "weights": "trained, or random: full size without a download; real time and memory, no picture.",
    "dtype": "fp32, fp16, bf16, fp8 or auto.",
    "memory": "resident, offload, group-offload, sequential or auto.",
    "device": "cpu, cuda, cuda:1, mps or auto.",
    "forward_chunking": "Feed-forward layers in slices: less memory.",
    "two_pass_guidance": "Guidance as two passes: less memory.",
    "compile": "Compile first: minutes once, then faster.",
    "source": "Where weights come from: hub, modelscope, folder or auto.",
    "revision": "Branch, tag or commit of the model.",
    "random_seed": "Seed of random weights.",
}


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
    kind: type[ClipSettings | LoadSettings], words: Mapping[str, str], *, panel: str
) -> list[inspect.Parameter]:
    """Make an option of each setting in ``words``: ``motion_bucket_id`` becomes ``--motion-bucket-id``.

    An option that is not given is None (a switch: False), so that a preset's value can stand; the seed is a list.
    """
    types = get_type_hints(kind)
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    return [_option(name, types[name], defaults[name], text=text, panel=panel) for name, text in words.items()]


def chosen(given: Mapping[str, Any], words: Mapping[str, str]) -> dict[str, Any]:
    """Pick from a command's ``**given`` the settings of one kind that the user gave."""
    return {name: given[name] for name in words if given.get(name) is not None}


def _option(name: str, kind: Any, default: Any, *, text: str, panel: str) -> inspect.Parameter:
    is_switch = kind is bool
    if name == "seed":
        kind, text = list[int] | None, f"{text} Drawn and recorded when left out."
    elif default is not None and not is_switch:
        text += f" Default: {default}."
    option = typer.Option(f"--{name.replace('_', '-')}", help=text, rich_help_panel=panel)
    kind = kind if is_switch or name == "seed" else kind | None
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=False if is_switch else None,
        annotation=Annotated[kind, option],
    )
