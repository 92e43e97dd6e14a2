"""Panels of other processes reach one studio: the same clips, news, stops and errors, and no pickle on the way."""

from __future__ import annotations

import ast
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from svdkit import errors
from svdkit.errors import Cancelled, ImageError, PipelineError, SettingsError, SvdkitError
from svdkit.generate import generate
from svdkit.image import fit
from svdkit.settings import LoadSettings
from svdkit.ui import studio as wire
from svdkit.ui.studio import RemoteStudio, Studio, serve
from tests.toy import write_hub_folder
from tests.ui_toys import SETTINGS, Told, silent, wait_for

KEY = b"a key of the tests"
FRAME = fit("rocket", height=64, width=64)
GONE = "the process that holds the model has ended; start `svdkit app` again"


def start(studio: Any) -> int:
    """Serve a studio until the tests end; give its port."""
    listener = Listener(("127.0.0.1", 0))
    threading.Thread(target=serve, args=(studio, listener, KEY), daemon=True).start()
    return int(listener.address[1])


@pytest.fixture
def studio(toy_pipe: Any) -> Studio:
    return Studio(toy_pipe)


@pytest.fixture
def port(studio: Studio) -> int:
    return start(studio)


@pytest.fixture
def remote(port: int) -> RemoteStudio:
    return RemoteStudio(port=port, key=KEY)


def run(studio: Any, settings: Any = SETTINGS, *, tell: Any = silent, stop: Any = bool) -> Any:
    return studio.run(FRAME, settings, tell=tell, stop=stop)


def test_the_clip_and_the_news_are_those_made_here(studio: Studio, toy_pipe: Any, remote: RemoteStudio) -> None:
    """Bit for bit, with rate, provenance and photo; the frames cannot be written to, as those of any clip."""
    assert (remote.load, remote.info.name) == (studio.load, studio.load.model)
    made, told = studio.run, Told()

    def also(*given: Any, tell: Any, **how: Any) -> Any:
        tell("waiting", place=3)
        tell("picture", data=b"\x00RIFF\xff")
        return made(*given, tell=tell, **how)

    studio.run = also  # type: ignore[method-assign]
    clip = run(remote, tell=told)
    same = generate(toy_pipe, FRAME, SETTINGS, progress=False)
    assert np.array_equal(clip.frames, same.frames)
    assert clip == same
    assert not clip.frames.flags.writeable
    assert clip.photo.tobytes() == FRAME.image.tobytes()
    assert told.news[:2] == [("waiting", {"place": 3, "data": b""}), ("picture", {"data": b"\x00RIFF\xff"})]
    assert (told.steps("denoise"), told.kinds[-1]) == ([0, 1, 2], "decode")
    assert told.news[-1][1].keys() == {"step", "steps", "left", "data"}


def test_a_model_that_is_loaded_later() -> None:
    """The panel hears of it, and knows afterwards what was loaded."""
    remote = RemoteStudio(port=start(Studio("micro")), key=KEY)
    assert (remote.load.dtype, remote.info.name) == ("auto", "micro")
    first, again = Told(), Told()
    remote.prepare(first)
    remote.prepare(again)
    assert (first.kinds, again.news, remote.load.dtype) == (["loading"], [], "fp32")


def test_a_model_in_a_folder_is_found_by_later_panels_too(tmp_path: Path, toy_pipe: Any) -> None:
    """`svdkit app --model FOLDER`: once it is loaded, a second tab opens as the first did."""
    folder = write_hub_folder(tmp_path / "own-model", pipe=toy_pipe)
    port = start(Studio(LoadSettings(model=str(folder), dtype="fp32")))
    first = RemoteStudio(port=port, key=KEY)
    first.prepare(silent)
    assert RemoteStudio(port=port, key=KEY).info == first.info


def test_stop_reaches_the_other_side(remote: RemoteStudio) -> None:
    """The run ends between steps, and the next one works."""
    stop = threading.Event()
    told = Told(lambda kind, *, step=0, **_: stop.set() if (kind, step) == ("denoise", 2) else None)
    with pytest.raises(Cancelled, match="stopped; nothing was kept of this clip"):
        run(remote, SETTINGS.replace(num_inference_steps=400), tell=told, stop=stop.is_set)
    assert told.steps("denoise")[-1] < 300
    assert run(remote).num_frames == 4


def test_a_stop_that_comes_after_the_end_does_no_harm(
    studio: Studio, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user may press it just when the clip is done; no thread over there may fall over it."""
    fell = list[Any]()
    monkeypatch.setattr(threading, "excepthook", fell.append)
    monkeypatch.setattr(studio, "prepare", lambda tell: time.sleep(0.3))  # until over there they listen for a stop
    with Client(("127.0.0.1", port), authkey=KEY) as line:
        wire._send(line, "load")
        assert wire._receive(line)["kind"] == "end"
        time.sleep(0.2)  # until the other side has closed its end
        with contextlib.suppress(OSError):
            line.send_bytes(b"stop")
        time.sleep(0.2)
    assert [error.exc_value for error in fell] == []


def test_panels_wait_for_each_other_and_may_leave_the_line(studio: Studio, port: int) -> None:
    """The second is told that one is ahead; its stop takes it out of the line, and the first goes on."""
    go_on, inside = threading.Event(), threading.Event()
    make = studio.run

    def hold(frame: Any, settings: Any, *, tell: Any, stop: Any) -> Any:
        def look(kind: str, **values: Any) -> None:
            tell(kind, **values)
            if settings.seed == 1:
                inside.set()
                assert go_on.wait(10)

        return make(frame, settings, tell=look, stop=stop)

    studio.run = hold  # type: ignore[method-assign]
    clips, stop = list[Any](), threading.Event()
    first = threading.Thread(
        target=lambda: clips.append(run(RemoteStudio(port=port, key=KEY), SETTINGS.replace(seed=1)))
    )
    first.start()
    assert inside.wait(10)
    told = Told(lambda *_, **__: stop.set())
    with pytest.raises(Cancelled, match="stopped while waiting for the run before"):
        run(RemoteStudio(port=port, key=KEY), SETTINGS.replace(seed=2), tell=told, stop=stop.is_set)
    assert told.news == [("waiting", {"place": 1, "data": b""})]
    go_on.set()
    first.join(20)
    assert [clip.provenance.settings["seed"] for clip in clips] == [1]


def test_a_panel_that_goes_away_stops_its_run(studio: Studio, port: int) -> None:
    """A closed tab, or a kernel that was killed: nobody waits for the clip, and those who do get theirs."""
    ended = list[BaseException]()
    make = studio.run

    def watched(*args: Any, **kwargs: Any) -> Any:
        try:
            return make(*args, **kwargs)
        except BaseException as error:
            ended.append(error)
            raise

    studio.run = watched  # type: ignore[method-assign]
    told = Told(lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(RemoteStudio(port=port, key=KEY), SETTINGS.replace(num_inference_steps=1000), tell=told)
    assert run(RemoteStudio(port=port, key=KEY)).num_frames == 4
    (error,) = ended
    assert isinstance(error, Cancelled | OSError)


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (SettingsError("fps=0 is too small; give 1 to 60"), SettingsError, "fps=0 is too small; give 1 to 60"),
        (ImageError("not a photo"), ImageError, "not a photo"),
        (errors.OutOfMemoryError("memory ran out"), errors.OutOfMemoryError, "memory ran out"),
        (PipelineError("照片"), PipelineError, "照片"),
        (RuntimeError("CUDA error: assert"), SvdkitError, "RuntimeError: CUDA error: assert"),
        (FileNotFoundError("no weights here"), SvdkitError, "FileNotFoundError: no weights here"),
        (ConnectionResetError("the mirror hung up"), SvdkitError, "ConnectionResetError: the mirror hung up"),
        (EOFError("a file ends too early"), SvdkitError, "EOFError: a file ends too early"),
    ],
)
def test_errors_come_back(
    studio: Studio, remote: RemoteStudio, error: Exception, kind: type[Exception], text: str
) -> None:
    """Those of svdkit as they are, others named: also such as a broken connection would raise, for it is well."""

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    studio.run = fail  # type: ignore[method-assign]
    with pytest.raises(SvdkitError) as caught:
        run(remote)
    assert (type(caught.value), str(caught.value)) == (kind, text)


@pytest.mark.parametrize("name", ["annotations", "SvdkitWarning", "os", "__builtins__", "KeyboardInterrupt"])
def test_only_errors_of_svdkit_are_made_by_name(name: str) -> None:
    """What the other side sends is data: it cannot choose what is called here."""
    error = wire._error({"name": name, "text": "text"})
    assert (type(error), str(error)) == (SvdkitError, f"{name}: text")


def answers(port: int) -> bool:
    """Whether a panel can be opened within some seconds."""
    opened = list[RemoteStudio]()
    threading.Thread(target=lambda: opened.append(RemoteStudio(port=port, key=KEY)), daemon=True).start()
    with contextlib.suppress(AssertionError):
        wait_for(lambda: opened, seconds=4)
    return bool(opened)


@pytest.mark.filterwarnings("default::pytest.PytestUnhandledThreadExceptionWarning")  # the assertion says it better
@pytest.mark.parametrize("leaves", [True, False])
@pytest.mark.parametrize(
    "text",
    [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x00\x04abcd", b"\x00\x00\x00\xff"],
    ids=["", "http", "word", "cut"],
)
def test_whoever_connects_does_no_harm(port: int, text: bytes, leaves: bool) -> None:
    """Such as a scan of ports, or one who says nothing more: the key is asked for one at a time."""
    with socket.create_connection(("127.0.0.1", port)) as line:
        line.sendall(text)
        time.sleep(0.1)
        assert leaves or answers(port)
    assert answers(port)


def test_a_wrong_key_and_nonsense_are_refused_and_others_served(port: int) -> None:
    with pytest.raises((AuthenticationError, PipelineError)):
        RemoteStudio(port=port, key=b"another key")
    with Client(("127.0.0.1", port), authkey=KEY) as line:
        line.send_bytes(b"not JSON")
        with pytest.raises(EOFError):  # it is hung up on
            wire._receive(line)
    assert answers(port)


@contextlib.contextmanager
def dying(*, after: int) -> Iterator[int]:
    """A server that says what it is so many times, then hangs up on whatever is asked."""

    def answer(listener: Listener) -> None:
        for number in range(after + 1):
            with listener.accept() as line:
                if number < after:
                    wire._receive(line)
                    wire._send(line, "end", load=LoadSettings(model="micro").to_dict(), model="micro")

    with Listener(("127.0.0.1", 0), authkey=KEY) as listener:
        thread = threading.Thread(target=answer, args=(listener,), daemon=True)
        thread.start()
        yield int(listener.address[1])
        thread.join(10)


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(PipelineError, match=GONE):
        RemoteStudio(port=port, key=KEY)


@pytest.mark.parametrize("answered", [0, 1, 2], ids=["open", "run", "run later"])
def test_a_server_that_dies_is_said_to_have_died(answered: int) -> None:
    """When the panel opens, or wants a clip, also when the model was loaded."""

    def use(port: int) -> None:
        remote = RemoteStudio(port=port, key=KEY)
        if answered == 2:
            remote.prepare(silent)
        run(remote)

    with dying(after=answered) as port, pytest.raises(PipelineError) as caught:
        use(port)
    assert str(caught.value) == GONE


def objects_on_the_wire(source: str) -> list[str]:
    """List what would unpickle, or send what has to be: only send_bytes and recv_bytes carry no objects."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in {"recv", "send", "loads_pickle"}:
            found.append(f".{node.attr}(")
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        for name in (module, *names):
            if name.split(".")[0] in {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}:
                found.append(name)
            if name.startswith("multiprocessing") and module.split(".")[-1:] == ["managers"]:
                found.append(name)
        found += [name for name in names if module == "multiprocessing" and name in {"Pipe", "Queue", "Manager"}]
    return found


def test_nothing_is_unpickled() -> None:
    """A pickle can run any code when it is read; what comes over the wire is JSON and bytes."""
    assert objects_on_the_wire(Path(wire.__file__).read_text(encoding="utf-8")) == []
    assert objects_on_the_wire("line.recv_bytes()\nline.send_bytes(b'')\nsend(1)") == []


@pytest.mark.parametrize(
    "source",
    [
        "line.recv()",
        "line.send({})",
        "import pickle",
        "from pickle import loads",
        "def f():\n    import dill",
        "from multiprocessing import Queue",
        "from multiprocessing.managers import BaseManager",
    ],
)
def test_that_test_can_fail(source: str) -> None:
    assert objects_on_the_wire(source)
