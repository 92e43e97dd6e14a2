"""Records for tests, as profiles of svd-xt on a GPU would leave them; the numbers are made up."""

from __future__ import annotations

from typing import Any

import numpy as np

from svdkit.bench.record import Record, run_id

CPU = {"python": "3.11.7", "cpu": "AMD EPYC", "cpu_count": 2, "ram_bytes": 25_276_514_304, "gpu": None, "gpu_count": 0}
GPU = CPU | {"gpu": "NVIDIA H200", "gpu_count": 1, "vram_bytes": 150_000_000_000, "driver": "570.10", "cuda": "12.8"}
VERSIONS = {"platform": "Linux x86_64", "notebook": "jupyter", "torch": "2.13.0", "diffusers": "0.42.1"}
LOAD = {
    "model": "svd-xt",
    "weights": "random",
    "dtype": "fp16",
    "memory": "resident",
    "compile": False,
    "device": "cuda",
}
CLIP = {"height": 576, "width": 1024, "num_frames": 25, "num_inference_steps": 25, "decode_chunk_size": 5, "seed": 7}
STAGES = {"image_encoder": 0.02, "vae_encode": 0.05, "unet": 0.2, "scheduler": 0.004, "vae_decode": 0.3}


def samples(*, steps: int, repeats: int, factor: float = 1.0, seed: int = 0, spread: float = 0.01) -> dict[str, Any]:
    """Return seconds by phase and stage; the UNet's grow with the steps, the decoder's with the factor too."""
    draw = np.random.default_rng(seed)
    per_clip = STAGES | {"unet": STAGES["unet"] * steps, "scheduler": STAGES["scheduler"] * steps}

    def several(count: int) -> dict[str, list[float]]:
        stages = {
            name: [round(float(s), 6) for s in seconds * factor * (1 + spread * draw.standard_normal(count))]
            for name, seconds in per_clip.items()
        }
        total = [round(sum(parts) * 1.002, 6) for parts in zip(*stages.values(), strict=True)]
        gap = [round(t - sum(p), 6) for t, p in zip(total, zip(*stages.values(), strict=True), strict=True)]
        return stages | {"unattributed": gap, "total": total}

    return {"cold": several(1) | {"load": [12.5]}, "warm_up": several(2), "timed": several(repeats)}


def record(
    *, steps: int = 25, chunk: int = 5, dtype: str = "fp16", repeats: int = 7, factor: float = 1.0, **changes: Any
) -> Record:
    """Return a record that ended well; ``spread`` and ``sample_seed`` shape its seconds, all else replaces fields."""
    load, clip = LOAD | {"dtype": dtype}, CLIP | {"num_inference_steps": steps, "decode_chunk_size": chunk}
    model = {"name": "svd-xt", "revision": None, "weights": "random"}
    spread, seed = changes.pop("spread", 0.01), changes.pop("sample_seed", steps + chunk)
    allocated = (8 if dtype == "fp16" else 14) * 2**30 + chunk * 1_300_000_000
    values: dict[str, Any] = {
        "id": run_id(load=load, clip=clip, image_sha256="ab" * 32, model=model, code_version="0.1.0"),
        "status": "ok",
        "load": load,
        "clip": clip,
        "image": {"source": "rocket", "sha256": "ab" * 32},
        "model": model,
        "environment": GPU | VERSIONS,
        "samples": samples(steps=steps, repeats=repeats, factor=factor, spread=spread, seed=seed),
        "order": list(range(repeats)),
        "memory": {
            "total": {
                "peak_allocated_bytes": allocated,
                "peak_reserved_bytes": allocated + 400_000_000,
                "process_bytes": allocated + 900_000_000,
            }
        },
        "started_at": "2026-11-24T06:00:00+00:00",
        "command": "svdkit profile svd-xt --weights random",
    }
    return Record(**values | changes)


def out_of_memory(**changes: Any) -> Record:
    """Return a record of a run for which the memory did not suffice."""
    error = {"type": "OutOfMemoryError", "message": "9.5 GiB more than the card's 139.7 GiB are needed"}
    return record(**{"status": "oom", "error": error, "samples": {}, "order": [], "memory": {}} | changes)
