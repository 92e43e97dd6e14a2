"""Panels of other processes reach one studio: the same clips, news, stops and errors, and no pickle on the way."""

from __future__ import annotations

import ast
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
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
from svdkit.ui.studio import News, RemoteStudio, Studio, serve
from tests.toy import write_hub_folder
from tests.ui_toys import SETTINGS, Told, wait_for

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


def run(studio: Any, settings: Any = SETTINGS, *, tell: Any = id, stop: threading.Event | None = None) -> Any:
    return studio.run(FRAME, settings, tell=tell, stop=stop or threading.Event())


def test_it_says_what_the_studio_is(studio: Studio, remote: RemoteStudio) -> None:
    assert remote.load == studio.load
    assert remote.info.name == studio.load.model
    assert remote.loaded


def test_the_clip_is_the_one_made_here(toy_pipe: Any, remote: RemoteStudio) -> None:
    """Bit for bit, with rate, provenance and photo; the frames cannot be written to, as those of any clip."""
    told = Told()
    clip = run(remote, tell=told)
    same = generate(toy_pipe, FRAME, SETTINGS, progress=False)
    assert np.array_equal(clip.frames, same.frames)
    assert clip == same
    assert not clip.frames.flags.writeable
    assert clip.photo is not None
    assert clip.photo.tobytes() == FRAME.image.tobytes()
    assert told.steps("denoise") == [0, 1, 2]
    assert told.steps("decode")[0] == 0


def test_news_are_the_same_as_without_a_wire(studio: Studio, remote: RemoteStudio) -> None:
    """Every part of a message comes through, seconds and all."""
    sent = [
        News(kind="waiting", place=3),
        News(kind="loading"),
        News(kind="picture", picture=b"\x00RIFF\xff"),
    ]

    def run_and_tell(frame: Any, settings: Any, *, tell: Any, stop: Any) -> Any:
        for news in sent:
            tell(news)
        pipe = studio.prepare(id)
        return generate(pipe, frame, settings, progress=lambda one: tell(News(kind="progress", progress=one)))

    studio.run = run_and_tell  # type: ignore[method-assign]
    told = Told()
    run(remote, tell=told)
    assert told.news[:3] == sent
    assert {type(news.progress).__name__ for news in told.news[3:]} == {"Progress"}
    ends = [news.progress for news in told.news[3:] if news.progress is not None and news.progress.done]
    assert all(progress.elapsed_seconds > 0 for progress in ends)
    assert len(ends) == 3


def test_a_model_that_is_loaded_later(monkeypatch: pytest.MonkeyPatch, toy_pipe: Any) -> None:
    """The panel hears of it, and knows afterwards what was loaded."""
    studio = Studio("micro")
    remote = RemoteStudio(port=start(studio), key=KEY)
    assert (remote.loaded, remote.load.dtype, remote.info.name) == (False, "auto", "micro")
    told = Told()
    remote.prepare(told)
    assert told.kinds == ["loading"]
    assert (remote.loaded, remote.load.dtype) == (True, "fp32")
    again = Told()
    remote.prepare(again)
    assert again.news == []


def test_a_model_in_a_folder_is_found_by_later_panels_too(tmp_path: Path, toy_pipe: Any) -> None:
    """`svdkit app --model FOLDER`: once it is loaded, a second tab opens as the first did."""
    folder = write_hub_folder(tmp_path / "own-model", pipe=toy_pipe)
    port = start(Studio(LoadSettings(model=str(folder), dtype="fp32")))
    first = RemoteStudio(port=port, key=KEY)
    first.prepare(id)
    second = RemoteStudio(port=port, key=KEY)
    assert second.info == first.info
    assert second.loaded


def test_stop_reaches_the_other_side(studio: Studio, remote: RemoteStudio) -> None:
    """The run ends between steps, and the next one works."""
    stop = threading.Event()

    def look(news: News) -> None:
        if news.progress is not None and (news.progress.stage, news.progress.step) == ("denoise", 2):
            stop.set()

    told = Told(look)
    with pytest.raises(Cancelled, match="stopped; nothing was kept of this clip"):
        run(remote, SETTINGS.replace(num_inference_steps=400), tell=told, stop=stop)
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
        wire._send(line, {"want": "load"})
        assert wire._receive(line)[0]["kind"] == "end"
        time.sleep(0.2)  # until the other side has closed its end
        with contextlib.suppress(OSError):
            line.send_bytes(b"stop")
        time.sleep(0.2)
    assert [error.exc_value for error in fell] == []


def test_panels_wait_for_each_other_and_may_leave_the_line(studio: Studio, port: int) -> None:
    """The second is told that one is ahead; its stop takes it out of the line, and the first goes on."""
    go_on, inside = threading.Event(), threading.Event()
    make = studio.run

    def hold(frame: Any, settings: Any, *, tell: Callable[[News], object], stop: threading.Event) -> Any:
        def look(news: News) -> None:
            tell(news)
            if settings.seed == 1 and news.progress is not None:
                inside.set()
                assert go_on.wait(10)

        return make(frame, settings, tell=look, stop=stop)

    studio.run = hold  # type: ignore[method-assign]
    clips = list[Any]()
    first = threading.Thread(
        target=lambda: clips.append(run(RemoteStudio(port=port, key=KEY), SETTINGS.replace(seed=1)))
    )
    first.start()
    assert inside.wait(10)
    stop = threading.Event()
    told = Told(lambda _: stop.set())
    with pytest.raises(Cancelled, match="stopped while waiting for the run before"):
        run(RemoteStudio(port=port, key=KEY), SETTINGS.replace(seed=2), tell=told, stop=stop)
    assert told.news == [News(kind="waiting", place=1)]
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
    told = Told(lambda news: (_ for _ in ()).throw(KeyboardInterrupt) if news.progress is not None else None)
    with pytest.raises(KeyboardInterrupt):
        run(RemoteStudio(port=port, key=KEY), SETTINGS.replace(num_inference_steps=1000), tell=told)
    clip = run(RemoteStudio(port=port, key=KEY))
    assert clip.num_frames == 4
    assert [type(error) for error in ended] == [Cancelled]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (SettingsError("fps=0 is too small; give 1 to 60"), SettingsError),
        (ImageError("not a photo"), ImageError),
        (errors.OutOfMemoryError("memory ran out; make it smaller"), errors.OutOfMemoryError),
        (PipelineError("照片"), PipelineError),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_of_svdkit_come_back_as_they_are(
    studio: Studio, remote: RemoteStudio, error: Exception, expected: type[Exception]
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    studio.run = fail  # type: ignore[method-assign]
    with pytest.raises(expected) as caught:
        run(remote)
    assert type(caught.value) is expected
    assert str(caught.value) == str(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert"),
        FileNotFoundError("no weights here"),
        ConnectionResetError("the mirror hung up"),
        EOFError("a file ends too early"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_are_named(studio: Studio, remote: RemoteStudio, error: Exception) -> None:
    """Also those that a broken connection would raise: here it is the run that did, and the connection is well."""

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    studio.run = fail  # type: ignore[method-assign]
    with pytest.raises(SvdkitError) as caught:
        run(remote)
    assert type(caught.value) is SvdkitError
    assert str(caught.value) == f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("name", ["annotations", "SvdkitWarning", "os", "__builtins__", "KeyboardInterrupt"])
def test_only_errors_of_svdkit_are_made_by_name(name: str) -> None:
    """What the other side sends is data: it cannot choose what is called here."""
    error = wire._error({"error": name, "text": "text"})
    assert type(error) is SvdkitError
    assert str(error) == f"{name}: text"


def test_an_error_of_the_real_pipeline(remote: RemoteStudio) -> None:
    """Settings for another size than the frame's are refused over there, in generate's words."""
    with pytest.raises(SettingsError, match="128"):
        run(remote, SETTINGS.replace(height=128))


def test_a_wrong_key_is_refused_and_others_are_served(port: int) -> None:
    with pytest.raises((AuthenticationError, PipelineError)):
        RemoteStudio(port=port, key=b"another key")
    assert RemoteStudio(port=port, key=KEY).loaded


def answers(port: int, *, seconds: float = 4) -> bool:
    """Whether a panel can be opened within some seconds."""
    opened = list[RemoteStudio]()
    threading.Thread(target=lambda: opened.append(RemoteStudio(port=port, key=KEY)), daemon=True).start()
    with contextlib.suppress(AssertionError):
        wait_for(lambda: opened, seconds=seconds)
    return bool(opened)


@pytest.mark.filterwarnings("default::pytest.PytestUnhandledThreadExceptionWarning")  # the assertion says it better
@pytest.mark.parametrize(
    "text",
    [b"", b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x00\x04abcd", b"\x00\x00\x00\xff"],
    ids=["", "http", "word", "cut"],
)
def test_whoever_connects_and_leaves_does_no_harm(port: int, text: bytes) -> None:
    """Such as a scan of ports, or a browser that tries its luck."""
    with socket.create_connection(("127.0.0.1", port)) as line:
        line.sendall(text)
    assert answers(port)


def test_whoever_connects_and_says_nothing_keeps_nobody_waiting(port: int) -> None:
    """The key is asked for one at a time; a silent stranger must not hold up the panels that come after."""
    with socket.create_connection(("127.0.0.1", port)):
        time.sleep(0.1)
        assert answers(port)


def test_nonsense_from_somebody_with_the_key_does_no_harm(port: int) -> None:
    with Client(("127.0.0.1", port), authkey=KEY) as line:
        line.send_bytes(b"not JSON")
        with pytest.raises(EOFError):  # it is hung up on
            wire._receive(line)
    assert RemoteStudio(port=port, key=KEY).loaded


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(PipelineError) as caught:
        RemoteStudio(port=port, key=KEY)
    assert str(caught.value) == GONE


@contextlib.contextmanager
def dying(*, after: int) -> Iterator[int]:
    """A server that says what it is so many times, then hangs up on whatever is asked."""
    about = {"kind": "end", "load": LoadSettings(model="micro").to_dict(), "model": "micro", "loaded": False}

    def answer(listener: Listener) -> None:
        for number in range(after + 1):
            with listener.accept() as line:
                if number < after:
                    wire._receive(line)
                    wire._send(line, about)

    with Listener(("127.0.0.1", 0), authkey=KEY) as listener:
        thread = threading.Thread(target=answer, args=(listener,), daemon=True)
        thread.start()
        yield int(listener.address[1])
        thread.join(10)


@pytest.mark.parametrize("answered", [0, 1, 2], ids=["open", "run", "run later"])
def test_a_server_that_dies_is_said_to_have_died(answered: int) -> None:
    """When the panel opens, or wants a clip, also when the model was loaded."""

    def use(port: int) -> None:
        remote = RemoteStudio(port=port, key=KEY)
        if answered == 2:
            remote.prepare(id)
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
    assert objects_on_the_wire("line.recv_bytes()\nline.send_bytes(b'')\nsend(1)") == []
