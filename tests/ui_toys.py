"""What the tests of the panel share: the toy as svdkit would have loaded it, an upload, and what widgets hold."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import itertools
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import ipywidgets

from svdkit.models import ModelInfo
from svdkit.pipeline import LoadReport
from svdkit.settings import ClipSettings, LoadSettings

IPYWIDGETS = int(ipywidgets.__version__.split(".")[0])
SETTINGS = ClipSettings(height=64, width=64, num_frames=4, num_inference_steps=2, seed=3)
TOY = ModelInfo(name="toy", title="a toy for tests", num_frames=4, height=64, width=64, weights_bytes=1)


@contextlib.contextmanager
def as_loaded(pipe: Any) -> Iterator[Any]:
    """Let the toy look as if svdkit.load had made it, for a model of its own size."""
    pipe.svdkit = LoadReport(
        settings=LoadSettings(model="toy", dtype="fp32", memory="resident", device="cpu"),
        model=TOY,
        revision="abc",
        weights="random",
        reasons=(),
        load_seconds=1.0,
    )
    try:
        yield pipe
    finally:
        del pipe.svdkit


class Told:
    """Keeps the news of a run as (kind, values); ``then`` is called with each."""

    def __init__(self, then: Callable[..., object] = lambda *_, **__: None) -> None:
        self.news: list[tuple[str, dict[str, Any]]] = []
        self._then = then

    def __call__(self, kind: str, **values: Any) -> None:
        self.news.append((kind, values))
        self._then(kind, **values)

    @property
    def kinds(self) -> list[str]:
        """Kinds in order, repetitions left out."""
        return [kind for kind, _ in itertools.groupby(self.news, key=lambda one: one[0])]

    def steps(self, stage: str) -> list[int]:
        return [values["step"] for kind, values in self.news if kind == stage]


def silent(*_: object, **__: object) -> None:
    """Hear news that nobody needs."""


def wait_for(condition: Callable[[], object], *, seconds: float = 10) -> None:
    """Wait until something holds; what never does fails the test."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def jpeg(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def put(upload: Any, name: str, data: bytes | bytearray, *, size: int | None = None) -> None:
    """Do what the browser does when a file is chosen; a size that differs is what became of one too large."""
    size = len(data) if size is None else size
    if IPYWIDGETS >= 8:
        when = dt.datetime(2024, 5, 1, tzinfo=dt.timezone.utc)
        file = {"name": name, "type": "image/jpeg", "size": size, "content": memoryview(data), "last_modified": when}
        upload.value = (file,)
    else:
        upload.metadata = [{"name": name, "type": "image/jpeg", "size": size, "lastModified": 1714521600000}]
        upload.data = [data]
        upload._counter += 1


def state() -> str:
    """All that every open widget would leave in a saved notebook, as one text; binary parts are in base64."""
    found = ipywidgets.Widget.get_manager_state()["state"]
    assert found
    return json.dumps(found, default=str, ensure_ascii=False)


def close_all() -> None:
    """Close the widgets of tests before, so that ``state`` holds those of this test alone."""
    ipywidgets.Widget.close_all()


def tree(widget: Any) -> Iterator[Any]:
    """Give a widget and all inside it."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from tree(child)


def plain(value: str) -> str:
    """Take the tags out of a text of HTML."""
    return re.sub(r"<[^>]*>", " ", value).strip()
