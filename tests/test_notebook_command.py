"""Notebooks without a browser: parameters are checked, a dead kernel is a failure, copies hold clips, no uploads."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from typer.testing import CliRunner

from svdkit.cli import app
from svdkit.cli import notebook as command
from svdkit.cli.notebook import _check_parameters, _find_notebook, _strip_file
from svdkit.cli.options import RefusedInput

if TYPE_CHECKING:
    from typer.testing import Result

# of the libraries that run notebooks, about one another
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

PARAMETERS = """
photo = "rocket"
seeds = [1, 2]
steps = 25
strength = 0.02
revision = None
quick = False
results = "outputs/mine"
"""
SECRET = "QUJD" * 100_000  # stands for a video or an upload


def write(path: Path, *code: str, parameters: str = PARAMETERS) -> Path:
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(text) for text in code]
    made = nbformat.v4.new_notebook(cells=cells)
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made.metadata["language_info"] = {"name": "python"}
    nbformat.write(made, path)
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["notebook", *map(str, words)])


def checked(source: Path, **given: str) -> dict[str, Any]:
    return _check_parameters(source, [*given.items()], output_folder=None)[0]


@pytest.mark.parametrize(
    ("line", "given", "kept"),
    [
        ('steps = "rocket"', "7", "7"),
        ("steps = [1, 2]", "[1e-2, 010]", [0.01, 10]),
        ("steps = (1, 2)", "[3]", [3]),
        ("steps = 0.02", "1", 1.0),
        ("steps = None", "main", "main"),
        ("steps = False", "true", True),
        ("steps = 2**10", "5", 5),
        ("steps = 5 * 5", "1e-2", 0.01),
        ('steps = Path("x")', "results", "results"),
        ("steps = 25  # more = better", "5", 5),
        ('steps = "a=b"', "c=d", "c=d"),
        ("steps: int = 25", "5", 5),
        ("steps = (\n    25\n)", "5", 5),
        ("%matplotlib inline\n!pip list\nsteps = 25", "5", 5),
        ("first = steps = 25", "5", 5),
    ],
)
def test_what_a_value_means(here: Path, line: str, given: str, kept: object) -> None:
    """It has the type of the default; one that is computed leaves it to the value, as papermill's command line does."""
    found = checked(write(here / "a.ipynb", parameters=line), steps=given)
    assert (found, type(found["steps"])) == ({"steps": kept}, type(kept))


@pytest.mark.parametrize(
    ("line", "given", "told"),
    [
        ("steps = 25", "1:30", "steps is '1:30': this is a str; give a int, such as 25"),
        ("steps = 25", "yes", "steps is 'yes': this is a str; give a int, such as 25"),
        ("steps = {'a': 1}", "{a: 1, a: 2}", "steps is '{a: 1, a: 2}': a is given twice; leave one out"),
        ("steps = {}", "[" * 5000, f"steps is '{'[' * 399}… this is not YAML; write a list as [1, 2]"),
        ("steps == 25", "1", "steps is no parameter of a.ipynb; it has none"),
        ("steps = = 25", "1", "the cell of parameters of a.ipynb is not Python: invalid syntax (<unknown>, line 1)"),
    ],
)
def test_a_value_of_another_meaning_is_refused(here: Path, line: str, given: str, told: str) -> None:
    with pytest.raises(RefusedInput) as caught:
        checked(write(here / "a.ipynb", parameters=line), steps=given)
    assert str(caught.value) == told


def test_everything_wrong_is_refused_at_once_and_runs_nothing(here: Path) -> None:
    write(here / "a.ipynb", 'open("ran", "w")')
    pairs = [("sedes", "[1]"), ("seeds", 3), ("steps", 2.5), ("quick", 1), ("strength", "[")]
    done = run("a", *(word for pair in pairs for word in ("-p", *pair)))
    assert done.exit_code == 2
    assert done.stderr.splitlines() == [
        "error: sedes is no parameter of a.ipynb; it has photo, seeds, steps, strength, revision, quick, results",
        "seeds is '3': this is a int; give a list, such as [1, 2]",
        "steps is '2.5': this is a float; give a int, such as 25",
        "quick is '1': this is a int; give a bool, such as False",
        "strength is '[': this is not YAML; write a list as [1, 2]",
    ]
    assert {path.name for path in here.iterdir()} == {"a.ipynb"}


def test_a_notebook_is_found_by_path_or_by_name(here: Path) -> None:
    write(here / "mine.ipynb")
    assert _find_notebook("mine") == Path("mine.ipynb")
    assert _find_notebook("01_quickstart").parent == command.FOLDER
    with pytest.raises(RefusedInput, match=r"there is no notebook 'other'; give a file, or .* 01_quickstart"):
        _find_notebook("other")
    (here / "README.md").write_text("no notebook", encoding="utf-8")
    with pytest.raises(RefusedInput, match=r"there is no notebook 'README.md'"):
        _find_notebook("README.md")
    with pytest.raises(RefusedInput, match=r"README.md cannot be a folder for the results: File exists"):
        command._make_folder(here / "README.md")


@pytest.mark.parametrize(
    ("line", "given", "output", "values", "folder"),
    [
        ('results = "mine"', [], None, {}, "mine"),
        ('results = "mine"', [("results", "r")], None, {"results": "r"}, "r"),
        ('results = "mine"', [], "o", {"results": "o"}, "o"),
        ('results = "mine"', [("results", "~/r")], None, {"results": "~/r"}, Path.home() / "r"),
        ('results = "mine"', [], "~/o", {"results": str(Path.home() / "o")}, Path.home() / "o"),
        ("results = f'{1}'", [], None, {}, "outputs/a"),
        ("steps = 3", [], None, {}, "outputs/a"),
    ],
)
def test_the_folder_is_the_notebooks_own_or_the_one_given(
    here: Path, line: str, given: Any, output: str | None, values: dict[str, str], folder: Path
) -> None:
    """The results of the notebook land where its copies do."""
    source = write(here / "a.ipynb", parameters=line)
    found = _check_parameters(source, given, output_folder=None if output is None else Path(output))
    assert found == (values, Path(folder))


def test_copies_and_results_land_together(here: Path) -> None:
    """Parameters reach the cells, both as two words and as one."""
    write(
        here / "a.ipynb", "from pathlib import Path", 'Path(results, "made.txt").write_text(f"{photo} {seeds} {steps}")'
    )
    done = run("a", "-p", "photo", "cat", "-p", "seeds=[7]", "--parameter", "steps", "-3", "-o", "out")
    assert done.exit_code == 0, done.output
    assert {path.name for path in Path("out").iterdir()} == {"made.txt", "notebook.ipynb", "notebook.html"}
    assert Path("out/made.txt").read_text(encoding="utf-8") == "cat [7] -3"
    assert "<title>a</title>" in Path("out/notebook.html").read_text(encoding="utf-8")
    assert str(here) not in Path("out/notebook.ipynb").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("code", "words", "told"),
    [
        ("1 / 0", [], "cell 3 of a.ipynb failed: ZeroDivisionError: division by zero. The notebook up to that cell is"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", [], "the kernel of a.ipynb died, most often for"),
        ("import time; time.sleep(60)", ["--cell-minutes", 0.02], "a cell of a.ipynb took longer than 0.02 min"),
    ],
)
def test_a_cell_that_fails_or_kills_the_kernel_or_is_slow_is_a_failure(
    here: Path, code: str, words: list[object], told: str
) -> None:
    """papermill's copy of a dead kernel says that every cell completed."""
    write(here / "a.ipynb", code, "print('after')")
    done = run("a", "-o", "out", *words, "--debug")
    assert done.exit_code == 1
    assert told in done.output
    assert re.search("PapermillExecutionError|DeadKernelError|CellTimeoutError", done.output), "the traceback"
    assert "after\\n" not in Path("out/notebook.ipynb").read_text(encoding="utf-8")
    assert not Path("out/notebook.html").exists()


VIDEO = """
from IPython.display import HTML, display
poster = "data:image/jpeg;base64,UE9TVEVS"
video = "data:video/mp4;base64," + "QUJD" * 50_000
display(HTML(f'<video poster="{poster}" src="{video}"></video>'))
display({"video/mp4": "QUJD" * 1000, "text/plain": "a clip"}, raw=True)
"""


@pytest.mark.parametrize(
    ("largest", "stays", "after"), [(250_000, True, ""), (150_000, False, ""), (1, False, "1 / 0")]
)
def test_clips_stay_in_the_copies_up_to_a_size(
    here: Path, monkeypatch: pytest.MonkeyPatch, largest: int, stays: bool, after: str
) -> None:
    """Of what is too large, or raw, a poster and words stay; so it is in the copy of a failure."""
    monkeypatch.setattr(command, "_LARGEST_CLIPS", largest)
    write(here / "a.ipynb", VIDEO, after)
    assert run("a", "-o", "out").exit_code == bool(after)
    for path in Path("out").iterdir():
        text = path.read_text(encoding="utf-8")
        assert text.count("QUJDQUJDQUJD" * 2000) == stays * 8
        assert ("(clips of 200,022 characters, left out of this copy" in text) is not stays
        assert "UE9TVEVS" in text
        assert "a clip" in text
    assert Path("out/notebook.html").exists() is not bool(after)


@pytest.mark.parametrize(
    ("name", "folder", "target"),
    [("notebook.ipynb", ".", "notebook.ipynb"), ("a.ipynb", "other", "other/notebook.ipynb")],
)
def test_sources_are_never_overwritten(here: Path, name: str, folder: str, target: str) -> None:
    (here / "other").mkdir()
    write(here / "other/notebook.ipynb", "mine")
    source = write(here / name, "1")
    before = {path: path.read_bytes() for path in (source, here / target)}
    done = run(name, "-o", folder)
    assert done.exit_code == 2
    assert f"{target} would be replaced by the executed copy: give another --output-folder" in done.output
    assert {path: path.read_bytes() for path in before} == before


def test_an_executed_copy_is_made_again_and_is_a_source_too(here: Path) -> None:
    write(here / "a.ipynb", "1")
    assert [run("a", "-o", "out").exit_code for _ in range(2)] == [0, 0]
    assert run("out/notebook", "-o", "out").exit_code == 2
    assert run("out/notebook", "-o", "again").exit_code == 0


def test_no_path_of_this_machine_is_in_the_copies(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the parameters, in what cells print, in tracebacks, and in what papermill notes."""
    monkeypatch.setenv("HOME", str(here / "me"))
    source = write(
        here / "me.ipynb", "from pathlib import Path\nprint(Path.home() / 'x', Path(results) / 'y', Path.cwd())\n1 / 0"
    )
    assert run(source, "-o", here / "me" / "out").exit_code == 1
    text = (here / "me/out/notebook.ipynb").read_text(encoding="utf-8")
    assert str(here) not in text
    assert "~/x out/y ." in text
    assert 'results = \\"out\\"' in text


def change(**values: Any) -> Any:
    return lambda source: json.dumps({**json.loads(source.read_text(encoding="utf-8")), **values}).encode()


@pytest.mark.parametrize(
    "changed",
    [
        change(metadata={}),
        change(metadata={"kernelspec": {"name": "no-such", "display_name": "x"}}, cells=[]),
        lambda source: b"\xef\xbb\xbf" + source.read_bytes(),
    ],
    ids=["no kernelspec", "another kernel and no cells", "a BOM"],
)
def test_odd_notebooks_run(here: Path, changed: Any) -> None:
    source = write(here / "a.ipynb", "print(1)")
    source.write_bytes(changed(source))
    assert run("a", "-o", "out").exit_code == 0
    kernel = json.loads(Path("out/notebook.ipynb").read_text(encoding="utf-8"))["metadata"]["kernelspec"]
    assert kernel == {"display_name": "Python 3", "language": "python", "name": "python3"}


EMPTY = b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": {"language": "R"}}, "cells": '


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "cannot be read as a notebook (NotJSONError: Notebook does not appear to be JSON: ''); save it again"),
        (b"\x00\xff", "cannot be read as a notebook (UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff"),
        (b"[]", "cannot be read as a notebook ("),
        (b"{}", "cannot be read as a notebook ("),
        (EMPTY + b"7}", "cannot be read as a notebook ("),
        (EMPTY + b"[]}", "is a notebook of 'R'; svdkit runs those of Python"),
    ],
)
def test_what_is_no_notebook_is_refused(here: Path, content: bytes, says: str) -> None:
    (here / "a.ipynb").write_bytes(content)
    done = run("a", "-o", "out")
    assert done.exit_code == 2
    assert f"a.ipynb {says}" in done.output
    assert not Path("out").exists()


def test_the_kernel_is_this_python(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is called python3 on this machine, and lies in the current folder."""
    (here / "kernels/python3").mkdir(parents=True)
    spec = {"argv": ["/no/such/python", "-f", "{connection_file}"], "display_name": "Python 3", "language": "python"}
    (here / "kernels/python3/kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(here))
    for name in ("queue", "random", "pkgutil", "tokenize"):
        (here / f"{name}.py").write_text("raise SystemExit('the wrong one')", encoding="utf-8")
    write(here / "a.ipynb", f"import sys; print('runs', sys.executable == {sys.executable!r})")
    done = run("a", "-o", "out")
    assert done.exit_code == 0, done.output
    assert "runs True" in Path("out/notebook.ipynb").read_text(encoding="utf-8")


def test_uploads_are_not_in_the_copies(here: Path) -> None:
    """A FileUpload's bytes are in the widgets' state, which the copy loses; pictures of plots stay."""
    upload = "import ipywidgets; upload = ipywidgets.Image(value=b'QUJD' * 1000); upload"
    picture = "from PIL import Image; Image.new('RGB', (8, 8), 'red')"
    write(here / "a.ipynb", upload, picture)
    assert run("a", "-o", "out").exit_code == 0
    executed = json.loads(Path("out/notebook.ipynb").read_text(encoding="utf-8"))
    assert "widgets" not in executed["metadata"]
    shown = json.dumps([cell["outputs"] for cell in executed["cells"]])
    assert "widget-view" not in shown
    assert "image/png" in shown


def test_a_large_output_of_text_is_named_and_left_out(here: Path) -> None:
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x")])
    data = {"text/html": SECRET, "text/plain": "short", "image/png": SECRET}
    stream = nbformat.v4.new_output("stream", text="hello")
    made.cells[0].outputs = [nbformat.v4.new_output("display_data", data), stream]
    nbformat.write(made, here / "a.ipynb")
    _strip_file(here / "a.ipynb", source="b.ipynb")
    outputs = nbformat.read(here / "a.ipynb", as_version=4).cells[0].outputs
    assert outputs[0].data == data | {"text/html": "(an output of 400,000 characters, left out of this copy)"}
    assert outputs[1].text == "hello"
