"""A saved clip is made again: same photo, same model, same settings, or an error that says what is missing."""

from __future__ import annotations

import dataclasses
import re
import sys
from typing import Any

import numpy as np
import pytest

import svdkit
from svdkit.clip import Clip
from svdkit.errors import ClipError, ImageError, ModelError, SvdkitWarning
from svdkit.generate import generate, replay
from svdkit.generate import run as module
from svdkit.image import fit, sample_photo
from svdkit.models import find_model
from svdkit.pipeline import LoadReport, load
from svdkit.settings import ClipSettings, LoadSettings
from tests.toy import toy_pipeline, write_hub_folder

SETTINGS = ClipSettings(height=64, width=64, num_inference_steps=2, seed=3)


def report(name="svd", **changes):
    settings = LoadSettings(model=name, dtype="fp32", memory="resident", device="cpu")
    model = dataclasses.replace(find_model(name), height=64, width=64, num_frames=4)
    values: dict[str, Any] = {"revision": "9f1c2d", "weights": "trained", "reasons": (), "load_seconds": 1.0} | changes
    return LoadReport(settings=settings, model=model, **values)


@pytest.fixture(scope="module")
def pipe():
    return toy_pipeline()


@pytest.fixture
def loaded(pipe):
    """The toy as if svdkit.load had made it."""
    pipe.svdkit = report()
    yield pipe
    del pipe.svdkit


def make(pipe, photo="rocket", **options):
    return generate(pipe, photo, SETTINGS, progress=False, **options)


def again(file, **options):
    return replay(file, progress=False, **options)


def same(first, second):
    return np.array_equal(first.frames, second.frames) and first.provenance == second.provenance


def edited(clip, **changes):
    """Copy a clip with parts of its provenance changed."""
    assert clip.provenance is not None
    merged = {
        name: getattr(clip.provenance, name) | value if isinstance(value, dict) else value
        for name, value in changes.items()
    }
    return dataclasses.replace(clip, provenance=dataclasses.replace(clip.provenance, **merged))


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".png"])
def test_a_saved_clip_is_made_again_to_the_bit(loaded, tmp_path, suffix):
    clip = make(loaded)
    file = clip.save(tmp_path / f"walk{suffix}")
    assert same(again(file, pipe=loaded), clip)
    assert same(again(clip, pipe=loaded), clip)


def test_a_clip_of_a_downloaded_folder_is_made_again(tmp_path):
    """The whole way through files: model folder, clip, replay. A record never holds a path, so the folder is given."""
    folder = write_hub_folder(tmp_path / "my-svd")
    settings = SETTINGS.replace(num_inference_steps=1)
    clip = generate(load(folder), fit("cat", height=64, width=64), settings, progress=False)
    file = clip.save(tmp_path / "walk.mp4")
    assert same(again(file, pipe=load(folder)), clip)
    with pytest.raises(
        ClipError, match=r"the model of this clip cannot be loaded here .*; load it yourself and pass it"
    ):
        again(file)


@pytest.fixture
def asked(loaded, monkeypatch):
    """What replay asks for when it loads a model: the name, and the settings."""
    seen: list[tuple[str, LoadSettings]] = []

    def load(model, *, settings):
        seen.append((model, settings))
        return loaded

    monkeypatch.setattr(module, "load", load)
    return seen


def test_the_recorded_model_is_loaded(loaded, asked):
    """Device and memory plan are chosen anew, for they change no frame and this may be another machine."""
    clip = make(loaded)
    assert same(again(clip), clip)
    assert asked == [("svd", LoadSettings(model="svd", dtype="fp32", memory="auto", device="auto"))]


def test_a_clip_of_older_micro_weights_says_why_it_is_not_made_again(loaded, asked):
    """Unless that is what one wants."""
    loaded.svdkit = report("micro", revision="5a2ebe08518a")
    clip = make(loaded)
    loaded.svdkit = report("micro", revision="0123456789ab")
    with pytest.raises(ClipError) as refused:
        again(clip)
    assert str(refused.value) == (
        "this clip was made with other weights of micro (revision 5a2ebe08518a; here 0123456789ab): today's make "
        f"another clip. Install svdkit {svdkit.__version__}, which it was made with, or pass model='micro' for "
        "another clip"
    )
    for given in ({"model": "micro"}, {"pipe": loaded}):
        with pytest.warns(SvdkitWarning, match="revision was 5a2ebe08518a, is 0123456789ab here"):
            again(clip, **given)


SVD, STRANGER = "Stabilityai/stable-video-diffusion-img2vid", "somebody/their-svd"
COMMIT, FILES = "ab" * 20, "9f1c2d3e4a5b"


@pytest.mark.parametrize(
    ("recorded", "given", "loads"),
    [
        (("svd", COMMIT, "auto"), None, ("svd", COMMIT)),
        (("svd", COMMIT, "modelscope"), None, ("svd", None)),
        (("svd", FILES, "auto"), None, ("svd", None)),
        ((SVD, COMMIT, "auto"), None, (SVD, COMMIT)),
        ((STRANGER, COMMIT, "auto"), STRANGER, (STRANGER, COMMIT)),
        ((STRANGER, COMMIT, "auto"), "elsewhere/mirror", ("elsewhere/mirror", None)),
    ],
)
def test_the_recorded_commit_of_the_hub_is_loaded(loaded, asked, recorded, given, loads):
    """The repository may have moved on; a hash of files is nothing that one can ask for."""
    model, revision, source = recorded
    clip = edited(make(loaded), model={"revision": revision}, load={"source": source, "model": model})
    with pytest.warns(SvdkitWarning, match="revision was"):
        again(clip, model=given)
    assert [(name, settings.revision) for name, settings in asked] == [loads]


def test_a_clip_does_not_decide_which_repository_is_asked(loaded, asked):
    """One that is not of the catalogue has to be named by whoever replays: it would hear from them, and their token."""
    with pytest.raises(ClipError) as refused:
        again(edited(make(loaded), load={"model": STRANGER}))
    assert str(refused.value) == (
        "this clip was made with 'somebody/their-svd', a repository that svdkit does not know: loading it would ask "
        "the hub for it, with your login where there is one; if you trust it, pass model= with that name"
    )
    assert asked == []


def test_a_photo_is_found_or_given(loaded, tmp_path):
    """A sample needs no copy; an original is fitted as recorded; the fitted photo or the frame will do too."""
    clip = make(loaded, fit_mode="pad", border="#102030")
    assert same(again(clip.save(tmp_path / "walk.mp4", keep_photo=False), pipe=loaded), clip)
    path, frame = tmp_path / "holiday.png", fit("cat", height=64, width=64, mode="pad")
    sample_photo("coffee").save(path)
    for given, photo, how in (
        *((path, path, {"fit_mode": mode, "focus": (0.1, 0.9)}) for mode in ("crop", "pad", "stretch")),
        (frame, frame, {}),
        (frame, frame.image, {}),
    ):
        clip = make(loaded, given, **how)
        assert same(again(dataclasses.replace(clip, photo=None), pipe=loaded, photo=photo), clip)


def test_another_photo_is_refused(loaded):
    clip = make(loaded)
    with pytest.raises(ClipError, match=r"the photo, fitted as recorded, is not what the clip was made of .* Pass"):
        again(clip, pipe=loaded, photo="cat")
    with pytest.raises(ClipError, match="this frame is not what the clip was made of"):
        again(clip, pipe=loaded, photo=fit("cat", height=64, width=64))
    with pytest.raises(ImageError, match="missing"):
        again(clip, pipe=loaded, photo="missing.jpg")


def test_a_photo_that_is_nowhere_is_asked_for(loaded, tmp_path):
    """Of a video of others nothing is known."""
    path = tmp_path / "holiday.png"
    sample_photo("coffee").save(path)
    file = make(loaded, path).save(tmp_path / "walk.mp4", keep_photo=False)
    message = r"the photo of this clip \(holiday.png\) is not beside it and is no sample photo; pass photo="
    with pytest.raises(ClipError, match=message):
        again(file, pipe=loaded)
    with pytest.raises(ClipError, match="this video carries no svdkit provenance"):
        again(Clip(np.zeros((2, 8, 8, 3), np.uint8), fps=7))


def test_a_pipeline_of_ones_own_must_be_given(pipe):
    clip = make(pipe)
    with pytest.raises(ClipError, match="made with a pipeline that svdkit did not load; pass that pipeline as pipe="):
        again(clip)
    assert same(again(clip, pipe=pipe), clip)


def test_a_model_that_cannot_be_loaded_is_said_with_its_reason(loaded, monkeypatch):
    """Of one that was given the error is that of loading it."""
    clip = make(loaded)
    with pytest.raises(ModelError, match="model 'nix' is not known"):
        again(clip, model="nix")

    def load(model, *, settings):
        raise ModelError("no network")

    monkeypatch.setattr(module, "load", load)
    message = r"the model of this clip cannot be loaded here \(no network\); load it yourself and pass it as pipe="
    with pytest.raises(ClipError, match=message) as caught:
        again(clip)
    assert isinstance(caught.value.__cause__, ModelError)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (report("svd-xt"), "the clip's model has name 'svd', this pipeline 'svd-xt'; pass the right pipe="),
        (report(weights="random"), "the clip's model has weights 'trained', this pipeline 'random'; pass the right"),
    ],
)
def test_another_model_is_refused(loaded, other, words):
    clip = make(loaded)
    loaded.svdkit = other
    with pytest.raises(ClipError, match=words):
        again(clip, pipe=loaded)


def test_what_may_change_bits_is_warned_of(loaded):
    clip = edited(
        make(loaded),
        model={"revision": "0a1b2c"},
        load={"dtype": "fp16", "two_pass_guidance": True},
        environment={"torch": "2.9.1", "gpu": "NVIDIA L4"},
    )
    expected = (
        "frames may differ from the recorded clip: revision was 0a1b2c, is 9f1c2d here; dtype was fp16, is fp32 here; "
        f"two_pass_guidance was True, is False here; torch was 2.9.1, is {sys.modules['torch'].__version__} here; "
        "gpu was NVIDIA L4, is None here"
    )
    with pytest.warns(SvdkitWarning, match=f"^{re.escape(expected)}$"):
        new = again(clip, pipe=loaded)
    assert np.array_equal(new.frames, clip.frames)


def test_settings_of_a_newer_svdkit_are_refused(loaded, tmp_path):
    file = make(loaded).save(tmp_path / "walk.mp4")
    clip = edited(Clip.read(file), settings={"shutter_angle": 180}, svdkit_version="9.0.0")
    with pytest.raises(
        ClipError, match=r"recorded settings do not fit this svdkit .*shutter_angle.*; the clip is of svdkit 9"
    ):
        again(clip, pipe=loaded)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"name": "my-svd"}},
        {"model": {"name": ["svd"]}},
        {"model": {"weights": {"a": 1}}},
        {"environment": {"torch": [1]}},
    ],
    ids=str,
)
def test_values_that_decide_nothing_only_cost_a_warning(loaded, changes):
    """Odd ones, and a name outside the catalogue, which says nothing about the weights."""
    clip = make(loaded)
    with pytest.warns(SvdkitWarning, match="frames may differ"):
        assert np.array_equal(again(edited(clip, **changes), pipe=loaded).frames, clip.frames)
