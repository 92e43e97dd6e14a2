"""The cells of one load: measured in this process or in one of their own, which may be killed without harm here."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdkit.bench.compose import measure_group
from svdkit.bench.profile_worker import count_done, read_all
from svdkit.bench.protocol import describe, make_record
from svdkit.bench.record import run_id, write_record
from svdkit.models import find_model

if TYPE_CHECKING:
    from svdkit.bench.record import Record
    from svdkit.image import Frame
    from svdkit.settings import ClipSettings, LoadSettings

_COMMAND = (sys.executable, "-m", "svdkit.bench.profile_worker")
_ROOT = str(Path(__file__).parents[2])  # where svdkit is, also when it is not installed


@dataclass
class Group:
    """The cells of one load."""

    load: LoadSettings
    frame: Frame
    clips: list[ClipSettings]
    whole: list[int]
    results: Path
    ids: dict[str, None]  # of the cells, filled here
    say: Callable[[str], object]
    how: dict[str, Any]  # composed, protocol

    def here(self, pipe: Any) -> None:
        """Measure with a pipeline that is loaded already."""
        self.ids |= dict.fromkeys(describe(pipe, self.frame, clip)["id"] for clip in self.clips)
        done = count_done(self.results, memory=self.how["protocol"].memory)
        keep = partial(write_record, self.results)
        measure_group(pipe, self.frame, self.clips, whole=self.whole, done=done, keep=keep, tell=self.say, **self.how)

    def in_child(self) -> None:
        """Measure in a process of its own; if it does not come to the end, the cells not done are failed rows."""
        old = read_all(self.results)
        heard: dict[str, Any] = {"headers": self._asked()}
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((_ROOT, os.environ.get("PYTHONPATH", "")))}
        how: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": environment}
        # A session of its own, so that Ctrl-C reaches it once, from here.
        with subprocess.Popen(_COMMAND, text=True, start_new_session=True, **how) as child:
            pipe: Any = child.stdin
            try:
                _write(pipe, self._job())
                self._listen(child, heard)
            except KeyboardInterrupt:
                pipe.close()  # which interrupts it, on every system
                self._listen(child, heard)
                raise
            finally:
                self.ids |= dict.fromkeys(header["id"] for header in heard["headers"])
        if child.returncode or "error" in heard:
            self._fail(heard, code=child.returncode, old=old)

    def _listen(self, child: subprocess.Popen[str], heard: dict[str, Any]) -> None:
        for line in child.stdout or ():
            message = json.loads(line)
            heard |= message
            if "text" in message:
                self.say(message["text"])
        child.wait()

    def _job(self) -> dict[str, Any]:
        png = io.BytesIO()
        self.frame.image.save(png, "PNG")
        return {
            "load": self.load.to_dict(),
            "frame": self.frame.to_dict(),
            "image": base64.b64encode(png.getvalue()).decode(),
            "clips": [clip.to_dict() for clip in self.clips],
            "whole": self.whole,
            "composed": self.how["composed"],
            "protocol": asdict(self.how["protocol"]),
            "results": str(self.results),
        }

    def _asked(self) -> list[dict[str, Any]]:
        """What is known of the cells before the model is loaded."""
        info = find_model(self.load.model)
        model = {"name": info.name, "revision": None, "weights": self.load.weights}
        common = {"load": self.load.replace(model=info.name).to_dict(), "model": model}
        image = self.frame.to_dict()
        asked: list[dict[str, Any]] = [{**common, "clip": clip.to_dict()} for clip in self.clips]
        return [{**cell, "image": image, "id": run_id(**cell, image_sha256=self.frame.sha256)} for cell in asked]

    def _fail(self, heard: dict[str, Any], *, code: int, old: list[Record]) -> None:
        """Write a row for each cell that has neither a good record nor one of this run."""
        how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
        reason = "; Linux ends processes by signal 9 when memory is short" if code == -9 else ""
        ended = {"type": "Ended", "message": f"the process that measured this cell ended by {how}{reason}"}
        values = {"status": heard.get("status", "error"), "error": heard.get("error", ended)}
        method = "composed" if self.how["composed"] else "measured"
        there = [record for record in old if record.status == "ok"] + read_all(self.results)[len(old) :]
        there_ids = {record.id for record in there if record.method == method}
        for header in heard["headers"]:
            if header["id"] not in there_ids:
                write_record(self.results, make_record(header, method=method, **values))


def _write(pipe: Any, job: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # it has ended already, which is seen soon enough
        pipe.write(json.dumps(job) + "\n")
        pipe.flush()
