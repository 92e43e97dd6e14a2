"""What all settings have in common: checked when built, all problems at once, plain JSON both ways.

A check is a rule in words and a function that gives one value as plain Python, or raises ValueError with what to write.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeVar

from svdkit.errors import SettingsError, shown
from svdkit.given import bare, finite, whole

if TYPE_CHECKING:
    from typing_extensions import Self

Check = tuple[str, Callable[[object], object]]
_T = TypeVar("_T")


def setting(default: Any, check: Check, meaning: str = "") -> Any:
    """Declare one field: its default (None is allowed where it is that), its check, what it is."""
    rule, read = check
    rule = f"must be {rule} or None" if default is None else f"must be {rule}"
    return dataclasses.field(default=default, metadata={"rule": rule, "read": read, "help": meaning})


def explained(cls: type[_T]) -> type[_T]:
    """Write what the fields mean into the docstring of a class of settings: they are explained where they stand."""
    about = ((item.name, item.metadata) for item in dataclasses.fields(cls) if item.metadata["help"])  # type: ignore[arg-type]
    lines = "".join(f"        {name}: {how['help']} It {how['rule']}.\n" for name, how in about)
    cls.__doc__ = (cls.__doc__ or "").replace("    Raises:", f"    Attributes:\n{lines}\n    Raises:", 1)
    return cls


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base of frozen settings whose fields are all made by :func:`setting`."""

    def __new__(cls, /, *positions: object, **values: object) -> Self:
        """Refuse positions and unknown names; a dataclass's own __init__ would raise a bare TypeError."""
        if positions:
            example = f"{cls.__name__}({next(iter(cls.__dataclass_fields__))}=…)"
            raise SettingsError(f"{cls.__name__} takes names, not positions: write {example}")
        if values.keys() - cls.__dataclass_fields__.keys():
            raise SettingsError.of(cls.__name__, cls.judge(values)[1])
        return super().__new__(cls)

    def __post_init__(self) -> None:
        clean, problems = self.judge(self.to_dict())
        if problems:
            raise SettingsError.of(type(self).__name__, problems)
        vars(self).update(clean)

    def to_dict(self) -> dict[str, Any]:
        """Give the settings as plain JSON values, in the order of the fields."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, values: Mapping[Any, Any]) -> Self:
        """Build settings from what :meth:`to_dict` gave, or from part of it; SettingsError lists all that is wrong."""
        if not isinstance(values, Mapping):
            rule = f"{cls.__name__}: from_dict takes a dict of names and values"
            raise SettingsError(f"{rule}, not {shown(values)}; give it what to_dict() returned")
        return cls(**{name if isinstance(name, str) else shown(name): value for name, value in values.items()})

    @classmethod
    def read(cls, given: Any, problems: list[str]) -> Self:
        """Take settings or a dict of some; where they are wrong, add the problems and give the defaults."""
        try:
            return given if isinstance(given, cls) else cls.from_dict({} if given is None else given)
        except SettingsError as error:
            problems += error.problems
            return cls()

    def replace(self, /, **changes: Any) -> Self:
        """Give a copy with some values changed, checked like new settings."""
        return type(self)(**{**self.to_dict(), **changes})

    @classmethod
    def judge(cls, values: Mapping[str, object]) -> tuple[dict[str, Any], list[str]]:
        """Split values into good ones, as plain Python, and one sentence for each problem, clashes of good ones too."""
        clean: dict[str, Any] = {}
        problems: list[str] = []
        for name, value in values.items():
            if name not in cls.__dataclass_fields__:
                problems.append(cls._unknown(name))
                continue
            field = cls.__dataclass_fields__[name]
            rule, read = field.metadata["rule"], field.metadata["read"]
            try:
                clean[name] = None if value is None and field.default is None else read(value)
            except ValueError as advice:
                problems.append(f"{name}={shown(value)}: {'; '.join(filter(None, (rule, str(advice))))}")
        return clean, problems + cls._clashes(clean)

    @classmethod
    def _clashes(cls, clean: Mapping[str, Any]) -> list[str]:  # noqa: ARG003 - for subclasses
        """Give one sentence for each combination that cannot work, among the values that are good by themselves."""
        return []

    @classmethod
    def _unknown(cls, name: str) -> str:
        """Say what a name that is not ours probably meant."""
        fields = cls.__dataclass_fields__
        for kind in Settings.__subclasses__():
            if name in kind.__dataclass_fields__ and not kind.__name__.startswith("_"):
                return f"{bare(name)} is not a name here; it belongs to {kind.__name__}"
        guess = nearest(name, fields)
        hint = f"did you mean {guess}?" if guess else f"the names are {', '.join(fields)}"
        return f"{bare(name)} is not a name here; {hint}"


def number(low: float, high: float, *, step: int | None = None) -> Check:
    """Check for numbers from low to high; with a step for whole multiples of it. Takes numpy's, and 7.0 for 7."""

    def read(value: object) -> float:
        found = finite(value) if step is None else whole(value)
        if not low <= found <= high:
            raise ValueError(f"use {low if found < low else high}")
        if step and (above := found % step):
            raise ValueError(f"use {found - above} or {found - above + step}")
        return found

    kind = {None: "a number", 1: "a whole number"}.get(step, f"a multiple of {step}")
    return f"{kind} from {low} to {high}", read


def choice(*names: str) -> Check:
    """Check for one of some names; other words for them are explained and not taken: one word a thing in records."""

    def read(value: object) -> str:
        if isinstance(value, str) and value in names:
            return str.__str__(value)
        guess = nearest(value, names)
        raise ValueError(f"write {guess!r}" if guess else "choose one")

    quoted = [repr(name) for name in names]
    return f"{', '.join(quoted[:-1])} or {quoted[-1]}", read


def text(rule: str, *, pattern: str = ".+", names: Iterable[str] = ()) -> Check:
    """Check for one printable line, or a path, that matches a regular expression; rule says in words what that is."""

    def read(value: object) -> str:
        line = str(value) if isinstance(value, PurePath) else value
        if not isinstance(line, str):
            raise ValueError(f"this is a {type(value).__name__}")  # noqa: TRY004 - all checks raise one kind
        if line != line.strip() or not line.isprintable():
            raise ValueError("remove the blanks at its ends and anything that cannot be printed")
        if not re.fullmatch(pattern, line):
            guess = nearest(line, names)
            raise ValueError(f"write {guess!r}" if guess else "")
        return str.__str__(line)

    return rule, read


def _flag(value: object) -> bool:
    if type(value).__name__ not in {"bool", "bool_"}:  # numpy's is bool_ before numpy 2, and bool since
        raise ValueError
    return bool(value)


FLAG: Check = ("True or False", _flag)


# What torch, other tools and everyday speech call a setting or a value.
_OTHER_WORDS = {
    "frames": "num_frames",
    "video_frames": "num_frames",
    "generator": "seed",
    "steps": "num_inference_steps",
    "num_steps": "num_inference_steps",
    "min_cfg": "min_guidance_scale",
    "guidance_scale": "max_guidance_scale",
    "cfg": "max_guidance_scale",
    "fps_id": "fps",
    "motion": "motion_bucket_id",
    "motion_bucket": "motion_bucket_id",
    "cond_aug": "noise_aug_strength",
    "augmentation_level": "noise_aug_strength",
    "decoding_t": "decode_chunk_size",
    "chunk_size": "decode_chunk_size",
    "checkpoint": "model",
    "torch_dtype": "dtype",
    "precision": "dtype",
    "variant": "dtype",
    "enable_model_cpu_offload": "memory",
    "model-offload": "offload",
    "cpu-offload": "offload",
    "float32": "fp32",
    "float": "fp32",
    "float16": "fp16",
    "half": "fp16",
    "bfloat16": "bf16",
    "float8": "fp8",
    "float8_e4m3fn": "fp8",
    "huggingface": "hub",
    "local": "folder",
    "gpu": "cuda",
    "nvidia": "cuda",
    "metal": "mps",
    "apple": "mps",
}


def nearest(value: object, names: Iterable[str]) -> str | None:
    """Find the name that was probably meant, if any: FP16 and torch.float16 mean fp16."""
    known = {name: name for name in names}
    known |= {word: name for word, name in _OTHER_WORDS.items() if name in known}
    near = difflib.get_close_matches(bare(value).lower().removeprefix("torch."), known, n=1)
    return known[near[0]] if near else None
