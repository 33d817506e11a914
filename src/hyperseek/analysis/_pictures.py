"""Pictures: a disk as PNG and as one HTML file, histograms of radii, and their colours.

Shapes: `n` points.
"""

from __future__ import annotations

import html
import json
import math
import os
import re
import textwrap
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperseek._files import atomic_write
from hyperseek.analysis._radii import SpecificityReport
from hyperseek.analysis.disk import PALETTE, Disk, Layout, arcs, to_disk, top_down
from hyperseek.errors import printable, require

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

BACKGROUND = "#0e1117"
PANEL = "#151b26"
LINE = "#2b3445"
TEXT = "#e6ebf5"
FAINT = "#8a94a8"
ACCENT = "#7df9ff"
OTHER = "#66708a"
"""Of points that belong to no branch."""


def draw_disk(path: str | os.PathLike[str], disk: Disk, layout: Layout, *, labels: int = 14) -> Path:
    """Draw a Poincaré disk as PNG.

    Args:
        path: The file.
        disk: What to draw.
        layout: One of its layouts.
        labels: Points near the origin that carry their titles, as far as there is room.

    Returns:
        The path.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure = new_figure(12.2, 9.6)
    axes = figure.add_axes((0.01, 0.02, 0.77, 0.96))
    _draw_background(axes, disk)
    points = to_disk(layout.angles, disk.rho, disk.scale)
    colours = _colours(disk)
    _draw_edges(axes, disk, points, colours)
    # Many points need small dots; those near the origin, which are few and general, may be larger.
    size = np.clip(60_000 / max(len(points), 1), 2.5, 30) * (0.6 + 2.4 * (1 - np.abs(points)) ** 1.5)
    order = np.argsort(-disk.rho)
    axes.scatter(points.real[order], points.imag[order], s=size[order], c=colours[order], linewidths=0, zorder=3)
    _draw_labels(axes, disk, points, labels)
    _draw_legend(figure, disk, layout)
    figure.savefig(Path(path), dpi=100, facecolor=BACKGROUND)
    return Path(path)


def _draw_background(axes: Any, disk: Disk) -> None:
    from matplotlib.patches import Circle

    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_xlim(-1.04, 1.04)
    axes.set_ylim(-1.04, 1.04)
    axes.add_patch(Circle((0, 0), 1, facecolor=PANEL, edgecolor=FAINT, linewidth=1.2, zorder=0))
    far = float(disk.rho.max()) * disk.unit
    step = next((step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if far / step <= 8), 50)
    for ring in np.arange(step, far + step / 2, step):
        radius = float(np.tanh(disk.scale * ring / disk.unit / 2))
        axes.add_patch(Circle((0, 0), radius, fill=False, edgecolor=LINE, linewidth=0.7, zorder=1))
        if radius < 0.97:
            axes.text(0, -radius, f"{ring:g}", color=FAINT, fontsize=7.5, ha="center", va="center", zorder=4)


def _colours(disk: Disk) -> Any:
    """Return the `(n, 4)` colours of the points' groups."""
    from matplotlib.colors import to_rgba

    return np.array([to_rgba(colour) for colour in (*disk.palette[: len(disk.names)], OTHER)])[disk.groups]


def _draw_edges(axes: Any, disk: Disk, points: NDArray[np.complex128], colours: Any) -> None:
    from matplotlib.collections import LineCollection

    children = np.flatnonzero(disk.parents >= 0)
    if not len(children):
        return
    lines = arcs(points[disk.parents[children]], points[children])
    # The edges of large families are the branches of the tree, and are drawn as such.
    weight = np.log1p(_families(disk)[children] - 1)
    shades = colours[children].copy()
    shades[:, 3] = np.clip(900 / len(children) + 0.12 * weight, 0.18, 0.85)
    segments = np.stack([lines.real, lines.imag], axis=-1)
    axes.add_collection(LineCollection(list(segments), colors=shades, linewidths=0.45 + 0.22 * weight, zorder=2))


def _families(disk: Disk) -> Floats:
    """Return how many shown points each one has below it, itself included: `(n,)`."""
    sizes = np.ones(len(disk.parents))
    for row in reversed(top_down(disk.parents)[0]):
        if disk.parents[row] >= 0:
            sizes[disk.parents[row]] += sizes[row]
    return sizes


def _draw_labels(axes: Any, disk: Disk, points: NDArray[np.complex128], labels: int) -> None:
    """Write titles, those of the largest families and then the most central ones first, where they cover no other."""
    from matplotlib import patheffects

    taken: list[tuple[float, float, float]] = []
    for row in np.lexsort([disk.rho, -_families(disk)])[: 6 * labels]:
        x, y = float(points[row].real), float(points[row].imag)
        text = _short(disk.titles[row], 22)
        half = 0.0085 * len(text)
        if any(abs(y - other) < 0.036 and abs(x - place) < half + wide for place, other, wide in taken):
            continue
        taken.append((x, y, half))
        label = axes.text(x, y + 0.012, text, color=TEXT, fontsize=9, ha="center", va="bottom", zorder=5)
        label.set_path_effects([patheffects.withStroke(linewidth=2.4, foreground=BACKGROUND)])
        if len(taken) == labels:
            return


def _draw_legend(figure: Any, disk: Disk, layout: Layout) -> None:
    left, top = 0.785, 0.93
    figure.text(left, top, _short(disk.title, 30), color=TEXT, fontsize=15, va="top")
    notes = (*disk.notes, f"radii times {disk.scale:.2g}; rings at true values", layout.note)
    lines = [part for note in notes for part in textwrap.wrap(note, 38)]
    figure.text(left, top - 0.045, "\n".join(map(drawn, lines)), color=FAINT, fontsize=8.6, va="top", linespacing=1.5)
    height = top - 0.075 - 0.0195 * len(lines)
    for number, (name, colour) in enumerate(zip(disk.names, disk.palette, strict=False)):
        place = height - 0.032 * number
        figure.text(left, place, "●", color=colour, fontsize=13, va="center")
        figure.text(left + 0.022, place, _short(name, 22), color=TEXT, fontsize=10, va="center")
        count = f"{int((disk.groups == number).sum()):,}"
        figure.text(0.985, place, count, color=FAINT, fontsize=9, va="center", ha="right")


def _short(text: str, most: int) -> str:
    kept = text
    if len(text) > most:
        # Titles are often lists of names; whole ones read better than half of one.
        whole = text[: most + 1].rpartition(", ")[0]
        kept = whole or f"{text[: most - 1].rstrip(' -,;:(')}…"
    return drawn(kept)


def drawn(text: str) -> str:
    """Return a text as matplotlib draws it letter by letter: a `$` would begin a formula, and fonts lack pictures."""
    return printable(text, mark="\ufffd").replace("$", r"\$")


def new_figure(width: float, height: float) -> Any:
    """Return a matplotlib figure, its size in inches, drawn without a window; MissingExtraError without matplotlib."""
    require("matplotlib", extra="plot")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    return figure


def write_disk_html(path: str | os.PathLike[str], disk: Disk) -> Path:
    """Write a disk as HTML, with its data and code inside and nothing from elsewhere.

    Args:
        path: The file.
        disk: What to show.

    Returns:
        The path.
    """
    # Polar numbers, since those near the rim would need many digits.
    data = {
        "title": printable(disk.title),
        "notes": [printable(note) for note in disk.notes],
        "ids": [printable(name) for name in disk.ids],
        "titles": [printable(title) for title in disk.titles],
        "rho": _rounded(disk.rho),
        "unit": disk.unit,
        "scale": disk.scale,
        "parents": disk.parents.tolist(),
        "groups": disk.groups.tolist(),
        "names": [printable(name) for name in disk.names],
        "palette": list(disk.palette),
        "other": OTHER,
        "values": _rounded(disk.values),
        "by": printable(disk.by),
        "layouts": [
            {"name": printable(one.name), "angles": _rounded(one.angles), "note": printable(one.note)}
            for one in disk.layouts
        ],
    }
    return _write_page(path, "_disk.html", disk.title, data)


def write_levels_html(path: str | os.PathLike[str], title: str, report: dict[str, Any]) -> Path:
    """Write what `inspect_levels` found as HTML, with its data and code inside and nothing from elsewhere.

    Args:
        path: The file.
        title: What the index is called.
        report: Plain values of a `LevelsReport`.

    Returns:
        The path.
    """
    return _write_page(path, "_levels.html", title, {**_printable(report), "title": printable(title)})


def _write_page(path: str | os.PathLike[str], template: str, title: str, data: dict[str, Any]) -> Path:
    # Without a "<" no title can end the script element.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    page = files(__package__).joinpath(template).read_text(encoding="utf-8")
    with atomic_write(path) as file:
        # At once, since a title may hold the mark of the data.
        parts = {"@TITLE@": html.escape(printable(title)), "@DATA@": text}
        file.write(re.sub("|".join(parts), lambda mark: parts[mark[0]], page))
    return Path(path)


def _printable(value: Any) -> Any:
    """Return plain values, texts safe to show and numbers as short as a picture needs."""
    if isinstance(value, dict):
        return {key: _printable(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_printable(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.5g}")
    return printable(value) if isinstance(value, str) else value


def _rounded(values: NDArray[np.float64]) -> list[float | None]:
    return [round(value, 5) if math.isfinite(value) else None for value in values.tolist()]


def draw_charts(
    path: str | os.PathLike[str],
    *,
    radii: Floats | None,
    specificity: SpecificityReport | None,
    curvatures: Floats,
) -> Path:
    """Draw the measurements as PNG, one panel each.

    Args:
        path: The file.
        radii: Of all documents, or None to leave out the panel.
        specificity: Radii by specificity, or None to leave out the panel.
        curvatures: Of the sampled edges.

    Returns:
        The path.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    count = 1 + (radii is not None) + (specificity is not None)
    figure = new_figure(5.2 * count, 4.2)
    panels = iter(figure.subplots(1, count, squeeze=False)[0])
    if radii is not None:
        _bars(next(panels), radii, f"radius, median {np.median(radii):.3g}", PALETTE[0])
    if specificity is not None:
        _levels(next(panels), specificity)
    axes = next(panels)
    _bars(axes, curvatures, f"Ollivier-Ricci curvature, mean {curvatures.mean():.3f}", PALETTE[1])
    axes.axvline(0, color=TEXT, linewidth=0.8, linestyle="--")
    figure.tight_layout(pad=1.6)
    figure.savefig(Path(path), dpi=100, facecolor=BACKGROUND)
    return Path(path)


def _plain(axes: Any) -> None:
    axes.set_facecolor(PANEL)
    axes.tick_params(colors=FAINT, labelsize=8)
    for side in axes.spines.values():
        side.set_color(LINE)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)


def _bars(axes: Any, values: Floats, title: str, colour: str) -> None:
    _plain(axes)
    axes.hist(values, bins=50, color=colour, linewidth=0)
    axes.set_title(title, color=TEXT, fontsize=10)


def _levels(axes: Any, report: SpecificityReport) -> None:
    _plain(axes)
    # Wide ranges would squeeze all others together, so levels are evenly spaced.
    places = np.arange(len(report.levels))
    means = np.array([level.mean for level in report.levels])
    spread = np.array([level.deviation for level in report.levels])
    axes.fill_between(places, means - spread, means + spread, color=ACCENT, alpha=0.18, linewidth=0)
    axes.plot(places, means, color=ACCENT, marker="o", markersize=4, linewidth=1.4)
    names = [f"{level.low:g}" if level.low == level.high else f"{level.low:g} to {level.high:g}"
             for level in report.levels]  # fmt: skip
    step = max(1, len(places) // 10)
    axes.set_xticks(places[::step], names[::step], rotation=0 if len(names[0]) < 4 else 30)
    axes.set_title(f"mean radius by {drawn(report.by)}, Spearman {report.spearman:.2f}", color=TEXT, fontsize=10)
