"""One run at a time on one pipeline, first come first served; whoever waits learns his place."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from svdkit.errors import Cancelled

_SECONDS_BETWEEN_LOOKS = 0.1  # at whether the one who waits has given up


class Turns:
    """A line of runs.

    Example:
        >>> turns, stop = Turns(), threading.Event()
        >>> with turns.turn(on_place=print, stop=stop):
        ...     print("running")
        running
    """

    def __init__(self) -> None:
        self._line: list[object] = []
        self._moved = threading.Condition()

    @contextmanager
    def turn(self, *, on_place: Callable[[int], object], stop: threading.Event) -> Iterator[None]:
        """Wait until all who came before are done, then hold the turn for the block.

        Args:
            on_place: Called with the number of runs ahead, 1 or more, whenever it changes.
            stop: Set it to leave the line.

        Raises:
            Cancelled: ``stop`` was set while waiting.
        """
        ticket = object()
        with self._moved:
            self._line.append(ticket)
        try:
            told = 0
            while place := self._place(ticket):
                if stop.is_set():
                    raise Cancelled("stopped while waiting for the run before")
                if place != told:
                    on_place(place)
                    told = place
                with self._moved:
                    self._moved.wait(_SECONDS_BETWEEN_LOOKS)
            yield
        finally:
            with self._moved:
                self._line.remove(ticket)
                self._moved.notify_all()

    def _place(self, ticket: object) -> int:
        with self._moved:
            return self._line.index(ticket)
