"""The panel: a shell of widgets around the functions that a notebook calls by hand."""

from __future__ import annotations

import secrets
import threading
import uuid
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdkit.errors import Cancelled, SettingsError, SvdkitError
from svdkit.ui.outlook import Outlook
from svdkit.ui.parts import as_html, box, on_click, on_value, safe, set_tooltip
from svdkit.ui.photo_form import Photo, PhotoForm
from svdkit.ui.results import Made, Results
from svdkit.ui.run import Runner
from svdkit.ui.settings_form import SettingsForm
from svdkit.ui.texts import LANGUAGES
from svdkit.ui.wire import RemoteStudio
from svdkit.ui.words import Words

if TYPE_CHECKING:
    from collections.abc import Callable

    from svdkit.settings import ClipSettings
    from svdkit.ui.news import Tell
    from svdkit.ui.studio import Studio

_ASSETS = Path(__file__).parent / "assets"
_DRAFTS, _DRAFT_STEPS = 4, 8  # at 8 steps the scene and its motion are those of 25, and the details are not


class Panel:
    """Photo, settings, forecast, start and stop, clip: what ``svdkit.panel`` shows.

    Attributes:
        photo: The photo's form.
        form: The settings' form.
        outlook: The forecast.
        runner: Start, stop, progress.
        results: The clips.
        widget: All of it, an ipywidgets box.
    """

    def __init__(
        self,
        studio: Studio | RemoteStudio,
        *,
        folder: Path | None,
        language: str,
        background: bool,
        hourly_price: float,
        currency: str,
    ) -> None:
        import ipywidgets as w

        self.words = Words(language)
        self.studio = studio
        words, info = self.words, studio.info
        self._clash = False  # whether the error shown is of settings that do not go together
        self._clears = 0  # how often the page was cleared: a run that began before that shows nothing any more
        self._showing = threading.Lock()
        self._id = f"svdkit-{uuid.uuid4().hex[:12]}"
        self.runner = Runner(words, background=background, on_idle=self._look)
        self.results = Results(words, picture=self.runner.picture, folder=folder, on_finish=self._finish)
        money: dict[str, Any] = {"hourly_price": hourly_price, "currency": currency}
        self.form = SettingsForm(info, words, on_change=self._look)
        self.outlook = Outlook(info, words, on_apply=self.form.show, background=background, **money)
        self.photo = PhotoForm(
            info,
            words,
            on_change=lambda: None,
            on_size=self._take_size,
            on_error=self.runner.show_error,
            background=background,
        )
        self.start, self.drafts = w.Button(button_style="primary", icon="play"), w.Button(icon="th-large")
        self.small = w.Checkbox(value=False, indent=False)
        self.forget = w.Button(icon="trash")
        self.language = w.Dropdown(options=[(title, name) for name, title in LANGUAGES.items()], value=language)
        self.title, self.settings_title = as_html(class_="svdkit-title"), as_html(class_="svdkit-heading")
        self.outlook_title, self.note = as_html(class_="svdkit-heading"), as_html(class_="svdkit-hint")
        on_click(self.start, self.make)
        on_click(self.drafts, self.make_drafts)
        on_click(self.forget, self._forget)
        on_value(self.language, words.switch)
        self.widget = self._laid_out()
        words.bind(self._write)
        self._look()

    def make(self, settings: ClipSettings | None = None) -> bool:
        """Make one clip with the settings of the form, or others; False if that cannot be, which the panel says.

        What others leave open, such as the size, is as in the form.
        """
        if not self._may_begin():
            return False
        if (settings is None or settings.seed is None) and not self.form.lock.value:
            self.form.draw_seed()
        return self._run(self.photo.photo, lambda: [(self._filled(settings), None)])

    def make_drafts(self) -> bool:
        """Make four quick clips with different seeds, to choose one from; False as in ``make``."""

        def drafts() -> list[tuple[ClipSettings, ClipSettings | None]]:
            wanted = self.form.settings
            seeds = [wanted.seed, *(secrets.randbelow(2**32) for _ in range(_DRAFTS - 1))]
            finished = [wanted.replace(seed=seed) for seed in seeds]
            return [(self._draft_of(settings), settings) for settings in finished]

        return self._may_begin() and self._run(self.photo.photo, drafts)

    def _may_begin(self) -> bool:
        """Whether nothing runs and the photo is there; one that is still being read is said, and not passed over."""
        if not self.runner.can_start:
            return False
        if self.photo.reading:
            self.runner.show_error(SvdkitError(self.words("still_reading")))
        return not self.photo.reading

    def _run(self, photo: Photo, wanted: Callable[[], list[tuple[ClipSettings, ClipSettings | None]]]) -> bool:
        """Make clips of a photo; wanted are the settings of each, and for a draft those to finish it with."""
        if not self.runner.can_start:
            return False
        try:
            clips = wanted()
            frames = [photo.fitted(height=one.height or 0, width=one.width or 0) for one, _ in clips]
        except SvdkitError as error:
            self.runner.show_error(error)
            return False

        show = partial(self._show, self._clears)

        def work(tell: Tell, stop: threading.Event) -> None:
            made: list[Made] = []
            self._enable()
            try:
                for number, (frame, (settings, finish)) in enumerate(zip(frames, clips, strict=True), start=1):
                    if len(clips) > 1:
                        self.runner.part(self.words("draft_of", number=number, count=len(clips)))
                    clip = self.studio.run(frame, settings, tell=tell, stop=stop)
                    new = Made(clip=clip, photo=photo, model=self.studio.model, finish=finish)
                    made.append(show(self.results.add, new, alone=len(clips) == 1))
                    self.outlook.learn(clip)
            except (Cancelled, KeyboardInterrupt):
                if not made:
                    raise
                stop.set()  # an interrupt did not: the runner then says what there is
            finally:
                if made and len(clips) > 1:
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
        if draft.finish is None or not self.runner.can_start:
            return
        finish = draft.finish
        self.form.lock.value = True
        self.form.show(finish)
        self._run(draft.photo, lambda: [(finish, None)])

    def _filled(self, settings: ClipSettings | None) -> ClipSettings:
        form = self.form.settings
        if settings is None:
            return form
        names = ("height", "width", "num_frames", "max_guidance_scale", "seed")
        same: dict[str, Any] = {name: getattr(form, name) for name in names}
        return settings.resolve(**same)

    def _draft_of(self, settings: ClipSettings) -> ClipSettings:
        steps = min(_DRAFT_STEPS, settings.num_inference_steps)
        if not self.small.value:
            return settings.replace(num_inference_steps=steps)
        half = {side: max(16, getattr(settings, side) // 16 * 8) for side in ("height", "width")}
        return settings.replace(num_inference_steps=steps, **half)

    def _take_size(self, height: int, width: int) -> None:
        self.form.set(height=height, width=width)

    def _forget(self) -> None:
        self.runner.ask_to_stop()
        with self._showing:
            self._clears += 1
            self.runner.show_error(None)
            self.photo.forget()
            self.results.forget()

    def _look(self) -> None:
        """After any change: the size to the photo, the forecast, what can be pressed."""
        if not hasattr(self, "widget"):
            return
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
        head = box(self.title, self.language, class_="svdkit-head", row=True)
        left = box(self.photo.widget, class_="svdkit-column")
        settings = box(self.settings_title, self.form.simple, self.form.advanced, class_="svdkit-form")
        buttons = box(self.start, self.runner.stop, self.drafts, self.small, class_="svdkit-buttons", row=True)
        right = (settings, self.outlook_title, self.outlook.widget, buttons, self.runner.widget, self.results.widget)
        columns = box(left, box(*right, self.forget, self.note, class_="svdkit-column"), class_="svdkit-columns")
        made = box(head, columns, class_="svdkit-panel")
        made.add_class(self._id)
        return made

    def _write(self) -> None:
        words, info = self.words, self.studio.info
        note = words("title_micro") if info.kind == "micro" else safe(info.title)
        if self.studio.load.weights == "random":
            note = f"{note} {words('title_random')}"
        too_large = safe(words("too_large"))
        language = (
            f'<span class="svdkit-language" data-language="{words.language}" data-too-large="{too_large}"></span>'
        )
        self.title.value = f"<h2>{safe(words('title'))}</h2><p>{note}</p>{language}"
        self.settings_title.value = f"<h3>{safe(words('settings'))}</h3>"
        self.outlook_title.value = f"<h3>{safe(words('outlook'))}</h3>"
        self.start.description, self.drafts.description = words("start"), words("drafts")
        self.small.description, self.forget.description = words("small_drafts"), words("forget")
        set_tooltip(self.drafts, words("drafts_tip", steps=_DRAFT_STEPS))
        set_tooltip(self.forget, words("forget_tip"))
        self.language.description = words("language")
        self._enable()
        notes = ["saved_note"] if self.runner.background else ["stop_foreground", "saved_note"]
        self.note.value = safe(" ".join(map(words, notes)))

    def prepare(self) -> None:
        """Load the model now, in the background, so that the first clip need not wait for it."""
        if self.studio.loaded or not self.runner.background:
            return

        def work(tell: Tell, stop: threading.Event) -> None:
            del stop
            self.studio.prepare(tell)

        self.runner.start(work, doing="idle_loading", done="ready", can_stop=False)
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
