"""Which photo, and what of it the model will see."""

from __future__ import annotations

import base64
import io
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from svdkit.errors import SvdkitError
from svdkit.image import Frame, fit, preview_fit, read_image, sample_photos
from svdkit.ui.parts import Knob, as_html, box, empty_upload, on_value, read_upload, safe

if TYPE_CHECKING:
    from PIL import Image

    from svdkit.models import ModelInfo
    from svdkit.ui.words import Words

_LOOK_SIDE = 1536  # pixels of the copy that previews are made of: a phone's photo is resampled once, not at each move


@dataclass(frozen=True)
class Photo:
    """A photo and how it is to be fitted; it stays as it is while the form moves on.

    Attributes:
        image: RGB.
        name: A sample, a path or an address; empty for an upload.
        mode: "crop", "pad" or "stretch".
        focus: (x, y), each 0 to 1.
    """

    image: Any = field(repr=False)
    name: str
    mode: str = "crop"
    focus: tuple[float, float] = (0.5, 0.5)

    def fitted(self, *, height: int, width: int) -> Frame:
        """Fit it to a size in pixels."""
        return fit(self.image, height=height, width=width, mode=self.mode, focus=self.focus)


class PhotoForm:
    """Choose a photo (upload, path, address, sample) and how it is fitted; shows what will be cut.

    Args:
        info: Of the model, for its sizes.
        words: Texts.
        on_change: Called after another photo or fit was chosen.
        on_size: Called with height and width when a size was chosen.
        on_error: Called with an error of reading; None when a photo was read.
        background: Whether an address is fetched on a thread, for that may take a while.
    """

    def __init__(
        self,
        info: ModelInfo,
        words: Words,
        *,
        on_change: Callable[[], object],
        on_size: Callable[[int, int], object],
        on_error: Callable[[Exception | None], object],
        background: bool = False,
    ) -> None:
        import ipywidgets as w

        self._info, self._words = info, words
        self._on_change, self._on_size, self._on_error = on_change, on_size, on_error
        self._quiet, self._background = False, background
        self._asked = 0  # photos asked for: one that took long is dropped when another was chosen meanwhile
        self._failed = ""  # what stands in the field and could not be read
        self.reading = False
        self.sizes = sizes_for(info)
        self.height, self.width = info.height, info.width
        self.name, self.is_upload = sample_photos()[0], False
        self.image: Image.Image | None = None
        self._small: Image.Image | None = None
        self.sample = w.Dropdown(options=[("–", ""), *((name, name) for name in sample_photos())], value=self.name)
        self.upload = w.FileUpload(accept="image/*", multiple=False)
        self.hint = as_html(class_="svdkit-hint")
        self.source = w.Text(continuous_update=False)
        self.mode = w.Dropdown(options=["crop", "pad", "stretch"])
        self.size = w.Dropdown(options=[""])
        self.focus = {axis: Knob(low=0, high=100, step=1, value=50) for axis in "xy"}
        self.picture = as_html(class_="svdkit-photo")
        self.note = as_html(class_="svdkit-hint")
        on_value(self.sample, self._choose)
        on_value(self.upload, lambda _: self._take_upload())
        on_value(self.source, self._choose)
        self.source.on_msg(lambda _, message, __: self._retry(message))
        on_value(self.mode, lambda _: self._refit())
        on_value(self.size, self._choose_size)
        for axis, knob in self.focus.items():
            knob.widget.add_class(f"svdkit-focus-{axis}")
            on_value(knob.field, lambda _: self._refit())
        fields = (self.sample, self.upload, self.hint, self.source, self.mode, self.size)
        focus = (knob.widget for knob in self.focus.values())
        self.widget = box(self.picture, self.note, *fields, *focus, class_="svdkit-form")
        words.bind(self._write)
        self.open(self.name)

    @property
    def focus_point(self) -> tuple[float, float]:
        """(x, y), each 0 to 1."""
        return self.focus["x"].value / 100, self.focus["y"].value / 100

    @property
    def photo(self) -> Photo:
        """The photo of now, fitted as the form says now."""
        return Photo(self.image, self.name, self.mode.value, self.focus_point)

    def open(self, photo: Any, *, is_upload: bool = False) -> None:
        """Read a photo and show it; one that cannot be read leaves the last one in place."""
        self._asked += 1
        self._read(photo, self._asked, is_upload=is_upload)

    def _read(self, photo: Any, number: int, *, is_upload: bool = False) -> None:
        failed: SvdkitError | None = None
        try:
            image = read_image(photo)
        except SvdkitError as error:
            failed = error
        finally:
            self.reading = self.reading and number != self._asked
        if number != self._asked:
            return
        self._failed = str(photo) if failed and not is_upload else ""
        if failed:
            self._draw()  # the note may say that it is being read
            self._on_error(failed)
            return
        if is_upload:
            image.info = {}  # the file's name stays with the user
        self.image, self.is_upload = image, is_upload
        self.name = "" if is_upload else str(photo)
        self._show_source()
        self._small = image.copy()
        self._small.thumbnail((_LOOK_SIDE, _LOOK_SIDE))
        self._on_error(None)
        self._refit()

    def resize(self, *, height: int, width: int) -> None:
        """Take another size of the clip."""
        if (height, width) != (self.height, self.width):
            self.height, self.width = height, width
            self._quiet = True
            self.size.value = next((name for name, size in self.sizes.items() if size == (height, width)), "own_size")
            self._quiet = False
            self._refit()

    def forget(self) -> None:
        """Take the photo off the page; a sample takes its place."""
        empty_upload(self.upload)
        self.open(sample_photos()[0])

    def _show_source(self) -> None:
        """Let the fields say where the photo is from, so that each of the others can be chosen again."""
        quiet, self._quiet = self._quiet, True
        is_sample = self.name in sample_photos()
        self.sample.value = self.name if is_sample else ""
        self.source.value = "" if is_sample else self.name
        self._quiet = quiet

    def _take_upload(self) -> None:
        try:
            upload = read_upload(self.upload)
        except SvdkitError as error:
            self._on_error(error)
            return
        if upload is not None:
            self.open(upload.data, is_upload=True)

    def _choose(self, name: str) -> None:
        name = name.strip()
        if not name or self._quiet:
            return
        if self._background and name.startswith(("http://", "https://")):
            self._asked += 1
            self.reading = True
            self.note.value = safe(self._words("reading"))
            threading.Thread(target=self._read, args=(name, self._asked), daemon=True).start()
        else:
            self.open(name)

    def _retry(self, message: Any) -> None:
        """Try again what failed, at Enter: the field's value has not changed, so it says nothing by itself."""
        if message.get("event") == "submit" and self._failed and self.source.value.strip() == self._failed:
            self._choose(self._failed)

    def _choose_size(self, name: str) -> None:
        if not self._quiet and name in self.sizes:
            self.height, self.width = self.sizes[name]
            self._on_size(self.height, self.width)
            self._refit()

    def _refit(self) -> None:
        """Draw what will be cut, and tell."""
        if self._small is not None and not self._quiet:
            self._draw()
            self._on_change()

    def _draw(self) -> None:
        if self._small is None:
            return
        cuts, buffer = self.mode.value == "crop", io.BytesIO()
        how = {"mode": self.mode.value, "focus": self.focus_point}
        shown = preview_fit(self._small, height=self.height, width=self.width, **how)
        shown.save(buffer, "JPEG", quality=82)
        source = base64.b64encode(buffer.getvalue()).decode()
        self.picture.value = f'<img alt="{safe(self._words("photo_alt"))}" src="data:image/jpeg;base64,{source}">'
        self.note.value = safe(self._words("focus_hint" if cuts else "nothing_cut"))
        for knob in self.focus.values():
            knob.field.disabled = knob.slider.disabled = not cuts

    def _write(self) -> None:
        words, self._quiet = self._words, True
        chosen = {widget: widget.value for widget in (self.mode, self.size)}
        self.mode.options = [(words(name), name) for name in ("crop", "pad", "stretch")]
        named = [(words(name, height=size[0], width=size[1]), name) for name, size in self.sizes.items()]
        self.size.options = [*named, (words("own_size"), "own_size")]
        for widget, value in chosen.items():
            widget.value = value or next(iter(self.sizes))
        self._quiet = False
        described = {"sample": self.sample, "source": self.source, "fit_mode": self.mode, "size": self.size}
        for name, widget in described.items():
            widget.description = words(name)
        self.upload.description = words("upload")
        self.source.placeholder = words("source_hint")
        self.hint.value = safe(words("upload_hint"))
        self.focus["x"].label(words("focus_x"))
        self.focus["y"].label(words("focus_y"))
        self._draw()


def sizes_for(info: ModelInfo) -> dict[str, tuple[int, int]]:
    """List the sizes to offer, height and width in pixels: the trained one, on its side, and a square of its area.

    Example:
        >>> sizes_for(find_model("svd-xt"))
        {'landscape': (576, 1024), 'portrait': (1024, 576), 'square': (768, 768)}
    """
    short, long = sorted((info.height, info.width))
    grid = 64 if short % 64 == long % 64 == 0 else 8  # as size_advice has it
    side = max(grid, round(math.sqrt(short * long) / grid) * grid)
    return {"landscape": (short, long), "portrait": (long, short), "square": (side, side)}
