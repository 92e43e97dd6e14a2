"""Damaged records and results folders: tables, comparisons, figures and reports, or svdkit's own error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svdkit.bench import plot
from svdkit.bench.compare import compare
from svdkit.bench.record import Record, read_records
from svdkit.bench.table import table, to_csv, to_html, to_markdown
from svdkit.sweep.report import write_report
from tests.bench_records import out_of_memory, record
from tests.fuzz import JSON, VALUES, answer, cases, damaged, result

SHORT: Any = {"samples": {"timed": {"total": [6.0, 6.1, 6.3], "unet": [4.0, 4.1, 4.2]}}, "order": [0, 1, 2]}
GOOD = [record(steps=10, **SHORT), out_of_memory()]
GOOD += [record(steps=25, quality={"is_black": False, "warp_error_grey_levels": 1.5}, **SHORT)]
GOOD += [record(steps=30, chunk=2, cost={"hourly_price": 2.0, "money": 0.01, "currency": "EUR"}, **SHORT)]
GOOD += [record(steps=30, chunk=3, artifacts={"clip": "runs/a/clip.mp4", "poster": "runs/a/poster.jpg"}, **SHORT)]
ONE = ["stage_waterfall", "run_order_drift"]  # figures of one record
MANY = ["time_against_steps", "vram_against_chunk", "time_memory_pareto"]
DOCUMENTS = st.tuples(*(damaged(one.to_dict()) | st.just(one.to_dict()) for one in GOOD))
ASKED = {"asked": {"axes": {"num_inference_steps": [10, 25]}, "photos": ["rocket"], "clip": {}}, "jobs": []}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("results")


def lines(documents: list[Any]) -> str:
    return "".join(json.dumps(document) + "\n" for document in documents)


@cases("records", 45)
@given(documents=DOCUMENTS)
def test_records_with_odd_values_in_tables_and_comparisons(folder: Path, documents: Any) -> None:
    """Whatever is accepted as a record can be laid out and compared."""
    made = [found for values in documents if (found := result(Record.from_dict, values)) is not None]
    frame = result(table, made)
    if frame is not None:
        assert to_markdown(frame)
        assert to_html(frame)
        assert to_csv(frame)
        str(answer(compare, made, GOOD, allow_different=["environment"]))


@cases("records", 20)
@given(documents=DOCUMENTS, name=st.sampled_from(ONE + MANY))
def test_records_with_odd_values_in_figures(documents: Any, name: str) -> None:
    made = [found for values in documents if (found := result(Record.from_dict, values)) is not None]
    for given_records in made if name in ONE else [made]:
        answer(getattr(plot, name), given_records)


@cases("records", 10)
@given(documents=DOCUMENTS, asked=st.just(ASKED) | damaged(ASKED))
def test_reports_of_damaged_folders(folder: Path, documents: Any, asked: Any) -> None:
    accepted = [values for values in documents if result(Record.from_dict, values) is not None]
    (folder / "records.jsonl").write_text(lines(accepted))
    (folder / "sweep.json").write_text(json.dumps(asked))
    answer(write_report, folder)


@cases("records", 20)
@given(
    text=st.binary(max_size=60) | JSON.map(json.dumps).map(str.encode) | st.sampled_from([b"[" * 10**5, b"9" * 5000]),
    place=st.integers(0, 2),
)
def test_lines_that_are_no_record(folder: Path, text: bytes, place: int) -> None:
    parts = lines([one.to_dict() for one in GOOD]).encode().splitlines(keepends=True)
    (folder / "lines.jsonl").write_bytes(b"".join([*parts[:place], text, *parts[place:]]))
    answer(read_records, folder / "lines.jsonl")


@cases("records", 5)
@given(baseline=VALUES, folder=VALUES)
def test_odd_arguments(baseline: Any, folder: Any) -> None:
    answer(table, GOOD, baseline=baseline)
    answer(table, folder)
    answer(read_records, folder)
    answer(compare, GOOD, GOOD, noise_floor=folder, allow_different=baseline)
