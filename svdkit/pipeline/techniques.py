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
import difflib
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
    if _is_on(pipe, name):
        return
    if name == "forward-chunking":
        pipe.unet.enable_forward_chunking(chunk_size=1)
        for layer in _temporal_layers(pipe):
            layer.register_forward_pre_hook(_join_up)
    elif name == "two-pass-guidance":
        pipe.unet.__class__ = _two_pass_class(type(pipe.unet))
    else:
        import torch

        target = torch.device(device or pipe._execution_device)  # noqa: SLF001 - diffusers has no public name for it
        _check_gpu(name, target)
        _unhook(pipe)
        with quiet():
            _hook(pipe, name, device=target)
    _report(pipe, name, on=True)


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
    if not _is_on(pipe, name):
        return
    if name == "forward-chunking":
        for block in pipe.unet.modules():
            if hasattr(block, "set_chunk_feed_forward"):
                block.set_chunk_feed_forward(None, dim=0)
        for layer in _temporal_layers(pipe):
            for key in [key for key, hook in layer._forward_pre_hooks.items() if hook is _join_up]:  # noqa: SLF001 - torch has no other way
                del layer._forward_pre_hooks[key]  # noqa: SLF001
    elif name == "two-pass-guidance":
        pipe.unet.__class__ = type(pipe.unet).__bases__[0]
    else:
        device = pipe._execution_device  # noqa: SLF001 - see above
        _unhook(pipe)
        with quiet():
            pipe.to(device)
    _report(pipe, name, on=False)


def active_techniques(pipe: StableVideoDiffusionPipeline) -> tuple[str, ...]:
    """The techniques that are on now, read from the pipeline itself.

    Example:
        >>> active_techniques(svdkit.load("micro"))
        ()
    """
    on = {
        "forward-chunking": any(getattr(block, "_chunk_size", None) is not None for block in pipe.unet.modules()),
        "two-pass-guidance": getattr(pipe.unet, "runs_guidance_in_two_passes", False),
        _plan(pipe): True,
    }
    return tuple(name for name in TECHNIQUES if on.get(name))


def _is_on(pipe: StableVideoDiffusionPipeline, name: str) -> bool:
    if name not in TECHNIQUES:
        close = difflib.get_close_matches(name, TECHNIQUES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise SettingsError(f"technique {name!r} is not known{hint}: give one of {', '.join(TECHNIQUES)}")
    return name in active_techniques(pipe)


def _check_gpu(name: str, device: torch.device) -> None:
    if device.type != "cuda":
        raise PipelineError(
            f"{name} moves weights between a CUDA GPU and memory, and this pipeline computes on {device.type}: use "
            "memory='resident'; where memory is short, 'two-pass-guidance' and 'forward-chunking' help"
        )


def _temporal_layers(pipe: StableVideoDiffusionPipeline) -> list[nn.Module]:
    """The feed-forward layers that diffusers slices by frame, across memory."""
    blocks = [block for block in pipe.unet.modules() if hasattr(block, "ff_in")]
    return [layer for block in blocks for layer in (block.ff_in, block.ff)]


def _join_up(_layer: nn.Module, inputs: Any) -> Any:
    """Put a slice's values side by side: else torch multiplies each with the weights by itself, many times slower."""
    return (inputs[0].contiguous(), *inputs[1:])


def _two_pass_class(network: Any) -> Any:
    """A subclass whose call splits an even batch in two.

    Wrapping `forward` would be simpler, but offload hooks wrap and restore it too, in whatever order they come and go;
    a call stands outside all of them, and outside `compile`, which then sees batches of n only.
    """

    def in_two_passes(self: nn.Module, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        import torch

        batch = len(sample)
        if batch % 2:
            return network.__call__(self, sample, *args, **kwargs)

        def half(value: Any, index: int) -> Any:
            # A scalar time step is for all; everything of the batch's length is cut with it.
            is_batch = torch.is_tensor(value) and value.ndim > 0 and len(value) == batch
            return value.chunk(2)[index] if is_batch else value

        def run(index: int) -> Any:
            named = {key: half(value, index) for key, value in kwargs.items()}
            return network.__call__(self, *(half(value, index) for value in (sample, *args)), **named)

        first, second = run(0), run(1)
        joined = torch.cat([first[0], second[0]])
        return (joined,) if isinstance(first, tuple) else type(first)(sample=joined)

    body = {"__call__": in_two_passes, "__module__": network.__module__, "runs_guidance_in_two_passes": True}
    return type(network.__name__, (network,), body)


def _plan(pipe: StableVideoDiffusionPipeline) -> str:
    """The offload plan that is on, "resident" for none."""
    if getattr(pipe, "_all_hooks", None):
        return "offload"
    if hasattr(pipe.unet, "_hf_hook"):
        return "sequential"
    hooked = any("group_offloading" in registry.hooks for registry in _registries(pipe.unet))
    return "group-offload" if hooked else "resident"


def _hook(pipe: StableVideoDiffusionPipeline, plan: str, *, device: torch.device) -> None:
    if plan == "offload":
        pipe.enable_model_cpu_offload(device=device)
    elif plan == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        from diffusers.hooks import apply_group_offloading

        # The VAE (0.18 GiB) stays on the device: diffusers raises it to fp32 and back for each photo, which a hook that
        # keeps a copy of the weights would not notice. CLIP runs once a clip, so fetching ahead would gain nothing.
        options = {"onload_device": device, "offload_device": "cpu", "offload_type": "leaf_level"}
        pipe.to("cpu", silence_dtype_warnings=True)
        apply_group_offloading(pipe.unet, use_stream=device.type == "cuda", **options)
        apply_group_offloading(pipe.image_encoder, **options)
        pipe.vae.to(device)


def _unhook(pipe: StableVideoDiffusionPipeline) -> None:
    """Take any offload plan off; the weights are in main memory afterwards, as they are while it is on."""
    if _plan(pipe) == "resident":
        return
    pipe.remove_all_hooks()
    for registry in (*_registries(pipe.unet), *_registries(pipe.image_encoder)):
        for hook in _GROUP_HOOKS:
            registry.remove_hook(hook, recurse=False)


def _registries(network: nn.Module) -> list[Any]:
    """Where diffusers keeps the hooks of each module; it has no public way to take group offloading off."""
    return [module._diffusers_hook for module in network.modules() if hasattr(module, "_diffusers_hook")]  # noqa: SLF001 - see above


def _report(pipe: StableVideoDiffusionPipeline, name: str, *, on: bool) -> None:
    """Keep the load report true."""
    report = getattr(pipe, "svdkit", None)
    if report is not None:
        change = {_SWITCHES[name]: on} if name in _SWITCHES else {"memory": name if on else "resident"}
        pipe.svdkit = dataclasses.replace(report, settings=report.settings.replace(**change))
