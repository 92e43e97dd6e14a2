"""LoadSettings, ClipSettings and presets: what they take, what they refuse, and in which words."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
from collections import OrderedDict
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from svdkit.errors import SettingsError, shown
from svdkit.settings import ClipSettings, Conditioning, LoadSettings, choose_decode_chunk_size, clip_preset, presets

SIZE = {"height": 72, "width": 128, "num_frames": 14}


def problems(make, *positions, **values):
    with pytest.raises(SettingsError) as caught:
        make(*positions, **values)
    return caught.value.problems


# --- values that are taken, and become plain Python -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("fps", np.uint8(6), 6),
        ("fps", 6.0, 6),
        ("fps", np.float32(6), 6),
        ("fps", Fraction(12, 2), 6),
        ("fps", Decimal(6), 6),
        ("height", np.int32(72), 72),
        ("noise_aug_strength", Decimal("0.02"), 0.02),
        ("noise_aug_strength", np.float64(0.1), 0.1),
        ("noise_aug_strength", 1, 1.0),
        ("playback_fps", 12, 12.0),
        ("seed", 2**63 - 1, 2**63 - 1),
        ("seed", np.uint64(2**63 - 1), 2**63 - 1),
        ("seed", 0, 0),
        ("motion_bucket_id", 0, 0),
        ("forward_chunking", np.bool_(True), True),
        ("forward_chunking", True, True),
        ("model", PurePosixPath("models/my svd"), "models/my svd"),
        ("model", Path("模型"), "模型"),
        ("dtype", np.str_("fp16"), "fp16"),
        *(("device", device, device) for device in ("auto", "cpu", "cuda", "cuda:0", "cuda:12", "mps")),
    ],
)
def test_values_of_other_kinds_become_plain_python(name, given, kept):
    kind = ClipSettings if name in ClipSettings.__dataclass_fields__ else LoadSettings
    value = getattr(kind(**{name: given}), name)
    assert (value, type(value)) == (kept, type(kept))


def test_negative_zero_is_zero_so_that_equal_settings_have_equal_json():
    assert math.copysign(1, ClipSettings(noise_aug_strength=-0.0).noise_aug_strength) == 1


# --- values that are refused ------------------------------------------------------------------------------------


class Broken:
    def __repr__(self):
        raise RuntimeError("no repr")


SEED = "a whole number from 0 to 9223372036854775807"
FPS = "a whole number from 1 to 60"
NOISE = "a number from 0 to 10"
NAME = "a name such as 'svd-xt', a folder or a hub id"
BLANKS = f"{NAME}; remove the blanks at its ends and anything that cannot be printed"
DTYPES = "'auto', 'fp32', 'fp16', 'bf16' or 'fp8'"
PLANS = "'auto', 'resident', 'offload', 'group-offload' or 'sequential'"
DEVICES = "'auto', 'cpu', 'cuda', 'cuda:<number>' or 'mps'"


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("height", 70, "a multiple of 8 from 16 to 2048 or None; use 64 or 72"),
        ("width", 4096, "a multiple of 8 from 16 to 2048 or None; use 2048"),
        ("height", 0, "a multiple of 8 from 16 to 2048 or None; use 16"),
        ("num_frames", 1, "a whole number from 2 to 256 or None; use 2"),
        ("num_frames", 257, "a whole number from 2 to 256 or None; use 256"),
        ("num_inference_steps", 1001, "a whole number from 1 to 1000 or None; use 1000"),
        ("min_guidance_scale", -0.5, "a number from 0 to 100; use 0"),
        ("max_guidance_scale", 101, "a number from 0 to 100 or None; use 100"),
        ("max_guidance_scale", 10**400, "a number from 0 to 100 or None; this is not a finite number"),
        ("fps", 61, f"{FPS}; use 60"),
        ("fps", 6.5, f"{FPS}; use 6 or 7"),
        ("fps", "7", f"{FPS}; this is text: write the number without quotes"),
        ("fps", "1:30", f"{FPS}; this is a str"),
        ("fps", True, f"{FPS}; True and False are not numbers"),
        ("fps", None, f"{FPS}; None is not allowed here: leave it out for the default"),
        ("fps", Decimal("sNaN"), f"{FPS}; this is not a finite number"),
        ("fps", [7], f"{FPS}; this is a list"),
        ("motion_bucket_id", 1024, "a whole number from 0 to 1023; use 1023"),
        ("noise_aug_strength", math.inf, f"{NOISE}; this is not a finite number"),
        ("noise_aug_strength", 10.5, f"{NOISE}; use 10"),
        ("noise_aug_strength", np.True_, f"{NOISE}; this is a {type(np.True_).__name__}"),
        ("decode_chunk_size", 0, "a whole number from 1 to 256 or None; use 1"),
        ("seed", -1, f"{SEED} or None; use 0"),
        ("seed", 2**63, f"{SEED} or None; use 9223372036854775807"),
        ("seed", 1e18, f"{SEED} or None; write the whole number in full, without a point or an exponent"),
        ("playback_fps", 0, "a number from 0.1 to 240 or None; use 0.1"),
        ("model", "", NAME),
        ("model", " svd", BLANKS),
        ("model", "svd\0", BLANKS),
        ("model", 7, f"{NAME}; this is a int"),
        ("weights", "Random", "'trained' or 'random'; write 'random'"),
        ("weights", 3, "'trained' or 'random'; choose one"),
        ("dtype", "float16", f"{DTYPES}; write 'fp16'"),
        ("dtype", "half", f"{DTYPES}; write 'fp16'"),
        ("dtype", "int8", f"{DTYPES}; choose one"),
        ("memory", "group_offload", f"{PLANS}; write 'group-offload'"),
        ("forward_chunking", 1, "True or False"),
        ("two_pass_guidance", None, "True or False"),
        ("device", "gpu", f"{DEVICES}; write 'cuda'"),
        ("device", "cuda:x", f"{DEVICES}; write 'cuda'"),
        ("revision", "a b", "a branch, tag or commit or None"),
        ("source", "local", "'auto', 'hub', 'modelscope' or 'folder'; write 'folder'"),
        ("random_seed", -3, f"{SEED}; use 0"),
        ("preset", "fast", "left out (this version has no acceleration presets) or None"),
    ],
)
def test_a_bad_value_says_what_was_given_what_is_allowed_and_what_to_write(name, given, told):
    kind = ClipSettings if name in ClipSettings.__dataclass_fields__ else LoadSettings
    assert problems(kind, **{name: given}) == (f"{name}={shown(given)}: must be {told}",)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (Broken(), "fps=<Broken>: must be a whole number from 1 to 60; this is a Broken"),
        (10**5000, "fps=<int>: must be a whole number from 1 to 60; use 60"),
        ("x" * 10_000, f"fps='{'x' * 58}…: must be a whole number from 1 to 60; this is a str"),
    ],
    ids=["without a repr", "too long to print", "long"],
)
def test_a_value_that_cannot_be_shown_whole_is_refused_in_words(given, told):
    assert problems(ClipSettings, fps=given) == (told,)


def test_a_dtype_of_torch_is_explained_by_its_name():
    import torch

    assert problems(LoadSettings, dtype=torch.bfloat16)[0].endswith("; write 'bf16'")


# --- unknown names, several problems, combinations ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "meant"),
    [
        (ClipSettings, "hieght", "did you mean height?"),
        (ClipSettings, "FPS", "did you mean fps?"),
        (ClipSettings, "steps", "did you mean num_inference_steps?"),
        (ClipSettings, "cond_aug", "did you mean noise_aug_strength?"),
        (ClipSettings, "decoding_t", "did you mean decode_chunk_size?"),
        (ClipSettings, "guidance_scale", "did you mean max_guidance_scale?"),
        (ClipSettings, "generator", "did you mean seed?"),
        (ClipSettings, "dtype", "it belongs to LoadSettings"),
        (LoadSettings, "torch_dtype", "did you mean dtype?"),
        (LoadSettings, "modle", "did you mean model?"),
        (LoadSettings, "fps", "it belongs to ClipSettings"),
        *((kind, name, "the names are ") for kind in (ClipSettings, LoadSettings) for name in ("zzzzz", "cls", "self")),
    ],
)
def test_an_unknown_name_gets_a_suggestion_or_the_list(kind, name, meant):
    """Names that Python itself uses are unknown names too, wherever they are given."""
    for make in (kind, kind().replace, lambda **values: kind.from_dict(values)):
        [problem] = problems(make, **{name: 1})
        assert problem.startswith(f"{name} is not a name here; {meant}")


def test_all_problems_are_listed_at_once():
    """Unknown names, bad values and clashes come together, so that one edit mends them all."""
    with pytest.raises(SettingsError) as caught:
        ClipSettings(fps=0, height=70, steps=3, decode_chunk_size=9, num_frames=8)  # type: ignore[call-arg]
    assert str(caught.value) == (
        "ClipSettings: 4 problems\n"
        "- fps=0: must be a whole number from 1 to 60; use 1\n"
        "- height=70: must be a multiple of 8 from 16 to 2048 or None; use 64 or 72\n"
        "- steps is not a name here; did you mean num_inference_steps?\n"
        "- decode_chunk_size=9 with num_frames=8: at most all frames are decoded at once; leave it out, or use 4"
    )


OFF = "diffusers switches guidance off by the last frame's scale; use a maximum of at least 1.01"
ROUNDED = "half precision rounds them to 1; use a maximum of 1 (no guidance) or at least 1.01"


@pytest.mark.parametrize(
    ("first", "last", "told"),
    [
        *((first, last, OFF) for first, last in ((1.5, 1.0), (3.0, 0.0), (1.001, 1.0))),
        *((first, last, ROUNDED) for first, last in ((1.0, 1.001), (0.0, 1.009), (1.005, 1.005))),
    ],
)
def test_guidance_that_fails_in_diffusers_is_refused(first, last, told):
    [problem] = problems(ClipSettings, min_guidance_scale=first, max_guidance_scale=last)
    assert problem == f"min_guidance_scale={first:g} with max_guidance_scale={last:g}: {told}"


@pytest.mark.parametrize(
    ("first", "last"), [(1.0, 1.0), (0.0, 0.5), (1.0, 1.01), (3.0, 1.01), (3.0, 3.0), (2.0, 1.005)]
)
def test_guidance_that_works_is_taken(first, last):
    assert ClipSettings(min_guidance_scale=first, max_guidance_scale=last).max_guidance_scale == last


def test_a_folder_has_no_revision():
    assert problems(LoadSettings, model="models/svd", source="folder", revision="main") == (
        "revision='main' with source='folder': a folder has no revisions; leave revision out, or use source='hub'",
    )


@pytest.mark.parametrize("kind", [ClipSettings, LoadSettings])
def test_positions_are_refused(kind):
    with pytest.raises(SettingsError, match=r"takes names, not positions: write \w+\((height|model)=…\)"):
        kind({"fps": 7})


# --- plain JSON, copies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        ClipSettings(height=72, width=128, seed=2**63 - 1, playback_fps=12, noise_aug_strength=0.1),
        LoadSettings(model="模型/svd", dtype="fp8", memory="group-offload", device="cuda:1", compile=True),
    ],
)
def test_settings_survive_json_pickle_and_copies(settings):
    assert type(settings).from_dict(json.loads(json.dumps(settings.to_dict(), allow_nan=False))) == settings
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert dataclasses.replace(settings) == settings
    assert hash(copy.copy(settings)) == hash(settings)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.fps = 10


def test_a_dict_may_be_a_part_of_any_order_and_kind():
    """Its order changes no id of a run."""
    shuffled = ClipSettings.from_dict(OrderedDict(seed=1, fps=7, height=72))
    assert json.dumps(shuffled.to_dict()) == json.dumps(ClipSettings(height=72, fps=7, seed=1).to_dict())


@pytest.mark.parametrize("values", [None, 7, "fps=7", ["fps", 7], [("fps", 7)]])
def test_from_dict_refuses_what_is_no_dict(values):
    [problem] = problems(ClipSettings.from_dict, values)
    assert problem.startswith("ClipSettings: from_dict takes a dict of names and values, not ")
    assert problem.endswith("; give it what to_dict() returned")


def test_from_dict_refuses_names_that_are_no_text():
    assert [told.split(", width")[0] for told in problems(ClipSettings.from_dict, {3: 1, None: 2, "fps": 0})] == [
        "3 is not a name here; the names are height",
        "None is not a name here; the names are height",
        "fps=0: must be a whole number from 1 to 60; use 1",
    ]


def test_replace_changes_a_copy():
    settings = ClipSettings(seed=7)
    assert settings.replace(fps=10) == ClipSettings(seed=7, fps=10)
    assert settings.fps == 7


# --- what is left open is filled in -------------------------------------------------------------------------------


def test_resolve_leaves_nothing_open():
    resolved = ClipSettings().resolve(height=576, width=1024, num_frames=25)
    assert None not in resolved.to_dict().values()
    assert (resolved.height, resolved.width, resolved.num_frames, resolved.decode_chunk_size) == (576, 1024, 25, 5)
    assert (resolved.playback_fps, type(resolved.playback_fps)) == (7.0, float)
    assert resolved.resolve(height=16, width=16, num_frames=2) == resolved


def test_resolve_keeps_what_the_user_said():
    own = {"num_inference_steps": 4, "max_guidance_scale": 2}
    said = ClipSettings(height=72, width=128, num_frames=8, decode_chunk_size=2, seed=3, playback_fps=12, **own)
    assert said.resolve(height=576, width=1024, num_frames=25, max_guidance_scale=1.5, seed=9) == said


def test_what_is_left_open_is_the_models_own_and_else_that_of_diffusers():
    usual = ClipSettings().resolve(**SIZE)
    assert (usual.num_inference_steps, usual.max_guidance_scale) == (25, 3)
    own = ClipSettings().resolve(**SIZE, num_inference_steps=10, max_guidance_scale=1.5, seed=11)
    assert (own.num_inference_steps, own.max_guidance_scale, own.seed) == (10, 1.5, 11)


def test_drawn_seeds_differ_and_are_short():
    seeds = [ClipSettings().resolve(**SIZE).seed for _ in range(8)]
    assert len(set(seeds)) > 1
    assert all(seed is not None and 0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_frames": True}, "num_frames=True: must be a whole number from 2 to 256 or None; True and False are not"),
        ({"num_frames": None}, "resolve: num_frames must not be None; give the model's own"),
        ({"height": None, "max_guidance_scale": None}, "resolve: height, max_guidance_scale must not be None; give"),
        ({"seed": -1}, "seed=-1: must be a whole number from 0 to 9223372036854775807 or None; use 0"),
        ({"num_frames": 2}, "decode_chunk_size=3 with num_frames=2: "),
    ],
)
def test_resolve_judges_what_it_is_given(given, message):
    [problem] = problems(ClipSettings(decode_chunk_size=3).resolve, **{**SIZE, **given})
    assert problem.startswith(message)


# --- the decode chunk ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "chunk"),
    [(1, 1), (2, 2), (5, 5), (6, 4), (7, 5), (8, 4), (13, 5), (14, 7), (16, 8), (21, 7), (24, 8), (25, 5), (26, 4)],
)
def test_the_chunk_svdkit_chooses(frames, chunk):
    assert choose_decode_chunk_size(frames) == chunk


def test_no_chunk_is_above_eight_nor_leaves_a_lone_frame():
    for frames in range(2, 257):
        chunk = choose_decode_chunk_size(frames)
        assert 1 <= chunk <= min(8, frames)
        assert frames % chunk != 1
        assert frames <= 5 or chunk < frames


# --- what the UNet receives, and what other tools send --------------------------------------------------------------


def test_the_unet_receives_one_frame_a_second_less_as_plain_json():
    found = ClipSettings(fps=1, motion_bucket_id=40, noise_aug_strength=0.1).conditioning
    assert found == Conditioning(fps=0, motion_bucket_id=40, noise_aug_strength=0.1)
    assert json.dumps(found.to_dict()) == '{"fps": 0, "motion_bucket_id": 40, "noise_aug_strength": 0.1}'


@pytest.mark.parametrize(
    ("name", "model_fps", "playback", "guidance", "noise", "steps"),
    [
        ("diffusers", 6, 7.0, (1.0, 3.0), 0.02, 25),
        ("comfyui", 5, 6.0, (1.0, 2.5), 0.0, 20),
        ("generative-models", 6, 10.0, (1.5, 3.0), 0.02, 30),
        ("generative-models-svd", 6, 10.0, (1.0, 2.5), 0.02, 25),
        ("generative-models-gradio", 6, 7.0, (1.5, 3.0), 0.02, 30),
        ("generative-models-streamlit", 5, 6.0, (1.5, 3.0), 0.02, 30),
        ("marketplace", 6, 7.0, (1.0, 3.0), 0.2, 25),
        ("hf-space", 6, 6.0, (1.0, 3.0), 0.1, 25),
    ],
)
def test_a_preset_sends_what_the_other_tool_sends(name, model_fps, playback, guidance, noise, steps):
    """Its line tells the fps that the UNet gets; size, frames, seed and chunk stay open."""
    open_ones = {"height", "width", "num_frames", "seed", "decode_chunk_size"}
    assert open_ones <= {field for field, value in clip_preset(name).to_dict().items() if value is None}
    assert f"the UNet gets fps {model_fps}" in presets()[name]
    settings = clip_preset(name).resolve(height=576, width=1024, num_frames=25)
    assert settings.conditioning == Conditioning(fps=model_fps, motion_bucket_id=127, noise_aug_strength=noise)
    assert (settings.min_guidance_scale, settings.max_guidance_scale) == guidance
    assert (settings.num_inference_steps, settings.playback_fps) == (steps, playback)


ALL = (
    "choose one of diffusers, comfyui, generative-models, generative-models-svd, generative-models-gradio, "
    "generative-models-streamlit, marketplace, hf-space"
)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("comfy", "'comfy'; did you mean 'comfyui'?"),
        ("HF-Space", "'HF-Space'; did you mean 'hf-space'?"),
        ("a1111", f"'a1111'; {ALL}"),
        ([], f"[]; {ALL}"),
    ],
)
def test_an_unknown_preset_gets_a_suggestion(name, told):
    assert problems(clip_preset, name) == (f"there is no preset {told}",)
