"""The README's table of GPUs: the way svd-xt fits, how long a clip takes, and how many an hour.

    python benchmarks/cards.py    # writes it into README.md and README.zh.md; a test says when that is due

Every row is a forecast from what ships with svdkit.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for svdkit where it is not installed

from svdkit import forecast  # noqa: E402 - behind the line above
from svdkit.pipeline.memory import rung_text  # noqa: E402
from svdkit.units import format_bytes, format_seconds  # noqa: E402

GPUS = ("RTX 4060", "RTX 3060", "T4", "RTX 4080", "RTX 3090", "RTX 4090", "A100 80GB", "H100", "H200")
# Of each README the heading, and what joins the ends of an interval.
WORDS = {
    "README.md": ("GPU | memory | plan | needs | a clip | interval | clips an hour", "to"),
    "README.zh.md": ("显卡 | 显存 | 显存方案 | 需要 | 一段视频 | 区间 | 每小时段数", "至"),
}


def row(gpu: str, to: str) -> str:
    """Forecast a clip of svd-xt on a card; the plan is the first of the ladder that fits, as `load` chooses it.

    Raises:
        SystemExit: The card is too small, or nothing is known of its speed.
    """
    found = forecast("svd-xt", gpu=gpu)
    way = next((step for step in found.ladder if step.fits), None)
    if not (way and found.gpu_bytes and found.seconds and found.seconds_low and found.seconds_high):
        raise SystemExit(f"no forecast for {gpu}: {found}")
    plan = f"{rung_text(way.rung)}, chunk {way.rung.decode_chunk_size}"
    interval = f"{format_seconds(found.seconds_low)} {to} {format_seconds(found.seconds_high)}"
    cells = (gpu, format_bytes(found.gpu_bytes), plan, format_bytes(way.memory_bytes), format_seconds(found.seconds))
    return f"| {' | '.join((*cells, interval))} | {3600 / found.seconds:.0f} |"


def fill(name: str, text: str) -> str:
    """Put the table between a README's two marks.

    Raises:
        SystemExit: The marks are missing.
    """
    heading, to = WORDS[name]
    lines = [f"| {heading} |", "|---|--:|---|--:|--:|---|--:|", *(row(gpu, to) for gpu in GPUS)]
    filled, count = re.subn(
        r"(<!-- cards -->\n).*?(<!-- /cards -->)",
        lambda found: "\n".join([found[1], *lines, "", found[2]]),
        text,
        flags=re.DOTALL,
    )
    if count != 1:
        raise SystemExit(f"{name} has no place for the table: a line <!-- cards --> and a line <!-- /cards -->")
    return filled


if __name__ == "__main__":
    for name in WORDS:
        path = ROOT / name
        path.write_text(fill(name, path.read_text(encoding="utf-8")), encoding="utf-8")
