"""The training's own parts: worlds, checkpoints, the closed-form start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from svdkit.bench import quality
from training import scenes

if TYPE_CHECKING:
    from pathlib import Path

SIZE = {"height": 72, "width": 128}


def test_a_seed_gives_the_same_clip_again():
    """Seeds are all there is to the data set."""
    first = scenes.sample_clip(5, num_frames=3, **SIZE)
    scenes._WORLDS.clear()
    again = scenes.sample_clip(5, num_frames=3, **SIZE)
    assert np.array_equal(first.frames, again.frames)
    assert (first.fps, first.motion_bucket_id) == (again.fps, again.motion_bucket_id)


def test_other_seeds_give_other_clips():
    """Also when they share a world."""
    first, second = (scenes.sample_clip(seed, num_frames=2, **SIZE) for seed in (5, 1005))
    assert not np.array_equal(first.frames, second.frames)


@pytest.mark.parametrize("distance", [1.0, 5.0, 17.0])
def test_a_drawn_move_travels_the_distance_asked_for(distance):
    """The motion bucket means a distance; so the move must have it."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        move = scenes.draw_move(rng, distance=distance, **SIZE)
        assert move.displacement(**SIZE) == pytest.approx(distance, rel=0.01)


def test_moves_go_everywhere():
    """Left and right, up and down, in and out."""
    rng = np.random.default_rng(0)
    moves = [scenes.draw_move(rng, distance=5, **SIZE) for _ in range(40)]
    for values in zip(*[(*move.pan, move.zoom) for move in moves], strict=True):
        assert min(values) < 0 < max(values)


def test_the_bucket_is_the_motion_seen():
    """Clips of higher buckets flow more."""
    clips = [scenes.sample_clip(seed, num_frames=6, **SIZE) for seed in range(24)]
    told = [clip.motion_bucket_id / clip.fps for clip in clips]
    seen = [quality.motion(clip.frames) for clip in clips]
    assert np.corrcoef(told, seen)[0, 1] > 0.8


def test_a_world_is_a_picture_not_flat_and_not_noise():
    """Neighbouring pixels are alike, distant ones are not."""
    world = scenes.paint_world(np.random.default_rng(1), height=144, width=256).astype(float)
    near, far = np.abs(world[:, 1:] - world[:, :-1]).mean(), np.abs(world[:, 100:] - world[:, :-100]).mean()
    assert near < far / 2


def test_training_resumes_as_if_never_stopped(tmp_path: Path):
    """Six steps in one go equal three, a stop, and three more."""
    torch = pytest.importorskip("torch")
    from training.loop import Plan, train

    def run(folder: Path, *, stop: int) -> Any:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 1)

        def loss_at(step: int) -> Any:
            if step == stop:
                raise KeyboardInterrupt
            return (model(torch.randn(8, 3)) - 1).square().mean()

        try:
            train(model, loss_at, plan=Plan("line", 6, 1e-2), folder=folder)
        except KeyboardInterrupt:
            return None
        return model.state_dict()

    whole = run(tmp_path / "whole", stop=-1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.loop.SAVE_EVERY", 3)
        assert run(tmp_path / "parts", stop=3) is None
        parts = run(tmp_path / "parts", stop=-1)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_the_autoencoder_starts_as_a_picture_code():
    """Before any training it shows held-out pictures at 24 dB or more, and its fast encoder is the real one."""
    torch = pytest.importorskip("torch")
    from training.networks import build_vae
    from training.start import encode_start, start_from_components
    from training.vae import pictures

    torch.manual_seed(0)
    vae = build_vae()
    start_from_components(vae, pictures(range(12), torch.device("cpu")))
    held_out = pictures(range(10**6, 10**6 + 4), torch.device("cpu"))
    with torch.no_grad():
        latents = vae.encode(held_out).latent_dist.mode()
        decoded = vae.decode(latents, num_frames=4).sample
    assert torch.equal(latents, encode_start(vae, held_out))
    assert 10 * torch.log10(4 / (decoded - held_out).square().mean()) > 24
