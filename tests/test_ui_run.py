"""One run at a time: started once, told at a bearable pace, stopped, and every end of it said in words."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from svdkit.errors import Cancelled, SettingsError
from svdkit.generate import Progress
from svdkit.ui import run as module
from svdkit.ui.parts import Words
from svdkit.ui.run import RunControl
from svdkit.ui.studio import News
from tests.ui_toys import plain, wait_for


class Clock:
    """A clock that a test winds by hand, in place of time.perf_counter."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def runner(
    *, background: bool = True, language: str = "en", on_idle: Callable[[], object] = lambda: None
) -> RunControl:
    return RunControl(Words(language), background=background, on_idle=on_idle)


def at(step: int, *, steps: int = 100, stage: str = "denoise", left: float | None = 6.0) -> News:
    progress = Progress(stage=stage, step=step, steps=steps, elapsed_seconds=1.0, remaining_seconds=left)
    return News(kind="progress", progress=progress)


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


def test_two_starts_are_one_run() -> None:
    """The second click is told so by False; after the end the next one starts."""
    one, count, go_on = runner(), list[int](), threading.Event()

    def work(tell: Any, stop: Any) -> None:
        count.append(1)
        assert go_on.wait(10)

    assert one.start(work)
    assert not one.start(work)
    assert one.busy
    go_on.set()
    finish(one)
    assert (count, one.busy) == ([1], False)
    assert one.start(work)
    finish(one)
    assert count == [1, 1]


def test_clicks_at_the_same_moment_are_one_run() -> None:
    """From many threads, for a kernel may serve two pages."""
    one, go_on, gate, started = runner(), threading.Event(), threading.Barrier(8), list[bool]()

    def click() -> None:
        gate.wait(10)
        started.append(one.start(lambda *_: go_on.wait(10)))

    threads = [threading.Thread(target=click) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    go_on.set()
    finish(one)
    assert sorted(started) == [False] * 7 + [True]


def test_the_time_is_said(clock: Clock) -> None:
    def work(*_: Any) -> None:
        clock.now += 65.0

    one = run(work)
    assert one.state.value == '<div class="svdkit-said">Done in 1 min 5 s.</div>'
    assert "hidden" in one.bar.value
    assert one.stop.disabled


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize(
    ("error", "text"),
    [
        (SettingsError("fps=0 is too small; give 1 to 60"), "fps=0 is too small; give 1 to 60"),
        (ValueError("odd"), "ValueError: odd"),
        (MemoryError(), "MemoryError:"),
    ],
)
def test_errors_are_said_in_the_panel(error: Exception, text: str, background: bool) -> None:
    """As an alert, which screen readers speak at once; ours in their own words, others with their class."""
    one = run(fail(error), background=background)
    assert one.error.value.startswith('<div class="svdkit-error" role="alert"><b>This did not work</b>')
    assert plain(one.error.value).endswith(text)
    assert not one.busy
    assert one.start(lambda *_: None)


def test_errors_are_escaped() -> None:
    one = run(fail(ValueError("<img src=x onerror=alert(1)>\n& more")))
    assert "<img" not in one.error.value
    assert "ValueError: &lt;img src=x onerror=alert(1)&gt;<br>&amp; more" in one.error.value


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("error", [Cancelled("stopped"), KeyboardInterrupt()], ids=["Cancelled", "KeyboardInterrupt"])
def test_a_stop_is_no_error(error: BaseException, background: bool) -> None:
    """Nor is an interrupt of the kernel, which does not reach the cell either: the panel stays as it is."""
    one = run(fail(error), background=background)
    assert one.state.value == '<div class="svdkit-said">Stopped. Nothing was kept; the settings are as they were.</div>'
    assert not one.busy
    assert one.picture.value == ""


def test_in_the_foreground_it_is_over_when_the_click_is() -> None:
    """On the thread of the click; Stop cannot work there."""
    threads, said = list[threading.Thread](), list[Any]()
    one = runner(background=False)

    def work(*_: Any) -> None:
        threads.append(threading.current_thread())
        said.append((one.busy, one.stop.disabled, plain(one.state.value)))

    assert one.start(work)
    assert threads == [threading.current_thread()]
    assert said == [(True, True, "starting")]
    assert not one.busy
    assert one.thread is None


def test_clicks_made_during_a_foreground_run_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """They arrive only after it, one after the other: the next run may begin a moment later, on the kernel's loop.

    What is to be seen of the end is told within the click, for Colab shows nothing that comes after it.
    """
    later = list[Any]()
    loop = SimpleNamespace(call_later=lambda seconds, action: later.append((seconds, action)))
    monkeypatch.setattr(module, "_kernel_loop", lambda: loop)
    idle = list[bool]()
    one = runner(background=False, on_idle=lambda: idle.append(one.busy))
    assert one.start(lambda *_: None)
    assert (one.busy, idle) == (False, [False])
    assert not one.can_start
    assert not one.start(lambda *_: pytest.fail("this was a click of before"))
    ((seconds, action),) = later
    assert 0 < seconds <= 1
    action()
    assert idle == [False]
    assert one.start(lambda *_: None)


def test_a_second_interrupt_does_not_leave_the_panel_deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may come while the end of the first is being told."""
    later = list[Any]()
    loop = SimpleNamespace(call_later=lambda _, action: later.append(action))
    monkeypatch.setattr(module, "_kernel_loop", lambda: loop)
    one = runner(background=False, on_idle=fail(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        one.start(lambda *_: None)
    later.pop()()
    assert one.can_start


def test_outside_of_a_kernel_there_is_no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor in a terminal's IPython, nor in a kernel that is not running."""
    monkeypatch.setitem(sys.modules, "IPython", None)
    assert module._kernel_loop() is None
    for shell in (None, SimpleNamespace(), SimpleNamespace(kernel=object())):
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda shell=shell: shell))
        assert module._kernel_loop() is None


def test_in_a_kernel_it_is_the_loop_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))

    async def look() -> bool:
        return module._kernel_loop() is asyncio.get_running_loop()

    assert asyncio.run(look())


def shown(work: Callable[[Callable[[News], object]], object], clock: Clock) -> list[str]:
    """Every text of the state that a run's news led to."""
    one, seen = runner(background=False), list[str]()
    one.state.observe(lambda change: seen.append(plain(change["new"])), "value")
    one.start(lambda tell, stop: work(tell))
    return seen


def test_progress_is_shown_five_times_a_second(clock: Clock) -> None:
    """A thousand steps in two seconds: the first, the last and about ten between them."""

    def work(tell: Callable[[News], object]) -> None:
        for step in range(1001):
            clock.now += 0.002
            tell(at(step, steps=1000))

    seen = [text for text in shown(work, clock) if text.startswith("denoising")]
    assert 10 <= len(seen) <= 12
    assert seen[0] == "denoising: 0 of 1000, about 6.0 s left in this stage"
    assert seen[-1].startswith("denoising: 1000 of 1000")


def test_every_stage_begins_and_ends_in_sight(clock: Clock) -> None:
    """However quick it is."""

    def work(tell: Callable[[News], object]) -> None:
        for stage, steps in (("encode", 2), ("denoise", 3), ("decode", 2)):
            for step in range(steps + 1):
                tell(at(step, steps=steps, stage=stage, left=None))

    words = {"encode": "reading the photo", "denoise": "denoising", "decode": "making frames"}
    ends = [f"{words[stage]}: {step} of {steps}, estimating" for stage, steps in
            (("encode", 2), ("denoise", 3), ("decode", 2)) for step in (0, steps)]  # fmt: skip
    assert [text for text in shown(work, clock) if " of " in text] == ends


def test_waiting_and_loading_are_said(clock: Clock) -> None:
    news = [News(kind="waiting", place=2), News(kind="loading")]

    def work(tell: Callable[[News], object]) -> None:
        for one in news:
            tell(one)

    seen = shown(work, clock)
    assert seen[1:3] == ["waiting: 2 ahead of you", "loading the model"]


@pytest.mark.parametrize(
    ("part", "news", "value"),
    [
        ("bar", at(40), '<progress aria-label="denoising" value="40" max="100"></progress>'),
        ("bar", News(kind="loading"), '<progress aria-label="loading the model"></progress>'),
        (
            "picture",
            News(kind="picture", picture=b"RIFF1234"),
            '<img alt="What the clip looks like so far" src="data:image/webp;base64,UklGRjEyMzQ=">',
        ),
    ],
    ids=["share", "none", "picture"],
)
def test_what_is_shown_has_a_name_and_goes_at_the_end(part: str, news: News, value: str) -> None:
    """A bar moves without a share where there is none."""
    one, seen = runner(background=False), list[str]()

    def work(tell: Callable[[News], object], stop: Any) -> None:
        tell(news)
        seen.append(getattr(one, part).value)

    one.start(work)
    assert seen == [value]
    assert one.picture.value == ""
    assert "hidden" in one.bar.value


@pytest.mark.parametrize(
    ("news", "text"),
    [
        (at(3), "stopping after this step"),
        (at(1, stage="decode"), "stopping after this chunk of frames: what is being decoded cannot be interrupted"),
        (at(1, stage="encode"), "stopping as soon as the photo is read: that cannot be interrupted"),
        (News(kind="loading"), "stopping once the model is loaded: loading cannot be interrupted"),
    ],
    ids=["denoise", "decode", "encode", "loading"],
)
def test_a_stop_says_when_it_will_be(news: News, text: str) -> None:
    """And keeps saying it while the last step goes on."""
    one, told, go_on = runner(), threading.Event(), threading.Event()

    def work(tell: Callable[[News], object], stop: threading.Event) -> None:
        tell(news)
        told.set()
        assert go_on.wait(10)
        tell(at(100))
        assert stop.is_set()
        raise Cancelled("stopped")

    one.start(work)
    assert told.wait(10)
    assert not one.stop.disabled
    one.stop.click()
    assert plain(one.state.value) == text
    assert one.stop.disabled
    go_on.set()
    finish(one)
    assert "Stopped" in one.state.value


def test_how_it_ended_is_said_last() -> None:
    """Also when the run ends while the click on Stop is still being answered."""
    one, over = runner(), threading.Event()

    def work(tell: Any, stop: threading.Event) -> None:
        assert stop.wait(10)
        raise Cancelled("stopped")

    def linger(_: Any) -> None:
        assert one.thread is not None
        one.thread.join(0.5)  # as long as it takes a busy kernel to send the button's new state
        over.set()

    assert one.start(work)
    one.stop.observe(linger, names="disabled")
    one.stop.click()
    assert over.is_set()
    finish(one)
    assert plain(one.state.value).startswith("Stopped")


def test_a_click_after_the_end_says_nothing() -> None:
    """The button is on the screen a little longer than the run is there."""
    one = run(lambda tell, stop: None, background=True)
    said = one.state.value
    one.ask_to_stop()
    assert one.state.value == said
    assert said


def test_the_next_run_is_not_stopped_by_the_last_stop() -> None:
    one = runner()
    one.start(lambda tell, stop: stop.wait(10))
    one.stop.click()
    finish(one)
    seen = list[bool]()
    one.start(lambda tell, stop: seen.append(stop.is_set()))
    finish(one)
    assert seen == [False]


def test_stop_without_a_run_does_nothing() -> None:
    one = runner()
    one.ask_to_stop()
    assert plain(one.state.value) == "Ready."
    assert one.stop.disabled


def test_parts_are_named_while_they_run(clock: Clock) -> None:
    """Such as the second of four drafts; the end is that of all."""
    one, seen = runner(background=False), list[str]()

    def work(tell: Callable[[News], object], stop: Any) -> None:
        one.part("draft 2 of 4")
        tell(at(0))
        seen.append(plain(one.state.value))

    one.start(work)
    assert seen == ["draft 2 of 4 · denoising: 0 of 100, about 6.0 s left in this stage"]
    assert re.fullmatch(r"Done in .*s\.", plain(one.state.value))


def test_whoever_waits_for_the_end_is_told_of_each() -> None:
    idle = list[bool]()
    one = runner(background=False, on_idle=lambda: idle.append(one.busy))
    one.start(lambda *_: None)
    one.start(fail(ValueError("odd")))
    one.start(fail(KeyboardInterrupt()))
    assert idle == [False] * 3


def test_its_own_time_is_counted(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the panel costs during a run, which a benchmark reads."""
    one = runner(background=False)
    show = one._show

    def slow(news: News, now: float) -> None:
        clock.now += 0.25
        show(news, now)

    monkeypatch.setattr(one, "_show", slow)
    one.start(lambda tell, stop: [tell(at(step)) for step in range(4)])
    assert one.handler_seconds == 1.0


def test_an_error_can_be_taken_away() -> None:
    one = runner()
    one.show_error(SettingsError("a & b"))
    assert 'role="alert"' in one.error.value
    assert "a &amp; b" in one.error.value
    one.show_error(None)
    assert one.state.value == '<div class="svdkit-said">Ready.</div>'


def test_taking_an_error_away_does_not_say_ready_during_a_run() -> None:
    """Another photo may be chosen while a clip is being made."""
    one, told, go_on = runner(), threading.Event(), threading.Event()

    def work(tell: Callable[[News], object], stop: Any) -> None:
        tell(at(0))
        told.set()
        assert go_on.wait(10)

    one.start(work)
    assert told.wait(10)
    one.show_error(None)
    said = plain(one.state.value)
    go_on.set()
    finish(one)
    assert said.startswith("denoising")


def test_another_language() -> None:
    words = Words()
    one = RunControl(words, background=True)
    words.switch("zh")
    assert (one.stop.description, plain(one.state.value)) == ("停止", "就绪。")
    one.start(fail(ValueError("odd")))
    wait_for(lambda: not one.busy)
    assert "操作失败" in one.error.value
