"""The quickstart notebook as a person uses it: run all cells, then the panel; and what gets saved.

In JupyterLab and in Notebook 7, which is made of JupyterLab's parts in another frame.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from svdkit.image import sample_photo
from tests.ui_pages import SHOTS, PanelPage, jupyter, open_page

pytestmark = pytest.mark.slow
QUICKSTART = Path(__file__).parents[1] / "notebooks" / "01_quickstart.ipynb"
NOTEBOOK = "quickstart.ipynb"
ADDRESSES = {"jupyterlab": f"lab/tree/{NOTEBOOK}", "notebook": f"notebooks/{NOTEBOOK}"}


@pytest.fixture(scope="module", params=list(ADDRESSES))
def front(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(front: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the quickstart, its steps fewer so that the cells before the panel are quick."""
    found = tmp_path_factory.mktemp(front)
    notebook = json.loads(QUICKSTART.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["id"] == "parameters":
            cell["source"] = "".join(cell["source"]).replace("num_inference_steps = 10", "num_inference_steps = 2")
    (found / NOTEBOOK).write_text(json.dumps(notebook), encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def panel(chromium: Any, front: str, folder: Path) -> Iterator[PanelPage]:
    """The panel of the notebook, after all cells have run; one browser and one kernel for all tests."""
    with (
        jupyter(folder, front=front) as address,
        open_page(chromium, f"{address}/{ADDRESSES[front]}") as page,
    ):
        run_all_cells(page)
        try:
            # JupyterLab keeps cells that are out of sight out of the page: go there as a reader does.
            for _ in range(120):
                if page.locator(".svdkit-panel").count():
                    break
                page.locator(".jp-WindowedPanel-outer").first.hover()
                page.mouse.wheel(0, 900)
                page.wait_for_timeout(1000)
                if page.locator(".svdkit-panel").count() == 0 and at_the_end(page):
                    page.mouse.wheel(0, -100_000)
        finally:
            page.screenshot(path=SHOTS / f"{front}-opened.png")
        panel = PanelPage(page, scroll=True)
        panel.shoot(f"{front}-panel")
        yield panel


def run_all_cells(page: Any) -> None:
    """Choose that in the menu, and again while nothing runs: without a kernel the command does nothing, or asks."""
    dialog = page.locator("dialog.jp-Dialog")
    page.add_locator_handler(dialog, lambda: dialog.locator("button.jp-mod-accept").click())
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for()
    started = page.locator(".jp-InputPrompt", has_text=re.compile(r"\[(\*|\d+)\]"))
    for _ in range(10):
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.locator("[data-command='runmenu:run-all']").click()
        for _ in range(30):
            if started.count():
                page.remove_locator_handler(dialog)
                return
            page.wait_for_timeout(200)
    raise AssertionError("JupyterLab ran nothing")


def at_the_end(page: Any) -> bool:
    """Whether the notebook is scrolled down as far as it goes."""
    found: bool = page.evaluate(
        "(() => { const one = document.querySelector('.jp-WindowedPanel-outer');"
        " return one.scrollTop + one.clientHeight >= one.scrollHeight - 5; })()"
    )
    return found


def test_from_an_upload_to_a_clip(panel: PanelPage, front: str, tmp_path: Path) -> None:
    """Upload, a slider by keyboard, start, progress, stop, start again, clip."""
    path = tmp_path / "holiday.jpg"
    sample_photo("coffee").resize((1200, 900)).save(path, quality=90)
    before = panel.photo()
    panel.upload(path)
    panel.new_photo(before)
    steps = panel.slider("Steps")
    steps.focus()
    steps.press("ArrowRight")
    panel.page.wait_for_function("[...document.querySelectorAll('input')].some((one) => one.value === '11')")
    panel.set("Steps", 60)
    panel.button("Make the clip").click()
    panel.wait_state("denoising: [1-9]")
    panel.root.locator(".svdkit-picture img").wait_for()
    panel.button("Stop").click()
    panel.wait_state("^Stopped")
    panel.set("Steps", 5)
    panel.button("Make the clip").click()
    panel.wait_state("^Done in")
    found = panel.video()
    assert (found["width"], found["height"]) == (128, 72)
    assert found["seconds"] == pytest.approx(2, abs=0.08)
    panel.shoot(f"{front}-done")


def test_plain_keys_are_the_panels_and_not_jupyters(panel: PanelPage) -> None:
    """In command mode an arrow would jump to another cell, and b add one."""
    page = panel.page
    page.locator(".jp-MarkdownCell:visible").first.click()  # command mode
    cells = page.locator(".jp-Notebook-footer").count(), page.locator(".jp-Cell").count()
    panel.set("Steps", 8)
    handle = panel.slider("Steps")
    handle.click()
    handle.press("ArrowRight")
    page.wait_for_function("[...document.querySelectorAll('.svdkit-knob input')].some((one) => one.value === '9')")
    panel.button("New seed").focus()
    page.keyboard.press("b")
    assert (page.locator(".jp-Notebook-footer").count(), page.locator(".jp-Cell").count()) == cells
    assert page.evaluate("document.activeElement.closest('.svdkit-panel') !== null")


def test_save_writes_into_the_folder(panel: PanelPage, folder: Path) -> None:
    panel.set("Steps", 2)
    panel.button("Make the clip").click()
    panel.wait_state("^Done in")
    panel.button("Save to outputs/panel").click()
    panel.root.get_by_text("Saved as outputs/panel/").wait_for()
    names = sorted(path.suffix for path in (folder / "outputs" / "panel").iterdir())
    assert ".mp4" in names


def test_the_notebook_is_free_while_a_clip_is_made(panel: PanelPage) -> None:
    """The run is a thread: the kernel is idle to JupyterLab, and a slider is answered meanwhile."""
    panel.set("Steps", 60)
    panel.button("Make the clip").click()
    panel.wait_state("denoising: [1-9]")
    before = panel.root.locator(".svdkit-outlook").inner_text()
    panel.set("Steps", 30)
    panel.page.wait_for_function("before => document.querySelector('.svdkit-outlook').innerText !== before", arg=before)
    assert panel.state.startswith("denoising")
    panel.button("Stop").click()
    panel.wait_state("^Stopped")


def test_an_upload_is_not_in_the_saved_notebook(panel: PanelPage, folder: Path, tmp_path: Path) -> None:
    """Saved as JupyterLab saves by default: neither the file, nor its name, nor the picture shown of it."""
    path = tmp_path / "private-holiday.png"
    sample_photo("cat").save(path)
    before = panel.photo()
    panel.upload(path)
    shown = panel.new_photo(before)
    with panel.page.expect_response(lambda answer: answer.request.method == "PUT" and "/api/contents/" in answer.url):
        panel.page.keyboard.press("Control+s")  # Jupyter empties the file first: it is whole once the server answers
    text = (folder / NOTEBOOK).read_text(encoding="utf-8")
    assert "svdkit" in text
    assert base64.b64encode(path.read_bytes()).decode()[100:400] not in text
    assert "private-holiday" not in text
    assert shown[2000:2300] not in text


def test_a_screen_reader_finds_its_way(panel: PanelPage) -> None:
    from tests.test_ui_page import violations

    assert violations(panel.page) == []


def test_sliders_are_labelled(panel: PanelPage) -> Any:
    names = panel.root.get_by_role("slider").evaluate_all("all => all.map((one) => one.getAttribute('aria-label'))")
    assert names
    assert all(names)
    for one in (panel.slider("Motion"), panel.field("Motion")):  # the label's title alone says nothing to a keyboard
        assert "motion_bucket_id: how much should move" in one.get_attribute("title")
