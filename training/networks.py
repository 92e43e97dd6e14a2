"""The micro model's networks: the real SVD classes, small."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, UNetSpatioTemporalConditionModel
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

CELL = 8  # pixels a side of a latent cell, as in SVD
CODE_WIDTH = 64
LATENT_CHANNELS = 24  # SVD has 4: enough for a face of 500 pixels, not for one of 60
EMBEDDING = 64


def build_vae() -> AutoencoderKLTemporalDecoder:
    """Four levels, as SVD's: latents have an eighth of the picture's height and width.

    The outer ones are 96 wide, so that GroupNorm's 32 groups have three channels there (see `autoencoder.py`).
    """
    return AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * 4,
        block_out_channels=(96, CODE_WIDTH, CODE_WIDTH, 96),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        sample_size=128,
        scaling_factor=1.0,
    )


def build_unet() -> UNetSpatioTemporalConditionModel:
    """Two levels over 9x16 latents, attention on both: what moves is found within a cell or two."""
    return UNetSpatioTemporalConditionModel(
        sample_size=(9, 16),
        in_channels=2 * LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlockSpatioTemporal",) * 2,
        up_block_types=("CrossAttnUpBlockSpatioTemporal",) * 2,
        block_out_channels=(64, 96),
        layers_per_block=1,
        num_attention_heads=(2, 3),
        cross_attention_dim=EMBEDDING,
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96,
        num_frames=14,
    )


def build_image_encoder() -> CLIPVisionModelWithProjection:
    """A ViT of one layer and four heads over 32-pixel patches of the 224x224 picture."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=EMBEDDING,
            intermediate_size=2 * EMBEDDING,
            num_hidden_layers=1,
            num_attention_heads=4,
            image_size=224,
            patch_size=32,
            projection_dim=EMBEDDING,
        )
    )


def build_scheduler() -> EulerDiscreteScheduler:
    """SVD's own scheduler configuration, unchanged."""
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        interpolation_type="linear",
        prediction_type="v_prediction",
        sigma_max=700.0,
        sigma_min=0.002,
        steps_offset=1,
        timestep_spacing="leading",
        timestep_type="continuous",
        use_karras_sigmas=True,
    )


def build_feature_extractor() -> CLIPImageProcessor:
    """CLIP's own normalisation at 224x224."""
    return CLIPImageProcessor()


def start_calm(network: torch.nn.Module) -> None:
    """Let every residual branch of a freshly built network begin by adding nothing."""
    for name, module in network.named_modules():
        if name.endswith((".conv2", "to_out.0", "proj_out", "net.2")):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
