"""What the panel is made of: its words, and small widgets that work alike on ipywidgets 7.7 (Colab) and 8.

The words are in texts.json, each in every language: {names} in braces are filled in, and a text whose name ends in _tip
is the tooltip of the one without; ``player`` are those of the synchronised player, by language. What a setting means
stands in English where its field is, in ClipSettings.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import html
import io
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from svdkit.errors import ImageError, SettingsError
from svdkit.settings import ClipSettings
from svdkit.units import format_bytes

Action = Callable[..., Any]  # what a click or a change leads to
_LARGEST_UPLOAD_BYTES = 9 * 10**6  # a Jupyter server's websocket takes 10 MB a message, and an upload is one message


@functools.cache
def texts() -> Any:
    """Read all texts: the languages' own names, the texts of the panel by name and language, those of the player."""
    found = json.loads(Path(__file__).with_name("texts.json").read_text("utf-8"))
    for setting in dataclasses.fields(ClipSettings):
        found["texts"][f"{setting.name}_tip"]["en"] = f"{setting.name}: {setting.metadata['help']}"
    return found


class Words:
    """The texts in the language of now; what was bound is written again when that changes.

    Attributes:
        quietly: Held while a form changes its own fields: they tell of what the user changes alone.
    """

    def __init__(self, language: str = "en") -> None:
        self._bound: list[Action] = []
        self.quietly = threading.Lock()
        self.switch(language)

    def __call__(self, name: str, **values: object) -> str:
        """Give a text, with values filled in."""
        return str(texts()["texts"][name][self.language]).format(**values)

    def switch(self, language: str) -> None:
        """Change the language, and write everything again."""
        languages = texts()["languages"]
        if language not in languages:
            known = ", ".join(f"{name!r} ({title})" for name, title in languages.items())
            raise SettingsError(f"language={language!r} is not one of the panel's; give {known}")
        self.language = language
        for write in self._bound:
            write()

    def bind(self, write: Action) -> None:
        """Call something now, and again whenever the language changes: it writes texts where they belong."""
        self._bound.append(write)
        write()

    def name(self, widget: Any, name: str, *, more: str = "", **values: object) -> Any:
        """Describe a widget in every language, with a tooltip where the texts have a tip, or more; return the widget.

        ipywidgets 7 calls a tooltip description_tooltip, but for buttons.
        """

        def write() -> None:
            widget.description = self(name, **values)
            tip = " ".join(self(one, **values) for one in (f"{name}_tip", more) if one in texts()["texts"])
            for trait in ("tooltip", "description_tooltip"):
                if widget.has_trait(trait):
                    setattr(widget, trait, tip)

        self.bind(write)
        return widget

    def field(self, widget: Any, name: str, action: Action, **values: Any) -> Any:
        """Describe a field, and act on each new value that the user puts into it; return it."""
        widget.observe(lambda change: self.quietly.locked() or action(change["new"]), "value")
        return self.name(widget, name, **values)

    def rename(self, dropdown: Any, options: list[Any]) -> None:
        """Call the values of a dropdown something else, as (text, value); the chosen one stays."""
        with self.quietly:
            chosen, dropdown.options = dropdown.value, options
            dropdown.value = chosen

    def button(self, name: str, action: Action, *, icon: str, style: str = "", **values: Any) -> Any:
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


def knob(low: float, high: float, step: float, value: float) -> tuple[Any, Any]:
    """Make a number as a field and a slider, which follow each other within the limits; give the field, and both.

    A browser's screen reader knows the field by its label; panel.js gives the slider the same name and tooltip. A whole
    step makes it a whole number's.
    """
    import ipywidgets as w
    import traitlets

    whole = isinstance(step, int)
    number, bar = (w.BoundedIntText, w.IntSlider) if whole else (w.BoundedFloatText, w.FloatSlider)
    limits = {"min": low, "max": high, "step": step, "value": value}
    # A message for each pixel of a drag would be a forecast for each: the value is sent when the slider rests.
    field, slider = number(**limits), bar(readout=False, continuous_update=False, **limits)
    for trait in ("value", "disabled"):
        traitlets.link((field, trait), (slider, trait))
    return field, box("svdkit-knob", field, slider, row=True)


def read_upload(widget: Any) -> bytes:
    """Give the newest file in a FileUpload, and take it out of the widget, whose state a notebook may save."""
    files = widget.value  # a tuple of files; in ipywidgets 7 a dict by name, of metadata and content
    if is_old := isinstance(files, dict):
        files = tuple(files.values())
    about, data = files[-1].get("metadata", files[-1]), bytes(files[-1]["content"] or b"")
    if is_old:
        with widget.hold_sync():
            widget.metadata, widget.data, widget._counter = [], [], 0  # noqa: SLF001 - there is no other way
    else:
        widget.value = ()
    if len(data) < max(1, about["size"]):
        raise ImageError(
            f"{about['name']} ({format_bytes(about['size'])}) arrived with {format_bytes(len(data))}: the connection "
            f"to the notebook takes about {format_bytes(_LARGEST_UPLOAD_BYTES)} at a time. Copy the file to this "
            "machine and give its path, or make it smaller."
        )
    return data


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


def show_if(condition: object, *widgets: Any) -> None:
    """Show widgets while there is something to do with them."""
    for widget in widgets:
        widget.layout.display = "" if condition else "none"


def as_uri(kind: str, data: bytes) -> str:
    """Put bytes, such as those of an ``image/webp``, into an address that a page shows by itself."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def picture_uri(picture: Any) -> str:
    """Put a PIL picture into an address, as a JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return as_uri("image/jpeg", buffer.getvalue())
