"""What is counted, and what a count holds."""

from __future__ import annotations

from typing import NamedTuple

from svdkit.errors import SvdkitError


class NotCountedError(SvdkitError):
    """A clip of this shape has never been counted, and nobody asked for it to be counted now."""


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
    def key(self) -> str:
        """Its name in files. A photo on its side costs the same, so the longer side stands last."""
        short, long = sorted((self.height, self.width))
        size = "" if self.stage == "image_encoder" else f" {self.batch}x{self.frames} {short}x{long}"
        return f"{self.stage}{size} {self.element_bytes}B{' chunked' if self.chunked else ''}"


class Count(NamedTuple):
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
    """An architecture: parameters of each network, pixels a latent cell along one side, its counts by key."""

    parameters: dict[str, int]
    downscale: int
    counts: dict[str, Count]
