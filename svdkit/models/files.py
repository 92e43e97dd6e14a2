"""Single files of a model: reading a configuration, and refusing checkpoints that svdkit does not open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from svdkit.errors import IncompleteModelError, ModelError, UnsafeWeightsError

# A pickle can run any code when it is opened, so these never are: https://huggingface.co/docs/hub/security-pickle
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


def read_json(path: Path) -> dict[str, Any]:
    """Read a configuration file of a model folder.

    Raises:
        IncompleteModelError: it is missing, not JSON, or not a JSON object.

    Example:
        >>> read_json(folder / "unet" / "config.json")["num_frames"]
        25
    """
    cure = "download the model again, or copy the whole folder"
    shown = "/".join(path.parts[-2:])
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise IncompleteModelError(f"{shown} is missing: {cure}") from None
    except (OSError, ValueError) as error:
        raise IncompleteModelError(f"{shown} cannot be read as JSON ({error}): {cure}") from error
    if not isinstance(content, dict):
        raise IncompleteModelError(f"{shown} holds no JSON object: {cure}")
    return content


def single_file_error(filename: str) -> ModelError:
    """The error for a checkpoint that is one file; a pickle gets its own."""
    if Path(filename).suffix in PICKLE_SUFFIXES:
        return UnsafeWeightsError(
            f"{filename} is a pickle checkpoint, which can run any code when opened; svdkit reads only .safetensors in "
            "diffusers layout. Use the model's hub id, for example 'svd-xt', or a folder with model_index.json"
        )
    return ModelError(
        f"{filename} is a single-file checkpoint; svdkit reads folders in diffusers layout (model_index.json, unet/, "
        "vae/, image_encoder/, scheduler/, feature_extractor/). Use a catalogue name, for example 'svd-xt', which "
        "downloads 4.2 GiB of exactly these files"
    )
