"""The demo: the quickstart notebook from top to bottom, and where what it made can be found."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from svdkit.cli.make import check_target
from svdkit.cli.notebook import FOLDER, make_folder, run_notebook, write_page
from svdkit.cli.outcome import judging_input

if TYPE_CHECKING:
    from svdkit.models import ModelInfo

NOTEBOOK = FOLDER / "01_quickstart.ipynb"

# Also in the notebook's own cell of parameters: what is left as it is needs no second cell with the same lines.
PHOTO, MODEL, OUTPUT_FOLDER = "rocket", "micro", "outputs/quickstart"


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
        output_folder = make_folder(output_folder)
        check_target(output_folder / "clip.mp4", overwrite=True)
    if NOTEBOOK.is_file():
        made = _run_notebook(info, photo=photo, model=model, folder=output_folder)
    else:
        made = _make_clip(info, photo=photo, model=model, folder=output_folder)
    typer.echo()
    for what, path in made.items():
        typer.echo(f"{what:<16}{path}")
    typer.echo(f"{'it took':<16}{format_seconds(time.perf_counter() - start)}")


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
