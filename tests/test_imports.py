"""Imports run one way, `import svdkit` stays light, and the public names are the ones we promise."""

from __future__ import annotations

import ast
import graphlib
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import svdkit

ROOT = Path(__file__).parents[1]

# From the top: a room may import only from rooms below its own line. A new room needs a place here first.
LAYERS = (
    {"__main__"},
    {"cli"},
    {"ui"},
    {"sweep"},
    {"forecast"},
    {"bench"},
    {"speed", "control"},
    {"generate"},
    {"pipeline", "clip"},
    {"models", "image", "settings"},
    {"environment"},
    {"child"},
    {"given"},
    {"errors", "units", "disk"},
    {"micro"},
)
DEPTH = {room: depth for depth, rooms in enumerate(LAYERS) for room in rooms}

STUB = ast.parse((ROOT / "svdkit" / "__init__.pyi").read_text(encoding="utf-8"))
HOME = {alias.name: node.module or "" for node in STUB.body if isinstance(node, ast.ImportFrom) for alias in node.names}

HEAVY = {"torch", "diffusers", "transformers", "cv2", "pandas", "matplotlib", "mediapy", "IPython", "skimage"}

PUBLIC = [
    *("__version__",),
    *("sample_photos", "sample_photo", "read_image", "preview_fit", "fit", "restore", "size_advice", "Frame"),
    *("LoadSettings", "ClipSettings", "Conditioning", "clip_preset", "presets"),
    *("catalogue", "find_model", "ModelInfo"),
    *("load", "LoadReport", "apply_technique", "undo_technique"),
    *("encode", "denoise", "decode", "generate", "generate_batch", "replay"),
    *("Clip", "Provenance"),
    *("forecast", "Forecast", "calibrate", "measure", "profile", "measure_quality"),
    *("Record", "read_records", "write_record", "table", "compare"),
    *("sweep", "write_report", "sync_player"),
    *("panel",),
    *("doctor",),
    *("SvdkitError", "SvdkitWarning"),
]


def modules(package: Path) -> dict[str, Path]:
    """Map the dotted name of every module of a package to its file."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, module: str) -> list[tuple[int, str]]:
    """List (line, dotted name) of all imports of a file, those inside functions and TYPE_CHECKING included."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(filter(None, (above, node.module)))
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def room(name: str) -> str:
    """Tell which room a dotted name belongs to: `svdkit.image.fit` to `image`, `svdkit.Clip` to `clip`."""
    second = name.split(".")[1]
    return HOME.get(second, second).partition(".")[0]


def wrong_imports(package: Path) -> list[str]:
    """Say what is wrong with the direction of a package's imports; nothing when all run downwards."""
    wrong = []
    for module, path in modules(package).items():
        where = path.relative_to(package.parent)
        if module == "svdkit":
            continue  # the lazy front knows every room
        if room(module) not in DEPTH:
            wrong.append(f"{where}: {room(module)} has no layer; give it one in tests/test_imports.py")
            continue
        for line, name in imported(path, module):
            fault = why_wrong(room(module), name)
            if fault:
                wrong.append(f"{where}:{line}: {fault}")
    return wrong


def why_wrong(here: str, name: str) -> str | None:
    if not f"{name}.".startswith("svdkit.") or name == "svdkit.__version__":
        return None
    if name == "svdkit":
        return f"{here} imports the whole package; import from the module that has the name"
    there = room(name)
    if there not in DEPTH:
        return f"{here} imports {name}, which has no layer"
    if there != here and DEPTH[there] <= DEPTH[here]:
        return f"{here} may not import {there}, which stands {'beside' if DEPTH[there] == DEPTH[here] else 'above'} it"
    return None


def find_cycle(package: Path) -> list[str]:
    """Return the modules of an import cycle, or nothing."""
    known = modules(package)
    graph = {}
    for module, path in known.items():
        names = {name for _, name in imported(path, module)}
        targets = {name if name in known else name.rpartition(".")[0] for name in names}
        graph[module] = {name for name in targets if name in known and name not in {module, package.name}}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def probe(code: str, *, cwd: Path = ROOT) -> dict[str, list[str] | float]:
    """Run `code` in a fresh interpreter; return its seconds and the top-level modules it left imported."""
    script = (
        "import json, sys, time\nbefore = time.perf_counter()\n"
        f"{code}\n"
        "seconds = time.perf_counter() - before\n"
        "print(json.dumps({'seconds': seconds, 'modules': sorted({name.split('.')[0] for name in sys.modules})}))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=cwd, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str] | float] = json.loads(done.stdout)
    return found


def heavy(found: dict[str, list[str] | float]) -> set[str]:
    names = found["modules"]
    assert isinstance(names, list)
    return HEAVY & set(names)


def write_package(folder: Path, **files: str) -> Path:
    package = folder / "svdkit"
    package.mkdir()
    for name, text in {"__init__": "", **files}.items():
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    return package


def test_imports_run_downwards() -> None:
    assert wrong_imports(ROOT / "svdkit") == []


def test_no_modules_import_each_other_in_a_ring() -> None:
    assert find_cycle(ROOT / "svdkit") == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("from svdkit.generate import replay", "image may not import generate, which stands above it"),
        ("import svdkit.settings", "image may not import settings, which stands beside it"),
        ("def f():\n    from svdkit import load", "image may not import pipeline, which stands above it"),
        ("from .clip import Clip", "image may not import clip, which stands above it"),
        ("from . import clip", "image may not import clip, which stands above it"),
        ("if TYPE_CHECKING:\n    from svdkit.cli import main", "image may not import cli, which stands above it"),
        ("import svdkit", "image imports the whole package"),
        ("import svdkit.attic", "image imports svdkit.attic, which has no layer"),
    ],
)
def test_the_direction_test_can_fail(tmp_path: Path, source: str, fault: str) -> None:
    found = wrong_imports(write_package(tmp_path, image=source))
    assert len(found) == 1
    assert fault in found[0]


def test_the_direction_test_lets_good_imports_pass(tmp_path: Path) -> None:
    good = "import json\nfrom svdkit import __version__\nfrom svdkit.errors import ImageError\nfrom .units import a"
    assert wrong_imports(write_package(tmp_path, image=good)) == []


def test_a_room_without_a_layer_is_found(tmp_path: Path) -> None:
    found = wrong_imports(write_package(tmp_path, utils=""))
    assert found == ["svdkit/utils.py: utils has no layer; give it one in tests/test_imports.py"]


def test_the_ring_test_can_fail(tmp_path: Path) -> None:
    package = write_package(tmp_path, image="from svdkit.clip import Clip", clip="def f():\n    import svdkit.image")
    assert set(find_cycle(package)) == {"svdkit.image", "svdkit.clip"}


def test_import_svdkit_is_light() -> None:
    """The median of five fresh interpreters is under 0.25 s, and none of them knows torch afterwards."""
    runs = [probe("import svdkit") for _ in range(5)]
    assert statistics.median(float(str(run["seconds"])) for run in runs) < 0.25
    assert all(not heavy(run) for run in runs)


def test_no_module_imports_something_heavy_on_its_way_in() -> None:
    names = [name for name in modules(ROOT / "svdkit") if not name.endswith("__main__")]
    assert not heavy(probe(f"import {', '.join(names)}"))


def test_the_light_import_test_can_fail(tmp_path: Path) -> None:
    """A package that imports pandas and matplotlib (stand-ins, so that this test is quick) is caught."""
    write_package(tmp_path, __init__="import time, pandas, matplotlib; time.sleep(0.3)")
    for name in ("pandas", "matplotlib"):
        (tmp_path / f"{name}.py").touch()
    found = probe("import svdkit", cwd=tmp_path)
    assert heavy(found) == {"pandas", "matplotlib"}
    assert float(str(found["seconds"])) > 0.25


def test_public_names() -> None:
    """A name is added or taken away on purpose, together with this list and a line in the changelog."""
    assert ["__version__", *HOME] == PUBLIC
    assert set(svdkit.__all__) == set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_is_there(name: str) -> None:
    assert getattr(svdkit, name) is not None


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="No svdkit attribute animate"):
        _ = svdkit.animate  # type: ignore[attr-defined]


def test_tab_completion_offers_the_public_names() -> None:
    assert set(HOME) <= set(dir(svdkit))


def test_generate_stays_the_function_when_its_module_is_imported_first() -> None:
    code = "import svdkit.generate; from svdkit.generate import encode; assert svdkit.generate.__name__ == 'generate'"
    assert not heavy(probe(f"{code}; assert callable(svdkit.generate) and svdkit.encode is encode"))
