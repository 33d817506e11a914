"""Histograms of a space: radii, radius by specificity, curvature."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hyperseek.analysis._specificity import SpecificityReport
from hyperseek.analysis._style import ACCENT, BACKGROUND, FAINT, LINE, PALETTE, PANEL, TEXT, drawn, new_figure

if TYPE_CHECKING:
    from hyperseek.analysis._report import SpaceReport

Floats = NDArray[np.float64]


def draw_charts(
    path: str | os.PathLike[str], report: SpaceReport, *, radii: Floats | None, curvatures: Floats | None
) -> Path | None:
    """Draw what was measured, a panel each, as PNG.

    Args:
        path: The file.
        report: The measures.
        radii: Of all documents.
        curvatures: Of the sampled edges.

    Returns:
        The path, or None where there is nothing to draw.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    panels = [name for name, there in (("radii", radii), ("levels", report.specificity), ("curvature", curvatures))
              if there is not None]  # fmt: skip
    if not panels:
        return None
    figure = new_figure(5.2 * len(panels), 4.2)
    for number, name in enumerate(panels, 1):
        axes = figure.add_subplot(1, len(panels), number)
        _plain(axes)
        if name == "radii" and radii is not None:
            _bars(axes, radii, f"radius, median {np.median(radii):.3g}", PALETTE[0])
        elif name == "curvature" and curvatures is not None and report.curvature is not None:
            _bars(axes, curvatures, f"Ollivier-Ricci curvature, mean {report.curvature.mean:.3f}", PALETTE[1])
            axes.axvline(0, color=TEXT, linewidth=0.8, linestyle="--")
        elif report.specificity is not None:
            _levels(axes, report.specificity)
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
    axes.hist(values, bins=50, color=colour, linewidth=0)
    axes.set_title(title, color=TEXT, fontsize=10)


def _levels(axes: Any, report: SpecificityReport) -> None:
    # Wide ranges would squeeze all others together, so levels stand side by side.
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
