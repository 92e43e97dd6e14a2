"""The page of `svdkit app` as a person uses it, in Chromium: upload, sliders, start, stop, clip, two tabs."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from svdkit.clip import Clip
from svdkit.image import sample_photo
from tests.ui_pages import PanelPage, app, open_page

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with app(tmp_path_factory.mktemp("app"), "--price", "2", "--currency", "CNY") as found:
        yield found


@pytest.fixture
def panel(address: str, chromium: Any) -> Iterator[PanelPage]:
    with open_page(chromium, address) as page:
        panel = PanelPage(page)
        panel.wait_state("Ready|Done")
        yield panel


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photo of a person's own: upright, larger than the model takes."""
    path = tmp_path / "holiday.jpg"
    sample_photo("cat").resize((900, 1200)).save(path, quality=90)
    return path


def test_from_an_upload_to_a_clip(panel: PanelPage, photo: Path, tmp_path: Path) -> None:
    """Upload, sliders by keyboard, start, progress that advances, a picture on the way, the clip, its download."""
    before = panel.photo()
    panel.upload(photo)
    panel.new_photo(before)
    steps = panel.slider("Steps")
    steps.focus()
    steps.press("ArrowLeft")
    panel.page.wait_for_function("[...document.querySelectorAll('input')].some((one) => one.value === '9')")
    panel.set("Steps", 12)
    panel.set("Motion", 200)
    panel.set("Seed", 11)
    panel.button("Make the clip").click()
    seen = set[int]()
    while len(seen) < 3:
        seen.add(int(panel.wait_state(r"denoising: \d+ of 12").split()[1]))
    panel.root.locator(".svdkit-picture img").wait_for()
    panel.shoot("page-running")
    panel.wait_state("^Done in")
    found = panel.video()
    assert (found["width"], found["height"]) == (128, 72)
    assert found["seconds"] == pytest.approx(2, abs=0.08)  # 14 frames at 7 a second
    with panel.page.expect_download() as download:
        panel.root.get_by_role("link", name="Download the clip").click()
    saved = tmp_path / download.value.suggested_filename
    download.value.save_as(saved)
    made = Clip.read(saved).provenance
    assert made is not None
    names = ("motion_bucket_id", "seed", "num_inference_steps")
    assert [made.settings[name] for name in names] == [200, 11, 12]
    assert "holiday" not in json.dumps(made.to_dict())
    outlook = panel.root.locator(".svdkit-outlook").inner_text()
    assert re.search(r"about [\d.]+ s .*¥[\d.]+ a clip", outlook.replace("\n", " ")), outlook
    panel.shoot("page-done")


def test_the_clip_can_be_made_again_from_the_code_shown(panel: PanelPage) -> None:
    panel.set("Steps", 2)
    panel.button("Make the clip").click()
    panel.wait_state("^Done in")
    panel.root.get_by_text("As Python code").click()
    code = panel.root.locator(".svdkit-code textarea").first.input_value()
    assert "pipe = svdkit.load('micro'" in code
    assert "num_inference_steps=2," in code
    panel.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    panel.button("Copy").first.click()
    assert panel.page.evaluate("navigator.clipboard.readText()") == code
    assert panel.root.locator(".svdkit-code textarea").first.get_attribute("aria-label") == "As Python code"


def test_stop_and_start_again(panel: PanelPage) -> None:
    """A run of a minute is stopped within seconds, keeps nothing, and the next one works."""
    panel.set("Steps", 100)
    panel.button("Make the clip").click()
    panel.wait_state("denoising: [1-9]")
    start = time.monotonic()
    panel.button("Stop").click()
    panel.wait_state("^Stopped. Nothing was kept")
    assert time.monotonic() - start < 10
    assert panel.root.locator(".svdkit-result video").count() == 0
    panel.set("Steps", 2)
    panel.button("Make the clip").click()
    panel.wait_state("^Done in")
    assert panel.video()["ready"] >= 3


def test_two_clicks_start_one_run(panel: PanelPage) -> None:
    panel.set("Steps", 3)
    panel.button("Make the clip").dblclick()
    panel.wait_state("^Done in")
    time.sleep(1)
    assert panel.state.startswith("Done in")
    assert panel.root.locator(".svdkit-list input").count() == 1


def test_drafts_then_one_of_them_finished_then_compared(panel: PanelPage) -> None:
    panel.set("Steps", 9)
    panel.button("4 quick drafts").click()
    panel.wait_state("draft 2 of 4")
    panel.wait_state("^Done in", seconds=120)
    finish = panel.root.get_by_role("button", name="Finish seed")
    finish.nth(3).wait_for()
    panel.page.frame_locator(".svdkit-result iframe").locator("video.ready").nth(3).wait_for()
    panel.shoot("page-drafts")
    seed = re.search(r"\d+", finish.nth(2).inner_text())
    assert seed is not None
    panel.press(finish.nth(2))
    panel.wait_state("denoising: . of 9")
    panel.wait_state("^Done in", seconds=120)
    assert panel.field("Seed").input_value() == seed.group()
    panel.root.locator(".svdkit-list input").nth(2).check()
    panel.root.locator(".svdkit-list input").nth(4).check()
    panel.press(panel.button("Compare the chosen ones"))
    panel.root.locator(".svdkit-compared iframe").scroll_into_view_if_needed()
    panel.page.frame_locator(".svdkit-compared iframe").locator("video.ready").nth(1).wait_for()
    panel.shoot("page-compared")
    panel.press(panel.button("Clear photo and clips"))
    panel.root.get_by_text("The clip will be here.").wait_for()
    assert panel.root.locator("video, iframe").count() == 0


def test_a_bad_file_is_an_error_in_plain_words(panel: PanelPage, tmp_path: Path) -> None:
    """The photo chosen before stays, and the panel goes on working."""
    before = panel.photo()
    bad = tmp_path / "notes.jpg"
    bad.write_text("this is no picture")
    panel.upload(bad)
    alert = panel.root.get_by_role("alert")
    alert.wait_for()
    assert "the data (18 bytes) is not a photo, or damaged. Allowed are JPEG, PNG" in alert.inner_text()
    panel.shoot("page-bad-file")
    assert panel.photo() == before
    panel.set("Steps", 2)
    panel.button("Make the clip").click()
    panel.wait_state("^Done in")


def test_an_upload_too_large_for_the_connection_gets_a_word(panel: PanelPage, tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(b"\x89PNG" + bytes(9_100_000))
    before = panel.photo()
    panel.upload(large)
    alert = panel.root.get_by_role("alert")
    alert.wait_for()
    assert "large.png is larger than 9 MB" in alert.inner_text()
    assert "give its path below" in alert.inner_text()
    assert panel.photo() == before
    panel.set("Motion", 30)  # the connection still stands
    panel.page.wait_for_function(
        "[...document.querySelectorAll('[role=slider]')].some((one) => one.ariaValueNow === '30.0')"
    )


def test_the_focus_moves_by_a_click_and_by_a_slider(panel: PanelPage, photo: Path) -> None:
    before = panel.photo()
    panel.upload(photo)
    before = panel.new_photo(before)
    image = panel.root.locator(".svdkit-photo img")
    frame = image.bounding_box()
    image.click(position={"x": frame["width"] / 2, "y": frame["height"] * 0.9})
    before = panel.new_photo(before)
    assert int(panel.field("Focus, down").input_value()) > 80
    down = panel.slider("Focus, down")
    down.focus()
    for _ in range(8):
        down.press("PageDown")
    panel.new_photo(before)
    assert int(panel.field("Focus, down").input_value()) < 80


def test_two_tabs_share_one_model_and_wait_in_line(panel: PanelPage, address: str, chromium: Any) -> None:
    with open_page(chromium, address) as page:
        other = PanelPage(page)
        other.wait_state("Ready|Done")
        panel.set("Steps", 40)
        other.set("Steps", 2)
        panel.button("Make the clip").click()
        panel.wait_state("denoising")
        other.button("Make the clip").click()
        other.wait_state("^waiting: 1 ahead of you")
        other.shoot("page-waiting")
        panel.wait_state("^Done in")
        other.wait_state("^Done in")
        assert other.video()["ready"] >= 3


def test_chinese_on_a_phone_in_the_dark(address: str, chromium: Any) -> None:
    """Every label changes, the page says its language, and nothing is wider than the screen."""
    with open_page(chromium, address, viewport={"width": 390, "height": 844}, color_scheme="dark") as page:
        panel = PanelPage(page)
        panel.root.get_by_label("Language").select_option("中文")
        panel.button("生成视频").wait_for()
        page.wait_for_function("document.documentElement.lang === 'zh'")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        text = panel.root.inner_text()
        assert not re.search(r"\b(Settings|Steps|Seed|Ready|Photo|Upload)\b", text)
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert sum(map(int, re.findall(r"\d+", back)[:3])) < 120
        panel.shoot("page-phone-dark-chinese")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_screen_reader_finds_its_way(address: str, chromium: Any, scheme: str) -> None:
    """axe-core finds nothing serious, before and after a clip, with everything unfolded."""
    with open_page(chromium, address, color_scheme=scheme) as page:
        panel = PanelPage(page)
        panel.root.get_by_text("More settings").click()
        panel.set("Steps", 2)
        panel.button("Make the clip").click()
        panel.wait_state("^Done in")
        panel.root.get_by_text("As Python code").click()
        assert violations(page) == []


def test_the_check_for_screen_readers_can_fail(address: str, chromium: Any) -> None:
    with open_page(chromium, address) as page:
        PanelPage(page)
        page.evaluate("document.querySelector('.svdkit-photo img').removeAttribute('alt')")
        assert [fault.partition(":")[0] for fault in violations(page)] == ["image-alt"]


def test_nothing_jumps_while_a_clip_is_made(panel: PanelPage) -> None:
    """The browser's own measure of jumps, of which up to 0.1 counts as good."""
    panel.set("Steps", 6)
    panel.page.evaluate(SHIFTS)
    panel.button("Make the clip").click()
    panel.wait_state("^Done in")
    panel.video()
    assert panel.page.evaluate("window.shifted") < 0.1


def test_a_slider_is_answered_within_a_tenth_of_a_second(panel: PanelPage) -> None:
    """From the key press to the new forecast on the page, in the browser's own clock; median of 15."""
    panel.set("Steps", 4)
    panel.button("Make the clip").click()
    panel.wait_state("^Done in")
    panel.set("Steps", 20)
    panel.slider("Steps").focus()
    waited = []
    for _ in range(15):
        panel.page.evaluate(WATCH)
        panel.page.keyboard.press("ArrowRight")
        waited.append(panel.page.evaluate("window.answered"))
    waited.sort()
    print(f"a slider's forecast: median {waited[7]:.0f} ms, {waited[0]:.0f} to {waited[-1]:.0f} ms")  # noqa: T201
    assert waited[7] < 250, waited  # 100 is aimed at and measured alone; beside other tests it takes longer


# Resolves with the milliseconds from the next key press to the next change of the forecast.
WATCH = """
window.answered = new Promise((done) => {
  let start = 0;
  addEventListener("keydown", () => { start = performance.now(); }, {capture: true, once: true});
  const box = document.querySelector(".svdkit-outlook .widget-html-content");
  const eye = new MutationObserver(() => { if (start) { eye.disconnect(); done(performance.now() - start); } });
  eye.observe(box, {childList: true, subtree: true, characterData: true});
}); null
"""


# Adds up the layout shifts that no input asked for.
SHIFTS = """
window.shifted = 0;
new PerformanceObserver((list) => {
  for (const shift of list.getEntries()) if (!shift.hadRecentInput) window.shifted += shift.value;
}).observe({type: "layout-shift"}); null
"""


def violations(page: Any) -> list[str]:
    """Say what axe-core finds serious or critical in the panel: rule, and where."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page, context=".svdkit-panel", options={"resultTypes": ["violations"], "iframes": False})
    serious = [one for one in found.response["violations"] if one["impact"] in {"serious", "critical"}]
    return [f"{one['id']}: {[node['target'] for node in one['nodes']]}" for one in serious]
