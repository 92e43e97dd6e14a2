"""What a notebook calls to see the panel."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from svdkit.environment import notebook_kind
from svdkit.given import user_path
from svdkit.ui.panel import Panel
from svdkit.ui.studio import Studio
from svdkit.ui.wire import APP, RemoteStudio


def panel(
    pipe: Any = None,
    *,
    folder: str | Path | None = "outputs/panel",
    language: str | None = None,
    background: bool | None = None,
    hourly_price: float | None = None,
    currency: str | None = None,
) -> Panel:
    """Show sliders and buttons for making clips: what the functions of svdkit do, without writing them.

    While a run goes on in the background, leave its pipeline alone: a call of ``svdkit.generate`` on it in another cell
    would use the same schedule, and both clips would be wrong. Panels of one pipeline wait for each other.

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

    Returns:
        The panel; a notebook shows it when it is a cell's last line.

    Raises:
        ModelError: There is no such model.
        SettingsError: There is no such language.

    Example:
        >>> pipe = svdkit.load("micro")  # doctest: +SKIP
        >>> panel(pipe)  # doctest: +SKIP
    """
    if background is None:
        background = notebook_kind() != "colab"
    app = json.loads(os.environ.get(APP, "{}")) if pipe is None else {}
    studio: Studio | RemoteStudio
    if app:
        studio = RemoteStudio(port=app["port"], key=bytes.fromhex(app["key"]))
    else:
        studio = Studio("micro" if pipe is None else pipe)
    made = Panel(
        studio,
        folder=None if folder is None else user_path(folder),
        language=language or app.get("language", "en"),
        background=background,
        hourly_price=app.get("hourly_price", 0.0) if hourly_price is None else hourly_price,
        currency=currency or app.get("currency", "USD"),
    )
    if app:
        made.prepare()
    return made
