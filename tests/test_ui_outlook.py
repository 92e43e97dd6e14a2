"""What the next clip will take: seconds once one was made, money, memory, and what would fit where it does not."""

from __future__ import annotations

import gc
import re
import time
import weakref
from typing import Any

import pytest

from svdkit.forecast import predict
from svdkit.forecast.cards import CARD_GIB, Card
from svdkit.models import find_model
from svdkit.settings import ClipSettings, LoadSettings
from svdkit.ui import run as module
from svdkit.ui.parts import Words
from svdkit.ui.run import Outlook
from tests.clips import SETTINGS, micro_clip, provenance
from tests.ui_toys import TOY, plain

SIZE = {"height": 72, "width": 128, "num_frames": 14, "decode_chunk_size": 7, "max_guidance_scale": 1.0}
CLIP = ClipSettings(seed=1, num_inference_steps=25, **SIZE, playback_fps=7.0)  # type: ignore[arg-type]
LOAD = LoadSettings(model="micro")
MACHINE = "a machine of the tests"


@pytest.fixture(autouse=True)
def _machine(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same machine everywhere, of which nothing was measured; no test reads or writes the user's cache."""
    monkeypatch.setenv("SVDKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(predict, "_this_machine", lambda _device: (Card(MACHINE, 16 * CARD_GIB), "cpu"))


def small_gpu(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    monkeypatch.setattr(predict, "_this_machine", lambda _device: (Card("a small card", int(gib * CARD_GIB)), "cuda"))


def outlook(model: str = "micro", **more: Any) -> Outlook:
    values: dict[str, Any] = {"currency": "USD", "hourly_price": 0.0, "on_apply": id}
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
    assert re.search(r"about\s+12 s\s+\(1[01] s to 1[23] s\)", text), text
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


def test_any_size_is_forecast_at_once() -> None:
    """One that nobody has counted, too: the moment a slider stops."""
    one = outlook()
    begin = time.perf_counter()
    one.show(CLIP.replace(height=200, width=128), LOAD)
    assert time.perf_counter() - begin < 0.5
    assert one.forecast is not None
    assert one.forecast.memory_bytes > 0


def test_an_outlook_that_nobody_has_is_gone() -> None:
    """With it would stay its panel, and all that is in there."""
    one = outlook()
    gone = weakref.ref(one)
    one.widget.close_all()
    del one
    gc.collect()
    assert gone() is None


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
    assert [(clip.height, clip.width) for clip in applied] == [(448, 256)]


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
    one = Outlook(TOY, Words(), currency="USD", hourly_price=0, on_apply=id)
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
    one = Outlook(find_model("micro"), words, currency="CNY", hourly_price=0, on_apply=id)
    one.show(CLIP, LoadSettings(model="micro"))
    words.switch("zh")
    assert "在本机生成第一段视频后即可预计" in one.text.value
    assert "memory" not in plain(one.text.value)
    assert one.price.description == "每小时价格 CNY"
