"""The steps of the GPU workflow: python .ci/gpu.py look | notebooks | compare | summary; docs/ci.md says how they fit.

Everything is told by environment variables, as a workflow has them: MODEL, WEIGHTS (random or trained), NOTEBOOKS,
NOTEBOOK_MINUTES and CELL_MINUTES (at most, each), RESULTS (the folder for everything), HOURLY_PRICE and CURRENCY.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from svdkit.bench.record import Record, read_records
from svdkit.bench.table import table, to_markdown
from svdkit.environment import summary as machine
from svdkit.units import format_count, format_money, format_seconds

ROOT = Path(__file__).parents[1]
MODEL = os.environ.get("MODEL") or "svd-xt"
WEIGHTS = "trained" if MODEL == "micro" else os.environ.get("WEIGHTS") or "random"
NOTEBOOKS = (os.environ.get("NOTEBOOKS") or "01_quickstart 02_parameter_sweep 03_performance_profile").split()
NOTEBOOK_MINUTES = float(os.environ.get("NOTEBOOK_MINUTES") or 30)
CELL_MINUTES = float(os.environ.get("CELL_MINUTES") or 20)
OUT = Path(os.environ.get("RESULTS") or "build/gpu")
PRICE, CURRENCY = float(os.environ.get("HOURLY_PRICE") or 0), os.environ.get("CURRENCY") or "USD"
ACCEPTED = Path(os.environ.get("ACCEPTED") or ROOT / "bench_results" / "ci")

SLOWER, SAVING_SECONDS = "10%", 60  # what counts as a regression; time for a stopped notebook to be written
# Few runs, for a GPU's minutes are paid; 25 steps only where somebody may look at the clips.
STEPS = 25 if WEIGHTS == "trained" and MODEL != "micro" else 4
FEW: dict[str, dict[str, Any]] = {
    "01_quickstart": {"num_inference_steps": STEPS},
    "02_parameter_sweep": {
        "num_inference_steps": STEPS,
        "motion_bucket_ids": [20, 230],
        "seeds": [1],
        "decode_chunk_sizes": [2, 7],
    },
    "03_performance_profile": {
        "num_inference_steps": [2, 4],
        "decode_chunk_size": [14] if MODEL == "micro" else [1, 5],
        "budget_seconds": 10.0 if MODEL == "micro" else 300.0,
    },
}


def look() -> int:
    """Print what this machine is; 1 where the model needs a GPU and torch can use none."""
    (OUT / "started").write_text(str(time.time()), encoding="utf-8")
    if tool := shutil.which("nvidia-smi"):
        subprocess.run([tool], check=False)
    subprocess.run([sys.executable, "-m", "svdkit", "doctor"], check=True)
    if MODEL == "micro" or _gpu():
        return 0
    print(f"error: torch finds no GPU on this runner, and {MODEL} needs one; see docs/ci.md, or use the model micro")
    return 1


def _gpu() -> str | None:
    name = machine(gpu=True)["gpu"]
    return name and str(name)


def notebooks() -> int:
    """Run the notebooks one after the other, whatever becomes of each; 1 when one did not come to its end."""
    rows = [_run(name) for name in NOTEBOOKS]
    (OUT / "notebooks.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    return int(any(row["outcome"] != "ok" for row in rows))


def _run(name: str) -> dict[str, Any]:
    """Run a notebook and say how it ended; one that takes too long is interrupted, so that it is kept so far."""
    stem, start = Path(name).stem, time.monotonic()
    words = [sys.executable, "-m", "svdkit", "notebook", name, "--output-folder", str(OUT / stem)]
    words += ["--cell-minutes", f"{CELL_MINUTES:g}"]
    values = {"model": MODEL, "weights": WEIGHTS, **FEW[name]} if name in FEW else {}
    for parameter, value in values.items():
        words += ["-p", f"{parameter}={value if isinstance(value, str) else json.dumps(value)}"]
    print(f"::group::{stem}", flush=True)
    with subprocess.Popen(words) as process:
        try:
            code: int | None = process.wait(NOTEBOOK_MINUTES * 60)
        except subprocess.TimeoutExpired:
            code = None
            process.send_signal(signal.SIGINT)
            try:
                process.wait(SAVING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
    outcome = "ok" if code == 0 else f"failed ({code})" if code else f"stopped after {NOTEBOOK_MINUTES:g} min"
    seconds = time.monotonic() - start
    print(f"::endgroup::\n{stem}: {outcome}, {format_seconds(seconds)}", flush=True)
    return {"notebook": stem, "outcome": outcome, "seconds": seconds}


def compare() -> int:
    """Compare the profile with the last accepted one of this GPU; 1 when something is slower or fails now."""
    records = _records()
    if not records:
        print("no profile was measured: nothing to compare")
        return 0
    accepted = ACCEPTED / _folder_name(records[0])
    if not (accepted / "records.jsonl").is_file():
        print(f"no profile of this GPU was accepted yet; to accept this one, commit its records.jsonl as {accepted}/")
        return 0
    words = [sys.executable, "-m", "svdkit", "compare", str(accepted), str(OUT / "03_performance_profile")]
    return subprocess.run([*words, "--fail-above", SLOWER, "--allow", "environment"], check=False).returncode


def _records() -> list[Record]:
    file = OUT / "03_performance_profile" / "records.jsonl"
    return read_records(file) if file.is_file() else []


def _folder_name(record: Record) -> str:
    """Name what profiles share that can be compared: GPU, model, weights; versions may differ, for they are judged."""
    parts = (record.environment.get("gpu") or "cpu", record.model["name"], record.model["weights"])
    return re.sub(r"[^a-z0-9.]+", "-", "-".join(map(str, parts)).lower())


def summary() -> int:
    """Write Markdown for the page of the job: the machine, what ran, what it took and cost, the profile's table."""
    lines = [f"## {MODEL}, {WEIGHTS} weights, on {_gpu() or 'a CPU'}", ""]
    if (OUT / "notebooks.json").is_file():
        rows = json.loads((OUT / "notebooks.json").read_text(encoding="utf-8"))
        lines += ["| notebook | | took |", "|---|---|--:|"]
        lines += [f"| {row['notebook']} | {row['outcome']} | {format_seconds(row['seconds'])} |" for row in rows]
    if (OUT / "started").is_file():
        seconds = time.time() - float((OUT / "started").read_text(encoding="utf-8"))
        money = f", {format_money(PRICE * seconds / 3600, CURRENCY)} at {PRICE:g} an hour" if PRICE else ""
        lines += ["", f"{format_seconds(seconds)} of the runner, its start and set-up apart{money}."]
    if records := _records():
        lines += ["", f"### Profile: {format_count(len(records), 'record')}", "", to_markdown(table(records))]
    text = "\n".join(lines) + "\n"
    with Path(os.environ.get("GITHUB_STEP_SUMMARY") or OUT / "summary.md").open("a", encoding="utf-8") as page:
        page.write(text)
    print(text)
    return 0


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    sys.exit({"look": look, "notebooks": notebooks, "compare": compare, "summary": summary}[sys.argv[1]]())
