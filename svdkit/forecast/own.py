"""Calibrate this machine: two denoising steps and one decode chunk, kept for the forecasts to come."""

from __future__ import annotations

import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from svdkit.bench.record import Record, read_records, write_record
from svdkit.errors import SvdkitError, SvdkitWarning
from svdkit.given import user_path
from svdkit.settings import ClipSettings

_FILE = "calibration.jsonl"


def calibrate(pipe: Any, *, photo: Any = "rocket", save: bool = True) -> Record:
    """Measure two denoising steps and one decode chunk of a loaded pipeline, so that forecasts fit this machine.

    Each is run once before, unmeasured: the first of anything is slow.

    Args:
        pipe: What ``svdkit.load`` returned.
        photo: As ``svdkit.generate`` takes it; its content does not matter.
        save: Whether to keep the record in the user's cache (``SVDKIT_CACHE``), where ``forecast`` looks for it.

    Returns:
        The record, "composed": the decoding of a clip is one measured chunk times the number of chunks.

    Raises:
        SettingsError: The pipeline is not one of ``svdkit.load``.

    Example:
        >>> calibrate(svdkit.load("micro")).samples["timed"].keys()
        dict_keys(['encode', 'denoise', 'decode'])
    """
    from svdkit.bench.protocol import describe, load_report, make_record
    from svdkit.image import fit

    report = load_report(pipe)
    frame = fit(photo, height=report.model.height, width=report.model.width)
    settings, seconds = _measure(pipe, frame)
    record = make_record(
        describe(pipe, frame, settings),
        method="composed",
        samples={"timed": {stage: [value] for stage, value in seconds.items()}},
        command=f"svdkit.calibrate(svdkit.load({report.model.name!r}))",
    )
    if save:
        try:
            write_record(cache_folder() / _FILE, record)
        except OSError as error:
            text = f"the calibration is not kept ({error}); set SVDKIT_CACHE to a folder that can be written"
            warnings.warn(text, SvdkitWarning, stacklevel=2)
    return record


def cache_folder() -> Path:
    """Where svdkit keeps calibrations: ``SVDKIT_CACHE``, else the platform's cache folder."""
    if chosen := os.environ.get("SVDKIT_CACHE"):
        return user_path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "svdkit"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "svdkit"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "svdkit"


def own_calibrations() -> list[Record]:
    """Read what ``calibrate`` has kept; a broken file counts as none."""
    file = cache_folder() / _FILE
    try:
        return read_records(file) if file.is_file() else []
    except (SvdkitError, OSError):
        return []


def _measure(pipe: Any, frame: Any) -> tuple[ClipSettings, dict[str, float]]:
    """Encode, take two steps and decode one chunk, each warm; the resolved settings, and seconds of such a clip."""
    import torch

    from svdkit.generate import denoise, encode
    from svdkit.generate.loop import decode_chunk, execution_device, synchronize

    device = execution_device(pipe)
    ends: list[float] = []

    def note(*_: object) -> None:
        synchronize(device)
        ends.append(time.perf_counter())

    three = ClipSettings(num_inference_steps=3, seed=0)
    encode(pipe, frame, three)
    encoded = encode(pipe, frame, three)
    denoised = denoise(pipe, encoded, on_step=note)
    settings = denoised.settings.replace(num_inference_steps=2)
    try:
        with torch.no_grad():
            for _ in range(2):
                note()
                decode_chunk(pipe, denoised.latents[:, : settings.decode_chunk_size])
            note()
    finally:
        pipe.maybe_free_model_hooks()
    seconds = {"encode": encoded.seconds, "denoise": ends[2] - ends[0]}
    return settings, {**seconds, "decode": (ends[-1] - ends[-2]) * settings.num_frames / settings.decode_chunk_size}
