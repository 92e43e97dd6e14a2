"""Train the image encoder alone: it says which way the camera goes, as one of three directions in its embedding.

Stability's CLIP was trained before SVD and knew much; this one knows what the denoiser needs, and is sure of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from training.autoencoder import to_tensor
from training.loop import Plan, train
from training.networks import EMBEDDING, build_feature_extractor, build_image_encoder
from training.scenes import DOUBT, LEAN, MOVES, film, look, world_of

if TYPE_CHECKING:
    from transformers import CLIPVisionModelWithProjection

VIEWS = 4000
BATCH = 32
WORLDS = 600


def codes() -> torch.Tensor:
    """What the embedding is to be for each of `MOVES`, shape (3, 64)."""
    return torch.randn(len(MOVES), EMBEDDING, generator=torch.Generator().manual_seed(3))


def train_eye(
    *, steps: int, folder: Path, device: torch.device, only_load: bool = False
) -> CLIPVisionModelWithProjection:
    """Train on views of the worlds, mirrored and lit at random, but for those that even we are in doubt about."""
    torch.manual_seed(2)
    eye = build_image_encoder().to(device)
    views = torch.empty(0) if only_load else _views()
    targets = codes().to(device)

    def loss_at(step: int) -> torch.Tensor:
        rng = np.random.default_rng([step, 4])
        pixels = views[torch.from_numpy(rng.integers(VIEWS, size=BATCH))].to(device)
        pixels = pixels.flip(-1) if rng.random() < 0.5 else pixels
        light = torch.from_numpy(rng.uniform(0.5, 1.5, (BATCH, 1, 1, 1))).float().to(device)
        pixels = (light * pixels + torch.from_numpy(rng.uniform(-0.2, 0.2, (BATCH, 3, 1, 1))).float().to(device)).clamp(-1, 1)
        grey = pixels.mean(1) / 2
        half = grey.shape[-1] // 2
        side = grey[..., half:].mean((1, 2)) - grey[..., :half].mean((1, 2))
        move = torch.where(side.abs() < LEAN, 0, torch.where(side < 0, 1, 2))
        sure = (side.abs() - LEAN).abs() > DOUBT / 2
        said = eye(clip_input(pixels)).image_embeds
        return (said - targets[move]).square().mean(1)[sure].mean()

    plan = Plan("eye", steps, 1.5e-3, seed=2 * 10**6)
    train(eye, loss_at, plan=plan, folder=folder, only_load=only_load)
    return eye


def _views() -> torch.Tensor:
    rng = np.random.default_rng(5)
    worlds = [world_of(int(rng.integers(WORLDS))) for _ in range(VIEWS)]
    frames = [film(world, look(rng, world), move=0, step=0.0, num_frames=1)[0] for world in worlds]
    return to_tensor(np.stack(frames))


def clip_input(pixels: torch.Tensor) -> torch.Tensor:
    """(n, 3, height, width) in -1 to 1 → (n, 3, 224, 224), CLIP-normalised, like the pipeline's `_encode_image`."""
    extractor = build_feature_extractor()
    small = F.interpolate(pixels, size=(224, 224), mode="bicubic", antialias=True, align_corners=True)
    mean, deviation = (torch.tensor(v, device=pixels.device)[:, None, None] for v in
                       (extractor.image_mean, extractor.image_std))  # fmt: skip
    return ((small + 1) / 2 - mean) / deviation


