"""Stage keys: equal for what a stage does not depend on, different for what it does."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace

import pytest

from svdkit.generate.stages import model_identity, stage_key
from svdkit.settings import ClipSettings

STAGES = ("encode", "denoise", "decode")
SETTINGS = ClipSettings(seed=1).resolve(height=64, width=128, num_frames=14)

# The first stage whose output changes with each setting; playback_fps goes only into the file.
FIRST_STAGE = {
    "height": ("encode", 72),
    "width": ("encode", 64),
    "noise_aug_strength": ("encode", 0.1),
    "seed": ("encode", 2),
    "num_frames": ("denoise", 25),
    "num_inference_steps": ("denoise", 10),
    "min_guidance_scale": ("denoise", 1.5),
    "max_guidance_scale": ("denoise", 2.5),
    "fps": ("denoise", 9),
    "motion_bucket_id": ("denoise", 40),
    "decode_chunk_size": ("decode", 2),
    "playback_fps": (None, 24.0),
}


def key(stage, settings=SETTINGS, *, photo="a" * 64, model="micro"):
    return stage_key(stage, settings, image_sha256=photo, model=model)


def test_every_setting_has_its_place():
    """A setting added to ClipSettings must be given a stage, or be named here as one that no stage needs."""
    assert FIRST_STAGE.keys() == {field.name for field in fields(ClipSettings)}


@pytest.mark.parametrize("name", FIRST_STAGE)
def test_a_setting_changes_the_keys_from_its_stage_on(name):
    first, value = FIRST_STAGE[name]
    changed = SETTINGS.replace(**{name: value})
    expected = STAGES[STAGES.index(first) :] if first else ()
    assert [stage for stage in STAGES if key(stage) != key(stage, changed)] == list(expected)


def test_photo_and_model_change_every_key():
    for stage in STAGES:
        assert len({key(stage), key(stage, photo="b" * 64), key(stage, model="svd"), key(stage)}) == 3


def test_a_loaded_model_is_known_by_name_revision_weights_and_dtype():
    report = SimpleNamespace(
        is_ours=True,
        model=SimpleNamespace(name="svd"),
        revision="9f1c",
        weights="trained",
        settings=SimpleNamespace(dtype="fp16"),
    )
    assert model_identity(SimpleNamespace(svdkit=report)) == "svd, revision 9f1c, trained weights, fp16"


def test_own_pipelines_are_one_when_they_share_their_networks():
    vae, other = object(), object()
    first, second, third = (SimpleNamespace(vae=network) for network in (vae, vae, other))
    assert model_identity(first) == model_identity(second) != model_identity(third)
