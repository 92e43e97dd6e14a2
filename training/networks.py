"""The micro model's networks: the real SVD classes, small."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKLTemporalDecoder, EulerDiscreteScheduler, UNetSpatioTemporalConditionModel
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

LATENT_CHANNELS = 8  # SVD has 4 at 1/8 size; 8 at 1/4 size keep a 128x72 picture legible
EMBEDDING = 64


def build_vae() -> AutoencoderKLTemporalDecoder:
    """Three levels: latents have a quarter of the picture's height and width."""
    return AutoencoderKLTemporalDecoder(
        down_block_types=("DownEncoderBlock2D",) * 3,
        block_out_channels=(64, 64, 64),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        sample_size=128,
        scaling_factor=1.0,
    )


def build_unet() -> UNetSpatioTemporalConditionModel:
    """Three levels over 18x32 latents; attention only where it is cheap, on the two lower ones."""
    return UNetSpatioTemporalConditionModel(
        sample_size=32,
        in_channels=2 * LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=(
            "DownBlockSpatioTemporal",
            "CrossAttnDownBlockSpatioTemporal",
            "CrossAttnDownBlockSpatioTemporal",
        ),
        up_block_types=("CrossAttnUpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal"),
        block_out_channels=(64, 64, 64),
        layers_per_block=1,
        num_attention_heads=(2, 2, 2),
        cross_attention_dim=EMBEDDING,
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96,
        num_frames=14,
    )


def build_image_encoder() -> CLIPVisionModelWithProjection:
    """A two-layer ViT over 32-pixel patches of the 224x224 picture."""
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=EMBEDDING,
            intermediate_size=2 * EMBEDDING,
            num_hidden_layers=2,
            num_attention_heads=2,
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
