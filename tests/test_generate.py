"""From a photo to a clip in one call; many photos and seeds."""

from __future__ import annotations

import dataclasses
import io
import itertools
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from svdkit.errors import Cancelled, ImageError, SettingsError, SvdkitWarning
from svdkit.generate import encode, generate, generate_batch
from svdkit.generate import run as module
from svdkit.image import fit, sample_photo
from svdkit.models import find_model
from svdkit.pipeline import LoadReport
from svdkit.settings import ClipSettings, LoadSettings

if TYPE_CHECKING:
    from svdkit.clip import Clip

SETTINGS = ClipSettings(height=64, width=64, num_inference_steps=2, seed=3)
SAY_NOTHING: dict[str, Any] = {"progress": False}


def run(pipe, photo="rocket", settings=SETTINGS, **options):
    return generate(pipe, photo, settings, **(SAY_NOTHING | options))


def made(clip):
    assert clip.provenance is not None
    return clip.provenance


@pytest.fixture
def loaded(toy_pipe):
    """The toy as if svdkit.load had made it of svd, trained at 64 by 64 and 4 frames."""
    model = dataclasses.replace(find_model("svd"), height=64, width=64, num_frames=4)
    toy_pipe.svdkit = LoadReport(
        settings=LoadSettings(model="svd", dtype="fp32", memory="resident", device="cpu"),
        model=model,
        revision="9f1c2d",
        weights="trained",
    )
    yield toy_pipe
    del toy_pipe.svdkit


def test_one_call_of_svdkit_is_one_call_of_diffusers(toy_pipe):
    clip, how = run(toy_pipe), {"height": 64, "width": 64}
    how |= {"num_inference_steps": 2, "decode_chunk_size": made(clip).settings["decode_chunk_size"]}
    seed = torch.Generator("cpu").manual_seed(3)
    frames = toy_pipe(fit("rocket", height=64, width=64).image, generator=seed, **how).frames[0]
    assert np.array_equal(clip.frames, np.stack([np.asarray(frame) for frame in frames]))


def test_the_clip_says_what_was_loaded(loaded):
    """Micro is called micro."""
    clip = run(loaded)
    assert made(clip).kind == "svd"
    assert made(clip).model == {"name": "svd", "revision": "9f1c2d", "weights": "trained"}
    assert LoadSettings.from_dict(made(clip).load) == loaded.svdkit.settings
    assert made(clip).environment["torch"] == torch.__version__
    assert made(clip).notes == ()
    loaded.svdkit = dataclasses.replace(loaded.svdkit, model=dataclasses.replace(loaded.svdkit.model, name="micro"))
    assert made(run(loaded)).kind == "micro"


def test_a_photo_may_be_many_things(toy_pipe):
    expected = run(toy_pipe)
    assert made(expected).image["source"] == "rocket"
    for photo in (sample_photo("rocket"), fit("rocket", height=64, width=64)):
        assert np.array_equal(run(toy_pipe, photo).frames, expected.frames)


def test_the_size_is_that_of_the_settings_else_of_the_model_else_of_diffusers(loaded, monkeypatch):
    sizes: list[tuple[int, int]] = []
    monkeypatch.setattr(module, "fit", lambda photo, *, height, width, **_: sizes.append((height, width)))
    for pipe, settings in (
        (loaded, ClipSettings(height=72, width=80)),
        (loaded, ClipSettings(width=80)),
        (loaded, ClipSettings()),
        (object(), ClipSettings()),
    ):
        generate_batch(pipe, ["cat"], settings)
    assert sizes == [(72, 80), (64, 80), (64, 64), (576, 1024)]


def test_how_a_photo_is_fitted(toy_pipe):
    clip = run(toy_pipe, fit_mode="pad", border="#102030")
    assert (made(clip).image["mode"], made(clip).image["border"]) == ("pad", "#102030")
    top, bottom = (made(run(toy_pipe, focus=(0.2, y))).image["box"] for y in (0.0, 1.0))
    assert top == bottom, "this photo is wider than the frame: only x moves the cut"
    assert made(run(toy_pipe, focus=(0.8, 0.5))).image["box"] != top


def test_what_is_wrong_is_found_before_anything_runs(toy_pipe, monkeypatch):
    """Of a batch too: all photos are read, and all seeds checked, before the first clip."""
    monkeypatch.setattr(toy_pipe, "_encode_image", None)
    with pytest.raises(ImageError, match="missing"):
        run(toy_pipe, "missing.jpg")
    with pytest.raises(SettingsError, match="progress='loud' is not known"):
        run(toy_pipe, progress="loud")
    message = "settings ask for height=64, width=64, but the photo was fitted to height=72"
    with pytest.raises(SettingsError, match=message):
        run(toy_pipe, fit("cat", height=72, width=64))
    with pytest.raises(ImageError, match="missing"):
        batch(toy_pipe, ["rocket", "missing.jpg"])
    with pytest.raises(SettingsError, match="seed=-1"):
        batch(toy_pipe, ["rocket"], seeds=(1, -1))


def test_a_drawn_seed_is_recorded_and_repeats_the_clip(toy_pipe):
    first = run(toy_pipe, settings=SETTINGS.replace(seed=None))
    second = run(toy_pipe, settings=SETTINGS.replace(seed=None))
    assert made(first).settings["seed"] != made(second).settings["seed"]
    again = run(toy_pipe, settings=ClipSettings.from_dict(made(first).settings))
    assert np.array_equal(again.frames, first.frames)


def test_playback_follows_fps_unless_it_is_set(toy_pipe):
    assert run(toy_pipe, settings=SETTINGS.replace(fps=9)).fps == 9.0
    clip = run(toy_pipe, settings=SETTINGS.replace(fps=9, playback_fps=24.0))
    assert (clip.fps, made(clip).conditioning["fps"]) == (24.0, 8)


def test_a_size_far_from_training_is_warned_of_and_noted(loaded):
    with pytest.warns(SvdkitWarning, match=r"192×64 .* the area that the model was trained on"):
        clip = run(loaded, settings=SETTINGS.replace(height=192))
    assert len(made(clip).notes) == 1
    assert made(clip).notes[0].startswith("192×64")


def test_the_decode_chunk_keeps_to_the_memory_plan(loaded):
    """A small card's plan counts with two frames at once; what the user asks for still wins."""
    loaded.svdkit = dataclasses.replace(loaded.svdkit, decode_chunk_size=2)
    assert made(run(loaded)).settings["decode_chunk_size"] == 2
    assert made(run(loaded, settings=SETTINGS.replace(decode_chunk_size=3))).settings["decode_chunk_size"] == 3


def test_progress_in_a_log_and_none_when_silent(toy_pipe, capsys):
    run(toy_pipe, progress="terminal")
    assert re.fullmatch(r"encode  .*\ndenoise .*\ndecode  .*\n", capsys.readouterr().err)
    run(toy_pipe)
    assert capsys.readouterr() == ("", "")


def test_a_report_cancels_between_chunks_and_the_pipeline_works_again(toy_pipe):
    """A chunk cannot be interrupted; between two of them a run can be stopped by what shows its progress."""
    settings = SETTINGS.replace(decode_chunk_size=1)
    expected = run(toy_pipe, settings=settings)

    def report(progress):
        if progress.stage == "decode" and progress.step == 2:
            raise Cancelled("closed")

    with pytest.raises(Cancelled, match="closed"):
        run(toy_pipe, settings=settings, progress=report)
    assert np.array_equal(run(toy_pipe, settings=settings).frames, expected.frames)


def batch(pipe, photos, **options):
    return generate_batch(pipe, photos, SETTINGS, **(SAY_NOTHING | options))


def test_a_batch_is_every_photo_with_every_seed(toy_pipe, monkeypatch):
    """CLIP looks at each photo once."""
    asked, encode_image = [], toy_pipe._encode_image

    def spy(*given, **options):
        asked.append(given)
        return encode_image(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(toy_pipe, "_encode_image", spy)
        clips = list(batch(toy_pipe, ["rocket", "cat"], seeds=(1, 2)))
    assert len(asked) == 2
    named = [(made(clip).image["source"], made(clip).settings["seed"]) for clip in clips]
    assert named == [("rocket", 1), ("rocket", 2), ("cat", 1), ("cat", 2)]
    for clip in clips:
        alone = run(toy_pipe, made(clip).image["source"], ClipSettings.from_dict(made(clip).settings))
        assert np.array_equal(clip.frames, alone.frames)


def test_seeds_of_a_batch(toy_pipe):
    assert [made(clip).settings["seed"] for clip in batch(toy_pipe, ["cat"])] == [3]
    first, second = (made(clip).settings["seed"] for clip in batch(toy_pipe, ["cat"], seeds=[None, None]))
    assert first != second
    assert list(batch(toy_pipe, ["cat"], seeds=[])) == []
    with pytest.raises(SettingsError, match=r"seeds is one int, not a list; write seeds=\[…\], also for one"):
        batch(toy_pipe, ["rocket"], seeds=3)


def test_a_failure_loses_none_of_the_finished_clips(toy_pipe):
    """``extend`` keeps what an iterator gave before it failed; so does saving inside a loop."""
    steps = itertools.count(1)
    clips: list[Clip] = []
    with pytest.raises(Cancelled, match="after denoising step 1"):
        clips.extend(batch(toy_pipe, ["rocket"], seeds=(1, 2, 3), on_step=lambda step, latents: next(steps) < 5))
    assert [made(clip).settings["seed"] for clip in clips] == [1, 2]


def test_one_photo_is_not_a_list(toy_pipe):
    files = (Path("rocket.jpg"), b"the bytes of a file", io.BytesIO(b"an open file"))
    for photos in ("rocket", *files, sample_photo("cat"), fit("cat", height=8, width=8), np.zeros((8, 8, 3)), None):
        with pytest.raises(SettingsError, match=r"photos is one \w+, not a list; write photos=\[…\], also for one"):
            batch(toy_pipe, photos)


def test_photos_and_seeds_may_be_arrays(toy_pipe):
    photos = np.stack([np.full((16, 16, 3), grey, dtype=np.uint8) for grey in (60, 180)])
    clips = list(batch(toy_pipe, photos, seeds=np.arange(2)))
    assert [made(clip).settings["seed"] for clip in clips] == [0, 1, 0, 1]
    assert len({made(clip).image["sha256"] for clip in clips}) == 2


def test_threads_wait_in_line_for_a_pipeline(toy_pipe):
    """Without a lock they share one schedule: clips are silently wrong, or an index is out of range."""
    each = [SETTINGS.replace(seed=seed, num_inference_steps=3 + seed % 2) for seed in range(6)]
    alone = [run(toy_pipe, settings=settings) for settings in each]
    with ThreadPoolExecutor(3) as pool:
        made = pool.map(lambda settings: run(toy_pipe, settings=settings), each)
    assert [clip.frames.tobytes() for clip in made] == [clip.frames.tobytes() for clip in alone]


def test_stages_wait_for_a_clip_too(toy_pipe):
    frame, order = fit("rocket", height=64, width=64), []

    def other():
        encode(toy_pipe, frame, SETTINGS)
        order.append("stage of another thread")

    def begin(step, _):
        if step == 1:
            thread.start()
            time.sleep(0.2)
        order.append(f"step {step}")

    thread = threading.Thread(target=other)
    run(toy_pipe, on_step=begin)
    thread.join()
    assert order == ["step 1", "step 2", "stage of another thread"]
