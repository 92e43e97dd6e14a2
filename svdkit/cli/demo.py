"""The demo: the quickstart notebook from top to bottom, and where what it made can be found."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from svdkit.cli.make import check_target
from svdkit.cli.outcome import judging_input
from svdkit.errors import SvdkitError

if TYPE_CHECKING:
    from svdkit.models import ModelInfo

# A checkout has it beside the package; what pip installs has not.
NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "01_quickstart.ipynb"

# Also in the notebook's own cell of parameters: what is left as it is needs no second cell with the same lines.
PHOTO, MODEL, OUTPUT_FOLDER = "rocket", "micro", "outputs/quickstart"


class NotebookError(SvdkitError):
    """A cell of the notebook raised an error, or the notebook's kernel died."""


def demo(
    *,
    output_folder: Annotated[
        Path, typer.Option("--output-folder", "-o", help="Where the clip and the notebook go; made when missing.")
    ] = Path(OUTPUT_FOLDER),
    photo: Annotated[
        str, typer.Option(help="A file, an http(s) address, or a sample: rocket, coffee, cat.")
    ] = "rocket",
    model: Annotated[str, typer.Option(help="As for animate; micro needs no GPU and no download.")] = MODEL,
) -> None:
    """From a photo to a clip: run the quickstart notebook, and say where everything is.

    It leaves the clip, the executed notebook and the same notebook as a page for the browser.
    """
    from svdkit.image import read_image
    from svdkit.models import find_model
    from svdkit.units import format_seconds

    start = time.perf_counter()
    with judging_input():
        read_image(photo)
        info = find_model(model)
        output_folder.mkdir(parents=True, exist_ok=True)
        check_target(output_folder / "clip.mp4", overwrite=True)
    if NOTEBOOK.is_file():
        made = _run_notebook(info, photo=photo, model=model, folder=output_folder)
    else:
        made = _make_clip(info, photo=photo, model=model, folder=output_folder)
    typer.echo()
    for what, path in made.items():
        typer.echo(f"{what:<16}{path}")
    typer.echo(f"{'it took':<16}{format_seconds(time.perf_counter() - start)}")


def run_notebook(notebook: Path, executed: Path, *, parameters: dict[str, Any]) -> Any:
    """Run a notebook in a fresh kernel of this Python, in the current folder.

    Args:
        notebook: The source.
        executed: Where the executed notebook goes; after an error it ends with that.
        parameters: Values for its cell tagged ``parameters``.

    Returns:
        The executed notebook, as nbformat has it.

    Raises:
        NotebookError: A cell raised an error, or the kernel died; the text says which.

    Example:
        >>> run_notebook(NOTEBOOK, Path("executed.ipynb"), parameters={"photo": "cat"})  # doctest: +SKIP
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    here = Path.cwd()
    # papermill writes the path into the executed notebook, where the user's name has no business.
    source = notebook.relative_to(here) if notebook.is_relative_to(here) else notebook
    try:
        return papermill.execute_notebook(
            source,
            executed,
            parameters=parameters,
            kernel_name="python3",
            progress_bar=sys.stderr.isatty(),
            extra_arguments=["--IPKernelApp.log_level=ERROR"],  # else it warns of TCP on this very machine
        )
    except papermill.PapermillExecutionError as error:
        message = (
            f"cell {error.exec_count} of {notebook.name} failed: {error.ename}: {error.evalue}. The notebook up to "
            f"that cell, with the traceback, is {executed}"
        )
        raise NotebookError(message) from error
    except DeadKernelError as error:
        message = (
            f"the kernel of {notebook.name} died, most often for want of memory: close other programs and try again. "
            f"The notebook up to that cell is {executed}"
        )
        raise NotebookError(message) from error


def write_page(executed: Any, path: Path) -> None:
    """Write an executed notebook as one HTML file that opens offline.

    Example:
        >>> write_page(executed, Path("quickstart.html"))  # doctest: +SKIP
    """
    from nbconvert import HTMLExporter

    # The template would load these two from the net; an empty address in their place keeps the page whole offline.
    offline = {"mathjax_url": "data:,", "require_js_url": "data:,"}
    exporter = HTMLExporter(embed_images=True, **offline)
    page, _ = exporter.from_notebook_node(executed, resources={"metadata": {"name": "svdkit quickstart"}})
    path.write_text(page, encoding="utf-8")


def _run_notebook(info: ModelInfo, *, photo: str, model: str, folder: Path) -> dict[str, Path]:
    typer.echo(f"running {NOTEBOOK.name} with {info.name}{_usual_time(info)}")
    executed, page = folder / NOTEBOOK.name, folder / f"{NOTEBOOK.stem}.html"
    # Forward slashes on Windows too: the path becomes a line of Python in the notebook.
    parameters = {"photo": photo, "model": model, "output_folder": folder.as_posix()}
    usual = {"photo": PHOTO, "model": MODEL, "output_folder": OUTPUT_FOLDER}
    parameters = {name: value for name, value in parameters.items() if value != usual[name]}
    write_page(run_notebook(NOTEBOOK, executed, parameters=parameters), page)
    return {"the clip": folder / "clip.mp4", "the notebook": executed, "as a page": page}


def _make_clip(info: ModelInfo, *, photo: str, model: str, folder: Path) -> dict[str, Path]:
    from svdkit.generate import generate
    from svdkit.pipeline import load

    where = "the notebooks are not installed with the package (they are in its repository)"
    typer.echo(f"{where}: making the clip directly with {info.name}{_usual_time(info)}")
    clip = generate(load(model), photo, progress="terminal")
    return {"the clip": clip.save(folder / "clip.mp4", scale=4 if info.kind == "micro" else None)}


def _usual_time(info: ModelInfo) -> str:
    return ": about a minute or two on a laptop" if info.kind == "micro" else ""
