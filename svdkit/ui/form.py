"""What a clip is made of: the photo, with what of it the model will see, and every setting as a slider and a number."""

from __future__ import annotations

import contextlib
import math
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from svdkit.image import Frame, fit, preview_fit, read_image, sample_photos
from svdkit.settings import ClipSettings, clip_preset, presets
from svdkit.ui.parts import Knob, as_html, box, empty_upload, on_value, picture_uri, read_upload, safe

if TYPE_CHECKING:
    from svdkit.models import ModelInfo
    from svdkit.ui.parts import Words

_LOOK_SIDE = 1536  # pixels of the copy that previews are made of: a phone's photo is resampled once, not at each move
_MODES = ("crop", "pad", "stretch")
# Flow on micro by motion bucket, percent of the width a second: means over 8 clips each of bench_results/motion, which
# a test compares with its records.
_MOTION_ON_MICRO = {20: 0.6, 240: 4.7}
_LARGEST_SEED = 2**53 - 1  # what a browser's numbers hold exactly
# From, to, step: what is useful; ClipSettings itself allows more. The first ones are always in view.
_SIMPLE: dict[str, tuple[float, float, float]] = {
    "motion_bucket_id": (1, 255, 1),
    "num_inference_steps": (1, 100, 1),
}
_RANGES = {
    **_SIMPLE,
    "fps": (1, 30, 1),
    "playback_fps": (1.0, 60.0, 0.5),
    "min_guidance_scale": (0.0, 10.0, 0.1),
    "max_guidance_scale": (0.0, 10.0, 0.1),
    "noise_aug_strength": (0.0, 1.0, 0.01),
    "num_frames": (2, 50, 1),
    "decode_chunk_size": (1, 50, 1),
    "height": (16, 2048, 8),
    "width": (16, 2048, 8),
}


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


class _Form:
    """Fields that tell of what the user changes, and not of what the form changes itself."""

    _is_quiet = False

    def _watch(self, widget: Any, action: Callable[[Any], object]) -> None:
        on_value(widget, lambda value: self._is_quiet or action(value))

    @contextlib.contextmanager
    def _quietly(self) -> Iterator[None]:
        before, self._is_quiet = self._is_quiet, True
        try:
            yield
        finally:
            self._is_quiet = before

    def _rename(self, dropdown: Any, options: list[tuple[str, str]]) -> None:
        """Call the values of a dropdown something else; the chosen one stays."""
        with self._quietly():
            chosen, dropdown.options = dropdown.value, options
            dropdown.value = chosen


class PhotoForm(_Form):
    """Choose a photo (upload, path, address, sample) and how it is fitted; shows what will be cut."""

    def __init__(
        self,
        info: ModelInfo,
        words: Words,
        *,
        on_size: Callable[..., object],
        on_error: Callable[[Exception | None], object],
        background: bool = False,
    ) -> None:
        import ipywidgets as w

        self._words, self._on_size, self._on_error, self._background = words, on_size, on_error, background
        self._asked = 0  # photos asked for: one that took long is dropped when another was chosen meanwhile
        self._failed: Any = None  # what could not be read
        self.reading = False
        self.sizes = _sizes_for(info)
        self.height, self.width = info.height, info.width
        samples = sample_photos()
        self.sample = words.name(w.Dropdown(options=[("–", ""), *zip(samples, samples, strict=True)]), "sample")
        self.upload = words.name(w.FileUpload(accept="image/*", multiple=False), "upload")
        self.source = words.name(w.Text(continuous_update=False), "source")
        self.mode = words.name(w.Dropdown(options=_MODES), "fit_mode")
        self.size = words.name(w.Dropdown(options=[*self.sizes, "own_size"]), "size")
        self.focus = {axis: Knob(0, 100, 1, 50) for axis in "xy"}
        self.picture, self.note = as_html("svdkit-photo"), as_html("svdkit-hint")
        hint = words.html("svdkit-hint", "upload_hint")
        self.open(samples[0])
        self._watch(self.sample, self._choose)
        self._watch(self.source, self._choose)
        self._watch(self.upload, lambda files: self.open(self.upload) if files else None)
        self._watch(self.mode, lambda _: self._draw())
        self._watch(self.size, self._choose_size)
        self.source.on_msg(lambda _, message, __: self._retry(message))
        for axis, knob in self.focus.items():
            knob.widget.add_class(f"svdkit-focus-{axis}")
            self._watch(knob.field, lambda _: self._draw())
        fields = (self.sample, self.upload, hint, self.source, self.mode, self.size)
        focus = (knob.widget for knob in self.focus.values())
        self.widget = box("svdkit-form", self.picture, self.note, *fields, *focus)
        words.bind(self._write)

    @property
    def photo(self) -> Photo:
        """The photo of now, fitted as the form says now."""
        across, down = (knob.value / 100 for knob in self.focus.values())
        return Photo(self.image, self.name, self.mode.value, (across, down))

    def open(self, photo: Any) -> None:
        """Read a photo, or that in the upload, and show it; one that cannot be read leaves the last one in place."""
        self._asked += 1
        self._read(photo, self._asked)

    def _read(self, photo: Any, number: int) -> None:
        is_upload, failed = photo is self.upload, None
        try:
            image = read_image(read_upload(photo) if is_upload else photo)
        except Exception as error:  # noqa: BLE001 - of a callback or a thread, where it would vanish
            failed = error
        if number != self._asked:
            return
        self.reading, self._failed = False, photo if failed else None
        if not failed:
            if is_upload:
                image.info = {}  # the file's name stays with the user
            self.image, self.name = image, "" if is_upload else str(photo)
            self._small = image.copy()
            self._small.thumbnail((_LOOK_SIDE, _LOOK_SIDE))
            with self._quietly():  # each of the other photos can be chosen again
                is_sample = self.name in sample_photos()
                self.sample.value, self.source.value = (self.name, "") if is_sample else ("", self.name)
        self._draw()  # also when it failed: the note may say that it is being read
        self._on_error(failed)

    def resize(self, *, height: int, width: int) -> None:
        """Take another size of the clip."""
        if (height, width) != (self.height, self.width):
            self.height, self.width = height, width
            with self._quietly():
                named = (name for name, size in self.sizes.items() if size == (height, width))
                self.size.value = next(named, "own_size")
            self._draw()

    def forget(self) -> None:
        """Take the photo off the page; a sample takes its place."""
        empty_upload(self.upload)
        self.open(sample_photos()[0])

    def _choose(self, name: str) -> None:
        name = name.strip()
        if self._background and name.startswith(("http://", "https://")):
            self._asked += 1
            self.reading = True
            self.note.value = safe(self._words("reading"))
            threading.Thread(target=self._read, args=(name, self._asked), daemon=True).start()
        elif name:
            self.open(name)

    def _retry(self, message: Any) -> None:
        """Try again what failed, at Enter: the field's value has not changed, so it says nothing by itself."""
        if message.get("event") == "submit" and self._failed and self.source.value.strip() == self._failed:
            self._choose(self._failed)

    def _choose_size(self, name: str) -> None:
        if name in self.sizes:
            self.height, self.width = self.sizes[name]
            self._on_size(height=self.height, width=self.width)
            self._draw()

    def _draw(self) -> None:
        """Draw what will be cut."""
        photo, words = self.photo, self._words
        cuts, how = photo.mode == "crop", dict[str, Any](mode=photo.mode, focus=photo.focus)
        source = picture_uri(preview_fit(self._small, height=self.height, width=self.width, **how))
        self.picture.value = f'<img alt="{safe(words("photo_alt"))}" src="{source}">'
        self.note.value = safe(words("focus_hint" if cuts else "nothing_cut"))
        for knob in self.focus.values():
            knob.field.disabled = knob.slider.disabled = not cuts

    def _write(self) -> None:
        words = self._words
        self._rename(self.mode, [(words(name), name) for name in _MODES])
        named = [(words(name, height=size[0], width=size[1]), name) for name, size in self.sizes.items()]
        self._rename(self.size, [*named, (words("own_size"), "own_size")])
        self.source.placeholder = words("source_hint")
        for axis, knob in self.focus.items():
            knob.label(words(f"focus_{axis}"))
        self._draw()


class SettingsForm(_Form):
    """The settings of a clip, to be looked at and changed."""

    def __init__(self, info: ModelInfo, words: Words, *, on_change: Callable[[], object]) -> None:
        import ipywidgets as w

        self._info, self._words, self._on_change = info, words, on_change
        seed = w.BoundedIntText(min=0, max=_LARGEST_SEED, value=secrets.randbelow(2**32))
        self.seed = words.name(seed, "seed")
        self._watch(self.seed, lambda _: on_change())
        self.dice = words.button("dice", self.draw_seed, icon="random")
        self.lock = words.name(w.Checkbox(value=True, indent=False), "lock")
        own = self._fill(ClipSettings())
        self.knobs = {name: Knob(*limits, own[name]) for name, limits in _RANGES.items()}
        for name, knob in self.knobs.items():
            self._watch(knob.field, partial(self._moved, name))
        self.preset = words.name(w.Dropdown(options=["own", *presets(), "custom"]), "preset")
        self._watch(self.preset, self._choose_preset)
        seed = box("svdkit-seed", self.seed, self.dice, self.lock, row=True)
        knobs = [knob.widget for knob in self.knobs.values()]
        self.simple = box("svdkit-form", self.preset, *knobs[: len(_SIMPLE)], seed)
        more = box("svdkit-form", *knobs[len(_SIMPLE) :])
        self.advanced = w.Accordion(children=[more], selected_index=None)
        self.advanced.add_class("svdkit-more")
        words.bind(self._write)

    @property
    def settings(self) -> ClipSettings:
        """What the form says; nothing is open."""
        return ClipSettings(seed=self.seed.value, **{name: knob.value for name, knob in self.knobs.items()})

    def show(self, settings: ClipSettings, *, preset: str = "custom") -> None:
        """Put settings into the form; what they leave open becomes the model's own."""
        full = self._fill(settings)
        with self._quietly():
            self.seed.value, self.preset.value = full.pop("seed"), preset
        self.set(**full)

    def set(self, **values: float) -> None:
        """Put single values into the form, and tell once."""
        with self._quietly():
            for name, value in values.items():
                self.knobs[name].value = value
        self._on_change()

    def draw_seed(self) -> None:
        """Put another seed into the form."""
        self.seed.value = secrets.randbelow(2**32)  # short enough to type

    def _fill(self, settings: ClipSettings) -> dict[str, Any]:
        return settings.resolve(**self._info.clip_defaults, seed=self.seed.value).to_dict()

    def _moved(self, name: str, _: object) -> None:
        """Tell of one changed value; but for the size, which belongs to no preset, it is that preset no more."""
        if name not in {"height", "width"}:
            with self._quietly():
                self.preset.value = "custom"
        self._on_change()

    def _choose_preset(self, name: str) -> None:
        if name != "custom":
            size = {side: self.knobs[side].value for side in ("height", "width")}
            asked = ClipSettings() if name == "own" else clip_preset(name)
            self.show(asked.replace(**size), preset=name)

    def _write(self) -> None:
        words = self._words
        more = {"num_frames": words("trained_frames", own=self._info.num_frames)}
        if self._info.kind == "micro":
            low, high = (f"{value:g} %" for value in _MOTION_ON_MICRO.values())
            more["motion_bucket_id"] = words("curve_micro", low=low, high=high)
        for name, knob in self.knobs.items():
            knob.label(words(name), f"{words(f'{name}_tip')} {more.get(name, '')}".rstrip())
        own, custom = (words("preset_own"), "own"), (words("preset_custom"), "custom")
        self._rename(self.preset, [own, *((name, name) for name in presets()), custom])
        self.advanced.set_title(0, words("advanced"))


def _sizes_for(info: ModelInfo) -> dict[str, tuple[int, int]]:
    """List the sizes to offer, height and width in pixels: the trained one, on its side, and a square of its area."""
    short, long = sorted((info.height, info.width))
    grid = 64 if short % 64 == long % 64 == 0 else 8  # as size_advice has it
    side = max(grid, round(math.sqrt(short * long) / grid) * grid)
    return {"landscape": (short, long), "portrait": (long, short), "square": (side, side)}
