"""Odd words, files and folders given to the commands: an exit code and a paragraph, never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from svdkit.cli import app
from tests.bench_records import record
from tests.clips import micro_clip
from tests.fuzz import JSON, WORDS, cases, damaged

CLEAN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
NUMBERS = st.sampled_from(
    ["0", "-1", "1e400", "nan", "inf", "9" * 30, "9" * 5000, "0x10", "1_0", "٣", "1.5", " 7", "auto"]
)
WORD: Any = (
    CLEAN | NUMBERS | WORDS.filter(lambda word: isinstance(word, str) and "\0" not in word and "\ud800" not in word)
)
SETTING = st.sampled_from(
    ["--height", "--num-frames", "--num-inference-steps", "--max-guidance-scale", "--decode-chunk-size"]
)
MODEL = st.sampled_from(["--dtype", "--memory"])
RECORD = record().to_dict()
SWEEP = {"photos": ["rocket"], "axes": {"seed": [1, 2]}, "clip": {"fps": 9}, "mode": "grid", "forecast": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    home = tmp_path_factory.mktemp("commands")
    micro_clip(2).save(home / "clip.gif")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SVDKIT_CACHE", str(home / "cache"))
        patch.chdir(home)
        yield home


def run(*words: str) -> None:
    found = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).invoke(app, words)
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    assert found.exit_code in {0, 1, 2}
    assert "did not expect this" not in found.output, found.output
    assert found.exit_code == 0 or 10 < len(found.output) < 6000 + 2 * sum(map(len, words))


@cases("command line", 30)
@given(
    model=st.sampled_from(["svd-xt", "micro"]) | WORD,
    pairs=st.lists(
        st.tuples(SETTING | MODEL | st.sampled_from(["--gpu", "--price", "--currency", "--records", "--steps"]), WORD),
        max_size=2,
    ),
)
def test_odd_words_for_forecast(folder: Path, model: str, pairs: list[tuple[str, str]]) -> None:
    run("forecast", *(word for pair in pairs for word in pair), *(["--gpu", "T4"] if not pairs else []), "--", model)


@cases("command line", 15)
@given(words=st.lists(WORD | SETTING | st.sampled_from(["--help", "--debug", "-o", "--version", "models"]), max_size=4))
def test_odd_words_for_the_command(folder: Path, words: list[str]) -> None:
    run(*(word for word in words if word not in {"app", "demo", "doctor"}))


@cases("command line", 20)
@given(
    photo=st.just("rocket") | WORD,
    pairs=st.lists(
        st.tuples(
            SETTING | MODEL | st.sampled_from(["--seed", "--fit", "--border", "--preset", "-o", "--scale", "--model"]),
            WORD,
        ),
        max_size=2,
    ),
)
def test_odd_words_for_animate(folder: Path, photo: str, pairs: list[tuple[str, str]]) -> None:
    """A preset that is not there ends each before a model is loaded."""
    run("animate", *(word for pair in pairs for word in pair), "--preset", "none", "--", photo)


@cases("command line", 15)
@given(values=damaged(SWEEP) | JSON, text=st.none() | st.text(max_size=60))
def test_odd_sweep_files(folder: Path, values: Any, text: str | None) -> None:
    (folder / "sweep.json").write_text(text or json.dumps(values), encoding="utf-8", errors="replace")
    run("sweep", "--dry-run", "--no-forecast", "sweep.json")


@cases("command line", 10)
@given(values=damaged(RECORD), above=st.just("5%") | WORD)
def test_damaged_records_compared(folder: Path, values: Any, above: str) -> None:
    for name, document in (("old.jsonl", RECORD), ("new.jsonl", values)):
        (folder / name).write_text(json.dumps(document) + "\n", encoding="utf-8")
    run("compare", "old.jsonl", "new.jsonl", f"--fail-above={above}")


@cases("command line", 10)
@given(data=st.data())
def test_damaged_clips_replayed(folder: Path, data: st.DataObject) -> None:
    """The clip has no photo of this size beside it, and no model is loaded."""
    document = json.loads((folder / "clip.json").read_text(encoding="utf-8"))
    (folder / "odd.gif").write_bytes((folder / "clip.gif").read_bytes())
    (folder / "odd.json").write_text(json.dumps(data.draw(damaged(document))), encoding="utf-8")
    run("replay", "odd.json", "--model", data.draw(WORD.filter(lambda word: word not in {"micro", "auto"})))
