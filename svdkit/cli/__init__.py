"""The ``svdkit`` command: animate, replay, forecast, sweep, compare, notebook, models, doctor, demo, app.

The files import each other in one direction: ``options`` (what a command takes, and how it ends) → ``make`` (clips),
``look`` (models, this machine, forecast, comparison), ``notebook`` (and demo) and ``web`` (the page) → the command
itself, here. Torch and the rest of svdkit are imported when a command runs: ``svdkit --help`` answers at once.
"""

from __future__ import annotations

import io
import sys

import typer

from svdkit.cli import look, make, notebook, web
from svdkit.cli.options import Commands, takes

app = typer.Typer(
    cls=Commands,
    name="svdkit",
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


@app.callback()
@takes()
def _root(*, debug: bool = False, version: bool = False) -> None:
    """From a photo to a clip with Stable Video Diffusion.

    Args:
        debug: Show the traceback of an error; with every command.
        version: Show the version.
    """
    del debug, version  # read by Commands


def main() -> None:
    """Run the ``svdkit`` command with the arguments of this process, and end the process.

    Raises:
        SystemExit: always; ``options`` says with which codes.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a pipe on Windows takes few characters: print "?" for the others
            stream.reconfigure(errors="replace")
    app()
