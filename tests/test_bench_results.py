"""The committed results: small, whole, without anyone's paths, and their index is what its script writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu_table, readme
from svdkit.bench.record import Record, read_records, write_record
from svdkit.sweep import plan_sweep, read_sweep
from tests.bench_records import record

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench_results"
MOTION = RESULTS / "motion"
SWEEP_FILE = ROOT / "notebooks" / "sweeps" / "motion.yml"
FOLDERS = sorted(path for path in RESULTS.iterdir() if path.is_dir() and any(path.glob("records.*")))


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_index_is_up_to_date() -> None:
    """After new results: python benchmarks/readme.py."""
    assert (RESULTS / "README.md").read_text(encoding="utf-8") == readme.render(RESULTS)


def test_the_index_has_every_folder_with_its_command_and_where_it_was_measured() -> None:
    entries = {entry.name: entry for entry in map(readme.describe, FOLDERS)}
    assert {"forecast", "gpu", "micro", "motion", "overhead"} <= entries.keys()
    assert [name for name, entry in entries.items() if not entry.command] == []
    assert entries["micro"][1:5] == (
        "The micro model's bars",
        "bars: 13 met, **1 missed**",
        "AMD EPYC, 2 cores",
        "2026-11-27",
    )
    assert entries["motion"].command == "svdkit sweep notebooks/sweeps/motion.yml"
    assert entries["motion"].about == "A sweep: 2 photos × motion_bucket_id (5) × seed (4)"


def test_committed_results_are_small() -> None:
    assert size(MOTION) < 2_000_000
    assert size(RESULTS) < 5_000_000


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_committed_results_name_nobody(folder: Path) -> None:
    """No path of the machine that they were made on, in text or in the videos' own text."""
    paths = re.compile(rb"/(?:home|root|tmp|work|Users|mnt)/[\w.]")
    found = [path.name for path in folder.rglob("*") if path.is_file() and paths.search(path.read_bytes())]
    assert found == []


def test_the_motion_sweep_is_that_of_its_file() -> None:
    """Every run that the sweep file asks for is there, ended well, and has its files; there is no other."""
    plan, records = plan_sweep(**read_sweep(SWEEP_FILE), forecast=False), read_records(MOTION)
    asked = {json.dumps([job.clip.to_dict(), job.frame.sha256], sort_keys=True) for job in plan.jobs}
    made = {json.dumps([run.clip, run.image["sha256"]], sort_keys=True) for run in records}
    assert asked == made
    assert {run.status for run in records} == {"ok"}
    assert [run.id for run in records if not all((MOTION / path).is_file() for path in run.artifacts.values())] == []
    assert {path.name for path in (MOTION / "runs").iterdir()} == {run.id for run in records}
    described = json.loads((MOTION / "sweep.json").read_text(encoding="utf-8"))
    assert sorted(described["runs"]) == sorted(run.id for run in records)


def test_the_motion_sweep_shows_that_the_bucket_moves_the_picture() -> None:
    """What the notebook and the documentation say of it: medians rise from each bucket to the next."""
    speeds: dict[int, list[float]] = {}
    for run in read_records(MOTION):
        speeds.setdefault(run.clip["motion_bucket_id"], []).append(run.quality["motion_percent_width_per_second"])
    medians = [sorted(speeds[bucket])[len(speeds[bucket]) // 2] for bucket in sorted(speeds)]
    assert medians == sorted(medians)
    assert medians[-1] > 1.3 * medians[0]


def test_the_motion_page_has_all_axes() -> None:
    """Rows, columns and tabs of the grid of clips: photo, bucket and seed."""
    page = (MOTION / "index.html").read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json">(.+?)</script>', page)
    assert {axis["name"] for axis in json.loads(data)["axes"]} == {"bucket", "seed", "photo"}
    assert len(json.loads(data)["clips"]) == 40


def test_the_gpu_page_is_what_its_script_writes_and_forecasts_today() -> None:
    text, met = gpu_table.table(RESULTS / "gpu")
    assert (RESULTS / "gpu" / "table.md").read_text(encoding="utf-8") == text
    assert not met  # moved weights take 11 % longer than forecast
    assert {cell.record.model["weights"] for cell in gpu_table.cells(RESULTS / "gpu")} == {"random"}


def benchmark(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "table.md").write_text(text, encoding="utf-8")
    (folder / "records.csv").write_text("a\n1\n", encoding="utf-8")
    return folder


def sweep_folder(folder: Path, records: list[Record], **axes: Any) -> Path:
    folder.mkdir(parents=True)
    for one in records:
        write_record(folder, one)
    asked = {"photos": ["rocket"], "axes": axes}
    (folder / "sweep.json").write_text(json.dumps({"asked": asked}), encoding="utf-8")
    return folder


def test_a_table_tells_its_title_bars_date_and_command(tmp_path: Path) -> None:
    text = "# A title\n\nOn a T4; 2026-02-03.\n`python benchmarks/x.py --steps 4`\n\nBar: missed. Other bar: met.\n"
    assert readme.describe(benchmark(tmp_path / "x", text)) == readme.Entry(
        name="x",
        about="A title",
        outcome="bars: 1 met, **1 missed**",
        computer="no measurement of its own",
        date="2026-02-03",
        command="python benchmarks/x.py --steps 4",
    )
    entry = readme.describe(benchmark(tmp_path / "y", "Only numbers, some unmet.\n"))
    assert (entry.about, entry.outcome, entry.date, entry.command) == ("y", "no bar", "", "")


def test_a_sweep_tells_its_axes_failures_and_motion(tmp_path: Path) -> None:
    motion = "motion_percent_width_per_second"
    clip = record().clip
    runs = [
        record(clip=clip | {"motion_bucket_id": bucket}, quality={motion: speed}, command="svdkit sweep a.yml")
        for bucket, speed in ((20, 1.0), (20, 2.0), (200, 6.0))
    ]
    lost = record(status="oom", samples={}, memory={}, error={"type": "OutOfMemoryError", "message": "no room"})
    entry = readme.describe(sweep_folder(tmp_path / "s", [*runs, lost], motion_bucket_id=[20, 200], seed=[1, 2]))
    assert entry.about == "A sweep: 1 photo × motion_bucket_id (2) × seed (2)"
    assert entry.outcome == (
        "4 runs, 1 failed; median motion 1.5 % of the width a second at bucket 20, 6.0 at bucket 200"
    )
    assert (entry.computer, entry.command) == ("NVIDIA H200", "svdkit sweep a.yml")


def test_records_without_a_table_are_refused(tmp_path: Path) -> None:
    (tmp_path / "records.csv").write_text("a\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"has no table\.md; let its script write one, or take the folder away"):
        readme.describe(tmp_path)


def test_the_script_writes_the_index_and_can_check_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark(tmp_path / "x", "# a | b\n")
    (tmp_path / "not finished").mkdir()
    assert readme.main(["--folder", str(tmp_path), "--check"]) == 1
    assert capsys.readouterr().err == "README.md is not up to date: run python benchmarks/readme.py\n"
    assert readme.main(["--folder", str(tmp_path)]) == 0
    assert readme.main(["--folder", str(tmp_path), "--check"]) == 0
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert text.endswith("| [x](x/table.md) | a \\| b | no bar | no measurement of its own | – | – |\n")
    assert "not finished" not in text
