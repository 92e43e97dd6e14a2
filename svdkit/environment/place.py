"""Where Python runs: on Colab, on Kaggle, in a Jupyter kernel, or in a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping


def notebook_kind() -> str:
    """Tell what shows our output; IPython is not imported for it.

    A script that a notebook starts (``!svdkit demo``) is in a terminal, on Colab too: it cannot draw in the cell.

    Returns:
        ``"colab"``, ``"kaggle"``, ``"jupyter"`` (any other kernel: JupyterLab, VS Code, papermill), or ``"terminal"``.

    Example:
        >>> notebook_kind()
        'terminal'
    """
    if not _in_kernel():
        return "terminal"
    return hosted_on(os.environ) or "jupyter"


def hosted_on(environ: Mapping[str, str]) -> str | None:
    """Tell which notebook service owns the machine, from what it puts into the environment.

    Args:
        environ: The environment variables.

    Returns:
        ``"colab"``, ``"kaggle"`` or None.

    Example:
        >>> hosted_on({"KAGGLE_KERNEL_RUN_TYPE": "Interactive"})
        'kaggle'
    """
    if "COLAB_RELEASE_TAG" in environ:
        return "colab"
    if "KAGGLE_KERNEL_RUN_TYPE" in environ:
        return "kaggle"
    return None


def _in_kernel() -> bool:
    """Whether this Python is a notebook's kernel; only such a shell has a kernel to talk to a page through."""
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return hasattr(get_shell() if get_shell else None, "kernel")
