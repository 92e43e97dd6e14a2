"""The layout of a model folder or repository: which files it has, what they are called, which of them svdkit loads."""

from __future__ import annotations

import hashlib
from pathlib import Path

from svdkit.errors import IncompleteModelError
from svdkit.models.files import read_json

# Component -> the classes allowed in model_index.json. Anything else would run code or sample something else:
# other schedulers run on SVD's network and are silently wrong.
COMPONENTS: dict[str, tuple[str, ...]] = {
    "feature_extractor": ("CLIPImageProcessor", "CLIPImageProcessorPil", "CLIPImageProcessorFast"),
    "image_encoder": ("CLIPVisionModelWithProjection",),
    "scheduler": ("EulerDiscreteScheduler",),
    "unet": ("UNetSpatioTemporalConditionModel",),
    "vae": ("AutoencoderKLTemporalDecoder",),
}
# Network -> stem of its weight files: transformers says "model", diffusers "diffusion_pytorch_model".
STEMS = {"image_encoder": "model", "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
CONFIGURATIONS = (
    "feature_extractor/preprocessor_config.json",
    "scheduler/scheduler_config.json",
    "image_encoder/config.json",
    "unet/config.json",
    "vae/config.json",
)
_HASHED_BYTES = 1 << 20
AGAIN = "download it again (a download continues where it stopped), or copy the whole folder"


def allow_patterns(variant: str | None) -> list[str]:
    """Patterns of the files to download from the hub or ModelScope.

    Args:
        variant: "fp16", or None for full precision.

    Returns:
        Patterns that match configurations and the weights of that variant, whole or in shards, and no other file:
        not the other precision, no pickle, none of the single-file checkpoints.

    Example:
        >>> allow_patterns("fp16")[-1]
        'vae/diffusion_pytorch_model.safetensors.index.fp16.json'
    """
    infix = f".{variant}" if variant else ""
    names = (
        f"{network}/{name}"
        for network, stem in STEMS.items()
        for name in (
            f"{stem}{infix}.safetensors",
            f"{stem}{infix}-*-of-*.safetensors",
            f"{stem}.safetensors.index{infix}.json",
        )
    )
    return ["model_index.json", *CONFIGURATIONS, *names]


def weight_files(folder: Path, component: str, *, variant: str | None) -> list[Path]:
    """The weight files of one network that its index, or its name, says must be there; they may be missing.

    Args:
        folder: the model's folder.
        component: "image_encoder", "unet" or "vae".
        variant: "fp16" or None.

    Returns:
        One file; or the shards, if there is an index and no single file.

    Raises:
        IncompleteModelError: the index cannot be read.

    Example:
        >>> [file.name for file in weight_files(folder, "vae", variant="fp16")]
        ['diffusion_pytorch_model.fp16.safetensors']
    """
    infix = f".{variant}" if variant else ""
    single = folder / component / f"{STEMS[component]}{infix}.safetensors"
    index = folder / component / f"{STEMS[component]}.safetensors.index{infix}.json"
    if single.is_file() or not index.is_file():
        return [single]
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise IncompleteModelError(f"{component}/{index.name} names no weight files: {AGAIN}")
    # Path.name: an index must not be able to point out of the folder.
    return [folder / component / Path(str(shard)).name for shard in sorted(set(shards.values()))]


def half_precision(folder: Path) -> tuple[str, ...]:
    """The networks whose fp16 variant is in the folder; `from_pretrained` reads the others in full precision.

    Example:
        >>> half_precision(folder)
        ('image_encoder', 'unet', 'vae')
    """
    return tuple(
        component
        for component in STEMS
        if all(file.is_file() for file in weight_files(folder, component, variant="fp16"))
    )


def fingerprint(folder: Path) -> str:
    """Say which weights these are: a hash of the weight files' names, sizes, first and last MiB.

    It tells two trainings apart in a fraction of a second even for 4 GiB; it is no proof against forgery.

    Returns:
        12 hexadecimal digits.

    Example:
        >>> fingerprint(folder)
        '4f0c2d9e81ab'
    """
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*/*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.parent.name}/{file.name} {size}\n".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_HASHED_BYTES))
            stream.seek(max(size - _HASHED_BYTES, 0))
            digest.update(stream.read(_HASHED_BYTES))
    return digest.hexdigest()[:12]
