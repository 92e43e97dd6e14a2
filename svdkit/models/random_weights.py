"""Any catalogue model at full size with random weights: same time, same memory, no download, and no picture.

Networks are built without storage (on the meta device, about a second) and each tensor is then filled once, in its
final precision, where it will be used. The drawing is seeded, but a GPU's generator draws other numbers than a CPU's.

Activations stay of ordinary size (the tests measure them over all steps): infinities or zeros would make timings
dishonest, for some kernels take short cuts and a GPU draws less power, so clocks higher, on idle bits.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdkit.errors import ModelError
from svdkit.models.folder import CONFIGURATIONS, STEMS, quiet, read_json
from svdkit.models.info import ModelInfo, find_model

if TYPE_CHECKING:
    import torch
    from diffusers import StableVideoDiffusionPipeline
    from torch import nn

# SVD's configurations, where they differ from the defaults of their classes (the UNet's are SVD's own). Source: the
# JSON files in stabilityai/stable-video-diffusion-img2vid-xt; svd and svd-xt-1.1 differ in `num_frames` only.
_SVD: dict[str, dict[str, Any]] = {
    "feature_extractor": {},
    "image_encoder": {  # CLIP ViT-H/14
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "projection_dim": 1024,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "patch_size": 14,
        "hidden_act": "gelu",
    },
    "scheduler": {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction",
        "use_karras_sigmas": True,
        "sigma_min": 0.002,
        "sigma_max": 700.0,
        "timestep_spacing": "leading",
        "timestep_type": "continuous",
        "steps_offset": 1,
    },
    "unet": {"sample_size": 96},
    "vae": {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "sample_size": 768,
    },
}
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

    info = model if isinstance(model, ModelInfo) else find_model(model)
    pipe = _empty_pipeline(configurations(info))
    for offset, name in enumerate(STEMS):
        network = getattr(pipe, name).eval()
        if device == "meta":
            with quiet():  # diffusers warns of the networks that stay in fp32: of none
                network.to(dtype)
            continue
        # One generator a network, so that each has the same weights whichever are built beside it.
        generator = torch.Generator(device).manual_seed((seed + offset * _SEED_STRIDE) % 2**63)
        _materialise(network, dtype=dtype, device=device, generator=generator)
    return pipe


def configurations(info: ModelInfo) -> dict[str, dict[str, Any]]:
    """The configuration of every component, from the model's folder or from what is known of SVD."""
    if info.folder is not None:
        return {component: read_json(info.folder / file) for component, file in CONFIGURATIONS.items()}
    if not info.weights_bytes:
        raise ModelError(
            f"weights='random' needs the configuration of {info.name!r}, which svdkit does not have: use a catalogue "
            "name, for example 'svd-xt', or a folder with the model's JSON files"
        )
    return {**_SVD, "unet": {**_SVD["unet"], "num_frames": info.num_frames}}


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


def _materialise(network: nn.Module, *, dtype: torch.dtype, device: str, generator: torch.Generator) -> None:
    """Give every parameter storage and a value, and move the buffers."""
    import torch

    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            filled = torch.empty(parameter.shape, dtype=dtype, device=device)
            _fill(filled, name=name, generator=generator)
            setattr(module, name, torch.nn.Parameter(filled, requires_grad=False))
    network.to(device)


def _fill(tensor: torch.Tensor, *, name: str, generator: torch.Generator) -> None:
    """Choose a parameter's values so that every layer passes on what it gets at about the same size.

    Matrices and kernels are uniform with variance 1 / fan-in, which keeps a unit-variance input at unit variance
    (LeCun et al., Efficient BackProp, 1998). Norms start at 1 and biases at 0, so each residual branch adds a variance
    below 1 to the trunk: it grows with the square root of depth, not exponentially.
    """
    if tensor.ndim >= 2:
        bound = math.sqrt(3 / tensor[0].numel())
        tensor.uniform_(-bound, bound, generator=generator)
    elif name == "mix_factor":
        tensor.fill_(0.5)  # AlphaBlender's own start: sigmoid(0.5) of the spatial, the rest of the temporal branch
    elif name == "class_embedding":
        tensor.uniform_(-1, 1, generator=generator)
    else:
        tensor.fill_(0 if name == "bias" else 1)
