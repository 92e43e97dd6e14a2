"""Comparing: a verdict only beyond interval and noise, a refusal where runs cannot be compared, an exit code for CI."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from svdkit.bench.compare import compare
from svdkit.bench.record import Record, write_record
from svdkit.cli.look import compare as command
from svdkit.cli.options import FAILED, WRONG_INPUT, Commands
from svdkit.errors import SettingsError
from tests.bench_records import CPU, GPU, VERSIONS, out_of_memory, record


def again(**changes: Any) -> Record:
    """Return the same cell measured once more: other noise, same speed unless the changes say otherwise."""
    return several(**{"sample_seed": 7} | changes)


def several(**changes: Any) -> Record:
    """Return a record of three processes of three clips each."""
    values: dict[str, Any] = {"repeats": 9, "processes": [*"aaabbbccc"], **changes}
    return record(**values)


def one(old: list[Record], new: list[Record], **options: Any) -> Any:
    (change,) = compare(old, new, **options).changes
    return change


def seconds(*processes: list[float]) -> dict[str, Any]:
    """Give the fields of a record whose seconds are known, a list a process."""
    names = [str(number) for number, process in enumerate(processes) for _ in process]
    return {"samples": {"timed": {"total": [s for process in processes for s in process]}}, "processes": names}


RESTLESS = seconds([2.0] * 3, [2.12] * 3)  # 6 % between its processes


@pytest.mark.parametrize(
    ("old", "new", "options", "verdict"),
    [
        *((several(), again(factor=factor), {}, word) for factor, word in ((1.1, "slower"), (0.9, "faster"))),
        *((several(), again(factor=factor), {}, "same") for factor in (1.0, 1.01)),
        # Without any variance the interval is a point; by half a promille machines differ all the same.
        (record(**seconds(*[[2.0] * 3] * 3)), record(**seconds(*[[2.001] * 3] * 3)), {}, "same"),
        (several(), again(factor=1.04), {}, "slower"),
        (several(), again(factor=1.04), {"noise_floor": 0.06}, "same"),
        (several(), again(factor=1.3), {"noise_floor": 0.2}, "slower"),
        (several(), again(factor=0.7), {"noise_floor": 0.2}, "faster"),
        (several(), again(factor=0.9), {"noise_floor": 0.2}, "same"),
        # The repeats of one process do not see what differs from process to process.
        (record(), again(factor=1.2, processes=["a"] * 9), {}, "unknown"),
        (record(), again(factor=1.2), {"noise_floor": 0.03}, "slower"),
        (record(), out_of_memory(), {}, "fails now"),
        (out_of_memory(), record(), {}, "works now"),
        (out_of_memory(), out_of_memory(), {}, "failed"),
        (record(), out_of_memory(clip=record().clip | {"height": None, "width": None, "seed": None}), {}, "fails now"),
    ],
)
def test_time_is_judged_by_interval_noise_and_failures(
    old: Record, new: Record, options: dict[str, Any], verdict: str
) -> None:
    found = compare([old], [new], **options)
    assert [change.time for change in found.changes] == [verdict]
    assert len(found.regressions()) == (verdict in {"slower", "fails now"})


def test_a_difference_inside_the_noise_of_another_row_is_the_same() -> None:
    """A change of 4 % is plain to see in one row, but the processes of another one differed by 6 %."""
    found = compare([record(chunk=2, **RESTLESS), several()], [record(chunk=2, **RESTLESS), again(factor=1.04)])
    assert found.changes[1].ratio.excludes(1)
    assert found.changes[1].time == "same"
    assert found.noise_floor == pytest.approx(0.06)
    parts = (
        "2%, by which machines drift, 6.0%, between processes of a cell, and 0.7%, the drift inside the sides gone on"
    )
    assert f"noise floor: 6.0%, the largest of {parts}" in found.notes


@pytest.mark.parametrize(("first", "verdict"), [(2.0, "slower"), (1.94, "same")])
def test_a_drift_that_is_seen_inside_the_sides_goes_on_between_them(first: float, verdict: str) -> None:
    """Processes at 2.00, 2.00, 2.00 and 2.12, 2.12, 2.12 changed; at 1.94, 2.00, 2.06 and 2.12, 2.18, 2.24 drifted."""
    step = 2.0 - first
    old, new = ([[middle - step] * 3, [middle] * 3, [middle + step] * 3] for middle in (2.0, 2.0 + 0.12 + step))
    change = one([record(**seconds(*old))], [record(**seconds(*new))])
    assert (change.ratio.value > 1.05, change.time) == (True, verdict)


def test_records_of_one_cell_are_together() -> None:
    """Those of processes with a name as processes, those without as one."""
    old = [record(repeats=1, sample_seed=seed, processes=[str(seed)]) for seed in range(5)]
    new = [record(repeats=1, sample_seed=seed, factor=1.5, processes=[str(seed)]) for seed in range(5, 10)]
    assert one(old, new).time == "slower"
    nameless = [record(repeats=1, sample_seed=seed) for seed in range(5)]
    assert one(nameless, new).time == "unknown"
    assert one(nameless, new, noise_floor=0.1).time == "slower"
    assert one(nameless[:1], new[:1]).remarks == ("under 5 repeats",)


def test_what_speaks_against_a_row_is_said_below_the_table() -> None:
    told = str(compare([several(cost={"never_warm": True})], [again()]))
    assert told.endswith("\nsvd-xt: old: never became warm")


@pytest.mark.parametrize(
    ("kind", "percent", "verdict"),
    [
        *(("peak_allocated_bytes", percent, word) for percent, word in ((0.9, "same"), (2, "more"), (-2, "less"))),
        *(("process_bytes", percent, word) for percent, word in ((2, "same"), (14, "same"), (20, "more"))),
        *(("peak_reserved_bytes", percent, word) for percent, word in ((1.5, "same"), (3, "more"))),
    ],
)
def test_a_kind_of_bytes_has_its_own_noise(kind: str, percent: float, verdict: str) -> None:
    before, after = 10**10, round(10**10 * (1 + percent / 100))
    change = one([several(memory={"total": {kind: before}})], [again(memory={"total": {kind: after}})])
    assert (change.old_bytes, change.new_bytes, change.memory) == (before, after, verdict)


def test_different_kinds_of_bytes_are_not_compared() -> None:
    change = one([record(memory={"total": {"process_bytes": 9}})], [again(memory={"unet": {"peak_reserved_bytes": 9}})])
    assert (change.old_bytes, change.new_bytes, change.memory) == (None, None, "unknown")


def test_rows_of_one_side_are_named_and_not_judged() -> None:
    found = compare([record(), record(steps=10)], [again(), again(steps=50)])
    assert len(found.changes) == 1
    assert "only in old: num_inference_steps 10" in found.notes
    assert "only in new: num_inference_steps 50" in found.notes


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"environment": GPU | VERSIONS | {"gpu": "NVIDIA L4"}}, "gpu: NVIDIA H200 → NVIDIA L4"),
        ({"environment": GPU | VERSIONS | {"torch": "2.14.0"}}, "torch: 2.13.0 → 2.14.0"),
        ({"environment": GPU | VERSIONS | {"vram_bytes": 2**34}}, "vram_bytes: 150000000000 → 17179869184"),
        ({"environment": CPU | VERSIONS}, "driver: 570.10 → None"),
        ({"environment": GPU | VERSIONS | {"cpu": "Xeon"}}, "cpu: AMD EPYC → Xeon"),
    ],
)
def test_other_hardware_or_versions_are_refused_unless_allowed(changes: dict[str, Any], difference: str) -> None:
    with pytest.raises(SettingsError, match="compare: hardware or versions differ") as caught:
        compare([record()], [again(**changes)])
    assert difference in caught.value.problems
    found = compare([record()], [again(**changes)], allow_different=("environment",))
    assert f"differs, as allowed: {difference}" in found.notes


def test_one_part_of_the_environment_can_be_allowed_and_some_do_not_matter() -> None:
    newer = again(environment=GPU | VERSIONS | {"torch": "2.14.0"})
    assert one([several()], [newer], allow_different=["torch"]).time == "same"
    with pytest.raises(SettingsError, match=r"torch: 2\.13\.0 → 2\.14\.0"):
        compare([record()], [newer], allow_different=["diffusers"])
    elsewhere = GPU | VERSIONS | {"notebook": "terminal", "ram_bytes": 1, "svdkit": "9.9", "ipywidgets": "7.7.1"}
    assert one([several()], [again(environment=elsewhere)]).time == "same"


def test_a_run_that_fails_now_is_found_by_whatever_wrote_its_row() -> None:
    """A process that died left "auto" unresolved, came to no method, and its driver knows no GPU."""
    lost = out_of_memory(load=record().load | {"dtype": "auto"}, environment=CPU | VERSIONS)
    found = compare([record(method="composed")], [lost])
    assert [change.time for change in found.changes] == ["fails now"]
    assert len(found.regressions()) == 1


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (record(dtype="bf16"), "dtype: fp16 → bf16"),
        (record(method="composed"), "method: measured → composed"),
        (record(steps=10), "num_inference_steps: 25 → 10"),
        (record(image={"source": "cat", "sha256": "cd" * 32}), f"image: {'ab' * 32} → {'cd' * 32}"),
        (record(model={"name": "svd-xt", "weights": "trained"}), "weights: random → trained"),
    ],
)
def test_other_settings_are_refused_unless_allowed(other: Record, difference: str) -> None:
    name = difference.partition(":")[0]
    advice = f"the nearest differ in {difference}; allow_different=('{name}',) or --allow compares them all the same"
    with pytest.raises(SettingsError, match=re.escape(f"compare: no row is in both; {advice}")):
        compare([record()], [other])
    assert len(compare([record()], [other], allow_different=[name]).changes) == 1


def test_what_may_differ_may_not_make_rows_one() -> None:
    with pytest.raises(SettingsError, match="with dtype left out, several old rows are one; give records of which"):
        compare([record(), record(dtype="fp32")], [again()], allow_different=["dtype"])


@pytest.mark.parametrize(
    ("new", "options", "message"),
    [
        ([], {}, "0 old records and 0 new"),
        ([record()], {}, "0 old records and 1 new"),
        (
            [record()],
            {"allow_different": "colour"},
            "compare: colour may not differ: not a name here; .*dtype, environ",
        ),
        *(
            ([record()], {"noise_floor": floor}, r"compare: noise_floor=.* is not a fraction from 0; 0.02 is 2 %")
            for floor in (-0.1, float("nan"), float("inf"))
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(new: list[Record], options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        compare(new if options else [], new, **options)


def test_the_text_is_exactly_this() -> None:
    old = [several(), several(steps=10), record(chunk=8, repeats=3), record(chunk=25), record(chunk=2)]
    new = [several(factor=1.2), several(steps=10), record(chunk=8, repeats=3), out_of_memory(chunk=25), record(chunk=2)]
    assert str(compare(old, new)) == (Path(__file__).parent / "golden" / "compare.txt").read_text(encoding="utf-8")


def test_regressions_are_slower_by_more_than_asked() -> None:
    found = compare([several(), several(steps=10)], [again(factor=1.08), again(steps=10)])
    assert [change.name for change in found.regressions(above=0.05)] == ["num_inference_steps 25"]
    assert found.regressions(above=0.1) == ()


def run(*words: object) -> Any:
    app = typer.Typer(cls=Commands, pretty_exceptions_enable=False)
    app.command()(command)

    @app.callback()
    def _root(*, debug: bool = False) -> None: ...

    runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    return runner.invoke(app, ["compare", *map(str, words)])


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name, factor in (("old", 1.0), ("new", 1.2)):
        for steps in (10, 25):
            write_record(tmp_path / name, several(steps=steps, factor=factor))
    return tmp_path / "old", tmp_path / "new"


@pytest.mark.parametrize(("limit", "code"), [("5%", FAILED), ("19.5 %", FAILED), ("25%", 0)])
def test_the_command_prints_the_table_and_its_exit_code_tells_ci(
    folders: tuple[Path, Path], limit: str, code: int
) -> None:
    done = run(*folders, "--fail-above", limit)
    assert re.search(r"(?m)^num_inference_steps 10  2.4 s  2.9 s  1.200 \(1.1\d+ to 1.2\d+\)  slower ", done.stdout)
    assert done.exit_code == code
    assert (f"2 rows slower by more than {limit}, or failing now" in done.stderr) == bool(code)
    assert run(*reversed(folders), "--fail-above", "0%").exit_code == 0  # what became faster does not fail
    assert run(*folders).exit_code == 0


@pytest.mark.parametrize("limit", ["5", "0.05", "five", "-5%"])
def test_a_limit_that_is_no_percentage_is_refused(folders: tuple[Path, Path], limit: str) -> None:
    done = run(*folders, f"--fail-above={limit}")
    assert done.exit_code == WRONG_INPUT
    assert f"'{limit}' is not a percentage; write 5% or 2.5%" in done.stderr


def test_what_cannot_be_compared_is_wrong_input(folders: tuple[Path, Path], tmp_path: Path) -> None:
    write_record(tmp_path / "cpu", record(environment=CPU | VERSIONS))
    done = run(folders[0], tmp_path / "cpu")
    assert done.exit_code == WRONG_INPUT
    assert "- gpu: NVIDIA H200 → None" in done.stderr
    assert run(folders[0], tmp_path / "cpu", "--allow", "environment").exit_code == 0
    assert run(folders[0], tmp_path / "nothing").exit_code == WRONG_INPUT
