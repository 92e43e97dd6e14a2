"""Malformed and odd files thrown at Clip.read: a clip or a ClipError comes out, soon, and nothing else."""

import contextlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from svdkit.clip import Clip
from svdkit.clip.formats import encode_file
from svdkit.clip.provenance import Document, Provenance
from svdkit.errors import ClipError
from svdkit.generate import replay, run
from svdkit.image import Frame
from svdkit.models import find_model
from svdkit.settings import ClipSettings, LoadSettings
from tests.clips import micro_clip, moving, provenance
from tests.fuzz import JSON, VALUES, answer, cases, damaged, result

SUFFIXES = (".mp4", ".webm", ".gif", ".webp", ".png", ".json", ".mov", ".txt", "")

CLIP = Clip(moving(1, height=16, width=24), fps=7)
DOCUMENT = json.loads(Document(fps=7.0, num_frames=3, height=16, width=24, provenance=provenance()).to_text())


def read(path: Any) -> Clip | None:
    """Read; None for a ClipError. Any other error fails the test, and so does any warning that is not svdkit's."""
    clip: Clip | None = result(Clip.read, path, own=ClipError)
    if clip is not None:
        assert clip.frames.shape == (clip.num_frames, clip.height, clip.width, 3)
        assert 0.1 <= clip.fps <= 240
        assert clip.label
    return clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with one small clip in every format, to be changed by the examples."""
    home = tmp_path_factory.mktemp("fuzz")
    clip = Clip(moving(3, height=16, width=24), fps=7, provenance=provenance(), photo=micro_clip().photo)
    for suffix in (".mp4", ".webm", ".gif", ".webp", ".png"):
        clip.save(home / f"good{suffix}")
    return home


@st.composite
def damage(draw: st.DrawFn, *, most: int = 6) -> list[tuple[str, float, bytes]]:
    """Draw edits: (what to do, where from 0 to 1, bytes)."""
    edits = st.tuples(st.sampled_from(("set", "insert", "cut", "drop", "flip")), st.floats(0, 1), st.binary(max_size=9))
    return draw(st.lists(edits, min_size=1, max_size=most))


def edited(data: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    for kind, where, extra in edits:
        at = int(where * len(data))
        if kind == "set":
            data = data[:at] + extra + data[at + len(extra) :]
        elif kind == "insert":
            data = data[:at] + extra + data[at:]
        elif kind == "cut":
            data = data[: max(at, len(data) // 4)]
        elif kind == "drop":
            data = data[:at] + data[at + len(extra) * 7 :]
        elif data:
            at = min(at, len(data) - 1)
            data = data[:at] + bytes([data[at] ^ 1 << len(extra) % 8]) + data[at + 1 :]
    return data


FILES = (*("good.gif", "good.webp") * 4, "good.mp4", "good.webm", "good_frames/0001.png", "good_frames/0003.png")


@cases("clip documents", 23)
@given(edits=damage(), name=st.sampled_from(FILES))
def test_damaged_files(folder, edits, name):
    shutil.copytree(folder / "good_frames", folder / "bad_frames", dirs_exist_ok=True)
    path = folder / name.replace("good", "bad")
    path.write_bytes(edited((folder / name).read_bytes(), edits))
    read(path.parent if path.suffix == ".png" else path)


@cases("clip documents", 3)
@given(field=st.integers(0, 1200), number=st.integers(0, 2**32 - 1))
def test_mp4_boxes_with_odd_numbers(folder, field, number):
    """Sizes, counts and times of the index, which stands in front, each replaced by any number."""
    data = bytearray((folder / "good.mp4").read_bytes())
    data[field : field + 4] = number.to_bytes(4, "big")
    path = folder / "odd.mp4"
    path.write_bytes(bytes(data))
    read(path)


MAGIC = (
    b"",
    b"GIF89a",
    b"RIFF\0\0\1\0WEBPVP8X",
    b"\0\0\0\x20ftypisom",
    b"\x1a\x45\xdf\xa3",
    b"\x89PNG\r\n\x1a\n",
    b"{",
)


@cases("clip documents", 6)
@given(data=st.builds(bytes.__add__, st.sampled_from(MAGIC), st.binary(max_size=200)), suffix=st.sampled_from(SUFFIXES))
def test_random_bytes_under_any_name(folder, data, suffix):
    path = folder / f"noise{suffix}"
    path.write_bytes(data)
    read(path)


@cases("clip documents", 8)
@given(key=st.sampled_from([*sorted(DOCUMENT), "extra"]), value=JSON)
def test_sidecars_with_one_odd_value(folder, key, value):
    """The video itself is whole, so it is always read."""
    plain = folder / "plain.gif"
    if not plain.exists():
        plain.write_bytes(encode_file(moving(3, height=16, width=24), suffix=".gif", fps=7))
    (folder / "plain.json").write_text(json.dumps(DOCUMENT | {key: value}))
    assert read(plain) is not None
    read(folder / "plain.json")


@cases("clip documents", 8)
@example(name="created_at", value="/home/alice/x", drop=False)
@given(name=st.sampled_from(sorted(DOCUMENT["provenance"])), value=JSON, drop=st.booleans())
def test_provenances_with_one_odd_value(name, value, drop):
    """Whatever is accepted can be saved, and comes back equal."""
    values = DOCUMENT["provenance"] | {name: value}
    if drop:
        del values[name]
    with contextlib.suppress(ClipError):
        made = Provenance.from_dict(values)
        assert Provenance.from_dict(json.loads(json.dumps(made.to_dict()))) == made
        assert "alice" not in json.dumps(made.to_dict())


@cases("clip documents", 8)
@given(text=st.text(max_size=60) | JSON.map(json.dumps) | st.binary(max_size=60))
def test_texts_that_are_no_document(folder, text):
    """A broken JSON still tells which clip it stands beside, and that clip is whole."""
    path = folder / "good.json"
    kept = path.read_bytes()
    try:
        path.write_bytes(text.encode("utf-8", "replace") if isinstance(text, str) else text)
        assert read(folder / "good.gif") is not None
        assert read(path) is not None
    finally:
        path.write_bytes(kept)


NAMES = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="./\\~:*?-_ \0\n%", max_size=12),
    st.builds(str.__add__, st.text(max_size=300), st.sampled_from(SUFFIXES)),
)


@cases("clip documents", 6)
@given(name=NAMES)
def test_odd_names(folder, name):
    before = sorted(folder.iterdir())
    path = f"{folder}/nowhere/{name}"
    assert read(path) is None
    with pytest.raises(ClipError):
        micro_clip(1).save(path)
    assert sorted(folder.iterdir()) == before


@cases("clip documents", 4)
@given(path=st.none() | st.integers() | st.floats() | st.binary() | st.lists(st.text()))
def test_what_is_no_path(path):
    assert read(path) is None


@pytest.mark.parametrize("path", ["http://127.0.0.1:9/a.mp4", "concat:a.mp4|b.mp4", "pipe:0", "-i", "NUL", "CON.mp4"])
def test_addresses_are_only_names(path):
    assert read(path) is None


def test_damage_is_neither_harmless_nor_always_fatal(folder):
    """Else the tests above would try nothing: most single bytes of a gif may change, but not all."""
    data = (folder / "good.gif").read_bytes()
    seen: Counter[bool] = Counter()
    path = folder / "one.gif"
    for at in range(0, len(data), max(1, len(data) // 40)):
        path.write_bytes(data[:at] + bytes([data[at] ^ 255]) + data[at + 1 :])
        clip = read(path)
        seen[clip is not None and np.array_equal(clip.frames, Clip.read(folder / "good.gif").frames)] += 1
    assert seen[True] >= 3
    assert seen[False] >= 3


@pytest.fixture(scope="module")
def _no_model() -> Iterator[None]:
    """The model is a stand-in, and what would be generated is only resolved."""
    settings = LoadSettings(model="micro", dtype="fp32", memory="resident", device="cpu")
    told = SimpleNamespace(
        settings=settings, model=find_model("micro"), revision="abc", weights="trained", is_ours=True
    )

    def resolved(pipe: Any, frame: Frame, settings: ClipSettings, *, progress: object) -> ClipSettings:
        return settings.resolve(height=frame.height, width=frame.width, num_frames=14)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "load", lambda model, *, settings: SimpleNamespace(svdkit=told))
        patch.setattr(run, "generate", resolved)
        yield


@pytest.mark.usefixtures("_no_model")
@cases("clip documents", 28)
@given(document=damaged(DOCUMENT["provenance"]), photo=st.booleans())
def test_damaged_documents_are_replayed_or_refused(document, photo):
    made = result(Provenance.from_dict, document, own=ClipError)
    found = Clip(moving(3, height=16, width=24), fps=7, provenance=made)
    answer(replay, found, photo="rocket" if photo else None)


@cases("clip documents", 6)
@given(value=VALUES, name=st.sampled_from(["fps", "num_frames", *sorted(DOCUMENT["provenance"])]))
def test_odd_values_for_a_clip(value, name):
    if name in DOCUMENT["provenance"]:
        answer(lambda: Provenance(**DOCUMENT["provenance"] | {name: value}), own=ClipError)
    else:
        answer(
            lambda: Document(**{"fps": 7.0, "num_frames": 3, "height": 16, "width": 24} | {name: value}), own=ClipError
        )
    answer(replay, value)
    answer(CLIP.save, "clip.gif" if isinstance(value, str) else value, scale=value, own=ClipError)
