"""Ways to need less memory, applied to a pipeline and undone by name.

| name              | does                                          | results                                          |
|-------------------|-----------------------------------------------|--------------------------------------------------|
| forward-chunking  | feed-forward layers one slice after another   | the same maths; rounding may differ (below 1e-5) |
| two-pass-guidance | the guidance batch of 2n as two passes of n   | the same maths; rounding may differ (below 1e-5) |
| offload           | one network on the GPU at a time              | bit-identical                                    |
| group-offload     | a few layers on the GPU, fetched ahead        | bit-identical                                    |
| sequential        | one layer on the GPU at a time                | bit-identical                                    |

Undoing any of them brings back bit-identical results.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from svdkit.errors import PipelineError, SettingsError
from svdkit.models.folder import quiet

if TYPE_CHECKING:
    import torch
    from diffusers import StableVideoDiffusionPipeline
    from torch import nn

_SWITCHES = {"forward-chunking": "forward_chunking", "two-pass-guidance": "two_pass_guidance"}
TECHNIQUES = (*_SWITCHES, "offload", "group-offload", "sequential")
_GROUP_HOOKS = ("group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading")


def apply_technique(pipe: StableVideoDiffusionPipeline, name: str, *, device: str | None = None) -> None:
    """Switch a technique on; nothing happens if it is on already. An offload plan replaces the one before it.

    Args:
        pipe: any StableVideoDiffusionPipeline; if it has `pipe.svdkit`, that report follows.
        name: one of `TECHNIQUES`.
        device: where an offload plan computes; None for where the pipeline computes now.

    Raises:
        SettingsError: unknown name.
        PipelineError: an offload plan on a device that is not a CUDA GPU.

    Example:
        >>> apply_technique(pipe, "two-pass-guidance")
    """
    _switch(pipe, name, on=True, device=device)


def undo_technique(pipe: StableVideoDiffusionPipeline, name: str) -> None:
    """Switch a technique off; nothing happens if it is off already. Without offload plan all weights are on the device.

    Args:
        pipe: the pipeline.
        name: one of `TECHNIQUES`.

    Raises:
        SettingsError: unknown name.

    Example:
        >>> undo_technique(pipe, "two-pass-guidance")
    """
    _switch(pipe, name, on=False)


def active_techniques(pipe: StableVideoDiffusionPipeline) -> tuple[str, ...]:
    """The techniques that are on now, read from the pipeline itself.

    Example:
        >>> active_techniques(svdkit.load("micro"))
        ()
    """
    from diffusers.hooks.group_offloading import _is_group_offload_enabled

    on = {
        "forward-chunking": any(getattr(block, "_chunk_size", None) is not None for block in pipe.unet.modules()),
        "two-pass-guidance": hasattr(pipe.unet, "runs_guidance_in_two_passes"),
        "offload": bool(getattr(pipe, "_all_hooks", None)),
        "group-offload": _is_group_offload_enabled(pipe.unet),
        "sequential": hasattr(pipe.unet, "_hf_hook") and not getattr(pipe, "_all_hooks", None),
    }
    return tuple(name for name in TECHNIQUES if on[name])


def _switch(pipe: Any, name: str, *, on: bool, device: str | None = None) -> None:
    """Apply or undo a technique, and keep the load report true."""
    import torch

    if name not in TECHNIQUES:
        raise SettingsError(f"technique {name!r} is not known: give one of {', '.join(TECHNIQUES)}")
    if on == (name in active_techniques(pipe)):
        return
    if name == "forward-chunking":
        _chunk(pipe.unet, on=on)
    elif name == "two-pass-guidance":
        pipe.unet.__class__ = _two_pass_class(type(pipe.unet)) if on else type(pipe.unet).__bases__[0]
    else:
        target = torch.device(device or pipe._execution_device)  # noqa: SLF001 - diffusers has no public name for it
        if on:
            _check_gpu(name, target)
        _offload(pipe, name if on else "resident", device=target)
    if hasattr(pipe, "svdkit"):
        change = {_SWITCHES[name]: on} if name in _SWITCHES else {"memory": name if on else "resident"}
        pipe.svdkit = dataclasses.replace(pipe.svdkit, settings=pipe.svdkit.settings.replace(**change))


def _check_gpu(name: str, device: torch.device) -> None:
    if device.type != "cuda":
        raise PipelineError(
            f"{name} moves weights between a CUDA GPU and memory, and this pipeline computes on {device.type}: use "
            "memory='resident'; where memory is short, 'two-pass-guidance' and 'forward-chunking' help"
        )


def _chunk(unet: Any, *, on: bool) -> None:
    """Have diffusers slice the feed-forward layers, and put each slice side by side in memory."""
    for handle in vars(unet).pop("svdkit_handles", ()):
        handle.remove()
    if on:
        blocks = [
            block for block in unet.modules() if hasattr(block, "ff_in")
        ]  # these it slices by frame, across memory
        layers = [layer for block in blocks for layer in (block.ff_in, block.ff)]
        unet.svdkit_handles = [layer.register_forward_pre_hook(_join_up) for layer in layers]
    for block in unet.modules():
        if hasattr(block, "set_chunk_feed_forward"):
            block.set_chunk_feed_forward(1 if on else None, dim=0)


def _join_up(_layer: nn.Module, inputs: Any) -> Any:
    """Put a slice's values side by side: else torch multiplies each with the weights by itself, many times slower."""
    return (inputs[0].contiguous(), *inputs[1:])


def _two_pass_class(network: Any) -> Any:
    """A subclass whose call splits an even batch in two.

    Wrapping `forward` would be simpler, but offload hooks wrap and restore it too, in whatever order they come and go;
    a call stands outside all of them, and outside `compile`, which then sees batches of n only.
    """

    def in_two_passes(
        self: nn.Module, sample: Any, timestep: Any, encoder_hidden_states: Any, added_time_ids: Any, **options: Any
    ) -> Any:
        import torch

        steps = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        inputs = (sample, steps, encoder_hidden_states, added_time_ids)
        if len(sample) % 2:
            return network.__call__(self, *inputs, **options)
        halves = zip(*(value.chunk(2) for value in inputs), strict=True)
        first, second = (network.__call__(self, *half, **options) for half in halves)
        joined = torch.cat([first[0], second[0]])
        return (joined,) if isinstance(first, tuple) else type(first)(sample=joined)

    body = {"__call__": in_two_passes, "__module__": network.__module__, "runs_guidance_in_two_passes": True}
    return type(network.__name__, (network,), body)


def _offload(pipe: Any, plan: str, *, device: torch.device) -> None:
    """Take the offload plan off that is on, which leaves the weights in main memory, and put another in its place."""
    from diffusers.hooks import HookRegistry, apply_group_offloading

    pipe.remove_all_hooks()
    for network in (pipe.unet, pipe.image_encoder):  # diffusers has no public way to take group offloading off
        for hook in _GROUP_HOOKS:
            HookRegistry.check_if_exists_or_initialize(network).remove_hook(hook)
    with quiet():
        if plan == "resident":
            pipe.to(device)
        elif plan == "offload":
            pipe.enable_model_cpu_offload(device=device)
        elif plan == "sequential":
            pipe.enable_sequential_cpu_offload(device=device)
        else:
            # The VAE (0.18 GiB) stays on the device: diffusers raises it to fp32 and back for each photo, which a hook
            # that keeps a copy of the weights would not notice. CLIP runs once a clip, so fetching ahead would gain
            # nothing.
            options = {"onload_device": device, "offload_device": "cpu", "offload_type": "leaf_level"}
            pipe.to("cpu", silence_dtype_warnings=True)
            apply_group_offloading(pipe.unet, use_stream=device.type == "cuda", **options)
            apply_group_offloading(pipe.image_encoder, **options)
            pipe.vae.to(device)
