"""Train the micro model's autoencoder on short clips, so that the decoder's temporal layers see motion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from training.loop import Plan, keep_conv3d_in_float32, train
from training.networks import build_vae
from training.scenes import sample_clip
from training.start import start_from_components

if TYPE_CHECKING:
    from diffusers import AutoencoderKLTemporalDecoder

HEIGHT, WIDTH = 72, 128
FRAMES_A_STEP = 4
CHUNKS = (1, 2, 4)  # the decoder must serve every decode_chunk_size
LONG_CHUNK, LONG_EVERY = 14, 6  # now and then a whole clip
KL_WEIGHT = 1e-4
START_PICTURES = 24
CLOSED_FORM = ("conv_in", "conv_out", "conv_norm_out", "samplers", "quant_conv")  # good from the start: learn slowly


def clips_to_tensor(frames: list[np.ndarray], device: torch.device) -> torch.Tensor:
    """uint8 clips of shape (frames, height, width, 3) → float (clips, frames, 3, height, width), -1 to 1."""
    stacked = torch.from_numpy(np.stack(frames)).to(device)
    return stacked.permute(0, 1, 4, 2, 3).float() / 127.5 - 1


def batch(step: int, *, device: torch.device) -> torch.Tensor:
    """Clips for one step, shape (clips, frames, 3, height, width).

    Always whole frames: GroupNorm's statistics depend on the picture's size.
    """
    rng = np.random.default_rng([step, 2])
    num_frames = LONG_CHUNK if step % LONG_EVERY == 0 else int(rng.choice(CHUNKS))
    seeds = [step * FRAMES_A_STEP + index for index in range(max(FRAMES_A_STEP // num_frames, 1))]
    clips = [sample_clip(seed, num_frames=num_frames, height=HEIGHT, width=WIDTH).frames for seed in seeds]
    return clips_to_tensor(clips, device)


def pictures(seeds: range, device: torch.device) -> torch.Tensor:
    """First frames of the clips `seeds`, shape (n, 3, height, width), -1 to 1."""
    frames = [sample_clip(seed, num_frames=1, height=HEIGHT, width=WIDTH).frames for seed in seeds]
    return clips_to_tensor(frames, device).flatten(0, 1)


def reconstruction_loss(pixels: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
    """Squared error, which the PSNR is about, plus some absolute error, which keeps edges sharp."""
    error = decoded.float() - pixels
    return error.square().mean() + 0.1 * error.abs().mean()


def train_vae(*, steps: int, folder: Path, device: torch.device) -> AutoencoderKLTemporalDecoder:
    """Train the whole autoencoder and set its scaling factor to one over the latents' deviation."""
    torch.manual_seed(0)
    vae = build_vae().to(device)
    start_from_components(vae, pictures(range(START_PICTURES), device))
    keep_conv3d_in_float32(vae)

    def loss_at(step: int) -> torch.Tensor:
        clips = batch(step, device=device)
        pixels = clips.flatten(0, 1)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            posterior = vae.encode(pixels).latent_dist
            decoded = vae.decode(posterior.sample(), num_frames=clips.shape[1]).sample
        return reconstruction_loss(pixels, decoded) + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()

    train(vae, loss_at, plan=Plan("vae", steps, 4e-4), folder=folder, slow=CLOSED_FORM)
    vae.register_to_config(scaling_factor=round(1 / latent_deviation(vae, device), 4))
    return vae


def finish_decoder(
    vae: AutoencoderKLTemporalDecoder, *, steps: int, folder: Path, device: torch.device, only_load: bool = False
) -> None:
    """Train the decoder alone, on whole frames and exact latents; the latents stay what the UNet has learnt."""
    vae.requires_grad_(requires_grad=True)
    vae.encoder.requires_grad_(requires_grad=False)
    vae.quant_conv.requires_grad_(requires_grad=False)

    def loss_at(step: int) -> torch.Tensor:
        clips = batch(10**7 + step, device=device)
        pixels = clips.flatten(0, 1)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            with torch.no_grad():
                latents = vae.encode(pixels).latent_dist.mode()
            decoded = vae.decode(latents + 0.03 * torch.randn_like(latents), num_frames=clips.shape[1]).sample
        return reconstruction_loss(pixels, decoded)

    train(vae, loss_at, plan=Plan("decoder", steps, 4e-4), folder=folder, slow=CLOSED_FORM, only_load=only_load)


@torch.no_grad()
def latent_deviation(vae: AutoencoderKLTemporalDecoder, device: torch.device) -> float:
    """Standard deviation of the latents over 32 held-out pictures."""
    held_out = pictures(range(10**6, 10**6 + START_PICTURES), device)
    return float(vae.encode(held_out).latent_dist.mode().std())
