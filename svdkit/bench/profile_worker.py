"""The process that measures the cells of one load: ``python -m svdkit.bench.profile_worker``, started by ``profile``.

The job is one line of JSON on its input; lines of JSON on its output say how far it is; records go to the results
folder. When its input closes, it is interrupted: what is complete is kept, and it ends.
"""

from __future__ import annotations

import _thread
import base64
import io
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image

from svdkit.bench.compose import measure_group
from svdkit.bench.protocol import Protocol, describe
from svdkit.bench.record import Record, read_records, records_file, write_record
from svdkit.image import Frame
from svdkit.pipeline import load
from svdkit.pipeline.device import is_out_of_memory
from svdkit.settings import ClipSettings, LoadSettings


def main() -> int:
    """Measure; 0 when done, whatever the cells came to, and 130 when interrupted."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and this is raised
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)  # what libraries print is not for the parent
        job = json.loads(sys.stdin.readline())
        threading.Thread(target=_end_with_parent, daemon=True).start()

        def say(**message: Any) -> None:
            out.write(json.dumps(message) + "\n")
            out.flush()

        try:
            _measure(job, say)
        except KeyboardInterrupt:
            return 130
        except Exception as error:  # noqa: BLE001 - a model that cannot be loaded is a row for each of its cells
            kind = "oom" if is_out_of_memory(error) else "error"
            say(status=kind, error={"type": type(error).__name__, "message": str(error)[:500] or "no message"})
    return 0


def _measure(job: dict[str, Any], say: Any) -> None:
    say(text="loading")
    pipe = load(settings=LoadSettings.from_dict(job["load"]))
    image = Image.open(io.BytesIO(base64.b64decode(job["image"])))
    frame = Frame.from_dict(job["frame"], image=image)
    clips = [ClipSettings.from_dict(values) for values in job["clips"]]
    say(headers=[describe(pipe, frame, clip) for clip in clips])
    measure_group(
        pipe,
        frame,
        clips,
        whole=job["whole"],
        composed=job["composed"],
        protocol=Protocol(**job["protocol"]),
        done=count_done(Path(job["results"]), memory=job["protocol"]["memory"]),
        keep=lambda record: write_record(job["results"], record),
        tell=lambda text: say(text=text),
    )


def count_done(results: Path, *, memory: bool) -> Counter[tuple[str, str]]:
    """Count the good records of a results folder by id and method; interrupted before its memory, one is not done."""
    found = (record for record in read_all(results) if record.status == "ok" and (record.memory or not memory))
    return Counter((record.id, record.method) for record in found)


def read_all(results: Path) -> list[Record]:
    """Read the records of a results folder; none where it has none yet."""
    return read_records(results) if records_file(results).is_file() else []


def _end_with_parent() -> None:
    sys.stdin.read()
    _thread.interrupt_main()
    time.sleep(60)  # for what is running on the device, and for the records
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
