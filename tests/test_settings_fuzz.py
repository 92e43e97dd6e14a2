"""Odd values and dicts thrown at settings: nothing but SettingsError comes out, and what is taken survives JSON."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svdkit.errors import SettingsError
from svdkit.settings import ClipSettings, LoadSettings, choose_decode_chunk_size, clip_preset
from tests.fuzz import VALUES, answer, cases, odd

KINDS = (ClipSettings, LoadSettings)
NAMES = {kind: tuple(field.name for field in dataclasses.fields(kind)) for kind in KINDS}
PLAIN = (int, float, str, bool, type(None))
GOOD = {
    "height": st.integers(2, 256).map(lambda size: size * 8),
    "width": st.integers(2, 256).map(lambda size: np.int64(size * 8)),
    "num_frames": st.none() | st.integers(2, 256),
    "num_inference_steps": st.integers(1, 1000),
    "min_guidance_scale": st.floats(0, 100),
    "max_guidance_scale": st.floats(0, 100),
    "fps": st.integers(1, 60).map(float),
    "motion_bucket_id": st.integers(0, 1023),
    "noise_aug_strength": st.floats(0, 10) | st.floats(0, 10, width=32).map(np.float32),
    "decode_chunk_size": st.none() | st.integers(1, 256),
    "seed": st.none() | st.integers(0, 2**63 - 1),
    "playback_fps": st.none() | st.floats(0.1, 240),
}


def attempt(make, *positions, **values):
    """Build settings; give them, or the problems of svdkit's refusal. Any other exception fails the test."""
    made = answer(make, *positions, own=SettingsError, **values)
    if not isinstance(made, SettingsError):
        return made, ()
    assert made.problems
    assert all(problem.strip() and len(problem) < 500 for problem in made.problems)
    return None, made.problems


def check_taken(taken):
    """Whatever was taken is plain and finite, and is the same after JSON."""
    values = taken.to_dict()
    assert all(type(value) in PLAIN for value in values.values())
    assert all(math.isfinite(value) for value in values.values() if isinstance(value, float))
    assert type(taken).from_dict(json.loads(json.dumps(values, allow_nan=False))) == taken


@pytest.mark.parametrize("kind", KINDS)
@cases("settings", 30)
@given(data=st.data())
def test_odd_values_names_and_dicts(kind, data):
    """One odd value, some, odd names, or no dict at all; constructor and replace judge alike."""
    names = st.sampled_from(NAMES[kind])
    some = st.dictionaries(names | st.sampled_from(["cls", "self"]) | st.text(max_size=20), VALUES, max_size=6)
    odd_names = st.dictionaries(st.integers() | st.none() | st.text(), VALUES, max_size=3)
    values = data.draw(st.dictionaries(names, VALUES, min_size=1, max_size=1) | some | odd_names | VALUES)
    taken, _ = attempt(kind.from_dict, values)
    if taken is not None:
        check_taken(taken)
    if isinstance(values, dict) and all(isinstance(name, str) for name in values):
        assert taken == attempt(kind, **values)[0] == attempt(kind().replace, **values)[0]


@cases("settings", 24)
@given(values=st.fixed_dictionaries({}, optional=GOOD), frames=st.sampled_from([4, 14, 25]))
def test_values_in_range_are_refused_only_together_and_resolve_or_say_why_not(values, frames):
    """Each value is good by itself, so a refusal names two settings and why they clash."""
    taken, problems = attempt(ClipSettings, **values)
    assert all(" with " in problem.split(":")[0] for problem in problems)
    if taken is None:
        return
    check_taken(taken)
    resolved, _ = attempt(taken.resolve, height=72, width=128, num_frames=frames)
    if resolved is not None:
        check_taken(resolved)
        assert None not in resolved.to_dict().values()
        assert resolved.decode_chunk_size <= resolved.num_frames


@cases("settings", 10)
@given(
    sizes=st.fixed_dictionaries({name: odd(st.just(64)) for name in ("height", "width", "num_frames")}),
    rest=st.dictionaries(st.sampled_from(["max_guidance_scale", "seed"]), VALUES),
)
def test_resolve_with_odd_values(sizes, rest):
    resolved, _ = attempt(ClipSettings().resolve, **sizes, **rest)
    if resolved is not None:
        check_taken(resolved)
        assert None not in resolved.to_dict().values()


@cases("settings", 3)
@given(name=VALUES)
def test_any_preset_name(name):
    attempt(clip_preset, name)


@cases("settings", 3)
@given(frames=st.integers(1, 10_000))
def test_any_number_of_frames_has_a_chunk(frames):
    chunk = choose_decode_chunk_size(frames)
    assert 1 <= chunk <= min(frames, 8)
    assert frames == 1 or frames % chunk != 1
