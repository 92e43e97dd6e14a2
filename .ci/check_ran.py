"""Fail when a test that must run was skipped: python .ci/check_ran.py build/tests.xml ... [tests/test_of_this.py ...].

pytest calls a run green in which everything was skipped. This reads its junit file and fails when a test was
skipped for a reason that is not about the machine, or when a whole file of tests ran nothing.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree as ET

# Only hardware, systems and optional packages that this machine may lack; anything else has to run.
ALLOWED = re.compile(r"^needs (a GPU|CUDA|MPS|Windows|macOS|a user who is not root|pillow-heif)\b")


def complaints(reports: Iterable[Path], *, files: Iterable[Path]) -> list[str]:
    """Say which tests did not run though they must.

    Args:
        reports: The junit files that pytest wrote.
        files: The test files that have to appear in one of them.

    Returns:
        One sentence a fault, empty when all is well.
    """
    cases = [case for report in reports for case in ET.parse(report).iter("testcase")]  # noqa: S314 - pytest wrote them
    found = [f"{name(case)} was skipped: {why}" for case in cases for why in reasons(case) if not ALLOWED.match(why)]
    # A case is in its file or in a class of it: tests.test_clip, tests.test_clip.TestSave.
    ran = {part for case in cases if case.find("skipped") is None for part in case.get("classname", "").split(".")}
    return found + [f"{path.name} ran no test" for path in sorted(files) if path.stem not in ran]


def name(case: ET.Element) -> str:
    """Name a test case as pytest does: file::test."""
    return f"{case.get('classname')}::{case.get('name')}"


def reasons(case: ET.Element) -> list[str]:
    """Give the reasons for which a case was skipped; an expected failure ran, so it is not among them."""
    return [skip.get("message", "") for skip in case.iter("skipped") if skip.get("type") != "pytest.xfail"]


def main() -> int:
    """Check the reports and the files named on the command line, else all files; 1 when something is wrong."""
    named = [Path(word) for word in sys.argv[1:]]
    files = [path for path in named if path.suffix == ".py"] or Path("tests").rglob("test_*.py")
    found = complaints([path for path in named if path.suffix == ".xml"], files=files)
    print("\n".join(found) or "every test that must run has run")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
