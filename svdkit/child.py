"""The one way to run something in a child process: safe path, messages on a channel of their own, deadline, end.

A child is this Python with this svdkit, and takes no module from the current folder. Messages go through an inherited
pipe; what the child prints, also before it has begun, is print and goes to a log or to where our own errors go. It has
memory of its own, and ends with its parent, also when that was killed.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from multiprocessing import connection
from pathlib import Path
from typing import Any

from svdkit.errors import SvdkitError

# `-m` would put the current folder first on the path, where a user's profile.py or random.py stands for the library's;
# and -P, which does not, is younger than Python 3.10. That svdkit is this one holds also where none is installed.
_ENTRY = """
import sys
sys.path[:] = filter(None, sys.path)
from importlib import util
spec = util.spec_from_file_location("svdkit", sys.argv.pop(1))
sys.modules["svdkit"] = svdkit = util.module_from_spec(spec)
spec.loader.exec_module(svdkit)
from svdkit import child
child.begin()
"""


class EndedError(SvdkitError):
    """A child process ended before it had answered: "ended by", and by what."""


def command(target: str, *arguments: str) -> list[str]:
    """Give the words that start a process which calls ``module:function``; the arguments are its ``sys.argv[1:]``."""
    return [sys.executable, "-c", _ENTRY, str(Path(__file__).with_name("__init__.py")), target, *arguments]


def begin() -> None:
    """Do, in the new process, what ``command`` was told."""
    sys.exit(_function(sys.argv.pop(1))())


class Child:
    """A process that calls ``module:function`` with a ``Channel`` to here."""

    def __init__(
        self,
        target: str,
        *,
        log: str | Path | None = None,
        grace_seconds: float = 0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._log = log
        self._pipe, there = connection.Pipe()
        handle = there.fileno()
        inherited: Any = {"pass_fds": [handle]}
        if sys.platform == "win32":
            os.set_handle_inheritable(handle, True)  # noqa: FBT003 - has no name
            inherited = {"close_fds": False}
        with there, contextlib.ExitStack() as opened:
            self._process = subprocess.Popen(
                command("svdkit.child:run_child", str(handle), str(grace_seconds), target),
                stdin=subprocess.DEVNULL,
                stdout=opened.enter_context(Path(log).open("ab")) if log else 2,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # Ctrl-C is ours to handle
                **inherited,
            )

    def say(self, message: Any) -> None:
        """Send what pickle takes; None asks it to stop. An EndedError when it has ended."""
        with self._alive():
            self._pipe.send(message)

    def hear(self, seconds: float = math.inf) -> Any:
        """Wait for the next message."""
        end = time.monotonic() + seconds
        with self._alive():
            while not self._pipe.poll(min(1.0, max(0.0, end - time.monotonic()))):
                if self._process.poll() is not None and not self._pipe.poll():
                    raise EOFError  # processes of its own may still hold the pipe
                if time.monotonic() >= end:
                    break
            else:
                return self._pipe.recv()
        self.end()
        raise TimeoutError(f"no answer in {seconds:g} s; the worker was killed")

    def ask(self, message: Any, seconds: float) -> Any:
        """Send, and wait for the answer."""
        self.say(message)
        return self.hear(seconds)

    def wait(self) -> int:
        """Wait until it ends by itself; give its exit code."""
        return self._process.wait()

    def end(self, seconds: float = 0.5) -> int:
        """End it, by force after some seconds; give its exit code, or that which it had already."""
        self._pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        self._process.kill()
        return self._process.wait()

    @contextlib.contextmanager
    def _alive(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError):
            raise EndedError(f"ended by {self._how(self.end())}") from None

    def _how(self, code: int) -> str:
        if code < 0:
            reason = "; Linux ends processes by signal 9 when memory is short" if code == -signal.SIGKILL else ""
            return f"signal {-code} ({signal.Signals(-code).name}){reason}"
        printed = Path(self._log).read_text(encoding="utf-8", errors="replace").split("\n")[-2:] if self._log else []
        return f"exit code {code}" + (f", and had printed {printed[0]!r:.300}" if code and any(printed) else "")


class Channel:
    """The child's end: while it is open, the child is interrupted when its parent says so or is gone."""

    def __init__(self, pipe: Any, *, grace_seconds: float) -> None:
        self._pipe, self._grace = pipe, grace_seconds
        self.say = pipe.send
        heard: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.hear, self._put = heard.get, heard.put
        threading.Thread(target=self._listen, daemon=True).start()

    def end(self) -> None:
        """Interrupt nothing any more: what was asked is done, and Python may be ending."""
        self._grace = 0

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while (message := self._pipe.recv()) is not None:
                self._put(message)
        if self._grace:
            _interrupt()
            time.sleep(self._grace)
        os._exit(0)


def run_child() -> None:
    """Call, in the new process, the target of a ``Child``."""
    handle, grace, sys.argv[1:] = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    if sys.platform == "win32":
        pipe: Any = connection.PipeConnection(handle)
    else:
        os.set_inheritable(handle, False)  # noqa: FBT003 - has no name
        pipe = connection.Connection(handle)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    target = _function(sys.argv.pop(1))  # before messages need what it imports
    channel = Channel(pipe, grace_seconds=grace)
    target(channel)
    channel.end()


def _function(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _interrupt() -> None:
    """Raise KeyboardInterrupt in the main thread, also while that waits in the system."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        signal.raise_signal(signal.SIGINT)
