"""Provenance is plain JSON, complete, and says nothing about its maker's machine."""

import datetime as dt
import json
import re
from typing import Any

import numpy as np
import pytest

import svdkit
from svdkit.clip import Provenance
from svdkit.clip.provenance import Document
from svdkit.errors import ClipError
from tests.clips import provenance

DOCUMENT = {"fps": 7.0, "num_frames": 4, "height": 32, "width": 48}


def test_it_survives_json_and_is_a_copy():
    """Names of a newer version are left out."""
    made = provenance(notes=("stepped down to chunks of 2 frames",))
    assert Provenance.from_dict(json.loads(json.dumps(made.to_dict() | {"mood": "calm"}))).to_dict() == made.to_dict()
    settings: dict[str, Any] = {"seed": 1, "more": {"a": [1]}}
    made = provenance(settings=settings)
    settings["more"]["a"].append(2)
    made.to_dict()["settings"]["seed"] = 2
    assert made.settings == {"seed": 1, "more": {"a": [1]}}


def test_version_and_time_are_filled_in():
    made = provenance()
    assert made.svdkit_version == svdkit.__version__
    assert dt.datetime.fromisoformat(made.created_at).utcoffset() == dt.timedelta(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "SVD"}, "provenance kind is 'SVD'; it is one of micro, svd"),
        ({"kind": ["micro"]}, "provenance kind is ['micro']; give a text"),
        ({"settings": [1]}, "provenance settings is [1]; give a dict of plain JSON values"),
        ({"settings": {"seed": {1}}}, "provenance settings.seed holds {1}; only plain JSON values are kept"),
        ({"model": {"a": np.float32(1)}}, "provenance model.a holds np.float32(1.0); only plain JSON"),
        ({"load": {"a": float("nan")}}, "provenance load.a holds nan"),
        ({"load": {1: 2}}, "provenance load holds {1: 2}"),
        ({"settings": {"seed": 2**64}}, "provenance settings.seed holds 18446744073709551616"),
        ({"notes": "one note"}, "provenance notes is 'one note'; give a tuple of sentences"),
        ({"notes": (1,)}, "provenance notes is [1]; give a tuple of sentences"),
        ({"created_at": None}, "provenance created_at is None; give a text"),
        ({"notes": ("x" * 24_000,)}, "characters long; 24,000 fit: shorten the notes"),
    ],
)
def test_what_json_cannot_hold_is_refused_at_once(changes, message):
    with pytest.raises(ClipError, match=re.escape(message)):
        provenance(**changes)


def test_endless_nesting_is_refused():
    deep: dict[str, Any] = {}
    deep["deeper"] = deep
    with pytest.raises(ClipError, match="nested deeper than 12 levels"):
        provenance(settings=deep)


def test_missing_parts_are_named():
    with pytest.raises(ClipError, match=r"missing 2 required .*'load' and 'model'"):
        Provenance.from_dict({name: {} for name in ("kind", "settings", "conditioning", "image")})
    with pytest.raises(ClipError, match=r"this is no provenance .*; give the object that to_dict"):
        Provenance.from_dict([])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("/home/alice/models/svd-xt", "svd-xt"),
        ("/home/Alice Smith/my models/svd-xt", "svd-xt"),
        ("/home/alice", "~"),
        ("/home/alice/", "~"),
        ("/Users/alice", "~"),
        ("~/models/svd-xt", "svd-xt"),
        ("~alice/models/svd-xt", "svd-xt"),
        (r"C:\Users\alice\svd-xt", "svd-xt"),
        (r"\\server\alice\svd-xt", "svd-xt"),
        ("file:///home/alice/rocket.jpg", "rocket.jpg"),
        ("loaded /home/alice/svd/unet.safetensors, then ran", "loaded unet.safetensors, then ran"),
        (r"see 'D:\alice\log.txt'", "see 'log.txt'"),
        ("cache=/root/alice/hub", "cache=hub"),
        (r"see C:\Users\John Smith\svd\log.txt, then", "see log.txt, then"),
        (r"see 'D:\John Smith\My pictures\a.png' and", "see 'a.png' and"),
        (r"see C:\\Documents and Settings\\John Smith\\a.png and", "see a.png and"),
        (r"see C:\John Smith\a.png and D:\John Smith\b.png at 1/2", "see a.png and b.png at 1/2"),
        (r"open \\server\John Smith\a.png now", "open a.png now"),
        ("C:/Users/John Smith/x.png is cut", "x.png is cut"),
        ("in /mnt/c/Users/John Smith/a.png and", "in a.png and"),
        ("was /var/home/ann lee/x.png, and/or", "was x.png, and/or"),
        ("at file:///C:/Users/John%20Smith/a.png now", "at a.png now"),
        (r"is C:\Users\alice now", "is ~ now"),
        ("hf_abcdefghijklmnopqrstuvwxyz012345", "…"),
        ("token hf_abcdefghijklmnopqrstuvwxyz012345.", "token …."),
        ("https://alice:pass@example.org/a.jpg?token=abc&x=1", "https://…example.org/a.jpg?token=…&x=1"),
        # and what must stay as it is
        ("stabilityai/stable-video-diffusion-img2vid-xt", "stabilityai/stable-video-diffusion-img2vid-xt"),
        ("https://huggingface.co/stabilityai/svd", "https://huggingface.co/stabilityai/svd"),
        ("5 frames/s at 1/2 or and/or, 16:9 × 2", "5 frames/s at 1/2 or and/or, 16:9 × 2"),
        ("#000000", "#000000"),
        ("hf-space", "hf-space"),
        ("lone \ud800 surrogate", "lone ? surrogate"),
    ],
)
def test_paths_names_and_tokens_of_the_user_stay_private(text, kept):
    made = provenance(load={"model": text}, notes=(text,), environment={"deep": [{"er": text}]})
    assert made.load["model"] == kept
    assert made.notes == (kept,)
    assert made.environment == {"deep": [{"er": kept}]}


def test_the_document_is_ascii_on_one_line_and_names_ai_media_only_with_provenance():
    """Some containers take nothing else."""
    text = Document(**DOCUMENT, provenance=provenance(notes=("größer × 2\nnext",))).to_text()  # type: ignore[arg-type]
    assert text.isascii()
    assert text.isprintable()
    assert "trainedAlgorithmicMedia" in text
    assert "trainedAlgorithmicMedia" not in Document(**DOCUMENT).to_text()  # type: ignore[arg-type]


def test_texts_of_other_programs_are_not_ours():
    for text in ("", "holiday", "[1]", "{}", '"svdkit_clip"', "[" * 100_000, "9" * 5000, b"\xff\xfe\xfa"):
        assert Document.from_text(text) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fps": 0}, "fps is 0; give 0.1 to 240"),
        ({"fps": True}, "fps is True"),
        ({"num_frames": 0}, "num_frames is 0; it is a whole number from 1"),
        ({"height": 32.5}, "height is 32.5"),
        ({"width": None}, "width is None"),
        ({"provenance": 7}, "this is no provenance .*; give the object"),
        ({"provenance": {"kind": "micro"}}, "missing 5 required .*'settings'"),
    ],
)
def test_broken_documents_say_what_is_wrong(changes, message):
    with pytest.raises(ClipError, match=message):
        Document.from_text(json.dumps({"svdkit_clip": 1, **DOCUMENT} | changes))
