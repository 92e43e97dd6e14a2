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

from svdkit.errors import SettingsError
from svdkit.settings import ClipSettings, Conditioning, LoadSettings, choose_decode_chunk_size, clip_preset, presets

FRAMES = "must be a whole number from 2 to 256 or None"


def problems(make, *positions, **values):
    with pytest.raises(SettingsError) as caught:
        make(*positions, **values)
    return caught.value.problems


# --- values that are taken, and become plain Python -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("fps", np.int64(6), 6),
        ("fps", np.uint8(6), 6),
        ("fps", 6.0, 6),
        ("fps", np.float32(6), 6),
        ("fps", Fraction(12, 2), 6),
        ("fps", Decimal(6), 6),
        ("noise_aug_strength", Decimal("0.02"), 0.02),
        ("height", np.int32(72), 72),
        ("noise_aug_strength", np.float64(0.1), 0.1),
        ("noise_aug_strength", np.float16(0.5), 0.5),
        ("noise_aug_strength", 1, 1.0),
        ("playback_fps", 12, 12.0),
        ("max_guidance_scale", Fraction(5, 2), 2.5),
        ("seed", 2**63 - 1, 2**63 - 1),
        ("seed", np.uint64(2**63 - 1), 2**63 - 1),
        ("seed", 0, 0),
        ("motion_bucket_id", 0, 0),
    ],
)
def test_numbers_of_other_kinds_become_plain_python(name, given, kept):
    value = getattr(ClipSettings(**{name: given}), name)
    assert value == kept
    assert type(value) is type(kept)


def test_negative_zero_is_zero_so_that_equal_settings_have_equal_json():
    assert math.copysign(1, ClipSettings(noise_aug_strength=-0.0).noise_aug_strength) == 1


@pytest.mark.parametrize(("given", "kept"), [(np.bool_(True), True), (np.False_, False), (True, True)])
def test_switches_of_numpy_become_plain_python(given, kept):
    assert LoadSettings(forward_chunking=given).forward_chunking is kept


@pytest.mark.parametrize("path", [PurePosixPath("models/my svd"), Path("模型")])
def test_a_path_becomes_text(path):
    assert LoadSettings(model=path).model == str(path)


def test_text_of_other_kinds_becomes_plain_text():
    assert type(LoadSettings(model=np.str_("svd"), dtype=np.str_("fp16")).dtype) is str


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12", "mps"])
def test_devices_torch_knows_are_taken(device):
    assert LoadSettings(device=device).device == device


# --- values that are refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("height", 70, "height=70: must be a multiple of 8 from 16 to 2048 or None; use 64 or 72"),
        ("width", 4096, "width=4096: must be a multiple of 8 from 16 to 2048 or None; use 2048"),
        ("height", 0, "height=0: must be a multiple of 8 from 16 to 2048 or None; use 16"),
        ("num_frames", 1, "num_frames=1: must be a whole number from 2 to 256 or None; use 2"),
        ("num_frames", 257, "num_frames=257: must be a whole number from 2 to 256 or None; use 256"),
        ("num_inference_steps", 0, "num_inference_steps=0: must be a whole number from 1 to 1000 or None; use 1"),
        (
            "num_inference_steps",
            1001,
            "num_inference_steps=1001: must be a whole number from 1 to 1000 or None; use 1000",
        ),
        ("min_guidance_scale", -0.5, "min_guidance_scale=-0.5: must be a number from 0 to 100; use 0"),
        ("max_guidance_scale", 101, "max_guidance_scale=101: must be a number from 0 to 100 or None; use 100"),
        ("fps", 0, "fps=0: must be a whole number from 1 to 60; use 1"),
        ("fps", 61, "fps=61: must be a whole number from 1 to 60; use 60"),
        ("fps", 6.5, "fps=6.5: must be a whole number from 1 to 60; use 6 or 7"),
        (
            "fps",
            "7",
            "fps='7': must be a whole number from 1 to 60; this is text: write the number without quotes",
        ),
        ("fps", True, "fps=True: must be a whole number from 1 to 60; True and False are not numbers"),
        (
            "fps",
            None,
            "fps=None: must be a whole number from 1 to 60; None is not allowed here: leave it out for the default",
        ),
        ("fps", "1:30", "fps='1:30': must be a whole number from 1 to 60; this is a str"),
        (
            "fps",
            Decimal("sNaN"),
            "fps=Decimal('sNaN'): must be a whole number from 1 to 60; this is not a finite number",
        ),
        ("fps", [7], "fps=[7]: must be a whole number from 1 to 60; this is a list"),
        ("fps", 7j, "fps=7j: must be a whole number from 1 to 60; this is a complex"),
        ("motion_bucket_id", -1, "motion_bucket_id=-1: must be a whole number from 0 to 1023; use 0"),
        ("motion_bucket_id", 1024, "motion_bucket_id=1024: must be a whole number from 0 to 1023; use 1023"),
        (
            "noise_aug_strength",
            math.nan,
            "noise_aug_strength=nan: must be a number from 0 to 10; this is not a finite number",
        ),
        (
            "noise_aug_strength",
            math.inf,
            "noise_aug_strength=inf: must be a number from 0 to 10; this is not a finite number",
        ),
        ("noise_aug_strength", 10.5, "noise_aug_strength=10.5: must be a number from 0 to 10; use 10"),
        (
            "noise_aug_strength",
            np.True_,
            f"noise_aug_strength={np.True_!r}: must be a number from 0 to 10; this is a {type(np.True_).__name__}",
        ),
        ("decode_chunk_size", 0, "decode_chunk_size=0: must be a whole number from 1 to 256 or None; use 1"),
        ("seed", -1, "seed=-1: must be a whole number from 0 to 9223372036854775807 or None; use 0"),
        (
            "seed",
            2**63,
            (
                "seed=9223372036854775808: must be a whole number from 0 to 9223372036854775807 or None; "
                "use 9223372036854775807"
            ),
        ),
        (
            "seed",
            1e18,
            (
                "seed=1e+18: must be a whole number from 0 to 9223372036854775807 or None; "
                "write the whole number in full, without a point or an exponent"
            ),
        ),
        ("playback_fps", 0, "playback_fps=0: must be a number from 0.1 to 240 or None; use 0.1"),
    ],
)
def test_a_bad_clip_value_says_what_was_given_what_is_allowed_and_what_to_write(name, given, message):
    assert problems(ClipSettings, **{name: given}) == (message,)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("model", "", "model='': must be a name such as 'svd-xt', a folder or a hub id"),
        (
            "model",
            " svd",
            (
                "model=' svd': must be a name such as 'svd-xt', a folder or a hub id; "
                "remove the blanks at its ends and anything that cannot be printed"
            ),
        ),
        ("model", 7, "model=7: must be a name such as 'svd-xt', a folder or a hub id; this is a int"),
        (
            "model",
            "svd\0",
            (
                "model='svd\\x00': must be a name such as 'svd-xt', a folder or a hub id; "
                "remove the blanks at its ends and anything that cannot be printed"
            ),
        ),
        ("weights", "Random", "weights='Random': must be 'trained' or 'random'; write 'random'"),
        ("weights", 3, "weights=3: must be 'trained' or 'random'; choose one"),
        ("dtype", "float16", "dtype='float16': must be 'auto', 'fp32', 'fp16', 'bf16' or 'fp8'; write 'fp16'"),
        ("dtype", "half", "dtype='half': must be 'auto', 'fp32', 'fp16', 'bf16' or 'fp8'; write 'fp16'"),
        ("dtype", "int8", "dtype='int8': must be 'auto', 'fp32', 'fp16', 'bf16' or 'fp8'; choose one"),
        (
            "memory",
            "group_offload",
            (
                "memory='group_offload': must be 'auto', 'resident', 'offload', 'group-offload' or 'sequential'; "
                "write 'group-offload'"
            ),
        ),
        ("forward_chunking", 1, "forward_chunking=1: must be True or False"),
        ("compile", "yes", "compile='yes': must be True or False"),
        ("two_pass_guidance", None, "two_pass_guidance=None: must be True or False"),
        (
            "device",
            "gpu",
            "device='gpu': must be 'auto', 'cpu', 'cuda', 'cuda:<number>' or 'mps'; write 'cuda'",
        ),
        ("device", "cuda:x", "device='cuda:x': must be 'auto', 'cpu', 'cuda', 'cuda:<number>' or 'mps'"),
        ("revision", "a b", "revision='a b': must be a branch, tag or commit or None"),
        ("source", "local", "source='local': must be 'auto', 'hub', 'modelscope' or 'folder'; write 'folder'"),
        ("random_seed", -3, "random_seed=-3: must be a whole number from 0 to 9223372036854775807; use 0"),
        (
            "preset",
            "fast",
            "preset='fast': must be left out (this version has no acceleration presets) or None",
        ),
    ],
)
def test_a_bad_load_value_says_what_was_given_what_is_allowed_and_what_to_write(name, given, message):
    assert problems(LoadSettings, **{name: given}) == (message,)


def test_a_dtype_of_torch_is_explained_by_its_name():
    class Dtype:
        def __repr__(self):
            return "torch.bfloat16"

    [problem] = problems(LoadSettings, dtype=Dtype())
    assert problem.endswith("; write 'bf16'")


def test_a_value_without_a_repr_is_called_by_its_type():
    class Broken:
        def __repr__(self):
            raise RuntimeError("no repr")

    assert problems(ClipSettings, fps=Broken()) == (
        "fps=<Broken>: must be a whole number from 1 to 60; this is a Broken",
    )


def test_a_number_too_long_to_print_is_refused_in_words():
    assert problems(ClipSettings, fps=10**5000) == ("fps=<int>: must be a whole number from 1 to 60; use 60",)


def test_a_number_too_large_for_a_float_is_refused():
    [problem] = problems(ClipSettings, max_guidance_scale=10**400)
    assert problem.endswith("must be a number from 0 to 100 or None; this is not a finite number")


def test_a_long_value_is_cut():
    [problem] = problems(ClipSettings, fps="x" * 10_000)
    assert len(problem) < 200
    assert "…" in problem


# --- unknown names, several problems, combinations ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("hieght", "did you mean height?"),
        ("motion_bucket", "did you mean motion_bucket_id?"),
        ("FPS", "did you mean fps?"),
        ("steps", "did you mean num_inference_steps?"),
        ("cond_aug", "did you mean noise_aug_strength?"),
        ("augmentation_level", "did you mean noise_aug_strength?"),
        ("decoding_t", "did you mean decode_chunk_size?"),
        ("guidance_scale", "did you mean max_guidance_scale?"),
        ("generator", "did you mean seed?"),
        ("dtype", "it belongs to LoadSettings"),
    ],
)
def test_an_unknown_clip_name_gets_a_suggestion(name, meant):
    assert problems(ClipSettings, **{name: 1}) == (f"{name} is not a name here; {meant}",)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("torch_dtype", "did you mean dtype?"),
        ("variant", "did you mean dtype?"),
        ("modle", "did you mean model?"),
        ("fps", "it belongs to ClipSettings"),
        ("num_frames", "it belongs to ClipSettings"),
    ],
)
def test_an_unknown_load_name_gets_a_suggestion(name, meant):
    assert problems(LoadSettings, **{name: 1}) == (f"{name} is not a name here; {meant}",)


def test_a_name_like_no_other_gets_the_list():
    [problem] = problems(ClipSettings, zzzzz=1)
    assert problem.startswith("zzzzz is not a name here; the names are height, width, num_frames, ")


def test_all_problems_are_listed_at_once():
    """Unknown names, bad values and clashes come together, so that one edit mends them all."""
    with pytest.raises(SettingsError) as caught:
        ClipSettings(fps=0, height=70, steps=3)  # type: ignore[call-arg]
    assert str(caught.value) == (
        "ClipSettings: 3 problems\n"
        "- fps=0: must be a whole number from 1 to 60; use 1\n"
        "- height=70: must be a multiple of 8 from 16 to 2048 or None; use 64 or 72\n"
        "- steps is not a name here; did you mean num_inference_steps?"
    )


def test_a_clash_is_listed_beside_a_bad_value():
    assert [text.split(":")[0] for text in problems(ClipSettings, fps=0, decode_chunk_size=9, num_frames=8)] == [
        "fps=0",
        "decode_chunk_size=9 with num_frames=8",
    ]


def test_a_chunk_above_the_frames_is_refused():
    assert problems(ClipSettings, decode_chunk_size=25, num_frames=14) == (
        "decode_chunk_size=25 with num_frames=14: at most all frames are decoded at once; leave it out, or use 7",
    )


@pytest.mark.parametrize(("first", "last"), [(1.5, 1.0), (3.0, 0.0), (1.001, 1.0)])
def test_guidance_switched_off_by_the_last_frame_only_is_refused(first, last):
    [problem] = problems(ClipSettings, min_guidance_scale=first, max_guidance_scale=last)
    assert problem == (
        f"min_guidance_scale={first:g} with max_guidance_scale={last:g}: diffusers switches guidance off by the "
        "last frame's scale; use a maximum of at least 1.01"
    )


@pytest.mark.parametrize(("first", "last"), [(1.0, 1.001), (0.0, 1.009), (1.005, 1.005)])
def test_guidance_that_half_precision_rounds_away_is_refused(first, last):
    [problem] = problems(ClipSettings, min_guidance_scale=first, max_guidance_scale=last)
    assert problem.endswith("half precision rounds them to 1; use a maximum of 1 (no guidance) or at least 1.01")


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
        ClipSettings(),
        ClipSettings(height=72, width=128, seed=2**63 - 1, playback_fps=12, noise_aug_strength=0.1),
        LoadSettings(),
        LoadSettings(model="模型/svd", dtype="fp8", memory="group-offload", device="cuda:1", compile=True),
    ],
)
def test_settings_survive_json_pickle_and_copies(settings):
    assert type(settings).from_dict(json.loads(json.dumps(settings.to_dict(), allow_nan=False))) == settings
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert copy.deepcopy(settings) == settings
    assert dataclasses.replace(settings) == settings
    assert hash(copy.copy(settings)) == hash(settings)


def test_from_dict_takes_a_part_and_any_mapping():
    assert ClipSettings.from_dict(OrderedDict(fps=10)) == ClipSettings(fps=10)


def test_to_dict_keeps_the_order_of_the_fields():
    shuffled = ClipSettings.from_dict({"seed": 1, "fps": 7, "height": 72})
    assert json.dumps(shuffled.to_dict()) == json.dumps(ClipSettings(height=72, fps=7, seed=1).to_dict())
    assert list(shuffled.to_dict()) == [field.name for field in dataclasses.fields(ClipSettings)]


@pytest.mark.parametrize("values", [None, 7, "fps=7", ["fps", 7], [("fps", 7)]])
def test_from_dict_refuses_what_is_no_dict(values):
    [problem] = problems(ClipSettings.from_dict, values)
    assert problem.startswith("ClipSettings: from_dict takes a dict of names and values, not ")
    assert problem.endswith("; give it what to_dict() returned")


def test_from_dict_refuses_names_that_are_no_text():
    assert problems(ClipSettings.from_dict, {3: 1, None: 2, "fps": 0}) == (
        "3 is not a name: names are text",
        "None is not a name: names are text",
        "fps=0: must be a whole number from 1 to 60; use 1",
    )


def test_replace_changes_a_copy():
    settings = ClipSettings(seed=7)
    assert settings.replace(fps=10) == ClipSettings(seed=7, fps=10)
    assert settings.fps == 7


def test_replace_checks_like_a_new_one():
    assert problems(ClipSettings().replace, fsp=10, height=3) == (
        "height=3: must be a multiple of 8 from 16 to 2048 or None; use 16",
        "fsp is not a name here; did you mean fps?",
    )


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ClipSettings().fps = 10  # type: ignore[misc]


# --- what is left open is filled in -------------------------------------------------------------------------------


def test_resolve_leaves_nothing_open():
    resolved = ClipSettings().resolve(height=576, width=1024, num_frames=25)
    assert None not in resolved.to_dict().values()
    assert (resolved.height, resolved.width, resolved.num_frames) == (576, 1024, 25)
    assert resolved.decode_chunk_size == 5
    assert resolved.playback_fps == 7.0
    assert type(resolved.playback_fps) is float


def test_resolve_keeps_what_the_user_said():
    own = {"num_inference_steps": 4, "max_guidance_scale": 2}
    said = ClipSettings(height=72, width=128, num_frames=8, decode_chunk_size=2, seed=3, playback_fps=12, **own)
    assert said.resolve(height=576, width=1024, num_frames=25, max_guidance_scale=1.5, seed=9) == said


def test_what_is_left_open_is_the_models_own_and_else_that_of_diffusers():
    size = {"height": 72, "width": 128, "num_frames": 14}
    assert ClipSettings().resolve(**size).num_inference_steps == 25
    assert ClipSettings().resolve(**size, num_inference_steps=10).num_inference_steps == 10
    assert ClipSettings().resolve(**size).max_guidance_scale == 3
    assert ClipSettings().resolve(**size, max_guidance_scale=1.5).max_guidance_scale == 1.5


def test_resolve_twice_is_resolve_once():
    resolved = ClipSettings().resolve(height=576, width=1024, num_frames=14)
    assert resolved.resolve(height=16, width=16, num_frames=2) == resolved


def test_resolve_takes_the_seed_it_is_given():
    assert ClipSettings().resolve(height=72, width=128, num_frames=14, seed=11).seed == 11


def test_drawn_seeds_differ_and_are_short():
    seeds = [ClipSettings().resolve(height=72, width=128, num_frames=14).seed for _ in range(8)]
    assert len(set(seeds)) > 1
    assert all(seed is not None and 0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_frames": "14"}, f"num_frames='14': {FRAMES}; this is text: write the number without quotes"),
        ({"num_frames": True}, f"num_frames=True: {FRAMES}; True and False are not numbers"),
        ({"num_frames": None}, "resolve: num_frames must not be None; give the model's own"),
        (
            {"height": None, "max_guidance_scale": None},
            "resolve: height, max_guidance_scale must not be None; give the model's own",
        ),
        ({"seed": -1}, "seed=-1: must be a whole number from 0 to 9223372036854775807 or None; use 0"),
    ],
)
def test_resolve_judges_what_it_is_given(given, message):
    size = {"height": 72, "width": 128, "num_frames": 14}
    assert problems(ClipSettings().resolve, **{**size, **given}) == (message,)


@pytest.mark.parametrize("kind", [ClipSettings, LoadSettings])
@pytest.mark.parametrize("name", ["cls", "self", "values"])
def test_names_that_python_itself_uses_are_unknown_names(kind, name):
    message = f"{name} is not a name here; the names are"
    for make in (kind, kind().replace, lambda **values: kind.from_dict(values)):
        [problem] = problems(make, **{name: 1})
        assert problem.startswith(message)


def test_resolve_refuses_a_chunk_above_the_models_frames():
    [problem] = problems(ClipSettings(decode_chunk_size=25).resolve, height=72, width=128, num_frames=14)
    assert problem.startswith("decode_chunk_size=25 with num_frames=14: ")


# --- the decode chunk ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "chunk"),
    [(1, 1), (2, 2), (5, 5), (6, 4), (7, 5), (8, 4), (13, 5), (14, 7), (16, 8), (21, 7), (24, 8), (25, 5), (26, 4)],
)
def test_the_chunk_svdkit_chooses(frames, chunk):
    assert choose_decode_chunk_size(frames) == chunk


@pytest.mark.parametrize("frames", range(2, 257))
def test_no_chunk_is_above_eight_nor_leaves_a_lone_frame(frames):
    chunk = choose_decode_chunk_size(frames)
    assert 1 <= chunk <= min(8, frames)
    assert frames % chunk != 1
    assert frames <= 5 or chunk < frames


# --- what the UNet receives, and what other tools send --------------------------------------------------------------


def test_the_unet_receives_one_frame_a_second_less():
    assert ClipSettings(fps=1, motion_bucket_id=40, noise_aug_strength=0.1).conditioning == Conditioning(
        fps=0, motion_bucket_id=40, noise_aug_strength=0.1
    )


def test_conditioning_is_plain_json():
    assert json.dumps(ClipSettings().conditioning.to_dict()) == (
        '{"fps": 6, "motion_bucket_id": 127, "noise_aug_strength": 0.02}'
    )


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
    settings = clip_preset(name).resolve(height=576, width=1024, num_frames=25)
    assert settings.conditioning == Conditioning(fps=model_fps, motion_bucket_id=127, noise_aug_strength=noise)
    assert (settings.min_guidance_scale, settings.max_guidance_scale) == guidance
    assert settings.num_inference_steps == steps
    assert settings.playback_fps == playback


@pytest.mark.parametrize("name", ["diffusers", "comfyui", "hf-space"])
def test_an_fps_of_six_reaches_the_unet_as_five(name):
    """diffusers and ComfyUI subtract one; the Space does so too, but never passes the user's fps on."""
    assert clip_preset(name).replace(fps=6).conditioning.fps == 5


def test_each_preset_has_a_line_that_tells_the_fps_the_unet_gets():
    for name, line in presets().items():
        assert f"the UNet gets fps {clip_preset(name).conditioning.fps}" in line


def test_presets_leave_size_frames_seed_and_chunk_open():
    for name in presets():
        settings = clip_preset(name)
        open_names = (settings.height, settings.width, settings.num_frames, settings.seed, settings.decode_chunk_size)
        assert open_names == (None,) * 5


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("comfy", "there is no preset 'comfy'; did you mean 'comfyui'?"),
        ("HF-Space", "there is no preset 'HF-Space'; did you mean 'hf-space'?"),
        (
            "a1111",
            (
                "there is no preset 'a1111'; choose one of diffusers, comfyui, generative-models, "
                "generative-models-svd, generative-models-gradio, generative-models-streamlit, marketplace, hf-space"
            ),
        ),
        (
            [],
            f"there is no preset []; choose one of {', '.join(presets())}",
        ),
    ],
)
def test_an_unknown_preset_gets_a_suggestion(name, message):
    assert problems(clip_preset, name) == (message,)
