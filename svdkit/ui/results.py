"""The clips made in a panel: the newest plays at once, all can be compared, saved, and taken elsewhere."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdkit.errors import SvdkitError
from svdkit.settings import LoadSettings
from svdkit.sweep.player import sync_player
from svdkit.ui.parts import as_html, as_uri, box, picture_uri, safe, show_if, texts
from svdkit.units import format_seconds

if TYPE_CHECKING:
    from svdkit.clip import Clip, Provenance
    from svdkit.settings import ClipSettings
    from svdkit.ui.form import Photo
    from svdkit.ui.parts import Action, Words

_KEPT = 12  # clips that stay to be compared; one of svd-xt is 42 MiB of frames here


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
    number: int
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
        return words("made", number=self.number, model=self.about.name, **self.about.settings)


@dataclasses.dataclass(eq=False)
class ClipHistory:
    """Shows what was made, under the picture of a run; saves into a folder, where there is one."""

    words: Words
    picture: Any
    folder: Path | None
    on_finish: Action

    def __post_init__(self) -> None:
        import ipywidgets as w

        words, folder = self.words, self.folder
        # Those in view: one clip that plays, and is saved and copied, or several drafts in step; and those beside.
        self._staged, self._compared = list[Made](), list[Made]()
        self._numbers = itertools.count(1)
        self.player, self.saved, self.compared = map(as_html, ("svdkit-result", "svdkit-hint", "svdkit-compared"))
        self.save = words.button("save", self.save_current, icon="save", folder=folder)
        self.compare = words.button("compare", self.compare_chosen, icon="columns")
        self.again = words.button("show_again", self.show_chosen, icon="play")
        self.code, self.sweep = areas = w.Textarea(), w.Textarea()
        copy = '<button type="button" class="jupyter-button" hidden>{}</button>'  # panel.js shows it, and does it
        pages = [
            box("svdkit-recipe", area.add_class("svdkit-code"), words.html("svdkit-copy", "copy", copy))
            for area in areas
        ]
        self.recipes = w.Accordion(children=pages, selected_index=None)
        self.drafts, self.list = box("svdkit-drafts", row=True), box("svdkit-list")
        self._after = box("svdkit-after", self.save, self.saved, self.recipes)
        title, hint = words.html("svdkit-heading", "history", "<h3>{}</h3>"), words.html("svdkit-hint", "compare_hint")
        choice = box("svdkit-buttons", self.compare, self.again, row=True)
        self._history = box("svdkit-history", title, hint, self.list, choice, self.compared)
        stage = box("svdkit-stage", self.player, self.picture)
        self.widget = box("svdkit-results", stage, self.drafts, self._after, self._history)
        words.bind(self._write)

    def add(self, **values: Any) -> Made:
        """Take a clip in, with what ``Made`` needs besides its number, and play it."""
        import ipywidgets as w

        made = Made(number=next(self._numbers), **values)
        mark = w.Checkbox(value=False, description=made.label(self.words), indent=False)
        mark.observe(lambda _: self._enable(), "value")
        # First: a clip that cannot be shown, for a full disk, can still be saved elsewhere.
        mark.made = made
        self._keep((*self.list.children, mark)[-_KEPT:])
        self.show([made])
        return made

    def show(self, staged: list[Made]) -> None:
        """Play one clip, to save it, download it or take its code, or several in step; drafts can be finished."""
        import ipywidgets as w

        for button in self.drafts.children:
            button.close()  # an open widget is kept for ever, and with a button's action its clip
        self._staged, self.drafts.children = staged, ()
        for draft in staged:
            if draft.finish:
                title = self.words("finish", seed=draft.about.settings["seed"])
                button = w.Button(description=title, button_style="info")
                button.on_click(partial(self.on_finish, draft.photo, draft.finish))
                self.drafts.children += (button,)
        self._enable()
        if len(staged) == 1:
            self._play(*staged)
        elif staged:
            self.player.value = self._in_step(staged)
        else:
            self.player.value = f'<div class="svdkit-empty">{safe(self.words("empty"))}</div>'

    def show_chosen(self) -> None:
        """Play an earlier clip again."""
        with _saying(self.saved):
            self.show(self._chosen)

    def save_current(self) -> None:
        """Save the clip that is shown, the newest unless another was chosen; the photo of an upload is left out."""
        if self._staged and self.folder:
            made = self._staged[0]
            with _saying(self.saved):
                self.folder.mkdir(parents=True, exist_ok=True)
                path = self.folder / made.file_name
                while path.exists():  # of an earlier panel
                    path = path.with_stem(f"{path.stem}-2")
                made.clip.save(path, keep_photo=bool(made.photo.name))
                self.saved.value = safe(self.words("saved", path=path))

    def compare_chosen(self) -> None:
        """Play the chosen clips in step."""
        self._compared = self._chosen
        with _saying(self.compared):
            self.compared.value = self._in_step(self._compared)

    def forget(self) -> None:
        """Take all clips off the page."""
        self._compared = []
        for part in (self.compared, self.saved, self.code, self.sweep):
            part.value = ""
        self._keep(())
        self.show([])

    @property
    def made(self) -> list[Made]:
        """The clips that are kept, newest last."""
        return [mark.made for mark in self.list.children]

    @property
    def _chosen(self) -> list[Made]:
        return [mark.made for mark in self.list.children if mark.value]

    def _in_step(self, several: list[Made]) -> str:
        labels, language = [made.label(self.words) for made in several], self.words.language
        clips = [made.clip for made in several]
        return sync_player(clips, labels=labels, texts=texts()["player"][language])._repr_html_()

    def _play(self, made: Made) -> None:
        from PIL import Image

        video = as_uri("video/mp4", _video_bytes(made.clip))
        image = picture_uri(Image.fromarray(made.clip.frames[0]))
        label, shape = safe(made.label(self.words)), made.clip.width / made.clip.height
        took = format_seconds(sum(made.about.stage_seconds.values()))
        self.player.value = (
            f'<figure><video controls loop muted autoplay playsinline aria-label="{label}" '
            f'style="aspect-ratio:{shape:.4f};--sk-shape:{shape:.4f}" poster="{image}" src="{video}"></video>'
            f"<figcaption>{label} · {took}</figcaption></figure>"
            f'<a class="svdkit-button" download="{made.file_name}" href="{video}">{safe(self.words("download"))}</a>'
        )
        self.saved.value = ""
        self.code.value, self.sweep.value = recipes(made)

    def _keep(self, marks: tuple[Any, ...]) -> None:
        """List the clips of these boxes alone; an open box is kept for ever, and its clip with it."""
        for mark in self.list.children:
            if mark not in marks:
                mark.close()
        self.list.children = marks

    def _enable(self) -> None:
        """Show what there is something to do with, and enable what can be done."""
        chosen = len(self._chosen)
        self.compare.disabled, self.again.disabled = chosen < 2, chosen != 1
        show_if(self.folder, self.save)
        show_if(len(self._staged) == 1, self._after)  # of several drafts none is the one to save
        show_if(len(self.list.children) > 1, self._history)

    def _write(self) -> None:
        words = self.words
        for number, name in enumerate(("code", "sweep")):
            self.recipes.set_title(number, words(name))
        for mark in self.list.children:
            mark.description = mark.made.label(words)
        if self._compared:
            self.compared.value = self._in_step(self._compared)
        self.show(self._staged)


@contextlib.contextmanager
def _saying(where: Any) -> Iterator[None]:
    """Say there what goes wrong: an error of a callback would vanish."""
    try:
        yield
    except (SvdkitError, OSError) as error:
        where.value = f'<span role="alert">{safe(error)}</span>'


def _video_bytes(clip: Clip) -> bytes:
    """Give the clip as an mp4 that carries how it was made."""
    with tempfile.TemporaryDirectory() as folder:
        return clip.save(Path(folder) / "clip.mp4", keep_photo=False).read_bytes()


def recipes(made: Made) -> tuple[str, str]:
    """Write the lines that make a clip again, and a file for ``svdkit sweep`` that varies motion and seed around it."""
    import yaml

    photo, loaded, settings = made.photo, made.about.load, dict(made.about.settings)
    usual, name = LoadSettings().to_dict() | {"model": loaded.get("model")}, photo.name or "photo.jpg"
    load = {key: value for key, value in loaded.items() if value != usual.get(key)}
    options = ", ".join([repr(made.model), *(f"{key}={value!r}" for key, value in load.items())])
    pipe = f"svdkit.load({options})" if loaded else "...  # your own pipeline, which svdkit did not load"
    lines = "".join(f"    {key}={value!r},\n" for key, value in settings.items())
    code = (
        f"import svdkit\n\npipe = {pipe}\nsettings = svdkit.ClipSettings(\n{lines})\n"
        f"photo = {name!r}{'' if photo.name else '  # where your upload is'}\n"
        f"clip = svdkit.generate(pipe, photo, settings, fit_mode={photo.mode!r}, focus={photo.focus!r})\n"
        'clip.save("clip.mp4")\n'
    )
    if not loaded:
        return code, "# a sweep loads its model itself: it cannot use a pipeline that svdkit did not load\n"
    bucket, seed = settings.pop("motion_bucket_id"), settings.pop("seed")
    motion = sorted({max(1, bucket // 2), bucket, min(255, bucket * 3 // 2)})
    values: dict[str, Any] = {
        "photos": [name],
        "load": {"model": made.model, **load},
        "clip": settings,
        "fit_mode": photo.mode,
        **({"focus": list(photo.focus)} if photo.mode == "crop" else {}),
        "axes": {"motion_bucket_id": motion, "seed": [seed, seed + 1, seed + 2]},
        "results": "bench_results/from_panel",
    }
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, default_flow_style=None)
    upload = "" if photo.name else f"# {name} stands for your upload\n"
    return code, f"# svdkit sweep this_file.yml\n{upload}{text}"
