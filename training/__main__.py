"""Train the micro model and write it to `svdkit/micro`: `python -m training`. Stop it at will; it resumes.

It needs svdkit's `[dev]` extra, and about two hours on two CPU cores. `--export-only` ships the newest checkpoints of
a run that is still going on.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import torch

from training.export import export
from training.unet import train_denoiser
from training.vae import finish_decoder, train_vae


def main() -> None:
    """Train autoencoder, denoiser and decoder in turn, then export them."""
    options = _options()
    device = torch.device(options.device)
    options.work.mkdir(parents=True, exist_ok=True)
    vae = train_vae(steps=options.vae_steps, folder=options.work, device=device)
    model = train_denoiser(
        vae, steps=options.unet_steps, folder=options.work, device=device, only_load=options.export_only
    )
    finish_decoder(vae, steps=options.decoder_steps, folder=options.work, device=device, only_load=options.export_only)
    export(vae, model, folder=options.output, record=_record(options))
    print(f"wrote {options.output}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("--vae-steps", type=int, default=0)
    parser.add_argument("--unet-steps", type=int, default=6100)
    parser.add_argument("--decoder-steps", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("training/checkpoints"), help="checkpoints and logs")
    parser.add_argument("--output", type=Path, default=Path("svdkit/micro"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--export-only", action="store_true", help="train nothing: export the newest checkpoints")
    return parser.parse_args()


def _record(options: argparse.Namespace) -> dict[str, Any]:
    """How the weights were made: the command, the machine, the last line of each network's log."""
    logs = {log.name.split(".")[0]: json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
            for log in sorted(options.work.glob("*.log.jsonl"))}  # fmt: skip
    settings = {name: value for name, value in vars(options).items() if name.endswith("_steps")}
    return {
        "command": "python -m training",
        "settings": settings,
        "device": options.device,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "last_log_lines": logs,
    }


if __name__ == "__main__":
    main()
