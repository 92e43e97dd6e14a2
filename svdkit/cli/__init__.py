"""The ``svdkit`` command: animate, replay, forecast, sweep, compare, notebook, models, doctor, demo, app.

The files import each other in one direction: ``options`` (what a command takes, and how it ends) → ``make`` (clips),
``look`` (models, this machine, forecast, comparison), ``notebook`` (and demo) and ``web`` (the page) → the command
itself, here. Torch and the rest of svdkit are imported when a command runs: ``svdkit --help`` answers at once.
"""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from svdkit import __version__
from svdkit.cli import look, make, notebook, web
from svdkit.cli.options import Commands

app = typer.Typer(
    cls=Commands,
    name="svdkit",
    help="From a photo to a clip with Stable Video Diffusion.",
    epilog="Begin with: svdkit demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # a traceback is shown with --debug only, and plainly
    context_settings={"help_option_names": ["-h", "--help"]},
)
_MAKING = (make.animate, make.replay, look.forecast, make.sweep, look.compare, notebook.notebook)
for _each in (*_MAKING, look.models, look.doctor, notebook.demo):
    app.command()(_each)
app.command("app")(web.web)


def _print_version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it with the value of the option
    if wanted:
        typer.echo(f"svdkit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; with every command.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """From a photo to a clip with Stable Video Diffusion."""
    del debug, version  # read elsewhere: the one by Commands, the other by its callback


def main() -> None:
    """Run the ``svdkit`` command with the arguments of this process, and end the process.

    Raises:
        SystemExit: always; ``options`` says with which codes.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a pipe on Windows takes few characters: print "?" for the others
            stream.reconfigure(errors="replace")
    app()
