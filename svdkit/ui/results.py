"""The clips made in a panel: the newest plays at once, all can be compared, saved, and taken elsewhere."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdkit.errors import SvdkitError
from svdkit.sweep.player import sync_player
from svdkit.ui.parts import as_html, box, on_click, on_value, safe
from svdkit.ui.recipe import python_code, sweep_file, video_bytes
from svdkit.units import format_seconds

if TYPE_CHECKING:
    from svdkit.clip import Clip
    from svdkit.settings import ClipSettings
    from svdkit.ui.photo_form import Photo
    from svdkit.ui.words import Words

_KEPT = 12  # clips that stay to be compared; one of svd-xt is 42 MiB of frames here


@dataclass(frozen=True, kw_only=True)
class Made:
    """A clip with what its provenance does not say.

    Attributes:
        clip: The clip.
        photo: What it was made of.
        model: What ``svdkit.load`` loads for it.
        number: From 1, in the order of making.
        finish: For a draft, the settings to finish it with.
    """

    clip: Clip
    photo: Photo
    model: str
    number: int = 0
    finish: ClipSettings | None = None

    def label(self, words: Words) -> str:
        """One line; with the steps, which tell a draft from what became of it."""
        if self.clip.provenance is None:
            return f"#{self.number} {self.clip.label}"
        settings = self.clip.provenance.settings
        names = ("motion_bucket_id", "num_inference_steps", "seed", "num_frames")
        values = {name: settings[name] for name in names}
        return words("made", number=self.number, model=self.clip.provenance.name, fps=f"{self.clip.fps:g}", **values)

    @property
    def file_name(self) -> str:
        """What to call its video."""
        settings = self.clip.provenance.settings if self.clip.provenance else {}
        return f"clip-{self.number}-seed-{settings.get('seed', 0)}.mp4"


class Results:
    """Shows what was made.

    Args:
        words: Texts.
        picture: What covers the player while a clip is being made.
        folder: Where clips are saved; None offers the download only.
        on_finish: Called with a draft that the user wants at full quality.
    """

    def __init__(self, words: Words, *, picture: Any, folder: Path | None, on_finish: Callable[[Made], object]) -> None:
        import ipywidgets as w

        self._words, self._folder, self._on_finish = words, folder, on_finish
        self._marks: list[tuple[Made, Any]] = []
        self._compared: Sequence[Made] = ()
        self._current: Made | None = None  # what plays, and is saved, downloaded and copied
        self._count = 0
        self._drafts: Sequence[Made] = ()
        self.player = as_html(class_="svdkit-result")
        self.save = w.Button(icon="save")
        self.saved = as_html(class_="svdkit-hint")
        self.code, self.sweep = w.Textarea(disabled=False), w.Textarea(disabled=False)
        for area in (self.code, self.sweep):
            area.add_class("svdkit-code")
        self.copies = [as_html(class_="svdkit-copy") for _ in range(2)]
        pages = [box(*pair, class_="svdkit-recipe") for pair in zip((self.code, self.sweep), self.copies, strict=True)]
        self.recipes = w.Accordion(children=pages, selected_index=None)
        self.drafts = box(class_="svdkit-drafts", row=True)
        self.list = box(class_="svdkit-list")
        self.title, self.hint = as_html(class_="svdkit-heading"), as_html(class_="svdkit-hint")
        self.compare, self.again = w.Button(disabled=True, icon="columns"), w.Button(disabled=True, icon="play")
        self.compared = as_html(class_="svdkit-compared")
        on_click(self.save, self.save_current)
        on_click(self.again, self.show_chosen)
        on_click(self.compare, self.compare_chosen)
        self._after = box(self.save, self.saved, self.recipes, class_="svdkit-after")
        choice = box(self.compare, self.again, class_="svdkit-buttons", row=True)
        self._history = box(self.title, self.hint, self.list, choice, self.compared, class_="svdkit-history")
        stage = box(self.player, picture, class_="svdkit-stage")
        self.widget = box(stage, self.drafts, self._after, self._history, class_="svdkit-results")
        words.bind(self._write)
        self._show_or_hide()

    @property
    def made(self) -> list[Made]:
        """The clips that are kept, newest last."""
        return [made for made, _ in self._marks]

    def add(self, made: Made, *, alone: bool = True) -> Made:
        """Take a clip in and play it; ``alone`` is False for one of several drafts."""
        self._count += 1
        made = Made(**{**vars(made), "number": self._count})
        if alone:
            self._drop_drafts()
        self._list(made)  # first: a clip that cannot be shown, for a full disk, can still be saved elsewhere
        self._play(made)
        return made

    def show_drafts(self, drafts: Sequence[Made]) -> None:
        """Play drafts in step, with a button under them for each."""
        import ipywidgets as w

        self._drop_drafts()
        self._drafts = drafts
        if len(drafts) > 1:
            self.player.value = self._in_step(drafts, columns=2 if len(drafts) == 4 else None)
        buttons = []
        for draft in drafts:
            assert draft.finish is not None  # noqa: S101 - drafts have it
            button = w.Button(
                description=self._words("finish", seed=draft.finish.seed), button_style="info", disabled=True
            )
            on_click(button, partial(self._on_finish, draft))
            buttons.append(button)
        self.drafts.children = tuple(buttons)
        self._show_or_hide()

    def show_chosen(self) -> None:
        """Play an earlier clip again, to save it, download it or take its code; a draft as it is."""
        chosen = [made for made, mark in self._marks if mark.value]
        self._drop_drafts()
        try:
            self._play(chosen[-1])
        except (SvdkitError, OSError) as error:  # one of a callback would vanish
            self.saved.value = f'<span role="alert">{safe(error)}</span>'

    def save_current(self) -> Path | None:
        """Save the clip that is shown, the newest unless another was chosen; the photo of an upload is left out."""
        if self._current is None or self._folder is None:
            return None
        made = self._current
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = made.clip.save(_free(self._folder / made.file_name), keep_photo=bool(made.photo.name))
        except (SvdkitError, OSError) as error:  # one of a callback would vanish
            self.saved.value = f'<span role="alert">{safe(error)}</span>'
            return None
        self.saved.value = safe(self._words("saved", path=path))
        return path

    def compare_chosen(self) -> None:
        """Play the chosen clips in step."""
        self._compared = [made for made, mark in self._marks if mark.value]
        try:
            self.compared.value = self._in_step(self._compared)
        except (SvdkitError, OSError) as error:  # one of a callback would vanish
            self.compared.value = f'<span role="alert">{safe(error)}</span>'

    def _in_step(self, several: Sequence[Made], *, columns: int | None = None) -> str:
        labels = [made.label(self._words) for made in several]
        player = sync_player([made.clip for made in several], labels=labels, columns=columns, texts=self._words.player)
        return player._repr_html_()

    def forget(self) -> None:
        """Take all clips off the page."""
        self._keep([])
        self._compared, self._current = (), None
        self.compared.value = self.saved.value = self.code.value = self.sweep.value = ""
        self._drop_drafts()
        self.player.value = self._empty()
        self._show_or_hide()

    def _drop_drafts(self) -> None:
        """Take the drafts' buttons away; an open widget is kept for ever, and with a button's action its clip."""
        old, self._drafts, self.drafts.children = self.drafts.children, (), ()
        for button in old:
            button.close()

    def _play(self, made: Made) -> None:
        from PIL import Image

        self._current = made
        self._show_or_hide()
        poster = io.BytesIO()
        Image.fromarray(made.clip.frames[0]).save(poster, "JPEG", quality=80)
        video = f"data:video/mp4;base64,{base64.b64encode(video_bytes(made.clip)).decode()}"
        image = f"data:image/jpeg;base64,{base64.b64encode(poster.getvalue()).decode()}"
        label, shape = safe(made.label(self._words)), made.clip.width / made.clip.height
        took = sum(made.clip.provenance.stage_seconds.values()) if made.clip.provenance else 0.0
        download = self._words("download")
        self.player.value = (
            f'<figure><video controls loop muted autoplay playsinline aria-label="{label}" '
            f'style="aspect-ratio:{shape:.4f};--sk-shape:{shape:.4f}" poster="{image}" src="{video}"></video>'
            f"<figcaption>{label} · {format_seconds(took)}</figcaption></figure>"
            f'<a class="svdkit-button" download="{safe(made.file_name)}" href="{video}">{safe(download)}</a>'
        )
        self.saved.value = ""
        self.code.value = python_code(made.clip, made.photo, model=made.model)
        self.sweep.value = sweep_file(made.clip, made.photo, model=made.model)

    def _list(self, made: Made) -> None:
        """Add a clip to those that can be compared; what the user chose stays chosen."""
        import ipywidgets as w

        mark = w.Checkbox(value=False, description=made.label(self._words), indent=False)
        on_value(mark, lambda _: self._enable_compare())
        self._keep([*self._marks[1 - _KEPT :], (made, mark)])

    def _keep(self, marks: list[tuple[Made, Any]]) -> None:
        """List these clips, and close the boxes of those that go."""
        old, self._marks = self.list.children, marks
        self.list.children = tuple(mark for _, mark in marks)
        for mark in old:
            if mark not in self.list.children:
                mark.close()
        self._enable_compare()

    def _enable_compare(self) -> None:
        chosen = sum(mark.value for _, mark in self._marks)
        self.compare.disabled, self.again.disabled = chosen < 2, chosen != 1

    def _show_or_hide(self) -> None:
        self.save.layout.display = "none" if self._folder is None else ""
        one = self._current is not None and not self._drafts  # of several drafts none is the one to save
        for part, shown in ((self._after, one), (self._history, len(self.made) > 1)):
            part.layout.display = "" if shown else "none"

    def _empty(self) -> str:
        return f'<div class="svdkit-empty">{safe(self._words("empty"))}</div>'

    def _write(self) -> None:
        words = self._words
        self.save.description = words("save", folder=self._folder)
        self.recipes.set_title(0, words("code"))
        self.recipes.set_title(1, words("sweep"))
        for copy in self.copies:  # panel.js shows it, and does it
            copy.value = f'<button type="button" class="jupyter-button" hidden>{safe(words("copy"))}</button>'
        self.title.value, self.hint.value = f"<h3>{safe(words('history'))}</h3>", safe(words("compare_hint"))
        self.compare.description, self.again.description = words("compare"), words("show_again")
        for made, mark in self._marks:
            mark.description = made.label(words)
        if self._compared:
            self.compared.value = self._in_step(self._compared)
        if self._drafts:
            self.show_drafts(self._drafts)
        elif self._current:
            self._play(self._current)
        else:
            self.player.value = self._empty()


def _free(path: Path) -> Path:
    """Give a path that no earlier panel has used: with -2, -3 and so on where it has."""
    names = itertools.chain([path], (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2)))
    return next(name for name in names if not name.exists())
