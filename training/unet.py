"""Train the micro model's denoiser, and its image encoder with it, the way SVD was trained.

v-prediction, sigma from a lognormal, the first frame's latents concatenated; picture, fps, motion bucket and noise
augmentation as conditions.

References: EDM, Karras et al. (2022), arXiv 2206.00364; SVD, Blattmann et al. (2023), arXiv 2311.15127, appendix D.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from training.loop import Plan, keep_conv3d_in_float32, train
from training.networks import build_feature_extractor, build_image_encoder, build_unet, start_calm
from training.scenes import sample_clip
from training.start import encode_start
from training.vae import HEIGHT, WIDTH, clips_to_tensor

if TYPE_CHECKING:
    from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
    from transformers import CLIPVisionModelWithProjection

SHARD_CLIPS = 64  # clips rendered and encoded at a time
SHARD_USES = 2  # times each is seen, every time under other noise
SHORT_UNTIL = 0.88  # until then short clips, more of them a step at the same cost: camera moves are learnt there
SHORT, LONG = (6, 5), (14, 2)  # (frames, clips a step)
SIGMA_LOG_MEAN, SIGMA_LOG_DEVIATION = 1.0, 1.6  # SVD's image-to-video stage
# Which way to move is decided at middle noise levels, and is the hardest to learn: most steps go there.
MOTION_SHARE, MOTION_LOG_MEAN, MOTION_LOG_DEVIATION = 0.3, 1.3, 0.8
DROP_CONDITION = 0.1  # for classifier-free guidance: picture and latents are zeroed together, as the pipeline does


@dataclass(frozen=True)
class Shard:
    """Encoded clips. `latents` (clips, frames, channels, h, w) scaled; `first` (clips, channels, h, w) unscaled."""

    latents: torch.Tensor
    first: torch.Tensor
    pictures: torch.Tensor  # (clips, 3, 224, 224), normalised for CLIP
    conditions: torch.Tensor  # (clips, 3): fps - 1, motion_bucket_id, noise_aug_strength


class Denoiser(torch.nn.Module):
    """UNet and image encoder trained together (Stability's CLIP was trained before; here there is no such thing)."""

    def __init__(self) -> None:
        """Build both; the UNet begins by predicting v = 0."""
        super().__init__()
        self.unet: UNetSpatioTemporalConditionModel = build_unet()
        self.image_encoder: CLIPVisionModelWithProjection = build_image_encoder()
        start_calm(self.unet)
        torch.nn.init.zeros_(self.unet.conv_out.weight)
        torch.nn.init.zeros_(self.unet.conv_out.bias)


@torch.no_grad()
def encode_shard(index: int, *, num_frames: int, vae: AutoencoderKLTemporalDecoder, device: torch.device) -> Shard:
    """Render and encode clips `index * SHARD_CLIPS` to the next shard's first."""
    rng = torch.Generator().manual_seed(index)
    seeds = range(index * SHARD_CLIPS, (index + 1) * SHARD_CLIPS)
    clips = [sample_clip(seed, num_frames=num_frames, height=HEIGHT, width=WIDTH) for seed in seeds]
    pixels = clips_to_tensor([clip.frames for clip in clips], device)
    augment = torch.exp(torch.randn(SHARD_CLIPS, generator=rng) * 0.7 - 3.6)  # median 0.027, like the default 0.02
    noisy = pixels[:, 0].cpu() + augment[:, None, None, None] * torch.randn(pixels[:, 0].shape, generator=rng)
    latents = torch.stack([encode_start(vae, clip) for clip in pixels]) * vae.config.scaling_factor
    first = torch.cat([encode_start(vae, some) for some in noisy.to(device).split(16)])
    told = torch.tensor([[clip.fps - 1.0, float(clip.motion_bucket_id)] for clip in clips])
    conditions = torch.cat([told, augment[:, None]], dim=1).to(device)
    return Shard(latents, first, clip_input(pixels[:, 0]), conditions)


def clip_input(pixels: torch.Tensor) -> torch.Tensor:
    """(n, 3, height, width) in -1 to 1 → (n, 3, 224, 224), CLIP-normalised, like the pipeline's `_encode_image`."""
    extractor = build_feature_extractor()
    small = F.interpolate(pixels, size=(224, 224), mode="bicubic", antialias=True, align_corners=True)
    mean, deviation = (torch.tensor(v, device=pixels.device)[:, None, None] for v in
                       (extractor.image_mean, extractor.image_std))  # fmt: skip
    return ((small + 1) / 2 - mean) / deviation


def draw_sigma(count: int, device: torch.device) -> torch.Tensor:
    """Noise levels: a share `MOTION_SHARE` where motion is decided, the rest over all levels. Shape (count,)."""
    logarithm = torch.randn(count, device=device)
    chosen = torch.rand(count, device=device) < MOTION_SHARE
    everywhere = logarithm * SIGMA_LOG_DEVIATION + SIGMA_LOG_MEAN
    return torch.exp(torch.where(chosen, logarithm * MOTION_LOG_DEVIATION + MOTION_LOG_MEAN, everywhere))


def denoising_loss(model: Denoiser, shard: Shard, chosen: torch.Tensor) -> torch.Tensor:
    """Mean squared error of v over the chosen clips, each under its own noise level. EDM's weighting is 1 in v."""
    clean, first = shard.latents[chosen], shard.first[chosen]
    count = len(chosen)
    keep = (torch.rand(count, device=clean.device) > DROP_CONDITION).float()
    sigma = draw_sigma(count, clean.device)
    s = sigma[:, None, None, None, None]
    noisy = clean + s * torch.randn_like(clean)
    embedding = model.image_encoder(shard.pictures[chosen]).image_embeds[:, None] * keep[:, None, None]
    condition = (first * keep[:, None, None, None])[:, None].expand_as(clean)
    scaled = torch.cat([noisy / (s**2 + 1).sqrt(), condition], dim=2)
    v = model.unet(scaled, 0.25 * sigma.log(), embedding, shard.conditions[chosen]).sample
    target = (noisy / (s**2 + 1) - clean) * (s**2 + 1).sqrt() / s
    return (v.float() - target).square().mean()


def train_denoiser(
    vae: AutoencoderKLTemporalDecoder, *, steps: int, folder: Path, device: torch.device, only_load: bool = False
) -> Denoiser:
    """Train for `steps` steps, short clips first; resumes from `folder`."""
    torch.manual_seed(1)
    model: Denoiser = Denoiser().to(device)
    keep_conv3d_in_float32(model)
    vae.requires_grad_(requires_grad=False)
    held: dict[tuple[int, int], Shard] = {}

    def loss_at(step: int) -> torch.Tensor:
        num_frames, clips = SHORT if step < SHORT_UNTIL * steps else LONG
        steps_a_shard = SHARD_CLIPS * SHARD_USES // clips
        key = (step // steps_a_shard + (10**6 if num_frames == LONG[0] else 0), num_frames)
        if key not in held:
            held.clear()
            held[key] = encode_shard(key[0] % 10**6, num_frames=num_frames, vae=vae, device=device)
        order = np.random.default_rng([step // (SHARD_CLIPS // clips), 3]).permutation(SHARD_CLIPS)
        at = step % (SHARD_CLIPS // clips) * clips
        chosen = torch.from_numpy(order[at : at + clips]).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return denoising_loss(model, held[key], chosen)

    train(model, loss_at, plan=Plan("unet", steps, 1e-2, seed=10**6), folder=folder, only_load=only_load)
    return model
