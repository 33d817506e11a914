"""One HTML page of a suite: its tables, and quality against cost as pictures. Nothing is loaded from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from hyperseek._display import escaped
from hyperseek.evaluation.suite._report import remarks, tables
from hyperseek.evaluation.suite._table import SuiteTable

_WIDTH, _HEIGHT = 640, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 120, 16, 46  # room around the points
_LABEL = 13  # height of a label
_LETTER = 7  # width of a letter in it

_STYLE = """
:root { --back: #ffffff; --text: #1c2330; --faint: #667085; --line: #d8dee9; --front: #0b6bcb; --good: #12733a;
  --bad: #b3261e; --panel: #f6f8fb; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --back: #0e1117; --text: #e6ebf5; --faint: #98a2b6; --line: #2b3445;
  --front: #7dc4ff; --good: #6fdc95; --bad: #ff8a80; --panel: #151b26; } }
body { margin: 2rem auto; max-width: 76rem; padding: 0 1rem; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; } p, li { color: var(--faint); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { font-weight: 600; } tbody th { position: sticky; left: 0; background: var(--back); }
.better { color: var(--good); } .worse { color: var(--bad); }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; flex: 1 1 28rem; max-width: 640px; background: var(--panel); padding: .8rem; border-radius: 8px; }
figcaption { color: var(--faint); } svg { max-width: 100%; height: auto; }
svg text { fill: var(--text); font: 12px system-ui, sans-serif; } svg .faint { fill: var(--faint); }
svg .line { stroke: var(--line); } svg .front { stroke: var(--front); fill: none; stroke-width: 1.6; }
svg .point { fill: var(--faint); } svg .best { fill: var(--front); }
"""


class _Point(NamedTuple):
    name: str
    cost: float
    quality: float


def page(table: SuiteTable) -> str:
    """Return the page."""
    parts = [
        f"<h1>The suite {escaped(table.suite)}</h1>",
        f"<p>{len(table.rows)} systems, {len(table.columns)} collections. Every number is computed from result "
        f"files; the baseline is {escaped(table.baseline)}.</p>",
        '<div class="pictures">',
        _figure(table, "query_ms", "milliseconds a query", "Quality and time"),
        _figure(table, "bytes_per_document", "bytes a document", "Quality and size"),
        "</div>",
    ]
    for part in tables(table):
        text = f"<p>{escaped(part.text)}</p>" if part.text else ""
        parts.append(f"<h2>{escaped(part.title)}</h2>{text}{_table(part.headings, part.rows)}")
    about = "".join(f"<li>{escaped(row.system)}: {escaped(row.about)}</li>" for row in table.rows if row.about)
    if about:
        parts.append(f"<h2>The systems</h2><ul>{about}</ul>")
    lines = "".join(f"<li>{escaped(line)}</li>" for line in remarks(table))
    parts.append(f"<h2>How it was measured</h2><ul>{lines}</ul>")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>The suite {escaped(table.suite)}</title><style>{_STYLE}</style></head>\n<body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escaped(heading)}</th>' for heading in headings)
    body = "".join(f'<tr><th scope="row">{escaped(row[0])}</th>{"".join(map(_cell, row[1:]))}</tr>' for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(text: str) -> str:
    kind = ' class="better"' if text.endswith("▲") else ' class="worse"' if text.endswith("▼") else ""
    return f"<td{kind}>{escaped(text)}</td>"


def _figure(table: SuiteTable, cost: str, unit: str, title: str) -> str:
    measure = table.measures[0]
    points = [
        _Point(row.system, float(getattr(row, cost)), row.means[measure])
        for row in table.rows
        if row.means and getattr(row, cost)
    ]
    if len(points) < 2:
        return ""
    caption = (
        f"{title}: mean {measure} over collections against {unit}, on a logarithmic scale. The line joins the systems "
        f"that none beats in both."
    )
    picture = _picture(points, table.front(cost), measure, unit, title)
    return f"<figure>{picture}<figcaption>{escaped(caption)}</figcaption></figure>"


def _picture(points: Sequence[_Point], front: Sequence[str], measure: str, unit: str, title: str) -> str:
    logs = [math.log10(point.cost) for point in points]
    low, high = min(logs) - 0.1, max(logs) + 0.1
    worst, best = min(point.quality for point in points), max(point.quality for point in points)
    room = max(0.01, 0.12 * (best - worst))
    worst, best = worst - room, best + room

    def x(cost: float) -> float:
        return _LEFT + (math.log10(cost) - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y(quality: float) -> float:
        return _HEIGHT - _BOTTOM - (quality - worst) / (best - worst) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" role="img" aria-label="{escaped(title)}">']
    for value in _ticks(worst, best):
        parts.append(
            f'<line class="line" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        )
        parts.append(f'<text class="faint" x="{_LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3g}</text>')
    bottom = _HEIGHT - _BOTTOM
    for value in _decades(low, high):
        parts.append(f'<line class="line" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="faint" x="{x(value):.1f}" y="{bottom + 17}" text-anchor="middle">{value:,g}</text>')
    centre = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text class="faint" x="{centre}" y="{_HEIGHT - 8}" text-anchor="middle">{escaped(unit)}</text>')
    parts.append(f'<text class="faint" x="4" y="{_TOP - 3}">{escaped(measure)}</text>')
    by_name = {point.name: point for point in points}
    line = " ".join(f"{x(by_name[name].cost):.1f},{y(by_name[name].quality):.1f}" for name in front if name in by_name)
    parts.append(f'<polyline class="front" points="{line}"/>')
    places = [(x(point.cost), y(point.quality)) for point in points]
    for point, (across, down), label in zip(points, places, _labels(points, places), strict=True):
        kind = "best" if point.name in front else "point"
        if label != down:
            parts.append(
                f'<line class="line" x1="{across:.1f}" y1="{down:.1f}" x2="{across + 8:.1f}" y2="{label:.1f}"/>'
            )
        parts.append(
            f'<circle class="{kind}" cx="{across:.1f}" cy="{down:.1f}" r="4.5"><title>{escaped(point.name)}: '
            f"{point.quality:.3f}, {point.cost:,.1f} {escaped(unit)}</title></circle>"
        )
        parts.append(f'<text x="{across + 9:.1f}" y="{label + 4:.1f}">{escaped(point.name)}</text>')
    return "".join(parts) + "</svg>"


def _ticks(low: float, high: float) -> list[float]:
    power = 10.0 ** math.floor(math.log10(high - low) - 1)  # measures of one's own may have any size
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if (high - low) / (factor * power) <= 7)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _decades(low: float, high: float) -> list[float]:
    factors = (1, 2, 5) if high - low < 2 else (1,)
    values = [factor * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for factor in factors]
    return [value for value in values if low <= math.log10(value) <= high]


def _labels(points: Sequence[_Point], places: Sequence[tuple[float, float]]) -> list[float]:
    """Return the height of each label: beside its point, or as near as it covers no other label and no point."""
    taken = [(across - 5, across + 5, down) for across, down in places]
    heights = []
    for place, (point, (across, down)) in enumerate(zip(points, places, strict=True)):
        left, right = across + 7, across + 9 + _LETTER * len(point.name)
        others = taken[:place] + taken[place + 1 :]
        steps = sorted(range(-30, 31), key=lambda step: (abs(step), -step))
        height = next(
            (
                down + step * _LABEL / 2
                for step in steps
                if _TOP < down + step * _LABEL / 2 < _HEIGHT - _BOTTOM
                and not any(
                    left < end and start < right and abs(down + step * _LABEL / 2 - other) < _LABEL
                    for start, end, other in others
                )
            ),
            down,
        )
        heights.append(height)
        taken.append((left, right, height))
    return heights
