"""What a sweep will take, before it starts: seconds and money over its distinct stages, and whether it fits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from svdkit.errors import PipelineError, SvdkitError
from svdkit.models.costs import NotCountedError
from svdkit.units import format_bytes, format_money, format_seconds

if TYPE_CHECKING:
    from svdkit.sweep.jobs import Job

# Which stages of a forecast are run again when a job's key of that name is new.
_PARTS = {
    "load": ("load",),
    "encode": ("image_encoder", "vae_encode", "encode"),
    "denoise": ("unet", "scheduler", "denoise"),
    "decode": ("vae_decode", "decode", "postprocess"),
}
_EACH = ("export", "unattributed")
# What changes neither time nor memory; one forecast serves all its values.
_SAME = {"seed": 0, "motion_bucket_id": 127, "fps": 7, "playback_fps": 7.0, "noise_aug_strength": 0.02}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The forecast of a whole sweep on one worker.

    Attributes:
        seconds: Of all distinct stages together; None where there is nothing to calibrate from.
        alone_seconds: If every run did all of its stages itself.
        cost: Money in ``currency``, or None.
        currency: ISO 4217 code.
        gpu: Name of the GPU, or of what computes instead.
        source: Where the calibration comes from.
        each: What is forecast for each run by itself, as its record keeps it; empty where a run has no forecast.
    """

    seconds: float | None
    alone_seconds: float | None
    cost: float | None
    currency: str
    gpu: str
    source: str
    each: tuple[Mapping[str, Any], ...] = ()

    def __str__(self) -> str:
        if self.seconds is None or self.alone_seconds is None:
            return f"forecast: no time for {self.gpu}: {self.source}"
        money = "" if self.cost is None else f", {format_money(self.cost, self.currency)}"
        alone = f"(one by one about {format_seconds(self.alone_seconds)})"
        return f"forecast: about {format_seconds(self.seconds)}{money} on one {self.gpu} {alone}; {self.source}"


def estimate_sweep(
    jobs: Sequence[Job], *, gpu: str | None, hourly_price: float | None, currency: str, records: Any = None
) -> tuple[Estimate, list[str]]:
    """Forecast every distinct kind of run, and add up; also a sentence for each kind that cannot work.

    Example:
        >>> found, problems = estimate_sweep(plan.jobs, gpu=None, hourly_price=None, currency="USD")  # doctest: +SKIP
    """
    from svdkit.forecast import forecast

    known: dict[object, Any] = {}
    problems: list[str] = []
    seen: set[object] = set()
    once, alone = 0.0, 0.0
    found: Any = None
    each: list[Mapping[str, Any]] = []
    for job in jobs:
        kind = (job.load, job.clip.replace(**_SAME))
        if kind not in known:
            how: dict[str, Any] = {"gpu": gpu, "clip": kind[1], "load": job.load, "records": records}
            known[kind] = _try(lambda how=how: forecast(job.load.model, **how), problems)  # noqa: B023
            problems += _misfit(known[kind], job)
        found = known[kind] or found
        each.append(known[kind].brief() if known[kind] else {})
        if known[kind] is None:
            once = alone = math.nan
            continue
        seconds = known[kind].stage_seconds
        alone += sum(seconds.values()) if known[kind].seconds is not None else math.nan
        once += _new_seconds(job, seconds, seen) if known[kind].seconds is not None else math.nan
    problems = list(dict.fromkeys(problems))
    if found is None:
        why = "networks that are neither SVD's nor micro's have no forecast"
        none = dict.fromkeys(("seconds", "alone_seconds", "cost"))
        return Estimate(**none, currency=currency, gpu=gpu or "this machine", source=why, each=tuple(each)), problems
    usable = math.isfinite(once)
    cost = once / 3600 * hourly_price if usable and hourly_price is not None else None
    total, by_itself = (once, alone) if usable else (None, None)
    told: dict[str, Any] = {"cost": cost, "currency": currency, "gpu": str(found.gpu), "source": str(found.source)}
    return Estimate(seconds=total, alone_seconds=by_itself, each=tuple(each), **told), problems


def _new_seconds(job: Job, seconds: Mapping[str, float], seen: set[object]) -> float:
    """Add up the stages of a job that no job before it has done."""
    total = sum(seconds.get(part, 0.0) for part in _EACH)
    for stage, parts in _PARTS.items():
        if job.keys[stage] not in seen:
            seen.add(job.keys[stage])
            total += sum(seconds.get(part, 0.0) for part in parts)
    return total


def _try(action: Any, problems: list[str]) -> Any:
    try:
        return action()
    except NotCountedError:
        return None  # such a model can run all the same
    except (SvdkitError, PipelineError) as error:
        problems += getattr(error, "problems", (str(error),))
        return None


def _misfit(found: Any, job: Job) -> list[str]:
    if found is None or found.fits is not False:
        return []
    clip, load = job.clip, job.load
    what = f"height={clip.height}, width={clip.width}, num_frames={clip.num_frames}, dtype={load.dtype!r}, "
    what += f"memory={load.memory!r}, decode_chunk_size={clip.decode_chunk_size}"
    has = f" of {format_bytes(found.gpu_bytes)}" if found.gpu_bytes else ""
    needs = f"needs {format_bytes(found.memory_bytes)}, more than {found.gpu}{has} has free"
    return [f"{what}: {needs}; {found.advice[0]}; or exclude it"]
