"""The panel: a shell of widgets around the functions that a notebook calls by hand."""

from __future__ import annotations

import json
import os
import secrets
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdkit.environment import default_model, notebook_kind
from svdkit.errors import Cancelled, SvdkitError
from svdkit.given import user_path
from svdkit.image import sample_photos
from svdkit.ui.form import Photo, PhotoForm, SettingsForm
from svdkit.ui.parts import Words, as_html, box, safe, texts
from svdkit.ui.results import ClipHistory
from svdkit.ui.run import Outlook, RunControl
from svdkit.ui.studio import APP, RemoteStudio, Studio

if TYPE_CHECKING:
    from svdkit.settings import ClipSettings
    from svdkit.ui.parts import Action

_ASSETS = Path(__file__).parent / "assets"
_DRAFTS, _DRAFT_STEPS = 4, 8  # at 8 steps the scene and its motion are those of 25, and the details are not


class Panel:
    """Show sliders and buttons for making clips: what the functions of svdkit do, without writing them.

    Panels of one pipeline wait for each other, and so does a call of ``svdkit.generate`` on it in another cell.

    Keep the pipeline in a variable: a panel lets it go with that variable, so that another fits into the memory, and
    loads it again, as ``svdkit.load`` made it, when a clip is wanted after all.

    Args:
        pipe: A pipeline from ``svdkit.load``; or what it takes (a name, a folder, LoadSettings), which is then loaded
            when the first clip is wanted. None: the pipeline that ``svdkit app`` holds, else svd-xt where a GPU can
            hold it, else micro.
        folder: Where "Save" writes, made then; None for a download only.
        language: ``"en"`` or ``"zh"``; a switch is in the panel. None: as ``svdkit app`` was started, else English.
        background: Whether runs are threads, so that they can be stopped and the notebook stays free. None: yes, but
            for Colab, where updates from a thread do not show.
        hourly_price: Of this machine, from 0, for what a clip costs; it can be changed in the panel.
        currency: ISO 4217 code of the price; US dollars when left out.

    Attributes:
        photo: The photo's form.
        form: The settings' form.
        outlook: The forecast.
        runner: Start, stop, progress.
        results: The clips.
        widget: All of it, an ipywidgets box; a notebook shows it when the panel is a cell's last line.

    Raises:
        ModelError: There is no such model.
        SettingsError: There is no such language.

    Example:
        >>> panel(pipe)
        Panel(micro, 0 clips)
    """

    def __init__(
        self,
        pipe: Any = None,
        *,
        folder: str | Path | None = "outputs/panel",
        language: str | None = None,
        background: bool | None = None,
        hourly_price: float | None = None,
        currency: str | None = None,
    ) -> None:
        import ipywidgets as w

        app = json.loads(os.environ.get(APP, "{}")) if pipe is None else {}
        self.studio: Studio | RemoteStudio = (
            RemoteStudio(port=app["port"], key=bytes.fromhex(app["key"])) if app else Studio(pipe or default_model())
        )
        info, words = self.studio.info, Words(language or app.get("language", "en"))
        self.words, self._id = words, f"svdkit-{secrets.token_hex(6)}"
        self._page = object()  # another one when the page is cleared: a run that began before shows nothing any more
        self._showing = threading.Lock()
        background = notebook_kind() != "colab" if background is None else background
        self.runner = RunControl(words, background, on_turn=self._look)
        where = None if folder is None else user_path(folder)
        self.results = ClipHistory(words, self.runner.picture, where, on_finish=self._finish)
        self.results.drafts.observe(lambda _: self._look(), "children")
        self.form = SettingsForm(words, info, on_change=self._look)
        self.photo = PhotoForm(words, self.form.size, on_error=self.runner.show_error, background=background)
        self.outlook = Outlook(
            words,
            info,
            asked=lambda: (self.form.settings, self.studio.load),
            on_apply=partial(self.form.set, preset="custom"),
            currency=currency or app.get("currency", "USD"),
            hourly_price=app.get("hourly_price", 0.0) if hourly_price is None else hourly_price,
        )
        self.start = words.button("start", self.make, icon="play", style="primary")
        self.drafts = words.button("drafts", self.make_drafts, icon="th-large", steps=_DRAFT_STEPS)
        self.small = words.name(w.Checkbox(value=False, indent=False), "small_drafts")
        self.forget = words.button("forget", self._forget, icon="trash")
        languages = [(title, name) for name, title in texts()["languages"].items()]
        self.language = words.field(w.Dropdown(options=languages, value=words.language), "language", words.switch)
        self.title, self.note = as_html("svdkit-title"), as_html("svdkit-hint")
        self.widget = self._laid_out()
        words.bind(self._write)
        if app:
            self.prepare()

    def make(self, settings: ClipSettings | None = None) -> bool:
        """Make one clip with the settings of the form, or others; False while another run is going on.

        What others leave open, such as the size, is as in the form. The panel says what goes wrong.
        """

        def clip() -> list[ClipSettings]:
            if not self.form.lock.value:
                self.form.draw_seed()
            form = self.form.settings
            own = {name: getattr(form, name) for name in (*self.studio.info.clip_defaults, "seed")}
            return [(settings or form).resolve(**own)]

        return self._run(clip)

    def make_drafts(self) -> bool:
        """Make four quick clips with different seeds, to choose one from; False as in ``make``."""

        def clips() -> list[ClipSettings]:
            form = self.form.settings
            return [form, *(form.replace(seed=secrets.randbelow(2**32)) for _ in range(_DRAFTS - 1))]

        return self._run(clips, draft=True)

    def _finish(self, photo: Photo, settings: ClipSettings, _: object) -> None:
        """Make the clip of a draft at full quality, of the photo it was made of; its seed is kept in the form."""
        if not self.runner.can_start:
            return
        self.form.lock.value = True
        self.form.show(settings)
        self._run(lambda: [settings], photo=photo)

    def _run(self, wanted: Action, *, photo: Photo | None = None, draft: bool = False) -> bool:
        """Make clips, or drafts of them, of a photo or that of the form."""
        whole = self._check(wanted, photo)
        if whole is None:
            return False
        page, photo = self._page, photo or self.photo.photo
        clips = [self._draft_of(settings) if draft else settings for settings in whole]

        def show(action: Action) -> Any:
            with self._showing:
                if page is not self._page:
                    raise Cancelled("cleared; nothing was kept")
                return action()

        def work(tell: Any, stop: Any) -> str:
            made: list[Any] = []
            try:
                for number, (asked, settings) in enumerate(zip(clips, whole, strict=True), 1):
                    frame = photo.fitted(height=asked.height or 0, width=asked.width or 0)
                    if draft:
                        self.runner.part = self.words("draft_of", number=number, count=len(whole))
                    clip = self.studio.run(frame, asked, tell=tell, stop=stop)
                    new = {"clip": clip, "photo": photo, "model": self.studio.model}
                    new["finish"] = settings if draft else None
                    made.append(show(partial(self.results.add, **new)))
                    self.outlook.learn(clip)
            except (Cancelled, KeyboardInterrupt):
                if not made:
                    raise
                return "stopped_part"
            finally:
                if draft and made:
                    show(partial(self.results.show, made))
            return "done"

        return self.runner.start(work)

    def _check(self, wanted: Action, photo: Photo | None) -> list[ClipSettings] | None:
        """What is to be made, as the form says at the click; None where nothing can begin, which the panel says."""
        if not self.runner.can_start:
            return None
        try:
            if photo is None and self.photo.reading:
                raise SvdkitError(self.words("still_reading"))  # noqa: TRY301 - it is shown like all others
            found: list[ClipSettings] = wanted()
        except SvdkitError as error:
            self.runner.show_error(error)
            return None
        return found

    def _draft_of(self, settings: ClipSettings) -> ClipSettings:
        shrunk: dict[str, Any] = {"num_inference_steps": min(_DRAFT_STEPS, settings.num_inference_steps or 1)}
        if self.small.value:
            shrunk |= {side: max(16, getattr(settings, side) // 16 * 8) for side in ("height", "width")}
        return settings.replace(**shrunk)

    def _forget(self) -> None:
        self.runner.ask_to_stop()
        with self._showing:
            self._page = object()
            self.photo.open(sample_photos()[0])
            self.results.forget()

    def prepare(self) -> None:
        """Load the model now, in the background, so that the first clip need not wait for it."""

        def load(*_: object) -> str:
            self.studio.prepare(self.runner.tell)
            return "ready"

        self.runner.start(load, doing="idle_loading")

    def _look(self) -> None:
        """After any change: the size to the photo, the forecast, what can be pressed."""
        self.photo.resize(**self.form.size)
        self.outlook.show()
        for button in (self.start, self.drafts, *self.results.drafts.children):
            button.disabled = self.runner.busy

    def _laid_out(self) -> Any:
        heading = partial(self.words.html, "svdkit-heading", shape="<h3>{}</h3>")
        head = box("svdkit-head", self.title, self.language, row=True)
        settings = box("svdkit-form", heading("settings"), self.form.simple, self.form.advanced)
        buttons = box("svdkit-buttons", self.start, self.runner.stop, self.drafts, self.small, row=True)
        outcome = (buttons, self.runner.widget, self.results.widget, self.forget, self.note)
        right = box("svdkit-column", settings, heading("outlook"), self.outlook.widget, *outcome)
        columns = box("svdkit-columns", box("svdkit-column", self.photo.widget), right)
        return box("svdkit-panel", head, columns).add_class(self._id)

    def _write(self) -> None:
        words, info = self.words, self.studio.info
        note = words("title_micro") if info.kind == "micro" else safe(info.title)
        if self.studio.load.weights == "random":
            note = f"{note} {words('title_random')}"
        data = f'data-language="{words.language}" data-too-large="{safe(words("too_large"))}"'  # for panel.js
        self.title.value = f'<h2>{safe(words("title"))}</h2><p>{note}</p><span class="svdkit-language" {data}></span>'
        notes = ["saved_note"] if self.runner.background else ["stop_foreground", "saved_note"]
        self.note.value = safe(" ".join(map(words, notes)))

    def __repr__(self) -> str:
        return f"Panel({self.studio.info.name}, {len(self.results.made)} clips)"

    def _ipython_display_(self) -> None:
        """Show the style, the script that names sliders for screen readers, and the widgets."""
        from IPython.display import HTML, display

        names = ["panel.css", "page.css"] if isinstance(self.studio, RemoteStudio) else ["panel.css"]
        style = "".join((_ASSETS / name).read_text(encoding="utf-8") for name in names)
        script = (_ASSETS / "panel.js").read_text(encoding="utf-8")
        display(HTML(f"<style>{style}</style><script>{script.replace('PANEL', self._id)}</script>"), self.widget)


panel = Panel
