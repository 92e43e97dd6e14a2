"""What a good model folder is: diffusers layout, the right classes, complete safetensors and nothing to unpickle."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

from svdkit.errors import IncompleteModelError, ModelError, UnsafeWeightsError, VariantError
from svdkit.models.files import PICKLE_SUFFIXES, read_json, single_file_error
from svdkit.models.layout import AGAIN, COMPONENTS, CONFIGURATIONS, STEMS, half_precision, weight_files
from svdkit.units import format_bytes

if TYPE_CHECKING:
    from pathlib import Path


def check_folder(folder: Path, *, variant: str | None = "fp16") -> None:
    """Check that a folder holds a complete SVD model that is safe to load; reads a few KiB and needs no torch.

    Args:
        folder: with model_index.json, feature_extractor/, image_encoder/, scheduler/, unet/ and vae/.
        variant: "fp16" for `*.fp16.safetensors`, None for `*.safetensors` without a variant in the name, "any" for
            whichever each network has.

    Raises:
        ModelError: not a folder, a single-file checkpoint, or another kind of model.
        IncompleteModelError: files are missing, cut short, or git-lfs pointers.
        VariantError: the variant is missing while the other precision is there.
        UnsafeWeightsError: only pickle checkpoints are there.

    Example:
        >>> check_folder(Path("~/models/stable-video-diffusion-img2vid-xt").expanduser())
    """
    if not folder.is_dir():
        raise ModelError(f"no model folder {str(folder)!r}: give an existing folder, or a name that svdkit downloads")
    if not (folder / "model_index.json").is_file():
        raise _without_index(folder)
    _check_classes(read_json(folder / "model_index.json"))
    missing = [name for name in CONFIGURATIONS if not (folder / name).is_file()]
    if missing:
        raise IncompleteModelError(f"the model folder {folder.name!r} lacks {', '.join(missing)}: {AGAIN}")
    for name in CONFIGURATIONS:
        read_json(folder / name)
    for component in STEMS:
        _check_network(folder, component=component, variant=variant)


def _without_index(folder: Path) -> ModelError:
    files = sorted(file.name for file in folder.iterdir() if file.is_file())
    for suffix in (".safetensors", *PICKLE_SUFFIXES):
        for name in files:
            if name.endswith(suffix):
                return single_file_error(name)
    return IncompleteModelError(f"the folder {folder.name!r} has no model_index.json, so it is no model yet: {AGAIN}")


def _check_classes(index: dict[str, object]) -> None:
    found = index.get("_class_name")
    if found != "StableVideoDiffusionPipeline":
        raise ModelError(
            f"model_index.json is of {found!r}; svdkit runs 'StableVideoDiffusionPipeline' only. Use a catalogue name, "
            "for example 'svd-xt', or a folder of an SVD model"
        )
    for component, allowed in COMPONENTS.items():
        entry = index.get(component)
        named = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        library = entry[0] if isinstance(entry, list) and entry else None
        if named not in allowed or library not in {"diffusers", "transformers"}:
            raise ModelError(
                f"model_index.json names {entry!r} as {component}; svdkit loads only {allowed[0]} there, and never "
                "code that comes with a model. Edit model_index.json if the files really are of that class"
            )


def _check_network(folder: Path, *, component: str, variant: str | None) -> None:
    if variant == "any":
        variant = "fp16" if component in half_precision(folder) else None
    files = weight_files(folder, component, variant=variant)
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise _missing(folder, component=component, variant=variant, missing=missing)
    for file in files:
        problem = _damage(file)
        if problem:
            raise IncompleteModelError(f"{component}/{file.name} {problem}: {AGAIN}")


def _missing(folder: Path, *, component: str, variant: str | None, missing: list[str]) -> ModelError:
    """The most telling error for weights that are not there."""
    other = None if variant else "fp16"
    others = weight_files(folder, component, variant=other)
    if len(missing) == 1 and "-of-" not in missing[0]:
        if all(file.is_file() for file in others):
            asked = f"the {variant} variant" if variant else "full-precision weights"
            return VariantError(
                f"{component}/ has no {missing[0]} ({asked}), only {others[0].name}: load with variant={other!r}, or "
                "fetch the missing file from the model's page"
            )
        pickles = sorted(f.name for f in (folder / component).iterdir() if f.suffix in PICKLE_SUFFIXES)
        if pickles:
            return UnsafeWeightsError(
                f"{component}/ has only {', '.join(pickles)}, pickle files that can run any code when opened; svdkit "
                f"reads only .safetensors. Fetch {missing[0]}, or ask the author for safetensors"
            )
    some = ", ".join(f"{component}/{name}" for name in missing[:3]) + (" …" if len(missing) > 3 else "")
    return IncompleteModelError(f"the model folder {folder.name!r} lacks {some}: {AGAIN}")


def _damage(file: Path) -> str | None:
    """What is wrong with a safetensors file, by its header alone; None for a good one.

    Layout: 8 bytes little-endian length, a JSON header, then the tensors; https://huggingface.co/docs/safetensors
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        if start == b"version ":
            return "is a git-lfs pointer, not the weights (run `git lfs pull` in the clone)"
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > size - 8:
            return f"is only {format_bytes(size)}, cut short or no safetensors file"
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError):
            return "has no readable safetensors header"
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        return f"is {format_bytes(size)} of {format_bytes(expected)}, half-downloaded"
    return None
