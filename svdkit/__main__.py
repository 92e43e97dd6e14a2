"""The ``svdkit`` command for where no script of that name is on the path: ``python -m svdkit``."""

from __future__ import annotations

from svdkit.cli import main

if __name__ == "__main__":
    main()
