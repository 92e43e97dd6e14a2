"""A closed-form start for the autoencoder: it begins as principal components of 4x4 patches, not as noise.

Trained from noise on two CPU cores, the autoencoder needs over a thousand steps to show a picture at all. A linear
code is known without training: the encoder is set to the first principal components of the training pictures'
patches, and each of the decoder's up-sampling convolutions to the least-squares answer. Gradient descent goes on
from there.

GroupNorm stands in the way of a linear start: it has 32 groups whatever the width, so at width 64 a group holds two
channels, and each picture's own mean and contrast are divided out. So before the two norms on the linear path a
signal's partner is the signal negated, which keeps the mean, plus a bright line along the picture's border (what zero
padding does to a constant), which rules the deviation. SiLU is nearly the identity far right of zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from training.networks import start_calm

if TYPE_CHECKING:
    from diffusers import AutoencoderKLTemporalDecoder

BORDER = 20.0  # size of the border line; pixels and latents have a deviation of about 1
SHIFT = 5.0  # how far right of zero the signal passes a SiLU
CONSTANT = 63  # the channel that is one everywhere, for the border line to be made of
FLATTEN = 0.6  # latent deviation = component deviation ** (1 - FLATTEN): 0 keeps natural sizes, 1 whitens
SMALL = 0.3  # scale of the random weights around the closed-form ones: enough to break symmetry
LOG_VARIANCE = -6.0


@torch.no_grad()
def start_from_components(vae: AutoencoderKLTemporalDecoder, pictures: torch.Tensor) -> None:
    """Set `vae` (three levels, width 64) to principal components of `pictures`, shape (n, 3, h, w), -1 to 1."""
    start_calm(vae)
    _quieten(vae)
    _start_encoder(vae, pictures)
    latents = vae.encode(pictures).latent_dist.mode()
    _start_decoder(vae, latents, pictures)


def _quieten(vae: AutoencoderKLTemporalDecoder) -> None:
    """The stream's convolutions are small, and carry a channel of ones."""
    for name, module in vae.named_modules():
        if name.endswith((".conv_in", "samplers.0.conv")):
            module.weight.mul_(SMALL)
            module.weight[CONSTANT] = 0
            module.weight[:, CONSTANT:] = 0
            torch.nn.init.zeros_(module.bias)
            module.bias[CONSTANT] = 1
    torch.nn.init.dirac_(vae.decoder.time_conv_out.weight)
    torch.nn.init.zeros_(vae.decoder.time_conv_out.bias)


def _pair(convolution: torch.nn.Conv2d, border: torch.Tensor) -> None:
    """Make every odd output the even one before it negated, plus the border line."""
    convolution.weight[1::2] = -convolution.weight[0::2]
    convolution.bias[1::2] = -convolution.bias[0::2]
    convolution.weight[1::2, CONSTANT] = BORDER * border


def _pass_through(norm: torch.nn.GroupNorm, vae: AutoencoderKLTemporalDecoder, pictures: torch.Tensor) -> None:
    """Let `norm` give the even channels in their own size, shifted to where SiLU is the identity."""
    seen = _input_of(norm, lambda: vae(pictures, num_frames=1))
    pairs = seen.unflatten(1, (-1, 2)).transpose(1, 2)  # (n, 2, groups, h, w)
    deviation = pairs.std((1, 3, 4), correction=0).mean(0)
    mean = pairs.mean((0, 1, 3, 4))
    norm.weight[:] = deviation.repeat_interleave(2)
    norm.bias[:] = mean.repeat_interleave(2) + SHIFT


def components(pictures: torch.Tensor, count: int) -> torch.Tensor:
    """The first `count` principal directions of 4x4 patches, scaled; shape (count, 3, 4, 4)."""
    patches = F.unfold(pictures, 4, stride=4).transpose(1, 2).reshape(-1, 48)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    first = torch.arange(47, 47 - count, -1)
    deviation = values[first].sqrt()
    return (vectors[:, first] * deviation**-FLATTEN).T.reshape(count, 3, 4, 4)


def _start_encoder(vae: AutoencoderKLTemporalDecoder, pictures: torch.Tensor) -> None:
    encoder, count = vae.encoder, vae.config.latent_channels
    basis = components(pictures, count)
    once, twice = (encoder.down_blocks[k].downsamplers[0].conv for k in (0, 1))
    for colour in range(3):
        encoder.conv_in.weight[2 * colour, colour, 1, 1] += 1
        for y, x in np.ndindex(2, 2):
            place = 2 * (3 * (2 * y + x) + colour)  # the four pixels under a half-size one lie side by side
            once.weight[place, 2 * colour, y, x] += 1
            for below, right in np.ndindex(2, 2):
                twice.weight[0 : 2 * count : 2, place, below, right] += basis[:, colour, 2 * below + y, 2 * right + x]
    border = torch.zeros(3, 3)
    border[0, 0], border[2, 2] = 1, -1  # padded right and below only
    _pair(twice, border)
    _pass_through(encoder.conv_norm_out, vae, pictures)
    for layer in (encoder.conv_out, vae.quant_conv):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    for channel in range(count):
        encoder.conv_out.weight[channel, 2 * channel, 1, 1] = 1
        vae.quant_conv.weight[channel, channel] = 1
    vae.quant_conv.bias[count:] = LOG_VARIANCE
    vae.quant_conv.bias[:count] -= vae.encode(pictures).latent_dist.mode().mean((0, 2, 3))


def _start_decoder(vae: AutoencoderKLTemporalDecoder, latents: torch.Tensor, pictures: torch.Tensor) -> None:
    decoder, count = vae.decoder, vae.config.latent_channels
    for channel in range(count):
        decoder.conv_in.weight[2 * channel, channel, 1, 1] += 1
    for level in (0, 1):  # the stream carries the code as it is in channels 6, 8, ... and the picture so far in 0, 2, 4
        convolution = decoder.up_blocks[level].upsamplers[0].conv
        offset = 6 if level else 0
        for channel in range(count):
            convolution.weight[6 + 2 * channel, offset + 2 * channel, 1, 1] += 1
        size = [extent // (2 - level) for extent in pictures.shape[2:]]
        target = F.interpolate(pictures, size=size, mode="area")
        seen = _input_of(convolution, lambda: vae.decode(latents, num_frames=1))
        convolution.weight[0:6:2], convolution.bias[0:6:2] = _least_squares(seen, target)
    border = torch.full((3, 3), -1.0)
    border[1, 1] = 8
    _pair(convolution, border)
    _pass_through(decoder.conv_norm_out, vae, pictures)
    seen = _input_of(decoder.conv_out, lambda: vae.decode(latents, num_frames=1))
    seen[:, 1::2] = 0  # the partners would add the border line
    decoder.conv_out.weight[:], decoder.conv_out.bias[:] = _least_squares(seen, pictures)


def _input_of(layer: torch.nn.Module, run: Callable[[], object]) -> torch.Tensor:
    kept: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, arguments: kept.append(arguments[0]))
    run()
    hook.remove()
    return kept[0].clone()


def _least_squares(seen: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The 3x3 convolution (weight, bias) that best makes `target` of `seen`, with a little ridge."""
    channels = seen.shape[1]
    seen = seen * (seen.std((0, 2, 3), keepdim=True) > 0)  # the reference says nothing and would spoil the condition
    rows = F.unfold(seen, 3, padding=1).transpose(1, 2).reshape(-1, channels * 9)
    rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1).double()
    goal = target.permute(0, 2, 3, 1).reshape(-1, 3).double()
    square = rows.T @ rows
    ridge = 1e-4 * len(rows) * torch.eye(len(square), dtype=torch.float64)
    answer = torch.linalg.solve(square + ridge, rows.T @ goal).float()
    return answer[:-1].T.reshape(3, channels, 3, 3), answer[-1]


@torch.no_grad()
def encode_start(vae: AutoencoderKLTemporalDecoder, pictures: torch.Tensor) -> torch.Tensor:
    """`vae.encode(pictures).latent_dist.mode()` of an encoder still as it started, ten times faster.

    Its residual branches and its attention add exactly nothing, so they need not be run.
    """
    encoder = vae.encoder
    stream = encoder.conv_in(pictures)
    for level in (0, 1):
        stream = encoder.down_blocks[level].downsamplers[0](stream)
    code = encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(stream)))
    return torch.as_tensor(vae.quant_conv(code)[:, : vae.config.latent_channels])
