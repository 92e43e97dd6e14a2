"""Train the micro model and write it to `svdkit/micro`: `python -m training`. Stop it at will; it resumes.

It needs svdkit's `[dev]` extra, and some two hours on one CPU core that multiplies bfloat16 (AMX), more on others.
`--export-only` ships the newest checkpoints of a run that is still going on.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import torch

from training.autoencoder import build_autoencoder, train_code
from training.denoiser import train_denoiser
from training.export import export
from training.eye import build_eye


def main() -> None:
    """Train autoencoder and denoiser, write the image encoder, export all three."""
    options = _options()
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    common: Any = {
        "folder": options.work, "device": torch.device(options.device), "only_load": options.export_only
    }  # fmt: skip
    code = train_code(steps=options.code_steps, **common)
    unet = train_denoiser(code, rounds=options.unet_rounds, **common)
    networks = {"vae": build_autoencoder(code.cpu()), "image_encoder": build_eye(), "unet": unet}
    export(networks, folder=options.output, record=_record(options))
    print(f"wrote {options.output}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("--code-steps", type=int, default=4000)
    parser.add_argument("--unet-rounds", type=int, nargs="+", default=[3700, 7200], help="the last step of each round")
    parser.add_argument("--work", type=Path, default=Path("training/checkpoints"), help="checkpoints and the log")
    parser.add_argument("--output", type=Path, default=Path("svdkit/micro"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; two beside other work are slower than one")
    parser.add_argument("--export-only", action="store_true", help="train nothing: export the newest checkpoints")
    return parser.parse_args()


def _record(options: argparse.Namespace) -> dict[str, Any]:
    """How the weights were made: the command, the machine, the last line of each network's log."""
    rows = [json.loads(line) for line in (options.work / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "command": "python -m training",
        "settings": {name: value for name, value in vars(options).items() if name.endswith(("_steps", "_rounds"))},
        "device": options.device,
        "machine": f"{platform.machine()}, {options.threads} threads",
        "python": platform.python_version(),
        "last_log_lines": {row["network"]: row for row in rows},
    }


if __name__ == "__main__":
    main()
