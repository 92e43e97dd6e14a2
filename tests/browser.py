"""Debian's Chromium through Playwright, for tests of what a reader sees, which get it by the fixture `chromium`."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--mute-audio"),
]


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Start a headless browser; nothing is downloaded."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield running
        finally:
            running.close()


@contextlib.contextmanager
def page_of(running: Any, address: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> Iterator[Any]:
    """Open a page; any error in its script or console fails the test, and so does a request that leaves the disk."""
    context = running.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        reduced_motion="no-preference",
    )
    page = context.new_page()
    faults: list[str] = []

    def note(fault: str, *, when: bool = True) -> None:
        if when:
            faults.append(fault)

    def dismiss(dialog: Any) -> None:
        note(f"dialog: {dialog.message}")
        dialog.dismiss()

    page.on("pageerror", lambda error: note(f"script: {error}"))
    page.on("console", lambda line: note(f"console: {line.text}", when=line.type == "error"))
    page.on("dialog", dismiss)
    near = ("file:", "data:", "about:")
    page.on("request", lambda request: note(f"request: {request.url}", when=not request.url.startswith(near)))
    page.goto(address)
    yield page
    context.close()
    assert not faults, faults
