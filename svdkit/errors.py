"""The errors svdkit raises on purpose, and its one warning class.

::

    SvdkitError(Exception)
    ├─ ImageError              a photo cannot be read or fitted
    ├─ SettingsError           an unknown name, a bad value or an impossible combination
    ├─ ModelError              a model cannot be found or loaded
    │  ├─ DownloadError        no network, an error of the mirror, too little disk or RAM
    │  ├─ GatedModelError      the model needs an accepted licence or a token
    │  ├─ VariantError         the weight variant asked for (fp16) is missing
    │  ├─ IncompleteModelError a half-downloaded folder, or missing files
    │  └─ UnsafeWeightsError   a pickle checkpoint, refused
    ├─ PipelineError           a dtype, device or memory plan that cannot work here
    ├─ OutOfMemoryError        memory ran out and no smaller step is left
    ├─ Cancelled               the user stopped a run
    └─ ClipError               a clip cannot be read, written or replayed

    SvdkitWarning(UserWarning)

Every message says three things: what was given, what is allowed, what to do next. Catching
:class:`SvdkitError` catches everything svdkit raises on purpose; anything else is a bug.
"""

from __future__ import annotations

import re
import reprlib
from typing import Any


class SvdkitError(Exception):
    """Base of every error svdkit raises on purpose; its text can be printed and read, whatever a name in it holds."""

    def __str__(self) -> str:
        text = super().__str__().encode("utf-8", "backslashreplace").decode()
        return re.sub(r"(\S{400})\S{800,}", r"\1…", text)  # a word of thousands of characters says no more


class ImageError(SvdkitError):
    """A photo cannot be read or fitted."""


class SettingsError(SvdkitError):
    """An unknown name, a bad value or an impossible combination of settings.

    Attributes:
        problems: One sentence for each thing that is wrong; all of them, not only the first.
    """

    def __init__(self, message: str, *, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems or (message,)

    @classmethod
    def of(cls, subject: str, problems: list[str] | tuple[str, ...]) -> SettingsError:
        """Join several problems of a subject, such as "ClipSettings", so that they can be mended in one go."""
        more = [f"and {len(problems) - 20:,} more"] if len(problems) > 20 else []
        lines = "".join(f"\n- {problem}" for problem in [*problems[:20], *more])
        text = problems[0] if len(problems) == 1 else f"{len(problems)} problems{lines}"
        return cls(f"{subject}: {text}", problems=tuple(problems))


class ModelError(SvdkitError):
    """A model cannot be found or loaded."""


class DownloadError(ModelError):
    """A download failed or was not begun: network, mirror, disk or RAM."""


class GatedModelError(ModelError):
    """The model needs an accepted licence or an access token."""


class VariantError(ModelError):
    """The weight variant asked for, usually fp16, is not in the repository or folder."""


class IncompleteModelError(ModelError):
    """A model folder lacks files, as after a download that was cut short."""


class UnsafeWeightsError(ModelError):
    """The weights are a pickle file, which can run any code when loaded; svdkit refuses it."""


class PipelineError(SvdkitError):
    """A dtype, device or memory plan that cannot work on this machine."""


class OutOfMemoryError(SvdkitError):
    """Generation ran out of memory and no smaller step is left, or stepping down was off."""


class Cancelled(SvdkitError):  # noqa: N818 - a stop the user asked for is not an error to them; KeyboardInterrupt too
    """The user stopped a run.

    Attributes:
        finished: What was complete when the run stopped, for example the clips of a batch; None when nothing was.
    """

    def __init__(self, message: str, *, finished: object = None) -> None:
        super().__init__(message)
        self.finished = finished


class ClipError(SvdkitError):
    """A clip cannot be read, written or replayed."""


class SvdkitWarning(UserWarning):
    """The one class of svdkit's warnings, so that one filter silences or raises them all."""


class _Short(reprlib.Repr):
    """Writes a repr so that what nobody reads is never made: lists in lists can have gigabytes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = 400  # of lists its six are enough

    def repr_instance(self, x: Any, level: int) -> str:  # noqa: ARG002 - its place in reprlib
        """Give the whole repr; the type of what has none, for an error must not raise another."""
        try:
            return repr(x)
        except Exception:  # noqa: BLE001 - the repr of an unknown object may raise anything
            return f"<{type(x).__name__}>"

    repr_int = repr_instance


def shown(value: object, *, most: int = 60) -> str:
    """Write a wrong value, whatever it is, on one line of at most so many characters; its type if it has no repr."""
    line = " ".join(_Short().repr(value).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
