"""Settings against diffusers itself: the same names and defaults, and nothing refused without need."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from svdkit.errors import SettingsError
from svdkit.settings import ClipSettings

OURS_ALONE = {"seed", "playback_fps"}
# None: micro has its own, SVD those of diffusers.
MODELS_OWN = {"height", "width", "num_inference_steps", "max_guidance_scale"}


@pytest.fixture(scope="module")
def signature():
    from diffusers import StableVideoDiffusionPipeline

    return inspect.signature(StableVideoDiffusionPipeline.__call__).parameters


def call(pipe, **values):
    """Run the bare pipeline on a grey photo, as small and short as it goes."""
    from PIL import Image

    size = {"height": values.pop("height", 16), "width": values.pop("width", 16)}
    photo = Image.new("RGB", (size["width"], size["height"]), "grey")
    settings = {"num_frames": 2, "num_inference_steps": 1, "decode_chunk_size": 1, "output_type": "np"}
    return pipe(photo, **size, **settings | values).frames


def test_names_and_defaults_are_those_of_the_pipeline(signature):
    assert {field.name for field in dataclasses.fields(ClipSettings)} - set(signature) == OURS_ALONE
    ours = {name: value for name, value in ClipSettings().to_dict().items() if name not in OURS_ALONE | MODELS_OWN}
    svd = ClipSettings().resolve(height=16, width=16, num_frames=2)
    ours |= {name: getattr(svd, name) for name in ("max_guidance_scale", "num_inference_steps")}
    assert ours == {name: signature[name].default for name in ours}


@pytest.mark.parametrize(
    "values",
    [
        {"num_frames": 1},
        {"min_guidance_scale": 1.5, "max_guidance_scale": 1.0},
        {"height": 20},
        {"height": 8, "width": 8},
    ],
)
def test_what_settings_refuse_fails_in_the_pipeline(toy_pipe, values):
    with pytest.raises(SettingsError):
        ClipSettings(**values)
    with pytest.raises((RuntimeError, ValueError)):
        call(toy_pipe, **values)


def test_guidance_close_to_one_fails_in_half_precision_only():
    """The ramp is rounded to the latents' dtype, and its largest value decides: 1.003 is 1 in bf16."""
    import torch

    assert torch.tensor(1.003).bfloat16().item() == 1
    assert torch.tensor(1.01).bfloat16().item() > 1
    assert torch.tensor(1.01).half().item() > 1


@pytest.mark.parametrize(
    "values",
    [
        {"height": 16, "width": 16},
        {"height": 24, "width": 40},
        {"fps": 1, "motion_bucket_id": 0, "noise_aug_strength": 0.0},
        {"fps": 60, "motion_bucket_id": 1023, "noise_aug_strength": 10.0},
        {"min_guidance_scale": 3.0, "max_guidance_scale": 1.01},
        {"min_guidance_scale": 0.0, "max_guidance_scale": 0.0},
    ],
)
def test_the_edges_of_what_settings_allow_run(toy_pipe, values):
    import numpy as np

    ClipSettings(**values)
    frames = call(toy_pipe, **values)
    assert frames.shape == (1, 2, values.get("height", 16), values.get("width", 16), 3)
    assert np.isfinite(frames).all()


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_torch_takes_every_seed_we_allow(seed):
    import torch

    assert torch.Generator().manual_seed(seed).initial_seed() == seed


def test_the_unet_receives_the_conditioning(toy_pipe, monkeypatch):
    """The numbers of `.conditioning` are the added_time_ids of the real call."""
    seen = []
    forward = toy_pipe.unet.forward

    def spy(*args, added_time_ids, **rest):
        seen.append(added_time_ids)
        return forward(*args, added_time_ids=added_time_ids, **rest)

    monkeypatch.setattr(toy_pipe.unet, "forward", spy)
    settings = ClipSettings(fps=11, motion_bucket_id=40, noise_aug_strength=0.25)
    call(toy_pipe, fps=11, motion_bucket_id=40, noise_aug_strength=0.25)
    assert seen[0][-1].tolist() == list(settings.conditioning.to_dict().values())
