"""Train the micro model's denoiser the way SVD was trained.

v-prediction, sigma from a lognormal, the first frame's latents concatenated; picture, fps, motion bucket and noise
augmentation as conditions.

References: EDM, Karras et al. (2022), arXiv 2206.00364; SVD, Blattmann et al. (2023), arXiv 2311.15127, appendix D.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from training.autoencoder import LinearCode, to_tensor
from training.eye import codes
from training.loop import Plan, train
from training.networks import build_unet, start_calm
from training.scenes import sample_clip

if TYPE_CHECKING:
    from diffusers import UNetSpatioTemporalConditionModel

LONG_FROM = 0.7  # until then every second frame, and twice the clips a step: moves are learnt there
SHORT, LONG = (7, 2, 8), (14, 1, 4)  # (frames, stride, clips a step)
SIGMA_LOG_MEAN, SIGMA_LOG_DEVIATION = 1.0, 1.6  # SVD's image-to-video stage
# Where the picture goes is decided at middle noise levels, and is the hardest to learn: more steps go there.
MOTION_SHARE, MOTION_LOG_MEAN, MOTION_LOG_DEVIATION = 0.4, 2.0, 0.8
DROP_CONDITION = 0.1  # for classifier-free guidance: picture and latents are zeroed together, as the pipeline does
NOISE_AUG = 0.02
CODE_NOISE = 0.1  # the image encoder is never quite sure
# What a clip shows while it is sampled is the model's own guess, which lags behind the true motion; a model that has
# only seen noise over true clips believes the lag. So in the second round half of the clips are noise over its own
# guess at the highest level, for it to put right. Below OWN_ABOVE there are details, which are chance's to choose.
OWN_SHARE, OWN_ABOVE, HIGHEST = 0.5, 2.0, 700.0


def train_denoiser(
    code: LinearCode, *, rounds: Sequence[int], folder: Path, device: torch.device, only_load: bool = False
) -> UNetSpatioTemporalConditionModel:
    """Train until each step of `rounds`, short clips first, from the second on its own guesses too; resumes."""
    torch.manual_seed(1)
    unet = build_unet()
    start_calm(unet)
    torch.nn.init.zeros_(unet.conv_out.weight)
    torch.nn.init.zeros_(unet.conv_out.bias)
    unet.to(device)
    restore = _train_faster(unet)
    told = codes().to(device)

    def loss_at(step: int, *, steps: int) -> torch.Tensor:
        frames, stride, count = SHORT if step < LONG_FROM * steps else LONG
        rng = np.random.default_rng([step, 7])
        clips = [sample_clip(rng, num_frames=frames, stride=stride) for _ in range(count)]
        pixels = to_tensor(np.stack([clip.frames for clip in clips]), device)
        numbers = torch.tensor([[clip.fps - 1, clip.motion_bucket_id, NOISE_AUG] for clip in clips], device=device)
        move = torch.tensor([clip.move for clip in clips], device=device)
        embedding = told[move] + CODE_NOISE * torch.randn(count, told.shape[1], device=device)
        own = 0 if steps == rounds[0] else round(OWN_SHARE * count)
        return denoising_loss(unet, code, pixels, embedding[:, None], numbers, own=own)

    for steps in rounds:
        plan = Plan("unet", steps, 3e-3, muon_rate=6e-3, seed=10**6)
        train(unet, partial(loss_at, steps=steps), plan=plan, folder=folder, muon=_for_muon, only_load=only_load)
    restore()
    return unet


def _for_muon(name: str, value: torch.Tensor) -> bool:
    return value.ndim >= 2 and "conv_in" not in name and "conv_out" not in name


def denoising_loss(
    unet: Any, code: LinearCode, pixels: torch.Tensor, embedding: torch.Tensor, numbers: torch.Tensor, *, own: int = 0
) -> torch.Tensor:
    """Mean squared error of v over clips (n, frames, 3, h, w), each under its own noise. EDM's weighting is 1 in v.

    The first `own` clips are the model's own guess under the noise, where that is above `OWN_ABOVE`.
    """
    count, device = len(pixels), pixels.device
    clean = code.encode(pixels.flatten(0, 1)).unflatten(0, (count, -1))
    keep = (torch.rand(count, device=device) > DROP_CONDITION).float()[:, None, None]
    first = code.encode(pixels[:, 0] + NOISE_AUG * torch.randn_like(pixels[:, 0])) * keep[..., None]
    told = (first, embedding * keep, numbers)
    sigma = _draw_sigma(count, device)
    shown = clean.clone()
    if own:
        noise = HIGHEST * torch.randn_like(clean[:own])
        with torch.no_grad():
            guess = guessed(unet, noise, torch.full_like(sigma[:own], HIGHEST), [value[:own] for value in told])
        shown[:own] = torch.where(_wide(sigma[:own]) > OWN_ABOVE, guess, clean[:own])
    noisy = shown + _wide(sigma) * torch.randn_like(clean)
    error = guessed(unet, noisy, sigma, told) - clean
    return (error * (_wide(sigma) ** 2 + 1).sqrt() / _wide(sigma)).square().mean()


def guessed(unet: Any, noisy: torch.Tensor, sigma: torch.Tensor, told: Sequence[torch.Tensor]) -> torch.Tensor:
    """The clean latents that the model sees in `noisy` (n, frames, 24, h, w), told first latents, picture, numbers."""
    first, embedding, numbers = told
    s = _wide(sigma)
    scaled = torch.cat([noisy / (s**2 + 1).sqrt(), first[:, None].expand_as(noisy)], dim=2)
    with torch.autocast(noisy.device.type, dtype=torch.bfloat16):
        v = unet(scaled, 0.25 * sigma.log(), embedding, numbers).sample
    return noisy / (s**2 + 1) - v.float() * s / (s**2 + 1).sqrt()


def _wide(sigma: torch.Tensor) -> torch.Tensor:
    return sigma[:, None, None, None, None]


def _draw_sigma(count: int, device: torch.device) -> torch.Tensor:
    """Noise levels: a share `MOTION_SHARE` where motion is decided, the rest over all levels. Shape (count,)."""
    logarithm = torch.randn(count, device=device)
    chosen = torch.rand(count, device=device) < MOTION_SHARE
    everywhere = logarithm * SIGMA_LOG_DEVIATION + SIGMA_LOG_MEAN
    return torch.exp(torch.where(chosen, logarithm * MOTION_LOG_DEVIATION + MOTION_LOG_MEAN, everywhere))


def _train_faster(unet: torch.nn.Module) -> Any:
    """Plain matrix products where a CPU's fused kernels are slow or wrong; the same numbers. Returns what undoes it.

    On CPUs with AVX-512 the bfloat16 weight gradient of a (3, 1, 1) convolution over two frames is NaN (torch 2.13.0,
    oneDNN 3.12), and fused attention over 7 frames or 144 cells takes a quarter longer than three lines.
    """
    fused = F.scaled_dot_product_attention
    for module in unet.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.forward = partial(_convolve_time, module)
    F.scaled_dot_product_attention = _attend

    def restore() -> None:
        F.scaled_dot_product_attention = fused
        for module in unet.modules():
            if isinstance(module, torch.nn.Conv3d):
                del module.forward

    return restore


def _convolve_time(module: torch.nn.Conv3d, x: torch.Tensor) -> torch.Tensor:
    last = x.movedim(1, -1)
    if module.kernel_size[0] == 3:
        padded = F.pad(last, (0, 0, 0, 0, 0, 0, 1, 1))
        last = torch.cat([padded[:, :-2], padded[:, 1:-1], padded[:, 2:]], dim=-1)
    weight = module.weight[..., 0, 0].movedim(1, 2).flatten(1)
    return F.linear(last, weight, module.bias).movedim(-1, 1)


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **_: Any) -> torch.Tensor:
    if key.shape[-2] == 1:  # one key: its softmax is 1
        return value.expand(*query.shape[:-1], value.shape[-1])
    weights = (query @ key.transpose(-1, -2)) * query.shape[-1] ** -0.5
    return weights.softmax(-1).to(value.dtype) @ value
