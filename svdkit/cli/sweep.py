"""Many clips from a sweep file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from svdkit.cli.outcome import FAILED, judging_input


def sweep(
    file: Annotated[Path, typer.Argument(help="YAML or JSON: photos, load, clip, axes, mode, exclude, results.")],
    *,
    results: Annotated[
        Path | None,
        typer.Option("--results", "-o", help="Results folder; the file's own when left out.", show_default=False),
    ] = None,
    engine: Annotated[str, typer.Option(help="local, or ray: every GPU of a machine or a cluster.")] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="Of the Ray cluster, for example auto; left out, Ray starts here.", show_default=False),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="For ray: how many; one a GPU when left out.", min=1, show_default=False)
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for one run, and for one load.", min=1)] = 3600,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run again what failed earlier.")] = False,
    forecast: Annotated[
        bool | None,
        typer.Option(
            "--forecast/--no-forecast", help="Time, memory and money before it starts; on, if the file does not say."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the file and print the plan only.")] = False,
) -> None:
    """Make the clips of a sweep file, and a table and a page that compare them.

    It can be stopped at any moment: the same command continues, and repeats nothing that ended.
    Exit code 1 when a run failed; its row says why.
    """
    from svdkit.sweep import plan_sweep, read_sweep, run_sweep

    with judging_input():
        plan = plan_sweep(**read_sweep(file) | ({} if forecast is None else {"forecast": forecast}))
    typer.echo(str(plan), err=True)
    if dry_run:
        return
    how: dict[str, Any] = {"address": address, "workers": workers, "retry_failed": retry_failed}
    words = ["svdkit", "sweep", _shown(file), *(["-o", _shown(results)] if results else [])]
    words += [] if engine == "local" else ["--engine", engine]
    how |= {"timeout_seconds": timeout, "command": shlex.join(words)}
    found = run_sweep(plan, results=results, engine=engine, **how)
    typer.echo(str(found))
    if found.failed:
        raise typer.Exit(FAILED)


def _shown(path: Path) -> str:
    return path.name if path.is_absolute() else path.as_posix()  # an absolute path may name its user
