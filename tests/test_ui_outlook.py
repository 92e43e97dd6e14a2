"""What the next clip will take: seconds once one was made, money, memory, and what would fit where it does not."""

from __future__ import annotations

import gc
import os
import pickle
import re
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from svdkit.bench.forecast import NotCountedError, predict
from svdkit.bench.forecast import forecast as make_forecast
from svdkit.bench.forecast.cards import of_memory
from svdkit.child import Child
from svdkit.models import find_model
from svdkit.settings import ClipSettings, LoadSettings
from svdkit.ui import outlook as module
from svdkit.ui.outlook import Outlook
from svdkit.ui.parts import Words
from tests.clips import SETTINGS, micro_clip, provenance
from tests.ui_toys import TOY, plain, wait_for

SIZE = {"height": 72, "width": 128, "num_frames": 14, "decode_chunk_size": 7, "max_guidance_scale": 1.0}
CLIP = ClipSettings(seed=1, **SIZE, playback_fps=7.0)  # type: ignore[arg-type]
LOAD = LoadSettings(model="micro")
MACHINE = "a machine of the tests"


@pytest.fixture(autouse=True)
def _machine(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same machine everywhere, of which nothing was measured; no test reads or writes the user's cache."""
    monkeypatch.setenv("SVDKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(predict, "this_machine", lambda _device: (of_memory(MACHINE, 16), "cpu"))


def small_gpu(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    monkeypatch.setattr(predict, "this_machine", lambda _device: (of_memory("a small card", gib), "cuda"))


def outlook(model: str = "micro", **more: Any) -> Outlook:
    values: dict[str, Any] = {"currency": "USD", "hourly_price": 0.0, "on_apply": id, "background": False}
    return Outlook(find_model(model), Words(), **values | more)


def full(model: str) -> ClipSettings:
    info = find_model(model)
    size = {"height": info.height, "width": info.width, "num_frames": info.num_frames}
    return ClipSettings(seed=1).resolve(**size, max_guidance_scale=info.max_guidance_scale)


def made(*, steps: int = 25, seconds: float = 10.0, **changes: Any) -> Any:
    """A clip of micro that took so many seconds to denoise, on this machine."""
    settings = (
        SETTINGS | SIZE | {"num_inference_steps": steps, "max_guidance_scale": 1.0, "fps": 7, "playback_fps": 7.0}
    )
    about = provenance(
        settings=settings,
        load=LoadSettings(model="micro", dtype="fp32", memory="resident", device="cpu").to_dict(),
        stage_seconds={"encode": 0.5, "denoise": seconds, "decode": 1.0},
        environment={"cpu": MACHINE, "gpu": None},
        **changes,
    )
    return micro_clip(provenance=about)


def hidden(one: Outlook) -> bool:
    return "svdkit-hidden" in one.apply._dom_classes


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Stand in for the process that counts: it ends when the test says so."""
    started = list[Any]()

    class Process:
        def __init__(self, target: str, **options: Any) -> None:
            self.target, self.options, self.over = target, options, threading.Event()
            started.append(self)

        def say(self, message: Any) -> None:
            self.model, self.clip, self.load = pickle.loads(pickle.dumps(message))

        @property
        def is_running(self) -> bool:
            return not self.over.is_set()

        def wait(self) -> None:
            assert self.over.wait(10)

        def end(self) -> None:
            self.over.set()

    monkeypatch.setattr(module, "Child", Process)
    yield started
    for process in started:
        process.over.set()  # so that no thread waits for it after the test


def test_memory_is_known_before_anything_ran() -> None:
    """Time is not, and is said to come."""
    one = outlook()
    one.show(CLIP, LoadSettings(model="micro"))
    text = plain(one.text.value)
    assert "time: known after the first clip on this machine" in text
    assert re.search(r"[\d.]+ MiB\s+of 16\.0 GiB memory", text), text
    assert one.forecast is not None
    assert one.forecast.fits
    assert hidden(one)


def test_time_is_known_after_the_first_clip() -> None:
    """As many seconds as it took, with a range and where that is from; twice the steps take nearly twice as long."""
    one = outlook()
    one.show(CLIP, LoadSettings(model="micro"))
    one.learn(made(seconds=10.0))
    assert one.forecast is not None
    assert one.forecast.seconds == pytest.approx(11.5, rel=0.05)
    text = plain(one.text.value)
    assert re.search(r"about\s+12 s\s+\(1[12] s to 1[12] s\)", text), text
    assert f"from own records: 1 record of {MACHINE} with these settings" in text
    one.show(CLIP.replace(num_inference_steps=50), LoadSettings(model="micro"))
    assert one.forecast.seconds == pytest.approx(21.5, rel=0.05)


def test_the_newest_clips_count() -> None:
    """Twenty of them: what was slow once, as a first run is, is forgotten in the end."""
    one = outlook()
    for _ in range(30):
        one.learn(made())
    assert len(one._records) == 20


def test_clips_that_say_nothing_of_their_time_are_passed_over() -> None:
    one = outlook()
    one.show(CLIP, LoadSettings(model="micro"))
    one.learn(micro_clip(provenance=None))
    one.learn(micro_clip(provenance=provenance(stage_seconds={})))
    assert one._records == []


def test_clips_of_a_pipeline_that_svdkit_did_not_load() -> None:
    """Such a clip says next to nothing of its model; learning from it must not end the run that made it."""
    one = outlook()
    one.show(CLIP, LoadSettings(model="micro"))
    model = {"name": "own pipeline", "revision": None, "weights": "unknown"}
    one.learn(micro_clip(provenance=provenance(kind="svd", load={}, model=model)))
    assert "time: known after the first clip" in plain(one.text.value)


def test_what_a_clip_costs() -> None:
    """Price an hour times seconds; nothing of money without a price, and the price can be changed in the panel."""
    one = outlook(hourly_price=36.0, currency="CNY")
    one.show(CLIP, LoadSettings(model="micro"))
    assert "a clip" not in plain(one.text.value)  # its seconds are not known yet
    one.learn(made())
    assert one.forecast is not None
    assert one.forecast.cost == pytest.approx(0.115, rel=0.05)
    assert "<b>¥0.12</b> a clip" in one.text.value
    assert one.price.description == "CNY an hour"
    one.price.value = 72.0
    assert one.forecast.cost == pytest.approx(0.23, rel=0.05)
    one.price.value = 0
    assert one.forecast.cost is None
    assert "a clip" not in plain(one.text.value)


def test_a_size_that_was_never_counted_is_counted_in_another_process(started: list[Any]) -> None:
    """It is said so meanwhile, each shape is counted once, and the settings go with the command."""
    one = outlook(background=True)
    odd = CLIP.replace(height=200, width=128)
    one.show(odd, LoadSettings(model="micro"))
    assert one.text.value == "this size has never been counted: that takes some seconds, in the background"
    assert one.forecast is None
    one.show(odd.replace(seed=9, motion_bucket_id=3), LoadSettings(model="micro"))
    (process,) = started
    assert (process.target, process.options) == ("svdkit.ui.outlook:count", {"log": os.devnull})
    assert process.model == "micro"
    assert process.clip == odd.replace(seed=0)
    assert process.load == LOAD
    one.show(odd.replace(num_frames=12), LoadSettings(model="micro"))
    assert len(started) == 2


def test_what_was_counted_shows_by_itself(started: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """When the other process has ended, the outlook looks again, whatever is asked for by then."""
    one = outlook(background=True)
    one.show(CLIP.replace(height=200, width=128), LoadSettings(model="micro"))
    assert "never been counted" in one.text.value
    make = make_forecast

    def counted(model: str, *, clip: ClipSettings, **more: Any) -> Any:
        return make(model, clip=clip.replace(height=72), **more)

    monkeypatch.setattr(module, "forecast", counted)
    assert "never been counted" in one.text.value
    one._counting.over.set()  # type: ignore[union-attr]  # the stand-in
    wait_for(lambda: one.forecast)
    wait_for(lambda: "MiB" in one.text.value)


def test_what_cannot_be_counted_is_not_promised_for_ever(started: list[Any]) -> None:
    """The other process failed: the text says so, or counting is tried again; it does not say "some seconds" still."""
    one = outlook(background=True)
    odd = CLIP.replace(height=200, width=128)
    one.show(odd, LOAD)
    started[0].over.set()
    wait_for(lambda: "counting this size failed" in one.text.value, seconds=5)
    one.show(odd, LOAD)
    assert "counting this size failed" in one.text.value
    assert len(started) == 1


def test_a_count_that_was_given_up_says_nothing(started: list[Any]) -> None:
    """Another size is asked for: that the process of the first one has ended is no news."""
    one = outlook(background=True)
    one.show(CLIP.replace(height=200, width=128), LOAD)
    one.show(CLIP.replace(height=208, width=128), LOAD)
    assert [process.is_running for process in started] == [False, True]
    assert "never been counted" in one.text.value


def test_what_is_counted_is_what_was_asked_for(started: list[Any]) -> None:
    """In fp32 other numbers are needed than in fp16: counting the usual ones would not help."""
    one = outlook(background=True)
    odd = CLIP.replace(height=200, width=128)
    for load in (LOAD.replace(dtype="fp32"), LOAD.replace(dtype="bf16")):
        one.show(odd, load)
        assert started[-1].load == load
    assert len(started) == 2


def test_an_outlook_that_nobody_has_is_gone() -> None:
    """With it would stay its panel, and all that is in there; ending its process must not keep it."""
    one = outlook()
    gone = weakref.ref(one)
    one.widget.close_all()
    del one
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize(("model", "code"), [pytest.param("micro", 0, marks=pytest.mark.slow), ("no-such-model", 1)])
def test_another_process_counts(model: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one; what it counted is in the cache."""
    monkeypatch.setenv("SVDKIT_CACHE", str(tmp_path / "cache"))
    counting = Child("svdkit.ui.outlook:count", log=tmp_path / "log")
    counting.say((model, CLIP.replace(height=200, width=128), LOAD))
    assert counting.wait() == code
    counting.end()
    assert (tmp_path / "cache").exists() is not bool(code)
    assert ("ModelError: model 'no-such-model' is not known" in (tmp_path / "log").read_text("utf-8")) is bool(code)


@pytest.mark.parametrize("gib", [2, 3, 6])
def test_what_fits_is_offered(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    """The warning, and a button that says what it would change; those settings do fit."""
    small_gpu(monkeypatch, gib)
    applied = list[ClipSettings]()
    one = outlook("svd-xt", on_apply=applied.append)
    asked = full("svd-xt")
    one.show(asked, LoadSettings(model="svd-xt"))
    assert one.forecast is not None
    assert one.forecast.fits is False
    assert "This will probably run out of memory." in one.text.value
    assert not hidden(one)
    one.apply.click()
    (smaller,) = applied
    changed = {name: value for name, value in smaller.to_dict().items() if value != asked.to_dict()[name]}
    assert one.apply.description == "Use what fits: " + ", ".join(f"{name} {value}" for name, value in changed.items())
    assert set(changed) <= {"height", "width", "num_frames", "decode_chunk_size"}
    one.show(smaller, LoadSettings(model="svd-xt"))
    assert one.forecast.fits
    assert hidden(one)
    assert "run out of memory" not in one.text.value


def test_an_upright_clip_stays_upright(monkeypatch: pytest.MonkeyPatch) -> None:
    small_gpu(monkeypatch, 2)
    applied = list[ClipSettings]()
    one = outlook("svd-xt", on_apply=applied.append)
    one.show(full("svd-xt").replace(height=1024, width=576), LoadSettings(model="svd-xt"))
    one.apply.click()
    assert [(clip.height, clip.width) for clip in applied] == [(576, 320)]


def test_where_nothing_fits_it_is_warned_of_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to offer then, but to run out of memory is what will happen."""
    small_gpu(monkeypatch, 0.1)
    one = outlook("micro")
    one.show(full("micro"), LoadSettings(model="micro"))
    assert one.forecast is not None
    assert one.forecast.fits is False
    assert hidden(one)
    assert "This will probably run out of memory." in one.text.value


def test_the_button_does_nothing_when_all_fits() -> None:
    one = outlook(on_apply=lambda _: pytest.fail("there was nothing to apply"))
    one.show(CLIP, LoadSettings(model="micro"))
    one.apply.click()


def test_a_model_that_cannot_be_forecast_says_why() -> None:
    """The reason is escaped; the panel works without a forecast."""
    one = Outlook(TOY, Words(), currency="USD", hourly_price=0, on_apply=id, background=False)
    one.show(CLIP, LoadSettings(model="toy"))
    assert one.text.value.startswith("no forecast: model &#x27;toy&#x27; is not known")
    assert one.forecast is None
    assert hidden(one)


def test_reasons_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError("<script>alert(1)</script>")

    monkeypatch.setattr(module, "forecast", fail)
    one = outlook()
    one.show(CLIP, LoadSettings(model="micro"))
    assert one.text.value == "no forecast: &lt;script&gt;alert(1)&lt;/script&gt;"


def test_another_language_says_it_again() -> None:
    words = Words()
    one = Outlook(find_model("micro"), words, currency="CNY", hourly_price=0, on_apply=id, background=False)
    one.show(CLIP, LoadSettings(model="micro"))
    words.switch("zh")
    assert "在本机生成第一段视频后即可预计" in one.text.value
    assert "memory" not in plain(one.text.value)
    assert one.price.description == "每小时价格 CNY"


def test_nothing_is_counted_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting changes torch's defaults for some seconds: not while clips are made on a thread beside it."""
    asked = list[bool]()
    monkeypatch.setattr(module, "Child", Mock())

    def watched(*_: Any, count: bool, **__: Any) -> Any:
        asked.append(count)
        raise NotCountedError("not counted")

    monkeypatch.setattr(module, "forecast", watched)
    outlook().show(CLIP, LoadSettings(model="micro"))
    assert asked == [False]
