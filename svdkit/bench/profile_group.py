"""The cells of one load: measured in this process or in one of their own, which may be killed without harm here."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdkit.bench.compose import measure_group
from svdkit.bench.protocol import describe, failure_of, make_record
from svdkit.bench.record import read_records, records_file, run_id, write_record
from svdkit.child import Child, EndedError
from svdkit.models import find_model
from svdkit.pipeline import load

if TYPE_CHECKING:
    from svdkit.bench.protocol import Protocol
    from svdkit.bench.record import Record
    from svdkit.child import Channel
    from svdkit.image import Frame
    from svdkit.settings import ClipSettings, LoadSettings

_WORKER = "svdkit.bench.profile_group:work"
_GRACE_SECONDS = 60  # after Ctrl-C, for what is running on the device, and for the records


@dataclass
class Group:
    """The cells of one load."""

    load: LoadSettings
    frame: Frame
    clips: list[ClipSettings]
    whole: list[int]
    results: Path
    composed: bool
    protocol: Protocol
    say: Callable[[str], object]
    ids: dict[str, None] = field(default_factory=dict)  # of the cells, filled here

    def headers(self, pipe: Any) -> list[dict[str, Any]]:
        """What is known of the cells when the model is loaded."""
        return [describe(pipe, self.frame, clip) for clip in self.clips]

    def here(self, pipe: Any) -> None:
        """Measure with a pipeline that is loaded already."""
        self.ids |= dict.fromkeys(header["id"] for header in self.headers(pipe))
        measure_group(
            pipe,
            self.frame,
            self.clips,
            whole=self.whole,
            composed=self.composed,
            protocol=self.protocol,
            done=Counter((each.id, each.method) for each in read_all(self.results) if is_done(each, self.protocol)),
            keep=partial(write_record, self.results),
            tell=self.say,
        )

    def in_child(self) -> None:
        """Measure in a process of its own; if it does not come to the end, the cells not done are failed rows."""
        old = read_all(self.results)
        heard: dict[str, Any] = {"headers": self._asked()}
        child = Child(_WORKER, grace_seconds=_GRACE_SECONDS)
        try:
            child.say(replace(self, say=str))  # without what may not be sent
            self._listen(child, heard)
        except KeyboardInterrupt:
            with contextlib.suppress(EndedError):
                child.say(None)
                self._listen(child, heard)
            raise
        except EndedError as error:
            heard["error"] = {"type": "Ended", "message": f"the process that measured this cell {error}"}
        finally:
            child.end()
            self.ids |= dict.fromkeys(header["id"] for header in heard["headers"])
        if "error" in heard:
            self._fail(heard, old=old)

    def _listen(self, child: Child, heard: dict[str, Any]) -> None:
        while "done" not in heard:
            message = child.hear()
            heard |= message
            if "text" in message:
                self.say(message["text"])

    def _asked(self) -> list[dict[str, Any]]:
        """What is known of the cells before the model is loaded."""
        info = find_model(self.load.model)
        model = {"name": info.name, "revision": None, "weights": self.load.weights}
        common = {"load": self.load.replace(model=info.name).to_dict(), "model": model}
        image = self.frame.to_dict()
        asked: list[dict[str, Any]] = [{**common, "clip": clip.to_dict()} for clip in self.clips]
        return [{**cell, "image": image, "id": run_id(**cell, image_sha256=self.frame.sha256)} for cell in asked]

    def _fail(self, heard: dict[str, Any], *, old: list[Record]) -> None:
        """Write a row for each cell that has neither a good record nor one of this run."""
        values = {"status": heard.get("status", "error"), "error": heard["error"]}
        method = "composed" if self.composed else "measured"
        there = [record for record in old if is_done(record, self.protocol)] + read_all(self.results)[len(old) :]
        there_ids = {record.id for record in there if record.method == method}
        for header in heard["headers"]:
            if header["id"] not in there_ids:
                write_record(self.results, make_record(header, method=method, **values))


def work(channel: Channel) -> None:
    """Measure, in a process of its own; interrupted, keep what is complete."""
    try:
        group = replace(channel.hear(), say=lambda text: channel.say({"text": text}))
        group.say("loading")
        pipe = load(settings=group.load)
        channel.say({"headers": group.headers(pipe)})
        group.here(pipe)
    except KeyboardInterrupt:
        pass
    except Exception as error:  # noqa: BLE001 - a model that cannot be loaded is a row for each of its cells
        channel.say(failure_of(error))
    channel.say({"done": True})


def is_done(record: Record, protocol: Protocol) -> bool:
    """Whether a record is as good as asked: it has its repeats and, where it is wanted, its memory."""
    enough = len(record.order) >= protocol.min_repeats and (record.memory or not protocol.memory)
    return record.status == "ok" and bool(enough)


def read_all(results: Path) -> list[Record]:
    """Read the records of a results folder; none where it has none yet."""
    return read_records(results) if records_file(results).is_file() else []
