"""What needs a reload of the model: which one, how precise, where it lives in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NoReturn

from svdkit.settings.base import FLAG, Settings, choice, number, setting, text

# The words of torch, of other tools and of everyday speech; they are explained and not taken.
_DTYPE_WORDS = {"float32": "fp32", "float": "fp32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16"}
_DTYPE_WORDS |= {"float8": "fp8", "float8_e4m3fn": "fp8"}
_MEMORY_WORDS = {"model-offload": "offload", "cpu-offload": "offload", "gpu": "resident"}
_DEVICE_WORDS = {"gpu": "cuda", "nvidia": "cuda", "metal": "mps", "apple": "mps"}

_DTYPE = choice("auto", "fp32", "fp16", "bf16", "fp8", also=_DTYPE_WORDS)
_MEMORY = choice("auto", "resident", "offload", "group-offload", "sequential", also=_MEMORY_WORDS)
_SOURCE = choice("auto", "hub", "modelscope", "folder", also={"huggingface": "hub", "local": "folder"})
_DEVICE = text(
    "'auto', 'cpu', 'cuda', 'cuda:<number>' or 'mps'", pattern=r"auto|cpu|cuda(:[0-9]{1,3})?|mps", also=_DEVICE_WORDS
)


def _refuse(_: object) -> NoReturn:
    raise ValueError


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadSettings(Settings):
    """What a change of needs the model to be loaded again.

    Attributes:
        model: A name of the catalogue (``"micro"``, ``"svd"``, ``"svd-xt"``, ``"svd-xt-1.1"``), a folder in
            diffusers' layout, or a hub id.
        weights: ``"trained"``, or ``"random"``: full size and seeded, for time and memory without a download.
        dtype: ``"fp32"``, ``"fp16"``, ``"bf16"``, ``"fp8"`` (computed in half precision), or ``"auto"``: by the device.
        memory: ``"resident"`` (all on the device), ``"offload"`` (one model at a time), ``"group-offload"``
            (one block at a time), ``"sequential"`` (one layer at a time), or ``"auto"``: by the free memory.
        forward_chunking: Run feed-forward layers in chunks: less memory, a little slower, same maths.
        two_pass_guidance: Run the two halves of the guidance batch one by one: half the activations, same maths.
        compile: Compile the UNet and the decoder: minutes once, then faster.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``, or ``"auto"``: the best one here.
        revision: Branch, tag or commit of the hub repository; None for its main branch.
        source: ``"hub"``, ``"modelscope"``, ``"folder"``, or ``"auto"``.
        random_seed: Seed of random weights, 0 to 2**63 − 1.
        preset: Kept for acceleration presets; only None is allowed now.

    Raises:
        SettingsError: Unknown names, bad values or an impossible combination; all are listed.

    Example:
        >>> LoadSettings(model="svd-xt", dtype="fp16").memory
        'auto'
    """

    model: str = setting("micro", text("a name such as 'svd-xt', a folder or a hub id"), aliases=("checkpoint",))
    weights: str = setting("trained", choice("trained", "random"))
    dtype: str = setting("auto", _DTYPE, aliases=("torch_dtype", "precision", "variant"))
    memory: str = setting("auto", _MEMORY, aliases=("enable_model_cpu_offload",))
    forward_chunking: bool = setting(default=False, check=FLAG)
    two_pass_guidance: bool = setting(default=False, check=FLAG)
    compile: bool = setting(default=False, check=FLAG)
    device: str = setting("auto", _DEVICE)
    revision: str | None = setting(None, text("a branch, tag or commit", pattern=r"\S+"))
    source: str = setting("auto", _SOURCE)
    random_seed: int = setting(0, number(0, 2**63 - 1, step=1), aliases=("seed",))
    preset: str | None = setting(None, ("left out (this version has no acceleration presets)", _refuse))

    @classmethod
    def _clashes(cls, clean: Mapping[str, Any]) -> list[str]:
        if clean.get("source") != "folder" or (revision := clean.get("revision")) is None:
            return []
        rule = f"revision={revision!r} with source='folder': a folder has no revisions"
        return [f"{rule}; leave revision out, or use source='hub'"]
