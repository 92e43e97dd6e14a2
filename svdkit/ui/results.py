"""The clips made in a panel: the newest plays at once, all can be compared, saved, and taken elsewhere."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdkit.errors import SvdkitError
from svdkit.settings import LoadSettings
from svdkit.sweep.player import sync_player
from svdkit.ui.parts import as_html, as_uri, box, on_value, picture_uri, safe
from svdkit.units import format_seconds

if TYPE_CHECKING:
    from svdkit.clip import Clip, Provenance
    from svdkit.settings import ClipSettings
    from svdkit.ui.form import Photo
    from svdkit.ui.parts import Words

_KEPT = 12  # clips that stay to be compared; one of svd-xt is 42 MiB of frames here
_UPLOAD = "photo.jpg"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made:
    """A clip with what its provenance does not say.

    Attributes:
        clip: From ``generate``.
        photo: What it was made of.
        model: What ``svdkit.load`` loads for it: a clip's record keeps only the last name of a folder.
        number: From 1, in the order of making.
        finish: For a draft, the settings to finish it with.
    """

    clip: Clip
    photo: Photo
    model: str
    number: int = 0
    finish: ClipSettings | None = None

    @property
    def about(self) -> Provenance:
        """How the clip was made."""
        assert self.clip.provenance is not None  # noqa: S101 - clips of generate have it
        return self.clip.provenance

    @property
    def file_name(self) -> str:
        """What to call its video."""
        return f"clip-{self.number}-seed-{self.about.settings['seed']}.mp4"

    def label(self, words: Words) -> str:
        """One line; with the steps, which tell a draft from what became of it."""
        values = {**self.about.settings, "fps": f"{self.clip.fps:g}"}
        return words("made", number=self.number, model=self.about.name, **values)


class ClipHistory:
    """Shows what was made."""

    def __init__(self, words: Words, *, picture: Any, folder: Path | None, on_finish: Callable[[Made], object]) -> None:
        import ipywidgets as w

        self._words, self._folder, self._on_finish = words, folder, on_finish
        self._marks: dict[Any, Made] = {}  # by the box that chooses it
        self._compared: Sequence[Made] = ()
        self._current: Made | None = None  # what plays, and is saved, downloaded and copied
        self._drafts: Sequence[Made] = ()
        self._numbers = itertools.count(1)
        self.player, self.saved = as_html("svdkit-result"), as_html("svdkit-hint")
        self.save = words.button("save", self.save_current, icon="save", folder=folder)
        self.code, self.sweep = w.Textarea(), w.Textarea()
        copy = '<button type="button" class="jupyter-button" hidden>{}</button>'  # panel.js shows it, and does it
        pages = [
            box("svdkit-recipe", area.add_class("svdkit-code"), words.html("svdkit-copy", "copy", copy))
            for area in (self.code, self.sweep)
        ]
        self.recipes = w.Accordion(children=pages, selected_index=None)
        self.drafts, self.list = box("svdkit-drafts", row=True), box("svdkit-list")
        self.compare = words.button("compare", self.compare_chosen, icon="columns")
        self.again = words.button("show_again", self.show_chosen, icon="play")
        self.compared = as_html("svdkit-compared")
        self._after = box("svdkit-after", self.save, self.saved, self.recipes)
        title, hint = words.html("svdkit-heading", "history", "<h3>{}</h3>"), words.html("svdkit-hint", "compare_hint")
        choice = box("svdkit-buttons", self.compare, self.again, row=True)
        self._history = box("svdkit-history", title, hint, self.list, choice, self.compared)
        stage = box("svdkit-stage", self.player, picture)
        self.widget = box("svdkit-results", stage, self.drafts, self._after, self._history)
        words.bind(self._write)
        self._enable()

    @property
    def made(self) -> list[Made]:
        """The clips that are kept, newest last."""
        return [*self._marks.values()]

    def add(self, made: Made, *, alone: bool = True) -> Made:
        """Take a clip in and play it; ``alone`` is False for one of several drafts."""
        import ipywidgets as w

        made = dataclasses.replace(made, number=next(self._numbers))
        if alone:
            self._drop_drafts()
        mark = w.Checkbox(value=False, description=made.label(self._words), indent=False)
        on_value(mark, lambda _: self._enable())
        # First: a clip that cannot be shown, for a full disk, can still be saved elsewhere.
        self._keep({**self._marks, mark: made})
        self._play(made)
        return made

    def show_drafts(self, drafts: Sequence[Made]) -> None:
        """Play drafts in step, with a button under them for each."""
        import ipywidgets as w

        self._drop_drafts()
        self._drafts = drafts
        if len(drafts) > 1:
            self.player.value = self._in_step(drafts, columns=2 if len(drafts) == 4 else None)
        for draft in drafts:
            title = self._words("finish", seed=draft.about.settings["seed"])
            button = w.Button(description=title, button_style="info", disabled=True)
            button.on_click(lambda _, draft=draft: self._on_finish(draft))
            self.drafts.children += (button,)
        self._enable()

    def show_chosen(self) -> None:
        """Play an earlier clip again, to save it, download it or take its code; a draft as it is."""
        self._drop_drafts()
        with _saying(self.saved):
            self._play(self._chosen[-1])

    def save_current(self) -> None:
        """Save the clip that is shown, the newest unless another was chosen; the photo of an upload is left out."""
        if (made := self._current) and self._folder:
            with _saying(self.saved):
                self._folder.mkdir(parents=True, exist_ok=True)
                path = made.clip.save(_free(self._folder / made.file_name), keep_photo=bool(made.photo.name))
                self.saved.value = safe(self._words("saved", path=path))

    def compare_chosen(self) -> None:
        """Play the chosen clips in step."""
        self._compared = self._chosen
        with _saying(self.compared):
            self.compared.value = self._in_step(self._compared)

    def forget(self) -> None:
        """Take all clips off the page."""
        self._drop_drafts()
        self._compared, self._current = (), None
        for part in (self.compared, self.saved, self.code, self.sweep):
            part.value = ""
        self._keep({})
        self._write()

    @property
    def _chosen(self) -> list[Made]:
        return [made for mark, made in self._marks.items() if mark.value]

    def _in_step(self, several: Sequence[Made], *, columns: int | None = None) -> str:
        labels = [made.label(self._words) for made in several]
        player = sync_player([made.clip for made in several], labels=labels, columns=columns, texts=self._words.player)
        return player._repr_html_()

    def _drop_drafts(self) -> None:
        """Take the drafts' buttons away; an open widget is kept for ever, and with a button's action its clip."""
        old, self._drafts, self.drafts.children = self.drafts.children, (), ()
        for button in old:
            button.close()

    def _play(self, made: Made) -> None:
        from PIL import Image

        self._current = made
        self._enable()
        video = as_uri("video/mp4", _video_bytes(made.clip))
        image = picture_uri(Image.fromarray(made.clip.frames[0]))
        label, shape = safe(made.label(self._words)), made.clip.width / made.clip.height
        took = format_seconds(sum(made.about.stage_seconds.values()))
        self.player.value = (
            f'<figure><video controls loop muted autoplay playsinline aria-label="{label}" '
            f'style="aspect-ratio:{shape:.4f};--sk-shape:{shape:.4f}" poster="{image}" src="{video}"></video>'
            f"<figcaption>{label} · {took}</figcaption></figure>"
            f'<a class="svdkit-button" download="{made.file_name}" href="{video}">{safe(self._words("download"))}</a>'
        )
        self.saved.value = ""
        self.code.value, self.sweep.value = _python_code(made), _sweep_file(made)

    def _keep(self, marks: dict[Any, Made]) -> None:
        """List the newest of these, and close the boxes of those that go; what the user chose stays chosen."""
        old, self._marks = self._marks, dict([*marks.items()][-_KEPT:])
        self.list.children = tuple(self._marks)
        for mark in old.keys() - self._marks.keys():
            mark.close()
        self._enable()

    def _enable(self) -> None:
        """Show what there is something to do with, and enable what can be done."""
        chosen = len(self._chosen)
        self.compare.disabled, self.again.disabled = chosen < 2, chosen != 1
        one = self._current is not None and not self._drafts  # of several drafts none is the one to save
        several = len(self._marks) > 1
        for part, shown in ((self.save, self._folder), (self._after, one), (self._history, several)):
            part.layout.display = "" if shown else "none"

    def _write(self) -> None:
        words = self._words
        self.recipes.set_title(0, words("code"))
        self.recipes.set_title(1, words("sweep"))
        for mark, made in self._marks.items():
            mark.description = made.label(words)
        if self._compared:
            self.compared.value = self._in_step(self._compared)
        if self._drafts:
            self.show_drafts(self._drafts)
        elif self._current:
            self._play(self._current)
        else:
            self.player.value = f'<div class="svdkit-empty">{safe(words("empty"))}</div>'


@contextlib.contextmanager
def _saying(where: Any) -> Iterator[None]:
    """Say there what goes wrong: an error of a callback would vanish."""
    try:
        yield
    except (SvdkitError, OSError) as error:
        where.value = f'<span role="alert">{safe(error)}</span>'


def _free(path: Path) -> Path:
    """Give a path that no earlier panel has used: with -2, -3 and so on where it has."""
    names = itertools.chain([path], (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2)))
    return next(name for name in names if not name.exists())


def _video_bytes(clip: Clip) -> bytes:
    """Give the clip as an mp4 that carries how it was made."""
    with tempfile.TemporaryDirectory() as folder:
        return clip.save(Path(folder) / "clip.mp4", keep_photo=False).read_bytes()


def _python_code(made: Made) -> str:
    """Write the lines that make a clip again."""
    photo, load = made.photo, made.about.load
    options = [repr(made.model), *(f"{name}={value!r}" for name, value in _unusual(load).items())]
    pipe = f"svdkit.load({', '.join(options)})" if load else "...  # your own pipeline, which svdkit did not load"
    settings = "".join(f"    {name}={value!r},\n" for name, value in made.about.settings.items())
    return (
        f"import svdkit\n\npipe = {pipe}\nsettings = svdkit.ClipSettings(\n{settings})\n"
        f"photo = {photo.name or _UPLOAD!r}{'' if photo.name else '  # where your upload is'}\n"
        f"clip = svdkit.generate(pipe, photo, settings, fit_mode={photo.mode!r}, focus={photo.focus!r})\n"
        'clip.save("clip.mp4")\n'
    )


def _sweep_file(made: Made) -> str:
    """Write a file for ``svdkit sweep`` that varies motion and seed around a clip."""
    import yaml

    photo, load, settings = made.photo, made.about.load, dict(made.about.settings)
    if not load:
        return "# a sweep loads its model itself: it cannot use a pipeline that svdkit did not load\n"
    bucket, seed = settings.pop("motion_bucket_id"), settings.pop("seed")
    motion = sorted({max(1, bucket // 2), bucket, min(255, bucket * 3 // 2)})
    values: dict[str, Any] = {
        "photos": [photo.name or _UPLOAD],
        "load": {"model": made.model, **_unusual(load)},
        "clip": settings,
        "fit_mode": photo.mode,
        **({"focus": list(photo.focus)} if photo.mode == "crop" else {}),
        "axes": {"motion_bucket_id": motion, "seed": [seed, seed + 1, seed + 2]},
        "results": "bench_results/from_panel",
    }
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None)
    upload = "" if photo.name else f"# {_UPLOAD} stands for your upload\n"
    return f"# svdkit sweep this_file.yml\n{upload}{text}"


def _unusual(load: dict[str, Any]) -> dict[str, Any]:
    """Leave out the model, and what is as ``load`` chooses by itself."""
    usual = LoadSettings().to_dict()
    return {name: value for name, value in load.items() if name != "model" and value != usual.get(name)}
