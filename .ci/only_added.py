"""Fail when an install changed or removed what was there: python .ci/only_added.py before.txt after.txt, freezes."""

from __future__ import annotations

import sys
from pathlib import Path


def versions(path: Path) -> dict[str, str]:
    """Read ``name==version`` lines; what was installed from elsewhere has its address as version."""
    lines = [line.strip().replace(" @ ", "==", 1) for line in path.read_text(encoding="utf-8").splitlines()]
    pairs = (line.partition("==")[::2] for line in lines if line and line[0] not in "#-")
    return {name.lower().replace("_", "-"): version for name, version in pairs}


def main() -> int:
    """Print what the install did; 1 when it did more than add."""
    before, after = (versions(Path(word)) for word in sys.argv[1:])
    added = [f"{name} {after[name]}" for name in after if name not in before]
    print("added:", ", ".join(added) or "nothing")
    changed = [f"{name}: {old} -> {after.get(name, 'gone')}" for name, old in before.items() if after.get(name) != old]
    if changed:
        print("changed, which an install must not:", *changed, sep="\n  ")
    return int(bool(changed))


if __name__ == "__main__":
    sys.exit(main())
