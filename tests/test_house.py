"""The style that a linter does not know: how long functions and files are, and that public names are explained."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "svdkit").rglob("*.py"))
LONGEST_FILE = 450

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def functions(tree: ast.AST) -> list[tuple[str, int]]:
    """List (name, lines without the docstring) of every function, nested ones and methods included."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = span(node)
            if ast.get_docstring(node) is not None:
                lines -= span(node.body[0])
            found.append((node.name, lines))
    return found


def span(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def unexplained(tree: ast.Module) -> list[str]:
    """List the public functions, classes and methods that have no docstring."""
    return [
        ".".join((*path, node.name))
        for path, node in definitions(tree)
        if not node.name.startswith("_") and not ast.get_docstring(node)
    ]


def definitions(tree: ast.Module) -> list[tuple[tuple[str, ...], Definition]]:
    found: list[tuple[tuple[str, ...], Definition]] = []
    for node in tree.body:
        if isinstance(node, Definition):
            found.append(((), node))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            found += [((node.name,), item) for item in node.body if isinstance(item, Definition)]
    return found


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_holds_one_idea_no_function_is_long_and_public_names_have_docstrings(path: Path) -> None:
    tree = parse(path)
    assert [f"{name}: {lines} lines" for name, lines in functions(tree) if lines > 60] == []
    assert unexplained(tree) == []
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE


def test_most_functions_are_short() -> None:
    """Half of them fit in 8 lines and nine in ten in 30."""
    lengths = sorted(lines for path in SOURCES for _, lines in functions(parse(path)))
    assert statistics.median(lengths) <= 8
    assert lengths[int(0.9 * (len(lengths) - 1))] <= 30


def test_the_tests_are_as_long_as_what_they_test() -> None:
    tests = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "tests").rglob("*.py"))
    source = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES)
    assert tests >= source


def test_the_measures_can_fail() -> None:
    """A docstring does not count as length, a long body does, and a silent method is named with its class."""
    body = "\n".join(["        a = 1"] * 70)
    tree = ast.parse(
        f'class Clip:\n    """Frames."""\n    def save(self):\n{body}\n    def _private(self):\n        pass\n'
    )
    assert functions(tree) == [("save", 71), ("_private", 2)]
    assert unexplained(tree) == ["Clip.save"]
    assert functions(ast.parse('def f():\n    """One\n\n    two\n    """\n    return 1')) == [("f", 2)]
