"""Three stages: bit-identical to one call of diffusers, reusable, and safe to stop."""

from __future__ import annotations

import re
import weakref
from typing import Any

import numpy as np
import pytest
import torch

from svdkit.errors import Cancelled, SettingsError, SvdkitWarning
from svdkit.generate import Progress, decode, denoise, encode
from svdkit.image import fit
from svdkit.settings import ClipSettings
from tests.toy import toy_pipeline

BASE = ClipSettings(num_inference_steps=2, seed=3)


def frame_of(source="rocket", *, height=64, width=64):
    return fit(source, height=height, width=width)


def one_call(pipe, frame, settings, *, output_type="pil"):
    """Run diffusers' own call; every argument that svdkit decides is given."""
    full = settings.resolve(height=frame.height, width=frame.width, num_frames=pipe.unet.config.num_frames)
    arguments = full.to_dict()
    del arguments["playback_fps"]
    generator = torch.Generator("cpu").manual_seed(arguments.pop("seed"))
    return pipe(frame.image, generator=generator, output_type=output_type, **arguments).frames[0]


def frames_of_one_call(pipe, frame, settings):
    return np.stack([np.asarray(image) for image in one_call(pipe, frame, settings)])


def three_stages(pipe, frame, settings):
    return decode(pipe, denoise(pipe, encode(pipe, frame, settings))).frames


def count_calls(monkeypatch, owner, name):
    """Count the calls of a method; the list grows by one at each."""
    calls: list[None] = []
    method = getattr(owner, name)

    def counted(*args, **kwargs):
        calls.append(None)
        return method(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    return calls


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_guidance_scale": 1.0},
        {"min_guidance_scale": 0.0, "max_guidance_scale": 1.0},
        {"min_guidance_scale": 3.0, "max_guidance_scale": 1.5},
        {"decode_chunk_size": 1},
        {"decode_chunk_size": 3},
        {"noise_aug_strength": 0.0},
        {"noise_aug_strength": 0.5, "fps": 12, "motion_bucket_id": 255},
        {"num_frames": 3, "decode_chunk_size": 2},
        {"num_frames": 7, "num_inference_steps": 1},
        {"num_inference_steps": 5, "seed": 2**63 - 1},
        {"height": 64, "width": 128},
        {"height": 72, "width": 40},  # does not divide by the UNet's own halvings
    ],
    ids=str,
)
def test_bits_are_those_of_one_call(toy_pipe, changes):
    settings = BASE.replace(**changes)
    frame = frame_of(height=settings.height or 64, width=settings.width or 64)
    before = torch.get_rng_state()
    made = three_stages(toy_pipe, frame, settings)
    assert torch.equal(torch.get_rng_state(), before), "the global random state is left alone"
    assert made.shape[1:3] == (frame.height, frame.width)
    assert np.array_equal(made, frames_of_one_call(toy_pipe, frame, settings))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_bits_in_half_precision(dtype):
    """The fp16 VAE encodes in fp32, as diffusers has it, and decodes in fp16."""
    pipe = toy_pipeline().to(dtype)
    frame = frame_of(height=32, width=32)
    settings = BASE.replace(num_inference_steps=1, num_frames=2)  # half precision is slow on a CPU
    expected = frames_of_one_call(pipe, frame, settings)
    assert np.array_equal(three_stages(pipe, frame, settings), expected)
    assert pipe.vae.dtype == dtype


def test_bits_of_a_model_shaped_like_micro():
    """Latents of 8 channels, 4 pixels a cell: both numbers come from the pipeline."""
    pipe = toy_pipeline(latent_channels=8, downscale=4)
    frame = frame_of(height=40, width=72)
    encoded = encode(pipe, frame, BASE)
    assert encoded.image_latents.shape == (1, 8, 10, 18)
    frames = decode(pipe, denoise(pipe, encoded)).frames
    assert np.array_equal(frames, frames_of_one_call(pipe, frame, BASE))


def test_bits_with_offloading():
    """Accelerate's hooks work on the CPU too; each stage leaves them as diffusers' call does."""
    pipe = toy_pipeline()
    frame = frame_of()
    expected = frames_of_one_call(pipe, frame, BASE)
    pipe.enable_model_cpu_offload(device="cpu")
    assert np.array_equal(three_stages(pipe, frame, BASE), expected)
    assert len(pipe._all_hooks) == 3
    assert np.array_equal(frames_of_one_call(pipe, frame, BASE), expected)


def test_latents_are_those_of_one_call(toy_pipe):
    frame = frame_of()
    expected = one_call(toy_pipe, frame, BASE, output_type="latent")
    latents = denoise(toy_pipe, encode(toy_pipe, frame, BASE)).latents
    assert torch.equal(latents[0], expected)


def test_the_reference_can_differ(toy_pipe):
    """Another seed, motion or noise gives other frames: equality above means something."""
    base, *others = (
        three_stages(toy_pipe, frame_of(), BASE.replace(**changes))
        for changes in ({}, {"seed": 4}, {"motion_bucket_id": 255}, {"noise_aug_strength": 0.3})
    )
    assert not any(np.array_equal(other, base) for other in others)


def test_one_encoding_serves_many_denoisings(toy_pipe, monkeypatch):
    frame = frame_of()
    encoded = encode(toy_pipe, frame, BASE)
    encodings = count_calls(monkeypatch, toy_pipe.vae, "encode")
    for changes in ({"motion_bucket_id": 30}, {"fps": 20}, {"max_guidance_scale": 1.0}, {"num_frames": 6}):
        settings = BASE.replace(**changes)
        frames = decode(toy_pipe, denoise(toy_pipe, encoded, settings)).frames
        assert not encodings
        assert np.array_equal(frames, frames_of_one_call(toy_pipe, frame, settings)), changes
        encodings.clear()


def test_one_denoising_serves_many_decodings(toy_pipe, monkeypatch):
    frame = frame_of()
    denoised = denoise(toy_pipe, encode(toy_pipe, frame, BASE))
    steps = count_calls(monkeypatch, toy_pipe.unet, "forward")
    clips = {chunk: decode(toy_pipe, denoised, BASE.replace(decode_chunk_size=chunk)) for chunk in (1, 2, 4)}
    assert not steps
    for chunk, clip in clips.items():
        expected = frames_of_one_call(toy_pipe, frame, BASE.replace(decode_chunk_size=chunk))
        assert np.array_equal(clip.frames, expected)


def test_another_seed_shares_what_clip_said(toy_pipe, monkeypatch):
    """The noise on the photo depends on the seed, so the VAE runs again; the image encoder does not.

    What it said of another photo is not taken.
    """
    frame, cat, other = frame_of(), frame_of("cat"), BASE.replace(seed=99)
    first = encode(toy_pipe, frame, BASE)
    clip_calls = count_calls(monkeypatch, toy_pipe.image_encoder, "forward")
    vae_calls = count_calls(monkeypatch, toy_pipe.vae, "encode")
    again = encode(toy_pipe, frame, other, reuse=first)
    assert (len(clip_calls), len(vae_calls)) == (0, 1)
    monkeypatch.undo()
    frames = decode(toy_pipe, denoise(toy_pipe, again)).frames
    assert np.array_equal(frames, frames_of_one_call(toy_pipe, frame, other))
    encoded = encode(toy_pipe, cat, BASE, reuse=first)
    assert torch.equal(encoded.image_embeddings, encode(toy_pipe, cat, BASE).image_embeddings)


def test_a_later_stage_takes_open_settings_from_the_one_before(toy_pipe):
    encoded = encode(toy_pipe, frame_of(), BASE.replace(num_frames=6))
    denoised = denoise(toy_pipe, encoded, ClipSettings(num_inference_steps=1))
    assert (denoised.settings.seed, denoised.settings.num_frames) == (3, 6)


def test_what_was_made_for_something_else_is_refused(toy_pipe):
    encoded: Any = encode(toy_pipe, frame_of(), BASE)
    denoised: Any = denoise(toy_pipe, encoded)
    for make, made, changes, difference, stage in (
        (denoise, encoded, {"seed": 4}, "seed: 3 and 4", "encode"),
        (denoise, encoded, {"noise_aug_strength": 0.1}, "noise_aug_strength: 0.02 and 0.1", "encode"),
        (decode, denoised, {"motion_bucket_id": 9}, "motion_bucket_id: 127 and 9", "denoise"),
    ):
        name = type(made).__name__
        message = f"this {name} was made for other settings ({difference} now); call {stage} again with the settings"
        with pytest.raises(SettingsError, match=re.escape(message)):
            make(toy_pipe, made, BASE.replace(**changes))
    with pytest.raises(SettingsError, match=r"made for other settings \(model: 'own pipeline"):
        denoise(toy_pipeline(seed=1), encoded)


def test_the_clip_says_where_it_comes_from(toy_pipe):
    frame = frame_of()
    denoised = denoise(toy_pipe, encode(toy_pipe, frame, BASE))
    clip = decode(toy_pipe, denoised, BASE.replace(playback_fps=24.0), notes=("a remark",))
    made = clip.provenance
    assert made is not None
    assert clip.fps == 24.0
    assert made.conditioning == {"fps": 6, "motion_bucket_id": 127, "noise_aug_strength": 0.02}
    assert made.image == frame.to_dict()
    assert made.stage_seconds.keys() == {"encode", "denoise", "decode"}
    assert all(seconds > 0 for seconds in made.stage_seconds.values())
    assert made.stage_seconds["denoise"] == denoised.seconds
    assert made.notes == ("a remark",)
    assert made.model == {"name": "own pipeline", "revision": None, "weights": "unknown"}
    assert made.load == {}
    assert clip.photo == frame.image


def test_progress_of_the_three_stages(toy_pipe):
    told: list[Progress] = []
    settings = BASE.replace(decode_chunk_size=2)
    encoded = encode(toy_pipe, frame_of(), settings, progress=told.append)
    denoised = denoise(toy_pipe, encoded, progress=told.append)
    decode(toy_pipe, denoised, progress=told.append)
    assert [(p.stage, p.step, p.steps) for p in told] == [
        (stage, step, 2) for stage in ("encode", "denoise", "decode") for step in range(3)
    ]
    assert encoded.seconds == told[2].elapsed_seconds


def test_on_step_sees_every_step_with_its_latents(toy_pipe):
    seen: list[tuple[int, torch.Tensor]] = []
    encoded = encode(toy_pipe, frame_of(), BASE)
    denoised = denoise(toy_pipe, encoded, on_step=lambda step, latents: seen.append((step, latents.clone())))
    assert [step for step, _ in seen] == [1, 2]
    assert torch.equal(seen[-1][1], denoised.latents)
    assert not torch.equal(seen[0][1], denoised.latents)


def test_a_run_is_cancelled_between_steps_and_the_pipeline_works_again(toy_pipe):
    """By False, or in words of one's own."""

    def stop(step, latents):
        raise Cancelled("the user closed the panel")

    settings = BASE.replace(num_inference_steps=5)
    frame = frame_of()
    encoded = encode(toy_pipe, frame, settings)
    for on_step, words in (
        (lambda step, latents: step < 2, "stopped by on_step after denoising step 2"),
        (stop, "the user closed the panel"),
    ):
        with pytest.raises(Cancelled, match=words) as caught:
            denoise(toy_pipe, encoded, on_step=on_step)
        assert caught.value.finished is encoded
    expected = frames_of_one_call(toy_pipe, frame, settings)
    assert np.array_equal(three_stages(toy_pipe, frame, settings), expected)


@pytest.mark.parametrize("stage", ["encode", "denoise", "decode"])
def test_an_interrupt_in_any_stage_leaves_the_pipeline_usable(stage):
    """Ctrl-C reaches the caller as it is, and offloaded networks are put back."""
    pipe = toy_pipeline()
    pipe.enable_model_cpu_offload(device="cpu")
    frame = frame_of()
    expected = three_stages(pipe, frame, BASE)

    with pytest.MonkeyPatch.context() as patch:
        owner, name = {
            "encode": (pipe.vae, "encode"),
            "denoise": (pipe.scheduler, "step"),
            "decode": (pipe.vae, "decode"),
        }[stage]
        patch.setattr(owner, name, interrupt)
        freed = count_calls(patch, pipe, "maybe_free_model_hooks")
        with pytest.raises(KeyboardInterrupt):
            three_stages(pipe, frame, BASE)
        assert len(freed) == ["encode", "denoise", "decode"].index(stage) + 1
    assert np.array_equal(three_stages(pipe, frame, BASE), expected)


def test_the_fp16_vae_is_fp16_again_after_an_interrupt(monkeypatch):
    """diffusers' own call would leave it in fp32, where the next clip fails."""
    pipe = toy_pipeline()
    pipe.vae.half()
    seen: list[torch.dtype] = []

    def interrupted(image):
        seen.extend((image.dtype, pipe.vae.dtype))
        raise KeyboardInterrupt

    monkeypatch.setattr(pipe.vae, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encode(pipe, frame_of(), BASE)
    assert seen == [torch.float32, torch.float32]
    assert pipe.vae.dtype == torch.float16


def interrupt(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), RuntimeError("a bug")], ids=repr)
@pytest.mark.parametrize("stage", ["encode", "denoise", "decode"])
def test_the_traceback_of_a_stage_keeps_no_activations(stage, failure):
    """A notebook keeps the last traceback, and with it would keep gigabytes of a GPU."""
    pipe = toy_pipeline()
    alive: list[Any] = []

    def fail(*args, **kwargs):
        activation = torch.zeros(8)
        alive.append(weakref.ref(activation))
        raise failure

    owner = {"encode": pipe.image_encoder, "denoise": pipe.unet.mid_block, "decode": pipe.vae.decoder}[stage]
    owner.forward = fail
    with pytest.raises(type(failure)) as caught:
        three_stages(pipe, frame_of(), BASE)
    assert caught.tb is not None
    assert [activation() for activation in alive] == [None]


@pytest.mark.parametrize("culprit", ["VAE", "UNet"])
def test_frames_that_are_not_numbers_are_black_and_warned_of(culprit):
    """The clip is kept, with the warning in it."""
    pipe = toy_pipeline()
    bias = pipe.vae.decoder.conv_out.bias if culprit == "VAE" else pipe.unet.conv_out.bias
    with torch.no_grad():
        bias.fill_(float("nan"))
    denoised = denoise(pipe, encode(pipe, frame_of(), BASE))
    message = "some values are not numbers, shown black; half precision does this .* load with dtype='fp32' or 'bf16'"
    with pytest.warns(SvdkitWarning, match=message) as caught:
        clip = decode(pipe, denoised, notes=("a remark",))
    assert clip.frames.max() == 0
    assert clip.provenance is not None
    assert clip.provenance.notes == ("a remark", str(caught[0].message))
