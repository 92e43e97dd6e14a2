"""One run of a network on the meta device: its arithmetic, its memory traffic, its peak; no value is computed."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from svdkit.bench.forecast.call import Call, Count

if TYPE_CHECKING:
    from collections.abc import Callable

# Operations that only look at a tensor in another way and start no kernel.
_VIEWS = {
    *("alias", "as_strided", "chunk", "detach", "empty", "expand", "narrow", "permute", "select", "slice", "split"),
    *("squeeze", "t", "transpose", "unbind", "unsafe_split", "unsqueeze", "view", "_unsafe_view", "_reshape_alias"),
}
_MOST_CHUNKED_FRAMES = 25


def measure_call(pipe: Any, call: Call) -> Count:
    """Count one call of one stage of a pipeline that is on the meta device, as ``random_pipeline`` builds it.

    With forward chunking, feed-forward layers run once a frame: more than 25 frames are counted as 25 and scaled up,
    for bytes and kernels grow with frames (a test compares them).

    Example:
        >>> pipe = random_pipeline("svd-xt", dtype=torch.float16, device="meta")
        >>> measure_call(pipe, Call("unet", 25, 576, 1024, batch=2)).flops / 1e12
        159.89...
    """
    if call.chunked and call.frames > _MOST_CHUNKED_FRAMES:
        small = measure_call(pipe, call._replace(frames=_MOST_CHUNKED_FRAMES))
        plain = measure_call(pipe, call._replace(chunked=False))
        factor = call.frames / _MOST_CHUNKED_FRAMES
        return Count(plain.flops, *(round(number * factor) for number in small[1:]))
    run = {"image_encoder": _image_encoder, "vae_encode": _vae_encode, "unet": _unet, "vae_decode": _vae_decode}
    if call.chunked:
        pipe.unet.enable_forward_chunking(chunk_size=1)
    try:
        return _count(lambda: run[call.stage](pipe, call))
    finally:
        if call.chunked:
            for block in pipe.unet.modules():
                if hasattr(block, "set_chunk_feed_forward"):
                    block.set_chunk_feed_forward(None, dim=0)


def _count(run: Callable[[], Any]) -> Count:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), _fused_attention(), _meter() as found, FlopCounterMode(display=False) as flops:
        run()
    return Count(flops.get_total_flops(), found.moved, found.kernels, found.peak, found.peak_workspace)


def _fused_attention() -> Any:
    """Attention as on a GPU; on meta torch would use its formula, with a matrix of all tokens by all tokens."""
    import torch
    from torch.overrides import TorchFunctionMode

    class FusedAttention(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if function is not torch.nn.functional.scaled_dot_product_attention:
                return function(*args, **kwargs)
            query, key, value = (*args, *(kwargs[name] for name in ("query", "key", "value")[len(args) :]))[:3]
            attend = torch.ops.aten._scaled_dot_product_efficient_attention  # noqa: SLF001 - no public name
            return attend(query, key, value, None, False)[0]  # noqa: FBT003 - no log-sum-exp

    return FusedAttention()


def _meter() -> Any:  # noqa: C901 - a class of five short methods
    """Adds up what every operation reads and writes, and the storages that are alive."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import flop_registry

    class Meter(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.live = self.peak = self.peak_workspace = self.moved = self.kernels = 0
            self.known: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = _tensors((args, kwargs))
            for tensor in given:  # what comes from outside is a weight, not an activation
                self.known.setdefault(tensor.untyped_storage(), True)
            out = function(*args, **(kwargs or {}))
            made = _tensors(out)
            for tensor in made:
                self.add(tensor.untyped_storage())
            self.note(function, given, made)
            return out

        def note(self, function: Any, given: list[Any], made: list[Any]) -> None:
            name = function._schema.name.rpartition("::")[2]  # noqa: SLF001 - no public name
            if name not in _VIEWS:
                self.kernels += 1
                if function._overloadpacket not in flop_registry:  # noqa: SLF001 - the registry's own key
                    self.moved += sum(map(_bytes, (*given, *made)))
            # For half precision cuDNN copies both to channels-last order, in a workspace.
            workspace = _bytes(given[0]) + _bytes(made[0]) if name == "convolution" else 0
            self.peak = max(self.peak, self.live)
            self.peak_workspace = max(self.peak_workspace, self.live + workspace)

        def add(self, storage: Any) -> None:
            if storage not in self.known:
                self.known[storage] = True
                self.live += storage.nbytes()
                weakref.finalize(storage, self.free, storage.nbytes())

        def free(self, size: int) -> None:
            self.live -= size

    return Meter()


def _tensors(values: Any) -> list[Any]:
    import torch
    from torch.utils._pytree import tree_leaves

    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def _bytes(tensor: Any) -> int:
    return int(tensor.numel() * tensor.element_size())


def _image_encoder(pipe: Any, call: Call) -> Any:
    import torch

    side = pipe.image_encoder.config.image_size
    photo = torch.empty(1, 3, side, side, device="meta", dtype=_dtype(call))
    return pipe.image_encoder(photo).image_embeds


def _vae_encode(pipe: Any, call: Call) -> Any:
    import torch

    photo = torch.empty(1, 3, call.height, call.width, device="meta", dtype=_dtype(call))
    return pipe.vae.encode(photo).latent_dist.mode()


def _unet(pipe: Any, call: Call) -> Any:
    import torch

    like: dict[str, Any] = {"device": "meta", "dtype": _dtype(call)}
    config, scale = pipe.unet.config, pipe.vae_scale_factor
    size = (config.in_channels, call.height // scale, call.width // scale)
    time_ids = config.projection_class_embeddings_input_dim // config.addition_time_embed_dim
    return pipe.unet(
        torch.empty(call.batch, call.frames, *size, **like),
        torch.empty((), device="meta"),
        encoder_hidden_states=torch.empty(call.batch, 1, config.cross_attention_dim, **like),
        added_time_ids=torch.empty(call.batch, time_ids, **like),
        return_dict=False,
    )


def _vae_decode(pipe: Any, call: Call) -> Any:
    import torch

    scale = pipe.vae_scale_factor
    size = (pipe.vae.config.latent_channels, call.height // scale, call.width // scale)
    latents = torch.empty(call.frames, *size, device="meta", dtype=_dtype(call))
    return pipe.vae.decode(latents, num_frames=call.frames).sample


def _dtype(call: Call) -> Any:
    import torch

    return torch.float32 if call.element_bytes == 4 else torch.float16
