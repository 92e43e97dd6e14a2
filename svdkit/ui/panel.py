"""The panel: a shell of widgets around the functions that a notebook calls by hand."""

from __future__ import annotations

import json
import os
import secrets
import threading
import uuid
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdkit.environment import notebook_kind
from svdkit.errors import Cancelled, SettingsError, SvdkitError
from svdkit.given import user_path
from svdkit.ui.form import Photo, PhotoForm, SettingsForm
from svdkit.ui.parts import Words, as_html, box, on_value, safe, texts
from svdkit.ui.results import ClipHistory, Made
from svdkit.ui.run import Outlook, RunControl
from svdkit.ui.studio import APP, RemoteStudio, Studio

if TYPE_CHECKING:
    from collections.abc import Callable

    from svdkit.settings import ClipSettings
    from svdkit.ui.studio import Tell

_ASSETS = Path(__file__).parent / "assets"
_DRAFTS, _DRAFT_STEPS = 4, 8  # at 8 steps the scene and its motion are those of 25, and the details are not


class Panel:
    """Show sliders and buttons for making clips: what the functions of svdkit do, without writing them.

    Panels of one pipeline wait for each other, and so does a call of ``svdkit.generate`` on it in another cell.

    Keep the pipeline in a variable: a panel lets it go with that variable, so that another fits into the memory, and
    loads it again, as ``svdkit.load`` made it, when a clip is wanted after all.

    Args:
        pipe: A pipeline from ``svdkit.load``; or what it takes (a name, a folder, LoadSettings), which is then loaded
            when the first clip is wanted. None: the pipeline that ``svdkit app`` holds, else micro.
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

        if background is None:
            background = notebook_kind() != "colab"
        app = json.loads(os.environ.get(APP, "{}")) if pipe is None else {}
        self.studio: Studio | RemoteStudio
        if app:
            self.studio = RemoteStudio(port=app["port"], key=bytes.fromhex(app["key"]))
        else:
            self.studio = Studio("micro" if pipe is None else pipe)
        language = language or app.get("language", "en")
        price = app.get("hourly_price", 0.0) if hourly_price is None else hourly_price
        self.words, info = Words(language), self.studio.info
        words = self.words
        self._clash = False  # whether the error shown is of settings that do not go together
        self._clears = 0  # how often the page was cleared: a run that began before that shows nothing any more
        self._showing = threading.Lock()
        self._id = f"svdkit-{uuid.uuid4().hex[:12]}"
        self.runner = RunControl(words, background=background, on_idle=self._look)
        where = None if folder is None else user_path(folder)
        self.results = ClipHistory(words, picture=self.runner.picture, folder=where, on_finish=self._finish)
        self.form = SettingsForm(info, words, on_change=self._look)
        money: dict[str, Any] = {"hourly_price": price, "currency": currency or app.get("currency", "USD")}
        self.outlook = Outlook(info, words, on_apply=self.form.show, **money)
        show_error = self.runner.show_error
        self.photo = PhotoForm(info, words, on_size=self.form.set, on_error=show_error, background=background)
        self.start = words.button("start", self.make, icon="play", style="primary")
        self.drafts = words.button("drafts", self.make_drafts, icon="th-large", steps=_DRAFT_STEPS)
        self.small = words.name(w.Checkbox(value=False, indent=False), "small_drafts")
        self.forget = words.button("forget", self._forget, icon="trash")
        languages = [(title, name) for name, title in texts()["languages"].items()]
        self.language = words.name(w.Dropdown(options=languages, value=language), "language")
        on_value(self.language, words.switch)
        self.title, self.note = as_html("svdkit-title"), as_html("svdkit-hint")
        self.widget = self._laid_out()
        words.bind(self._write)
        self._look()
        if app:
            self.prepare()

    def make(self, settings: ClipSettings | None = None) -> bool:
        """Make one clip with the settings of the form, or others; False if that cannot be, which the panel says.

        What others leave open, such as the size, is as in the form.
        """

        def clip() -> list[ClipSettings]:
            if (settings is None or settings.seed is None) and not self.form.lock.value:
                self.form.draw_seed()
            form = self.form.settings
            own = {name: getattr(form, name) for name in (*self.studio.info.clip_defaults, "seed")}
            return [settings.resolve(**own) if settings else form]

        return self._run(clip)

    def make_drafts(self) -> bool:
        """Make four quick clips with different seeds, to choose one from; False as in ``make``."""

        def clips() -> list[ClipSettings]:
            form = self.form.settings
            return [form, *(form.replace(seed=secrets.randbelow(2**32)) for _ in range(_DRAFTS - 1))]

        return self._run(clips, draft=True)

    def _run(self, wanted: Callable[[], list[ClipSettings]], *, of: Photo | None = None, draft: bool = False) -> bool:
        """Make clips, or drafts of them, of a photo or that of the form, which is not passed over while it is read."""
        if not self.runner.can_start:
            return False
        if of is None and self.photo.reading:
            self.runner.show_error(SvdkitError(self.words("still_reading")))
            return False
        try:
            photo, whole = of or self.photo.photo, wanted()
            clips = [self._draft_of(settings) if draft else settings for settings in whole]
            frames = [photo.fitted(height=one.height or 0, width=one.width or 0) for one in clips]
        except SvdkitError as error:
            self.runner.show_error(error)
            return False
        show = partial(self._show, self._clears)

        def work(tell: Tell, stop: threading.Event) -> None:
            made: list[Made] = []
            self._enable()
            try:
                for number, (frame, settings, finish) in enumerate(zip(frames, clips, whole, strict=True), 1):
                    if draft:
                        self.runner.part(self.words("draft_of", number=number, count=len(clips)))
                    clip = self.studio.run(frame, settings, tell=tell, stop=stop)
                    new = Made(clip=clip, photo=photo, model=self.studio.model, finish=finish)
                    made.append(show(self.results.add, new, alone=not draft))
                    self.outlook.learn(clip)
            except (Cancelled, KeyboardInterrupt):
                if not made:
                    raise
                stop.set()  # an interrupt did not: the runner then says what there is
            finally:
                if made and draft:
                    show(self.results.show_drafts, made)

        return self.runner.start(work)

    def _show(self, clears: int, action: Callable[..., Any], *values: Any, **more: Any) -> Any:
        """Show something of a run that began after so many clears; if there was one since, its clips stay away."""
        with self._showing:
            if clears != self._clears:
                raise Cancelled("cleared; nothing was kept")
            return action(*values, **more)

    def _finish(self, draft: Made) -> None:
        """Make the clip of a draft at full quality, of the photo it was made of; its seed is kept in the form."""
        if (finish := draft.finish) and self.runner.can_start:
            self.form.lock.value = True
            self.form.show(finish)
            self._run(lambda: [finish], of=draft.photo)

    def _draft_of(self, settings: ClipSettings) -> ClipSettings:
        shrunk: dict[str, Any] = {"num_inference_steps": min(_DRAFT_STEPS, settings.num_inference_steps or 1)}
        if self.small.value:
            shrunk |= {side: max(16, getattr(settings, side) // 16 * 8) for side in ("height", "width")}
        return settings.replace(**shrunk)

    def _forget(self) -> None:
        self.runner.ask_to_stop()
        with self._showing:
            self._clears += 1
            self.runner.show_error(None)
            self.photo.forget()
            self.results.forget()

    def _look(self) -> None:
        """After any change: the size to the photo, the forecast, what can be pressed."""
        try:
            settings = self.form.settings
        except SettingsError as error:
            self._clash = True
            self.runner.show_error(error)
            return
        if self._clash:
            self._clash = False
            self.runner.show_error(None)
        if not self.runner.busy:
            self.photo.resize(height=settings.height or 0, width=settings.width or 0)
        self.outlook.show(settings, self.studio.load)
        self._enable()

    def _enable(self) -> None:
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
        title = f'<h2>{safe(words("title"))}</h2><p>{note}</p><span class="svdkit-language" {data}></span>'
        self.title.value = title
        notes = ["saved_note"] if self.runner.background else ["stop_foreground", "saved_note"]
        self.note.value = safe(" ".join(map(words, notes)))

    def prepare(self) -> None:
        """Load the model now, in the background, so that the first clip need not wait for it."""
        if self.runner.background and not self.studio.loaded:
            how: dict[str, Any] = {"doing": "idle_loading", "done": "ready", "can_stop": False}
            self.runner.start(lambda tell, _: self.studio.prepare(tell), **how)
            self._enable()

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
