"""What a sweep is: photos × fixed settings × axes, all checked before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from svdkit.errors import SettingsError, shown
from svdkit.settings import ClipSettings, LoadSettings
from svdkit.sweep.estimate import Estimate, estimate_sweep
from svdkit.sweep.grid import expand
from svdkit.sweep.jobs import AXES, STAGES, Job, make_jobs
from svdkit.units import format_count


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A checked sweep, in the order in which it runs; its text says how large it is and what it will take.

    Attributes:
        jobs: Every distinct run; those that share a load, an encode, a denoise stand together.
        asked: Plain JSON of what was asked, without paths.
        results: The results folder, or None.
        hourly_price: Of a worker's machine, in ``currency``.
        currency: ISO 4217 code.
        estimate: Time and money, or None when it was not asked for.

    Example:
        >>> print(plan_sweep("rocket", axes={"motion_bucket_id": [30, 127], "decode_chunk_size": [2, 7]},
        ...     forecast=False))
        4 runs: 1 photo × motion_bucket_id (2) × decode_chunk_size (2)
        shared work: 1 load, 1 encode, 2 denoises, 4 decodes; one by one it would be 4 of each
    """

    jobs: tuple[Job, ...]
    asked: dict[str, Any]
    results: str | None = None
    hourly_price: float | None = None
    currency: str = "USD"
    estimate: Estimate | None = None

    @cached_property
    def distinct(self) -> dict[str, int]:
        """How often each of "load", "encode", "denoise", "decode" has to run."""
        return {stage: len({job.keys[stage] for job in self.jobs}) for stage in ("load", *STAGES)}

    def __str__(self) -> str:
        axes = "".join(f" × {name} ({len(values)})" for name, values in self.asked["axes"].items())
        how = "" if self.asked["mode"] == "grid" else f", {self.asked['mode']}"
        size = f"{format_count(len(self.jobs), 'run')}: {format_count(len(self.asked['photos']), 'photo')}{axes}{how}"
        shared = ", ".join(format_count(count, stage) for stage, count in self.distinct.items())
        lines = [size, f"shared work: {shared}; one by one it would be {len(self.jobs):,} of each"]
        return "\n".join([*lines, *([str(self.estimate)] if self.estimate else [])])


def plan_sweep(
    photos: Any = (),
    *,
    clip: ClipSettings | Mapping[str, Any] | None = None,
    load: LoadSettings | Mapping[str, Any] | None = None,
    axes: Mapping[str, Sequence[Any]] | None = None,
    mode: str = "grid",
    count: int | None = None,
    seed: int = 0,
    exclude: Sequence[Mapping[str, Any]] = (),
    fit_mode: str = "crop",
    focus: tuple[float, float] = (0.5, 0.5),
    border: str = "blur",
    results: str | Path | None = None,
    forecast: bool = True,
    gpu: str | None = None,
    records: Any = None,
    hourly_price: float | None = None,
    currency: str = "USD",
) -> Plan:
    """Check a sweep and put it in order; nothing is loaded and nothing is written.

    Args:
        photos: One photo or a list, each as ``svdkit.read_image`` takes it; or give the axis ``"photo"``.
        clip: Settings that all runs share. A seed left open is 0, so that starting again continues.
        load: What is loaded for all runs.
        axes: Name -> values to try: fields of ``ClipSettings`` (``seed`` among them) and ``LoadSettings``, or "photo".
        mode: ``"grid"``: every combination; ``"list"``: the first values together, then the second ones, for each
            photo; ``"random"``: ``count`` different points of the grid.
        count: Points to draw, 1 or more; for ``"random"`` only.
        seed: Of the drawing of ``"random"``.
        exclude: Rules such as ``{"dtype": "fp32", "num_frames": [14, 25]}``: a run that fits all of one is left out.
        fit_mode: As in ``svdkit.generate``; also ``focus`` and ``border``.
        focus: See ``fit_mode``.
        border: See ``fit_mode``.
        results: Results folder, kept for ``run_sweep``.
        forecast: Whether to forecast time, memory and money; it imports torch and takes seconds.
        gpu: The GPU to forecast for; None for this machine's own.
        records: Own measurements to calibrate the forecast from, as ``svdkit.forecast`` takes them.
        hourly_price: Of a worker's machine, in ``currency``, for the cost.
        currency: ISO 4217 code.

    Returns:
        The plan; print it, then give it to ``run_sweep``.

    Raises:
        SettingsError: Unknown names, bad values, photos that cannot be read, combinations that cannot work or do not
            fit the GPU, or no run at all; all problems are listed at once.

    Example:
        >>> plan = plan_sweep(["rocket", "cat"], axes={"seed": [1, 2, 3]}, forecast=False)
        >>> len(plan.jobs), plan.distinct["encode"]
        (6, 6)
    """
    problems: list[str] = []
    if not isinstance(axes, Mapping | None):
        problems.append(f"axes is {shown(axes)}: it must be names and lists of values, such as {{'seed': [1, 2]}}")
    price: Any = hourly_price  # files are not typed
    if price is not None and not (isinstance(price, int | float) and 0 <= price < math.inf):
        problems.append(f"hourly_price={shown(hourly_price)}: must be a number from 0, in {currency} an hour")
        hourly_price = None
    axes = dict(axes) if isinstance(axes, Mapping) else {}
    photos = _listed(photos)
    if "photo" in axes:
        problems += ["photos are given twice, as photos and as an axis; give one"] if photos else []
        photos = _listed(axes.pop("photo"))
    names = _names(photos)
    problems += [] if photos else ["there is no photo; give a file, or a sample such as 'rocket'"]
    points, wrong = expand(
        {"photo": names, **axes}, mode=mode, count=count, seed=seed, exclude=exclude or (), known=AXES
    )
    fixed = {"load": _fixed(LoadSettings, load, problems), "clip": _fixed(ClipSettings, clip, problems)}
    how = {"mode": fit_mode, "focus": focus, "border": border}
    jobs, misfits = make_jobs(points, photos=dict(zip(names, photos, strict=True)), fixed=fixed, how=how)
    problems += [*wrong, *misfits]
    estimate = None
    if forecast and not problems:
        estimate, problems = estimate_sweep(
            jobs, gpu=gpu, hourly_price=hourly_price, currency=currency, records=records
        )
    if problems:
        raise SettingsError.of("sweep", problems)
    asked: dict[str, Any] = {"photos": names, "axes": _public(axes), "mode": mode, "count": count, "seed": seed}
    asked |= {"exclude": [_public(rule) for rule in exclude or ()], "clip": fixed["clip"].to_dict()}
    asked |= {"load": _public(fixed["load"].to_dict()), "fit_mode": fit_mode, "focus": list(focus), "border": border}
    money: dict[str, Any] = {"hourly_price": hourly_price, "currency": currency}
    place = None if results is None else str(results)
    return Plan(jobs=tuple(jobs), asked=asked, results=place, **money, estimate=estimate)


def read_sweep(path: str | Path) -> dict[str, Any]:
    """Read a sweep file, YAML or JSON: the arguments of ``plan_sweep`` by name.

    Raises:
        SettingsError: It cannot be read, or has names that are not arguments.

    Example:
        >>> plan = plan_sweep(**read_sweep("motion.yaml"))  # doctest: +SKIP
    """
    import yaml

    path, allowed = Path(path), tuple(name for name in plan_sweep.__annotations__ if name != "return")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML too
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise SettingsError(f"{path.name} cannot be read as a sweep: {reason}; write YAML or JSON") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path.name} is no sweep: it needs names and values, such as photos: [rocket]")
    unknown = [f"{str(name)[:60]} is not a name here" for name in values if name not in allowed]
    if unknown:
        raise SettingsError.of(path.name, [*unknown, f"the names are {', '.join(allowed)}"])
    return values


def _fixed(kind: Any, given: Any, problems: list[str]) -> Any:
    """Build the fixed settings; defaults stand in for wrong ones, so that all other problems are found too."""
    try:
        return given if isinstance(given, kind) else kind.from_dict(given or {})
    except SettingsError as error:
        problems += error.problems
        return kind()


def _listed(photos: Any) -> list[Any]:
    is_one = isinstance(photos, str | bytes | Path) or hasattr(photos, "size") or hasattr(photos, "read")
    return [photos] if is_one or not isinstance(photos, Iterable) else list(photos)


def _names(photos: Sequence[Any]) -> list[str]:
    """Name photos in axes, rules and records: by the file's name, never its folder; of equal names the later count."""
    names: list[str] = []
    for position, photo in enumerate(photos, start=1):
        known = photo if isinstance(photo, str | Path) else getattr(photo, "filename", None)
        if isinstance(known, str) and "://" in known:  # what follows the path may be a signature
            known = unquote(urlsplit(known).path)
        name = Path(known or f"photo {position}").name
        names.append(f"{name} ({position})" if name in names else name)
    return names


def _public(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain JSON, with paths of models shortened to their last name: a results folder is made to be shared."""

    def plain(value: Any) -> Any:
        if isinstance(value, str | Path) and Path(value).expanduser().is_dir():
            return Path(value).name
        return value.item() if hasattr(value, "item") else value  # numpy's and pandas' numbers

    return {
        name: [plain(each) for each in value] if isinstance(value, list | tuple | range) else plain(value)
        for name, value in values.items()
    }
