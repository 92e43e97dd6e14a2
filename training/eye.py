"""The image encoder, written rather than trained: it says which way the camera goes, in its embedding.

Stability's CLIP was trained before SVD and knew much. This one has to know which side of a picture is lighter. Four
attention heads and a few hidden units are enough for that and can be written down; what is left, from the last
hidden state to the embedding, is linear and solved on views of the worlds. (Trained from noise it is unsure for long:
layer norms divide brightness out.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from training.autoencoder import to_tensor
from training.networks import EMBEDDING, build_feature_extractor, build_image_encoder
from training.scenes import LEAN, MOVES, Frames, doubtful, move_for, picture

if TYPE_CHECKING:
    from transformers import CLIPVisionModelWithProjection

VIEWS = 600
PATCHES = 7  # a side
LIGHT, ASLANT, SIDE, REST, GIVEN, LEANS, STEPS = 0, 1, 4, 7, 10, 20, 21  # what the channels hold
STEADY, PLACE, GAIN = 20.0, 8.0, 4.0  # what is given outweighs what is seen, so that layer norms change nothing
STEEP = 0.004  # lightness between "not yet" and "surely"


def codes() -> torch.Tensor:
    """What the embedding is for each of `MOVES`, shape (3, 64)."""
    return torch.randn(len(MOVES), EMBEDDING, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def build_eye() -> CLIPVisionModelWithProjection:
    """An image encoder whose `image_embeds` are, but near the border between two moves, one of `codes()`."""
    torch.manual_seed(2)
    eye = build_image_encoder()
    for module in eye.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.Embedding):
            torch.nn.init.zeros_(module.weight)
            if getattr(module, "bias", None) is not None:
                torch.nn.init.zeros_(module.bias)
    model = eye.vision_model
    _write_embeddings(model.embeddings)
    layer = model.encoder.layers[0]
    scale = _write_attention(layer)
    _write_steps(layer, scale)
    frames = [frame for frame in map(picture, range(VIEWS)) if not doubtful(frame)]
    seen = torch.cat([model(clip_input(to_tensor(frame)[None])).pooler_output for frame in frames])
    wanted = codes()[[move_for(frame) for frame in frames]]
    ridge = 1e-4 * len(seen) * torch.eye(EMBEDDING)
    eye.visual_projection.weight.copy_(torch.linalg.solve(seen.T @ seen + ridge, seen.T @ wanted).T)
    return eye.eval()


def _write_embeddings(embeddings: Any) -> None:
    """A patch's lightness, its right half's minus its left half's, where it is, and something that never changes."""
    deviation = torch.tensor(build_feature_extractor().image_std)
    size = embeddings.patch_embedding.weight.shape[-1]
    lightness = (GAIN * deviation / 3 / size**2)[:, None, None].expand(3, size, size).clone()
    embeddings.patch_embedding.weight[LIGHT] = lightness
    lightness[..., : size // 2] *= -1
    embeddings.patch_embedding.weight[ASLANT] = 2 * lightness
    places = embeddings.position_embedding.weight
    places[:, GIVEN], places[:, GIVEN + 1] = STEADY, -STEADY
    column = torch.arange(PATCHES**2) % PATCHES - PATCHES // 2
    for channel, here in enumerate((column > 0, column < 0, column == 0)):
        places[1:, SIDE + channel] = PLACE * here
    places[1:, REST] = -PLACE
    torch.nn.init.zeros_(embeddings.class_embedding)


def _write_attention(layer: Any) -> float:
    """One head looks right, one left, one at the middle: channel `LEANS` becomes `lean`, in the scale returned."""
    size = EMBEDDING // layer.self_attn.num_heads
    for head, value in enumerate((LIGHT, LIGHT, ASLANT)):
        layer.self_attn.q_proj.bias[head * size] = 10.0
        layer.self_attn.k_proj.weight[head * size, SIDE + head] = 3.0
        layer.self_attn.v_proj.weight[head * size, value] = 1.0
    share = (PATCHES - 1) / PATCHES, -(PATCHES - 1) / PATCHES, 1 / PATCHES
    for head, weight in enumerate(share):
        layer.self_attn.out_proj.weight[LEANS, head * size] = weight
    deviation: float = ((2 * STEADY**2 + 2 * PLACE**2) / EMBEDDING) ** 0.5  # of a patch, which layer norm divides by
    return GAIN / deviation


def _write_steps(layer: Any, scale: float) -> None:
    """Two steps of `LEANS`, up at `LEAN` and down at `-LEAN`, each the difference of two hidden units."""
    steep = 4.0 / STEEP / scale
    for step, sign in enumerate((1.0, -1.0)):
        for unit, shift in enumerate((0.5, -0.5)):
            hidden = 2 * step + unit
            layer.mlp.fc1.weight[hidden, LEANS] = sign * steep
            layer.mlp.fc1.bias[hidden] = -steep * scale * LEAN + 4 * shift
            layer.mlp.fc2.weight[STEPS + step, hidden] = 0.5 * (0.5 if unit == 0 else -0.5)


def clip_input(pixels: torch.Tensor) -> torch.Tensor:
    """(n, 3, height, width) in -1 to 1 → (n, 3, 224, 224), CLIP-normalised, like the pipeline's `_encode_image`."""
    extractor = build_feature_extractor()
    small = F.interpolate(pixels, size=(224, 224), mode="bicubic", antialias=True, align_corners=True)
    mean, deviation = (torch.tensor(v, device=pixels.device)[:, None, None] for v in
                       (extractor.image_mean, extractor.image_std))  # fmt: skip
    return ((small + 1) / 2 - mean) / deviation


def said(eye: CLIPVisionModelWithProjection, frame: Frames) -> int:
    """The move whose code is nearest to what `eye` says of a picture."""
    with torch.no_grad():
        embedding = eye(clip_input(to_tensor(frame)[None])).image_embeds
    return int(np.argmin(torch.cdist(embedding, codes())))
