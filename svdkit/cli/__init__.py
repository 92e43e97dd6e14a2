"""The ``svdkit`` command: animate, replay, forecast, sweep, compare, notebook, models, doctor, demo.

The files import each other in one direction: ``options`` (what a command takes, and how it ends) → ``make`` (clips),
``look`` (models, this machine, forecast, comparison), ``notebook`` (and demo) and ``web`` (the page) → ``app`` (the
command itself). Torch and the rest of svdkit are imported when a command runs: ``svdkit --help`` answers at once.
"""

from __future__ import annotations

from svdkit.cli.app import app, main

__all__ = ["app", "main"]
