"""LoadSettings → a ready pipeline: find the weights, choose precision and memory plan, say why."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdkit.errors import ModelError, OutOfMemoryError
from svdkit.models import ModelInfo, find_model, locate, random_pipeline
from svdkit.models.costs import network_of, svd_network
from svdkit.models.folder import STEMS, fingerprint, half_precision, quiet
from svdkit.models.info import describe_folder
from svdkit.models.weights import check_ram
from svdkit.pipeline.memory import (
    LATER_BYTES,
    OVERHEAD_BYTES,
    Need,
    Rung,
    choose_device,
    choose_dtype,
    choose_memory,
    cuda_capability,
    free_bytes,
    is_out_of_memory,
    possible_plans,
    torch_dtype,
)
from svdkit.pipeline.techniques import apply_technique
from svdkit.settings import LoadSettings
from svdkit.units import format_seconds

if TYPE_CHECKING:
    from diffusers import StableVideoDiffusionPipeline


_RANDOM = "weights: random, so time and memory are real and the picture is noise"


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What was loaded, and why so; it is at `pipe.svdkit`.

    Attributes:
        settings: as resolved: nothing is "auto". A folder is named, not given as a path, so that a record of it tells
            nothing about the machine; applying or undoing a technique changes them.
        model: catalogue entry.
        revision: commit of the hub, or a hash of the weight files; "seed 0" for random weights.
        weights: "trained" or "random"; "unknown" for a pipeline that others made.
        reasons: sentences: what was chosen and why.
        load_seconds: from call to return, download included.
        decode_chunk_size: frames to decode at a time that are expected to fit, at most 5.

    Example:
        >>> print(svdkit.load("micro").svdkit)
        micro (trained weights, revision ...) loaded in ...
        - device: ...
    """

    settings: LoadSettings
    model: ModelInfo
    revision: str | None = None
    weights: str = "unknown"
    reasons: tuple[str, ...] = ()
    load_seconds: float = 0.0
    decode_chunk_size: int = 5

    def __str__(self) -> str:
        title = f"{self.model.name} ({self.weights} weights, revision {self.revision})"
        lines = [f"{title} loaded in {format_seconds(self.load_seconds)}", *(f"- {text}" for text in self.reasons)]
        return "\n".join(lines)

    @property
    def is_ours(self) -> bool:
        """Whether `load` made the pipeline, so that it is known what it was loaded from."""
        return self.weights != "unknown"


_OWN = LoadReport(
    settings=LoadSettings(), model=ModelInfo(name="own pipeline", title="a pipeline that svdkit did not load")
)


def report_of(pipe: Any) -> LoadReport:
    """Give the report of `load`; for a pipeline that others made one that says so, with diffusers' defaults."""
    report: LoadReport = getattr(pipe, "svdkit", _OWN)
    return report


def load(  # noqa: D417 - the others are explained where their fields are
    model: str | Path | None = None,
    *,
    settings: LoadSettings | None = None,
    weights: str | None = None,
    dtype: str | None = None,
    memory: str | None = None,
    forward_chunking: bool | None = None,
    two_pass_guidance: bool | None = None,
    compile: bool | None = None,  # noqa: A002 - the name of the setting
    device: str | None = None,
    revision: str | None = None,
    source: str | None = None,
    random_seed: int | None = None,
) -> StableVideoDiffusionPipeline:
    """Load a model, choosing what was not asked for by what this machine has.

    Args:
        model: "micro" (the built-in model, the default), "svd", "svd-xt", "svd-xt-1.1", a folder in diffusers layout,
            or a hub id.
        settings: Where the values not given here come from; `LoadSettings()` by default.
        weights: This and what follows are values of `LoadSettings`, which explains them. "auto" for memory, by clips of
            the model's own size, may switch two_pass_guidance and forward_chunking on as well.

    Returns:
        diffusers' own pipeline, with a `LoadReport` at `pipe.svdkit`.

    Raises:
        SettingsError: a value that is not allowed.
        ModelError: weights that are not found, not safe or not complete; its subclasses say which.
        PipelineError: a device, precision or plan that cannot work here.
        OutOfMemoryError: the weights do not fit the device with the plan that was asked for.

    Example:
        >>> print(load("micro", device="cpu").svdkit)
        micro (trained weights, revision ...) loaded in ...
        - device: cpu, as asked
        ...
    """
    # First, while these are the only names here: the settings that were given.
    given = {name: value for name, value in locals().items() if name != "settings" and value is not None}
    start = time.perf_counter()
    gc.collect()  # a pipeline that was offloaded is a ring: let go of, it stays in memory until it is collected
    if model is not None:
        given["model"] = str(model)
    asked = (settings or LoadSettings()).replace(**given)
    info = find_model(asked.model)
    where, why_device = choose_device(asked.device)
    stored, compute, why_dtype = choose_dtype(asked.dtype, device=where, capability=cuda_capability(where))
    plans = possible_plans(where, memory=asked.memory, dtype=stored, compiled=asked.compile)
    make = partial(random_pipeline, info, dtype=torch_dtype(compute), seed=asked.random_seed)
    if asked.weights == "trained":
        pipe, info, revision, note = _read(info, asked, compute=compute)
    else:
        # Weighed without storage first, then filled where the memory plan wants it.
        pipe, revision, note = make(device="meta"), f"seed {asked.random_seed}", _RANDOM
    _store(pipe, dtype=stored, compute=compute)
    wish = Rung(asked.memory, asked.two_pass_guidance, asked.forward_chunking)
    (memory, two_passes, chunked, decode_chunk), why_memory = _choose(
        pipe, info, wish, device=where, compute=compute, plans=plans
    )
    now = asked.replace(model=info.name, dtype=stored, device=where, memory=memory)
    now = now.replace(two_pass_guidance=two_passes, forward_chunking=chunked)
    with _fitting(now):
        if asked.weights == "random":
            place = where if memory == "resident" else "cpu"
            if not place.startswith("cuda"):
                _check_ram(info, compute=compute)
            pipe = make(device=place)
            _store(pipe, dtype=stored, compute=compute)
        _place(pipe, now)
    why_compiled = _compile(pipe) if asked.compile else ""
    pipe.svdkit = LoadReport(
        settings=now,
        model=info,
        revision=revision,
        weights=asked.weights,
        reasons=tuple(filter(None, (why_device, why_dtype, *why_memory, note, why_compiled))),
        load_seconds=time.perf_counter() - start,
        decode_chunk_size=decode_chunk,
    )
    return pipe


def _read(info: ModelInfo, asked: LoadSettings, *, compute: str) -> tuple[Any, ModelInfo, str, str]:
    """Find and read weights into main memory; the pipeline, what is known of it now, its revision and a note."""
    _check_ram(info, compute=compute)
    folder = locate(info, source=asked.source, revision=asked.revision, variant="any")
    if not info.weights_bytes:
        info = describe_folder(folder, base=info)
        _check_ram(info, compute=compute)
    half = half_precision(folder)
    with quiet():
        from diffusers import StableVideoDiffusionPipeline

        pipe = StableVideoDiffusionPipeline.from_pretrained(
            folder,
            torch_dtype=torch_dtype(compute),
            variant="fp16" if half else None,
            use_safetensors=True,
            local_files_only=True,
        )
    # A snapshot of the hub is named by its commit.
    revision = folder.name if folder.parent.name == "snapshots" else fingerprint(folder)
    full = ", ".join(name for name in STEMS if name not in half)
    note = f"weights: {full} read from full precision, as there is no fp16 variant" if full else ""
    return pipe, info, revision, note


def _check_ram(info: ModelInfo, *, compute: str) -> None:
    check_ram(info.weights_bytes * (2 if compute == "fp32" else 1), what=info.name)


def _store(pipe: Any, *, dtype: str, compute: str) -> None:
    if dtype == "fp8":
        import torch

        pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch_dtype(compute))


def _choose(
    pipe: Any, info: ModelInfo, asked: Rung, *, device: str, compute: str, plans: tuple[str, ...]
) -> tuple[Rung, tuple[str, ...]]:
    """Choose the memory plan by what the networks weigh and what is free."""
    weights = {}
    for name in STEMS:
        weights[name] = sum(part.numel() * part.element_size() for part in getattr(pipe, name).parameters())
    try:
        network = network_of(info)
    except ModelError:
        network = svd_network()  # of which all others known are smaller
    on_gpu = device.startswith("cuda")
    need = Need(
        weight_bytes=weights,
        height=info.height,
        width=info.width,
        num_frames=info.num_frames,
        network=network,
        dtype=compute,
        overhead_bytes=LATER_BYTES if on_gpu else OVERHEAD_BYTES,  # asking makes the context
    )
    free = free_bytes(device)
    if not on_gpu and pipe.unet.device.type != "meta":
        free += sum(weights.values())  # read into this memory already, and counted again by the plan
    return choose_memory(need, free_bytes=free, asked=asked, plans=plans)


@contextmanager
def _fitting(now: LoadSettings) -> Iterator[None]:
    """Say in words that the weights do not fit the device."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        # The traceback holds the weights so far, and a notebook keeps the last traceback.
        traceback.clear_frames(error.__traceback__)
        raise OutOfMemoryError(
            f"{now.model} does not fit {now.device} with memory={now.memory!r}, dtype={now.dtype!r}: leave both at "
            "'auto', use memory='sequential', or close what else uses the device (another notebook's kernel, for one)"
        ) from error


def _place(pipe: Any, now: LoadSettings) -> None:
    """Put the weights where the plan wants them, and switch on what it needs."""
    import torch

    try:
        if now.memory == "resident":
            with quiet():
                pipe.to(now.device)
        else:
            apply_technique(pipe, now.memory, device=now.device)
    except BaseException:
        # Nobody gets this pipeline, but a notebook keeps the last traceback, and that the weights.
        for name in STEMS:
            torch.nn.Module.to(getattr(pipe, name), "meta")  # torch's own: diffusers' looks at offload plans first
        raise
    if now.two_pass_guidance:
        apply_technique(pipe, "two-pass-guidance")
    if now.forward_chunking:
        apply_technique(pipe, "forward-chunking")


def _compile(pipe: Any) -> str:
    """Compile in place and lazily; `torch.compile(vae)` would leave `vae.decode` eager, so its decoder is compiled."""
    import torch._dynamo
    from diffusers.models.unets import unet_spatio_temporal_condition as unet

    # At sizes that the UNet cannot halve evenly (SVD's: no multiples of 64) diffusers logs a line: not to be traced.
    ignored: set[Any] = getattr(torch._dynamo.config, "ignore_logging_functions", set())  # noqa: SLF001 - its only name
    ignored.add(unet.logger.info)
    pipe.unet.compile(fullgraph=True)
    pipe.vae.decoder.compile(fullgraph=True)
    return "compile: UNet and VAE decoder; the first clip of each size takes minutes"
