"""Every field of ClipSettings as a slider and a number, with presets, and a seed that can be drawn or kept."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from svdkit.settings import ClipSettings, clip_preset, presets
from svdkit.ui.parts import Knob, box, on_click, on_value, set_tooltip

if TYPE_CHECKING:
    from svdkit.models import ModelInfo
    from svdkit.ui.words import Words

# Flow on micro by motion bucket, percent of the width a second: means over 8 clips each of bench_results/motion, which
# a test compares with its records.
MOTION_ON_MICRO = {20: 2.0, 240: 3.7}
_LARGEST_SEED = 2**53 - 1  # what a browser's numbers hold exactly


class _Range(NamedTuple):
    low: float
    high: float
    step: float


# What is useful; ClipSettings itself allows more.
_SIMPLE = {
    "motion_bucket_id": _Range(1, 255, 1),
    "num_inference_steps": _Range(1, 100, 1),
}
_ADVANCED = {
    "fps": _Range(1, 30, 1),
    "playback_fps": _Range(1.0, 60.0, 0.5),
    "min_guidance_scale": _Range(0.0, 10.0, 0.1),
    "max_guidance_scale": _Range(0.0, 10.0, 0.1),
    "noise_aug_strength": _Range(0.0, 1.0, 0.01),
    "num_frames": _Range(2, 50, 1),
    "decode_chunk_size": _Range(1, 50, 1),
    "height": _Range(16, 2048, 8),
    "width": _Range(16, 2048, 8),
}


class SettingsForm:
    """The settings of a clip, to be looked at and changed.

    Args:
        info: Of the model: what is open is filled with its own.
        words: Texts.
        on_change: Called after a change, once for a preset.

    Raises:
        SettingsError: From ``settings``, when values do not go together.
    """

    def __init__(self, info: ModelInfo, words: Words, *, on_change: Callable[[], object]) -> None:
        import ipywidgets as w

        self._info, self._words, self._on_change = info, words, on_change
        self._quiet = False
        self.own = self._fill(ClipSettings())
        self.knobs: dict[str, Knob] = {}
        for name, limits in {**_SIMPLE, **_ADVANCED}.items():
            self.knobs[name] = Knob(**limits._asdict(), value=getattr(self.own, name))
            on_value(self.knobs[name].field, partial(self._moved, name))
        self.seed = w.BoundedIntText(min=0, max=_LARGEST_SEED, value=secrets.randbelow(2**32))
        on_value(self.seed, lambda _: self._changed())
        self.dice = w.Button(icon="random")
        on_click(self.dice, self.draw_seed)
        self.lock = w.Checkbox(value=True, indent=False)
        self.preset = w.Dropdown(options=[("", "own")])
        on_value(self.preset, self._choose_preset)
        seed = box(self.seed, self.dice, self.lock, class_="svdkit-seed", row=True)
        self.simple = box(self.preset, *(self.knobs[name].widget for name in _SIMPLE), seed, class_="svdkit-form")
        more = box(*(self.knobs[name].widget for name in _ADVANCED), class_="svdkit-form")
        self.advanced = w.Accordion(children=[more], selected_index=None)
        self.advanced.add_class("svdkit-more")
        words.bind(self._write)

    @property
    def settings(self) -> ClipSettings:
        """What the form says; nothing is open."""
        return ClipSettings(seed=self.seed.value, **{name: knob.value for name, knob in self.knobs.items()})

    def show(self, settings: ClipSettings) -> None:
        """Put settings into the form; what they leave open becomes the model's own."""
        full = self._fill(settings).to_dict()
        if settings.seed is not None:
            self._set_quietly(self.seed, settings.seed)
        self._name_preset("custom")
        self.set(**{name: full[name] for name in self.knobs})

    def set(self, **values: float) -> None:
        """Put single values into the form, and tell once."""
        for name, value in values.items():
            self._set_quietly(self.knobs[name], value)
        self._changed()

    def _set_quietly(self, widget: Any, value: float) -> None:
        self._quiet = True
        widget.value = value
        self._quiet = False

    def draw_seed(self) -> None:
        """Put another seed into the form."""
        self.seed.value = secrets.randbelow(2**32)  # short enough to type

    def _fill(self, settings: ClipSettings) -> ClipSettings:
        size = {"height": self._info.height, "width": self._info.width, "num_frames": self._info.num_frames}
        return settings.resolve(**size, max_guidance_scale=self._info.max_guidance_scale)

    def _changed(self) -> None:
        if not self._quiet:
            self._on_change()

    def _moved(self, name: str, _: object) -> None:
        """Tell of one changed value; but for the size, which belongs to no preset, it is that preset no more."""
        if not self._quiet and name not in {"height", "width"}:
            self._name_preset("custom")
        self._changed()

    def _name_preset(self, name: str) -> None:
        quiet, self._quiet = self._quiet, True
        self.preset.value = name
        self._quiet = quiet

    def _choose_preset(self, name: str) -> None:
        if self._quiet or name == "custom":
            return
        size = {"height": self.knobs["height"].value, "width": self.knobs["width"].value}
        asked = ClipSettings() if name == "own" else clip_preset(name)
        self.show(asked.replace(**size))
        self._name_preset(name)

    def _write(self) -> None:
        words = self._words
        curve = ""
        if self._info.kind == "micro":
            low, high = (f"{value:g} %" for value in MOTION_ON_MICRO.values())
            curve = words("curve_micro", low=low, high=high)
        for name, knob in self.knobs.items():
            tip = words(f"tip_{name}", curve=curve, own=self._info.num_frames).replace("  ", " ")
            knob.label(words(name), tip)
        self.seed.description, self.lock.description = words("seed"), words("lock")
        set_tooltip(self.seed, words("tip_seed"))
        self.dice.description = words("dice")
        set_tooltip(self.dice, words("dice"))
        self.preset.description = words("preset")
        chosen, self._quiet = self.preset.value, True
        named = [(words("preset_own"), "own"), *((name, name) for name in presets())]
        self.preset.options = [*named, (words("preset_custom"), "custom")]
        self.preset.value = chosen
        self._quiet = False
        self.advanced.set_title(0, words("advanced"))
