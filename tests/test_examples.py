"""The examples in the docstrings of what is public are true: each is run, on micro, in a folder of its own."""

from __future__ import annotations

import contextlib
import doctest
import inspect
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import svdkit
from svdkit.bench.protocol import Protocol
from svdkit.bench.table import to_csv, to_html, to_markdown
from svdkit.sweep import plan_sweep, read_sweep, run_sweep

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

MORE = {plan_sweep, run_sweep, to_csv, to_html, to_markdown}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples() -> dict[str, doctest.DocTest]:
    """Collect the examples of the public names, of their methods, and of a few more that notebooks use."""
    finder = doctest.DocTestFinder(recurse=True)
    public = [getattr(svdkit, name) for name in sorted(set(svdkit.__all__) - {"__version__"})]
    found: list[doctest.DocTest] = []
    for thing in [*public, *sorted(MORE, key=lambda thing: thing.__name__)]:
        found += finder.find(thing, thing.__name__, module=inspect.getmodule(thing), globs={})
    return {test.name: test for test in found if test.examples}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the examples may use: the public names, and things that earlier lines of a notebook would have made."""
    place = tmp_path_factory.mktemp("examples")
    pipe = svdkit.load("micro")
    settings = svdkit.ClipSettings(seed=1, num_inference_steps=2)
    encoded = svdkit.encode(pipe, svdkit.fit("rocket", height=72, width=128), settings)
    denoised = svdkit.denoise(pipe, encoded)
    clip = svdkit.decode(pipe, denoised)
    record = svdkit.calibrate(pipe)
    with pytest.MonkeyPatch.context() as patch:  # contextlib.chdir is younger than Python 3.10
        patch.chdir(place)
        clip.save("walk.mp4")
        for folder in ("bench_results/mine", "before", "after"):
            svdkit.write_record(folder, record)
        Path("motion.yaml").write_text("photos: cat\naxes: {seed: [1, 2]}\n", encoding="utf-8")
    made = {"pipe": pipe, "settings": settings, "encoded": encoded, "denoised": denoised, "clip": clip, "calm": clip}
    made |= {"lively": clip, "record": record, "records": [record], "np": np, "svdkit": svdkit, "Protocol": Protocol}
    made |= {"plan_sweep": plan_sweep, "read_sweep": read_sweep, "run_sweep": run_sweep, "place": place}
    made |= {thing.__name__: thing for thing in MORE}
    return made | {name: getattr(svdkit, name) for name in svdkit.__all__}


@pytest.mark.parametrize("name", sorted(examples()))
def test_an_example_is_true(name: str, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(names["place"])
    test = examples()[name]
    test.globs = dict(names)
    said = io.StringIO()
    with contextlib.redirect_stderr(io.StringIO()):
        result = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.write)
    assert result.failed == 0, said.getvalue()


def test_a_public_name_has_an_example() -> None:
    names = {name: getattr(getattr(svdkit, name), "__name__", name) for name in svdkit.__all__}
    bare = {name for name, own in names.items() if own not in examples()}
    assert bare == {"SvdkitError", "SvdkitWarning", "__version__"}


def test_a_wrong_example_is_found() -> None:
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    assert doctest.DocTestRunner(optionflags=FLAGS).run(test, out=lambda _: None).failed == 1
