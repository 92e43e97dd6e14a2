"""Any catalogue model at full size with random weights: same time, same memory, no download, and no picture.

Networks are built without storage (on the meta device, about a second) and each tensor is then filled once, in its
final precision, where it will be used. The drawing is seeded, but a GPU's generator draws other numbers than a CPU's.

Activations stay of ordinary size (the tests measure them over all steps): infinities or zeros would make timings
dishonest, for some kernels take short cuts and a GPU draws less power, so clocks higher, on idle bits.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdkit.errors import ModelError
from svdkit.models.folder import CONFIGURATIONS, STEMS, quiet, read_json
from svdkit.models.info import ModelInfo, find_model

if TYPE_CHECKING:
    import torch
    from diffusers import StableVideoDiffusionPipeline

# SVD's configurations, where they differ from the defaults of their classes (the UNet's are SVD's own). Source: the
# JSON files in stabilityai/stable-video-diffusion-img2vid-xt; svd and svd-xt-1.1 differ in `num_frames` only.
_SVD_FILE = Path(__file__).with_name("svd.json")
_SEED_STRIDE = 0x9E3779B97F4A7C15  # far apart, so that seed 1 of one network is not seed 0 of the next


def random_pipeline(
    model: str | Path | ModelInfo, *, dtype: torch.dtype, device: str, seed: int = 0
) -> StableVideoDiffusionPipeline:
    """Build a model with random weights on a device.

    Args:
        model: catalogue name, folder (its JSON files are enough), or what `find_model` returned.
        dtype: of the weights, a floating-point torch dtype.
        device: "cpu", "cuda", "cuda:1" or "mps"; "meta" for shapes without storage.
        seed: of the weights; same seed, device kind and dtype give the same weights.

    Returns:
        diffusers' pipeline in eval mode. Its clips are noise: never judge looks by them.

    Raises:
        ModelError: an unknown model, or one whose configuration is not on this machine.

    Example:
        >>> pipe = random_pipeline("svd-xt", dtype=torch.float16, device="cuda")
        >>> pipe.unet.num_parameters()
        1524623082
    """
    import torch

    pipe = _empty_pipeline(configurations(find_model(model)))
    for offset, name in enumerate(STEMS):
        network = getattr(pipe, name).eval()
        # One generator a network, so that each has the same weights whichever are built beside it.
        generator = torch.Generator("cpu" if device == "meta" else device)
        generator.manual_seed((seed + offset * _SEED_STRIDE) % 2**63)
        for module in network.modules():
            for key, parameter in list(module.named_parameters(recurse=False)):
                filled = torch.empty(parameter.shape, dtype=dtype, device=device)
                if device != "meta":
                    _fill(filled, name=key, generator=generator)
                # Costs are counted with gradients wanted, as weights that are read want them: torch folds otherwise.
                setattr(module, key, torch.nn.Parameter(filled, requires_grad=device == "meta"))
        network.to(device)  # its buffers
    return pipe


def configurations(info: ModelInfo) -> dict[str, dict[str, Any]]:
    """The configuration of every component, from the model's folder or from what is known of SVD."""
    if info.folder is not None:
        return {component: read_json(info.folder, file) for component, file in CONFIGURATIONS.items()}
    if not info.weights_bytes:
        raise ModelError(
            f"weights='random' needs the configuration of {info.name!r}, which svdkit does not have: use a catalogue "
            "name, for example 'svd-xt', or a folder with the model's JSON files"
        )
    known: dict[str, dict[str, Any]] = json.loads(_SVD_FILE.read_text(encoding="utf-8"))
    known["unet"]["num_frames"] = info.num_frames
    return known


def _empty_pipeline(configuration: dict[str, dict[str, Any]]) -> StableVideoDiffusionPipeline:
    """The pipeline with networks on the meta device; their few buffers are real, as no seed could restore those."""
    import torch

    # Constructors draw from the global generator even where nothing is kept.
    with quiet(), torch.random.fork_rng(devices=[]):
        import diffusers
        from accelerate import init_empty_weights
        from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

        with init_empty_weights(include_buffers=False):
            unet = diffusers.UNetSpatioTemporalConditionModel.from_config(configuration["unet"])
            vae = diffusers.AutoencoderKLTemporalDecoder.from_config(configuration["vae"])
            image_encoder = CLIPVisionModelWithProjection(CLIPVisionConfig.from_dict(configuration["image_encoder"]))
        return diffusers.StableVideoDiffusionPipeline(
            vae=vae,
            image_encoder=image_encoder,
            unet=unet,
            scheduler=diffusers.EulerDiscreteScheduler.from_config(configuration["scheduler"]),
            feature_extractor=CLIPImageProcessor.from_dict(configuration["feature_extractor"]),
        )


def _fill(tensor: torch.Tensor, *, name: str, generator: torch.Generator) -> None:
    """Choose a parameter's values so that every layer passes on what it gets at about the same size.

    Matrices and kernels are uniform with variance 1 / fan-in, which keeps a unit-variance input at unit variance
    (LeCun et al., Efficient BackProp, 1998). Norms start at 1 and biases at 0, so each residual branch adds a variance
    below 1 to the trunk: it grows with the square root of depth, not exponentially.
    """
    if tensor.ndim >= 2:
        bound = math.sqrt(3 / tensor[0].numel())
        tensor.uniform_(-bound, bound, generator=generator)
    elif name == "class_embedding":
        tensor.uniform_(-1, 1, generator=generator)
    else:
        # AlphaBlender's own start is 0.5: sigmoid(0.5) of the spatial, the rest of the temporal branch.
        tensor.fill_({"bias": 0, "mix_factor": 0.5}.get(name, 1))
