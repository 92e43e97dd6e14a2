"""Children: what lies in the current folder, what is printed and what kills them reaches the parent as what it is."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from svdkit.child import Child, EndedError, command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from svdkit.child import Channel

ROOT = Path(__file__).parents[1]
SHADOWS = ("json", "queue", "random", "profile", "threading", "svdkit", "multiprocessing")
SHORT = "Linux ends processes by signal 9 when memory is short"


def work(channel: Channel) -> None:
    """Do what a test says, as the target of its child."""
    channel.say("ready")
    try:
        exec(channel.hear(), {"channel": channel})
    except KeyboardInterrupt:
        channel.say("interrupted")


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "log"


@pytest.fixture
def child(log: Path) -> Iterator[Child]:
    child = Child("tests.test_child:work", log=log, grace_seconds=20)
    assert child.hear(60) == "ready"
    yield child
    child.end()


def test_what_is_printed_is_print(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a sitecustomize before all else, by the target, and by what writes to the descriptor itself."""
    site = log.parent / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("print('hello from site')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(site), str(ROOT))))
    child = Child("tests.test_child:work", log=log)
    assert child.hear(60) == "ready"
    child.say("import os\nprint('{\"a\": 1}', flush=True)\nos.write(1, b'raw')\nchannel.say({'b': 2})")
    assert child.hear(60) == {"b": 2}
    assert child.wait() == 0
    child.end()
    assert log.read_text(encoding="utf-8").splitlines() == ["hello from site", '{"a": 1}', "raw"]


def test_the_current_folder_is_not_trusted(log: Path) -> None:
    for name in SHADOWS:
        (log.parent / f"{name}.py").write_text("raise SystemExit('the wrong one')", encoding="utf-8")
    child = Child("tests.test_child:work", log=log)
    assert child.hear(60) == "ready"
    child.say(f"import {', '.join(SHADOWS)}\nchannel.say(svdkit.__file__)")
    assert child.hear(60) == str(ROOT / "svdkit" / "__init__.py")
    child.end()


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(
    ("does", "how"),
    [
        ("import os; os.kill(os.getpid(), 9)", f"signal 9 (SIGKILL); {SHORT}"),
        ("import os; os.abort()", "signal 6 (SIGABRT)"),
        ("raise SystemExit(3)", "exit code 3"),
        ("1 / 0", "exit code 1, and had printed 'ZeroDivisionError: division by zero'"),
        ("pass", "exit code 0"),
        ("import os, time; os.fork() or time.sleep(8); os._exit(4)", "exit code 4"),  # the pipe stays open
    ],
)
def test_a_death_is_told_in_words(child: Child, does: str, how: str) -> None:
    child.say(does)
    with pytest.raises(EndedError) as caught:
        child.hear(60)
    assert str(caught.value) == f"ended by {how}"
    with pytest.raises(EndedError, match="ended by"):
        child.say("more")


def test_one_that_says_nothing_is_ended(child: Child) -> None:
    child.say("while True: pass")
    with pytest.raises(TimeoutError) as caught:
        child.hear(0.5)
    assert str(caught.value) == "no answer in 0.5 s; the worker was killed"
    assert child._process.poll() is not None


def test_one_that_is_told_to_stop_may_finish(child: Child) -> None:
    """Also while it waits in the system, and nothing else happens there."""
    child.say("import threading; threading.Event().wait()")
    time.sleep(0.3)
    child.say(None)
    assert child.hear(10) == "interrupted"


def leave(channel: Any) -> None:
    """Be done, but slow to go."""
    atexit.register(time.sleep, 1)
    channel.say("done")


def test_one_that_is_done_is_not_interrupted_on_its_way_out(log: Path) -> None:
    child = Child("tests.test_child:leave", log=log, grace_seconds=5)
    assert child.hear(60) == "done"
    time.sleep(0.2)
    assert child.end(5) == 0
    assert "KeyboardInterrupt" not in log.read_text(encoding="utf-8")


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_child_ends_with_a_parent_that_is_killed(log: Path) -> None:
    code = (
        "import time; from svdkit.child import Child\n"
        "child = Child('tests.test_child:work', log='log'); child.hear(60)\n"
        "child.say('import os, time; channel.say(os.getpid()); time.sleep(600)')\n"
        "print(child.hear(60), flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("the child lives on")


def test_a_command_has_its_arguments(log: Path) -> None:
    """As the kernels of notebooks need it."""
    done = subprocess.run(command("tests.test_child:show", "-f", "x"), capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("['-f', 'x']\n", 7)


def show() -> Any:
    print(sys.argv[1:])  # noqa: T201
    return 7
