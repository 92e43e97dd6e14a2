"""The table: what differs has a column, failures are rows, the best is marked, nothing from a user becomes markup."""

from __future__ import annotations

import html.parser
import io
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from svdkit.bench.record import BYTES, Record, read_records
from svdkit.bench.table import table, text_of, to_csv, to_html, to_markdown
from svdkit.errors import SettingsError
from svdkit.units import format_bytes, format_seconds
from tests.bench_records import CPU, GPU, VERSIONS, out_of_memory, record

GOLDEN = Path(__file__).parent / "golden"
NASTY = {"type": "Error", "message": "a | b <script>alert(1)</script> ![x](http://x.test) `c` *d*\nnext"}


def test_the_golden_records_make_exactly_the_golden_table() -> None:
    """After a change made on purpose: write what this prints on failure to tests/golden/table.md, and look at it."""
    expected = (GOLDEN / "table.md").read_text(encoding="utf-8")
    assert to_markdown(table(read_records(GOLDEN / "records-1.jsonl"))) == expected


def test_only_what_differs_has_a_column() -> None:
    frame = table([record(), record(dtype="fp32", chunk=8)])
    assert list(frame.columns[:6]) == ["dtype", "decode_chunk_size", "model", "weights", "method", "status"]
    assert list(table([record()]).columns[:2]) == ["model", "weights"]
    frame = table([record(), record(environment=GPU | VERSIONS | {"gpu": "NVIDIA L4", "ram_bytes": 1})])
    assert list(frame["gpu"]) == ["NVIDIA H200", "NVIDIA L4"]
    assert "ram_bytes" not in frame
    about = dict(frame.attrs["about"])
    assert about["Hardware"] == "NVIDIA H200 (139.7 GiB), AMD EPYC, 2 cores; NVIDIA L4 (139.7 GiB), AMD EPYC, 2 cores"


def test_numbers_are_raw_and_their_text_is_made_by_units() -> None:
    made = record()
    frame = table([made])
    row, size = frame.iloc[0], made.memory["total"]["peak_reserved_bytes"]
    assert row["seconds"] == pytest.approx(sorted(made.samples["timed"]["total"])[3])
    assert row["seconds_low"] < row["seconds"] < row["seconds_high"]
    assert row["seconds_p10"] < row["seconds"] < row["seconds_p90"]
    assert (row["peak_reserved_bytes"], row["repeats"], row["id"]) == (size, 7, made.id)
    assert f"| {format_seconds(row['seconds'])} (" in to_markdown(frame)
    assert f"| {format_bytes(size or 0)} |" in to_markdown(frame)


def test_what_was_forecast_stands_beside_what_was_measured() -> None:
    """And has no column in text where nothing was forecast."""
    text = to_markdown(table([record(forecast={"seconds": 75.0}), record(chunk=8)]))
    assert "| forecast | clip time (95 %) |" in text
    assert "| 1 min 15 s |" in text
    assert "forecast" not in to_markdown(table([record()]))


def test_the_ratio_is_to_the_pinned_baseline() -> None:
    """Half the seconds, made with the same noise, are a ratio of 0.5; the baseline itself is 1."""
    fast, slow = record(factor=0.5, dtype="fp16"), record(factor=1.0, dtype="bf16")
    frame = table([fast, slow], baseline=slow)
    assert list(frame["ratio"]) == pytest.approx([0.5, 1.0], abs=1e-5)
    assert frame["ratio_low"][0] < 0.5 < frame["ratio_high"][0]
    assert list(table([fast, slow])["ratio"]) == pytest.approx([1.0, 2.0], abs=1e-4)
    assert list(table([fast, slow], baseline=slow.id[:8])["ratio"]) == list(frame["ratio"])
    assert dict(frame.attrs["about"])["Baseline"] == f"row 2, {slow.id}"


@pytest.mark.parametrize("baseline", ["nothing", out_of_memory(chunk=25), ""])
def test_a_baseline_without_seconds_is_refused(baseline: Any) -> None:
    with pytest.raises(SettingsError, match=r"table: baseline '.*' is not one of the records with seconds; they are: "):
        table([record(), record(chunk=2), out_of_memory(chunk=25)], baseline=baseline)


def test_a_record_is_the_baseline_among_others_of_its_id() -> None:
    """A cell that was composed and measured has one id."""
    composed, measured = record(method="composed"), record(factor=2.0)
    assert composed.id == measured.id
    for baseline in (measured, Record.from_dict(measured.to_dict())):  # the latter as from a file read twice
        assert list(table([composed, measured], baseline=baseline)["ratio"]) == [pytest.approx(0.5, rel=0.05), 1]


def test_whole_numbers_stay_whole_where_one_is_missing() -> None:
    gpu = record(environment=GPU | VERSIONS | {"cudnn": 91002})
    text = to_markdown(table([record(environment=CPU | VERSIONS), gpu]))
    assert "91002" in text
    assert "139.7 GiB" in text


def test_no_records_are_refused() -> None:
    with pytest.raises(SettingsError, match="table: there are no records; give at least one"):
        table([])


def test_failures_are_rows_with_their_reason_and_never_the_baseline_by_themselves() -> None:
    frame = table([out_of_memory(chunk=25), record()])
    assert list(frame["status"]) == ["oom", "ok"]
    assert frame["reason"][0] == "OutOfMemoryError: 9.5 GiB more than the card's 139.7 GiB are needed"
    assert pd.isna(frame["peak_reserved_bytes"][0])
    assert math.isnan(frame["ratio"][0])
    assert frame["ratio"][1] == 1
    text = to_markdown(table([out_of_memory(chunk=25)]))
    assert "| oom | 0 | OutOfMemoryError: 9.5 GiB" in text
    assert "Baseline" not in text


def test_what_a_failed_run_left_open_is_no_difference() -> None:
    """A run that failed at once never learnt the model's own height; those that ran agree on it."""
    open_settings = record().clip | {"height": None, "seed": None, "decode_chunk_size": 25}
    frame = table([record(), record(chunk=2), out_of_memory(clip=open_settings)])
    assert list(frame.columns[:2]) == ["decode_chunk_size", "model"]
    assert "height 576" in dict(frame.attrs["about"])["Settings"]


def test_the_best_is_marked_and_so_is_all_that_cannot_be_told_from_it() -> None:
    """Never what has too few repeats, and nothing among one."""
    rows = [record(), record(chunk=4), record(factor=1.2, chunk=2)]
    assert list(table(rows)["best"]) == ["seconds", "seconds", "peak_reserved_bytes"]
    few = record(repeats=4, chunk=8, factor=0.9, processes=[*"aabb"])
    assert table([few])["seconds_low"][0] < table([few])["seconds"][0]
    assert list(table([record(), record(chunk=4), few])["best"]) == ["seconds", "seconds, peak_reserved_bytes", ""]
    assert list(table([record(), out_of_memory(chunk=25)])["best"]) == ["", ""]


@pytest.mark.parametrize(
    ("seconds", "remark"),
    [
        ([1.0, 1.0, 1.01, 1.0, 1.01, 1.0], ""),
        ([0.0] * 7 + [1.0] * 6, "each repeat is like the"),
        ([1.0, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06], "seconds drift by +5.8% in a process"),
        ([1.0, 1.1, 1.2, 1.2, 1.1, 1.0, 0.9, 0.8, 0.8, 0.9, 1.0, 1.1, 1.2, 1.2, 1.1, 1.0], "each repeat is like the"),
    ],
)
def test_what_speaks_against_seconds_is_remarked(seconds: list[float], remark: str) -> None:
    found = table([record(samples={"timed": {"total": seconds}})])["remarks"][0]
    assert found.startswith(remark) if remark else not found


def test_a_composed_clip_carries_what_composing_is_off_by() -> None:
    """2 % at each end; against another composed clip it cancels out."""
    whole, composed = record(), record(method="composed")
    frame = table([whole, composed])
    assert frame["seconds_high"][1] == pytest.approx(1.02 * frame["seconds_high"][0])
    assert frame["ratio_low"][1] < 1 / 1.02
    assert list(frame["best"]) == ["seconds", "seconds"]
    faster = record(method="composed", factor=0.98)
    assert list(table([whole, faster])["best"]) == ["seconds", "seconds"]
    assert list(table([composed, faster])["best"]) == ["", "seconds"]


def test_processes_are_counted_where_they_are_known() -> None:
    frame = table([record(processes=[*"aaabbcc"]), record(chunk=2)])
    assert list(frame["repeats"]) == [7, 7]
    assert frame["processes"][0] == 3
    assert pd.isna(frame["processes"][1])
    assert "processes" not in to_markdown(table([record()]))


def test_without_a_gpu_the_process_counts() -> None:
    sizes = [{"total": {"process_bytes": size, "peak_reserved_bytes": None}} for size in (2_000_000_000, 1_000_000_000)]
    frame = table([record(environment=CPU | VERSIONS, memory=memory, chunk=5 + i) for i, memory in enumerate(sizes)])
    assert "process_bytes" in frame["best"][1]
    text = to_markdown(frame)
    assert "**953.7 MiB best**" in text
    assert "- Hardware: AMD EPYC, 2 cores\n" in text
    assert "peak reserved" not in text


def test_memory_without_a_total_is_the_largest_stage() -> None:
    stages = {"unet": {"peak_allocated_bytes": 7, "process_bytes": None}, "vae_decode": {"peak_allocated_bytes": 9}}
    sizes = record(memory=stages).peaks
    assert sizes == {"peak_allocated_bytes": 9, **dict.fromkeys(BYTES[1:])}


def test_what_holds_for_all_rows_is_said_above() -> None:
    lines = to_markdown(table([record(), record(chunk=2, started_at="2026-11-26T00:00:00Z")])).splitlines()
    assert lines[0] == "- Hardware: NVIDIA H200 (139.7 GiB), AMD EPYC, 2 cores"
    assert lines[1].startswith(
        "- Versions: python 3.11.7, driver 570.10, cuda 12.8, platform Linux x86_64, torch 2.13."
    )
    assert "num_frames 25" in lines[2]
    assert lines[3:5] == ["- Date: 2026-11-24 to 2026-11-26", "- Command: svdkit profile svd-xt --weights random"]


def test_csv_has_every_number_in_full() -> None:
    rows = [record(), record(steps=10, quality={"motion": 1 / 3}), out_of_memory(chunk=25)]
    frame = table(rows)
    read = pd.read_csv(io.StringIO(to_csv(frame)))
    assert list(read["seconds"][:2]) == list(frame["seconds"][:2])
    assert read["quality.motion"][1] == 1 / 3
    assert read["peak_allocated_bytes"][0] == rows[0].memory["total"]["peak_allocated_bytes"]
    assert list(read["status"]) == ["ok", "ok", "oom"]


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t", "\r", "\uff1d"])
def test_a_text_is_no_formula_in_a_spreadsheet(sign: str) -> None:
    name = f"{sign}1+1.jpg"
    frame = table([record(image={"source": name}), record(image={"source": "1-1.jpg"})])
    frame.insert(0, name, [-1.5, 2.0])
    assert to_csv(frame).startswith((f"'{name},", f'"\'{name}",', "\"'\n"))
    read = pd.read_csv(io.StringIO(to_csv(frame)))
    assert list(read["image"]) == [f"'{name}".replace("\r", "\n"), "1-1.jpg"]
    assert list(read.iloc[:, 0]) == [-1.5, 2.0]


def test_markdown_escapes_what_a_user_made() -> None:
    text = to_markdown(table([out_of_memory(error=NASTY, chunk=25), record(command="svdkit x | tee *")]))
    assert r"Error: a \| b &lt;script&gt;alert(1)&lt;/script&gt; !\[x\](http://x.test) \`c\` \*d\* next |" in text
    assert r"svdkit x \| tee \*" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace(r"\|", "").count("|") for line in rows}) == 1


class Tags(html.parser.HTMLParser):
    """Collect tags and text, and see that every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open += [tag] if tag != "wbr" else []  # which has no end
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_html_is_sound_and_escaped_and_marks_the_best_and_the_failed() -> None:
    text = to_html(table([record(), record(chunk=2, factor=0.5), out_of_memory(error=NASTY, chunk=25)]))
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert tags.seen == {"ul", "li", "div", "table", "thead", "tbody", "tr", "th", "td", "wbr"}
    assert "Error: a | b <script>alert(1)</script> ![x](http://x.test) `c` *d*\nnext" in tags.words
    assert "background:#d5f0dc;color:#0a3a17;font-weight:bold" in text
    assert " best</td>" in text
    assert 'background:#fbe0dd;color:#5c1109">oom</td>' in text


def test_a_setting_keeps_all_its_digits() -> None:
    """Else 23.976 and 24 would be one."""
    assert [text_of(rate) for rate in (23.976, 24.0, 0.02)] == ["23.976", "24", "0.02"]


def test_a_frame_that_was_filtered_can_still_be_written() -> None:
    frame = table([record(), record(steps=10), out_of_memory(chunk=25)])
    text = to_markdown(frame[frame["status"] == "ok"].sort_values("seconds"))
    assert text.startswith("- Hardware: NVIDIA H200")
    assert text.count("\n| ") == 3
    assert "reason" not in text
