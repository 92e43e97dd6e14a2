"""What surrounds the package agrees with it: dependencies, versions, commands, README."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import svdkit

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
TARGETS = {"help", "demo", "notebooks", "app", "clean", "lint", "check"}
TARGETS |= {"docs", "wheel", "test", "test-long", "test-browser", "test-fuzz", "test-colab"}
README = ROOT / "README.md"


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads(text("pyproject.toml"))["project"]
    return found


def direct() -> dict[str, Requirement]:
    """Map the name of every dependency of pyproject.toml, extras included, to its requirement."""
    extras = project()["optional-dependencies"].values()
    found = [Requirement(line) for line in [*project()["dependencies"], *(line for extra in extras for line in extra)]]
    assert len(found) == len({canonicalize_name(requirement.name) for requirement in found}), "one is named twice"
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def pins() -> dict[str, Requirement]:
    """Map every name of constraints.txt to its line."""
    lines = [line for line in text("constraints.txt").splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, lines)}


def pinned_version(requirement: Requirement) -> str:
    (only,) = requirement.specifier
    assert only.operator == "==", f"{requirement} is not an exact version"
    return only.version


def test_every_direct_dependency_has_a_tested_version_that_is_allowed_and_nothing_else_has() -> None:
    assert pins().keys() == direct().keys()
    assert all(need.specifier.contains(pinned_version(pins()[name])) for name, need in direct().items())


# What people find there, from the clouds' own lists (August 2026), as far as svdkit needs it.
FREEZES = {
    "Colab": "torch==2.11.0 diffusers==0.39.0 transformers==5.15.0 huggingface-hub==1.27.0 ipywidgets==7.7.1 "
    "ipykernel==6.17.1 nbconvert==7.17.1 pandas==2.2.3 numpy==2.1.3 pillow==11.3.0 opencv-python-headless==5.0.0.93 "
    "imageio-ffmpeg==0.6.0",
    "Kaggle": "torch==2.10.0 diffusers==0.37.1 ipywidgets==8.1.5 nbconvert==6.4.5",
}


def changed(freeze: str, needed: dict[str, Requirement]) -> list[str]:
    """Say which versions of a freeze an install of svdkit would replace."""
    there = {line.partition("==")[0]: line.partition("==")[2] for line in freeze.split()}
    assert there.keys() <= needed.keys()
    return [f"{name} {version}" for name, version in there.items() if not needed[name].specifier.contains(version)]


def test_an_install_replaces_nothing_that_a_cloud_brings() -> None:
    """And one that would is found."""
    assert [changed(freeze, direct()) for freeze in FREEZES.values()] == [[], []]
    assert changed(FREEZES["Kaggle"], direct() | {"nbconvert": Requirement("nbconvert>=7.16")}) == ["nbconvert 6.4.5"]


def test_what_svdkit_needs_of_its_closest_neighbours() -> None:
    """No install may replace the torch that fits the GPU; mediapy cannot read with ffmpeg 9, which 0.8.1 brings."""
    assert str(direct()["torch"]) == "torch"
    assert pinned_version(pins()["torch"]) == "2.13.0"
    assert str(direct()["imageio-ffmpeg"]) == "imageio-ffmpeg==0.6.0"
    assert set(project()["optional-dependencies"]) == {"app", "ray", "docs", "dev"}


def test_what_is_installed_is_what_constraints_say() -> None:
    """These tests prove something about the versions in constraints.txt only if they ran with them."""
    found = {}
    for name, requirement in pins().items():
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue  # Python 3.10 gets older versions
        try:
            found[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue  # of an extra that is not installed
        assert found[name] == pinned_version(requirement), f"{name}: run make again, or update constraints.txt"
    assert {"torch", "diffusers", "pytest"} <= found.keys()


def test_the_conda_environment_agrees() -> None:
    """It brings a Python that svdkit allows, and leaves every version to constraints.txt and pyproject.toml."""
    environment = yaml.safe_load(text("environment.yml"))
    assert environment["name"] == "svdkit"
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    *conda, pip = environment["dependencies"]
    python = next(line.partition("=")[2] for line in conda if line.startswith("python="))
    assert f"Python {python}," in text("constraints.txt").splitlines()[0]
    assert Requirement(f"x{project()['requires-python']}").specifier.contains(python)
    assert pip["pip"] == ["--constraint constraints.txt", "--editable .[app]"]
    named = {canonicalize_name(re.split(r"[=<>]", line)[0]) for line in conda}
    assert named & set(direct()) == {"jupyterlab"}  # which the tests drive, and people work in


def test_the_package_is_what_it_says() -> None:
    """Version, command, type hints, licence, and the notebooks beside the package, which a wheel takes into it."""
    newest = re.search(r"^## (\S+)", text("CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == svdkit.__version__
    module, name = project()["scripts"]["svdkit"].split(":")
    assert callable(getattr(importlib.import_module(module), name))
    assert (ROOT / "svdkit" / "py.typed").exists()
    assert project()["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0, January 2004" in text("LICENSE")
    assert "END OF TERMS AND CONDITIONS" in text("LICENSE")
    wheel = tomllib.loads(text("pyproject.toml"))["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["force-include"] == {"notebooks": "svdkit/notebooks"}


def run_make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run make as if from a shell; `make test` hands its own arguments down in the environment."""
    outer = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "PYTHON", "TORCH_INDEX", "PYTEST"}
    clean = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(["make", *arguments], cwd=folder, env=clean, check=False, capture_output=True, text=True)


def test_make_alone_lists_what_can_be_made() -> None:
    done = run_make()
    assert done.returncode == 0
    assert set(re.findall(r"^  make ([\w-]+) ", done.stdout, re.MULTILINE)) == TARGETS


def test_make_installs_torch_first_and_from_where_it_was_asked() -> None:
    """Were svdkit first, pip would choose a torch by itself; asked for the CPU build, only torch comes from there."""
    plan = run_make("--dry-run", "--always-make", "test", "TORCH_INDEX=https://example.org/cpu").stdout.splitlines()
    installs = [line.split(" -qq install ")[1] for line in plan if " -qq install " in line]
    torch = """--index-url https://example.org/cpu "$(grep '^torch==' constraints.txt)\""""
    assert [" ".join(line.split()) for line in installs] == [torch, "-c constraints.txt -e '.[dev,ray,app]'"]


def test_make_finds_no_python_where_there_is_none(tmp_path: Path) -> None:
    """The error says what is needed; the folder is a copy, so that the .venv here is left alone."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    done = run_make("PYTHON=false", "check", folder=tmp_path)
    assert done.returncode == 2
    assert "svdkit needs Python 3.10 or newer with venv (Debian, Ubuntu: apt install python3-venv)" in done.stderr
    assert not (tmp_path / ".venv").exists()


def blocks() -> list[tuple[str, str]]:
    """List (words after the language, text) of the README's Python blocks."""
    return re.findall(r"^```python([^\n]*)\n(.*?)^```", README.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def readme_commands(command: str) -> set[str]:
    """Find the words after `command` at the start of a line or of a `code span`."""
    return set(re.findall(rf"(?:^|`|\.venv/bin/){command} ([a-z-]+)", README.read_text(encoding="utf-8"), re.MULTILINE))


def test_the_readme_names_make_targets_and_commands_that_exist() -> None:
    assert {"demo", "test"} <= readme_commands("make") <= TARGETS
    run = "import sys; from svdkit.cli import main; sys.exit(main())"
    for name in sorted(readme_commands("svdkit")):
        done = subprocess.run([sys.executable, "-c", run, name, "--help"], cwd=ROOT, check=False, capture_output=True)
        assert done.returncode == 0, f"README.md says svdkit {name}"


def test_the_readme_uses_names_that_exist() -> None:
    assert blocks(), "the README shows no Python"
    used = {
        node.attr
        for _, code in blocks()
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "svdkit"
    }
    assert used, "the README's Python does not use svdkit"
    assert used - set(svdkit.__all__) == set()


@pytest.mark.slow
def test_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks run one after the other in an empty folder; one that needs a download says ```python no-run."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for words, code in blocks():
        if "no-run" not in words:
            exec(compile(code, "README.md", "exec"), names)
    assert any(path.suffix == ".mp4" for path in tmp_path.rglob("*")), "the README leaves no clip"
