"""Which settings and which parts of the environment differ between records, and what all have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svdkit.bench.record import Record

# Differences of no weight for a clip's time and memory: where it ran from, main memory, what shows, fetches or writes
# clips, and svdkit itself (it is what is compared).
_UNRELATED = {"notebook", "ram_bytes", "svdkit"}
_UNRELATED |= {"ipywidgets", "mediapy", "huggingface-hub", "torchvision", "imageio-ffmpeg", "ffmpeg"}
# What of an environment is hardware; all else are versions.
HARDWARE = ("gpu", "gpu_count", "vram_bytes", "cpu", "cpu_count")


def settings_of(record: Record) -> dict[str, Any]:
    """Everything that decides what a run does, flat, without the model's name and weights.

    Example:
        >>> settings_of(record)["num_inference_steps"]  # doctest: +SKIP
        25
    """
    load = {name: value for name, value in record.load.items() if name not in ("model", "weights")}
    return {
        **load,
        **record.clip,
        "image": record.image.get("source") or (record.image.get("sha256") or "")[:12] or None,
    }


def environment_of(record: Record) -> dict[str, Any]:
    """The hardware and the versions that a run's time and memory depend on."""
    return {name: value for name, value in record.environment.items() if name not in _UNRELATED}


def varying(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names whose values are not the same in all rows, in the order of first appearance; a missing name is None.

    Example:
        >>> varying([{"steps": 4, "fps": 7}, {"steps": 8, "fps": 7, "gpu": "T4"}])
        ['steps', 'gpu']
    """
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if any(row.get(name) != rows[0].get(name) for row in rows)]


def common(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all rows have in common, without what is None.

    Example:
        >>> common([{"steps": 4, "fps": 7}, {"steps": 8, "fps": 7}])
        {'fps': 7}
    """
    differ = set(varying(rows))
    return {name: value for name, value in rows[0].items() if value is not None and name not in differ} if rows else {}


def completed(records: Sequence[Record]) -> list[Record]:
    """Fill in what failed runs left open (None, "auto"): they never came to resolve it. All that ran have one value.

    Example:
        >>> completed([ran, failed])[1].clip["height"]  # doctest: +SKIP
        576
    """
    done = [record for record in records if record.status == "ok"]
    load, clip = common([record.load for record in done]), common([record.clip for record in done])

    def complete(record: Record) -> Record:
        parts = ((record.load, load), (record.clip, clip))
        known = [{**own, **all_, **{k: v for k, v in own.items() if v not in (None, "auto")}} for own, all_ in parts]
        return replace(record, load=known[0], clip=known[1])

    return [record if record.status == "ok" else complete(record) for record in records]


def hardware(environment: Mapping[str, Any]) -> str:
    """The processors in words: the GPU if there is one, else the CPU.

    Example:
        >>> hardware({"gpu": "NVIDIA H200", "cpu": "AMD EPYC", "cpu_count": 2})
        'NVIDIA H200'
    """
    cores = environment.get("cpu_count")
    return str(environment.get("gpu") or f"{environment.get('cpu') or 'CPU'}{f', {cores} cores' if cores else ''}")
