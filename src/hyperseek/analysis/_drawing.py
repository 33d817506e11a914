"""What a disk shows, ready to be drawn, and the drawing of it as PNG.

Shapes: `n` points.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperseek.analysis._disk import arcs, to_disk, top_down
from hyperseek.analysis._style import BACKGROUND, FAINT, LINE, OTHER, PANEL, TEXT, drawn, new_figure

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """Angles of the points of a disk.

    Attributes:
        name: As in `"the space"`.
        angles: `(n,)`.
        note: What was lost, for people.
    """

    name: str
    angles: Floats
    note: str


@dataclass(frozen=True)
class Disk:
    """Points on a disk.

    Attributes:
        title: What is shown.
        notes: Lines below it.
        ids: `n` ids of documents.
        titles: Their titles.
        rho: `(n,)` radii in units of the curvature radius.
        unit: The curvature radius.
        scale: What radii are multiplied by before they are drawn.
        parents: `(n,)` place of each one's parent, -1 for none.
        groups: `(n,)` group of each, -1 for none.
        names: Names of the groups.
        palette: Their colours.
        values: `(n,)` specificity, NaN where there is none.
        by: What specificity is.
        layouts: At least one.
    """

    title: str
    notes: list[str]
    ids: list[str]
    titles: list[str]
    rho: Floats
    unit: float
    scale: float
    parents: Rows
    groups: Rows
    names: list[str]
    palette: Sequence[str]
    values: Floats
    by: str
    layouts: list[Layout]


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
    """Return how many of the shown points each has below it, itself included: `(n,)`."""
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
