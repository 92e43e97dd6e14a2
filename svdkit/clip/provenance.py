"""Where a clip comes from: everything that made it, as plain JSON without paths, names or tokens of the user."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

from svdkit import __version__
from svdkit.errors import ClipError, shown
from svdkit.settings.base import Check, number

# IPTC's name for media made by a generative model: https://cv.iptc.org/newscodes/digitalsourcetype/
DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

# The XMP packet that marks a file as AI-generated where other programs look for it.
XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    f'xmp:CreatorTool="svdkit" Iptc4xmpExt:DigitalSourceType="{DIGITAL_SOURCE_TYPE}"/></rdf:RDF></x:xmpmeta>'
    '<?xpacket end="w"?>'
)

_SECRET = re.compile(r"\bhf_[A-Za-z0-9]{16,}|(?<=//)[^/@\s]+@|(?<=token=)[^&\s]+|(?<=password=)[^&\s]+", re.IGNORECASE)
_PART = r"[^\\/\s\"'<>|]"
_NAME = r"[^\\/:*?\"'<>|\n]+"  # of a folder, perhaps with spaces
_PATH = re.compile(
    r"^(?:file:)?(?:~[^\\/]*|[A-Za-z]:)?[\\/].*$"  # the whole text is an absolute path, perhaps with spaces
    # Or one stands in a sentence: of Windows, whose names have no colon; of others, where a user's may have a space.
    rf"|(?<![\w.:/\\])(?:[A-Za-z]:|\\)\\+(?:{_NAME}\\+)+{_PART}*"
    rf"|(?<![\w.:/\\])(?:file:/*)?(?:~|[A-Za-z]:)?[\\/](?:(?:home|Users)[\\/]+{_NAME}[\\/]+|{_PART}+[\\/])+{_PART}*",
    re.DOTALL | re.IGNORECASE,
)


_KINDS = {  # what the fields are that are no dict
    "notes": (list, "a tuple of sentences"),
    **dict.fromkeys(("kind", "svdkit_version", "created_at"), (str, "a text")),
}


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Everything that made a clip; enough to make it again with ``replay``.

    The values are copied and must be plain JSON. Absolute paths in them shrink to the last name and tokens are
    blanked, so that a shared file tells nothing about its maker's machine. Two provenances are equal when all that
    decides the frames is equal; when and on what machine it ran, and how long it took, is not compared.

    Attributes:
        kind: "micro" (the built-in model) or "svd"; micro is never called SVD.
        settings: The resolved ClipSettings; ``load`` has the LoadSettings.
        conditioning: What the UNet received: fps (one less than the settings' fps), motion bucket, noise aug.
        model: name, revision, weights ("trained" or "random").
        image: The fitted photo, as ``Frame.to_dict()`` gives it.
        stage_seconds: Seconds of "encode", "denoise" and "decode".
        notes: What happened on the way, for example steps down the memory ladder.

    Raises:
        ClipError: A value is not plain JSON, or all of them together are longer than 24,000 characters.

    Example:
        >>> made = Provenance(kind="micro", settings={"seed": 1}, load={}, conditioning={}, model={}, image={})
        >>> Provenance.from_dict(made.to_dict()) == made
        True
    """

    kind: str
    settings: dict[str, Any]
    load: dict[str, Any]
    conditioning: dict[str, Any]
    model: dict[str, Any]
    image: dict[str, Any]
    stage_seconds: dict[str, float] = field(default_factory=dict, compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)
    environment: dict[str, Any] = field(default_factory=dict, compare=False)
    svdkit_version: str = field(default=__version__, compare=False)
    created_at: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(), compare=False)

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            kind, wanted = _KINDS.get(name, (dict, "a dict of plain JSON values"))
            value = plain(getattr(self, name), where=name)
            if not isinstance(value, kind) or (kind is list and not all(isinstance(note, str) for note in value)):
                raise ClipError(f"provenance {name} is {shown(value)}; give {wanted}")
            object.__setattr__(self, name, tuple(value) if kind is list else value)
        if self.kind not in {"micro", "svd"}:
            raise ClipError(f"provenance kind is {shown(self.kind)}; it is one of micro, svd")
        # Windows takes 32,767 characters as one command line, and ffmpeg is given the JSON as an argument.
        if (length := len(json.dumps(self.to_dict()))) > 24_000:
            raise ClipError(f"the provenance is {length:,} characters long; 24,000 fit: shorten the notes")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, a copy."""
        return asdict(self) | {"notes": list(self.notes)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Provenance:
        """Build from ``to_dict()``; names that this version does not know are left out (a newer svdkit wrote them)."""
        try:
            return cls(**{name: values[name] for name in cls.__dataclass_fields__ if name in values})
        except TypeError as error:
            raise ClipError(f"this is no provenance ({error}); give the object that to_dict() made") from error

    @property
    def name(self) -> str:
        """What to call the model: "micro", or the SVD model's name; random weights are always said."""
        name = "micro" if self.kind == "micro" else str(self.model.get("name") or "SVD")
        return f"{name} with random weights" if self.model.get("weights") == "random" else name


@dataclass(frozen=True, kw_only=True)
class Document:
    """The JSON that goes with a saved clip: in the file's metadata, and in ``<stem>.json`` beside it."""

    fps: float
    num_frames: int
    height: int
    width: int
    provenance: Provenance | None = None

    def __post_init__(self) -> None:
        check_fps(self.fps)
        for name in ("num_frames", "height", "width"):
            if type(size := getattr(self, name)) is not int or size < 1:
                raise ClipError(f"{name} is {shown(size)}; it is a whole number from 1")

    def to_text(self, *, indent: int | None = None) -> str:
        """Return the JSON in ASCII, which every container's metadata can hold; marked as AI-generated if it is."""
        mark = {"digital_source_type": DIGITAL_SOURCE_TYPE} if self.provenance else {}
        return json.dumps({"svdkit_clip": 1, **mark, **asdict(self)}, indent=indent)

    def tags(self) -> dict[str, str]:
        """Give the file's metadata, by ffmpeg's names."""
        if (made := self.provenance) is None:
            return {"comment": self.to_text()}
        title = f"AI-generated video ({made.name}, svdkit {made.svdkit_version})"
        marks = {"software": "svdkit", "digital_source_type": DIGITAL_SOURCE_TYPE}
        return {"comment": self.to_text(), "title": title, **marks}

    @classmethod
    def from_text(cls, text: Any) -> Document | None:
        """Read ``to_text()``; None for what is another program's, and ClipError for a broken one of ours."""
        try:
            values = json.loads(text)
        except (TypeError, ValueError, RecursionError):
            return None
        if not isinstance(values, dict) or "svdkit_clip" not in values:
            return None
        made = values.get("provenance")
        sizes: dict[str, Any] = {name: values.get(name) for name in ("fps", "num_frames", "height", "width")}
        return cls(**sizes, provenance=None if made is None else Provenance.from_dict(made))


def check_fps(fps: object) -> float:
    """Return a playback rate as float; ClipError if it is not 0.1 to 240 frames a second."""
    return float(clip_number(fps, number(0.1, 240), name="fps", give="0.1 to 240 frames a second"))


def clip_number(value: object, check: Check, *, name: str, give: str) -> Any:
    """Read a number as settings are read, or raise a ClipError that says what to give."""
    try:
        return check[1](value)
    except ValueError:
        raise ClipError(f"{name} is {shown(value)}; give {give}") from None


def plain(value: Any, *, where: str, depth: int = 0) -> Any:
    """Copy plain JSON values, cleaned; refuse all others, which would fail only when the clip is saved."""
    if depth > 12:
        raise ClipError(f"provenance {where[:80]} is nested deeper than 12 levels")
    if value is None or (isinstance(value, int) and abs(value) < 2**64):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, str):
        return _scrub(value)
    if isinstance(value, list | tuple):
        return [plain(item, where=where, depth=depth + 1) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {_scrub(key): plain(item, where=f"{where}.{key}", depth=depth + 1) for key, item in value.items()}
    raise ClipError(f"provenance {where[:80]} holds {shown(value)}; only plain JSON values are kept")


def _scrub(text: str) -> str:
    """Shorten absolute paths to their last name and blank tokens; lone surrogates, which no file takes, become "?"."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    while (clean := _PATH.sub(_last_name, _SECRET.sub("…", text))) != text:
        text = clean  # until nothing is left, so that reading a file back cleans nothing more
    return text


def _last_name(match: re.Match[str]) -> str:
    parts = re.split(r"[\\/]+", match[0].rstrip("\\/"))
    return "~" if parts[-2:-1] in (["home"], ["Users"]) else parts[-1]  # the last name of a home is the user's
