"""What the next clip will take: seconds once one was made, money, memory, and what would fit where it does not."""

from __future__ import annotations

import gc
import re
import weakref
from typing import Any

import pytest

from svdkit.errors import SettingsError
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
MACHINE = "a machine of the tests"


@pytest.fixture(autouse=True)
def _machine(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same machine everywhere, of which nothing was measured; no test reads or writes the user's cache."""
    monkeypatch.setenv("SVDKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(predict, "_this_machine", lambda _device: (Card(MACHINE, 16 * CARD_GIB), "cpu"))


def small_gpu(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    monkeypatch.setattr(predict, "_this_machine", lambda _device: (Card("a small card", int(gib * CARD_GIB)), "cuda"))


class Shown(Outlook):
    """A forecast of settings that a test sets; ``applied`` is what was to be changed."""

    def __init__(self, model: Any = "micro", clip: ClipSettings = CLIP, **more: Any) -> None:
        info = find_model(model) if isinstance(model, str) else model
        self.clip, self.applied = clip, dict[str, Any]()
        self.load = LoadSettings(model=info.name)
        values: dict[str, Any] = {"currency": "USD", "hourly_price": 0.0, **more}
        asked: Any = lambda: (self.clip, self.load)  # noqa: E731 - a method would be the class's, before it is made
        super().__init__(Words(), info, asked, lambda **changes: self.applied.update(changes), **values)

    def ask(self, clip: ClipSettings) -> str:
        self.clip = clip
        self.show()
        return plain(self.text.value)

    @property
    def hidden(self) -> bool:
        return bool(self.apply.layout.display == "none")


def full(model: str, **changes: Any) -> ClipSettings:
    return ClipSettings(seed=1, **changes).resolve(**find_model(model).clip_defaults)


def made(*, steps: int = 25, seconds: float = 10.0, **changes: Any) -> Any:
    """A clip of micro that took so many seconds to denoise, on this machine."""
    settings = SETTINGS | SIZE | {"num_inference_steps": steps, "fps": 7, "playback_fps": 7.0}
    about = provenance(
        settings=settings,
        load=LoadSettings(model="micro", dtype="fp32", memory="resident", device="cpu").to_dict(),
        stage_seconds={"encode": 0.5, "denoise": seconds, "decode": 1.0},
        environment={"cpu": MACHINE, "gpu": None},
        **changes,
    )
    return micro_clip(provenance=about)


def test_memory_is_known_before_anything_ran() -> None:
    """Time is not, and is said to come; in the language of now. The button has nothing to do."""
    one = Shown(currency="CNY")
    text = plain(one.text.value)
    assert "time: known after the first clip on this machine" in text
    assert re.search(r"[\d.]+ MiB\s+of 16\.0 GiB memory", text), text
    assert one.forecast is not None
    assert (one.forecast.fits, one.hidden, one.price.description) == (True, True, "CNY an hour")
    one.apply.click()
    assert one.applied == {}
    one.words.switch("zh")
    assert "在本机生成第一段视频后即可预计" in one.text.value
    assert "memory" not in plain(one.text.value)
    assert one.price.description == "每小时价格 CNY"


def test_time_is_known_after_the_first_clip() -> None:
    """As many seconds as it took, with a range and where that is from; twice the steps take nearly twice as long."""
    one = Shown()
    one.learn(made(seconds=10.0))
    assert one.forecast is not None
    assert one.forecast.seconds == pytest.approx(11.5, rel=0.05)
    text = plain(one.text.value)
    assert re.search(r"about\s+12 s\s+\(1[01] s to 1[23] s\)", text), text
    assert f"from own records: 1 record of {MACHINE} with these settings" in text
    one.ask(CLIP.replace(num_inference_steps=50))
    assert one.forecast.seconds == pytest.approx(21.5, rel=0.05)


def test_the_newest_clips_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty of them: what was slow once, as a first run is, is forgotten in the end."""
    one = Shown()
    monkeypatch.setattr(one, "show", lambda: None)
    for seconds in range(30):
        one.learn(made(seconds=seconds))
    assert [record.samples["timed"]["denoise"] for record in one._records] == [[seconds] for seconds in range(10, 30)]


def test_clips_that_say_nothing_of_their_time_are_passed_over() -> None:
    """Such as those of a pipeline that svdkit did not load; learning must not end the run that made them."""
    one = Shown()
    one.learn(micro_clip(provenance=None))
    model = {"name": "own pipeline", "revision": None, "weights": "unknown"}
    one.learn(micro_clip(provenance=provenance(kind="svd", load={}, model=model)))
    one.learn(micro_clip(provenance=provenance(stage_seconds={})))
    assert "time: known after the first clip" in plain(one.text.value)


def test_what_a_clip_costs() -> None:
    """Price an hour times seconds; nothing of money without a price, and the price can be changed in the panel."""
    one = Shown(hourly_price=36.0, currency="CNY")
    assert "a clip" not in plain(one.text.value)  # its seconds are not known yet
    one.learn(made())
    assert one.forecast is not None
    assert one.forecast.cost == pytest.approx(0.115, rel=0.05)
    assert "<b>¥0.12</b> a clip" in one.text.value
    one.price.value = 72.0
    assert one.forecast.cost == pytest.approx(0.23, rel=0.05)
    one.price.value = 0
    assert one.forecast.cost is None
    assert "a clip" not in plain(one.text.value)


def test_an_outlook_that_nobody_has_is_gone() -> None:
    """With it would stay its panel, and all that is in there."""
    one = Shown()
    gone = weakref.ref(one)
    one.widget.close_all()
    del one
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("gib", [2, 3, 6])
def test_what_fits_is_offered(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    """The warning, and a button that says what it would change; those settings do fit."""
    small_gpu(monkeypatch, gib)
    one = Shown("svd-xt", full("svd-xt"))
    assert "This will probably run out of memory." in one.text.value
    assert not one.hidden
    one.apply.click()
    assert set(one.applied) <= {"height", "width", "num_frames", "decode_chunk_size"}
    assert one.applied
    changes = ", ".join(f"{name} {value}" for name, value in one.applied.items())
    assert one.apply.description == f"Use what fits: {changes}"
    assert "run out of memory" not in one.ask(one.clip.replace(**one.applied))
    assert one.forecast is not None
    assert (one.forecast.fits, one.hidden) == (True, True)


def test_an_upright_clip_stays_upright(monkeypatch: pytest.MonkeyPatch) -> None:
    small_gpu(monkeypatch, 2)
    one = Shown("svd-xt", full("svd-xt", height=1024, width=576))
    assert (one.fitting["height"], one.fitting["width"]) == (448, 256)


def test_where_nothing_fits_it_is_warned_of_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to offer then, but to run out of memory is what will happen."""
    small_gpu(monkeypatch, 0.1)
    one = Shown("micro", full("micro"))
    assert one.forecast is not None
    assert (one.forecast.fits, one.hidden) == (False, True)
    assert "This will probably run out of memory." in one.text.value


@pytest.mark.parametrize("error", [OSError("<script>alert(1)</script>"), SettingsError("fps=0: use 1")])
def test_without_a_forecast_it_says_why(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Of a model that nobody counted, too. The reason is escaped; it goes when there is none any more."""
    one = Shown(TOY)
    assert "no forecast: model &#x27;toy&#x27; is not known" in one.text.value
    one = Shown()
    with monkeypatch.context() as patch:
        patch.setattr(module, "forecast", lambda *_, **__: (_ for _ in ()).throw(error))
        one.show()
    assert f"no forecast: {str(error).replace('<', '&lt;').replace('>', '&gt;')}<" in one.text.value
    assert (one.forecast, one.hidden) == (None, True)
    assert "no forecast" not in one.ask(CLIP)
