"""Run a notebook without a browser, and the demo: parameters checked first, a dead kernel is a failure, no uploads."""

from __future__ import annotations

import ast
import json
import re
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from svdkit.child import command
from svdkit.cli.make import check_target
from svdkit.cli.options import RefusedInput, judging_input, takes
from svdkit.errors import SvdkitError
from svdkit.given import read_values, user_path

_INSTALLED = Path(__file__).parents[1] / "notebooks"
FOLDER = _INSTALLED if _INSTALLED.is_dir() else _INSTALLED.parents[1] / "notebooks"  # a checkout's, beside the package
_DEMO = FOLDER / "01_quickstart.ipynb"
_FOLDERS = ("results_folder", "output_folder", "results")  # what notebooks call the folder that they fill
_LARGEST_OUTPUT = 200_000  # characters of one output that stay in a copy, its clips apart
_LARGEST_CLIPS = 32 * 2**20  # characters of all clips that stay in a copy, about 24 MB of files
_VIDEO = re.compile(r"data:video/[\w.+-]+;base64,[A-Za-z0-9+/=\s]*")


@takes()
def notebook(
    name: str,
    *,
    parameter: list[str] | None = None,
    output_folder: Path | None = None,
    cell_minutes: float | None = None,
) -> None:
    """Run a notebook, and keep it executed, as a page and with its results in one folder.

    Exit code 1 when a cell fails, takes too long or kills the kernel; 2, before anything runs, for parameters that it
    does not have.

    Args:
        name: A notebook file, or the name of one of svdkit's, as 02_parameter_sweep.
        parameter: A value for its cell of parameters; lists as YAML has them: -p seeds '[1, 2]'. Repeatable.
        output_folder: Where everything goes; its own when left out.
        cell_minutes: Of a cell at most; any time when left out.
    """
    source = _find_notebook(name)
    pairs = [word.partition("=")[::2] for word in parameter or []]
    values, folder = _check_parameters(source, pairs, output_folder=output_folder)
    executed = _make_folder(folder) / "notebook.ipynb"
    if executed.exists() and (executed.samefile(source) or "papermill" not in _read_notebook(executed).metadata):
        raise RefusedInput(f"{executed} would be replaced by the executed copy: give another --output-folder")
    typer.echo(f"running {source.name}", err=True)
    run_notebook(source, executed, parameters=values, cell_minutes=cell_minutes)
    typer.echo(f"{executed}\n{_write_page(executed, title=source.stem)}")


def _find_notebook(name: str) -> Path:
    """Find a notebook by its path, or by the name of one of svdkit's own."""
    for path in (Path(name), Path(f"{name}.ipynb"), FOLDER / f"{name}.ipynb", FOLDER / name):
        if path.is_file() and path.suffix == ".ipynb":
            return path
    own = ", ".join(sorted(path.stem for path in FOLDER.glob("*.ipynb")))
    raise RefusedInput(f"there is no notebook {name!r}; give a file, or one of svdkit's own: {own}")


def _read_notebook(path: Path) -> Any:
    """Read a notebook, as nbformat has it; RefusedInput for what is none, or not of Python."""
    import nbformat

    try:
        found = nbformat.reads(path.read_text(encoding="utf-8-sig"), as_version=4)
        about = found.metadata
        language = about.get("kernelspec", {}).get("language") or about.get("language_info", {}).get("name") or "python"
    except Exception as error:  # nbformat raises many kinds
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise RefusedInput(
            f"{path} cannot be read as a notebook ({reason:.200}); save it again from Jupyter"
        ) from error
    if language != "python":
        raise RefusedInput(f"{path} is a notebook of {language!r:.60}; svdkit runs those of Python")
    about.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    about.language_info = {**about.get("language_info", {}), "name": "python"}
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
        try:
            values[name] = _read(text, known[name])
        except ValueError as wrong:
            problems.append(f"{name} is {text!r}: {wrong}")
    if problems:
        raise RefusedInput("\n".join(problems))
    own = next((name for name in _FOLDERS if name in known), "")
    if own and output_folder is not None:
        values[own] = user_path(output_folder).as_posix()  # forward slashes on Windows too: it is a line of Python
    folder = {"": output_folder, **known, **values}[own]
    return values, user_path(str(folder or f"outputs/{source.stem}"))


def _parameters(source: Path) -> dict[str, Any]:
    """Give the names of the notebook's cell of parameters, each with its default, None for one that is computed."""
    cells = _read_notebook(source).cells
    code = next((cell.source for cell in cells if "parameters" in cell.metadata.get("tags", ())), "")
    try:
        lines = ast.parse(re.sub(r"(?m)^[%!].*$", "", code)).body  # what is a command of the notebook is no Python
    except (SyntaxError, ValueError, RecursionError) as error:
        raise RefusedInput(f"the cell of parameters of {source.name} is not Python: {error}") from error
    found: dict[str, Any] = {}
    for line in lines:
        if isinstance(line, ast.Assign | ast.AnnAssign) and line.value:
            default = None
            with suppress(ValueError, TypeError):  # an expression, such as 2**10 or Path("x")
                default = ast.literal_eval(line.value)
            targets = line.targets if isinstance(line, ast.Assign) else [line.target]
            found |= {target.id: default for target in targets if isinstance(target, ast.Name)}
    return found


def _read(text: str, default: Any) -> Any:
    """Read a value as the type that the default has, or raise ValueError with what is wrong with it."""
    kind = type(default)
    if kind is str:
        return text
    try:
        value, problems = read_values(text)
    except ValueError:
        raise ValueError("this is not YAML; write a list as [1, 2]") from None
    if problems:
        raise ValueError("; ".join(problems))
    if default is None or type(value) is kind:
        return value
    if (kind, type(value)) == (float, int):
        return float(value)
    if (kind, type(value)) == (tuple, list):
        return value  # papermill writes a tuple as a text
    raise ValueError(f"this is a {type(value).__name__}; give a {kind.__name__}, such as {default!r}")


def run_notebook(
    notebook: Path, executed: Path, *, parameters: dict[str, Any], cell_minutes: float | None = None
) -> Any:
    """Run a notebook in a fresh kernel of this Python, in the current folder."""
    import papermill
    from jupyter_client.manager import AsyncKernelManager
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    class ThisPython(AsyncKernelManager):
        kernel_spec = kernel()  # whatever "python3" is on this machine

    cause: Exception
    try:
        return papermill.execute_notebook(
            _read_notebook(notebook),
            executed,
            parameters=parameters,
            kernel_name="python3",
            kernel_manager_class=ThisPython,
            progress_bar=sys.stderr.isatty(),
            execution_timeout=cell_minutes and max(1, round(60 * cell_minutes)),
            extra_arguments=["--IPKernelApp.log_level=ERROR"],  # else it warns of TCP on this very machine
        )
    except papermill.PapermillExecutionError as error:
        cause = error
        problem = f"cell {error.exec_count} of {notebook.name} failed: {error.ename}: {error.evalue}"
    except CellTimeoutError as error:
        cause = error
        problem = f"a cell of {notebook.name} took longer than {cell_minutes:g} min"
    except DeadKernelError as error:
        cause = error
        close = "most often for want of memory: close other programs and try again"
        problem = f"the kernel of {notebook.name} died, {close}"
    finally:
        _strip_file(executed, source=notebook.name)
    raise SvdkitError(f"{problem}. The notebook up to that cell is {executed}") from cause


def kernel() -> Any:
    """Give the specification of a kernel that is this Python, and takes its own modules from no current folder."""
    from jupyter_client.kernelspec import KernelSpec

    words = [*command("ipykernel.kernelapp:launch_new_instance"), "-f", "{connection_file}"]
    return KernelSpec(argv=words, display_name="Python 3", language="python")


def _write_page(executed: Path, *, title: str) -> Path:
    """Write an executed notebook as one HTML file that opens offline, beside it."""
    from nbconvert import HTMLExporter

    # The template would load these two from the net; an empty address in their place keeps the page whole offline.
    exporter = HTMLExporter(embed_images=True, mathjax_url="data:,", require_js_url="data:,")
    text, _ = exporter.from_notebook_node(_read_notebook(executed), resources={"metadata": {"name": title}})
    page = executed.with_suffix(".html")
    page.write_text(text, encoding="utf-8")
    return page


def _strip_file(path: Path, *, source: str) -> None:
    """Take uploads, widgets, paths of this machine and too large clips out of an executed notebook, if it is there.

    Of what is too large a line stays that says so, of such a clip its poster. Raw videos and widgets are left out, for
    they may be what somebody has uploaded.
    """
    import nbformat

    if not path.is_file():
        return
    executed = nbformat.read(path, as_version=4)
    executed.metadata.pop("widgets", None)  # the state of widgets holds uploaded photos, byte by byte
    executed.metadata.setdefault("papermill", {})["input_path"] = source
    room = _LARGEST_CLIPS
    for data in [output.get("data", {}) for cell in executed.cells for output in cell.get("outputs", [])]:
        for kind in [kind for kind in data if kind.startswith("video/") or "widget" in kind]:
            del data[kind]
            data.setdefault("text/plain", f"({kind} left out of this copy)")
        for kind, text in data.items():
            if not isinstance(text, str) or kind.startswith("image/"):
                continue
            bare = _VIDEO.sub("", text)
            clips = len(text) - len(bare)
            if len(bare) > _LARGEST_OUTPUT:
                data[kind] = f"(an output of {len(bare):,} characters, left out of this copy)"
            elif clips > room:
                data[kind] = (
                    f"{bare}\n(clips of {clips:,} characters, left out of this copy; their files are as they were)"
                )
            else:
                room -= clips
    path.write_text(_without_paths(nbformat.writes(executed), path.absolute().parent), encoding="utf-8")


def _without_paths(text: str, folder: Path) -> str:
    """Take the folder of the results, the current one and the user's home out of a notebook's JSON."""
    for path, name in ((folder, folder.name), *sorted([(Path.cwd(), "."), (Path.home(), "~")], reverse=True)):
        for form in {str(path), path.as_posix()} if path.name else ():
            found, instead = (json.dumps(each, ensure_ascii=False)[1:-1] for each in (form, name))
            # Not in a longer word or in base64; a traceback has a colour, as "\x1b[32m", before its paths.
            apart = rf"(?:(?<![\w+.~-])|(?<=\dm)){re.escape(found)}(?![\w+=-])"
            text = re.sub(apart, instead.replace("\\", r"\\"), text)
    return text


@takes()
def demo(*, output_folder: Path = Path("outputs/quickstart"), photo: str = "rocket", model: str = "micro") -> None:
    """From a photo to a clip: run the quickstart notebook, and say where everything is.

    It leaves the clip, the executed notebook and the same notebook as a page for the browser.

    Args:
        output_folder: Where the clip and the notebook go; made when missing.
        photo: A file, an http(s) address, or a sample: rocket, coffee, cat.
        model: As for animate; micro needs no GPU and no download.
    """
    from svdkit.image import read_image
    from svdkit.models import find_model
    from svdkit.units import format_seconds

    start = time.perf_counter()
    with judging_input():
        read_image(photo)
        info = find_model(model)
        folder = _make_folder(output_folder)
        made = {"the clip": folder / "clip.mp4"}
        check_target(made["the clip"], overwrite=True)
    usual = ": about a minute or two on a laptop" if info.kind == "micro" else ""
    typer.echo(f"running {_DEMO.name} with {info.name}{usual}")
    # Forward slashes on Windows too: the path becomes a line of Python in the notebook.
    values, known = {"photo": photo, "model": model, "output_folder": folder.as_posix()}, _parameters(_DEMO)
    values = {name: value for name, value in values.items() if known.get(name) != value}  # else a cell repeats them
    made["the notebook"] = folder / _DEMO.name
    run_notebook(_DEMO, made["the notebook"], parameters=values)
    made["as a page"] = _write_page(made["the notebook"], title="svdkit quickstart")
    typer.echo()
    for what, found in {**made, "it took": format_seconds(time.perf_counter() - start)}.items():
        typer.echo(f"{what:<16}{found}")
