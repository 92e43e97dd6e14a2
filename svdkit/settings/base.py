"""What all settings have in common: checked when built, all problems at once, plain JSON both ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from svdkit.errors import SettingsError
from svdkit.settings.check import Check, nearest, shown

if TYPE_CHECKING:
    from typing_extensions import Self


def setting(default: Any, check: Check) -> Any:
    """Declare one field of a settings class: its default, and its check (see check.py)."""
    return dataclasses.field(default=default, metadata={"check": check})


class Settings:
    """Base of frozen settings whose fields are all made by :func:`setting`.

    Example:
        >>> from svdkit.settings import ClipSettings
        >>> ClipSettings(fps=10).to_dict()["fps"]
        10
    """

    _also_known_as: ClassVar[Mapping[str, str]] = {}
    _kinds: ClassVar[list[type[Settings]]] = []

    def __init_subclass__(cls) -> None:
        Settings._kinds.append(cls)

    def __new__(cls, *positions: object, **values: object) -> Self:
        """Refuse positions and unknown names; a dataclass's own __init__ would raise a bare TypeError."""
        if positions:
            first = next(iter(_names(cls)))
            raise SettingsError(f"{cls.__name__} takes names, not positions: write {cls.__name__}({first}=…)")
        if not values.keys() <= _names(cls).keys():
            raise SettingsError.of(cls.__name__, cls._judge(values)[1])
        return super().__new__(cls)

    def __post_init__(self) -> None:
        clean, problems = self._judge(self.to_dict())
        problems += self._clashes(clean)
        if problems:
            raise SettingsError.of(type(self).__name__, problems)
        for name, value in clean.items():
            object.__setattr__(self, name, value)

    def to_dict(self) -> dict[str, Any]:
        """Give the settings as plain JSON values, in the order of the fields.

        Returns:
            A dict that :meth:`from_dict` turns into equal settings; equal settings give equal JSON text.

        Example:
            >>> from svdkit.settings import ClipSettings
            >>> list(ClipSettings().to_dict())[:3]
            ['height', 'width', 'num_frames']
        """
        return {name: getattr(self, name) for name in _names(type(self))}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build settings from what :meth:`to_dict` gave, or from part of it.

        Args:
            values: Names and values; a name left out takes its default.

        Returns:
            The settings.

        Raises:
            SettingsError: Unknown names, bad values or an impossible combination; all are listed.

        Example:
            >>> from svdkit.settings import ClipSettings
            >>> ClipSettings.from_dict({"fps": 10}).fps
            10
        """
        if not isinstance(values, Mapping):
            raise SettingsError(
                f"{cls.__name__}: from_dict takes a dict of names and values, not {shown(values)}; "
                f"give it what to_dict() returned"
            )
        if not all(isinstance(name, str) for name in values):
            raise SettingsError.of(cls.__name__, cls._judge(values)[1])
        return cls(**values)

    def replace(self, **changes: Any) -> Self:
        """Give a copy with some values changed, checked like new settings.

        Args:
            changes: Names and new values.

        Returns:
            The changed copy.

        Raises:
            SettingsError: Unknown names, bad values or an impossible combination; all are listed.

        Example:
            >>> from svdkit.settings import ClipSettings
            >>> ClipSettings().replace(motion_bucket_id=40).motion_bucket_id
            40
        """
        return type(self)(**{**self.to_dict(), **changes})

    @classmethod
    def _judge(cls, values: Mapping[Any, object]) -> tuple[dict[str, Any], list[str]]:
        """Split values into good ones, as plain Python, and one sentence for each problem."""
        clean: dict[str, Any] = {}
        problems: list[str] = []
        checks = _names(cls)
        for name, value in values.items():
            if name not in checks:
                problems.append(cls._unknown(name))
                continue
            try:
                clean[name] = checks[name](value)
            except ValueError as problem:
                problems.append(f"{name}={shown(value)}: {problem}")
        return clean, problems

    @classmethod
    def _clashes(cls, clean: Mapping[str, Any]) -> list[str]:  # noqa: ARG003 - for subclasses
        """Give one sentence for each combination that cannot work, among the values that are good by themselves."""
        return []

    @classmethod
    def _unknown(cls, name: object) -> str:
        """Say what a name that is not ours probably meant."""
        if not isinstance(name, str):
            return f"{shown(name)} is not a name: names are text"
        homes = [kind.__name__ for kind in cls._kinds if name in _names(kind)]
        guess = nearest(name, _names(cls), also=cls._also_known_as)
        hint = f"the names are {', '.join(_names(cls))}"
        if homes or guess:
            hint = f"it belongs to {homes[0]}" if homes else f"did you mean {guess}?"
        return f"{name[:60]} is not a name here; {hint}"


def _names(kind: type[Settings]) -> dict[str, Check]:
    """Map each field of a settings class to its check, in order."""
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]  # every subclass is a dataclass
    return {field.name: field.metadata["check"] for field in fields}
