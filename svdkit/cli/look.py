"""What there is: the models, and what this machine has."""

from __future__ import annotations

import shutil
import textwrap
from typing import TYPE_CHECKING

import typer

from svdkit.cli.outcome import FAILED

if TYPE_CHECKING:
    from svdkit.environment import Finding
    from svdkit.models import ModelInfo

_COLOURS = {"ok": typer.colors.GREEN, "warn": typer.colors.YELLOW, "fail": typer.colors.RED}
_NARROWEST, _WIDEST = 60, 110


def models() -> None:
    """List the models that svdkit knows by name.

    Any folder in diffusers layout and any hub id work too.
    """
    from svdkit.models import catalogue
    from svdkit.units import aligned

    rows = [("NAME", "CLIP", "WEIGHTS", "LICENCE"), *(_model_row(model) for model in catalogue())]
    typer.echo("\n".join(aligned(rows)))
    typer.echo("\ngated: accept the licence on the model's page on huggingface.co, then run: hf auth login")


def _model_row(model: ModelInfo) -> tuple[str, str, str, str]:
    from svdkit.units import format_bytes

    size = format_bytes(model.weights_bytes) if model.weights_bytes else "not there"
    where = "in the package" if model.folder else "to download, gated" if model.gated else "to download"
    clip = f"{model.num_frames} frames, height {model.height}, width {model.width}"
    return model.name, clip, f"{size} {where}", model.licence


def doctor() -> None:
    """Look at this machine: what works, what does not, and what to do about it.

    Exit code 1 when something fails that svdkit cannot work without.
    """
    from svdkit.environment import doctor as examine

    findings = examine()
    width = min(max(shutil.get_terminal_size().columns, _NARROWEST), _WIDEST)
    for finding in findings:
        _print_finding(finding, width=width)
    failed = sum(finding.status == "fail" for finding in findings)
    if failed:
        noun = "1 failure" if failed == 1 else f"{failed} failures"
        typer.echo(f"\n{noun}: mend from the top, for one may cause the next", err=True)
        raise typer.Exit(FAILED)


def _print_finding(finding: Finding, *, width: int) -> None:
    """Print the status, then name, finding and cure in a column of their own."""
    start = f"{finding.status:<6}{finding.name:<16}"
    indent = " " * len(start)
    lines = textwrap.wrap(finding.what, width - len(start)) or [""]
    if finding.cure:
        lines += textwrap.wrap(f"→ {finding.cure}", width - len(start), subsequent_indent="  ")
    status = typer.style(f"{finding.status:<6}", fg=_COLOURS[finding.status])
    typer.echo("\n".join([f"{status}{finding.name:<16}{lines[0]}", *(f"{indent}{line}" for line in lines[1:])]))
