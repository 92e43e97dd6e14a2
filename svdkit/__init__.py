"""A Jupyter notebook kit for Stable Video Diffusion: from a photo to a clip, measured and repeatable.

Example:
    >>> import svdkit
    >>> svdkit.sample_photos()
    ('rocket', 'coffee', 'cat')

Importing does nothing: a name is fetched from its module when it is first used (PEP 562), so that
``import svdkit`` needs neither torch nor any of the libraries behind it.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public name -> module, in the order of the data: image, settings, pipeline, clip, record, sweep.
_HOME: dict[str, str] = {
    "sample_photos": "image",
    "sample_photo": "image",
    "read_image": "image",
    "preview_fit": "image",
    "fit": "image",
    "restore": "image",
    "size_advice": "image",
    "Frame": "image",
    "LoadSettings": "settings",
    "ClipSettings": "settings",
    "Conditioning": "settings",
    "clip_preset": "settings",
    "presets": "settings",
    "catalogue": "models",
    "find_model": "models",
    "ModelInfo": "models",
    "load": "pipeline",
    "LoadReport": "pipeline",
    "apply_technique": "pipeline",
    "undo_technique": "pipeline",
    "encode": "generate",
    "denoise": "generate",
    "decode": "generate",
    "generate": "generate",
    "generate_batch": "generate",
    "replay": "generate",
    "Clip": "clip",
    "Provenance": "clip",
    "forecast": "forecast",
    "Forecast": "forecast",
    "calibrate": "forecast",
    "measure": "bench.measure",
    "profile": "bench.profile",
    "measure_quality": "bench.quality",
    "Record": "bench.record",
    "read_records": "bench.record",
    "write_record": "bench.record",
    "table": "bench.table",
    "compare": "bench.compare",
    "sweep": "sweep",
    "write_report": "sweep.report",
    "sync_player": "sweep.player",
    "panel": "ui.panel",
    "doctor": "environment",
    "SvdkitError": "errors",
    "SvdkitWarning": "errors",
}

if TYPE_CHECKING:
    from svdkit.bench.compare import compare as compare
    from svdkit.bench.measure import measure as measure
    from svdkit.bench.profile import profile as profile
    from svdkit.bench.quality import measure_quality as measure_quality
    from svdkit.bench.record import Record as Record
    from svdkit.bench.record import read_records as read_records
    from svdkit.bench.record import write_record as write_record
    from svdkit.bench.table import table as table
    from svdkit.clip import Clip as Clip
    from svdkit.clip import Provenance as Provenance
    from svdkit.environment import doctor as doctor
    from svdkit.errors import SvdkitError as SvdkitError
    from svdkit.errors import SvdkitWarning as SvdkitWarning
    from svdkit.forecast import Forecast as Forecast
    from svdkit.forecast import calibrate as calibrate
    from svdkit.forecast import forecast as forecast
    from svdkit.generate import decode as decode
    from svdkit.generate import denoise as denoise
    from svdkit.generate import encode as encode
    from svdkit.generate import generate as generate
    from svdkit.generate import generate_batch as generate_batch
    from svdkit.generate import replay as replay
    from svdkit.image import Frame as Frame
    from svdkit.image import fit as fit
    from svdkit.image import preview_fit as preview_fit
    from svdkit.image import read_image as read_image
    from svdkit.image import restore as restore
    from svdkit.image import sample_photo as sample_photo
    from svdkit.image import sample_photos as sample_photos
    from svdkit.image import size_advice as size_advice
    from svdkit.models import ModelInfo as ModelInfo
    from svdkit.models import catalogue as catalogue
    from svdkit.models import find_model as find_model
    from svdkit.pipeline import LoadReport as LoadReport
    from svdkit.pipeline import apply_technique as apply_technique
    from svdkit.pipeline import load as load
    from svdkit.pipeline import undo_technique as undo_technique
    from svdkit.settings import ClipSettings as ClipSettings
    from svdkit.settings import Conditioning as Conditioning
    from svdkit.settings import LoadSettings as LoadSettings
    from svdkit.settings import clip_preset as clip_preset
    from svdkit.settings import presets as presets
    from svdkit.sweep import sweep as sweep
    from svdkit.sweep.player import sync_player as sync_player
    from svdkit.sweep.report import write_report as write_report
    from svdkit.ui.panel import panel as panel

__all__ = ["__version__", *_HOME]  # noqa: PLE0604 - the names are the keys above


def __getattr__(name: str) -> Any:
    """Fetch a public name from its module at first use, and keep it."""
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'svdkit' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"svdkit.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List what tab completion should offer: the public names and the submodules already imported."""
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """The package module; keeps ``svdkit.generate`` the function.

    Python binds every imported submodule to its package, so whoever imports svdkit/generate.py first would
    turn the function ``svdkit.generate`` into a module. ``from svdkit.generate import encode`` is not affected.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if _HOME.get(name) == name and isinstance(value, ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
