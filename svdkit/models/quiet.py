"""Silence while models load: diffusers and transformers print bars and notices that say nothing to svdkit's users."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars and notices of diffusers and transformers, then put their settings back.

    Import their classes inside too: transformers writes a notice for each image processor it imports where torchvision
    is not installed.
    """
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    with warnings.catch_warnings(), contextlib.ExitStack() as undo:
        # `torch_dtype` is deprecated, but diffusers before the change silently ignores its replacement, `dtype`.
        warnings.filterwarnings("ignore", message=".*torch_dtype.*", category=FutureWarning)
        # Where HF_HUB_DISABLE_PROGRESS_BARS is set the user has decided already.
        warnings.filterwarnings("ignore", message="Cannot (en|dis)able progress bars", category=UserWarning)
        for logging in (diffusers_logging, transformers_logging):
            undo.callback(logging.set_verbosity, logging.get_verbosity())
            if logging.is_progress_bar_enabled():
                undo.callback(logging.enable_progress_bar)
            logging.set_verbosity_error()
            logging.disable_progress_bar()
        yield
