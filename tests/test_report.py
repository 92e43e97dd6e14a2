"""The report of a results folder: files and texts, and what a reader can do with the page in a browser."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from svdkit.bench.plot import curves
from svdkit.bench.record import Record, run_id, write_record
from svdkit.clip import Clip
from svdkit.errors import SvdkitError
from svdkit.sweep.report import write_report
from tests.bench_records import CPU, VERSIONS
from tests.browser import page_of

HOSTILE = "</script><img src=x onerror=alert(1)>\"'<b>{{ 7*7 }}$x"
NAMESPACES = ("www.w3.org", "purl.org", "creativecommons.org")  # of SVG
BUCKETS, SEEDS, STEPS = (30, 127, 255), (1, 2), (4, 8)


def runs(settings: str, rows: list[Any]) -> pd.DataFrame:
    """Return what a plot needs of a report's runs: some settings, likeness, seconds, no memory, and labels."""
    names = [*settings.split(), "quality.first_frame_psnr_db", "seconds"]
    return pd.DataFrame(rows, columns=names).assign(memory=pd.NA, label=[f"{row[0]} steps" for row in rows])


def picture(place: int, *, num_frames: int = 8, height: int = 36, width: int = 64) -> np.ndarray:
    x = np.arange(width)[None, :, None] + 2 * np.arange(num_frames)[:, None, None, None]
    wave = 128 + 100 * np.sin(x / 5 + place)
    return np.broadcast_to(wave, (num_frames, height, width, 3)).astype(np.uint8)


def add_run(folder: Path, *, bucket: int, seed: int, steps: int, clip: Clip | None, **changes: Any) -> Record:
    """Commit a run as a sweep does; the numbers follow from the settings so that a test can foretell them."""
    load = {"model": "micro", "dtype": "fp32"}
    settings = {"height": 36, "width": 64, "num_frames": 8, "fps": 7, "decode_chunk_size": 4}
    settings |= {"num_inference_steps": steps, "motion_bucket_id": bucket, "seed": seed}
    model = {"name": "micro", "revision": "abc", "weights": "trained"}
    name = run_id(load=load, clip=settings, image_sha256="ab", model=model)
    artifacts = {}
    if clip:
        runs = folder / "runs" / name
        runs.mkdir(parents=True)
        clip.save(runs / "clip.mp4")
        Image.fromarray(clip.frames[0]).save(runs / "poster.jpg")
        artifacts = {kind: f"runs/{name}/{file}" for kind, file in (("clip", "clip.mp4"), ("poster", "poster.jpg"))}
    values: dict[str, Any] = {
        "id": name,
        "status": "ok",
        "load": load,
        "clip": settings,
        "model": model,
        "artifacts": artifacts,
        "image": {"source": "cat.jpg", "sha256": "ab" * 32},
        "environment": CPU | VERSIONS,
        "samples": {"timed": {"total": [0.25 * steps + 0.01 * seed]}},
        "memory": {"total": {"process_bytes": 900_000_000 + 1000 * bucket}},
        "quality": {"motion_percent_width_per_second": bucket / 10 + seed, "first_frame_psnr_db": 20.0 + steps},
        "started_at": "2026-11-24T06:00:00+00:00",
        "command": "svdkit sweep motion.yaml",
    }
    record = Record(**values | changes)
    write_record(folder, record)
    return record


def page_with(folder: Path, *, bucket: int = 1, clip: Clip | None = None, **changes: Any) -> str:
    """Add one run to a folder, and return the page that its report has then."""
    add_run(folder, bucket=bucket, seed=1, steps=4, clip=clip, **changes)
    return write_report(folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve runs of three settings, one of them out of memory."""
    folder = tmp_path_factory.mktemp("results") / "motion_and_steps"
    folder.mkdir()
    error = {"type": "OutOfMemoryError", "message": "needs 9.5 GiB more"}
    lost: dict[str, Any] = {"clip": None, "status": "oom", "error": error, "samples": {}, "memory": {}, "quality": {}}
    for steps, seed, bucket in itertools.product(STEPS, SEEDS, BUCKETS):
        changes = lost if (bucket, seed, steps) == (255, 2, 8) else {"clip": Clip(picture(0), fps=7)}
        add_run(folder, bucket=bucket, seed=seed, steps=steps, **changes)
    axes = {"motion_bucket_id": BUCKETS, "seed": SEEDS, "num_inference_steps": STEPS}
    (folder / "sweep.json").write_text(json.dumps({"asked": {"photos": ["cat.jpg"], "axes": axes}}), encoding="utf-8")
    assert write_report(folder) == folder / "index.html"
    return folder


def test_names_as_cameras_give_them_are_shown() -> None:
    """matplotlib's legend leaves out what begins with "_"."""
    rows = [(fps, image, None, 1.0 + fps) for fps in (6, 7) for image in ("_DSC1.jpg", "_DSC2.jpg")]
    (curve,) = (curve for curve in curves(runs("fps image", rows), ["fps"]) if curve["title"].startswith("Time"))
    assert all(name in curve["svg"] for name in ("_DSC1.jpg", "_DSC2.jpg"))


class TestFiles:
    def test_the_tables_hold_every_run_and_the_picture_every_first_frame(self, results):
        """All numbers are in the CSV; the failed run has its row and its empty field."""
        rows = pd.read_csv(results / "table.csv")
        assert (results / "table.csv").read_bytes().startswith(b"\xef\xbb\xbf")  # without it, Excel garbles names
        assert len(rows) == 12
        assert rows["quality.motion_percent_width_per_second"].iloc[0] == pytest.approx(4.0)
        text = (results / "table.md").read_text(encoding="utf-8")
        assert "OutOfMemoryError: needs 9.5 GiB more" in text
        with Image.open(results / "contact_sheet.png") as sheet:
            assert sheet.size == (6 * 216 + 8, 2 * (117 + 18 + 8) + 8)
            colours = sheet.convert("RGB")
        assert colours.getpixel((108, 60)) != colours.getpixel((5 * 216 + 108, 143 + 60)) == (233, 235, 238)

    def test_the_page_says_what_was_run_where_and_how(self, results):
        """Title, models, hardware, versions, command, request, failures, curves; clips are linked, not embedded."""
        page = (results / "index.html").read_text(encoding="utf-8")
        about = ("motion and steps", "micro, trained weights", "2026-11-24", "AMD EPYC, 2 cores", "svdkit sweep")
        more = ("oom: OutOfMemoryError: needs 9.5 GiB more", "diffusers</dt><dd>0.42.1", "23.5 GiB", "&#34;photos&#34;")
        plots = ("Motion against motion bucket id", "Quality against num inference steps", "Time against num", "Pareto")
        assert [words for words in (*about, *more, *plots, "Memory against") if words not in page] == []
        assert [words for words in (str(results), "Random weights", "data:video") if words in page] == []
        assert page.count('<svg role="img" aria-label="') == 5
        assert page.count("clip.mp4") == 22  # eleven clips, in the table and in the player
        assert set(re.findall(r"http://[\w.]+", page)) <= {f"http://{name}" for name in NAMESPACES}

    def test_curves_need_a_setting_that_differs_and_a_number(self):
        """One run has none."""
        assert curves(runs("motion_bucket_id", [(1, None, 1.0)]), ["motion_bucket_id"]) == []

    def test_curves_say_their_medians_and_the_front_its_members(self):
        """The text is for those who cannot see the plot, so it has to be right."""
        rows = [(4, 20.0, 1.0), (4, 24.0, 1.2), (8, 30.0, 2.0), (16, 29.0, 4.0)]
        found = curves(runs("num_inference_steps", rows), ["num_inference_steps"])
        drawn = {curve["title"]: curve["text"] for curve in found}
        quality = "likeness of frame\u00a00, dB: median 22 at 4, 29 at 16."
        assert drawn["Quality against num inference steps"].startswith(quality)
        assert drawn["Quality against time (Pareto)"].endswith("in both: 4 steps; 4 steps; 8 steps.")

    def test_a_run_made_again_counts_once(self, tmp_path):
        """The last record of a run is the one that holds."""
        page_with(tmp_path, status="error", error={"type": "Error", "message": "first try"}, samples={})
        page = page_with(tmp_path)
        assert "first try" not in page
        assert page.count("<tr data-id=") == 1

    @pytest.mark.parametrize(
        ("currency", "cost"), [("CNY", "¥0.36"), ("eur", "€0.36"), (5, "0.36 5"), (None, "0.36 NONE")]
    )
    def test_what_a_clip_cost_has_a_column_where_a_price_was_given(self, tmp_path, currency, cost):
        """As it was kept: earlier versions took any currency, and only the report came to read it."""
        assert "0.36" not in page_with(tmp_path / "free", bucket=30)
        money = {"hourly_price": 100.0, "money": 0.36, "currency": currency}
        assert cost in page_with(tmp_path / "priced", cost=money)

    def test_random_weights_are_marked(self, tmp_path):
        """Nobody should judge the looks of noise."""
        page = page_with(tmp_path, model={"name": "svd-xt", "weights": "random"})
        assert "svd-xt, random weights" in page
        assert "Random weights show noise" in page

    def test_the_hardware_is_that_of_the_runs(self, tmp_path):
        """Also when the first failed: what wrote that may have seen no GPU."""
        page_with(tmp_path, status="error", error={"type": "Error", "message": "died"}, samples={})
        gpu = CPU | VERSIONS | {"gpu": "NVIDIA L4"}
        assert "<b>NVIDIA L4</b>" in page_with(tmp_path, bucket=2, environment=gpu)

    def test_artifacts_that_are_missing_or_outside_are_not_linked(self, tmp_path):
        """A lost clip, or a link that leaves the folder, is no clip."""
        (tmp_path / "secret.mp4").write_bytes(b"x")
        folder = tmp_path / "results"
        (folder / "runs").mkdir(parents=True)
        (folder / "runs" / "away.mp4").symlink_to(tmp_path / "secret.mp4")
        page = page_with(folder, artifacts={"clip": "runs/away.mp4", "poster": "runs/lost.jpg"})
        assert "away.mp4" not in page
        assert "lost.jpg" not in page

    @pytest.mark.parametrize(
        ("name", "words"), [("nothing", "there is no .*records.jsonl"), ("empty", "has no runs yet; start the sweep")]
    )
    def test_a_folder_without_runs_is_refused_in_words(self, tmp_path, name, words):
        """What is missing and what to do."""
        folder = tmp_path / name
        folder.mkdir()
        if name == "empty":
            (folder / "records.jsonl").touch()
        with pytest.raises(SvdkitError, match=words):
            write_report(folder)

    def test_a_baseline_can_be_named(self, results):
        """By the beginning of its id; one that is not there is refused."""
        rows = pd.read_csv(results / "table.csv")
        assert f'data-baseline="{rows["id"][0]}"' in (results / "index.html").read_text(encoding="utf-8")
        try:
            page = write_report(results, baseline=rows["id"][3][:9]).read_text(encoding="utf-8")
            assert f'data-baseline="{rows["id"][3]}"' in page
        finally:
            write_report(results)
        with pytest.raises(SvdkitError, match="baseline 'zzz' is not one of the records"):
            write_report(results, baseline="zzz")


@pytest.fixture
def page(chromium, results):
    with page_of(chromium, (results / "index.html").as_uri()) as opened:
        yield opened


def column(page: Any, name: str) -> list[str]:
    """Read a column of the visible rows, from the top."""
    heads = [head.split("\n")[0] for head in page.locator("#runs thead th").all_inner_texts()]
    rows = page.locator("#runs tbody tr:visible").all()
    return [row.locator("td").nth(heads.index(name)).inner_text().split("\n")[0].strip() for row in rows]


class TestTable:
    def test_a_click_on_a_heading_sorts_and_a_second_one_turns_round(self, page):
        """The baseline stays on top, and what has no number goes last both ways."""
        head = page.get_by_role("button", name="motion, % width/s")
        head.click()
        first = column(page, "motion, % width/s")
        assert first[0] == "4"  # the baseline: bucket 30, seed 1
        assert [float(text) for text in first[1:-1]] == sorted(float(text) for text in first[1:-1])
        assert first[-1] == "–"
        head.press("Enter")
        second = column(page, "motion, % width/s")
        assert second[1:-1] == sorted(first[1:-1], key=float, reverse=True)
        assert (second[0], second[-1]) == ("4", "–")
        assert page.locator("#runs th[aria-sort=descending]").count() == 1

    def test_filters_narrow_the_table_and_the_clips(self, page):
        """Menus and words add up; the baseline stays to be compared with; Clear brings all back."""
        page.get_by_role("search").get_by_label("steps").select_option("8")
        page.get_by_role("search").get_by_label("bucket").select_option("255")
        assert column(page, "steps") == ["4", "8", "8"]
        assert page.locator("#count").inner_text() == "2 of 12 runs"
        assert page.locator(".cell").count() == 2
        page.get_by_label("Find").fill("9.5 gib")
        assert page.locator("#count").inner_text() == "1 of 12 runs"
        page.get_by_label("Find").fill("no such words")
        assert page.get_by_text("No run passes the filters.").is_visible()
        page.get_by_role("button", name="Clear").click()
        page.wait_for_function("() => document.getElementById('count').textContent === '12 of 12 runs'")
        assert len(column(page, "steps")) == 12

    def test_another_run_can_be_pinned_as_the_baseline(self, page):
        """It moves to the top, and the small numbers are times its own."""
        page.locator("#runs .pin").nth(6).click()
        assert column(page, "steps")[0] == "8"
        ratios = page.locator("#runs tbody tr", has_text="1.0 s").first.locator("td[data-ratio] small").first
        assert ratios.inner_text() == "0.50×"
        assert page.locator("#runs .pin[aria-pressed=true]").inner_text() == "Pinned"


class TestGrid:
    def test_two_settings_span_the_grid_and_the_third_makes_tabs(self, page):
        """The setting with most values runs sideways; a tab shows its part; arrow keys change tabs."""
        assert page.locator(".grid thead th").all_inner_texts() == ["bucket 30", "bucket 127", "bucket 255"]
        assert page.locator(".grid tbody th").all_inner_texts() == ["seed 1", "seed 2"]
        assert page.locator(".cell").count() == 6
        page.get_by_role("tab", name="steps 4").press("ArrowRight")
        assert page.get_by_role("tab", name="steps 8").get_attribute("aria-selected") == "true"
        assert page.get_by_text("oom: OutOfMemoryError: needs 9.5 GiB more").first.is_visible()

    def test_the_reader_chooses_the_axes(self, page):
        """Taking a setting from another place swaps the two; without tabs a cell holds several clips, each named."""
        layout = page.get_by_role("group", name="Layout")
        layout.get_by_label("Columns").select_option("steps")
        assert page.locator(".grid thead th").all_inner_texts() == ["steps 4", "steps 8"]
        assert layout.get_by_label("Tabs").input_value() == "bucket"
        layout.get_by_label("Tabs").select_option("")
        assert page.locator(".grid td").nth(1).locator(".cell").count() == 3
        assert page.locator("figcaption").first.inner_text().startswith("bucket 30 · seed 1 · steps 4")

    def test_the_clips_play_in_step(self, page):
        """Started by hand, all within one frame of each other."""
        page.wait_for_function("() => document.querySelectorAll('video.ready').length >= 3")
        page.get_by_role("button", name="Play or pause").click()
        page.wait_for_function("() => [...document.querySelectorAll('video.ready')].every((video) => !video.paused)")
        places = []
        for _ in range(20):
            page.wait_for_timeout(80)
            places.append(
                page.evaluate(
                    "[...document.querySelectorAll('video.ready')].map((video) => Math.floor(video.currentTime * 7))"
                )
            )
        assert max(max(frames) - min(frames) for frames in places) <= 1
        assert len({frames[0] for frames in places}) > 4


def test_200_runs_load_only_what_is_in_view_and_stay_smooth(chromium, tmp_path):
    """Few videos at the top, others further down, the first ones let go; scrolling keeps drawing."""
    clip = Clip(picture(0), fps=7)
    for index in range(200):
        add_run(tmp_path, bucket=index // 4, seed=index % 4, steps=4, clip=clip if index == 0 else None)
    lines = (tmp_path / "records.jsonl").read_text(encoding="utf-8").splitlines()
    files = json.loads(lines[0])["artifacts"]
    text = "".join(json.dumps(json.loads(line) | {"artifacts": files}) + "\n" for line in lines)
    (tmp_path / "records.jsonl").write_text(text, encoding="utf-8")
    with page_of(chromium, write_report(tmp_path).as_uri()) as page:
        page.get_by_role("group", name="Layout").get_by_label("Columns").select_option("seed")
        page.wait_for_function("() => document.querySelectorAll('video.ready').length > 3")
        assert page.locator(".cell").count() == 200
        assert page.locator("video").count() < 40
        page.locator(".cell").nth(150).scroll_into_view_if_needed()
        page.wait_for_function("() => document.querySelectorAll('.cell')[150].querySelector('video.ready') !== null")
        page.wait_for_function("() => document.querySelectorAll('.cell')[0].querySelector('video') === null")
        assert page.locator("video").count() < 40
        page.get_by_role("button", name="Play or pause").click()
        frames = page.evaluate("""() => new Promise((done) => {
            let count = 0;
            const end = performance.now() + 2000;
            const next = (now) => {
                count += 1;
                scrollBy(0, -20);
                if (now < end) requestAnimationFrame(next); else done(count);
            };
            requestAnimationFrame(next);
        })""")
        assert frames > 30  # of about 120; a busy machine without a GPU draws fewer


def test_hostile_texts_are_shown_and_never_run(chromium, tmp_path):
    """In photos, errors, commands, the request and the environment: text stays text (a dialog would fail)."""
    folder = tmp_path / "a <b>bold name"
    folder.mkdir()
    hostile = {"command": HOSTILE, "environment": {"cpu": HOSTILE, HOSTILE: "1"}}
    for index, name in enumerate((HOSTILE, "cat.jpg")):
        image = {"source": name, "sha256": "ab" * 32}
        add_run(folder, bucket=30, seed=index, steps=4, clip=Clip(picture(0), fps=7), image=image, **hostile)
    error = {"type": HOSTILE, "message": HOSTILE}
    add_run(
        folder, bucket=60, seed=3, steps=4, clip=None, status="error", error=error, samples={}, image=image, **hostile
    )
    asked = {"photos": [HOSTILE], "axes": {"photo": [], "seed": [], "motion_bucket_id": [], HOSTILE: []}}
    (folder / "sweep.json").write_text(json.dumps(asked), encoding="utf-8")
    with page_of(chromium, write_report(folder).as_uri()) as page:
        assert page.title() == "a <b>bold name · svdkit"
        assert page.locator("b", has_text="bold").count() == 0
        assert page.locator("img[src=x]").count() == 0
        page.get_by_role("search").get_by_label("photo").select_option(HOSTILE)
        assert page.locator("#count").inner_text() == "1 of 3 runs"
        assert page.locator("pre").first.inner_text() == HOSTILE
        assert page.evaluate("document.documentElement.textContent.includes('49')") is False


# The least contrast of any text in view with its ground, as WCAG 2.2 defines it.
CONTRAST = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255);
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (colour) => numbers(colour).map(linear).reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (!/, 0\\)$/.test(colour)) return colour;
    }
  };
  const tags = 'h1, h2, h3, p, b, span, label, button, a, th, td, dt, dd, figcaption, small, select, pre, output';
  const seen = [...document.querySelectorAll(tags)].filter((node) => node.offsetParent && node.textContent.trim());
  return Math.min(...seen.map((node) => {
    const [high, low] = [light(getComputedStyle(node).color), light(ground(node))].sort((x, y) => y - x);
    return (high + 0.05) / (low + 0.05);
  }));
}"""


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_it_can_be_read_on_a_phone_and_in_the_dark(chromium, results, width, dark):
    """Nothing makes the page scroll sideways, and text stands out from its ground by 4.5 to 1 or more (WCAG 2.2 AA)."""
    with page_of(chromium, (results / "index.html").as_uri(), width=width, dark=dark) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(CONTRAST) >= 4.5


@pytest.mark.parametrize(
    "text",
    ["[" * 10**5, '{"asked": ' * 500 + "1" + "}" * 500, '{"asked": {"axes": "\\ud800"}}', "NaN", '{"asked": 5}', "\0"],
    ids=["deep", "nested", "half a character", "no number", "a number", "no text"],
)
def test_a_damaged_sweep_file_costs_only_what_it_says(tmp_path: Path, text: str) -> None:
    (tmp_path / "sweep.json").write_text(text, encoding="utf-8")
    assert "1 of 1 runs" in page_with(tmp_path)
