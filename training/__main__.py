"""Train the micro model and write it to `svdkit/micro`: `python -m training`. Stop it at will; it resumes.

It needs svdkit's `[dev]` extra and about two hours on two CPU cores, minutes on a GPU.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from training.vae import finish_decoder, train_vae


def main() -> None:
    """Train autoencoder, denoiser and decoder in turn, then export them in the hub's layout."""
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("--vae-steps", type=int, default=800)
    parser.add_argument("--unet-steps", type=int, default=9000)
    parser.add_argument("--decoder-steps", type=int, default=1200)
    parser.add_argument("--work", type=Path, default=Path("training/work"), help="checkpoints and logs")
    parser.add_argument("--output", type=Path, default=Path("svdkit/micro"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    device = torch.device(options.device)
    options.work.mkdir(parents=True, exist_ok=True)
    vae = train_vae(steps=options.vae_steps, folder=options.work, device=device)


if __name__ == "__main__":
    main()
