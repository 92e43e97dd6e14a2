"""Techniques are applied and undone by name, keep the maths, and leave no trace."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo

from svdkit.errors import PipelineError, SettingsError
from svdkit.models import find_model
from svdkit.pipeline import LoadReport, active_techniques, apply_technique, loading, techniques, undo_technique
from svdkit.settings import LoadSettings
from tests.toy import clip_of as clip
from tests.toy import toy_pipeline

SWITCHES = ("forward-chunking", "two-pass-guidance")
PLANS = ("offload", "group-offload", "sequential")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pipe():
    """A pipeline that every test gives back as it was."""
    return toy_pipeline()


@pytest.fixture(scope="module")
def plain(pipe):
    return clip(pipe)


def unet_inputs(batch):
    generator = torch.Generator().manual_seed(0)
    return {
        "sample": torch.randn(batch, 4, 8, 8, 8, generator=generator),
        "timestep": torch.tensor(1.5),
        "encoder_hidden_states": torch.randn(batch, 1, 32, generator=generator),
        "added_time_ids": torch.tensor([[6, 127, 0.02]] * batch),
    }


@torch.no_grad()
def run_unet(pipe, batch=2, **options):
    return pipe.unet(**unet_inputs(batch), **options)


# Switches


def test_slices_of_a_feed_forward_layer_lie_side_by_side(pipe):
    """Slices by frame do not, and torch then multiplies row by row: six times slower on an H200."""
    blocks = [block for block in pipe.unet.modules() if hasattr(block, "ff_in")]
    linear = [layer for block in blocks for part in (block.ff_in, block.ff) for layer in part.modules()]
    linear = [layer for layer in linear if isinstance(layer, torch.nn.Linear)]
    seen = []
    hooks = [layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])) for layer in linear]
    try:
        pipe.unet.enable_forward_chunking(1)  # diffusers' own
        run_unet(pipe)
        assert not all(part.is_contiguous() for part in seen)
        undo_technique(pipe, "forward-chunking")
        seen.clear()
        apply_technique(pipe, "forward-chunking")
        run_unet(pipe)
        assert seen
        assert all(part.is_contiguous() for part in seen)
    finally:
        undo_technique(pipe, "forward-chunking")
        for hook in hooks:
            hook.remove()
    assert not any(module._forward_pre_hooks for module in pipe.unet.modules())


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_keeps_the_maths_and_undoing_it_is_exact(pipe, plain, name):
    """Within 1e-5 of outputs of size 1, as only the order of summation may differ; after undo a clip has the same bits.

    Switches are seen and can be repeated.
    """
    before = run_unet(pipe).sample
    assert active_techniques(pipe) == ()
    for _ in range(2):
        apply_technique(pipe, name)
        assert active_techniques(pipe) == (name,)
    during, with_it = run_unet(pipe).sample, clip(pipe)
    for _ in range(2):
        undo_technique(pipe, name)
        assert active_techniques(pipe) == ()
    assert before.abs().max() > 0.5
    assert (during - before).abs().max() < 1e-5
    assert (with_it - plain).abs().max() < 1e-3
    assert torch.equal(clip(pipe), plain)


@torch.no_grad()
@torch._dynamo.config.patch(ignore_logging_functions=set())
def test_a_size_that_the_unet_cannot_halve_evenly_can_be_compiled():
    """diffusers logs a line there, which torch refuses to trace. A backend that builds nothing traces the same way."""
    pipe, inputs = toy_pipeline(), unet_inputs(2)
    inputs["sample"] = inputs["sample"][..., :7]
    pipe.unet.compile(fullgraph=True, backend="eager")
    with pytest.raises(torch._dynamo.exc.Unsupported, match="Logger"):
        pipe.unet(**inputs)
    loading._compile(pipe)
    torch._dynamo.reset()
    pipe.unet.compile(fullgraph=True, backend="eager")
    assert pipe.unet(**inputs).sample.shape == (2, 4, 4, 8, 7)


def test_two_passes_run_half_the_batch_twice(pipe):
    batches = []
    hook = pipe.unet.register_forward_hook(lambda _module, _inputs, output: batches.append(len(output[0])))
    apply_technique(pipe, "two-pass-guidance")
    try:
        for batch in (1, 2, 3, 4):
            run_unet(pipe, batch, return_dict=False)
    finally:
        undo_technique(pipe, "two-pass-guidance")
        hook.remove()
    assert batches == [1, 1, 1, 3, 2, 2]


def test_two_passes_return_what_one_returns(pipe):
    """A tuple or diffusers' output class, as asked for; and time steps one a sample are cut with the batch."""
    steps = {**unet_inputs(2), "timestep": torch.tensor([1.5, 0.5])}
    with torch.no_grad():
        plain, plain_steps = pipe.unet(**unet_inputs(2)), pipe.unet(**steps).sample
        apply_technique(pipe, "two-pass-guidance")
        as_class, as_tuple = pipe.unet(**unet_inputs(2)), pipe.unet(**unet_inputs(2), return_dict=False)
        by_steps, positional = pipe.unet(**steps).sample, pipe.unet(*unet_inputs(2).values()).sample
    undo_technique(pipe, "two-pass-guidance")
    assert type(as_class) is type(plain)
    assert isinstance(as_tuple, tuple)
    assert torch.equal(as_class.sample, as_tuple[0])
    assert torch.equal(as_class.sample, positional)
    assert (by_steps - plain_steps).abs().max() < 1e-5


def test_two_passes_leave_the_network_its_class(pipe):
    from diffusers import UNetSpatioTemporalConditionModel

    apply_technique(pipe, "two-pass-guidance")
    assert isinstance(pipe.unet, UNetSpatioTemporalConditionModel)
    assert type(pipe.unet).__name__ == "UNetSpatioTemporalConditionModel"
    undo_technique(pipe, "two-pass-guidance")
    assert type(pipe.unet) is UNetSpatioTemporalConditionModel


# Offload plans. The hooks are the same ones whatever the device, so they are tried out from CPU to CPU.


@pytest.fixture
def on_cpu(monkeypatch):
    """Pretend that the CPU is a CUDA GPU for the check, not for torch."""
    monkeypatch.setattr(techniques, "_check_gpu", lambda *_: None)


def test_sequential_empties_the_networks_and_undoing_it_brings_them_back(on_cpu):
    """From CPU to CPU it cannot compute in between: accelerate's map of tied weights takes both for one tensor."""
    pipe = toy_pipeline()
    plain = clip(pipe)
    apply_technique(pipe, "sequential", device="cpu")
    assert active_techniques(pipe) == ("sequential",)
    assert {weight.device.type for weight in pipe.unet.parameters()} == {"meta"}
    undo_technique(pipe, "sequential")
    assert active_techniques(pipe) == ()
    assert torch.equal(clip(pipe), plain)


@pytest.mark.parametrize(("first", "second"), [("offload", "group-offload"), ("group-offload", "offload")])
def test_a_plan_changes_no_bit_and_another_replaces_it(on_cpu, first, second):
    pipe = toy_pipeline()
    plain = clip(pipe)
    apply_technique(pipe, first, device="cpu")
    assert active_techniques(pipe) == (first,)
    assert torch.equal(clip(pipe), plain)
    assert active_techniques(pipe) == (first,), "diffusers hooks a pipeline anew after each clip"
    apply_technique(pipe, second)
    assert active_techniques(pipe) == (second,)
    assert torch.equal(clip(pipe), plain)
    undo_technique(pipe, second)
    assert active_techniques(pipe) == ()
    assert torch.equal(clip(pipe), plain)


@pytest.mark.parametrize("plan", ["offload", "group-offload"])
def test_switches_and_plans_come_and_go_in_any_order(on_cpu, plan):
    """Hooks and switches both change how the UNet is called; neither may swallow the other."""
    pipe = toy_pipeline()
    plain = clip(pipe)
    apply_technique(pipe, "two-pass-guidance")
    both = clip(pipe)
    apply_technique(pipe, plan, device="cpu")
    assert torch.equal(clip(pipe), both)
    assert torch.equal(clip(pipe), both)
    undo_technique(pipe, "two-pass-guidance")
    assert torch.equal(clip(pipe), plain)
    apply_technique(pipe, "two-pass-guidance")
    undo_technique(pipe, plan)
    assert active_techniques(pipe) == ("two-pass-guidance",)
    assert torch.equal(clip(pipe), both)


@pytest.mark.parametrize("name", PLANS)
def test_plans_need_a_cuda_gpu(pipe, name):
    with pytest.raises(PipelineError) as caught:
        apply_technique(pipe, name)
    assert f"{name} moves weights between a CUDA GPU and memory, and this pipeline computes on cpu" in str(caught.value)
    assert "use memory='resident'" in str(caught.value)
    assert active_techniques(pipe) == ()


# Names and the report


@pytest.mark.parametrize("act", [apply_technique, undo_technique])
def test_an_unknown_name_is_refused(pipe, act):
    with pytest.raises(SettingsError, match=r"technique 'two-pass' is not known: give one of forward-chunking, two-p"):
        act(pipe, "two-pass")


def test_the_report_follows(on_cpu):
    """A pipeline of one's own needs none."""
    pipe = toy_pipeline()
    apply_technique(pipe, "forward-chunking")
    assert not hasattr(pipe, "svdkit")
    undo_technique(pipe, "forward-chunking")
    pipe.svdkit = LoadReport(settings=LoadSettings(memory="resident"), model=find_model("svd"))
    for name in ("forward-chunking", "two-pass-guidance", "offload"):
        apply_technique(pipe, name)
    settings = pipe.svdkit.settings
    assert (settings.forward_chunking, settings.two_pass_guidance, settings.memory) == (True, True, "offload")
    for name in ("forward-chunking", "two-pass-guidance", "offload"):
        undo_technique(pipe, name)
    assert pipe.svdkit.settings == LoadSettings(memory="resident")
