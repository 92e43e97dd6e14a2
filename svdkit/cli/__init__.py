"""The ``svdkit`` command: animate, replay, forecast, sweep, compare, notebook, models, doctor, demo.

The files import each other in one direction: ``outcome`` (how a command ends) and ``options`` (what it takes) →
``make`` (clips), ``look`` (models and this machine), ``forecast``, ``sweep``, ``compare``, ``notebook`` and ``demo`` →
``app`` (the command itself). Torch and the rest of
svdkit are imported when a command runs, so that ``svdkit --help`` answers at once.
"""

from __future__ import annotations

from svdkit.cli.app import app, main

__all__ = ["app", "main"]
