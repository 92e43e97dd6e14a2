"""The catalogue of models: what each one is, was trained on, weighs, and where its weights live."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
from pathlib import Path
from typing import Any

from svdkit.errors import IncompleteModelError, ModelError
from svdkit.given import user_path
from svdkit.models.folder import CONFIGURATIONS, PICKLE_SUFFIXES, read_json, single_file_error

_MICRO_FOLDER = Path(__file__).parents[1] / "micro"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What svdkit knows about a model before loading it.

    Attributes:
        name: catalogue name; for others the hub id or the folder's name (never its path), with "./" before one that is
            in the catalogue.
        title: one line for people.
        num_frames: frames a clip it was trained on.
        height: pixels it was trained on.
        width: pixels it was trained on.
        num_inference_steps: steps when the user leaves them open.
        max_guidance_scale: guidance at the last frame when the user leaves it open.
        hub_id: "owner/name" on the Hugging Face hub, None if it is not there.
        modelscope_id: "owner/name" on ModelScope, None if it is not there.
        gated: the hub asks for an accepted licence and a token.
        licence: of the weights.
        weights_bytes: bytes of the half-precision weights, which is what a download takes; 0 if unknown.
        trained: what it was trained on, one sentence.
        folder: local folder in diffusers layout, None if the weights are downloaded.

    Example:
        >>> find_model("svd-xt").num_frames
        25
    """

    name: str
    title: str
    num_frames: int = 25
    height: int = 576
    width: int = 1024
    num_inference_steps: int = 25
    max_guidance_scale: float = 3.0
    hub_id: str | None = None
    modelscope_id: str | None = None
    gated: bool = False
    licence: str = "see the model's own page"
    weights_bytes: int = 0
    trained: str = "see the model's own page"
    folder: Path | None = None

    @property
    def clip_defaults(self) -> dict[str, Any]:
        """What `ClipSettings.resolve` fills in for this model."""
        names = ("height", "width", "num_frames", "num_inference_steps", "max_guidance_scale")
        return {name: getattr(self, name) for name in names}

    @property
    def kind(self) -> str:
        """`"micro"` for the built-in model, which must never be called SVD; `"svd"` for every other."""
        return "micro" if self.name == "micro" else "svd"


def catalogue() -> tuple[ModelInfo, ...]:
    """The models svdkit knows by name, smallest first.

    Example:
        >>> [model.name for model in catalogue()]
        ['micro', 'svd', 'svd-xt', 'svd-xt-1.1']
    """
    entries = json.loads(Path(__file__).with_name("catalogue.json").read_text(encoding="utf-8"))
    folders = {"micro": _MICRO_FOLDER}
    return tuple(ModelInfo(**entry, folder=folders.get(entry["name"])) for entry in entries)


def find_model(name: str | Path | ModelInfo) -> ModelInfo:
    """Look a model up by catalogue name, hub id or folder; reads at most a few small files and no network.

    Args:
        name: a name of `catalogue()`; a folder in diffusers layout; or a hub id "owner/name". A catalogue name wins
            over a folder of the same name: write "./svd" for the folder. What was found before is given back.

    Returns:
        The catalogue's entry, also for its hub and ModelScope ids; otherwise what the folder's configuration says. A
        folder is described, not judged: `check_folder` does that.

    Raises:
        ModelError: nothing of that name; the message has the close matches.
        UnsafeWeightsError: the name is a pickle checkpoint file.

    Example:
        >>> find_model("stabilityai/stable-video-diffusion-img2vid").name
        'svd'
    """
    if isinstance(name, ModelInfo):
        return name
    text = str(name)
    for model in catalogue():
        if text.lower() in [known.lower() for known in (model.name, model.hub_id, model.modelscope_id) if known]:
            return model
    path = user_path(text)
    if os.path.isdir(path):  # noqa: PTH112 - false, and no error, also for a name of 300 letters
        return describe_folder(path)
    if os.path.isfile(path) or path.suffix in {".safetensors", *PICKLE_SUFFIXES}:  # noqa: PTH113
        raise single_file_error(path.name)
    if _HUB_ID.fullmatch(text):
        return ModelInfo(name=text, title=f"{text}, from the hub", hub_id=text)
    names = [model.name for model in catalogue()]
    close = difflib.get_close_matches(text.lower(), names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    allowed = f"give one of {', '.join(names)}, an existing folder, or a hub id 'owner/name'"
    raise ModelError(f"model {text!r:.80} is not known{hint}: {allowed}")


def describe_folder(folder: Path, *, base: ModelInfo | None = None) -> ModelInfo:
    """Add frames, size and weight bytes, read from a model's folder, to what is known of it."""
    name = folder.resolve().name
    if name.lower() in {model.name for model in catalogue()}:
        name = f"./{name}"  # else a record of it would name, and `replay` would load, the catalogue's model
    info = dataclasses.replace(base or ModelInfo(name=name, title=f"{name}, a local folder"), folder=folder)
    try:
        unet, vae = (read_json(folder, CONFIGURATIONS[network]) for network in ("unet", "vae"))
    except IncompleteModelError:
        return info  # loading it will say all that is missing
    found = {"num_frames": unet.get("num_frames", info.num_frames), "weights_bytes": _safetensors_bytes(folder)}
    # The latent size that the UNet was trained on. SVD's own file says 96 (768 pixels square, from its image ancestor)
    # though it was trained on 576 x 1024.
    cells = unet.get("sample_size") or 96
    if cells != 96:
        downscale = 2 ** (len(vae.get("block_out_channels", [0] * 4)) - 1)
        rows, columns = cells if isinstance(cells, list) else (cells, cells)
        found |= {"height": rows * downscale, "width": columns * downscale}
    return dataclasses.replace(info, **found)


def _safetensors_bytes(folder: Path) -> int:
    files = [*folder.glob("*/*.fp16*.safetensors")] or folder.glob("*/*.safetensors")
    return sum(file.stat().st_size for file in files)
