"""A toy Stable Video Diffusion: diffusers' own classes, tiny, with seeded random weights.

Tests use it where only shapes, contracts and reproducibility matter; for looks there is the trained micro model.
A clip of 4 frames, 64 x 64, 2 steps takes well under a second on one CPU core.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

from svdkit.models.folder import quiet

if TYPE_CHECKING:
    from pathlib import Path

    from diffusers import StableVideoDiffusionPipeline
    from torch import nn

NUM_FRAMES = 4
HEIGHT = 64
WIDTH = 64

# The scheduler folder of stabilityai/stable-video-diffusion-img2vid-xt, key by key.
SCHEDULER: dict[str, Any] = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "trained_betas": None,
    "use_karras_sigmas": True,
}


def toy_pipeline(*, seed: int = 0, latent_channels: int = 4, downscale: int = 8) -> StableVideoDiffusionPipeline:
    """A ready SVD pipeline of about 1 M parameters in fp32 on the CPU, in eval mode and silent.

    SVD has 4 latent channels, the UNet takes twice as many, and 8 pixels a latent cell; micro has 8 and 4.
    """
    import torch

    with quiet():  # transformers tells of every image processor that would like torchvision
        from diffusers import EulerDiscreteScheduler, StableVideoDiffusionPipeline
        from transformers import CLIPImageProcessor

    # Modules draw their weights from the global generator: fork it, so that no other test sees a changed state.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = StableVideoDiffusionPipeline(
            vae=_vae(latent_channels=latent_channels, downscale=downscale),
            image_encoder=_image_encoder(),
            unet=_unet(latent_channels=latent_channels),
            scheduler=EulerDiscreteScheduler(**SCHEDULER),
            feature_extractor=CLIPImageProcessor(crop_size={"height": 224, "width": 224}, size={"shortest_edge": 224}),
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def clip_of(pipe: StableVideoDiffusionPipeline, **changes: Any) -> Any:
    """A clip of the bare pipeline, of a gradient: tensor `(1, frames, 3, height, width)`."""
    import torch
    from PIL import Image

    how: dict[str, Any] = {
        "height": HEIGHT,
        "width": WIDTH,
        "num_inference_steps": 2,
        "decode_chunk_size": 2,
        "output_type": "pt",
    }
    how |= changes
    photo = Image.linear_gradient("L").convert("RGB").resize((how["width"], how["height"]))
    pipe.set_progress_bar_config(disable=True)
    return pipe(photo, generator=torch.Generator().manual_seed(0), **how).frames


def _unet(*, latent_channels: int) -> nn.Module:
    from diffusers import UNetSpatioTemporalConditionModel

    unet = UNetSpatioTemporalConditionModel(
        sample_size=8,
        in_channels=2 * latent_channels,
        out_channels=latent_channels,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        block_out_channels=(32, 64),
        layers_per_block=1,
        num_attention_heads=(2, 4),
        cross_attention_dim=32,
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96,
        num_frames=NUM_FRAMES,
    )
    return unet.eval()


def _vae(*, latent_channels: int, downscale: int) -> nn.Module:
    import torch
    from diffusers import AutoencoderKLTemporalDecoder

    levels = downscale.bit_length()
    vae = AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * levels,
        block_out_channels=(32,) * levels,
        layers_per_block=1,
        latent_channels=latent_channels,
        sample_size=64,
        force_upcast=True,
    )
    # As initialised, every frame is the same mid grey: 8-bit frames of two seeds would be equal and hide mistakes.
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(2)
    return vae.eval()


def _image_encoder() -> nn.Module:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_act="gelu",
        image_size=224,
        patch_size=56,
        projection_dim=32,
    )
    return CLIPVisionModelWithProjection(config).eval()


def write_hub_folder(
    path: Path,
    *,
    sharded: bool = False,
    variant: str | None = "fp16",
    pipe: StableVideoDiffusionPipeline | None = None,
) -> Path:
    """Save a toy (left in fp32) in the layout of the hub's svd-xt repository and return the folder.

    `sharded` splits each network into several files with an index; `variant=None` writes fp32 `*.safetensors`.
    """
    source = pipe or toy_pipeline()
    with quiet():
        source.save_pretrained(path)
        for name in ("image_encoder", "unet", "vae"):
            _save_network(getattr(source, name), path / name, sharded=sharded, variant=variant)
    # Without torchvision transformers saves CLIPImageProcessorPil; the hub's file says CLIPImageProcessor.
    index = path / "model_index.json"
    classes = json.loads(index.read_text(encoding="utf-8"))
    classes["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    index.write_text(json.dumps(classes, indent=2) + "\n", encoding="utf-8")
    return path


def _save_network(network: nn.Module, folder: Path, *, sharded: bool, variant: str | None) -> None:
    import torch

    for weights in folder.glob("*.safetensors*"):
        weights.unlink()
    options: dict[str, Any] = {"max_shard_size": "300KB"} if sharded else {}
    if variant is not None:
        options["variant"] = variant
        network = copy.deepcopy(network).to(torch.float16)
    network.save_pretrained(folder, **options)
