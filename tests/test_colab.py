"""The panel in a real kernel, driven by the messages that a browser sends: uploads, sliders, clicks, interrupts.

`make test` runs this with the newest ipywidgets and ipykernel, `make test-colab` with those of Colab (7.7.1 and 6.17).
"""

from __future__ import annotations

import importlib.metadata
import os
import queue
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from svdkit.image import sample_photo

ROOT = Path(__file__).parents[1]
COLAB = {"ipywidgets": "7.7.1", "ipykernel": "6.17.1", "ipython": "7.34.0"}


class Front:
    """A front end without a screen: keeps the state of all widgets, and sends what a user does."""

    def __init__(self, manager: Any) -> None:
        self.client = manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)
        self.manager = manager
        self.widgets: dict[str, dict[str, Any]] = {}
        self.states: list[str] = []  # all that the panel's line of state ever said

    def run(self, code: str) -> str:
        """Run code; give what it printed, and fail with the traceback if it raised."""
        sent = self.client.execute(code)
        printed = ""
        while True:
            message = self.next()
            if message["parent_header"].get("msg_id") != sent:
                continue
            content = message["content"]
            printed += content.get("text", "") if message["msg_type"] == "stream" else ""
            assert message["msg_type"] != "error", "\n".join(content.get("traceback", []))
            if message["msg_type"] == "status" and content["execution_state"] == "idle":
                return printed

    def next(self, *, seconds: float = 60) -> dict[str, Any]:
        """Take the next message of the kernel, and apply what it says of widgets."""
        message: dict[str, Any] = self.client.get_iopub_msg(timeout=seconds)
        content = message["content"]
        if message["msg_type"] == "comm_open":
            self.widgets[content["comm_id"]] = dict(content["data"]["state"])
        elif message["msg_type"] == "comm_msg" and content["data"].get("method") == "update":
            self.widgets[content["comm_id"]].update(content["data"]["state"])
        state = content.get("data", {}).get("state", {}) if message["msg_type"].startswith("comm") else {}
        if any(mark in str(state.get("value")) for mark in ("svdkit-said", 'role="alert"')):
            self.states.append(re.sub("<[^>]+>", " ", state["value"]).strip())
        return message

    def wait(self, until: Callable[[], bool], *, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < end, self.states[-5:]
            try:
                self.next(seconds=0.5)
            except queue.Empty:
                continue

    def wait_state(self, pattern: str) -> None:
        self.wait(lambda: any(re.search(pattern, state) for state in self.states))

    def find(self, description: str, *, model: str = "") -> str:
        """Give the id of the widget with a description."""
        found = [
            name
            for name, state in self.widgets.items()
            if str(state.get("description", "")).startswith(description) and model in state.get("_model_name", "")
        ]
        assert len(found) == 1, (description, found)
        return found[0]

    def send(self, widget: str, data: dict[str, Any], buffers: list[bytes] | None = None) -> str:
        content = {"comm_id": widget, "data": data}
        message = self.client.session.msg("comm_msg", content)
        self.client.session.send(self.client.shell_channel.socket, message, buffers=buffers)
        return str(message["header"]["msg_id"])

    def set(self, description: str, value: object, *, model: str = "") -> None:
        self.send(
            self.find(description, model=model), {"method": "update", "state": {"value": value}, "buffer_paths": []}
        )

    def click(self, description: str) -> None:
        self.send(self.find(description, model="Button"), {"method": "custom", "content": {"event": "click"}})

    def upload(self, name: str, data: bytes, *, size: int | None = None) -> None:
        """Send a file as the upload button of this version of ipywidgets does."""
        about = {"name": name, "type": "image/png", "size": len(data) if size is None else size}
        if importlib.metadata.version("ipywidgets").startswith("7"):
            state: dict[str, Any] = {"metadata": [about | {"lastModified": 0}], "data": [None], "_counter": 1}
            path: list[object] = ["data", 0]
        else:
            state = {"value": [about | {"last_modified": 0, "content": None}]}
            path = ["value", 0, "content"]
        widget = self.find("Upload a photo", model="FileUpload")
        self.send(widget, {"method": "update", "state": state, "buffer_paths": [path]}, [data])


@pytest.fixture(scope="module", params=[False, True], ids=["foreground", "background"])
def front(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """A kernel in which the panel is shown, as on Colab (foreground) and elsewhere."""
    from jupyter_client.manager import KernelManager

    manager = KernelManager(kernel_name="python3")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    manager.start_kernel(
        env=environment,
        cwd=str(tmp_path_factory.mktemp("kernel")),
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )
    front = Front(manager)
    try:
        front.run(f"import svdkit\nmade = svdkit.panel('micro', background={request.param})\nmade")
        front.background = request.param  # type: ignore[attr-defined]  # what this kernel's tests ask
        yield front
    finally:
        front.client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.fixture(autouse=True)
def _begin_anew(front: Front) -> None:
    """Forget what was said; after a run in the foreground clicks are passed over for a moment."""
    time.sleep(0.5)
    front.states.clear()


def test_these_are_the_versions_that_are_meant(front: Front) -> None:
    """In `make test-colab` the kernel itself has Colab's."""
    names = ["ipywidgets", "ipykernel", "ipython"]
    printed = front.run(f"import importlib.metadata as m\nprint([m.version(name) for name in {names}])")
    if os.environ.get("SVDKIT_COLAB") == "1":
        assert printed.strip() == str(list(COLAB.values()))
    else:
        assert int(re.findall(r"\d+", printed)[0]) >= 8


def test_a_slider_and_its_number_follow_each_other(front: Front) -> None:
    front.set("Steps", 3)
    number = front.find("Steps")
    slider = next(
        name
        for name, state in front.widgets.items()
        if state.get("_model_name") == "IntSliderModel" and state.get("max") == 100 and state.get("value") == 10
    )
    front.wait(lambda: front.widgets[slider]["value"] == 3)
    front.send(slider, {"method": "update", "state": {"value": 2}, "buffer_paths": []})
    front.wait(lambda: front.widgets[number]["value"] == 2)


def test_a_click_makes_a_clip_with_progress_on_the_way(front: Front) -> None:
    front.set("Steps", 3)
    front.click("Make the clip")
    front.wait_state("^Done in")
    assert any(state.startswith("denoising: 0 of 3") for state in front.states)
    players = [state["value"] for state in front.widgets.values() if "<video" in str(state.get("value"))]
    assert len(players) == 1
    assert 'src="data:video/mp4;base64,' in players[0]


def test_clicks_during_a_run_start_no_other(front: Front) -> None:
    """In the foreground they arrive only after the run, and are passed over then."""
    count = int(front.run("print(len(made.results.made))"))
    front.set("Steps", 4)
    for _ in range(3):
        front.click("Make the clip")
    front.wait_state("^Done in")
    time.sleep(1)
    assert int(front.run("print(len(made.results.made))")) == count + 1
    assert front.run("print(made.runner.busy)").strip() == "False"


def test_an_upload_is_read_and_not_kept(front: Front, tmp_path: Path) -> None:
    sample_photo("cat").save(tmp_path / "cat.png")
    data = (tmp_path / "cat.png").read_bytes()
    front.upload("private.png", data)
    front.wait(lambda: "False" not in front.run("print(made.photo.name == '')"))
    assert front.run("print(made.photo.image.size, repr(made.photo.name))").strip() == "(451, 300) ''"
    assert (
        front.run("print(len(made.photo.upload.value), made.photo.upload.get_state().get('data', []))").strip()
        == "0 []"
    )
    kept = front.widgets[front.find("Upload a photo", model="FileUpload")]  # what a notebook could save
    assert not kept.get("data")
    assert not kept.get("value")
    front.set("Steps", 2)
    front.click("Make the clip")
    front.wait_state("^Done in")
    assert "private" not in front.run("print(made.results.made[-1].clip.provenance.to_dict())")


def test_an_upload_that_arrives_empty_gets_a_word(front: Front) -> None:
    front.upload("large.png", b"", size=12_000_000)
    front.wait_state(r"large.png \(11.4 MiB\) arrived with 0 B.* give its path")


def test_a_run_is_stopped(front: Front) -> None:
    """In the background by the button; in the foreground by an interrupt of the kernel, as the panel says."""
    front.set("Steps", 100)
    front.click("Make the clip")
    front.wait_state("denoising: [1-9]")
    if front.background:  # type: ignore[attr-defined]  # set by the fixture
        front.click("Stop")
    else:
        assert any("stopped by interrupting the kernel" in str(one.get("value")) for one in front.widgets.values())
        front.manager.interrupt_kernel()
    front.wait_state("^Stopped. Nothing was kept")
    front.states.clear()
    front.set("Steps", 2)
    time.sleep(0.5)
    front.click("Make the clip")
    front.wait_state("^Done in")


def test_the_language_changes(front: Front) -> None:
    chosen = front.find("Language")
    front.send(chosen, {"method": "update", "state": {"index": 1}, "buffer_paths": []})
    front.wait(lambda: any(state.get("description") == "生成视频" for state in front.widgets.values()))
    front.send(chosen, {"method": "update", "state": {"index": 0}, "buffer_paths": []})
    front.wait(lambda: any(state.get("description") == "Make the clip" for state in front.widgets.values()))
