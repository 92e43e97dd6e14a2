"""load(): a user's folder or download becomes diffusers' own pipeline, with what was chosen and why."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import json
import shutil
import types
import weakref

import pytest
import torch
from huggingface_hub import constants

import svdkit.models.info
from svdkit.errors import DownloadError, OutOfMemoryError, PipelineError
from svdkit.models import random_pipeline
from svdkit.models.costs import svd_network
from svdkit.models.folder import STEMS, fingerprint
from svdkit.pipeline import LoadReport, active_techniques, load, loading
from svdkit.pipeline import memory as devices
from svdkit.pipeline.memory import LATER_BYTES, OVERHEAD_BYTES, choose_memory
from svdkit.settings import LoadSettings
from tests.hub_server import COMMIT, serve
from tests.toy import clip_of as clip
from tests.toy import toy_pipeline, write_hub_folder

XT = "stabilityai/stable-video-diffusion-img2vid-xt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's download of svd-xt at toy size."""
    return write_hub_folder(tmp_path_factory.mktemp("models") / "my-svd")


@pytest.fixture
def micro_folder(tmp_path, monkeypatch):
    """A toy of micro's shape where the built-in model lives: 8 latent channels, four pixels a cell."""
    made = write_hub_folder(tmp_path / "micro", pipe=toy_pipeline(latent_channels=8, downscale=4))
    monkeypatch.setattr(svdkit.models.info, "_MICRO_FOLDER", made)
    return made


# Loading


def test_load_returns_diffusers_own_pipeline_silently(folder, capfd):
    """The random state is left alone, and the libraries get their voices back."""
    from diffusers import StableVideoDiffusionPipeline
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    voices = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    torch.manual_seed(3)
    before = torch.get_rng_state()
    pipe = load(folder)
    assert torch.equal(torch.get_rng_state(), before)
    assert [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries] == voices
    assert capfd.readouterr() == ("", "")
    assert type(pipe) is StableVideoDiffusionPipeline
    assert isinstance(pipe.svdkit, LoadReport)
    assert clip(pipe).shape == (1, 4, 3, 64, 64)


@pytest.mark.parametrize("sharded", [False, True])
def test_a_download_in_the_hubs_layout_is_read_bit_by_bit(tmp_path, sharded):
    """The fp16 variant, in one file or in shards, gives the weights that were saved."""
    source = toy_pipeline(seed=7)
    pipe = load(write_hub_folder(tmp_path / "svd", sharded=sharded, pipe=source))
    for name in ("unet", "vae", "image_encoder"):
        saved, read = getattr(source, name).state_dict(), getattr(pipe, name).state_dict()
        assert saved.keys() == read.keys()
        assert all(torch.equal(saved[key].half().to(read[key].dtype), read[key]) for key in saved)


def test_a_name_is_downloaded_and_described(folder, tmp_path, monkeypatch):
    """Its commit is reported; of a model that is not in the catalogue the size is known once it is here."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    # svd-xt needs more than a laptop may have.
    monkeypatch.setattr(loading, "check_ram", lambda *_, **__: None)
    with serve({XT: folder, "someone/my-svd": folder}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        report, other = load("svd-xt").svdkit, load("someone/my-svd").svdkit.model
    assert (report.model.name, report.revision, report.weights) == ("svd-xt", COMMIT, "trained")
    assert (other.name, other.num_frames, other.height, other.width) == ("someone/my-svd", 4, 64, 64)


def test_parts_in_full_precision_are_said(folder, tmp_path):
    mixed = shutil.copytree(folder, tmp_path / "mixed")
    unet = mixed / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    unet.rename(unet.with_name("diffusion_pytorch_model.safetensors"))
    for made, parts in (
        (mixed, "unet"),
        (write_hub_folder(tmp_path / "full", variant=None), "image_encoder, unet, vae"),
    ):
        note = f"weights: {parts} read from full precision, as there is no fp16 variant"
        assert load(made).svdkit.reasons[-1] == note


def test_micro_is_loaded_by_default(micro_folder):
    """Nothing in loading depends on four latent channels or on eight pixels a cell."""
    pipe = load()
    assert pipe.svdkit.model.name == "micro"
    assert pipe.svdkit.model.kind == "micro"
    assert pipe.svdkit.revision == fingerprint(micro_folder)
    assert clip(pipe, height=72, width=128).shape == (1, 4, 3, 72, 128)


# Random weights


def test_random_weights_need_no_weights(folder, tmp_path):
    bare = shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    pipe = load(bare, weights="random", random_seed=5)
    assert (pipe.svdkit.weights, pipe.svdkit.revision) == ("random", "seed 5")
    assert pipe.svdkit.reasons[-1].startswith("weights: random, so time and memory are real")
    assert torch.isfinite(clip(pipe)).all()


@pytest.mark.parametrize("weights", ["trained", "random"])
def test_too_little_memory_is_an_error_and_not_a_dead_kernel(folder, monkeypatch, weights):
    """It is looked at first, in the precision that was asked for."""
    import psutil

    have = types.SimpleNamespace(available=6 * 2**30, total=2**35)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: have)
    with pytest.raises(
        DownloadError, match=r"loading svd-xt needs 8\.4 GiB of memory and 6\.0 GiB is free: close other"
    ):
        load("svd-xt", weights=weights, dtype="fp32")


# Precision


@pytest.mark.parametrize(
    ("asked", "dtype", "why"),
    [
        ("auto", "float32", "dtype: fp32, half precision gains nothing on cpu"),
        ("fp16", "float16", "dtype: fp16, as asked; many times slower than fp32 on a CPU"),
        ("bf16", "bfloat16", "dtype: bf16, as asked; rarely faster than fp32 on a CPU"),
    ],
)
def test_precision_on_a_cpu(folder, asked, dtype, why):
    pipe = load(folder, dtype=asked)
    assert {pipe.unet.dtype, pipe.vae.dtype, pipe.image_encoder.dtype} == {getattr(torch, dtype)}
    assert why in pipe.svdkit.reasons
    assert pipe.svdkit.settings.dtype == why[7:11]
    if asked == "bf16":
        assert torch.isfinite(clip(pipe)).all()


@pytest.mark.parametrize("weights", ["trained", "random"])
def test_fp8_stores_the_unet_in_8_bits_and_computes_in_more(folder, weights):
    plain, small = load(folder, weights=weights), load(folder, weights=weights, dtype="fp8")
    stored = {weight.dtype for weight in small.unet.parameters()}
    assert torch.float8_e4m3fn in stored
    assert small.unet.dtype == torch.float32
    assert {weight.dtype for weight in small.vae.parameters()} == {torch.float32}
    difference = (clip(small) - clip(plain)).abs().mean()
    assert 0 < difference < 0.1
    assert any("fp8" in reason and "lossy" in reason for reason in small.svdkit.reasons)


@pytest.mark.parametrize(
    ("asked", "device", "capability", "expected"),
    [
        ("auto", "cuda", (7, 5), ("fp16", "fp16")),
        ("auto", "cuda:1", (9, 0), ("fp16", "fp16")),
        ("auto", "mps", None, ("fp32", "fp32")),
        ("fp16", "mps", None, ("fp16", "fp16")),
        ("bf16", "cuda", (8, 0), ("bf16", "bf16")),
        ("fp8", "cuda", (7, 5), ("fp8", "fp16")),
        ("bf16", "cuda", (7, 5), r"this GPU \(compute capability 7\.5\) is older than 8\.0 .*: use dtype='fp16'"),
        ("bf16", "mps", None, "dtype='bf16' does not work on Apple GPUs with torch: use dtype='fp32'"),
        ("fp8", "mps", None, "dtype='fp8' does not work on Apple GPUs with torch: use dtype='fp32'"),
    ],
)
def test_precision_of_other_devices(asked, device, capability, expected):
    if isinstance(expected, str):
        with pytest.raises(PipelineError, match=expected):
            devices.choose_dtype(asked, device=device, capability=capability)
        return
    *chosen, reason = devices.choose_dtype(asked, device=device, capability=capability)
    assert tuple(chosen) == expected
    assert reason.startswith(f"dtype: {expected[0]}")


# Device


NO_CODE = "this torch has no code for sm_60"  # Kaggle's P100 with a torch for CUDA 12.8: the first clip would die
NO_GPU = "device='cuda' but this torch .* sees no CUDA GPU: use device='auto', or install a torch with CUDA"


@pytest.mark.parametrize(
    ("here", "asked", "outcome"),
    [
        ({}, "auto", "device: cpu, because there is no CUDA GPU and no Apple GPU"),
        ({"mps": True}, "auto", "device: mps, because there is no CUDA GPU"),
        ({"cuda": 1, "mps": True}, "auto", "device: cuda, the fastest here"),
        ({"cuda": 2}, "cuda:1", "device: cuda:1, as asked"),
        ({"cuda": 1, "capability": (6, 0)}, "cpu", "device: cpu, as asked"),
        ({"cuda": 1, "capability": (6, 0)}, "auto", f"device: cpu, because {NO_CODE}, the GPU here; on Kaggle choose"),
        ({"cuda": 1, "capability": (6, 0)}, "cuda", f"device='cuda' but {NO_CODE}: on Kaggle choose GPU"),
        ({}, "cuda", NO_GPU),
        ({"cuda": 1, "old driver": True}, "auto", "device: cpu, because there is no CUDA GPU and no Apple GPU"),
        ({"cuda": 1, "old driver": True}, "cuda", NO_GPU),
        ({"cuda": 2}, "cuda:2", "device='cuda:2' but the last CUDA GPU here is 'cuda:1': use that or 'cuda'"),
        ({"cuda": 1}, "mps", "device='mps' but there is no Apple GPU that torch can use: use device='auto'"),
    ],
)
def test_choose_device(monkeypatch, here, asked, outcome):
    """On other machines than this: with so many CUDA GPUs of a generation, with an Apple GPU or not."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: here.get("capability", (8, 6)))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_86", "sm_90"])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: here.get("cuda", 0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in here and "old driver" not in here)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: here.get("mps", False))
    if outcome.startswith("device: "):
        chosen, reason = devices.choose_device(asked)
        assert reason.startswith(f"device: {chosen}, ")
        assert reason.startswith(outcome)
    else:
        with pytest.raises(PipelineError, match=outcome):
            devices.choose_device(asked)


def test_what_torch_keeps_of_an_earlier_clip_is_given_back_before_it_is_asked(monkeypatch):
    """Else the same notebook, run again, would take a slower plan on the same card."""
    told = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: told.append("emptied"))

    def mem_get_info(_):
        told.append("asked")
        return 2**30, 2**34

    monkeypatch.setattr(torch.cuda, "mem_get_info", mem_get_info)
    assert devices.free_bytes("cuda") == 2**30
    assert told == ["emptied", "asked"]


@pytest.mark.parametrize("failure", [torch.OutOfMemoryError("CUDA out of memory"), KeyboardInterrupt()], ids=repr)
def test_weights_that_were_moved_in_part_are_dropped(folder, monkeypatch, failure):
    """The pipeline lives as long as the notebook's last traceback, and would fill the GPU for whatever comes next."""
    from diffusers import StableVideoDiffusionPipeline

    moved = []

    def full(pipe, _device):
        moved.append(pipe)
        raise failure

    monkeypatch.setattr(StableVideoDiffusionPipeline, "to", full)
    said = r"does not fit cpu with memory='resident', dtype='fp32': leave both|^$"  # with the way out
    with pytest.raises((OutOfMemoryError, KeyboardInterrupt), match=said):
        load(folder)
    devices_left = {weight.device.type for name in STEMS for weight in getattr(moved[0], name).parameters()}
    assert devices_left == {"meta"}


def test_random_weights_that_do_not_fit_are_dropped(folder, monkeypatch):
    """Also while they are made, when there is no pipeline yet to be emptied."""
    alive = []

    def full(info, *, device, **more):
        pipe = random_pipeline(info, device=device, **more)
        if device != "meta":
            alive.append(weakref.ref(pipe))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return pipe

    monkeypatch.setattr(loading, "random_pipeline", full)
    with pytest.raises(OutOfMemoryError) as caught:
        load(folder, weights="random")
    gc.collect()
    assert caught.tb is not None  # as a notebook keeps it
    assert [pipe() for pipe in alive] == [None]


def test_what_was_let_go_of_is_collected_before_memory_is_looked_at(folder, monkeypatch):
    """An offloaded pipeline is a ring, as its hooks know it: until it is collected its memory is not free."""
    ring = type("Ring", (), {})()
    ring.itself, gone = ring, weakref.ref(ring)
    del ring
    looked = []
    monkeypatch.setattr(loading, "check_ram", lambda *_, **__: looked.append(gone()))
    gc.disable()
    try:
        load(folder)
    finally:
        gc.enable()
    assert looked
    assert looked[0] is None


# Plans


def test_offload_plans_on_a_cpu_say_what_to_do(folder):
    why = "needs a CUDA GPU to move weights to, and the device is cpu: use memory='resident' or 'auto'"
    with pytest.raises(PipelineError, match=f"memory='offload' {why}"):
        load(folder, memory="offload")


def test_switches_asked_for_are_on(folder):
    pipe = load(folder, two_pass_guidance=True, forward_chunking=True)
    assert active_techniques(pipe) == ("forward-chunking", "two-pass-guidance")
    assert pipe.svdkit.settings.two_pass_guidance
    assert pipe.svdkit.settings.forward_chunking


def test_scarce_memory_switches_techniques_on(folder, tmp_path, monkeypatch):
    """On a CPU only the switches are left to save memory with; here for clips of SVD's own size."""
    large = shutil.copytree(folder, tmp_path / "large")
    config = large / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "sample_size": 96, "num_frames": 25}))
    monkeypatch.setattr(loading, "free_bytes", lambda _: 6 * 2**30)
    pipe = load(large)
    assert pipe.svdkit.settings.memory == "resident"
    assert active_techniques(pipe) == ("forward-chunking", "two-pass-guidance")
    assert pipe.svdkit.decode_chunk_size == 1
    assert "memory: resident would need about 20.1 GiB" in pipe.svdkit.reasons


@pytest.mark.parametrize("weights", ["trained", "random"])
def test_a_chosen_offload_plan_is_applied_on_the_gpu(folder, monkeypatch, weights):
    """What a small CUDA card would do, as far as it goes without one: weights stay in memory, the plan is applied."""
    applied, needs = [], []
    monkeypatch.setattr(loading, "choose_device", lambda _: ("cuda", "device: cuda, the fastest here"))
    monkeypatch.setattr(loading, "cuda_capability", lambda _: (8, 6))
    monkeypatch.setattr(loading, "free_bytes", lambda _: 2**30)
    monkeypatch.setattr(loading, "apply_technique", lambda _pipe, name, **where: applied.append((name, where)))
    # As wide as SVD in weights: else a toy is resident anywhere.
    heavy = {"unet": 2**30, "image_encoder": 2**30, "vae": 2**27}

    def spy(need, **given):
        needs.append(need)
        return choose_memory(dataclasses.replace(need, weight_bytes=heavy), **given)

    monkeypatch.setattr(loading, "choose_memory", spy)
    pipe = load(folder, weights=weights)
    assert needs[0].overhead_bytes == LATER_BYTES  # asking how much is free has made the context
    assert applied == [("group-offload", {"device": "cuda"})]
    assert pipe.unet.device.type == "cpu"
    assert pipe.unet.dtype == torch.float16
    assert pipe.svdkit.settings.memory == "group-offload"
    assert pipe.svdkit.settings.device == "cuda"


def test_weights_on_the_machine_count_as_free(folder, monkeypatch):
    """On a CPU they are in memory already when the plan is chosen, and must not be counted twice."""
    seen = []

    def spy(need, **given):
        seen.append((need, given))
        return choose_memory(need, **given)

    monkeypatch.setattr(loading, "free_bytes", lambda _: 10**9)
    monkeypatch.setattr(loading, "choose_memory", spy)
    load(folder)
    [(need, given)] = seen
    assert given["free_bytes"] == 10**9 + sum(need.weight_bytes.values())
    assert given["plans"] == ("resident",)
    assert (need.height, need.width, need.num_frames) == (64, 64, 4)
    assert need.network == svd_network()  # those of the toy were never counted
    assert need.dtype == "fp32"
    assert need.overhead_bytes == OVERHEAD_BYTES


def test_compile_is_applied_to_the_unet_and_the_decoder(folder):
    """Compiling itself takes minutes, and happens at the first clip."""
    pipe = load(folder, compile=True)
    assert pipe.unet._compiled_call_impl is not None
    assert pipe.vae.decoder._compiled_call_impl is not None
    assert pipe.image_encoder._compiled_call_impl is None
    assert any(reason.startswith("compile: UNet and VAE decoder") for reason in pipe.svdkit.reasons)
    assert load(folder).unet._compiled_call_impl is None


# Settings and the report


def test_load_takes_every_setting():
    names = {*inspect.signature(load).parameters} - {"settings"}
    assert names == {*LoadSettings().to_dict()} - {"preset"}


def test_arguments_win_over_settings(folder, tmp_path):
    settings = LoadSettings(model=str(tmp_path / "nothing"), dtype="bf16", two_pass_guidance=True)
    resolved = load(folder, settings=settings, dtype="fp32").svdkit.settings
    assert (resolved.model, resolved.dtype, resolved.two_pass_guidance) == ("my-svd", "fp32", True)


def test_the_report_reads_well_leaves_nothing_automatic_and_tells_no_path(folder):
    """It goes into clips and records, which people share."""
    report = load(folder).svdkit
    values = report.settings.to_dict()
    assert values.pop("source") == "auto"  # where it came from is not chosen, but found
    assert "auto" not in values.values()
    assert str(folder.parent) not in str(values)
    lines = str(report).splitlines()
    assert lines[0].startswith(f"my-svd (trained weights, revision {fingerprint(folder)}) loaded in ")
    assert lines[1].startswith("- device: cpu, because there is no CUDA GPU")
    assert lines[2] == "- dtype: fp32, half precision gains nothing on cpu"
    assert lines[3].startswith("- memory: resident; 4 frames of 64x64 need about ")
    assert 0 < report.load_seconds < 60
