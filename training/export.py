"""Write the trained networks where the package finds them, in the hub's layout, half precision, safetensors only."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers import StableVideoDiffusionPipeline

from training.networks import build_feature_extractor, build_scheduler

LARGEST_BYTES = 20_000_000


def export(networks: dict[str, torch.nn.Module], *, folder: Path, record: dict[str, Any]) -> None:
    """Save the pipeline of unet, vae and image_encoder to `folder`, beside a `training.json` that says how it was made.

    Raises:
        ValueError: the folder is over 20 MB.
    """
    pipe = StableVideoDiffusionPipeline(
        **networks, scheduler=build_scheduler(), feature_extractor=build_feature_extractor()
    )
    pipe.to(torch.float16).save_pretrained(folder, variant="fp16", safe_serialization=True)
    for file in (folder / "model_index.json", folder / "feature_extractor" / "preprocessor_config.json"):
        # Transformers 5 without torchvision saves its stand-in's name, which older versions do not know.
        file.write_text(
            file.read_text(encoding="utf-8").replace("CLIPImageProcessorPil", "CLIPImageProcessor"), encoding="utf-8"
        )
    versions = {
        name: version(name) for name in ("torch", "diffusers", "transformers", "numpy", "opencv-python-headless")
    }
    parameters = {name: sum(value.numel() for value in network.parameters()) for name, network in networks.items()}
    made = {"made_at": datetime.now(timezone.utc).isoformat(timespec="seconds"), "parameters": parameters}
    text = json.dumps({**record, **made, "versions": versions}, indent=1)
    (folder / "training.json").write_text(text + "\n", encoding="utf-8")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if size > LARGEST_BYTES:
        raise ValueError(f"{folder} holds {size:,} bytes; at most {LARGEST_BYTES:,} may ship with the package")
