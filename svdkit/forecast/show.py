"""A forecast as text and as HTML, from the same lines.

``Forecast`` shows itself by this module, so this one does not import it: what is Any here is a ``Forecast``.
"""

from __future__ import annotations

import html
import itertools
import textwrap
from collections.abc import Iterator
from typing import Any

from svdkit.pipeline.memory import MARGIN, OVERHEAD_BYTES, Plan, describe
from svdkit.units import aligned, format_bytes, format_count, format_money, format_seconds

_NAMES = {"image_encoder": "image encoder", "vae_encode": "VAE encode", "unet": "UNet", "vae_decode": "VAE decode"}
_VERDICTS = {True: "fits", False: "does not fit", None: "not known whether it fits"}


def as_text(forecast: Any) -> str:
    """Give the forecast as lines of at most 110 characters, for a terminal."""
    lines = [_title(forecast)]
    for label, text in _facts(forecast):
        lines += textwrap.wrap(text, 110, initial_indent=f"{label:<11}", subsequent_indent=" " * 11)
    rows = [("", "WAY", "DECODE CHUNK", "MEMORY", "A CLIP", ""), *_ladder(forecast)]
    return "\n".join([*lines, "", *aligned(rows)])


def as_html(forecast: Any) -> str:
    """Give the forecast as two tables, everything escaped."""
    left = 'style="text-align:left"'  # on each cell: Jupyter aligns them to the right
    th, td = f"<th {left}>", f"<td {left}>"
    facts = "".join(f"<tr>{th}{_safe(label)}</th>{td}{_safe(text)}</td></tr>" for label, text in _facts(forecast))
    head = "".join(f"{th}{text}</th>" for text in ("", "way", "decode chunk", "memory", "a clip", ""))
    ladder = "".join(f"<tr>{''.join(f'{td}{_safe(cell)}</td>' for cell in row)}</tr>" for row in _ladder(forecast))
    return (
        f"<div><b>{_safe(_title(forecast))}</b><table>{facts}</table>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{ladder}</tbody></table></div>"
    )


def _title(forecast: Any) -> str:
    clip = forecast.clip
    size = f"{clip.num_frames} frames of {clip.height}x{clip.width} (height x width), {clip.num_inference_steps} steps"
    compiled = ", compiled" if forecast.load.compile else ""
    scales = (clip.min_guidance_scale, clip.max_guidance_scale or 0.0)
    guidance = f"guidance {scales[0]:g} to {scales[1]:g}" if max(scales) > 1 else "no guidance"
    return f"{forecast.model} on {forecast.gpu}, {forecast.load.dtype}{compiled}: {size}, {guidance}"


def _facts(forecast: Any) -> Iterator[tuple[str, str]]:
    """Label and text of each line; a label is empty where a line goes on with the one before."""
    if forecast.seconds is None:
        yield "time", f"not known: {forecast.source}"
    else:
        low, high = (format_seconds(end or 0) for end in (forecast.seconds_low, forecast.seconds_high))
        yield "time", f"about {format_seconds(forecast.seconds)} a clip ({low} to {high})"
        parts = [f"{_NAMES[stage]} {format_seconds(value)}" for stage, value in forecast.stage_seconds.items()]
        yield "", ", ".join(parts)
        yield "", f"from {forecast.source}"
    yield from _money(forecast)
    yield from _memory(forecast)
    parts = [f"{_NAMES[stage]} {_operations(count)}" for stage, count in forecast.flops.items() if count >= 1e12]
    total = _operations(sum(forecast.flops.values()))
    yield "arithmetic", f"{total} a clip" + (f": {', '.join(parts)}" if parts else "")
    for sentence in forecast.advice:
        yield "advice", sentence


def _money(forecast: Any) -> Iterator[tuple[str, str]]:
    if forecast.cost is None or forecast.clips_per_hour is None or forecast.hourly_price is None:
        return
    each, hour = (format_money(sum_, forecast.currency) for sum_ in (forecast.cost, forecast.hourly_price))
    yield "money", f"{each} a clip at {hour} an hour, {format_count(int(forecast.clips_per_hour), 'clip')} an hour"


def _memory(forecast: Any) -> Iterator[tuple[str, str]]:
    has = f" of {format_bytes(forecast.gpu_bytes)}" if forecast.gpu_bytes else ""
    way = f"{_way(forecast)}, decode_chunk_size={forecast.clip.decode_chunk_size}"
    yield "memory", f"{format_bytes(forecast.memory_bytes)}{has}: {_VERDICTS[forecast.fits]} ({way})"
    peaks = ", ".join(f"{_NAMES[stage]} {format_bytes(size)}" for stage, size in forecast.peak_bytes.items())
    yield "", f"weights {format_bytes(sum(forecast.weight_bytes.values()))}; activations at their peak: {peaks}"
    whose = "the CUDA context" if forecast.load.device == "cuda" else "the process"
    fragments = f"cuDNN's copies, {MARGIN - 1:.0%} of activations for fragments"
    yield "", f"margin within that: {fragments}, {format_bytes(OVERHEAD_BYTES)} for {whose}"


def _way(forecast: Any) -> str:
    return describe(_chosen(forecast).rung)


def _chosen(forecast: Any) -> Plan:
    from svdkit.pipeline.memory import Rung

    load = forecast.load
    chunk = forecast.clip.decode_chunk_size or 1
    rung = Rung(load.memory, load.two_pass_guidance, load.forward_chunking, chunk)
    return Plan(rung, forecast.memory_bytes, forecast.fits, forecast.seconds)


def _ladder(forecast: Any) -> Iterator[tuple[str, ...]]:
    """One row a way: mark, way, chunk, bytes, seconds, verdict; the chosen one first where the ladder lacks it."""
    chosen = _chosen(forecast)
    known = any(step.rung == chosen.rung for step in forecast.ladder)
    for step in itertools.chain([] if known else [chosen], forecast.ladder):
        mark = "->" if step.rung == chosen.rung else ""
        seconds = "–" if step.seconds is None else format_seconds(step.seconds)
        verdict = "" if step.fits is None else _VERDICTS[step.fits]
        size = format_bytes(step.memory_bytes)
        yield mark, describe(step.rung), str(step.rung.decode_chunk_size), size, seconds, verdict


def _operations(count: float) -> str:
    if count < 1e12:
        return format_count(round(count / 1e9), "GFLOP", "GFLOP")
    return format_count(round(count / 1e12), "TFLOP", "TFLOP")


def _safe(text: str) -> str:
    return html.escape(text)
