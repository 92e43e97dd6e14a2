"""The panel's texts in the language of now."""

from __future__ import annotations

from collections.abc import Callable

from svdkit.errors import SettingsError
from svdkit.ui.texts import LANGUAGES, PLAYER, TEXTS


class Words:
    """The texts in the language of now; what was bound is written again when that changes.

    Args:
        language: ``"en"`` or ``"zh"``.

    Raises:
        SettingsError: There is no such language.

    Example:
        >>> words = Words("en")
        >>> words("waiting", place=2)
        'waiting: 2 ahead of you'
    """

    def __init__(self, language: str = "en") -> None:
        self._bound: list[Callable[[], object]] = []
        self.language = language
        self.switch(language)

    def __call__(self, name: str, **values: object) -> str:
        """Give a text, with values filled in."""
        return TEXTS[name][list(LANGUAGES).index(self.language)].format(**values)

    @property
    def player(self) -> dict[str, str]:
        """What ``sync_player`` takes as ``texts``."""
        return PLAYER if self.language == "zh" else {}

    def bind(self, write: Callable[[], object]) -> None:
        """Call something now, and again whenever the language changes: it writes texts where they belong."""
        self._bound.append(write)
        write()

    def switch(self, language: str) -> None:
        """Change the language, and write everything again."""
        if language not in LANGUAGES:
            known = ", ".join(f"{name!r} ({title})" for name, title in LANGUAGES.items())
            raise SettingsError(f"language={language!r} is not one of the panel's; give {known}")
        self.language = language
        for write in self._bound:
            write()
