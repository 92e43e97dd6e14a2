"""What one call of a network costs, from coefficients that were counted once: a plain function, without torch.

Every count is a polynomial of frames and latent cells, whatever computes it: convolutions and linear layers grow with
frames x cells, attention over a picture with frames x cells², attention over time with frames² x cells.
Sides that the UNet cannot halve evenly (SVD's: no multiples of 64 pixels) are rounded up inside it, level by level:
there operations and traffic come out too low, 2 % at 584x1024, 15 % at 72x128; peaks are exact.

``python benchmarks/count_costs.py`` counts the real architectures anew and writes ``costs.json``; a test counts again.
"""

from __future__ import annotations

import functools
import hashlib
import json
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from svdkit.errors import ModelError
from svdkit.models.info import ModelInfo, find_model
from svdkit.models.random_weights import configurations

COSTS_FILE = Path(__file__).with_name("costs.json")


class NotCountedError(ModelError):
    """Networks of this architecture were never counted."""


class Call(NamedTuple):
    """One call of one stage; height and width in pixels, `batch` 2 with guidance, `chunked` for forward chunking."""

    stage: str
    frames: int
    height: int
    width: int
    batch: int = 1
    element_bytes: int = 2
    chunked: bool = False

    @property
    def kind(self) -> str:
        """Which polynomials it has: other operations are at the peak for two, for chunks, and for one frame alone."""
        alone = self.stage == "vae_decode" and self.frames == 1
        return self.stage + " guided" * (self.batch == 2) + " chunked" * self.chunked + " alone" * alone


class Cost(NamedTuple):
    """What a call costs, whatever computes it.

    Multiplications and additions, as two (`flops`); bytes that operations other than matrix products, convolutions and
    attention read and write; kernels started; bytes alive at the peak, weights excluded, and the same with the copies
    that cuDNN makes.
    """

    flops: int
    moved_bytes: int
    kernels: int
    peak_bytes: int
    peak_workspace_bytes: int


class Network(NamedTuple):
    """An architecture: parameters of each network, pixels a latent cell along one side, coefficients by stage."""

    parameters: Mapping[str, int]
    downscale: int
    coefficients: Mapping[str, list[list[float]]]

    def cost(self, call: Call) -> Cost:
        """Evaluate the polynomials of a call."""
        powers = terms(call, self.downscale)
        counts = [sum(map(operator.mul, row, powers)) for row in self.coefficients[call.kind]]
        # Counted in half precision; every activation of single precision is twice as large.
        sizes = [call.element_bytes / 2 if name.endswith("bytes") else 1 for name in Cost._fields]
        return Cost(*map(round, map(operator.mul, counts, sizes)))


def terms(call: Call, downscale: int) -> tuple[int, ...]:
    """Give what the coefficients of a call are multiplied with."""
    frames, cells = call.frames, (call.height // downscale) * (call.width // downscale)
    return (1, frames, cells, frames * cells, frames * cells**2, frames**2 * cells)


def network_of(info: ModelInfo) -> Network:
    """Find the costs of a model by its architecture, which a folder's JSON files tell."""
    try:
        found = _networks().get(network_fingerprint(configurations(info)))
    except ModelError:
        raise ModelError(
            f"the configuration of {info.name!r} is not on this machine, and a forecast downloads nothing: use a "
            "catalogue name such as 'svd-xt', or download the model and give its folder"
        ) from None
    if found is None:
        raise NotCountedError(
            f"the networks of {info.name!r} are neither SVD's nor micro's, so their arithmetic and memory are not "
            "known: measure a clip with svdkit.profile instead"
        )
    return found


def svd_network() -> Network:
    """SVD's own costs."""
    return network_of(find_model("svd"))


def network_fingerprint(configuration: Mapping[str, Mapping[str, Any]]) -> str:
    """Name an architecture by what decides its cost: 12 hexadecimal digits."""
    shape = {
        network: {key: configuration[network].get(key, usual) for key, usual in keys.items()}
        for network, keys in counted()["shape"].items()
    }
    return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:12]


@functools.cache
def counted() -> dict[str, Any]:
    """What the file holds.

    "shape": what a configuration says of an architecture's size, and the classes' own values where it says nothing.
    "networks": by name, the fingerprint and the costs of each that was counted.
    """
    found: dict[str, Any] = json.loads(COSTS_FILE.read_text(encoding="utf-8"))
    return found


@functools.cache
def _networks() -> dict[str, Network]:
    known = counted()["networks"].values()
    return {one["fingerprint"]: Network(*(one[name] for name in Network._fields)) for one in known}
