"""Progress: counted by a meter, shown in a terminal, a log or a notebook."""

from __future__ import annotations

import io
import itertools
import re
import textwrap
from types import SimpleNamespace
from typing import Any

import pytest

from svdkit.errors import Cancelled, SettingsError
from svdkit.generate import progress as module
from svdkit.generate.progress import Meter, Progress, Screen, reporter


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test winds by hand, in place of time.perf_counter and time.monotonic."""
    clock = SimpleNamespace(now=100.0)
    look = {"perf_counter": lambda: clock.now, "monotonic": lambda: clock.now}
    monkeypatch.setattr(module, "time", SimpleNamespace(**look))
    return clock


def on(stream, monkeypatch):
    """Put a stream in the place of stderr; within a test, for pytest puts its own there before it."""
    monkeypatch.setattr("sys.stderr", stream)
    return stream


def at(step, *, stage="denoise", steps=4, remaining=6.0):
    return Progress(stage=stage, step=step, steps=steps, elapsed_seconds=2.0 * step, remaining_seconds=remaining)


def test_the_meter_tells_the_start_every_step_and_the_end(clock):
    """The remaining time leaves out the first step, which warms up."""
    told: list[Progress] = []
    with Meter("denoise", steps=4, report=told.append, synchronize=lambda: None) as meter:
        for seconds in (10.0, 1.0, 1.0, 2.0):
            clock.now += seconds
            meter.step()
    assert [(progress.step, progress.steps) for progress in told] == [(step, 4) for step in range(5)]
    assert [progress.done for progress in told] == [False] * 4 + [True]
    assert [progress.elapsed_seconds for progress in told] == [0.0, 10.0, 11.0, 12.0, 14.0]
    assert [progress.remaining_seconds for progress in told] == [None, 30.0, 2.0, 1.0, 0.0]
    assert meter.seconds == 14.0


def test_the_device_is_waited_for_only_where_a_stage_begins_and_ends(clock):
    """The wait belongs to the stage that caused it: it is inside the seconds of the stage."""
    events: list[str] = []

    def synchronize():
        events.append("wait")
        clock.now += 5.0

    with Meter("decode", steps=2, report=lambda p: events.append(f"{p.step}"), synchronize=synchronize) as meter:
        meter.step()
        meter.step()
    assert events == ["wait", "0", "1", "wait", "2"]
    assert meter.seconds == 5.0


def test_a_report_may_cancel_and_then_the_stage_is_not_done(clock):
    told: list[int] = []

    def report(progress):
        told.append(progress.step)
        if progress.step == 1:
            raise Cancelled("enough")

    with (
        pytest.raises(Cancelled, match="enough"),
        Meter("denoise", steps=9, report=report, synchronize=lambda: None) as meter,
    ):
        meter.step()
    assert told == [0, 1]


@pytest.mark.parametrize(
    ("progress", "text"),
    [(at(0, remaining=None), "0/4"), (at(1), "1/4, 2.0 s, about 6.0 s left"), (at(4, remaining=0.0), "8.0 s")],
)
def test_its_text(progress, text):
    assert str(progress) == text


def test_a_terminal_gets_one_line_a_stage_rewritten_in_place(clock, monkeypatch):
    terminal = on(Terminal(), monkeypatch)
    report = reporter("terminal")
    for step in range(5):
        clock.now += 1.0
        report(at(step))
    text = terminal.getvalue()
    assert text.count("\n") == 1
    assert text.count("\r") == 5
    last = re.sub(r"\x1b\[K", "", text.rsplit("\r", 1)[1])
    assert last == "denoise [####################] 8.0 s\n"
    assert "denoise [##########----------] 2/4, 4.0 s, about 6.0 s left" in text


def test_an_error_in_the_middle_of_a_line_begins_on_its_own_line(clock, monkeypatch):
    terminal = on(Terminal(), monkeypatch)
    report = reporter("terminal")
    with pytest.raises(ZeroDivisionError), Meter("denoise", steps=2, report=report, synchronize=lambda: None):
        raise ZeroDivisionError
    assert terminal.getvalue().endswith("\n")
    assert terminal.getvalue().count("\n") == 1


def test_a_log_gets_only_the_lines_of_finished_stages(clock, monkeypatch):
    stream = on(io.StringIO(), monkeypatch)
    report = reporter("terminal")
    for stage, step in itertools.product(("encode", "denoise"), range(5)):
        clock.now += 1.0
        report(at(step, stage=stage))
    assert stream.getvalue() == "encode  8.0 s\ndenoise 8.0 s\n"


def test_a_terminal_is_not_flooded(clock, monkeypatch):
    """A thousand steps within a second become about ten updates; the first and the last always show."""
    terminal = on(Terminal(), monkeypatch)
    report = reporter("terminal")
    for step in range(1001):
        clock.now += 0.001
        report(at(step, steps=1000))
    assert 9 <= terminal.getvalue().count("\r") <= 13
    assert terminal.getvalue().endswith("\n")


def test_a_notebook_gets_one_display_updated_in_place(clock, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, **how: shown.append((bundle, how)))
    report = reporter("notebook")
    for stage, step in itertools.product(("encode", "denoise"), (0, 1, 4)):
        clock.now += 1.0
        report(at(step, stage=stage))
    assert [how["update"] for _, how in shown] == [False, *[True] * 5]
    assert len({how["display_id"] for _, how in shown}) == 1
    reporter("notebook")(at(1))
    assert len({how["display_id"] for _, how in shown}) == 2, "of another run, which must not rewrite this one"
    del shown[-1]
    last = shown[-1][0]
    assert last["text/plain"] == "encode  8.0 s\ndenoise 8.0 s"
    assert last["text/html"].count("<tr>") == 2
    assert '<progress aria-label="denoise" value="4" max="4">' in last["text/html"]


def test_a_real_kernel_updates_one_output():
    """A cell that runs three stages ends with one output, which holds the last state of all three."""
    import nbclient
    from nbformat.v4 import new_code_cell, new_notebook

    code = """
        from svdkit.generate.progress import Meter, reporter
        report = reporter("auto")
        for stage in ("encode", "denoise", "decode"):
            with Meter(stage, steps=2, report=report, synchronize=lambda: None) as meter:
                meter.step()
                meter.step()
    """
    notebook = new_notebook(cells=[new_code_cell(textwrap.dedent(code))])
    nbclient.NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
    (output,) = notebook.cells[0].outputs
    assert output.output_type == "display_data"
    assert [line.split()[0] for line in output.data["text/plain"].splitlines()] == ["encode", "denoise", "decode"]
    assert output.data["text/html"].count('value="2" max="2"') == 3


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        ("terminal", "auto", False),
        ("terminal", True, False),
        ("colab", "auto", True),
        ("kaggle", "auto", True),
        ("jupyter", True, True),
        ("jupyter", "terminal", False),
        ("terminal", "notebook", True),
    ],
)
def test_where_progress_is_shown(monkeypatch, kind, given, expected):
    monkeypatch.setattr(module, "notebook_kind", lambda: kind)
    place: Any = reporter(given)
    assert place.__self__.in_notebook == expected


def test_a_log_gets_a_line_now_and_then(clock, monkeypatch):
    """What a sweep shows: one line in so many seconds, a failure at once, the last line in any case."""
    stream = on(io.StringIO(), monkeypatch)
    screen = Screen("terminal", log_seconds=30)
    for run in range(1, 8):
        clock.now += 10
        screen.show(f"{run}/7")
        if run == 2:
            screen.line("one failed")
    screen.show("7/7", last=True)
    assert stream.getvalue().split("\n") == ["1/7", "one failed", "4/7", "7/7", "7/7", ""]


def test_a_function_is_taken_as_it_is_and_false_shows_nothing(capsys):
    told: list[Progress] = []
    assert reporter(told.append) == told.append
    reporter(False)(at(1))
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("given", ["loud", None, 3])
def test_other_values_are_refused(given):
    with pytest.raises(SettingsError, match=re.escape(f"progress={given!r} is not known; give 'auto', 'notebook'")):
        reporter(given)
