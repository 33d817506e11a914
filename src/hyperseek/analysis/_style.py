"""Colours that all pictures share, and a figure without a window."""

from __future__ import annotations

from typing import Any

from hyperseek._errors import require
from hyperseek._terminal import printable

BACKGROUND = "#0e1117"
PANEL = "#151b26"
LINE = "#2b3445"
TEXT = "#e6ebf5"
FAINT = "#8a94a8"
ACCENT = "#7df9ff"
OTHER = "#66708a"
"""Of points that belong to no branch."""

PALETTE = (
    "#4cc9f0", "#ff7096", "#ffd166", "#80ed99", "#b892ff", "#ff9f5a",
    "#38d9a9", "#f1f3f9", "#a9e34b", "#748ffc", "#ffc9a3",
)  # fmt: skip
"""One colour a branch, the largest first."""


GRADIENT = ("#fcd225", "#fca636", "#f2844b", "#e16462", "#cc4778", "#b12a90", "#8f0da4", "#6a00a8")
"""Colours of ranges of a number, from the least."""


def drawn(text: str) -> str:
    """Return a text as matplotlib draws it letter by letter: a `$` would begin a formula, and fonts lack pictures."""
    return printable(text, mark="\ufffd").replace("$", r"\$")


def new_figure(width: float, height: float) -> Any:
    """Return a matplotlib figure of so many inches, drawn without a window; MissingExtraError without matplotlib."""
    require("matplotlib", extra="plot")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    return figure
