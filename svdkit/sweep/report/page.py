"""The page of a report: what the template needs, from the rows."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from svdkit.bench.quality import QUALITY
from svdkit.bench.table import hardware
from svdkit.sweep.player import asset, json_script
from svdkit.sweep.report.figures import Run, curves
from svdkit.sweep.report.rows import MEANINGS, Row, short, text_of
from svdkit.units import format_bytes, format_seconds

_NOISE = "Random weights show noise: time and memory are real, pictures and quality say nothing."


def render(
    title: str,
    rows: Sequence[Row],
    axes: Sequence[str],
    *,
    asked: Mapping[str, Any],
    environment: Mapping[str, Any],
    baseline: str,
) -> str:
    """Render the page; everything but our own script, styles and plots is escaped."""
    from jinja2 import Environment
    from markupsafe import Markup

    good = [row for row in rows if row.record.status == "ok"]
    plots = curves([Run(r.settings, r.record.quality, r.seconds, r.memory_bytes, r.label) for r in good], axes)
    choices = [{"name": short(name), "values": _values(rows, name)} for name in axes]
    script, cells = asset("player.js"), list(zip(*(row.cells for row in rows), strict=True))
    kept = [i for i, column in enumerate(cells) if any(cell.value != "" for cell in column)]
    template = Environment(autoescape=True).from_string(asset("report.html"))
    return template.render(
        title=title,
        policy=_policy(script),
        css=asset("player.css") + asset("report.css"),
        js=script,
        data=json_script(_player(rows, choices)),
        models=sorted({f"{row.record.model['name']}, {row.record.model['weights']} weights" for row in rows}),
        dates=sorted({row.record.started_at[:10] for row in rows}),
        noise=_NOISE if any(row.record.model["weights"] == "random" for row in rows) else "",
        facts=_facts(rows, environment),
        axes=choices,
        statuses=sorted({row.record.status for row in rows}),
        rows=rows,
        columns=kept,
        baseline=baseline,
        composed=any(row.record.method == "composed" for row in rows),
        curves=[curve._replace(svg=Markup(curve.svg)) for curve in plots],  # noqa: S704 - matplotlib escapes its texts
        failed=[row for row in rows if row.record.status != "ok"],
        commands="\n".join(dict.fromkeys(row.record.command for row in rows if row.record.command)),
        environment=[_told(*item) for item in environment.items() if item[1] not in (None, "", {}, [])],
        asked=json.dumps(asked, indent=1, ensure_ascii=False) if asked else "",
        meanings={**MEANINGS, **QUALITY},
    )


def _policy(script: str) -> str:
    """Allow this one script, and files beside the page, so that even a slip in escaping could run nothing."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    files = ("img-src 'self' file: data:", "media-src 'self' file: data:")
    rules = (f"script-src 'sha256-{digest}'", "style-src 'unsafe-inline'", *files)
    return "; ".join(("default-src 'none'", *rules, "base-uri 'none'", "form-action 'none'"))


def _player(rows: Sequence[Row], axes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Say how the clips are laid out at first: the setting with most values sideways, then down, then as tabs."""
    order = sorted(axes, key=lambda axis: (axis["name"] == "photo", -len(axis["values"])))
    chosen = dict(zip(("x", "y", "tabs"), (axis["name"] for axis in order), strict=False))
    return {"clips": [row.entry() for row in rows], "axes": axes, "chosen": chosen}


def _values(rows: Sequence[Row], name: str) -> list[str]:
    """Give the texts of a setting's values, each once: numbers by size, all else as it comes."""
    found: dict[str, Any] = {text_of(row.settings.get(name)): row.settings.get(name) for row in rows}
    is_numeric = all(type(value) in {int, float} for value in found.values())
    return sorted(found, key=lambda text: found[text]) if is_numeric else list(found)


def _facts(rows: Sequence[Row], environment: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """Give what stands on top: text, what it is, whether it is bad news."""
    failed = sum(row.record.status != "ok" for row in rows)
    seconds = [row.seconds for row in rows if not math.isnan(row.seconds)]
    facts = [(str(len(rows)), "run" if len(rows) == 1 else "runs", False)]
    facts += [(str(failed), "failed", True)] if failed else []
    if seconds:
        ends = dict.fromkeys((format_seconds(min(seconds)), format_seconds(max(seconds))))
        facts.append((" – ".join(ends), "time a clip", False))
    return [*facts, (hardware(environment), "hardware", False)]


def _told(name: str, value: Any) -> tuple[str, str]:
    if name.endswith("_bytes") and type(value) in {int, float}:
        return name.removesuffix("_bytes"), format_bytes(value)
    return name, text_of(value)
