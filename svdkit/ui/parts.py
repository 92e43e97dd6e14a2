"""What the panel is made of: its words, and small widgets that work alike on ipywidgets 7.7 (Colab) and 8.

The words are in texts.json, each in every language: {names} in braces are filled in, and a text whose name ends in _tip
is the tooltip of the one without; ``player`` are those of the synchronised player, in Chinese. What a setting means
stands in English where its field is, in ClipSettings.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import html
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from svdkit.errors import ImageError, SettingsError
from svdkit.settings import ClipSettings
from svdkit.units import format_bytes

_LARGEST_UPLOAD_BYTES = 9 * 10**6  # a Jupyter server's websocket takes 10 MB a message, and an upload is one message


@functools.cache
def texts() -> dict[str, Any]:
    """Read all texts: the languages' own names, the texts of the panel by name and language, those of the player."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name("texts.json").read_text("utf-8"))
    for setting in dataclasses.fields(ClipSettings):
        found["texts"][f"{setting.name}_tip"]["en"] = f"{setting.name}: {setting.metadata['help']}"
    return found


class Words:
    """The texts in the language of now; what was bound is written again when that changes."""

    def __init__(self, language: str = "en") -> None:
        self._bound: list[Callable[[], object]] = []
        self.switch(language)

    def __call__(self, name: str, **values: object) -> str:
        """Give a text, with values filled in."""
        text: str = texts()["texts"][name][self.language]
        return text.format(**values)

    @property
    def player(self) -> dict[str, str]:
        """What ``sync_player`` takes as ``texts``."""
        return texts()["player"] if self.language == "zh" else {}

    def switch(self, language: str) -> None:
        """Change the language, and write everything again."""
        languages = texts()["languages"]
        if language not in languages:
            known = ", ".join(f"{name!r} ({title})" for name, title in languages.items())
            raise SettingsError(f"language={language!r} is not one of the panel's; give {known}")
        self.language = language
        for write in self._bound:
            write()

    def bind(self, write: Callable[[], object]) -> None:
        """Call something now, and again whenever the language changes: it writes texts where they belong."""
        self._bound.append(write)
        write()

    def name(self, widget: Any, name: str, **values: object) -> Any:
        """Describe a widget in every language, with a tooltip where the texts have a tip; return the widget."""

        def write() -> None:
            widget.description = self(name, **values)
            if (tip := f"{name}_tip") in texts()["texts"]:
                _set_tooltip(widget, self(tip, **values))

        self.bind(write)
        return widget

    def button(self, name: str, action: Callable[[], object], *, icon: str, style: str = "", **values: object) -> Any:
        """Make a button with a name in every language, for as long as the panel is there."""
        import ipywidgets as w

        made = w.Button(icon=icon, button_style=style)
        made.on_click(lambda _: action())
        return self.name(made, name, **values)

    def html(self, class_: str, name: str, shape: str = "{}") -> Any:
        """Make a widget of HTML with a text in every language, which stands in a tag."""
        made = as_html(class_)
        self.bind(lambda: setattr(made, "value", shape.format(safe(self(name)))))
        return made


class Knob:
    """A number as a field with a label and a slider, which follow each other and keep to the limits.

    A browser's screen reader knows the field by its label; panel.js gives the slider the same name. A whole step makes
    it a whole number's knob.
    """

    def __init__(self, low: float, high: float, step: float, value: float) -> None:
        import ipywidgets as w
        import traitlets

        whole = isinstance(step, int)
        field, slider = (w.BoundedIntText, w.IntSlider) if whole else (w.BoundedFloatText, w.FloatSlider)
        limits = {"min": low, "max": high, "step": step, "value": min(max(value, low), high)}
        self.field = field(**limits)
        # A message for each pixel of a drag would be a forecast for each: the value is sent when the slider rests.
        self.slider = slider(readout=False, continuous_update=False, **limits)
        self._link = traitlets.link((self.field, "value"), (self.slider, "value"))
        self.widget = box("svdkit-knob", self.field, self.slider, row=True)

    @property
    def value(self) -> Any:
        """The number."""
        return self.field.value

    @value.setter
    def value(self, value: float) -> None:
        """Set it."""
        self.field.value = value

    def label(self, text: str, tip: str = "") -> None:
        """Write the label and the tooltip."""
        self.field.description = text
        for widget in (self.field, self.slider):
            _set_tooltip(widget, tip or text)


def on_value(widget: Any, action: Callable[[Any], object]) -> None:
    """Call an action with the new value whenever it changes."""
    widget.observe(lambda change: action(change["new"]), "value")


def _set_tooltip(widget: Any, text: str) -> None:
    """Give a widget a tooltip; ipywidgets 7 calls it description_tooltip, but for buttons."""
    name = "tooltip" if widget.has_trait("tooltip") else "description_tooltip"
    if widget.has_trait(name):
        setattr(widget, name, text)


def read_upload(widget: Any) -> bytes:
    """Give the newest file in a FileUpload, and empty the widget, so that no notebook keeps it."""
    files = widget.value  # a tuple of files; in ipywidgets 7 a dict by name, of metadata and content
    entry = list(files.values() if isinstance(files, dict) else files)[-1]
    about, data = entry.get("metadata", entry), bytes(entry["content"] or b"")
    empty_upload(widget)
    if len(data) < max(1, about["size"]):
        raise ImageError(
            f"{about['name']} ({format_bytes(about['size'])}) arrived with {format_bytes(len(data))}: the connection "
            f"to the notebook takes about {format_bytes(_LARGEST_UPLOAD_BYTES)} at a time. Copy the file to this "
            "machine and give its path, or make it smaller."
        )
    return data


def empty_upload(widget: Any) -> None:
    """Take the file out of a FileUpload and out of the state that a notebook may save."""
    if isinstance(widget.value, dict):
        with widget.hold_sync():
            widget.metadata, widget.data, widget._counter = [], [], 0  # noqa: SLF001 - ipywidgets 7 has no other way
    else:
        widget.value = ()


def as_html(class_: str) -> Any:
    """Make a widget of HTML, under a class of panel.css; what is put into it must be safe already."""
    import ipywidgets as w

    return w.HTML().add_class(class_)


def safe(text: object) -> str:
    """Escape a text for HTML, line breaks kept."""
    return html.escape(str(text)).replace("\n", "<br>")


def box(class_: str, *children: Any, row: bool = False) -> Any:
    """Stack widgets, or put them in a row, under a class of panel.css."""
    import ipywidgets as w

    return (w.HBox if row else w.VBox)(children).add_class(class_)


def as_uri(kind: str, data: bytes) -> str:
    """Put bytes, such as those of an ``image/webp``, into an address that a page shows by itself."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def picture_uri(picture: Any) -> str:
    """Put a PIL picture into an address, as a JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return as_uri("image/jpeg", buffer.getvalue())
