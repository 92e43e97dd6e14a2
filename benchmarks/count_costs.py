"""Count what the networks of the catalogue cost, and write the coefficients that svdkit evaluates.

    python benchmarks/count_costs.py          # all, in some minutes
    python benchmarks/count_costs.py micro    # after micro's networks have changed

Each stage runs on the meta device, where shapes are real and nothing is computed, over a range of frames, sizes and
batches; a polynomial is then fitted so that its largest relative error is smallest. Writes svdkit/models/costs.json and
prints those errors, which tests/test_costs.py holds.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.optimize import linprog
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for svdkit where it is not installed

from svdkit.models import find_model, random_pipeline  # noqa: E402 - behind the line above
from svdkit.models.costs import COSTS_FILE, Call, Cost, Network, counted, network_fingerprint, terms  # noqa: E402
from svdkit.models.folder import STEMS  # noqa: E402
from svdkit.models.random_weights import configurations  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIZES = ((576, 1024), (512, 512), (320, 576), (256, 448))
MICRO_SIZES = ((72, 128), (64, 64), (96, 160), (128, 128), (144, 256))
FRAMES = (8, 14, 25)


def calls_of(name: str) -> Iterator[Call]:
    """List the calls that are counted for a model.

    Example:
        >>> next(calls_of("svd"))
        Call(stage='image_encoder', frames=1, height=576, width=1024, batch=1, element_bytes=2, chunked=False)
    """
    sizes = MICRO_SIZES if name == "micro" else SIZES
    yield Call("image_encoder", 1, *sizes[0])
    for height, width in sizes:
        yield Call("vae_encode", 1, height, width)
        for batch, chunked, frames in itertools.product((1, 2), (False, True), FRAMES):
            yield Call("unet", frames, height, width, batch=batch, chunked=chunked)
        for frames in (1, 2, 3, 5, 14):
            yield Call("vae_decode", frames, height, width)


def fit(calls: Sequence[Call], counts: Sequence[Cost], downscale: int) -> tuple[list[list[float]], list[float]]:
    """Fit one polynomial to each kind of count: coefficients, none below 0, and its largest relative error."""
    powers = np.array([terms(call, downscale) for call in calls], float)
    fits = [_smallest_error(powers, np.array(column, float)) for column in zip(*counts, strict=True)]
    return [row for row, _ in fits], [error for _, error in fits]


def _smallest_error(powers: Any, counts: Any) -> tuple[list[float], float]:
    relative = powers / counts[:, None]
    scale = relative.max(axis=0)
    scaled, one = relative / scale, np.ones((len(counts), 1))
    # least e with |scaled x - 1| <= e
    bounds = np.block([[scaled, -one], [-scaled, -one]])
    found = linprog([0] * scaled.shape[1] + [1], bounds, np.concatenate([one[:, 0], -one[:, 0]]), method="highs-ds")
    row = [float(f"{value:.12g}") for value in found.x[:-1] / scale]
    return row, float(abs(relative @ np.array(row) - 1).max())


def count(name: str) -> dict[str, Any]:
    """Count a model and give its entry of the file; its errors are printed."""
    info = find_model(name)
    pipe = random_pipeline(info, dtype=torch.float16, device="meta")
    parameters = {part: sum(p.numel() for p in getattr(pipe, part).parameters()) for part in STEMS}
    network, kinds = Network(parameters, int(pipe.vae_scale_factor), {}), dict[str, list[Call]]()
    for call in calls_of(name):
        kinds.setdefault(call.kind, []).append(call)
    coefficients = {}
    for kind, calls in kinds.items():
        coefficients[kind], errors = fit(calls, [measure_call(pipe, call) for call in calls], network.downscale)
        print(
            name, kind, *(f"{field} {error:.2%}" for field, error in zip(Cost._fields, errors, strict=True)), sep=", "
        )
    return {
        "fingerprint": network_fingerprint(configurations(info)),
        **network._replace(coefficients=coefficients)._asdict(),
    }


def main(names: Sequence[str]) -> None:
    """Count, and write the file; what is not named stays as it is."""
    networks = counted()["networks"] | {name: count(name) for name in names or ("svd", "micro")}
    made_with = {package: importlib.metadata.version(package) for package in ("torch", "diffusers", "transformers")}
    command = "python benchmarks/count_costs.py"
    text = json.dumps({"command": command, "made_with": made_with, "shape": counted()["shape"], "networks": networks})
    # One polynomial a line, so that a change can be read.
    COSTS_FILE.write_text(text.replace("[[", "[\n [").replace("], [", "],\n [") + "\n", encoding="utf-8")


# Operations that only look at a tensor in another way and start no kernel.
_VIEWS = {
    *("alias", "as_strided", "chunk", "detach", "empty", "expand", "narrow", "permute", "select", "slice", "split"),
    *("squeeze", "t", "transpose", "unbind", "unsafe_split", "unsqueeze", "view", "_unsafe_view", "_reshape_alias"),
}


def measure_call(pipe: Any, call: Call) -> Cost:
    """Cost one call of one stage of a pipeline that is on the meta device, as ``random_pipeline`` builds it."""
    for name in STEMS:
        torch.nn.Module.to(getattr(pipe, name), _dtype(call))
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


def _count(run: Callable[[], Any]) -> Cost:
    with torch.no_grad(), _fused_attention(), _meter() as found, FlopCounterMode(display=False) as flops:
        run()
    return Cost(flops.get_total_flops(), found.moved, found.kernels, found.peak, found.peak_workspace)


def _fused_attention() -> Any:
    """Attention as on a GPU; on meta torch would use its formula, with a matrix of all tokens by all tokens."""

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
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def _bytes(tensor: Any) -> int:
    return int(tensor.numel() * tensor.element_size())


def _image_encoder(pipe: Any, call: Call) -> Any:
    side = pipe.image_encoder.config.image_size
    photo = torch.empty(1, 3, side, side, device="meta", dtype=_dtype(call))
    return pipe.image_encoder(photo).image_embeds


def _vae_encode(pipe: Any, call: Call) -> Any:
    photo = torch.empty(1, 3, call.height, call.width, device="meta", dtype=_dtype(call))
    return pipe.vae.encode(photo).latent_dist.mode()


def _unet(pipe: Any, call: Call) -> Any:
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
    scale = pipe.vae_scale_factor
    size = (pipe.vae.config.latent_channels, call.height // scale, call.width // scale)
    latents = torch.empty(call.frames, *size, device="meta", dtype=_dtype(call))
    return pipe.vae.decode(latents, num_frames=call.frames).sample


def _dtype(call: Call) -> Any:
    return torch.float32 if call.element_bytes == 4 else torch.float16


if __name__ == "__main__":
    main(sys.argv[1:])
