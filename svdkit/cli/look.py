"""What there is and what it takes: models, this machine, a forecast, two results side by side."""

from __future__ import annotations

import json
import re
import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from svdkit.cli.options import FAILED, chosen, judging_input, settings_options, takes
from svdkit.settings import ClipSettings, LoadSettings

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


_CLIP = (
    *("height", "width", "num_frames", "num_inference_steps", "min_guidance_scale", "max_guidance_scale"),
    "decode_chunk_size",
)
_LOAD = ("dtype", "memory", "forward_chunking", "two_pass_guidance", "compile")


@takes(
    settings_options(ClipSettings, _CLIP, panel="The clip"),
    settings_options(LoadSettings, _LOAD, panel="The model"),
)
def forecast(
    model: Annotated[str, typer.Argument(help="micro, svd, svd-xt, svd-xt-1.1, or a folder.")] = "svd-xt",
    *,
    gpu: Annotated[
        str | None, typer.Option(help="Such as 'RTX 4090', T4, or a number of GB; this machine's when left out.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Short for --num-inference-steps.")] = None,
    price: Annotated[float | None, typer.Option(help="Of the machine, an hour: adds the cost of a clip.")] = None,
    currency: Annotated[str, typer.Option(help="Of the price: USD, EUR, CNY, ...")] = "USD",
    records: Annotated[
        Path | None, typer.Option(help="A results folder with own measurements to calibrate from.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    **given: Any,
) -> None:
    """Say what a clip will take in time, memory and money: no GPU, no weights, no download.

    Exit code 1 when it is expected not to fit.
    """
    from svdkit.forecast import forecast as make_forecast

    with judging_input():
        values = chosen(given, _CLIP)
        if steps is not None:
            values["num_inference_steps"] = steps
        found = make_forecast(
            model,
            gpu=gpu,
            clip=ClipSettings(**values),
            load=LoadSettings(**chosen(given, _LOAD)),
            hourly_price=price,
            currency=currency,
            records=records,
        )
    typer.echo(json.dumps(found.to_dict(), indent=1) if as_json else str(found))
    if found.fits is False:
        raise typer.Exit(1)


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
