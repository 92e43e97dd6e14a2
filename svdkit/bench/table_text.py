"""A table of records as Markdown, HTML and CSV; everything that came from a user is escaped."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from svdkit.units import format_bytes, format_seconds

if TYPE_CHECKING:
    import pandas as pd

# Columns -> their headings, where the name alone does not say it.
_PLAIN = {"peak_allocated_bytes": "peak allocated", "peak_reserved_bytes": "peak reserved", "process_bytes": "process"}
_IN_OTHERS = {"seconds_low", "seconds_high", "seconds_p10", "seconds_p90", "ratio_low", "ratio_high", "best", "id"}
_TIMES = {"forecast_seconds": "forecast", "seconds": "clip time (95 %)"}
_HEADINGS = {**_TIMES, "ratio": "× baseline (95 %)", **_PLAIN}
_NUMBERS = {"repeats", "ratio", *_TIMES, *_PLAIN}

# Colours with their own text colour, so that they can be read in dark notebooks too.
_BEST_STYLE, _FAILED_STYLE = "background:#d5f0dc;color:#0a3a17", "background:#fbe0dd;color:#5c1109"
_CELL_STYLE = "padding:3px 8px;vertical-align:top;border-bottom:1px solid #8884;text-align:"


_FORMULA_SIGNS = tuple("=+-@\t\n\uff1d\uff0b\uff0d\uff20")  # and as wide as a Chinese or Japanese letter


class _Cell(NamedTuple):
    text: str
    best: bool = False
    failed: bool = False


def to_markdown(frame: pd.DataFrame) -> str:
    """Write a table as Markdown: what holds for all rows above it, the best of a column in bold and by word.

    Example:
        >>> print(to_markdown(table(records)))  # doctest: +SKIP
    """
    names, rows = _layout(frame)
    lines = [f"- {name}: {_markdown(text)}" for name, text in frame.attrs.get("about", ())]
    lines += ["", f"| {' | '.join(_markdown(_HEADINGS.get(name, name)) for name in names)} |"]
    lines += [f"|{'|'.join('--:' if _is_number(name) else '---' for name in names)}|"]
    lines += [f"| {' | '.join(_markdown(cell.text, bold=cell.best) for cell in row)} |" for row in rows]
    return "\n".join(lines).lstrip("\n") + "\n"


def to_html(frame: pd.DataFrame) -> str:
    """Write a table as HTML that needs nothing else: like the Markdown, the best and the failed in colour too.

    Example:
        >>> IPython.display.HTML(to_html(table(records)))  # doctest: +SKIP
    """
    names, rows = _layout(frame)
    about = "".join(f"<li>{html.escape(name)}: {html.escape(text)}</li>" for name, text in frame.attrs.get("about", ()))
    head = "".join(_html("th", name, _Cell(_HEADINGS.get(name, name))) for name in names)
    body = "".join(
        f"<tr>{''.join(_html('td', name, cell) for name, cell in zip(names, row, strict=True))}</tr>" for row in rows
    )
    style = "border-collapse:collapse;font-size:13px;color:inherit"
    table = f'<table style="{style}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<ul style="margin:0 0 8px">{about}</ul><div style="overflow-x:auto">{table}</div>'


def to_csv(frame: pd.DataFrame) -> str:
    """Write the raw numbers as CSV: seconds and bytes, nothing rounded.

    A text that a spreadsheet would run as a formula, such as a photo's name ``=1+1.jpg``, gets a ``'`` in front.

    Example:
        >>> Path("table.csv").write_text(to_csv(table(records)), encoding="utf-8-sig")  # doctest: +SKIP
    """
    return str(frame.rename(columns=_harmless).map(_harmless).to_csv(index=False, lineterminator="\n"))


def _harmless(value: Any) -> Any:
    """Keep a text a text where it is opened: https://owasp.org/www-community/attacks/CSV_Injection."""
    if not isinstance(value, str):
        return value
    text = "\n".join(value.splitlines())  # a lone carriage return would be written without quotes, as a new row
    return f"'{text}" if text.startswith(_FORMULA_SIGNS) else text


def _layout(frame: pd.DataFrame) -> tuple[list[str], list[list[_Cell]]]:
    """Choose the columns that say something and make their cells."""
    names = [name for name in frame.columns if name not in _IN_OTHERS and not all(map(_is_nothing, frame[name]))]
    return names, [[_cell(name, row) for name in names] for row in frame.to_dict("records")]


def _cell(name: str, row: dict[str, Any]) -> _Cell:
    value = row[name]
    if _is_nothing(value):
        return _Cell("–")
    best = name in str(row.get("best", "")).split(", ")
    text = _text(name, row)
    return _Cell(f"{text} best" if best else text, best, failed=name == "status" and value != "ok")


def _is_nothing(value: Any) -> bool:
    """Whether a cell is empty: None, NaN, pandas' NA (which has no truth value), or no text."""
    return value is None or str(value) in ("", "nan", "<NA>")


def _text(name: str, row: dict[str, Any]) -> str:
    value = row[name]
    if name in _PLAIN or name.endswith("_bytes"):
        return format_bytes(value)
    if name in ("seconds", "ratio", "forecast_seconds"):
        low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
        known = not _is_nothing(low) and not _is_nothing(high)
        if name != "ratio":  # in text, an interval of a hundredth would have equal ends
            percent = f" ({low / value - 1:+.1%} to {high / value - 1:+.1%})" if known and value else ""
            return f"{format_seconds(value)}{percent}"
        return f"{value:.3f}{f' ({low:.3f} to {high:.3f})' if known and low != high else ''}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):  # a column of whole numbers is one where a number is missing
        return str(int(value)) if value.is_integer() and not name.startswith("quality.") else f"{value:.4g}"
    return str(value)


def _is_number(name: str) -> bool:
    return name in _NUMBERS or name.startswith("quality.")


def _markdown(text: str, *, bold: bool = False) -> str:
    """Escape what Markdown or HTML would read as more than text."""
    line = html.escape(" ".join(text.split()), quote=False)
    line = re.sub(r"([\\`*\[\]|])", r"\\\1", line)
    return f"**{line}**" if bold else line


def _html(tag: str, name: str, cell: _Cell) -> str:
    side = "right" if _is_number(name) else "left;min-width:4em"
    side += ";white-space:nowrap" if _is_number(name) and tag == "td" else ""
    style = f"{_CELL_STYLE}{side};{_BEST_STYLE if cell.best else _FAILED_STYLE if cell.failed else ''}"
    text = html.escape(cell.text)
    if tag == "th":
        text = text.replace("_", "_<wbr>").replace(".", ".<wbr>")  # long names may break there
    return f'<{tag} style="{style}">{f"<b>{text}</b>" if cell.best else text}</{tag}>'
