# ruff: noqa: SLF001 - diffusers' call is one piece; its parts, which svdkit runs one by one, are private
"""diffusers' ``StableVideoDiffusionPipeline.__call__``, taken apart.

Each function is one passage of it, with the same operations in the same order, so that the bits are the same
(``tests/test_stages.py`` compares them). The passages are those of diffusers 0.35 to 0.42:
https://github.com/huggingface/diffusers/blob/v0.39.0/src/diffusers/pipelines/stable_video_diffusion/pipeline_stable_video_diffusion.py
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from svdkit.image import Frame


# ClipSettings in which nothing is None any more, which the types of its fields cannot say.
Resolved: TypeAlias = Any


def execution_device(pipe: Any) -> Any:
    """Find the device that computes, also when the weights are offloaded; it asks every module, so ask it once."""
    return pipe._execution_device


def synchronize(device: Any) -> None:
    """Wait until the device has done all it was told; nothing to wait for on a CPU."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def embed_image(pipe: Any, frame: Frame, device: Any) -> Any:
    """Give the photo to CLIP: tensor ``(1, 1, projection)``."""
    return pipe._encode_image(frame.image, device, 1, do_classifier_free_guidance=False)


def encode_image(pipe: Any, frame: Frame, settings: Resolved, *, generator: Any, device: Any) -> Any:
    """Add noise to the photo, drawn from the generator, and give it to the VAE: tensor ``(1, channels, h, w)``."""
    import torch
    from diffusers.utils.torch_utils import randn_tensor

    image = pipe.video_processor.preprocess(frame.image, height=frame.height, width=frame.width).to(device)
    noise = randn_tensor(image.shape, generator=generator, device=device, dtype=image.dtype)
    image = image + settings.noise_aug_strength * noise
    # The encoder overflows in half precision, so diffusers upcasts it; but it leaves it in fp32 after an error.
    upcast = pipe.vae.dtype == torch.float16 and pipe.vae.config.force_upcast
    # torch's own method: that of diffusers 0.42 warns, naming an empty list.
    cast = torch.nn.Module.to
    try:
        if upcast:
            cast(pipe.vae, dtype=torch.float32)
        # Before 0.40 diffusers did not convert the image for a bf16 VAE, and failed.
        return pipe._encode_vae_image(image.to(pipe.vae.dtype), device, 1, do_classifier_free_guidance=False)
    finally:
        if upcast:
            cast(pipe.vae, dtype=torch.float16)


def is_guided(settings: Resolved) -> bool:
    """Say whether any frame has guidance, so that each step runs the UNet on a batch of two."""
    return bool(max(settings.min_guidance_scale, settings.max_guidance_scale) > 1)


def denoise_steps(pipe: Any, settings: Resolved, encoded: Any, *, generator: Any, device: Any) -> Iterator[Any]:
    """Draw noise, run the schedule, and yield the latents ``(1, frames, channels, h, w)`` of each step."""
    import torch

    embeddings, image_latents = encoded.image_embeddings.to(device), encoded.image_latents.to(device)
    dtype, frames, sent, guided = embeddings.dtype, settings.num_frames, settings.conditioning, is_guided(settings)
    if guided:  # a batch of two: without the photo, and with it
        embeddings, image_latents = (torch.cat([torch.zeros_like(x), x]) for x in (embeddings, image_latents))
    image_latents = image_latents.unsqueeze(1).repeat(1, frames, 1, 1, 1)
    time_ids = pipe._get_add_time_ids(sent.fps, sent.motion_bucket_id, sent.noise_aug_strength, dtype, 1, 1, guided)
    time_ids = time_ids.to(device)
    pipe.scheduler.set_timesteps(settings.num_inference_steps, device=device)
    scales = torch.linspace(settings.min_guidance_scale, settings.max_guidance_scale, frames)
    scales = scales.to(device, dtype).reshape(1, -1, 1, 1, 1)
    size = (frames, pipe.unet.config.in_channels, settings.height, settings.width)
    latents = pipe.prepare_latents(1, *size, dtype, device, generator)
    # diffusers keeps these on the pipeline for whoever looks during a run, such as caching hooks.
    pipe._guidance_scale = scales if guided else 1.0
    pipe._num_timesteps = len(pipe.scheduler.timesteps)
    for timestep in pipe.scheduler.timesteps:
        seen = torch.cat([latents] * 2) if guided else latents
        seen = torch.cat([pipe.scheduler.scale_model_input(seen, timestep), image_latents], dim=2)
        predicted = pipe.unet(
            seen, timestep, encoder_hidden_states=embeddings, added_time_ids=time_ids, return_dict=False
        )[0]
        if guided:
            without, with_photo = predicted.chunk(2)
            predicted = without + scales * (with_photo - without)
        latents = pipe.scheduler.step(predicted, timestep, latents).prev_sample
        yield latents


def decode_chunk(pipe: Any, latents: Any) -> tuple[np.ndarray, bool]:
    """Turn latents ``(1, frames, channels, h, w)`` into uint8 ``(frames, height, width, 3)``; say if all were numbers.

    The 8-bit numbers are made on the device, so that a quarter of the bytes is copied.
    """
    import torch

    frames = latents.shape[1]
    pixels = pipe.decode_latents(latents, frames, frames)
    finite = bool(torch.isfinite(pixels).all())
    pixels = pipe.video_processor.postprocess_video(pixels, output_type="pt")[0]
    pixels = (pixels.nan_to_num(0.0) * 255).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).cpu().numpy(), finite
