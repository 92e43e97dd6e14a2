"""The micro model's autoencoder: the best linear code there is, put into SVD's VAE.

Trained from noise on a CPU, such a VAE takes hours to show a picture at all. A linear code is learnt in minutes, and
every layer of the VAE can hold its part of one: residual branches add nothing but one, which steadies the frames of a
chunk, so what is left is a chain of convolutions. `LinearCode` is that chain, trained by itself; `build_autoencoder`
writes it into the real network.

GroupNorm stands in the way: it divides each picture's own mean and contrast out. So before the two norms on the linear
path every signal x shares its group of three channels with its own negative and a large constant: (x, -x, B) has the
mean B / 3 and a deviation that is B's, whatever x. SiLU is the identity far right of zero.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from training.loop import Plan, train
from training.networks import CELL, CODE_WIDTH, LATENT_CHANNELS, build_vae, start_calm
from training.scenes import Frames, picture

if TYPE_CHECKING:
    from diffusers import AutoencoderKLTemporalDecoder

PICTURES = 600
WINDOW = 12  # pixels a side that a cell's code is taken from: its own 8 and 4 to the right and below
# B, and how far right of zero a signal passes SiLU: latents reach ±8, pixels ±1.2. All sums are exact in bfloat16.
LATENTS, PIXELS = (96.0, 16.0), (48.0, 8.0)
STEADY = 0.12  # of a frame, from each neighbour in time
SWITCHES = 2048.0  # B again, for signals of up to 24
FLATTEN = 0.4  # latent deviation = component deviation ** (1 - FLATTEN): 0 keeps natural sizes, 1 whitens
LOG_VARIANCE = -8.0


class LinearCode(torch.nn.Module):
    """Pictures (n, 3, h, w), -1 to 1 → codes (n, 24, h / 8, w / 8) → pictures, with no nonlinearity between."""

    def __init__(self) -> None:
        """Start where the decoder doubles its input and the encoder looks at means and slopes."""
        super().__init__()
        self.analysis = torch.nn.Conv2d(3, LATENT_CHANNELS, WINDOW, stride=CELL)
        self.expand = torch.nn.Conv2d(LATENT_CHANNELS, CODE_WIDTH, 3, padding=1)
        self.ups = torch.nn.ModuleList(
            [torch.nn.Conv2d(CODE_WIDTH, out, 3, padding=1) for out in (CODE_WIDTH, CODE_WIDTH, 3)]
        )
        for layer in (self.expand, *self.ups):
            with torch.no_grad():
                layer.weight[:, :, 1, 1] += torch.eye(*layer.weight.shape[:2])

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Codes of pictures; beyond the right and lower border there is grey."""
        return torch.as_tensor(self.analysis(F.pad(pixels, (0, WINDOW - CELL, 0, WINDOW - CELL))))

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Pictures of codes."""
        stream = self.expand(codes)
        for up in self.ups:
            stream = up(F.interpolate(stream, scale_factor=2.0))
        return torch.as_tensor(stream)


def to_tensor(frames: Frames, device: torch.device | str = "cpu") -> torch.Tensor:
    """uint8 (..., height, width, 3) → float (..., 3, height, width), -1 to 1."""
    return torch.from_numpy(frames).to(device).movedim(-1, -3).float() / 127.5 - 1


def train_code(*, steps: int, folder: Path, device: torch.device, only_load: bool = False) -> LinearCode:
    """Train the linear code on procedural pictures, then give it the axes that a denoiser likes."""
    torch.manual_seed(0)
    code: LinearCode = LinearCode().to(device)
    pictures = to_tensor(np.stack([picture(seed) for seed in range(PICTURES)]), device)
    with torch.no_grad():
        code.analysis.weight[:, :, :CELL, :CELL] += components(pictures).to(device)

    def loss_at(step: int) -> torch.Tensor:
        chosen = torch.from_numpy(np.random.default_rng([step, 2]).integers(PICTURES, size=8)).to(device)
        pixels = pictures[chosen].flip(-1) if step % 2 else pictures[chosen]
        with torch.autocast(device.type, dtype=torch.bfloat16):
            shown = code.decode(code.encode(pixels))
        return (shown.float() - pixels).square().mean()

    train(code, loss_at, plan=Plan("code", steps, 1e-3), folder=folder, only_load=only_load)
    turn_axes(code, pictures)
    code.requires_grad_(requires_grad=False)
    return code


def components(pictures: torch.Tensor) -> torch.Tensor:
    """The first principal directions of 8x8 patches of `pictures`, shape (24, 3, 8, 8)."""
    patches = F.unfold(pictures.cpu(), CELL, stride=CELL).transpose(1, 2).reshape(-1, 3 * CELL**2)
    _, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    return vectors.flip(1)[:, :LATENT_CHANNELS].T.reshape(LATENT_CHANNELS, 3, CELL, CELL)


@torch.no_grad()
def turn_axes(code: LinearCode, pictures: torch.Tensor) -> None:
    """Change the code's axes, not its pictures: uncorrelated, sorted by what they do to the picture, flattened.

    What a code does to the picture is known from its impulse responses; their inner products are the metric.
    """
    seen = code.encode(pictures).movedim(1, -1).flatten(0, -2).double()
    middle = torch.zeros(LATENT_CHANNELS, LATENT_CHANNELS, 5, 5, device=seen.device)
    middle[:, :, 2, 2] = torch.eye(LATENT_CHANNELS)
    answers = (code.decode(middle) - code.decode(torch.zeros_like(middle[:1]))).flatten(1).double()
    root = torch.linalg.cholesky(answers @ answers.T)
    energy, axes = torch.linalg.eigh(root.T @ torch.cov(seen.T) @ root)
    into = (axes.flip(1) * energy.flip(0) ** (-FLATTEN / 2)).T @ root.T  # new = into @ old
    back, into = torch.linalg.inv(into).float(), into.float()
    code.expand.weight.copy_(torch.einsum("ocyx,cd->odyx", code.expand.weight, back))
    code.analysis.weight.copy_(torch.einsum("dc,cpyx->dpyx", into, code.analysis.weight))
    code.analysis.bias.copy_(into @ code.analysis.bias)
    scale = 1 / code.encode(pictures).std()  # so that the VAE's scaling factor is 1
    code.analysis.weight *= scale
    code.analysis.bias *= scale
    code.expand.weight /= scale


@torch.no_grad()
def build_autoencoder(code: LinearCode) -> AutoencoderKLTemporalDecoder:
    """SVD's VAE that encodes and decodes as `code` does."""
    torch.manual_seed(0)
    vae = build_vae()
    start_calm(vae)
    on_the_way = (".conv_in", ".conv_out", ".conv_shortcut", "quant_conv", "samplers.0.conv", "time_conv_out")
    for name, module in vae.named_modules():
        if name.endswith(on_the_way):
            torch.nn.init.zeros_(module.weight)
            torch.nn.init.zeros_(module.bias)
        if name.endswith((".conv_shortcut", "time_conv_out")):
            torch.nn.init.dirac_(module.weight)
    _write_encoder(vae, code)
    _write_decoder(vae, code)
    return vae.eval()


def _write_encoder(vae: AutoencoderKLTemporalDecoder, code: LinearCode) -> None:
    encoder = vae.encoder
    once, twice, thrice = (encoder.down_blocks[level].downsamplers[0].conv for level in range(3))
    for colour in range(3):
        encoder.conv_in.weight[colour, colour, 1, 1] = 1
        for y, x in np.ndindex(2, 2):  # the pixels under a cell of 4x4 lie side by side in the channels
            place = 3 * (2 * y + x) + colour
            once.weight[place, colour, y, x] = 1
            for below, right in np.ndindex(2, 2):
                deep = 12 * (2 * below + right) + place
                twice.weight[deep, place, below, right] = 1
                window = np.s_[:, colour, 2 * below + y :: 4, 2 * right + x :: 4]
                thrice.weight[:LATENT_CHANNELS, deep] = code.analysis.weight[window]
    thrice.bias[:LATENT_CHANNELS] = code.analysis.bias
    widen = encoder.down_blocks[3].resnets[0].conv_shortcut
    _pass_through(widen, encoder.conv_norm_out, encoder.conv_out, LATENT_CHANNELS, LATENTS)
    torch.nn.init.dirac_(vae.quant_conv.weight[:LATENT_CHANNELS])
    vae.quant_conv.bias[LATENT_CHANNELS:] = LOG_VARIANCE


def _write_decoder(vae: AutoencoderKLTemporalDecoder, code: LinearCode) -> None:
    decoder = vae.decoder
    ups = [block.upsamplers[0].conv for block in decoder.up_blocks[:3]]
    for real, trained in zip((decoder.conv_in, *ups), (code.expand, *code.ups), strict=True):
        out, into = trained.weight.shape[:2]
        real.weight[:out, :into] = trained.weight
        real.bias[:out] = trained.bias
    last = decoder.up_blocks[3].resnets[0]
    _pass_through(last.spatial_res_block.conv_shortcut, decoder.conv_norm_out, decoder.conv_out, 3, PIXELS)
    _steady(last)


def _steady(block: torch.nn.Module) -> None:
    """Let each frame take `STEADY` of each neighbour in time, so that details flicker less; SVD's decoder learns that.

    A convolution sees zeros where a chunk ends. A constant that is missing there shuts the difference to that side off:
    `(difference + 8)` goes through SiLU as it is, and `(nothing - 24)` as 0. A switch of the same size without the
    picture takes the 8 away again.
    """
    time, (constant, shift) = block.temporal_res_block, PIXELS
    share = STEADY / torch.sigmoid(block.time_mixer.mix_factor).item()
    time.norm1.weight.fill_(constant * 2**0.5 / 3)
    time.norm1.bias.fill_(constant / 3 + shift)
    time.norm2.weight.fill_(SWITCHES * 2**0.5 / 3)
    time.norm2.bias.fill_(SWITCHES / 3)
    for conv in (time.conv1, time.conv2):
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    one = 1 / (constant + shift)  # of the constant, channel 2
    for side, neighbour in enumerate((0, 2)):
        for colour in range(4):  # the fourth is the switch
            out = 3 * (4 * side + colour)
            signal, level = (3 * colour, 1.0) if colour < 3 else (2, shift * one)
            time.conv1.weight[out, signal, neighbour] = level
            time.conv1.weight[out, signal, 1] = -level
            time.conv1.weight[out, 2, neighbour] += 3 * shift * one
            time.conv1.bias[out] = -2 * shift
            time.conv1.weight[out + 1], time.conv1.bias[out + 1] = -time.conv1.weight[out], 2 * shift
            time.conv1.bias[out + 2] = SWITCHES
        for colour in range(3):
            for sign, into in ((share, 3 * colour), (-share, 3 * colour + 1)):
                time.conv2.weight[into, 3 * (4 * side + colour), 1] = sign
                time.conv2.weight[into, 3 * (4 * side + 3), 1] = -sign


def _pass_through(
    widen: torch.nn.Conv2d, norm: torch.nn.GroupNorm, last: torch.nn.Conv2d, count: int, level: tuple[float, float]
) -> None:
    """Take the first `count` signals unharmed through widen → norm → SiLU → last."""
    constant, shift = level
    torch.nn.init.zeros_(widen.weight)
    for signal in range(count):
        widen.weight[3 * signal, signal], widen.weight[3 * signal + 1, signal] = 1, -1
        widen.bias[3 * signal + 2] = constant
        last.weight[signal, 3 * signal, 1, 1] = 1
    norm.weight.fill_(constant * 2**0.5 / 3)
    norm.bias.fill_(constant / 3 + shift)
    last.bias[:count] = -shift
