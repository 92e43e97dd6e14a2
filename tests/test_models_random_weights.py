"""Random weights: the real structure at full size, and activations of ordinary size at every step."""

from __future__ import annotations

import copy
import math
import shutil
from typing import Any

import pytest
import torch

from svdkit.errors import IncompleteModelError, ModelError
from svdkit.models import find_model, random_pipeline, random_weights
from tests.toy import NUM_FRAMES, SCHEDULER, clip_of, write_hub_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_hub_folder(tmp_path_factory.mktemp("models") / "toy")


@pytest.fixture(scope="module")
def blueprint():
    """The whole of svd-xt without storage."""
    return random_pipeline("svd-xt", dtype=torch.float16, device="meta")


def count(network):
    return sum(weight.numel() for weight in network.parameters())


# Full size, on the meta device


def test_full_size_has_the_parameters_of_svd_and_weighs_what_the_catalogue_says(blueprint):
    assert count(blueprint.unet) == 1_524_623_082
    assert count(blueprint.vae) == 97_742_847
    assert count(blueprint.image_encoder) == 632_076_800
    networks = (blueprint.unet, blueprint.vae, blueprint.image_encoder)
    assert {weight.dtype for network in networks for weight in network.parameters()} == {torch.float16}
    assert 2 * sum(map(count, networks)) == find_model("svd-xt").weights_bytes


def test_configurations_are_svds_and_differ_in_frames_only(blueprint):
    svd, xt = random_weights.configurations(find_model("svd")), random_weights.configurations(find_model("svd-xt"))
    assert (svd["unet"].pop("num_frames"), xt["unet"].pop("num_frames")) == (14, 25)
    assert svd == xt
    assert SCHEDULER.items() <= dict(blueprint.scheduler.config).items()
    assert blueprint.vae_scale_factor == 8
    assert blueprint.vae.config.scaling_factor == 0.18215
    assert blueprint.vae.config.force_upcast


# Seeds and folders, at toy size


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone(folder):
    """The largest seed works too."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, other = (
        random_pipeline(folder, dtype=torch.float32, device="cpu", seed=seed).unet.state_dict()
        for seed in (3, 3, 2**63 - 1)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["conv_in.weight"], other["conv_in.weight"])
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_are_ready_to_run(folder):
    pipe = random_pipeline(folder, dtype=torch.bfloat16, device="cpu")
    for network in (pipe.unet, pipe.vae, pipe.image_encoder):
        assert not network.training
        assert {(weight.dtype, weight.device.type) for weight in network.parameters()} == {(torch.bfloat16, "cpu")}


def test_a_folder_needs_its_configuration_only(folder, tmp_path):
    with pytest.raises(IncompleteModelError, match=r"lacks feature_extractor/preprocessor_config\.json: download it"):
        random_pipeline(tmp_path, dtype=torch.float32, device="meta")
    bare = shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    assert random_pipeline(bare, dtype=torch.float32, device="meta").unet.config.num_frames == NUM_FRAMES


def test_another_hub_id_has_no_known_configuration():
    with pytest.raises(ModelError, match="weights='random' needs the configuration of 'someone/else'"):
        random_pipeline("someone/else", dtype=torch.float32, device="meta")


@pytest.mark.parametrize(
    ("name", "shape", "mean", "deviation"),
    [
        ("weight", (64, 256), 0, 1 / 16),
        ("weight", (64, 32, 3, 3), 0, 1 / math.sqrt(288)),
        ("weight", (64,), 1, 0),
        ("bias", (64,), 0, 0),
        ("mix_factor", (1,), 0.5, 0),
        ("class_embedding", (4096,), 0, 1 / math.sqrt(3)),
    ],
)
def test_initial_values(name, shape, mean, deviation):
    tensor = torch.full(shape, torch.nan)
    random_weights._fill(tensor, name=name, generator=torch.Generator().manual_seed(0))
    assert tensor.mean().item() == pytest.approx(mean, abs=0.05)
    assert tensor.std(correction=0).item() == pytest.approx(deviation, rel=0.05)


# Honest activations


def watch(pipe):
    """Keep, for every module, the largest value and the deviation of all that it puts out."""
    seen: dict[str, list[tuple[float, float]]] = {}

    def keep(path, output):
        first = output[0] if isinstance(output, tuple) else output
        value: Any = getattr(first, "sample", first)
        if torch.is_tensor(value) and value.is_floating_point() and value.numel() > 1:
            seen.setdefault(path, []).append((value.abs().max().item(), value.std().item()))

    for name in ("unet", "vae", "image_encoder"):
        for path, module in getattr(pipe, name).named_modules():
            module.register_forward_hook(lambda _, __, output, path=f"{name}.{path}": keep(path, output))
    return seen


def narrow_pipeline():
    """A network as deep as SVD but narrow: 8 M parameters.

    With variance 1 / fan-in the size of activations follows depth, not width, so it stands for the full network, which
    takes 8 GiB and minutes here.
    """
    narrow = copy.deepcopy(random_weights.configurations(find_model("svd")))
    heads = [1, 1, 2, 2]
    narrow["unet"] |= {
        "block_out_channels": [32, 64, 128, 128],
        "num_attention_heads": heads,
        "cross_attention_dim": 64,
    }
    narrow["vae"] |= {"block_out_channels": [32, 32, 64, 64]}
    narrow["image_encoder"] |= {"hidden_size": 80, "intermediate_size": 320, "num_attention_heads": 2}
    narrow["image_encoder"] |= {"projection_dim": 64, "patch_size": 56}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random_weights, "configurations", lambda _: narrow)
        return random_pipeline("svd", dtype=torch.float32, device="cpu")


def measure(pipe, *, steps):
    """Run a small clip; return sizes by module, the latents of each step, and the frames."""
    sizes, latents = watch(pipe), []

    def keep(_pipe, _step, _timestep, state):
        latents.append(state["latents"])
        return state

    frames = clip_of(pipe, num_frames=2, num_inference_steps=steps, callback_on_step_end=keep)
    return sizes, latents, frames


def wild(sizes):
    """Modules whose output leaves the range of fp16, or whose deviation is not of ordinary size."""
    return [path for path, seen in sizes.items() if not all(most < 1e4 and 1e-2 < std < 1e2 for most, std in seen)]


@pytest.fixture(scope="module")
def measured():
    return measure(narrow_pipeline(), steps=25)


def test_every_module_stays_of_ordinary_size_over_all_steps(measured):
    """Largest value below 1e4, where fp16 ends at 65,504, and deviations between 0.01 and 100."""
    sizes, _, _ = measured
    assert len(sizes) > 2000
    assert wild(sizes) == []


def test_the_measure_of_size_can_fail():
    """Weights ten times too large, as a careless normal_() would give, are found."""
    pipe = narrow_pipeline()
    for weight in pipe.unet.parameters():
        weight.mul_(10)
    sizes, _, _ = measure(pipe, steps=1)
    assert len(wild(sizes)) > 100


def test_latents_are_finite_at_every_step_and_end_like_an_image(measured):
    _, latents, frames = measured
    assert len(latents) == 25
    assert all(torch.isfinite(step).all() for step in latents)
    assert 0.1 < latents[-1].std() < 10
    assert torch.isfinite(frames).all()
    assert 0.02 < frames.std() < 0.5
