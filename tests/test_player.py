"""Clips in step, as a notebook shows them: what the HTML holds, and what a browser does with it."""

from __future__ import annotations

import html
import json
import re
import sys
import time
from typing import Any

import numpy as np
import pytest

from svdkit.clip import Clip
from svdkit.errors import ClipError
from svdkit.sweep.player import asset, json_script, sync_player
from tests.browser import page_of
from tests.clips import micro_clip, moving

HOSTILE = "</script><img src=x onerror=alert(1)>\"'<b>{{ 7*7 }}"


def bars(index: int, *, num_frames: int = 12, fps: float = 6) -> Clip:
    """Return a clip whose frame number is readable from one pixel: brightness 20 + 18 times the frame."""
    frames = np.empty((num_frames, 48, 64, 3), np.uint8)
    frames[:] = (20 + 18 * np.arange(num_frames))[:, None, None, None]
    frames[:, :, 48:] = 40 * index
    return Clip(frames, fps=fps)


def data_of(player: Any) -> Any:
    (text,) = re.findall(r'<script type="application/json">(.*?)</script>', player.page)
    return json.loads(text)


CHINESE = {"en": "zh", "Synchronised clips": "同步<播放>", "▶ Play": "播放", "❚❚ Pause": "暂停", "Speed": "速度"}


class TestSource:
    def test_it_holds_every_clip_and_nothing_from_elsewhere(self, tmp_path):
        """Videos are data URIs; no address of a network stands in the page; a path is as good as a clip."""
        player = sync_player([micro_clip(), micro_clip(6)], labels=["calm", "lively"])
        data = data_of(player)
        assert [clip["label"] for clip in data["clips"]] == ["calm", "lively"]
        assert [clip["frames"] for clip in data["clips"]] == [4, 6]
        assert all(clip["src"].startswith("data:video/mp4;base64,") for clip in data["clips"])
        assert not re.search(r"https?://|url\(|@import", player.page)
        assert str(player).startswith("Player(2 clips, ")
        assert "base64" not in repr(player)
        path = micro_clip().save(tmp_path / "one.mp4")
        assert data_of(sync_player([path, str(path)]))["clips"][1]["label"] == micro_clip().label

    def test_large_clips_are_made_smaller(self):
        """Embedded clips have at most 512 pixels, so that notebooks stay small; the shape on screen is the true one."""
        wide = Clip(np.repeat(moving(2, height=36, width=64), 16, 1).repeat(16, 2), fps=7)
        (clip,) = data_of(sync_player([wide]))["clips"]
        assert (clip["width"], clip["height"]) == (1024, 576)
        assert len(clip["src"]) < 60_000

    def test_a_notebook_gets_a_frame_that_may_run_scripts_and_no_more(self):
        """The page is escaped as a whole, and cannot touch the notebook around it."""
        player = sync_player([micro_clip()], labels=[HOSTILE])
        shown = player._repr_html_()
        assert shown.startswith("<iframe ")
        assert 'sandbox="allow-scripts"' in shown
        assert shown.count("<") == 2
        assert html.unescape(shown.split('srcdoc="')[1].split('"')[0]) == player.page

    def test_too_much_for_a_notebook_is_said(self, monkeypatch):
        """papermill writes every output again at every cell."""
        monkeypatch.setattr(sys.modules["svdkit.sweep.player"], "_MANY_BYTES", 10_000)  # svdkit.sweep is a function
        with pytest.warns(UserWarning, match="to the notebook; show fewer, or write_report"):
            sync_player([micro_clip()] * 2)

    @pytest.mark.parametrize(
        ("clips", "options", "words"),
        [
            ([], {}, "there is nothing to play; give at least one clip"),
            ([micro_clip()], {"labels": ["a", "b"]}, "2 labels for 1 clips; give one label a clip"),
            ([micro_clip()], {"columns": 0}, "columns is 0; give a whole number from 1"),
            (["nowhere.mp4"], {}, "nowhere.mp4 is not there"),
        ],
    )
    def test_what_cannot_be_shown_is_refused_in_words(self, clips, options, words):
        """What was given and what to do."""
        with pytest.raises(ClipError, match=words):
            sync_player(clips, **options)

    def test_json_cannot_end_its_script(self):
        """Whatever a label says, there is one script element, and the text comes back whole."""
        text = json_script({"label": HOSTILE})
        assert text.count("<") == 2
        assert (
            json.loads(text.removeprefix('<script type="application/json">').removesuffix("</script>"))["label"]
            == HOSTILE
        )

    def test_the_script_writes_text_as_text(self):
        """No text from outside is parsed as HTML."""
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", asset("player.js")
        )


@pytest.fixture
def played(chromium, tmp_path):
    """Six clips in a notebook's output, in a page of their own; one is shorter and one faster."""
    clips = [bars(i) for i in range(4)] + [bars(4, num_frames=6), bars(5, fps=12)]
    path = tmp_path / "player.html"
    labels = [HOSTILE, *(f"clip {i}" for i in range(1, 6))]
    path.write_text(sync_player(clips, labels=labels, columns=3).page, encoding="utf-8")
    with page_of(chromium, path.as_uri()) as page:
        page.wait_for_function("() => document.querySelectorAll('video.ready').length === 6")
        yield page


def test_its_texts_can_be_in_another_language(chromium, tmp_path):
    """For the eye and for screen readers; what has no translation stays English."""
    player = sync_player([bars(0), bars(1)], texts=CHINESE)
    assert player._repr_html_().startswith('<iframe title="同步&lt;播放&gt;"')
    (tmp_path / "player.html").write_text(player.page, encoding="utf-8")
    with page_of(chromium, (tmp_path / "player.html").as_uri()) as page:
        assert page.title() == "同步<播放>"
        assert page.locator("html").get_attribute("lang") == "zh"
        assert page.get_by_role("group", name="同步<播放>").count() == 1
        page.get_by_text("暂停").click()
        assert page.get_by_text("播放", exact=True).count() == 1
        assert page.get_by_label("速度").input_value() == "1"
        assert page.get_by_role("button", name="Repeat (L)").inner_text() == "Loop"


# What each clip really shows: its frame, read from the brightness of a pixel.
SHOWN = """() => [...document.querySelectorAll('.cell > .stage > video')].map((video) => {
  const canvas = document.createElement('canvas'); canvas.width = 64; canvas.height = 48;
  const pen = canvas.getContext('2d'); pen.drawImage(video, 0, 0, 64, 48);
  return Math.round((pen.getImageData(10, 10, 1, 1).data[0] - 20) / 18);
})"""
PAUSED = """() => {
  const { held, playing } = document.querySelector('.player').axes.player;
  return !held && !playing;
}"""


def stopped(page: Any) -> list[int]:
    page.wait_for_function(PAUSED)
    page.wait_for_timeout(100)
    return list(page.evaluate(SHOWN))


def at_home(page: Any) -> list[int]:
    page.locator(".player").focus()
    page.keyboard.press("Home")
    return stopped(page)


class TestInTheBrowser:
    def test_it_plays_by_itself_and_all_within_one_frame(self, played):
        """Watched until every frame was seen; a busy machine may be late with a clip, for a moment."""
        seen: list[list[int]] = []
        end = time.monotonic() + 30  # a busy machine looks seldom, and misses some frames in each round
        while len(seen) < 40 or ({frames[0] for frames in seen} < set(range(12)) and time.monotonic() < end):
            played.wait_for_timeout(50)
            seen.append(played.evaluate(SHOWN)[:4])
        apart = sorted(max(frames) - min(frames) for frames in seen)
        assert apart[len(apart) * 9 // 10] <= 1, apart
        assert {frames[0] for frames in seen} == set(range(12))

    def test_a_shorter_clip_waits_and_a_faster_one_is_at_the_same_second(self, played):
        """Two frames of 6 a second are four of 12; at the end the short clip holds its last frame."""
        at_home(played)
        for _ in range(4):
            played.keyboard.press("ArrowRight")
        assert stopped(played) == [2, 2, 2, 2, 2, 4]  # steps are those of the fastest clip
        played.keyboard.press("End")
        assert stopped(played) == [11, 11, 11, 11, 5, 11]

    def test_keys_step_play_and_loop(self, played):
        """Arrows step both ways and around the end, Space plays and pauses, L turns the loop off."""
        assert at_home(played) == [0, 0, 0, 0, 0, 0]
        played.keyboard.press("ArrowLeft")
        assert stopped(played)[0] == 11
        played.keyboard.press("Space")
        played.wait_for_function("() => [...document.querySelectorAll('video')].some((video) => !video.paused)")
        played.keyboard.press("Space")
        stopped(played)
        played.keyboard.press("l")
        assert played.get_by_role("button", name="Repeat (L)").get_attribute("aria-pressed") == "false"
        played.keyboard.press("End")
        played.keyboard.press("ArrowRight")
        assert stopped(played)[0] == 11

    def test_without_the_loop_it_stops_at_the_last_frame(self, played):
        """And the button says what it will do next."""
        at_home(played)
        played.keyboard.press("l")
        played.keyboard.press("Space")
        assert stopped(played)[:4] == [11, 11, 11, 11]
        assert "Play" in played.get_by_role("button", name="Play or pause").inner_text()

    def test_one_clip_is_a_reference_under_a_slider(self, played):
        """Each other clip gets the reference over its left half, at the same frame; the slider moves the edge."""
        at_home(played)
        played.get_by_label("Compare with").select_option("2")
        played.wait_for_function("() => document.querySelectorAll('.over video.ready').length === 5")
        assert played.locator(".over video").first.get_attribute("aria-label") == "clip 2"
        played.get_by_label("Split").fill("80")
        assert "20%" in played.evaluate("getComputedStyle(document.querySelector('.over')).clipPath")
        played.keyboard.press("Escape")
        played.get_by_label("Compare with").select_option("")
        assert played.locator(".over").count() == 0

    def test_zoom_is_one_for_all_and_moves_with_the_keys(self, played):
        """+ enlarges every clip about the same point; Shift with an arrow moves that point."""
        at_home(played)
        played.keyboard.press("+")
        played.keyboard.press("+")
        scales = played.evaluate(
            "[...document.querySelectorAll('video')].map((v) => new DOMMatrix(getComputedStyle(v).transform).a)"
        )
        assert scales == [2] * 6
        played.keyboard.press("Shift+ArrowRight")
        assert played.evaluate("document.querySelector('.player').style.getPropertyValue('--focus')") == "58% 50%"

    def test_hostile_labels_are_text(self, played):
        """The label is seen as it was written; no element came of it (and no dialog, which would fail the test)."""
        assert played.locator("figcaption").first.inner_text() == HOSTILE
        assert played.locator("img").count() == 0

    def test_speed_changes_how_fast_time_passes(self, played):
        """At a quarter of the speed the third frame of 6 a second comes after a second, not after 0.25."""
        at_home(played)
        played.get_by_label("Speed").select_option("0.25")
        played.locator(".player").focus()
        start = time.monotonic()
        played.keyboard.press("Space")
        played.wait_for_function(f"() => ({SHOWN})()[0] >= 2")
        assert time.monotonic() - start > 0.8

    def test_every_control_has_a_name(self, played):
        """For those who hear the page."""
        nameless = """() => [...document.querySelectorAll('button, input, select, video')].filter((node) =>
            !node.getAttribute('aria-label') && !node.closest('label')?.textContent.trim()).length"""
        assert played.evaluate(nameless) == 0


def test_it_works_inside_the_frame_of_a_notebook(chromium, tmp_path):
    """In a sandboxed frame, as JupyterLab and VS Code show it: clips load and play, and keys do not leave it."""
    path = tmp_path / "notebook.html"
    path.write_text(f"<!doctype html><body>{sync_player([bars(0), bars(1)])._repr_html_()}", encoding="utf-8")
    with page_of(chromium, path.as_uri()) as page:
        frame = page.frames[1]
        frame.wait_for_function("() => document.querySelectorAll('video.ready').length === 2")
        frame.wait_for_function("() => [...document.querySelectorAll('video')].every((video) => !video.paused)")
        assert frame.evaluate("document.documentElement.scrollHeight <= innerHeight + 1")
