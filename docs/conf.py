"""The documentation site: `make docs` builds it offline into build/docs, with notebooks as papermill left them."""

from __future__ import annotations

import inspect
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import svdkit

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
GENERATED = ROOT / "docs" / "generated"

project = "svdkit"
author = "svdkit"
release = svdkit.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"svdkit {release}"
html_show_copyright = False
nb_execution_mode = "off"  # papermill runs them: make notebooks
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # they stand in the signature of the source; here the prose has shapes and units
napoleon_use_ivar = True


def write_api(path: Path) -> None:
    """List the public names, each with its docstring."""
    lines = ["# Names", "", "All that `import svdkit` gives.", "", "```{eval-rst}"]
    elsewhere = {"__version__", "ClipSettings", "LoadSettings"}  # the last two have a page of their own
    for name in (name for name in svdkit.__all__ if name not in elsewhere):
        kind = "autoclass" if inspect.isclass(getattr(svdkit, name)) else "autofunction"
        lines += [f".. {kind}:: svdkit.{name}", ""]
    path.write_text("\n".join([*lines, "```", ""]), encoding="utf-8")


def copy_notebooks(folder: Path) -> None:
    """Take the executed notebooks, and the sources of those that were not run."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in sorted((ROOT / "notebooks").glob("0*.ipynb")):
        executed = ROOT / "outputs" / "notebooks" / source.name
        shutil.copy(executed if executed.is_file() else source, folder / source.name)


def point_outside(_app: Sphinx, _name: str, content: list[str]) -> None:
    """Let links that leave docs/ lead to the repository, as they do when the page is read there."""
    content[0] = re.sub(r"\]\(\.\./([^)]+\.md)", r"](https://github.com/svdkit/svdkit/blob/main/\1", content[0])


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.connect("source-read", point_outside)


GENERATED.mkdir(exist_ok=True)
write_api(GENERATED / "api.md")
copy_notebooks(GENERATED / "notebooks")
