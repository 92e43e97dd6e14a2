"""Small pieces of widgets that work alike on ipywidgets 7.7 (Colab) and 8."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any, NamedTuple

from svdkit.errors import ImageError
from svdkit.units import format_bytes

# The websocket of a Jupyter server takes 10 MB a message, and an upload is one message.
LARGEST_UPLOAD_BYTES = 9 * 10**6


class Upload(NamedTuple):
    """A file that the user chose in the browser."""

    name: str
    data: bytes


def on_click(button: Any, action: Callable[[], object]) -> None:
    """Call an action without arguments at each click."""
    button.on_click(lambda _: action())


def on_value(widget: Any, action: Callable[[Any], object]) -> None:
    """Call an action with the new value whenever it changes."""
    widget.observe(lambda change: action(change["new"]), "value")


def set_tooltip(widget: Any, text: str) -> None:
    """Give a widget a tooltip; ipywidgets 7 calls it description_tooltip, but for buttons."""
    name = "tooltip" if widget.has_trait("tooltip") else "description_tooltip"
    if widget.has_trait(name):
        setattr(widget, name, text)


def read_upload(widget: Any) -> Upload | None:
    """Give the file in a FileUpload, and empty the widget, so that no notebook keeps it.

    Returns:
        The newest file; None if there is none.

    Raises:
        ImageError: The file arrived empty, which is what becomes of one that is too large for the connection.
    """
    value = widget.value
    if not value:
        return None
    if isinstance(value, dict):  # ipywidgets 7: name -> metadata and content
        name, entry = list(value.items())[-1]
        size = entry["metadata"].get("size", 0)
    else:  # ipywidgets 8: a tuple of files
        entry = value[-1]
        name, size = entry["name"], entry["size"]
    data = bytes(entry["content"] or b"")
    empty_upload(widget)
    if len(data) < max(1, size):
        raise ImageError(
            f"{name} ({format_bytes(size)}) arrived with {format_bytes(len(data))}: the connection to the notebook "
            f"takes about {format_bytes(LARGEST_UPLOAD_BYTES)} at a time. Copy the file to this machine and give its "
            "path, or make it smaller."
        )
    return Upload(name, data)


def empty_upload(widget: Any) -> None:
    """Take the file out of a FileUpload and out of the state that a notebook may save."""
    if isinstance(widget.value, dict):
        with widget.hold_sync():
            widget.metadata, widget.data, widget._counter = [], [], 0  # noqa: SLF001 - ipywidgets 7 has no other way
    else:
        widget.value = ()


def as_html(text: str = "", *, class_: str = "", **attributes: str) -> Any:
    """Make an HTML widget; its text must be safe already."""
    import ipywidgets as w

    widget = w.HTML(text, **attributes)
    if class_:
        widget.add_class(class_)
    return widget


def safe(text: object) -> str:
    """Escape a text for HTML, line breaks kept."""
    return html.escape(str(text)).replace("\n", "<br>")


def box(*children: Any, class_: str, row: bool = False) -> Any:
    """Stack widgets, or put them in a row, under a class of panel.css."""
    import ipywidgets as w

    made = (w.HBox if row else w.VBox)(list(children))
    made.add_class(class_)
    return made


class Knob:
    """A number as a field with a label and a slider, which follow each other.

    A browser's screen reader knows the field by its label; panel.js gives the slider the same name.

    Args:
        low: Smallest value.
        high: Largest value.
        step: Between values; a whole number makes it a whole number's knob.
        value: To begin with.
    """

    def __init__(self, *, low: float, high: float, step: float, value: float) -> None:
        import ipywidgets as w
        import traitlets

        whole = isinstance(step, int)
        field, slider = (w.BoundedIntText, w.IntSlider) if whole else (w.BoundedFloatText, w.FloatSlider)
        limits = {"min": low, "max": high, "step": step}
        start = min(max(value, low), high)
        self.field = field(value=start, **limits)
        # A message for each pixel of a drag would be a forecast for each: the value is sent when the slider rests.
        self.slider = slider(value=start, readout=False, continuous_update=False, **limits)
        self._link = traitlets.link((self.field, "value"), (self.slider, "value"))
        self.widget = box(self.field, self.slider, class_="svdkit-knob", row=True)

    @property
    def value(self) -> Any:
        """The number."""
        return self.field.value

    @value.setter
    def value(self, value: float) -> None:
        """Set it, within the limits."""
        self.field.value = min(max(value, self.field.min), self.field.max)

    def label(self, text: str, tip: str = "") -> None:
        """Write the label and the tooltip."""
        self.field.description = text
        for widget in (self.field, self.slider):
            set_tooltip(widget, tip or text)
