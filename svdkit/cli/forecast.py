"""What a clip would take on a card, before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from svdkit.cli.options import CLIP_HELP, LOAD_HELP, chosen, settings_options, takes
from svdkit.cli.outcome import judging_input
from svdkit.settings import ClipSettings, LoadSettings

_CLIP = {name: text for name, text in CLIP_HELP.items() if name in {
    *("height", "width", "num_frames", "num_inference_steps", "min_guidance_scale", "max_guidance_scale"),
    "decode_chunk_size",
}}  # fmt: skip
_LOAD = {name: LOAD_HELP[name] for name in ("dtype", "memory", "forward_chunking", "two_pass_guidance", "compile")}


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
