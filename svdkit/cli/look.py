"""What there is and what it takes: models, this machine, a forecast, two results side by side."""

from __future__ import annotations

import re
import shutil
import textwrap
from json import dumps
from pathlib import Path
from typing import Any

import typer

from svdkit.cli.options import FAILED, chosen, judging_input, takes


def models() -> None:
    """List the models that svdkit knows by name.

    Any folder in diffusers layout and any hub id work too.
    """
    from svdkit.models import catalogue
    from svdkit.units import aligned, format_bytes

    rows = [("NAME", "CLIP", "WEIGHTS", "LICENCE")]
    for model in catalogue():
        size = format_bytes(model.weights_bytes) if model.weights_bytes else "not there"
        where = "in the package" if model.folder else "to download, gated" if model.gated else "to download"
        clip = f"{model.num_frames} frames, height {model.height}, width {model.width}"
        rows.append((model.name, clip, f"{size} {where}", model.licence))
    typer.echo("\n".join(aligned(rows)))
    typer.echo("\ngated: accept the licence on the model's page on huggingface.co, then run: hf auth login")


def doctor() -> None:
    """Look at this machine: what works, what does not, and what to do about it.

    Exit code 1 when something fails that svdkit cannot work without.
    """
    from svdkit.environment import doctor as examine
    from svdkit.units import format_count

    findings = examine()
    width, indent = min(max(shutil.get_terminal_size().columns, 60), 110), " " * 22
    for finding in findings:
        start = f"{finding.status:<6}{finding.name:<16}"
        lines = textwrap.wrap(finding.what, width, initial_indent=start, subsequent_indent=indent) or [start]
        if finding.cure:
            lines += textwrap.wrap(f"{indent}→ {finding.cure}", width, subsequent_indent=f"{indent}  ")
        typer.echo("\n".join(lines))
    if failed := sum(finding.status == "fail" for finding in findings):
        typer.echo(f"\n{format_count(failed, 'failure')}: mend from the top, for one may cause the next", err=True)
        raise typer.Exit(FAILED)


_CLIP = (
    *("height", "width", "num_frames", "num_inference_steps", "min_guidance_scale", "max_guidance_scale"),
    "decode_chunk_size",
)
_LOAD = ("dtype", "memory", "forward_chunking", "two_pass_guidance", "compile")


@takes(*_CLIP, *_LOAD)
def forecast(
    model: str = "svd-xt",
    *,
    gpu: str | None = None,
    steps: int | None = None,
    price: float | None = None,
    currency: str = "USD",
    records: Path | None = None,
    json: bool = False,
    **given: Any,
) -> None:
    """Say what a clip will take in time, memory and money: no GPU, no weights, no download.

    Exit code 1 when it is expected not to fit.

    Args:
        model: micro, svd, svd-xt, svd-xt-1.1, or a folder.
        gpu: Such as 'RTX 4090', T4, or a number of GB; this machine's when left out.
        steps: Short for --num-inference-steps.
        price: Of the machine, an hour: adds the cost of a clip.
        currency: Of the price: USD, EUR, CNY, ...
        records: A results folder with own measurements to calibrate from.
        json: Print JSON.
        **given: Settings of the clip and of the model.
    """
    from svdkit.forecast import forecast as make_forecast

    with judging_input():
        steps_given = {} if steps is None else {"num_inference_steps": steps}
        found = make_forecast(
            model,
            gpu=gpu,
            clip=chosen(given, _CLIP) | steps_given,
            load=chosen(given, _LOAD),
            hourly_price=price,
            currency=currency,
            records=records,
        )
    typer.echo(dumps(found.to_dict(), indent=1) if json else str(found))
    if found.fits is False:
        raise typer.Exit(FAILED)


@takes()
def compare(old: Path, new: Path, *, fail_above: str | None = None, allow: list[str] | None = None) -> None:
    """Compare two results row by row: faster, slower or the same, beyond the noise.

    Rows are compared only when settings, hardware and versions are the same, unless --allow names what may differ.

    Args:
        old: A results folder, or its records.jsonl.
        new: The same, to be compared with the old.
        fail_above: Exit with 1 when a row is slower by more than this, such as 5%, or fails now.
        allow: What may differ: environment, torch, dtype, ... Can be given again.
    """
    from svdkit.bench.compare import compare as compare_records
    from svdkit.bench.record import read_records
    from svdkit.units import format_count

    percent = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", "0%" if fail_above is None else fail_above)
    if not percent:
        raise typer.BadParameter(f"{fail_above!r} is not a percentage; write 5% or 2.5%", param_hint="--fail-above")
    with judging_input():
        found = compare_records(read_records(old), read_records(new), allow_different=allow or ())
    typer.echo(str(found))
    if fail_above and (worse := found.regressions(above=float(percent[1]) / 100)):
        typer.echo(f"\n{format_count(len(worse), 'row')} slower by more than {fail_above}, or failing now", err=True)
        raise typer.Exit(FAILED)
