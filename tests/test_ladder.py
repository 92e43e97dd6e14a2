"""Out of memory: recognised, stepped down from, said, recorded; or an error with advice."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from svdkit.errors import OutOfMemoryError, SvdkitWarning
from svdkit.generate import generate, generate_batch
from svdkit.generate import run as ladder_module
from svdkit.generate.run import _next_step, _run_stage
from svdkit.pipeline import active_techniques, undo_technique
from svdkit.pipeline.memory import is_out_of_memory
from svdkit.settings import ClipSettings
from tests.toy import toy_pipeline

SETTINGS = ClipSettings(height=64, width=64, num_inference_steps=2, seed=3, decode_chunk_size=4)
RESOLVED = SETTINGS.resolve(height=64, width=64, num_frames=4)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (OutOfMemoryError("decode ran out of memory at height=576"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 17.9 GB, max allowed: 18 GB)"), True),
        (RuntimeError("Invalid buffer size: 12.00 GiB"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "../c10/cuda/CUDACachingAllocator.cpp":1124'), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:128] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: device-side assert"), False),
        (ValueError("out of memory"), False),
        (OSError(), False),
    ],
    ids=str,
)
def test_out_of_memory_is_recognised(error, *, is_one):
    assert is_out_of_memory(error) == is_one


def limit_decode(pipe, patch, frames):
    """Let the VAE run out of memory above a number of frames at once."""
    decode = pipe.vae.decode

    def limited(latents, **kwargs):
        if len(latents) > frames:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return decode(latents, **kwargs)

    patch.setattr(pipe.vae, "decode", limited)


def limit_unet(pipe, patch, *, fits):
    """Let the UNet run out of memory unless `fits(batch)`; return the list of batches that ran."""
    forward, ran = pipe.unet.forward, []

    def limited(sample, *args, **kwargs):
        if not fits(len(sample)):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")
        ran.append(len(sample))
        return forward(sample, *args, **kwargs)

    patch.setattr(pipe.unet, "forward", limited)
    return ran


def said(caught):
    return [str(warning.message) for warning in caught if warning.category is SvdkitWarning]


def run(pipe, **options):
    return generate(pipe, "rocket", SETTINGS, progress=False, **options)


@pytest.fixture
def pipe():
    return toy_pipeline()


def test_the_decode_chunk_is_halved_until_it_fits(pipe, monkeypatch):
    expected = generate(pipe, "rocket", SETTINGS.replace(decode_chunk_size=1), progress=False)
    limit_decode(pipe, monkeypatch, 1)
    ran = limit_unet(pipe, monkeypatch, fits=lambda batch: True)
    with pytest.warns(SvdkitWarning) as caught:
        clip = run(pipe)
    notes = [
        "decode ran out of memory: decoding again with decode_chunk_size=2 instead of 4",
        "decode ran out of memory: decoding again with decode_chunk_size=1 instead of 2",
    ]
    assert said(caught) == notes
    assert clip.provenance.notes == tuple(notes)
    assert clip.provenance.settings["decode_chunk_size"] == 1
    assert np.array_equal(clip.frames, expected.frames)
    assert ran == [2, 2], "the latents are kept: denoising ran once"


def test_guidance_runs_in_two_passes_when_both_do_not_fit(pipe, monkeypatch):
    """It stays on for the next clip, without a warning then, and can be undone."""
    expected = run(pipe)
    with monkeypatch.context() as patch:
        ran = limit_unet(pipe, patch, fits=lambda batch: batch == 1)
        with pytest.warns(
            SvdkitWarning, match="denoise ran out of memory: applied 'two-pass-guidance' and ran denoise"
        ):
            clip = run(pipe)
        assert ran == [1, 1, 1, 1]
        assert active_techniques(pipe) == ("two-pass-guidance",)
        assert run(pipe).provenance.notes == ()
    assert "undo_technique(pipe, 'two-pass-guidance')" in clip.provenance.notes[0]
    assert np.abs(clip.frames.astype(int) - expected.frames).max() <= 1, "the same maths, rounded elsewhere"
    undo_technique(pipe, "two-pass-guidance")
    assert np.array_equal(run(pipe).frames, expected.frames)


@pytest.mark.parametrize(
    ("stage", "steps"),
    [
        ("encode", ["offload"]),
        ("denoise", ["two-pass-guidance", "forward-chunking", "offload", "group-offload"]),
        ("decode", ["smaller", "smaller", "offload"]),
    ],
)
def test_the_whole_ladder_of_a_gpu(stage, steps, monkeypatch):
    """On a GPU the last steps are offload plans; which are on is kept in a set here, since there is no GPU."""
    on: list[str] = []
    monkeypatch.setattr(ladder_module, "active_techniques", lambda pipe: tuple(on))
    monkeypatch.setattr(ladder_module, "apply_technique", lambda pipe, name: on.append(name))
    tried: list[int] = []

    def attempt(settings):
        tried.append(settings.decode_chunk_size or 0)
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.warns(SvdkitWarning), pytest.raises(OutOfMemoryError, match=f"^{stage} ran out of memory at height=64"):
        _run_stage(gpu_pipe(), stage, attempt, RESOLVED, step_down=True, notes=[])
    assert on == [step for step in steps if step != "smaller"]
    assert len(tried) == len(steps) + 1
    assert tried[-1] == (1 if stage == "decode" else 4)


def gpu_pipe(**report):
    pipe = SimpleNamespace(_execution_device=torch.device("cuda"))
    if report:
        pipe.svdkit = SimpleNamespace(settings=SimpleNamespace(**report))
    return pipe


@pytest.mark.parametrize(
    ("stage", "changes", "compiled", "on", "step"),
    [
        ("encode", {}, True, (), None),
        ("encode", {}, False, (), "offload"),
        ("denoise", {"max_guidance_scale": 1.0}, False, (), "forward-chunking"),  # two passes would change nothing
        ("denoise", {}, False, ("group-offload", "two-pass-guidance", "forward-chunking"), None),
        ("denoise", {}, False, ("sequential", "two-pass-guidance", "forward-chunking"), None),
    ],
)
def test_the_next_step_changes_something(stage, changes, *, compiled, on, step, monkeypatch):
    """What is compiled is not offloaded, and a stronger plan is not replaced by a weaker."""
    monkeypatch.setattr(ladder_module, "active_techniques", lambda pipe: on)
    assert _next_step(gpu_pipe(compile=compiled), stage, RESOLVED.replace(**changes)) == step


def test_the_end_of_the_ladder_is_an_error_with_advice(pipe, monkeypatch):
    limit_decode(pipe, monkeypatch, 0)
    expected = (
        "decode ran out of memory at height=64, width=64, num_frames=4, decode_chunk_size=1 after decode ran out of "
        "memory: decoding again with decode_chunk_size=2 instead of 4; decode ran out of memory: decoding again with "
        "decode_chunk_size=1 instead of 2; make a smaller or shorter clip, load with memory='sequential' or "
        "dtype='fp8', or close what else uses the device"
    )
    with pytest.warns(SvdkitWarning), pytest.raises(OutOfMemoryError) as caught:
        run(pipe)
    assert str(caught.value) == expected
    assert isinstance(caught.value.__cause__, torch.OutOfMemoryError)


def test_stepping_down_can_be_switched_off_and_the_pipeline_works_after(pipe, monkeypatch):
    expected = run(pipe)
    message = "denoise ran out of memory at height=64, width=64, num_frames=4; allow smaller steps with step_down=True"
    with monkeypatch.context() as patch:
        limit_unet(pipe, patch, fits=lambda batch: batch == 1)
        with pytest.raises(OutOfMemoryError, match=message):
            run(pipe, step_down=False)
    assert active_techniques(pipe) == ()
    assert np.array_equal(run(pipe).frames, expected.frames)


def test_other_errors_pass_through(pipe, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(pipe.unet, "forward", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        run(pipe)


@pytest.mark.parametrize("step_down", [True, False])
def test_a_failed_attempt_holds_no_tensors(step_down):
    """The error's traceback would keep them: for the next attempt, and in a notebook until the next error."""
    alive: list[weakref.ref[Any]] = []
    seen: list[int] = []
    pipe = toy_pipeline()

    def attempt(now):
        gc.collect()
        seen.append(sum(ref() is not None for ref in alive))
        activations = torch.zeros(8)
        alive.append(weakref.ref(activations))
        if now.decode_chunk_size == 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return "done"

    if step_down:
        with pytest.warns(SvdkitWarning, match="decode_chunk_size=2"):
            result, settings = _run_stage(pipe, "decode", attempt, RESOLVED, step_down=True, notes=[])
        assert (result, settings.decode_chunk_size) == ("done", 2)
        assert seen == [0, 0]
    else:
        with pytest.raises(OutOfMemoryError) as caught:
            _run_stage(pipe, "decode", attempt, RESOLVED, step_down=False, notes=[])
        assert caught.value.__cause__ is not None
        assert alive[0]() is None


def test_a_batch_keeps_the_smaller_chunk(pipe, monkeypatch):
    limit_decode(pipe, monkeypatch, 2)
    with pytest.warns(SvdkitWarning) as caught:
        clips = list(generate_batch(pipe, ["rocket"], SETTINGS, seeds=(1, 2), progress=False))
    assert len(said(caught)) == 1
    assert [clip.provenance.settings["decode_chunk_size"] for clip in clips if clip.provenance] == [2, 2]
    assert [len(clip.provenance.notes) for clip in clips if clip.provenance] == [1, 0]
