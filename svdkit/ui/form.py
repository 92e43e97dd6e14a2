"""What a clip is made of: the photo, with what of it the model will see, and every setting as a slider and a number."""

from __future__ import annotations

import math
import secrets
import threading
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from svdkit.image import Frame, fit, preview_fit, read_image, sample_photos
from svdkit.settings import ClipSettings, clip_preset, presets
from svdkit.ui.parts import as_html, box, knob, picture_uri, read_upload, safe

if TYPE_CHECKING:
    from svdkit.models import ModelInfo
    from svdkit.ui.parts import Action, Words

_LOOK_SIDE = 1536  # pixels of the copy that previews are made of: a phone's photo is resampled once, not at each move
_MODES = ("crop", "pad", "stretch")
_LARGEST_SEED = 2**53 - 1  # what a browser's numbers hold exactly
_ALWAYS_SHOWN = 2  # of the following; the others are folded away
# From, to, step: what is useful; ClipSettings itself allows more.
_RANGES = {
    "motion_bucket_id": (1, 255, 1),
    "num_inference_steps": (1, 100, 1),
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
    mode: str
    focus: tuple[float, float]

    def fitted(self, *, height: int, width: int) -> Frame:
        """Fit it to a size in pixels."""
        return fit(self.image, height=height, width=width, mode=self.mode, focus=self.focus)


@dataclass(eq=False)
class PhotoForm:
    """Choose a photo (upload, path, address, sample) and how it is fitted; shows what will be cut.

    Attributes:
        size: Height and width of the clip, in pixels.
        on_error: Hears of what could not be read; of None when all is well.
        background: Whether an address is read in a thread: a server may take its time.
        reading: Whether that is going on.
    """

    words: Words
    size: dict[str, Any]
    on_error: Action
    background: bool

    def __post_init__(self) -> None:
        import ipywidgets as w

        words, self.reading = self.words, False
        self._wanted: Any = None  # the photo asked for last: one that took long is dropped when it is another
        self._failed: Any = None  # what could not be read
        upload, source = w.FileUpload(accept="image/*", multiple=False), w.Text(continuous_update=False)
        self.sample = words.field(w.Dropdown(options=["", *sample_photos()]), "sample", self._choose)
        self.upload = words.field(upload, "upload", lambda files: self.open(upload) if files else None)
        self.source = words.field(source, "source", self._choose)
        self.mode = words.field(w.Dropdown(options=_MODES), "fit_mode", self._draw)
        source.on_msg(self._retry)
        self.picture, self.note = as_html("svdkit-photo"), as_html("svdkit-hint")
        hint = words.html("svdkit-hint", "upload_hint")
        rows = [self.picture, self.note, self.sample, upload, hint, source, self.mode]
        self.focus = []
        for axis in "xy":
            number, row = knob(0, 100, 1, 50)
            self.focus.append(words.field(number, f"focus_{axis}", self._draw))
            rows.append(row.add_class(f"svdkit-focus-{axis}"))
        self.widget = box("svdkit-form", *rows)
        self.open(sample_photos()[0])
        words.bind(self._write)

    @property
    def photo(self) -> Photo:
        """The photo of now, fitted as the form says now."""
        across, down = (number.value / 100 for number in self.focus)
        return Photo(self.image, self.name, self.mode.value, (across, down))

    def open(self, photo: Any) -> None:
        """Read a photo, or that in the upload, and show it; one that cannot be read leaves the last one in place."""
        self._wanted, failed = photo, None
        try:
            self._read(photo)
        except Exception as error:  # noqa: BLE001 - of a callback or a thread, where it would vanish
            failed = error
        if photo is self._wanted:
            self.reading, self._failed = False, photo if failed else None
            self._draw()  # also when it failed: the note may say that it is being read
            self.on_error(failed)

    def resize(self, **size: int) -> None:
        """Show what is cut at another size of the clip, in pixels."""
        if size != self.size:
            self.size = size
            self._draw()

    def _read(self, photo: Any) -> None:
        is_upload = photo is self.upload
        image = read_image(read_upload(photo) if is_upload else photo)
        if photo is not self._wanted:
            return
        if is_upload:
            image.info = {}  # the file's name stays with the user
        self.image, self.name = image, "" if is_upload else str(photo)
        self._small = image.copy()
        self._small.thumbnail((_LOOK_SIDE, _LOOK_SIDE))
        with self.words.quietly:  # each of the other photos can be chosen again
            is_sample = self.name in sample_photos()
            self.sample.value, self.source.value = (self.name, "") if is_sample else ("", self.name)

    def _choose(self, name: str) -> None:
        name = name.strip()
        if self.background and name.startswith(("http://", "https://")):
            self._wanted, self.reading = name, True
            self.note.value = safe(self.words("reading"))
            threading.Thread(target=self.open, args=(name,), name="svdkit-photo", daemon=True).start()
        elif name:
            self.open(name)

    def _retry(self, _: Any, message: Any, __: Any) -> None:
        """Try again what failed, at Enter: the field's value has not changed, so it says nothing by itself."""
        if message.get("event") == "submit" and self._failed == self.source.value.strip():
            self._choose(self._failed)

    def _draw(self, _: object = None) -> None:
        """Draw what will be cut."""
        photo, words = self.photo, self.words
        shown, cuts = preview_fit(self._small, **self.size, mode=photo.mode, focus=photo.focus), photo.mode == "crop"
        self.picture.value = f'<img alt="{safe(words("photo_alt"))}" src="{picture_uri(shown)}">'
        self.note.value = safe(words("focus_hint" if cuts else "nothing_cut"))
        for number in self.focus:
            number.disabled = not cuts

    def _write(self) -> None:
        self.words.rename(self.mode, [(self.words(name), name) for name in _MODES])
        self.source.placeholder = self.words("source_hint")
        self._draw()


@dataclass(eq=False)
class SettingsForm:
    """The settings of a clip, to be looked at and changed."""

    words: Words
    info: ModelInfo
    on_change: Action

    def __post_init__(self) -> None:
        import ipywidgets as w

        words, info = self.words, self.info
        seed = w.BoundedIntText(min=0, max=_LARGEST_SEED, value=secrets.randbelow(2**32))
        self.fields = {"seed": words.field(seed, "seed", lambda _: self.on_change())}
        own, rows = self._fill(ClipSettings()), []
        more = {"num_frames": "trained_frames", "motion_bucket_id": f"curve_{info.kind}"}
        for name, limits in _RANGES.items():
            number, row = knob(*limits, own[name])
            moved = partial(self._moved, name)
            self.fields[name] = words.field(number, name, moved, more=more.get(name, ""), own=info.num_frames)
            rows.append(row)
        self.preset = words.field(w.Dropdown(options=["own"]), "preset", self._choose_preset)
        self.sizes = [
            words.button(name, partial(self.set, **size), icon="crop", **size)
            for name, size in _sizes_for(info).items()
        ]
        self.dice = words.button("dice", self.draw_seed, icon="random")
        self.lock = words.name(w.Checkbox(value=True, indent=False), "lock")
        row = box("svdkit-seed", seed, self.dice, self.lock, row=True)
        sizes = box("svdkit-buttons", *self.sizes, row=True)
        self.simple = box("svdkit-form", self.preset, sizes, *rows[:_ALWAYS_SHOWN], row)
        folded = box("svdkit-form", *rows[_ALWAYS_SHOWN:])
        self.advanced = w.Accordion(children=[folded], selected_index=None).add_class("svdkit-more")
        words.bind(self._write)

    @property
    def settings(self) -> ClipSettings:
        """What the form says; nothing is open."""
        return ClipSettings(**{name: number.value for name, number in self.fields.items()})

    @property
    def size(self) -> dict[str, int]:
        """Height and width, also while the settings do not go together."""
        return {side: self.fields[side].value for side in ("height", "width")}

    def show(self, settings: ClipSettings, *, preset: str = "custom") -> None:
        """Put settings into the form; what they leave open becomes the model's own."""
        self.set(preset=preset, **self._fill(settings))

    def set(self, *, preset: str = "", **values: float) -> None:
        """Put single values into the form, and tell once."""
        with self.words.quietly:
            self.preset.value = preset or self.preset.value
            for name, value in values.items():
                self.fields[name].value = value
        self.on_change()

    def draw_seed(self) -> None:
        """Put another seed into the form."""
        self.set(seed=secrets.randbelow(2**32))  # short enough to type

    def _fill(self, settings: ClipSettings) -> dict[str, Any]:
        return settings.resolve(**self.info.clip_defaults, seed=self.fields["seed"].value).to_dict()

    def _moved(self, name: str, value: float) -> None:
        """Tell of one changed value; but for the size, which belongs to no preset, it is that preset no more."""
        self.set(preset="" if name in {"height", "width"} else "custom", **{name: value})

    def _choose_preset(self, name: str) -> None:
        if name != "custom":
            asked = ClipSettings() if name == "own" else clip_preset(name)
            self.show(asked.replace(**self.size), preset=name)

    def _write(self) -> None:
        words, names = self.words, [(name, name) for name in presets()]
        self.words.rename(self.preset, [(words("preset_own"), "own"), *names, (words("preset_custom"), "custom")])
        self.advanced.set_title(0, words("advanced"))


def _sizes_for(info: ModelInfo) -> dict[str, dict[str, Any]]:
    """Name the sizes to offer, in pixels: the trained one, on its side, and a square of its area."""
    short, long = sorted((info.height, info.width))
    side = round(math.sqrt(short * long) / 8) * 8
    sizes = {"landscape": (short, long), "portrait": (long, short), "square": (side, side)}
    return {name: {"height": height, "width": width} for name, (height, width) in sizes.items()}
