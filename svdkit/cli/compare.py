"""Two results side by side: what became faster or slower, and an exit code for CI."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from svdkit.cli.outcome import FAILED, judging_input


def compare(
    old: Annotated[Path, typer.Argument(help="A results folder, or its records.jsonl.")],
    new: Annotated[Path, typer.Argument(help="The same, to be compared with the old.")],
    *,
    fail_above: Annotated[
        str | None, typer.Option(help="Exit with 1 when a row is slower by more than this, such as 5%, or fails now.")
    ] = None,
    allow: Annotated[
        list[str] | None, typer.Option(help="What may differ: environment, torch, dtype, ... Can be given again.")
    ] = None,
) -> None:
    """Compare two results row by row: faster, slower or the same, beyond the noise.

    Rows are compared only when settings, hardware and versions are the same, unless --allow names what may differ.
    """
    from svdkit.bench.compare import compare as compare_records
    from svdkit.bench.record import read_records
    from svdkit.units import format_count

    above = None if fail_above is None else _fraction(fail_above)
    with judging_input():
        found = compare_records(read_records(old), read_records(new), allow_different=allow or ())
    typer.echo(str(found))
    if above is not None and (worse := found.regressions(above=above)):
        typer.echo(f"\n{format_count(len(worse), 'row')} slower by more than {fail_above}, or failing now", err=True)
        raise typer.Exit(FAILED)


def _fraction(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", text.strip())
    if not match:
        raise typer.BadParameter(f"{text!r} is not a percentage; write 5% or 2.5%", param_hint="--fail-above")
    return float(match[1]) / 100
