"""Where counts are kept: shipped with svdkit, and in the user's cache.

Counting needs torch and seconds; reading a count needs neither. Counts depend on the architecture only, not on weights.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from svdkit.bench.forecast.call import Call, Count, Network, NotCountedError
from svdkit.errors import ModelError
from svdkit.given import user_path
from svdkit.models import ModelInfo, random_pipeline
from svdkit.models.folder import STEMS
from svdkit.models.random_weights import _configurations
from svdkit.pipeline.memory import shipped_counts

_VERSION = 1  # of what is counted and how: older caches are counted anew


def cache_folder() -> Path:
    """Where svdkit keeps counts and calibrations: ``SVDKIT_CACHE``, else the platform's cache folder."""
    if chosen := os.environ.get("SVDKIT_CACHE"):
        return user_path(chosen)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "svdkit"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "svdkit"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "svdkit"


def counts_for(info: ModelInfo, calls: Iterable[Call], *, count: bool = True) -> Network:
    """Look counts up; those that nobody has counted yet are counted now (seconds, needs torch) and cached.

    Raises:
        ModelError: The configuration of the model is not on this machine.
        NotCountedError: Something would have to be counted, and ``count`` is False.

    Example:
        >>> call = Call("unet", 25, 576, 1024, batch=2)
        >>> counts_for(find_model("svd-xt"), [call]).counts[call.key].flops / 1e12
        159.89...
    """
    name = fingerprint(info)
    known = known_counts(name)
    missing = {call.key: call for call in calls if known is None or call.key not in known.counts}
    if known is not None and not missing:
        return known
    if not count:
        raise NotCountedError(f"{len(missing)} calls of {info.name} were never counted; forecast it with count=True")
    pipe, network = build(info)
    network.counts.update(known.counts if known else {})
    network.counts.update(count_all(pipe, missing.values()))
    _write_cache(name, network)
    return network


def known_counts(name: str) -> Network | None:
    """Read what is known of an architecture, by its fingerprint, without counting; None if nothing is."""
    shipped = shipped_counts()["networks"]
    found = [values for values in shipped.values() if values["fingerprint"] == name]
    found += [cached for cached in [_read_cache(name)] if cached]
    if not found:
        return None
    counts = {key: Count(*numbers) for values in found for key, numbers in values["counts"].items()}
    return Network(found[0]["parameters"], found[0]["downscale"], counts)


def fingerprint(info: ModelInfo) -> str:
    """Name an architecture: 12 hexadecimal digits of its configuration, frames a clip left out."""
    try:
        configurations = _configurations(info)
    except ModelError:
        raise ModelError(
            f"the configuration of {info.name!r} is not on this machine, and a forecast downloads nothing: use a "
            "catalogue name such as 'svd-xt', or download the model and give its folder"
        ) from None
    parts = {network: _essential(configurations[network]) for network in STEMS}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def build(info: ModelInfo) -> tuple[Any, Network]:
    """Build the pipeline without storage (seconds), and describe its networks, with no counts yet."""
    import torch

    pipe = random_pipeline(info, dtype=torch.float16, device="meta")
    sizes = {name: sum(part.numel() for part in getattr(pipe, name).parameters()) for name in STEMS}
    return pipe, Network(sizes, int(pipe.vae_scale_factor), {})


def count_all(pipe: Any, calls: Iterable[Call]) -> dict[str, Count]:
    """Count calls on a pipeline without storage, which changes precision on the way."""
    import torch

    from svdkit.bench.forecast.meter import measure_call

    counts = {}
    for call in calls:
        for name in STEMS:
            torch.nn.Module.to(getattr(pipe, name), torch.float32 if call.element_bytes == 4 else torch.float16)
        counts[call.key] = measure_call(pipe, call)
    return counts


def _essential(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what costs nothing: frames a clip, versions, names."""
    return {key: value for key, value in configuration.items() if key != "num_frames" and not key.startswith("_")}


def _cache_file(name: str) -> Path:
    versions = "-".join(importlib.metadata.version(package) for package in ("diffusers", "torch"))
    return cache_folder() / f"counts-{_VERSION}-{name}-{versions}.json"


def _read_cache(name: str) -> dict[str, Any] | None:
    """Read a cache file; a broken one is as good as none."""
    try:
        values = json.loads(_cache_file(name).read_text(encoding="utf-8"))
        whole = all(len(numbers) == len(Count._fields) for numbers in values["counts"].values())
        return values if whole and values["parameters"].keys() == STEMS.keys() and values["downscale"] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write_cache(name: str, network: Network) -> None:
    """Write a cache file whole or not at all; a folder that cannot be written means counting again next time."""
    file = _cache_file(name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=file.parent, suffix=".json")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(network._asdict(), stream)
        Path(draft).replace(file)
    except OSError:
        return
