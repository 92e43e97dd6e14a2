"""Run a notebook without a browser, and the demo: parameters checked first, a dead kernel is a failure, no uploads."""

from __future__ import annotations

import ast
import json
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from svdkit.child import command
from svdkit.cli.make import check_target
from svdkit.cli.options import RefusedInput, judging_input
from svdkit.errors import SvdkitError
from svdkit.given import read_values, user_path

if TYPE_CHECKING:
    from svdkit.models import ModelInfo


# A checkout has them beside the package; what pip installs has not.
FOLDER = Path(__file__).parents[2] / "notebooks"
_FOLDERS = ("results_folder", "output_folder", "results")  # what notebooks call the folder that they fill
_LARGEST_OUTPUT = 200_000  # characters of one output that stay in a copy, its clips apart
_LARGEST_CLIPS = 32 * 2**20  # characters of all clips that stay in a copy, about 24 MB of files
_VIDEO = re.compile(r"data:video/[\w.+-]+;base64,[A-Za-z0-9+/=\s]*")


class _NotebookError(SvdkitError):
    """A cell of the notebook raised an error, or the notebook's kernel died."""


class TakesPairs(TyperCommand):
    """The class of the command: takes papermill's ``-p NAME VALUE``, two words, which typer knows no option for."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Join the two words by "=", which ``-p NAME=VALUE`` has from the start."""
        words, joined = iter(args), []
        for word in words:
            name = next(words, None) if word in {"-p", "--parameter"} else None
            value = next(words, None) if name is not None and "=" not in name else None
            joined += [word] if name is None else [word, name if value is None else f"{name}={value}"]
        return list(super().parse_args(ctx, joined))


def notebook(
    name: Annotated[
        str, typer.Argument(help="A notebook file, or the name of one of svdkit's, as 02_parameter_sweep.")
    ],
    *,
    parameter: Annotated[
        list[str] | None,
        typer.Option(
            *("--parameter", "-p"),
            metavar="NAME VALUE",
            help="A value for its cell of parameters; lists as YAML has them: -p seeds '[1, 2]'. Repeatable.",
            show_default=False,
        ),
    ] = None,
    output_folder: Annotated[
        Path | None,
        typer.Option(
            *("--output-folder", "-o"), help="Where everything goes; its own when left out.", show_default=False
        ),
    ] = None,
    cell_minutes: Annotated[
        float | None, typer.Option(help="Of a cell at most; any time when left out.", min=0.01, show_default=False)
    ] = None,
) -> None:
    """Run a notebook, and keep it executed, as a page and with its results in one folder.

    Exit code 1 when a cell fails, takes too long or kills the kernel; 2, before anything runs, for parameters that it
    does not have.
    """
    source = _find_notebook(name)
    pairs = [word.partition("=")[::2] for word in parameter or []]
    values, folder = _check_parameters(source, pairs, output_folder=output_folder)
    _make_folder(folder)
    executed, page = folder / "notebook.ipynb", folder / "notebook.html"
    if executed.exists() and (executed.samefile(source) or "papermill" not in _read_notebook(executed).metadata):
        raise RefusedInput(f"{executed} would be replaced by the executed copy: give another --output-folder")
    typer.echo(f"running {source.name}", err=True)
    run_notebook(source, executed, parameters=values, cell_minutes=cell_minutes)
    _write_page(_read_notebook(executed), page, title=source.stem)
    typer.echo(f"{executed}\n{page}")


def _find_notebook(name: str) -> Path:
    """Find a notebook by its path, or by the name of one of svdkit's own."""
    for path in (Path(name), Path(f"{name}.ipynb"), FOLDER / f"{name}.ipynb", FOLDER / name):
        if path.is_file() and path.suffix == ".ipynb":
            return path
    own = ", ".join(sorted(path.stem for path in FOLDER.glob("*.ipynb"))) or "none (they are in svdkit's repository)"
    raise RefusedInput(f"there is no notebook {name!r}; give a file, or one of svdkit's own: {own}")


def _read_notebook(path: Path) -> Any:
    """Read a notebook, as nbformat has it; RefusedInput for what is none, or not of Python."""
    import nbformat

    try:
        found = nbformat.reads(path.read_text(encoding="utf-8-sig"), as_version=4)
        about = found.metadata
        language = about.get("kernelspec", {}).get("language") or about.get("language_info", {}).get("name") or "python"
    except Exception as error:  # nbformat raises many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RefusedInput(
            f"{path} cannot be read as a notebook ({reason:.200}); save it again from Jupyter"
        ) from error
    if language != "python":
        raise RefusedInput(f"{path} is a notebook of {language!r:.60}; svdkit runs those of Python")
    about.kernelspec = nbformat.from_dict({"name": "python3", "display_name": "Python 3", "language": "python"})
    about.language_info = nbformat.from_dict({**about.get("language_info", {}), "name": "python"})
    return found


def _make_folder(folder: Path) -> Path:
    """Make a folder for what a command leaves; RefusedInput where there cannot be one."""
    folder = user_path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RefusedInput(f"{folder} cannot be a folder for the results: {error.strerror or error}") from error
    return folder


def _check_parameters(
    source: Path, given: Sequence[tuple[str, str]], *, output_folder: Path | None
) -> tuple[dict[str, Any], Path]:
    """Read parameters as YAML, and refuse names and types that the notebook's cell of parameters does not have."""
    known = _parameters(source)
    values: dict[str, Any] = {}
    problems = []
    for name, text in given:
        if name not in known:
            problems.append(f"{name} is no parameter of {source.name}; it has {', '.join(known) or 'none'}")
            continue
        values[name], wrong = _read(text, known[name])
        problems += [f"{name} is {text!r}: {wrong}"] if wrong else []
    if problems:
        raise RefusedInput("\n".join(problems))
    own = next((name for name in _FOLDERS if name in known), None)
    if own is not None and output_folder is not None:
        values[own] = user_path(output_folder).as_posix()  # forward slashes on Windows too: it is a line of Python
    folder = values.get(own, known[own]) if own else output_folder
    return values, user_path(folder if isinstance(folder, str | Path) and folder else f"outputs/{source.stem}")


def run_notebook(
    notebook: Path, executed: Path, *, parameters: dict[str, Any], cell_minutes: float | None = None
) -> Any:
    """Run a notebook in a fresh kernel of this Python, in the current folder."""
    import nbformat
    import papermill
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    class ThisPython(AsyncKernelManager):
        kernel_spec = KernelSpec(**kernel())  # whatever "python3" is on this machine

    with tempfile.TemporaryDirectory(prefix="svdkit-") as folder:
        source = Path(folder, notebook.name)
        nbformat.write(_read_notebook(notebook), source)
        try:
            return papermill.execute_notebook(
                source,
                executed,
                parameters=parameters,
                kernel_name="python3",
                kernel_manager_class=ThisPython,
                progress_bar=sys.stderr.isatty(),
                execution_timeout=cell_minutes and max(1, round(60 * cell_minutes)),
                extra_arguments=["--IPKernelApp.log_level=ERROR"],  # else it warns of TCP on this very machine
            )
        except papermill.PapermillExecutionError as error:
            message = (
                f"cell {error.exec_count} of {notebook.name} failed: {error.ename}: {error.evalue}. The notebook up to "
                f"that cell, with the traceback, is {executed}"
            )
            raise _NotebookError(message) from error
        except CellTimeoutError as error:
            message = (
                f"a cell of {notebook.name} took longer than {cell_minutes:g} min. The notebook so far is {executed}"
            )
            raise _NotebookError(message) from error
        except DeadKernelError as error:
            message = (
                f"the kernel of {notebook.name} died, most often for want of memory: close other programs and try "
                f"again. The notebook up to that cell is {executed}"
            )
            raise _NotebookError(message) from error
        finally:
            _strip_file(executed, source=notebook.name)


def kernel() -> dict[str, Any]:
    """Give the specification of a kernel that is this Python, and takes its own modules from no current folder."""
    words = [*command("ipykernel.kernelapp:launch_new_instance"), "-f", "{connection_file}"]
    return {"argv": words, "display_name": "Python 3", "language": "python"}


def _write_page(executed: Any, path: Path, *, title: str = "svdkit quickstart") -> None:
    """Write an executed notebook as one HTML file that opens offline."""
    from nbconvert import HTMLExporter

    # The template would load these two from the net; an empty address in their place keeps the page whole offline.
    offline = {"mathjax_url": "data:,", "require_js_url": "data:,"}
    exporter = HTMLExporter(embed_images=True, **offline)
    page, _ = exporter.from_notebook_node(executed, resources={"metadata": {"name": title}})
    path.write_text(page, encoding="utf-8")


def _strip_file(path: Path, *, source: str) -> None:
    """Take uploads, widgets, paths of this machine and too large clips out of an executed notebook, if it is there."""
    import nbformat

    if not path.is_file():
        return
    executed = nbformat.read(path, as_version=4)
    executed.metadata.pop("widgets", None)  # the state of widgets holds uploaded photos, byte by byte
    executed.metadata.setdefault("papermill", {})["input_path"] = source
    room = _LARGEST_CLIPS
    for cell in executed.cells:
        for output in cell.get("outputs", []):
            room = _strip(output, room=room)
    path.write_text(_without_paths(nbformat.writes(executed), path.absolute().parent), encoding="utf-8")


def _strip(output: Any, *, room: int) -> int:
    """Leave of what is too large a line that says so, of such a clip its poster; give the room that is left for clips.

    Raw videos and widgets are left out, for they may be what somebody has uploaded.
    """
    data = output.get("data", {})
    for kind in [kind for kind in data if kind.startswith("video/") or "widget" in kind]:
        del data[kind]
        data.setdefault("text/plain", f"({kind} left out of this copy)")
    for kind, content in [*data.items()]:
        text = "".join(content) if isinstance(content, list) else content
        if not isinstance(text, str) or kind.startswith("image/"):
            continue
        bare = _VIDEO.sub("", text)
        clips = len(text) - len(bare)
        if len(bare) > _LARGEST_OUTPUT:
            data[kind] = f"(an output of {len(bare):,} characters, left out of this copy)"
        elif clips > room:
            data[kind] = f"{bare}\n(clips of {clips:,} characters, left out of this copy; their files are as they were)"
        else:
            room -= clips
    return room


def _without_paths(text: str, folder: Path) -> str:
    """Take the folder of the results, the current one and the user's home out of a notebook's JSON."""
    for path, name in ((folder, folder.name), *sorted([(Path.cwd(), "."), (Path.home(), "~")], reverse=True)):
        for form in {str(path), path.as_posix()} if path.name else ():
            found, instead = (json.dumps(each, ensure_ascii=False)[1:-1] for each in (form, name))
            # Not in a longer word or in base64; a traceback has a colour, as "\x1b[32m", before its paths.
            apart = rf"(?:(?<![\w+.~-])|(?<=\dm)){re.escape(found)}(?![\w+=-])"
            text = re.sub(apart, instead.replace("\\", r"\\"), text)
    return text


def _parameters(source: Path) -> dict[str, Any]:
    """Give the names of the notebook's cell of parameters, each with its default, None for one that is computed."""
    cells = _read_notebook(source).cells
    code = next((cell.source for cell in cells if "parameters" in cell.metadata.get("tags", ())), "")
    code = re.sub(r"(?m)^[%!].*$", "", code)  # what is a command of the notebook is no Python
    try:
        lines = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError) as error:
        raise RefusedInput(f"the cell of parameters of {source.name} is not Python: {error}") from error
    found: dict[str, Any] = {}
    for line in lines:
        if not isinstance(line, ast.Assign | ast.AnnAssign) or line.value is None:
            continue
        targets = line.targets if isinstance(line, ast.Assign) else [line.target]
        found |= {target.id: _default(line.value) for target in targets if isinstance(target, ast.Name)}
    return found


def _default(value: ast.expr) -> Any:
    try:
        return ast.literal_eval(value)
    except (ValueError, TypeError):  # an expression, such as 2**10 or Path("x")
        return None


def _read(text: str, default: Any) -> tuple[Any, str]:
    """Read a value as the type that the default has; the second is what is wrong with it, or empty."""
    if isinstance(default, str):
        return text, ""
    try:
        value, problems = read_values(text)
    except ValueError:
        return text, "this is not YAML; write a list as [1, 2]"
    if problems or default is None or type(value) is type(default):
        return value, "; ".join(problems)
    if isinstance(default, list | tuple) and isinstance(value, list):
        return value, ""
    if isinstance(default, float) and type(value) is int:
        return float(value), ""
    return value, f"this is a {type(value).__name__}; give a {type(default).__name__}, such as {default!r}"


_NOTEBOOK = FOLDER / "01_quickstart.ipynb"

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
        output_folder = _make_folder(output_folder)
        check_target(output_folder / "clip.mp4", overwrite=True)
    if _NOTEBOOK.is_file():
        made = _run_notebook(info, photo=photo, model=model, folder=output_folder)
    else:
        made = _make_clip(info, photo=photo, model=model, folder=output_folder)
    typer.echo()
    for what, path in made.items():
        typer.echo(f"{what:<16}{path}")
    typer.echo(f"{'it took':<16}{format_seconds(time.perf_counter() - start)}")


def _run_notebook(info: ModelInfo, *, photo: str, model: str, folder: Path) -> dict[str, Path]:
    typer.echo(f"running {_NOTEBOOK.name} with {info.name}{_usual_time(info)}")
    executed, page = folder / _NOTEBOOK.name, folder / f"{_NOTEBOOK.stem}.html"
    # Forward slashes on Windows too: the path becomes a line of Python in the notebook.
    parameters = {"photo": photo, "model": model, "output_folder": folder.as_posix()}
    usual = {"photo": PHOTO, "model": MODEL, "output_folder": OUTPUT_FOLDER}
    parameters = {name: value for name, value in parameters.items() if value != usual[name]}
    _write_page(run_notebook(_NOTEBOOK, executed, parameters=parameters), page)
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
