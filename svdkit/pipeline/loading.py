"""LoadSettings → a ready pipeline: find the weights, choose precision and memory plan, say why."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from svdkit.models import ModelInfo, find_model, locate, random_pipeline
from svdkit.models.folder import STEMS, fingerprint, half_precision
from svdkit.models.info import describe_folder
from svdkit.models.quiet import quiet
from svdkit.models.weights import check_ram
from svdkit.pipeline.device import choose_device, choose_precision, cuda_capability, free_bytes, torch_dtype
from svdkit.pipeline.memory import MemoryChoice, Need, choose_memory, possible_plans
from svdkit.pipeline.report import LoadReport
from svdkit.pipeline.techniques import apply_technique
from svdkit.settings import LoadSettings

if TYPE_CHECKING:
    from diffusers import StableVideoDiffusionPipeline

    from svdkit.pipeline.device import Precision


def load(
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
        settings: where the values not given here come from; `LoadSettings()` by default.
        weights: "trained", or "random" for full size without a download: real time and memory, no picture.
        dtype: "fp32", "fp16", "bf16", "fp8" (8-bit UNet weights), or "auto": fp16 on CUDA, else fp32.
        memory: "resident", "offload", "group-offload", "sequential", or "auto" by the free memory for clips of the
            model's own size; "auto" may switch the next two on as well.
        forward_chunking: feed-forward layers in slices.
        two_pass_guidance: guidance as two passes.
        compile: compile UNet and VAE decoder; minutes at the first clip of each size, then faster.
        device: "cpu", "cuda", "cuda:1", "mps" or "auto".
        revision: branch, tag or commit of the source.
        source: "auto", "hub", "modelscope" or "folder".
        random_seed: of random weights.

    Returns:
        diffusers' own pipeline, with a `LoadReport` at `pipe.svdkit`.

    Raises:
        SettingsError: a value that is not allowed.
        ModelError: weights that are not found, not safe or not complete; its subclasses say which.
        PipelineError: a device, precision or plan that cannot work here.

    Example:
        >>> pipe = load("svd-xt", memory="offload")
        >>> print(pipe.svdkit)
        svd-xt (trained weights, revision 9e43909513c6714f1bc78bcb44d96e733cd242aa) loaded in 5.2 s
        - device: cuda, the fastest here
        ...
    """
    start = time.perf_counter()
    asked = _merge(
        settings or LoadSettings(),
        model=None if model is None else str(model),
        weights=weights,
        dtype=dtype,
        memory=memory,
        forward_chunking=forward_chunking,
        two_pass_guidance=two_pass_guidance,
        compile=compile,
        device=device,
        revision=revision,
        source=source,
        random_seed=random_seed,
    )
    info = find_model(asked.model)
    where, why_there = choose_device(asked.device)
    precision = choose_precision(asked.dtype, device=where, capability=cuda_capability(where))
    plans = possible_plans(where, memory=asked.memory, dtype=precision.name, compiled=asked.compile)
    build = _random if asked.weights == "random" else _trained
    pipe, choice, info, revision, notes = build(info, asked, precision=precision, device=where, plans=plans)
    _place(pipe, choice, device=where)
    reasons = [why_there, precision.reason, *choice.reasons, *notes]
    if asked.compile:
        reasons.append(_compile(pipe))
    pipe.svdkit = LoadReport(
        settings=_resolved(asked, info=info, device=where, precision=precision, choice=choice),
        model=info,
        revision=revision,
        weights=asked.weights,
        reasons=tuple(reasons),
        load_seconds=time.perf_counter() - start,
        decode_chunk_size=choice.rung.decode_chunk_size,
    )
    return pipe


def _merge(settings: LoadSettings, **given: object) -> LoadSettings:
    return settings.replace(**{name: value for name, value in given.items() if value is not None})


def _trained(
    info: ModelInfo, asked: LoadSettings, *, precision: Precision, device: str, plans: tuple[str, ...]
) -> tuple[StableVideoDiffusionPipeline, MemoryChoice, ModelInfo, str, list[str]]:
    """Read weights into main memory, then choose the plan by what they really weigh."""
    _check_ram(info, precision)
    folder = locate(info, source=asked.source, revision=asked.revision, variant="any")
    if not info.weights_bytes:
        info = describe_folder(folder, base=info)
    pipe = _read(folder, dtype=precision.compute)
    _store_in_fp8(pipe, precision)
    choice = _choose(pipe, info, asked, precision=precision, device=device, plans=plans)
    return pipe, choice, info, _revision(folder), _notes(folder)


def _random(
    info: ModelInfo, asked: LoadSettings, *, precision: Precision, device: str, plans: tuple[str, ...]
) -> tuple[StableVideoDiffusionPipeline, MemoryChoice, ModelInfo, str, list[str]]:
    """Weigh the model without storage, choose the plan, then fill it where the plan wants it."""
    dtype = torch_dtype(precision.compute)
    blueprint = random_pipeline(info, dtype=dtype, device="meta")
    _store_in_fp8(blueprint, precision)
    choice = _choose(blueprint, info, asked, precision=precision, device=device, plans=plans)
    place = device if choice.rung.memory == "resident" else "cpu"
    if not place.startswith("cuda"):
        _check_ram(info, precision)
    pipe = random_pipeline(info, dtype=dtype, device=place, seed=asked.random_seed)
    _store_in_fp8(pipe, precision)
    notes = ["weights: random, so time and memory are real and the picture is noise"]
    return pipe, choice, info, f"seed {asked.random_seed}", notes


def _check_ram(info: ModelInfo, precision: Precision) -> int:
    """Bytes of main memory that the weights take; an error if they are not free, before the system kills Python."""
    ram = info.weights_bytes * (2 if precision.compute == "fp32" else 1)
    check_ram(ram, what=info.name)
    return ram


def _read(folder: Path, *, dtype: str) -> StableVideoDiffusionPipeline:
    """Read a folder that `check_folder` accepted: known classes, safetensors only, nothing from the network."""
    with quiet():
        from diffusers import StableVideoDiffusionPipeline

        return StableVideoDiffusionPipeline.from_pretrained(
            folder,
            torch_dtype=torch_dtype(dtype),
            variant="fp16" if half_precision(folder) else None,
            use_safetensors=True,
            local_files_only=True,
        )


def _choose(
    pipe: StableVideoDiffusionPipeline,
    info: ModelInfo,
    asked: LoadSettings,
    *,
    precision: Precision,
    device: str,
    plans: tuple[str, ...],
) -> MemoryChoice:
    need = Need(
        weight_bytes={
            name: sum(weight.numel() * weight.element_size() for weight in getattr(pipe, name).parameters())
            for name in STEMS
        },
        height=info.height,
        width=info.width,
        num_frames=info.num_frames,
        downscale=pipe.vae_scale_factor,
        element_bytes=4 if precision.compute == "fp32" else 2,
    )
    free = free_bytes(device)
    if not device.startswith("cuda") and pipe.unet.device.type != "meta":
        free += sum(need.weight_bytes.values())  # read into this memory already, and counted again by the plan
    return choose_memory(
        need,
        free_bytes=free,
        memory=asked.memory,
        two_pass_guidance=asked.two_pass_guidance,
        forward_chunking=asked.forward_chunking,
        plans=plans,
    )


def _store_in_fp8(pipe: StableVideoDiffusionPipeline, precision: Precision) -> None:
    if precision.name != "fp8":
        return
    import torch

    compute = torch_dtype(precision.compute)
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=compute)


def _place(pipe: StableVideoDiffusionPipeline, choice: MemoryChoice, *, device: str) -> None:
    if choice.rung.memory == "resident":
        with quiet():
            pipe.to(device)
    else:
        apply_technique(pipe, choice.rung.memory, device=device)
    if choice.rung.two_pass_guidance:
        apply_technique(pipe, "two-pass-guidance")
    if choice.rung.forward_chunking:
        apply_technique(pipe, "forward-chunking")


def _compile(pipe: StableVideoDiffusionPipeline) -> str:
    """Compile in place and lazily; `torch.compile(vae)` would leave `vae.decode` eager, so its decoder is compiled."""
    pipe.unet.compile(fullgraph=True)
    pipe.vae.decoder.compile(fullgraph=True)
    return "compile: UNet and VAE decoder; the first clip of each size takes minutes"


def _resolved(
    asked: LoadSettings, *, info: ModelInfo, device: str, precision: Precision, choice: MemoryChoice
) -> LoadSettings:
    return asked.replace(
        model=info.name,
        dtype=precision.name,
        memory=choice.rung.memory,
        two_pass_guidance=choice.rung.two_pass_guidance,
        forward_chunking=choice.rung.forward_chunking,
        device=device,
    )


def _revision(folder: Path) -> str:
    """The hub's commit where the folder is one of its snapshots, else a hash of the weights."""
    return folder.name if folder.parent.name == "snapshots" else fingerprint(folder)


def _notes(folder: Path) -> list[str]:
    full = [name for name in STEMS if name not in half_precision(folder)]
    return [f"weights: {', '.join(full)} read from full precision, as there is no fp16 variant"] if full else []
