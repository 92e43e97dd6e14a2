"""What benchmarks/gpu.py found, as a page, with the forecast beside it: no GPU needed.

    python benchmarks/gpu_table.py        # writes bench_results/gpu/table.md; exits with 1 when a bar is missed

Seconds are forecast from what `svdkit.calibrate` measured there (two denoising steps and one decode chunk of the usual
clip), bytes from counts alone. The margins on bytes were chosen on these rows, the counts were not.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for svdkit where it is not installed

from svdkit.bench.record import read_records  # noqa: E402 - see above
from svdkit.bench.stats import median  # noqa: E402
from svdkit.forecast import forecast  # noqa: E402
from svdkit.pipeline.memory import GIB, Need, Rung, rung_text  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from svdkit.bench.record import Record
    from svdkit.forecast import Forecast

ALLOCATED_BAR, TAKEN_BAR, SECONDS_BAR = 0.10, 0.15, 0.10
_LOAD = ("dtype", "memory", "two_pass_guidance", "forward_chunking", "compile")
_CLIP = ("height", "width", "num_frames", "num_inference_steps", "decode_chunk_size")
_STAGES = {"image_encoder": ("image_encoder",), "vae_encode": ("vae_encode",), "unet": ("unet", "scheduler")}
_STAGES |= {"vae_decode": ("vae_decode", "postprocess")}


class Cell:
    """A record, with what is forecast for it."""

    def __init__(self, record: Record, calibration: list[Record]) -> None:
        load, clip = (
            {name: values[name] for name in names} for names, values in ((_LOAD, record.load), (_CLIP, record.clip))
        )
        self.record, self.clip = record, clip
        self.forecast: Forecast = forecast(
            record.model["name"], gpu=record.environment["gpu"], clip=clip, load=load, records=calibration
        )
        timed = record.samples["timed"]
        self.seconds = {
            stage: sum(statistics.median(timed[part]) for part in parts) for stage, parts in _STAGES.items()
        }
        self.total = median(record.timed)
        self.step = statistics.median(timed["unet"]) / clip["num_inference_steps"]
        self.rung = Rung(load["memory"], load["two_pass_guidance"], load["forward_chunking"], clip["decode_chunk_size"])

    @property
    def name(self) -> str:
        """The way it was run, and its size."""
        size = f"{self.clip['num_frames']} × {self.clip['height']}×{self.clip['width']}"
        return f"{rung_text(self.rung)} | {size} | {self.clip['decode_chunk_size']}"

    @property
    def allocated(self) -> tuple[float, float]:
        """Peak of what tensors took, and as counted: weights that are on the card, and activations."""
        weights = self.forecast.weight_bytes
        need, networks = Need(weight_bytes=weights), {"vae_encode": "vae", "vae_decode": "vae"}
        counted = max(
            need.weights_on_device(self.rung.memory, networks.get(stage, stage)) + size
            for stage, size in self.forecast.peak_bytes.items()
        )
        return (self.record.peaks["peak_allocated_bytes"] or 0) / GIB, counted / GIB

    @property
    def taken(self) -> tuple[float, float]:
        """Peak of what torch reserved, with the context, and as forecast on a card with room."""
        memory = self.record.memory
        context = (memory["image_encoder"]["process_bytes"] or 0) - (
            memory["image_encoder"]["peak_reserved_bytes"] or 0
        )
        return ((self.record.peaks["peak_reserved_bytes"] or 0) + context) / GIB, self.forecast.reserved_bytes / GIB


def _off(measured: float, expected: float) -> float:
    return expected / measured - 1


def cells(folder: Path) -> list[Cell]:
    """Every way and size once: the longer of the two denoisings."""
    calibration = read_records(folder / "calibration.jsonl")
    records = [record for record in read_records(folder) if record.status == "ok"]
    longest = max(record.clip["num_inference_steps"] for record in records)
    return [Cell(record, calibration) for record in records if record.clip["num_inference_steps"] == longest]


def facts(folder: Path) -> list[dict[str, Any]]:
    """All else that was found."""
    return [json.loads(line) for line in (folder / "facts.jsonl").read_text(encoding="utf-8").splitlines()]


def _seconds_rows(found: Sequence[Cell]) -> Iterator[str]:
    yield (
        "| way | frames × size | decode chunk | a step, s | decoding, s | other, s | clip, s | repeats (processes) "
        "| forecast, s | |"
    )
    yield "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for cell in found:
        other = cell.total.value - cell.seconds["unet"] - cell.seconds["vae_decode"]
        numbers = f"{cell.step:.3f} | {cell.seconds['vae_decode']:.2f} | {other:.2f} | {cell.total.value:.2f}"
        count = f"{len(cell.record.order)} ({len(cell.record.timed)})"
        off = _off(cell.total.value, cell.forecast.seconds or 0)
        yield f"| {cell.name} | {numbers} | {count} | {cell.forecast.seconds:.2f} | {off:+.0%} |"


def _remarks(told: Sequence[dict[str, Any]], what: str) -> str:
    """What whoever measured has to say of these records: facts of the part "remarks"."""
    return _text(*(fact["value"] for fact in told if (fact["part"], fact["what"]) == ("remarks", what)))


def _text(*parts: str) -> str:
    return "\n" + textwrap.fill(" ".join(parts), 110) + "\n"


def _memory_rows(found: Sequence[Cell]) -> Iterator[str]:
    yield (
        "| way | frames × size | decode chunk | allocated | counted | | reserved + context | forecast with room | "
        "| must be free |"
    )
    yield "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    for cell in found:
        pairs = " | ".join(f"{a:.2f} | {b:.2f} | {_off(a, b):+.0%}" for a, b in (cell.allocated, cell.taken))
        yield f"| {cell.name} | {pairs} | {cell.forecast.memory_bytes / GIB:.1f} |"


def _floor_rows(found: Sequence[Cell], rate: float) -> Iterator[str]:
    yield "| stage | TFLOP | seconds | TFLOP/s | of the matrix product's rate | × of floor |"
    yield "|---|--:|--:|--:|--:|--:|"
    cell = found[0]
    for stage, seconds in cell.seconds.items():
        tera = cell.forecast.flops[stage] / 1e12
        yield (
            f"| {stage} | {tera:.1f} | {seconds:.3f} | {tera / seconds:.0f} | {tera / seconds / rate:.0%} "
            f"| {seconds * rate / tera:.1f} |"
        )


def _operation_rows(fact: dict[str, Any]) -> Iterator[str]:
    yield "| kernel | ms | calls |"
    yield "|---|--:|--:|"
    for row in fact["top"][:10]:
        name = row["name"].replace("at::native::", "").replace("(anonymous namespace)::", "").replace("|", "\\|")
        yield f"| `{name[:90]}` | {row['us'] / 1000:.0f} | {row['calls']} |"


def _run_rows(told: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What was tried once, and what came of it."""
    yield "| tried | found |"
    yield "|---|---|"
    for fact in told:
        what, value = fact["what"], fact["value"]
        is_tried = fact["part"] in {"same", "fp8", "killed", "activations", "fits", "ladder", "probes"}
        is_timed = what.endswith(": seconds") and fact["part"] != "fp8"
        if not is_tried or is_timed or what.startswith(("load", "import", "apply")):
            continue
        ran = isinstance(value, float | int) and fact["part"] in {"fits", "fp8"}
        text = "; ".join(map(_plain, value)) if isinstance(value, list) else "ran" if ran else _plain(value)
        yield f"| {what.removesuffix(': seconds')} | {text[:400]} |"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(part)}" for name, part in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def _bars(found: Sequence[Cell], whole: dict[str, Any]) -> list[tuple[str, float, float]]:
    """What was asked for, the worst difference, and the most that is allowed."""
    resident = [cell for cell in found if cell.rung.memory == "resident"]
    moved = [cell for cell in found if cell.rung.memory != "resident"]
    seconds = {what: max(abs(_off(cell.total.value, cell.forecast.seconds or 0)) for cell in some) for what, some in
               (("all weights on the card", resident), ("weights moved", moved))}  # fmt: skip
    clip = found[0].forecast
    expected = clip.stage_seconds["unet"] * 25 / found[0].clip["num_inference_steps"]
    expected += sum(value for stage, value in clip.stage_seconds.items() if stage != "unet")
    return [
        ("peak allocated", max(abs(_off(*cell.allocated)) for cell in found), ALLOCATED_BAR),
        ("reserved and context, with room", max(abs(_off(*cell.taken)) for cell in found), TAKEN_BAR),
        *((f"seconds, {what}", value, SECONDS_BAR) for what, value in seconds.items()),
        ("seconds of one whole clip of 25 steps", abs(_off(whole["value"]["total"], expected)), SECONDS_BAR),
    ]


def table(folder: Path) -> tuple[str, bool]:
    """Write all of it as Markdown; and whether all bars are met."""
    found, told = cells(folder), facts(folder)
    first, by = found[0].record, {fact["what"]: fact for fact in told}
    here = first.environment
    rate = by["matrix product 8192, torch.float16: TFLOP/s"]["value"]
    whole = next(fact for fact in told if fact["what"] == "whole clip")
    bars = _bars(found, whole)
    usual, repeats = found[0].total, len(first.order) // len(first.timed)
    lines = [
        f"# The full-size network on an {here['gpu'].removeprefix('NVIDIA ')}, weights: random",
        _text(
            f"{here['gpu']}, {here['cpu_count']} cores; Python {here['python']}, torch {here['torch']}, diffusers",
            f"{here['diffusers']}, driver {here['driver']}; svd-xt, weights: random, fp16; {first.started_at[:10]}.",
            "Measured by `python benchmarks/gpu.py`, written by `python benchmarks/gpu_table.py`. Clips have 3 steps;",
            "a step is a third of the UNet's time.",
            f"The usual clip (first row) took {usual.value:.2f} s ({usual.low:.2f} to {usual.high:.2f}, 95 %, from",
            f"{len(first.timed)} processes of {repeats} repeats); the others ran twice in one process, without",
            f"interval. One whole clip of 25 steps, once: {whole['value']['total']:.2f} s.",
        ),
        "## Does the forecast hold?\n",
        "| forecast against measured, the worst row | off by | bar | |",
        "|---|--:|--:|---|",
        *(f"| {what} | {value:.1%} | {bar:.0%} | {'met' if value <= bar else 'missed'} |" for what, value, bar in bars),
        _text(
            "Seconds are forecast from `svdkit.calibrate` (two steps, one chunk of the usual clip), bytes from counts.",
            "Chosen on these rows: the factors for room, what moving weights costs, 10 % for guidance in two passes,",
            "the seconds of a launch. There the bar says that few constants fit, not that an unseen card is met.",
            f"The usual clip's seconds are known to ± {usual.high / usual.value - 1:.1%} (95 %), others' less.",
        ),
        "## Seconds\n",
        *_seconds_rows(found),
        _remarks(told, "seconds"),
        "## Memory, GiB\n",
        *_memory_rows(found),
        _text(
            '"Must be free" is what load(memory="auto") asks for. With room, torch keeps blocks of several sizes: the',
            "driver shows that.",
        ),
        _remarks(told, "memory"),
        f"## How far from the floor: a matrix product reaches {rate:.0f} TFLOP/s here\n",
        "The usual clip, 3 steps.\n",
        *_floor_rows(found, rate),
        "\n## Where a step's time goes\n",
        *_operation_rows(by["operations of unet"]),
        "\n## Where decoding's time goes\n",
        *_operation_rows(by["operations of vae_decode"]),
        "\n## Does it run?\n",
        *_run_rows(told),
        _text("Differences are of 2 steps at 320×512, fp16, against the plain clip."),
        _remarks(told, "whole"),
    ]
    return "\n".join([*lines, ""]), all(value <= bar for _, value, bar in bars)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description="The measurements of a GPU as a page.")
    parser.add_argument("--out", type=Path, default=ROOT / "bench_results" / "gpu", help="folder of the results")
    options = parser.parse_args(arguments)
    text, met = table(options.out)
    (options.out / "table.md").write_text(text, encoding="utf-8")
    print(text)
    return int(not met)


if __name__ == "__main__":
    sys.exit(main())
