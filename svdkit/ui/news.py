"""What a run tells while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from svdkit.generate import Progress


@dataclass(frozen=True, kw_only=True)
class News:
    """One message of a run.

    Attributes:
        kind: ``"waiting"`` (others are ahead), ``"loading"`` (the model), ``"progress"`` or ``"picture"`` (what
            the clip looks like so far).
        place: Runs ahead, for ``"waiting"``.
        progress: Of the stage, for ``"progress"``.
        picture: An animated WebP of all frames, one pixel a latent cell, for ``"picture"``.
    """

    kind: str
    place: int = 0
    progress: Progress | None = None
    picture: bytes = b""


Tell = Callable[[News], object]
