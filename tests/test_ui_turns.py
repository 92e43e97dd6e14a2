"""One run at a time: first come first served, places told, and a way out of the line."""

from __future__ import annotations

import threading

import pytest

from svdkit.errors import Cancelled
from svdkit.ui.turns import Turns
from tests.ui_toys import wait_for


def told(place: int) -> None:
    pytest.fail(f"nobody was ahead, but it was told of {place}")


class Run:
    """A run on a thread of its own, which ends when the test says so."""

    def __init__(self, turns: Turns, log: list[str], name: str) -> None:
        self.places: list[int] = []
        self.stop, self.end, self.inside = threading.Event(), threading.Event(), False
        self.error: BaseException | None = None
        self._turns, self._log, self._name = turns, log, name
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            with self._turns.turn(on_place=self.places.append, stop=self.stop):
                self.inside = True
                self._log.append(f"{self._name} begins")
                assert self.end.wait(10)
                self._log.append(f"{self._name} ends")
        except Cancelled as error:
            self.error = error

    def finish(self) -> None:
        self.end.set()
        self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture
def line() -> tuple[list[Run], list[str]]:
    """Three runs that came in this order; the first runs."""
    turns, log, runs = Turns(), list[str](), list[Run]()
    for number, name in enumerate(("first", "second", "third")):
        runs.append(Run(turns, log, name))
        wait_for(lambda number=number: runs[number].inside or runs[number].places == [number])  # type: ignore[misc]
    return runs, log


def test_first_come_first_served(line: tuple[list[Run], list[str]]) -> None:
    """The last may be ready to end long before: it still waits, and no two are ever inside together."""
    runs, log = line
    for run in reversed(runs):
        run.end.set()
    for run in runs:
        run.finish()
    assert log == [f"{name} {what}" for name in ("first", "second", "third") for what in ("begins", "ends")]


def test_whoever_waits_is_told_each_place_once(line: tuple[list[Run], list[str]]) -> None:
    runs, _ = line
    assert [run.places for run in runs] == [[], [1], [2]]
    runs[0].finish()
    wait_for(lambda: runs[2].places == [2, 1])
    runs[1].finish()
    runs[2].finish()
    assert [run.places for run in runs] == [[], [1], [2, 1]]


def test_leaving_the_line_lets_the_others_go_on(line: tuple[list[Run], list[str]]) -> None:
    """The one who leaves never runs, and the one behind moves up."""
    runs, log = line
    runs[1].stop.set()
    runs[1].thread.join(10)
    assert isinstance(runs[1].error, Cancelled)
    assert str(runs[1].error) == "stopped while waiting for the run before"
    wait_for(lambda: runs[2].places == [2, 1])
    runs[0].finish()
    runs[2].finish()
    assert log == ["first begins", "first ends", "third begins", "third ends"]


def test_an_error_inside_frees_the_turn() -> None:
    turns, stop = Turns(), threading.Event()
    with pytest.raises(ZeroDivisionError), turns.turn(on_place=print, stop=stop):
        raise ZeroDivisionError
    with turns.turn(on_place=told, stop=stop):
        pass


def test_an_error_of_the_one_who_is_told_frees_the_place() -> None:
    """A panel whose page is gone may fail when it hears of its place."""
    turns, log = Turns(), list[str]()
    first = Run(turns, log, "first")
    wait_for(lambda: first.inside)

    def gone(place: int) -> None:
        raise ConnectionResetError(place)

    with pytest.raises(ConnectionResetError), turns.turn(on_place=gone, stop=threading.Event()):
        pytest.fail("it was not its turn")
    first.finish()
    with turns.turn(on_place=told, stop=threading.Event()):
        log.append("next")
    assert log[-1] == "next"


def test_a_stop_that_comes_too_late_does_not_matter_to_the_line() -> None:
    """Whoever has the turn keeps it: to stop is then the run's own affair."""
    stop = threading.Event()
    stop.set()
    with Turns().turn(on_place=told, stop=stop):
        reached = True
    assert reached
