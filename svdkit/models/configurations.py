"""The configurations of SVD's five components at full size, so that it can be built without its weights.

Source: the JSON files in stabilityai/stable-video-diffusion-img2vid-xt; svd and svd-xt-1.1 differ in `num_frames` only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from svdkit.errors import ModelError
from svdkit.models.files import read_json

if TYPE_CHECKING:
    from svdkit.models.info import ModelInfo

_UNET: dict[str, Any] = {
    "sample_size": 96,
    "in_channels": 8,
    "out_channels": 4,
    "down_block_types": [*["CrossAttnDownBlockSpatioTemporal"] * 3, "DownBlockSpatioTemporal"],
    "up_block_types": ["UpBlockSpatioTemporal", *["CrossAttnUpBlockSpatioTemporal"] * 3],
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "num_attention_heads": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "transformer_layers_per_block": 1,
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 768,
}
_VAE: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 768,
    "scaling_factor": 0.18215,
    "force_upcast": True,
}
_IMAGE_ENCODER: dict[str, Any] = {  # CLIP ViT-H/14
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "projection_dim": 1024,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
}
_SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "interpolation_type": "linear",
    "use_karras_sigmas": True,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "steps_offset": 1,
}
_FEATURE_EXTRACTOR: dict[str, Any] = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": 224},
}


def configurations(info: ModelInfo) -> dict[str, dict[str, Any]]:
    """The configuration of every component of a model.

    Args:
        info: a catalogue model, or one with a folder; the folder needs its JSON files only, no weights.

    Returns:
        By component name: feature_extractor, image_encoder, scheduler, unet, vae.

    Raises:
        ModelError: another hub id, whose configuration is not on this machine.
        IncompleteModelError: a configuration file is missing from the folder or is not JSON.

    Example:
        >>> configurations(find_model("svd"))["unet"]["num_frames"]
        14
    """
    if info.folder is not None:
        networks = {name: read_json(info.folder / name / "config.json") for name in ("image_encoder", "unet", "vae")}
        return networks | {
            "scheduler": read_json(info.folder / "scheduler" / "scheduler_config.json"),
            "feature_extractor": read_json(info.folder / "feature_extractor" / "preprocessor_config.json"),
        }
    if not info.weights_bytes:
        raise ModelError(
            f"weights='random' needs the configuration of {info.name!r}, which svdkit does not have: use a catalogue "
            "name, for example 'svd-xt', or a folder with the model's JSON files"
        )
    return {
        "unet": {**_UNET, "num_frames": info.num_frames},
        "vae": dict(_VAE),
        "image_encoder": dict(_IMAGE_ENCODER),
        "scheduler": dict(_SCHEDULER),
        "feature_extractor": dict(_FEATURE_EXTRACTOR),
    }
