"""The READMEs: the table of GPUs is today's forecast, and the Chinese one says what the English one says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import cards

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md"))


def skeleton(text: str) -> list[str]:
    """List what no language changes: code without its comments, links, pictures, the depth of headings, the rows."""
    blocks = re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)
    code = [re.sub(r"\s+#.*", "", block) for block in blocks]
    rest = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    links = [link for link in re.findall(r'\]\(([^)]+)\)|src="([^"]+)"', rest) if not link[0].startswith("README")]
    headings = re.findall(r"^#+ ", rest, re.MULTILINE)
    spans = sorted(set(re.findall(r"`svdkit[^`]+`|`make[^`]+`|`python [^`]+`", rest)))
    rows = [line.count("|") for line in rest.splitlines() if line.startswith("|")]
    return [*code, *sorted(map("".join, links)), *headings, *spans, *map(str, rows)]


@pytest.mark.parametrize("name", cards.WORDS)
def test_the_table_of_gpus_is_up_to_date(name: str) -> None:
    """After a change of the forecast: python benchmarks/cards.py."""
    text = (ROOT / name).read_text(encoding="utf-8")
    assert cards.fill(name, text) == text


def test_a_readme_without_a_place_for_the_table_is_refused() -> None:
    with pytest.raises(SystemExit, match=r"README\.md has no place for the table: a line <!-- cards -->"):
        cards.fill("README.md", "# svdkit\n")


def test_the_chinese_readme_is_in_step() -> None:
    assert skeleton(CHINESE) == skeleton(ENGLISH)


@pytest.mark.parametrize(
    "change", [("make demo", "make dem0"), ("## 名词", "### 名词"), ("docs/ray.md", "docs/x.md"), ("| T4 |", "|")]
)
def test_a_readme_out_of_step_is_found(change: tuple[str, str]) -> None:
    assert skeleton(CHINESE.replace(*change)) != skeleton(ENGLISH)


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").glob("*.md"))])
def test_what_a_text_links_to_is_there(path: Path) -> None:
    links = re.findall(r'\]\(([^)#:]+)(?:#[^)]*)?\)|src="([^":]+)"', path.read_text(encoding="utf-8"))
    assert [link for link in map("".join, links) if not (path.parent / link).exists()] == []
