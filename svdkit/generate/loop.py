# ruff: noqa: SLF001 - diffusers' call is one piece; its parts, which svdkit runs one by one, are private
"""diffusers' ``StableVideoDiffusionPipeline.__call__``, taken apart.

Each function is one passage of it, with the same operations in the same order, so that the result is the same to the
bit (``tests/test_stages.py`` compares them). The passages are those of diffusers 0.35 to 0.42:
https://github.com/huggingface/diffusers/blob/v0.39.0/src/diffusers/pipelines/stable_video_diffusion/pipeline_stable_video_diffusion.py
``stages`` puts them together again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from svdkit.generate.outputs import Resolved
    from svdkit.image import Frame


@contextmanager
def in_use(pipe: Any, *, free: bool) -> Iterator[None]:
    """Run a passage without gradients and leave the pipeline usable, also after an error or an interrupt.

    Args:
        pipe: The pipeline.
        free: Whether to move offloaded networks off the device at the end, as diffusers does after a call.
    """
    import torch

    try:
        with torch.no_grad():
            yield
    finally:
        if free:
            pipe.maybe_free_model_hooks()


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
    """Give the photo to CLIP.

    Returns:
        Tensor ``(1, 1, projection)``. The zeros for the unguided half are added in ``conditions``.
    """
    return pipe._encode_image(frame.image, device, 1, do_classifier_free_guidance=False)


def encode_image(pipe: Any, frame: Frame, settings: Resolved, *, generator: Any, device: Any) -> Any:
    """Add noise to the photo and give it to the VAE.

    Args:
        pipe: The pipeline.
        frame: The fitted photo.
        settings: Resolved.
        generator: Advanced by one draw of the photo's size.
        device: That computes.

    Returns:
        Tensor ``(1, channels, height / scale, width / scale)``, not scaled.
    """
    import torch
    from diffusers.utils.torch_utils import randn_tensor

    image = pipe.video_processor.preprocess(frame.image, height=frame.height, width=frame.width).to(device)
    noise = randn_tensor(image.shape, generator=generator, device=device, dtype=image.dtype)
    image = image + settings.noise_aug_strength * noise
    # The encoder overflows in half precision, so diffusers upcasts it; but it leaves it in fp32 after an error.
    upcast = pipe.vae.dtype == torch.float16 and pipe.vae.config.force_upcast
    try:
        if upcast:
            _cast(pipe.vae, torch.float32)
        # Before 0.40 diffusers did not convert the image for a bf16 VAE, and failed.
        return pipe._encode_vae_image(image.to(pipe.vae.dtype), device, 1, do_classifier_free_guidance=False)
    finally:
        if upcast:
            _cast(pipe.vae, torch.float16)


def _cast(network: Any, dtype: Any) -> None:
    """Convert the weights by torch's own method; that of diffusers 0.42 warns of it, naming an empty list."""
    import torch

    torch.nn.Module.to(network, dtype=dtype)


def start_latents(pipe: Any, settings: Resolved, *, generator_state: Any, dtype: Any, device: Any) -> Any:
    """Draw the noise that the clip grows from.

    Args:
        pipe: The pipeline, its schedule set.
        settings: Resolved.
        generator_state: Of the CPU generator, after the draw of ``encode_image``.
        dtype: Of the latents, that of the image embeddings.
        device: That computes.

    Returns:
        Tensor ``(1, frames, channels, height / scale, width / scale)`` at the schedule's first noise level.
    """
    import torch

    generator = torch.Generator("cpu")
    generator.set_state(generator_state)
    size = (settings.num_frames, pipe.unet.config.in_channels, settings.height, settings.width)
    return pipe.prepare_latents(1, *size, dtype, device, generator)


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditions:
    """What the UNet is told beside the latents; twice as long in the first dimension when guided.

    Attributes:
        image_embeddings: Tensor ``(1 or 2, 1, projection)``, zeros first.
        image_latents: Tensor ``(1 or 2, frames, channels, height / scale, width / scale)``, zeros first.
        time_ids: Tensor ``(1 or 2, 3)``: fps − 1, motion bucket, noise on the photo.
        guidance: Tensor ``(1, frames, 1, 1, 1)``: the guidance scale of each frame; None when not guided.
    """

    image_embeddings: Any
    image_latents: Any
    time_ids: Any
    guidance: Any


def is_guided(settings: Resolved) -> bool:
    """Say whether any frame has guidance, so that each step runs the UNet on a batch of two."""
    return bool(max(settings.min_guidance_scale, settings.max_guidance_scale) > 1)


def conditions(pipe: Any, settings: Resolved, *, image_embeddings: Any, image_latents: Any, device: Any) -> Conditions:
    """Put together what the UNet is told.

    Args:
        pipe: The pipeline.
        settings: Resolved.
        image_embeddings: From ``embed_image``.
        image_latents: From ``encode_image``.
        device: That computes.

    Returns:
        The conditions, on the device.
    """
    import torch

    guided = is_guided(settings)
    embeddings, latents = (tensor.to(device) for tensor in (image_embeddings, image_latents))
    if guided:
        embeddings, latents = (torch.cat([torch.zeros_like(tensor), tensor]) for tensor in (embeddings, latents))
    sent = settings.conditioning
    time_ids = pipe._get_add_time_ids(
        sent.fps, sent.motion_bucket_id, sent.noise_aug_strength, embeddings.dtype, 1, 1, guided
    )
    scales = torch.linspace(settings.min_guidance_scale, settings.max_guidance_scale, settings.num_frames)
    return Conditions(
        image_embeddings=embeddings,
        image_latents=latents.unsqueeze(1).repeat(1, settings.num_frames, 1, 1, 1),
        time_ids=time_ids.to(device),
        guidance=scales.to(device, embeddings.dtype).reshape(1, -1, 1, 1, 1) if guided else None,
    )


def denoise_steps(pipe: Any, latents: Any, told: Conditions) -> Iterator[Any]:
    """Run the schedule, which must have been set.

    Args:
        pipe: The pipeline.
        latents: From ``start_latents``.
        told: From ``conditions``.

    Yields:
        The latents after each step, in the shape of ``latents``.
    """
    import torch

    # diffusers keeps these on the pipeline for whoever looks during a run, such as caching hooks.
    pipe._guidance_scale = 1.0 if told.guidance is None else told.guidance
    pipe._num_timesteps = len(pipe.scheduler.timesteps)
    for timestep in pipe.scheduler.timesteps:
        seen = latents if told.guidance is None else torch.cat([latents] * 2)
        seen = torch.cat([pipe.scheduler.scale_model_input(seen, timestep), told.image_latents], dim=2)
        predicted = pipe.unet(
            seen,
            timestep,
            encoder_hidden_states=told.image_embeddings,
            added_time_ids=told.time_ids,
            return_dict=False,
        )[0]
        if told.guidance is not None:
            without, with_photo = predicted.chunk(2)
            predicted = without + told.guidance * (with_photo - without)
        latents = pipe.scheduler.step(predicted, timestep, latents).prev_sample
        yield latents


def decode_chunk(pipe: Any, latents: Any) -> tuple[np.ndarray, bool]:
    """Turn the latents of a few frames into pixels.

    They become 8-bit numbers on the device: rounding is the same there, and a quarter of the bytes is copied.

    Args:
        pipe: The pipeline.
        latents: Tensor ``(1, frames, channels, height / scale, width / scale)``.

    Returns:
        uint8 array ``(frames, height, width, 3)``, black where a pixel was not a number; and whether all were numbers.
    """
    import torch

    frames = latents.shape[1]
    pixels = pipe.decode_latents(latents, frames, frames)
    finite = bool(torch.isfinite(pixels).all())
    pixels = pipe.video_processor.postprocess_video(pixels, output_type="pt")[0]
    pixels = (pixels.nan_to_num(0.0) * 255).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).cpu().numpy(), finite
