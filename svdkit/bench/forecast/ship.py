"""Count the catalogue's usual settings once, so that forecasting them needs neither torch nor seconds.

Run ``python -m svdkit.bench.forecast.ship`` after a change of what is counted; in minutes it writes
``svdkit/pipeline/counts.json``.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from svdkit.bench.forecast.call import Call
from svdkit.bench.forecast.calls import build, count_all, fingerprint
from svdkit.models import find_model
from svdkit.pipeline.memory import COUNTS_FILE

SIZES = ((576, 1024), (768, 768), (576, 768), (512, 512), (448, 768), (384, 640), (320, 576), (320, 512), (256, 448))


def usual_calls(name: str) -> Iterator[Call]:
    """List what a model is usually asked for: its own frames and size, common buckets, every switch.

    Example:
        >>> next(usual_calls("svd")).key
        'image_encoder 2B'
    """
    info = find_model(name)
    micro = info.kind == "micro"
    sizes = ((info.height, info.width),) if micro else SIZES
    for element in (2, 4) if micro else (2,):
        yield Call("image_encoder", 1, *sizes[0], element_bytes=element)
        for height, width in sizes:
            size: dict[str, Any] = {"height": height, "width": width, "element_bytes": element}
            yield Call("vae_encode", 1, height, width, element_bytes=4)  # diffusers raises fp16 to it
            yield Call("vae_encode", 1, height, width)
            for batch, chunked in itertools.product((2, 1), (False, True)):
                yield Call("unet", info.num_frames, batch=batch, chunked=chunked, **size)
            for frames in (*range(1, 9), info.num_frames):
                yield Call("vae_decode", frames, **size)


def main() -> None:
    """Count, and write the file."""
    networks = {}
    for title, names in {"svd": ("svd", "svd-xt"), "micro": ("micro",)}.items():
        info = find_model(names[0])
        pipe, network = build(info)
        calls = {call.key: call for name in names for call in usual_calls(name)}
        counts = count_all(pipe, calls.values())
        networks[title] = {"fingerprint": fingerprint(info), **network._asdict(), "counts": counts}
    made_with = {package: importlib.metadata.version(package) for package in ("torch", "diffusers", "transformers")}
    command = "python -m svdkit.bench.forecast.ship"
    text = json.dumps({"command": command, "made_with": made_with, "networks": networks})
    # One count a line, so that a change can be read.
    Path(COUNTS_FILE).write_text(text.replace('": [', '":\n [').replace("], ", "],\n") + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
