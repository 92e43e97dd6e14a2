"""One run at a time: started once, told at a bearable pace, stopped, and every end of it said in words."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from svdkit.errors import Cancelled, SettingsError
from svdkit.ui import run as module
from svdkit.ui.parts import Words
from svdkit.ui.run import RunControl
from tests.ui_toys import plain

STOPPED = "Stopped. Nothing was kept; the settings are as they were."


class Clock:
    """A clock that a test winds by hand, in place of time.perf_counter."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def runner(*, background: bool = True, **more: Any) -> RunControl:
    return RunControl(Words(), background=background, **more)


def at(step: int, *, steps: int = 100, stage: str = "denoise", left: float | None = 6.0) -> dict[str, Any]:
    return {"kind": stage, "step": step, "steps": steps, "left": left}


def finish(one: RunControl) -> None:
    assert one.thread is not None
    one.thread.join(10)
    assert not one.thread.is_alive()


def run(work: Any, *, background: bool = False) -> RunControl:
    """Run to the end."""
    one = runner(background=background)
    assert one.start(work)
    if background:
        finish(one)
    return one


def fail(error: BaseException) -> Callable[..., Any]:
    def work(*_: Any) -> Any:
        raise error

    return work


class Held:
    """A run in the background that tells some news, waits until it is let go on, and does what comes then."""

    def __init__(self, news: dict[str, Any] | None = None, *, then: Callable[..., Any] = lambda *_: None) -> None:
        told, self.go_on, self.control = threading.Event(), threading.Event(), runner()

        def work(tell: Any, stop: Any) -> Any:
            if news:
                tell(**news)
            told.set()
            assert self.go_on.wait(10)
            return then(tell, stop)

        assert self.control.start(work)
        assert told.wait(10)

    def finish(self) -> str:
        self.go_on.set()
        finish(self.control)
        return plain(self.control.state.value)


def test_clicks_at_the_same_moment_are_one_run() -> None:
    """From many threads, for a kernel may serve two pages; after the end the next one starts."""
    one, go_on, gate, started = runner(), threading.Event(), threading.Barrier(8), list[bool]()

    def click() -> None:
        gate.wait(10)
        started.append(one.start(lambda *_: go_on.wait(10) and None))

    threads = [threading.Thread(target=click) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (sorted(started), one.busy) == ([False] * 7 + [True], True)
    go_on.set()
    finish(one)
    assert one.start(lambda *_: None)
    finish(one)
    assert not one.busy


def test_the_time_is_said(clock: Clock) -> None:
    def work(*_: Any) -> None:
        clock.now += 65.0

    one = run(work)
    assert one.state.value == '<div class="svdkit-said">Done in 1 min 5 s.</div>'
    assert (one.bar.value, one.stop.disabled) == ("", True)
    assert plain(run(lambda *_: "ready").state.value) == "Ready."


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SettingsError("fps=0 is too small; give 1 to 60"), "fps=0 is too small; give 1 to 60"),
        (MemoryError(), "MemoryError: "),
        (ValueError("<img src=x>\n& more"), "ValueError: &lt;img src=x&gt;<br>&amp; more"),
    ],
)
def test_errors_are_said_in_the_panel(error: Exception, text: str, background: bool) -> None:
    """As an alert, which screen readers speak at once; ours in their own words, others with their class; escaped."""
    one = run(fail(error), background=background)
    begin = '<div class="svdkit-error" role="alert"><b>This did not work</b><br>'
    assert one.error.value == f"{begin}{text}</div>"
    assert (plain(one.state.value), one.busy) == ("Ready.", False)
    one.words.switch("zh")
    assert one.start(fail(error))
    one.show_error(error)
    assert "操作失败" in one.error.value
    one.show_error(None)
    assert one.error.value == ""


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("error", [Cancelled("stopped"), KeyboardInterrupt()], ids=["Cancelled", "KeyboardInterrupt"])
def test_a_stop_is_no_error(error: BaseException, background: bool) -> None:
    """Nor is an interrupt of the kernel, which does not reach the cell either: the panel stays as it is."""
    one = run(fail(error), background=background)
    assert plain(one.state.value) == STOPPED
    assert (one.busy, one.picture.value, one.error.value) == (False, "", "")


def test_in_the_foreground_it_is_over_when_the_click_is() -> None:
    """On the thread of the click; Stop cannot work there."""
    said = list[Any]()
    one = runner(background=False)
    assert one.start(lambda *_: said.append((threading.current_thread(), one.busy, one.stop.disabled)))
    assert said == [(threading.current_thread(), True, True)]
    assert (one.busy, one.thread) == (False, None)


def test_clicks_made_during_a_foreground_run_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """They arrive only after it, one after the other: the next run may begin a moment later, on the kernel's loop.

    What is to be seen of the end is told within the click, for Colab shows nothing that comes after it.
    """
    monkeypatch.setattr(module, "_SECONDS_FOR_CLICKS", 0.05)
    turns = list[bool]()
    one: RunControl = runner(background=False, on_turn=lambda: turns.append(one.busy))

    async def clicks() -> None:
        assert one.start(lambda *_: None)
        assert (one.busy, turns) == (False, [True, False])
        assert not one.start(lambda *_: pytest.fail("this was a click of before"))
        await asyncio.sleep(0.1)
        assert one.start(lambda *_: None)

    asyncio.run(clicks())
    assert turns == [True, False] * 2


def test_a_second_interrupt_does_not_leave_the_panel_deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come while the end of the first is being told."""
    monkeypatch.setattr(module, "_SECONDS_FOR_CLICKS", 0.05)

    async def click() -> None:
        with pytest.raises(KeyboardInterrupt):
            one.start(lambda *_: setattr(one, "on_turn", fail(KeyboardInterrupt())))
        await asyncio.sleep(0.1)

    one = runner(background=False)
    asyncio.run(click())
    one.on_turn = lambda: None
    assert one.start(lambda *_: None)


def shown(work: Callable[[Any], object]) -> list[str]:
    """Every text of the state that a run's news led to."""
    one, seen = runner(background=False), list[str]()
    one.state.observe(lambda change: seen.append(plain(change["new"])), "value")
    one.start(lambda tell, stop: work(tell) and None)
    return seen


def test_progress_is_shown_five_times_a_second(clock: Clock) -> None:
    """A thousand steps in two seconds: the first, the last and about ten between them."""

    def work(tell: Any) -> None:
        for step in range(1001):
            clock.now += 0.002
            tell(**at(step, steps=1000))

    seen = [text for text in shown(work) if text.startswith("denoising")]
    assert 10 <= len(seen) <= 12
    assert seen[0] == "denoising: 0 of 1000, about 6.0 s left in this stage"
    assert seen[-1].startswith("denoising: 1000 of 1000")


def test_every_stage_begins_and_ends_in_sight(clock: Clock) -> None:
    """However quick it is; waiting and loading are said too."""

    def work(tell: Any) -> None:
        tell("waiting", place=2)
        tell("loading")
        for stage, steps in (("encode", 2), ("denoise", 3), ("decode", 2)):
            for step in range(steps + 1):
                tell(**at(step, steps=steps, stage=stage, left=None))

    words = {"reading the photo": 2, "denoising": 3, "making frames": 2}
    left = "about – left in this stage"  # which is not known before the first step is done
    ends = [f"{name}: {step} of {steps}, {left}" for name, steps in words.items() for step in (0, steps)]
    assert shown(work)[1:-1] == ["waiting: 2 ahead of you", "loading the model", *ends]


@pytest.mark.parametrize(
    ("part", "news", "value"),
    [
        ("bar", at(40), '<progress aria-label="denoising" value="40" max="100"></progress>'),
        ("bar", {"kind": "loading"}, '<progress aria-label="loading the model"></progress>'),
        (
            "picture",
            {"kind": "picture", "data": b"RIFF1234"},
            '<img alt="What the clip looks like so far" src="data:image/webp;base64,UklGRjEyMzQ=">',
        ),
        ("live", at(40), "denoising"),
    ],
    ids=["share", "none", "picture", "spoken"],
)
def test_what_is_shown_has_a_name_and_goes_at_the_end(part: str, news: dict[str, Any], value: str) -> None:
    """A bar moves without a share where there is none; a screen reader hears no numbers, but how it ended."""
    held = Held(news)
    assert getattr(held.control, part).value == value
    assert held.finish() == held.control.live.value
    assert (held.control.picture.value, held.control.bar.value) == ("", "")


@pytest.mark.parametrize("news", [at(3), at(1, stage="decode"), {"kind": "loading"}])
def test_a_stop_says_when_it_will_be(news: dict[str, Any]) -> None:
    """And keeps saying it while the last step goes on; the next run is not stopped by it."""
    said = list[Any]()

    def then(tell: Any, stop: Any) -> None:
        tell(**at(100))
        said.append((plain(held.control.state.value), stop()))
        raise Cancelled("stopped")

    held = Held(news, then=then)
    assert not held.control.stop.disabled
    held.control.stop.click()
    assert held.control.stop.disabled
    assert held.finish() == STOPPED
    assert said == [(held.control.words("stopping"), True)]
    held.control.start(lambda tell, stop: said.append(stop()))
    finish(held.control)
    assert said[1:] == [False]


def test_how_it_ended_is_said_last() -> None:
    """Also when the run ends while the click on Stop is still being answered."""
    one, over, stopped = runner(), threading.Event(), threading.Event()

    def work(tell: Any, stop: Any) -> None:
        assert stopped.wait(10)
        raise Cancelled("stopped")

    def linger(_: Any) -> None:
        assert one.thread is not None
        stopped.set()
        one.thread.join(0.5)  # as long as it takes a busy kernel to send the button's new state
        over.set()

    assert one.start(work)
    one.stop.observe(linger, names="disabled")
    one.stop.click()
    assert over.is_set()
    finish(one)
    assert plain(one.state.value) == STOPPED


def test_stop_without_a_run_says_nothing() -> None:
    """The button is on the screen a little longer than the run is there."""
    one = run(lambda tell, stop: None)
    said = one.state.value
    one.ask_to_stop()
    assert (one.state.value, one.stop.disabled) == (said, True)


def test_parts_are_named_while_they_run() -> None:
    """Such as the second of four drafts; the end is that of all. A photo may be chosen meanwhile."""
    held = Held(then=lambda *_: None)
    held.control.part = "draft 2 of 4"
    held.control.tell(**at(0))
    held.control.show_error(None)
    assert plain(held.control.state.value) == "draft 2 of 4 · denoising: 0 of 100, about 6.0 s left in this stage"
    assert held.finish().startswith("Done in ")
