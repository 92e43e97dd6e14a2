"""A model's folder in diffusers' layout: what is in it, whether it is whole, and what it is."""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from svdkit.errors import IncompleteModelError, ModelError, UnsafeWeightsError, VariantError
from svdkit.units import format_bytes


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars and notices of diffusers and transformers, then put their settings back.

    Import their classes inside too: transformers writes a notice for each image processor it imports where torchvision
    is not installed.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    with warnings.catch_warnings(), contextlib.ExitStack() as undo:
        # `torch_dtype` is deprecated, but diffusers before the change silently ignores its replacement, `dtype`.
        warnings.filterwarnings("ignore", message=".*torch_dtype.*", category=FutureWarning)
        # Where HF_HUB_DISABLE_PROGRESS_BARS is set the user has decided already.
        warnings.filterwarnings("ignore", message="Cannot (en|dis)able progress bars", category=UserWarning)
        for logging in (diffusers_logging, transformers_logging):
            undo.callback(logging.set_verbosity, logging.get_verbosity())
            if logging.is_progress_bar_enabled():
                undo.callback(logging.enable_progress_bar)
            logging.set_verbosity_error()
            logging.disable_progress_bar()
        yield


# Component -> the classes allowed in model_index.json. Anything else would run code or sample something else:
# other schedulers run on SVD's network and are silently wrong.
_COMPONENTS = {
    "feature_extractor": ("CLIPImageProcessor", "CLIPImageProcessorPil", "CLIPImageProcessorFast"),
    "image_encoder": ("CLIPVisionModelWithProjection",),
    "scheduler": ("EulerDiscreteScheduler",),
    "unet": ("UNetSpatioTemporalConditionModel",),
    "vae": ("AutoencoderKLTemporalDecoder",),
}
# Network -> stem of its weight files: transformers says "model", diffusers "diffusion_pytorch_model".
STEMS = {"image_encoder": "model", "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
CONFIGURATIONS = {
    "feature_extractor": "feature_extractor/preprocessor_config.json",
    "scheduler": "scheduler/scheduler_config.json",
    **{network: f"{network}/config.json" for network in STEMS},
}
INDEX = "model_index.json"
VARIANTS = ("fp16", None)
# A pickle can run any code when it is opened, so these never are: https://huggingface.co/docs/hub/security-pickle
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_AGAIN = "download it again (a download continues where it stopped), or copy the whole folder"
_SMALL_FILE = 64 << 20  # bytes; read whole in a tenth of a second


def check_folder(folder: Path, *, variant: str | None = "fp16") -> None:
    """Check that a folder holds a complete SVD model that is safe to load; reads a few KiB and needs no torch.

    Args:
        folder: in diffusers layout.
        variant: "fp16" for `*.fp16.safetensors`, None for `*.safetensors`, "any" for whichever each network has.

    Raises:
        ModelError: not a folder, a single-file checkpoint, or another kind of model; IncompleteModelError,
            VariantError and UnsafeWeightsError, its subclasses, say what is wrong with the files.

    Example:
        >>> check_folder(Path("~/models/stable-video-diffusion-img2vid-xt").expanduser())
    """
    if not folder.is_dir():
        raise ModelError(f"no model folder {str(folder)!r}: give an existing folder, or a name that svdkit downloads")
    for file in sorted(folder.iterdir()):
        if file.suffix in {".safetensors", *PICKLE_SUFFIXES} and not (folder / INDEX).is_file():
            raise single_file_error(file.name)
    _check_classes(read_json(folder, INDEX))
    for name in CONFIGURATIONS.values():
        read_json(folder, name)
    for network in STEMS:
        first = "fp16" if variant == "any" else variant
        chosen, missing = first, _missing(folder, network, first)
        if missing:
            chosen = pick_variant(
                variant,
                [kind for kind in VARIANTS if kind != first and not _missing(folder, network, kind)],
                names=sorted(file.name for file in (folder / network).iterdir()),
                where=f"{network}/",
                nothing=_lacks(folder, *missing),
            )
        for name in _weight_files(folder, network, chosen):
            _check_safetensors(folder, name)


def pick_variant(
    wanted: str | None, there: list[str | None], *, names: Iterable[str], where: str, nothing: str
) -> str | None:
    """Pick the weights to read, "fp16" or None, of those that are complete; else the error says what is there."""
    if wanted in there:
        return wanted
    if there and wanted == "any":
        return there[0]
    if there:
        raise VariantError(
            f"{where} has no {wanted or 'full-precision'} weights, only {there[0] or 'full-precision'}: load with "
            f"variant={there[0]!r}, or use another model"
        )
    if pickles := [name for name in names if name.endswith(PICKLE_SUFFIXES)]:
        raise UnsafeWeightsError(
            f"{where} has only pickle weights ({pickles[0]}), which can run any code when opened; svdkit reads only "
            ".safetensors: use another model, or ask its author for safetensors"
        )
    raise IncompleteModelError(nothing)


def fingerprint(folder: Path) -> str:
    """Which weights these are: 12 hex digits from the weight files' names, sizes and bytes; of large ones both ends.

    It tells two trainings apart in a fraction of a second even for 4 GiB; it is no proof against forgery.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*/*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.parent.name}/{file.name} {size}\n".encode())
        part = size if size <= _SMALL_FILE else 1 << 20
        with file.open("rb") as stream:
            for start in sorted({0, size - part}):
                stream.seek(start)
                digest.update(stream.read(part))
    return digest.hexdigest()[:12]


def allow_patterns(variant: str | None) -> list[str]:
    """Patterns of the files to download: configurations and the weights of one variant, whole or in shards."""
    infix = f".{variant}" if variant else ""
    weights = (f"{infix}.safetensors", f"{infix}-*-of-*.safetensors", f".safetensors.index{infix}.json")
    names = [f"{network}/{stem}{ending}" for network, stem in STEMS.items() for ending in weights]
    return [INDEX, *CONFIGURATIONS.values(), *names]


def _weight_files(folder: Path, network: str, variant: str | None) -> list[str]:
    """The weight files of a network that must be there by its index or its name; they may be missing."""
    infix = f".{variant}" if variant else ""
    whole = f"{network}/{STEMS[network]}{infix}.safetensors"
    index = f"{network}/{STEMS[network]}.safetensors.index{infix}.json"
    if (folder / whole).is_file() or not (folder / index).is_file():
        return [whole]
    shards = read_json(folder, index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise IncompleteModelError(f"{index} names no weight files: {_AGAIN}")
    # Path.name: an index must not be able to point out of the folder.
    return [f"{network}/{Path(str(shard)).name}" for shard in sorted(set(shards.values()))]


def _missing(folder: Path, network: str, variant: str | None) -> list[str]:
    return [name for name in _weight_files(folder, network, variant) if not (folder / name).is_file()]


def half_precision(folder: Path) -> list[str]:
    """The networks whose fp16 variant is in the folder; `from_pretrained` reads the others in full precision."""
    return [network for network in STEMS if not _missing(folder, network, "fp16")]


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Read a file of a model's folder, an IncompleteModelError if that cannot be."""
    try:
        return {**json.loads((folder / name).read_text(encoding="utf-8"))}  # a TypeError if it is no mapping
    except FileNotFoundError:
        raise IncompleteModelError(_lacks(folder, name)) from None
    except (OSError, ValueError, TypeError) as error:
        raise IncompleteModelError(f"{name} cannot be read as a JSON object ({error}): {_AGAIN}") from error


def _lacks(folder: Path, *names: str) -> str:
    return f"the model folder {folder.name!r} lacks {', '.join(names)}: {_AGAIN}"


def single_file_error(filename: str) -> ModelError:
    """The error for a checkpoint that is one file; a pickle gets its own."""
    if filename.endswith(PICKLE_SUFFIXES):
        return UnsafeWeightsError(
            f"{filename} is a pickle checkpoint, which can run any code when opened; svdkit reads only .safetensors in "
            "diffusers layout. Use the model's hub id, for example 'svd-xt', or a folder with model_index.json"
        )
    return ModelError(
        f"{filename} is a single-file checkpoint; svdkit reads folders in diffusers layout (model_index.json, unet/, "
        "vae/, image_encoder/, scheduler/, feature_extractor/). Use a catalogue name, for example 'svd-xt', which "
        "downloads 4.2 GiB of exactly these files"
    )


def _check_classes(index: dict[str, Any]) -> None:
    found = index.get("_class_name")
    if found != "StableVideoDiffusionPipeline":
        raise ModelError(
            f"model_index.json is of {found!r}; svdkit runs 'StableVideoDiffusionPipeline' only. Use a catalogue name, "
            "for example 'svd-xt', or a folder of an SVD model"
        )
    for component, allowed in _COMPONENTS.items():
        entry = index.get(component)
        if entry not in [[library, name] for library in ("diffusers", "transformers") for name in allowed]:
            raise ModelError(
                f"model_index.json names {entry!r} as {component}; svdkit loads only {allowed[0]} there, and never "
                "code that comes with a model. Edit model_index.json if the files really are of that class"
            )


def _check_safetensors(folder: Path, name: str) -> None:
    """Let safetensors compare the file's header with its size; no tensor is read."""
    from safetensors import SafetensorError, safe_open

    file = folder / name
    try:
        with safe_open(file, framework="np"):
            return
    except (SafetensorError, OSError, ValueError) as error:
        problem = f"is {format_bytes(file.stat().st_size)}, half-downloaded or no safetensors file ({error})"
        with file.open("rb") as stream:
            if stream.read(30).startswith(b"version https://git-lfs"):
                problem = "is a git-lfs pointer, not the weights (run `git lfs pull` in the clone)"
    raise IncompleteModelError(f"{name} {problem}: {_AGAIN}")
