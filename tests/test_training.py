"""The training's own parts: worlds, the camera that the picture directs, checkpoints, the linear autoencoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from benchmarks import motion
from training import scenes

if TYPE_CHECKING:
    from pathlib import Path


def test_a_seed_gives_the_same_clip_again():
    """Seeds are all there is to the data set."""
    first = scenes.sample_clip(np.random.default_rng(5), num_frames=3)
    scenes._WORLDS.clear()
    again = scenes.sample_clip(np.random.default_rng(5), num_frames=3)
    assert np.array_equal(first.frames, again.frames)
    assert (first.fps, first.motion_bucket_id, first.move) == (again.fps, again.motion_bucket_id, again.move)


def test_the_camera_goes_to_the_lighter_side_and_closer_when_there_is_none():
    """What decides is in the picture, and a mirrored picture asks for the mirrored move."""
    frame = np.full((72, 128, 3), 100, np.uint8)
    assert scenes.MOVES[scenes.move_for(frame)] == "zoom in"
    frame[:, 64:] = 130
    assert scenes.MOVES[scenes.move_for(frame)] == "pan right"
    assert scenes.MOVES[scenes.move_for(frame[:, ::-1])] == "pan left"


@pytest.mark.parametrize("move", range(len(scenes.MOVES)))
@pytest.mark.parametrize("distance", [2.0, 10.0])
def test_a_move_carries_the_picture_as_far_as_it_says(move, distance):
    """The motion bucket means a distance; so each move must have it, on average over the frame."""
    grid = np.stack(np.meshgrid(np.linspace(0, 127, 65), np.linspace(0, 71, 37)), -1).reshape(-1, 2)
    moved = np.c_[grid, np.ones(len(grid))] @ scenes.camera(move, distance).T
    assert np.linalg.norm(moved[:, :2] - grid, axis=1).mean() == pytest.approx(distance, rel=0.2)


def test_a_pan_to_the_right_moves_the_picture_left():
    """And both move it nowhere else."""
    x, y = (scenes.camera(2, 8.0) @ [64, 36, 1])[:2]
    assert (x, y) == (56, 36)


def test_the_bucket_is_the_motion_seen():
    """Clips of higher buckets flow more, and lower rates mean longer steps."""
    clips = [scenes.sample_clip(np.random.default_rng(seed), num_frames=5) for seed in range(24)]
    told = [clip.motion_bucket_id / clip.fps for clip in clips]
    seen = [motion.motion(clip.frames) for clip in clips]
    assert np.corrcoef(told, seen)[0, 1] > 0.8


def test_all_moves_occur_and_none_is_rare():
    """Views are a third each, more or less."""
    moves = [scenes.sample_clip(np.random.default_rng(seed), num_frames=1).move for seed in range(60)]
    assert min(moves.count(move) for move in range(len(scenes.MOVES))) > 8


def test_a_world_is_a_picture_not_flat_and_not_noise():
    """Neighbouring pixels are alike, distant ones are not."""
    world = scenes.world_of(1).astype(float)
    near, far = np.abs(world[:, 1:] - world[:, :-1]).mean(), np.abs(world[:, 100:] - world[:, :-100]).mean()
    assert near < far / 2


@pytest.mark.parametrize("muon", [False, True])
def test_training_resumes_as_if_never_stopped(tmp_path: Path, muon):
    """Six steps in one go equal three, a stop, and three more, with either optimiser."""
    torch = pytest.importorskip("torch")
    from training.loop import Plan, train

    def run(folder: Path, *, stop: int) -> Any:
        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)

        def loss_at(step: int) -> Any:
            if step == stop:
                raise KeyboardInterrupt
            return (model(torch.randn(8, 3)) - 1).square().mean()

        try:
            plan = Plan("line", 6, 1e-2, muon_rate=1e-2)
            train(model, loss_at, plan=plan, folder=folder, muon=lambda name, _: muon and name == "weight")
        except KeyboardInterrupt:
            return None
        return model.state_dict()

    whole = run(tmp_path / "whole", stop=-1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.loop.SAVE_EVERY", 3)
        assert run(tmp_path / "parts", stop=3) is None
        parts = run(tmp_path / "parts", stop=-1)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_muon_steps_are_orthogonal():
    """Every direction of a matrix moves by about the same, whatever the gradient's size."""
    torch = pytest.importorskip("torch")
    from training.loop import orthogonal

    update = orthogonal(1e-3 * torch.randn(1, 16, 48, generator=torch.Generator().manual_seed(0)))[0]
    sizes = torch.linalg.svdvals(update)
    assert 0.5 < sizes.min() <= sizes.max() < 1.3


def test_the_autoencoder_is_the_linear_code():
    """SVD's VAE with the code written into it encodes and decodes as the code does, any size, and steadies a chunk."""
    torch = pytest.importorskip("torch")
    from training.autoencoder import STEADY, LinearCode, build_autoencoder, components, to_tensor, turn_axes

    torch.manual_seed(0)
    pictures = to_tensor(np.stack([scenes.picture(seed) for seed in range(12)]))
    code = LinearCode()
    with torch.no_grad():
        code.analysis.weight[:, :, :8, :8] += components(pictures)
        code.ups[-1].weight *= 0.15  # pixels within -1 to 1
        before = code.decode(code.encode(pictures))
        turn_axes(code, pictures)
        assert torch.allclose(code.decode(code.encode(pictures)), before, atol=1e-2)  # other axes, the same pictures
        latents = code.encode(pictures)
        assert latents.std() == pytest.approx(1, abs=0.01)
        vae = build_autoencoder(code)
        for view in (pictures[:2], pictures[:2, :, :40, :64]):
            assert (vae.encode(view).latent_dist.mode() - code.encode(view)).abs().mean() < 0.01
        shown = code.decode(latents[:4])
        alone = [vae.decode(latent, num_frames=1).sample for latent in latents[:4].split(1)]
        assert (torch.cat(alone) - shown).abs().mean() < 0.01 * shown.std()
        beside = torch.cat([shown[:1], shown, shown[-1:]])  # at its ends a chunk has no neighbour to take from
        steady = shown + STEADY * (beside[:-2] - 2 * shown + beside[2:])
        assert (vae.decode(latents[:4], num_frames=4).sample - steady).abs().mean() < 0.01 * shown.std()


def test_training_arithmetic_is_the_networks_own():
    """What makes training faster changes no number: the loss's network gives what diffusers' network gives."""
    torch = pytest.importorskip("torch")
    from training.denoiser import _train_faster
    from training.networks import build_unet

    torch.manual_seed(0)
    unet = build_unet().eval()
    inputs = (torch.randn(1, 3, 48, 9, 16), torch.zeros(1), torch.randn(1, 1, 64), torch.ones(1, 3))
    with torch.no_grad():
        own = unet(*inputs).sample
        restore = _train_faster(unet)
        fast = unet(*inputs).sample
        restore()
        again = unet(*inputs).sample
    assert torch.allclose(own, fast, atol=1e-4)
    assert torch.equal(own, again)
