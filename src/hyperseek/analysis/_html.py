"""The disk as one HTML file that one can move through; it needs nothing but a browser."""

from __future__ import annotations

import html
import json
import math
import os
import re
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hyperseek._files import atomic_write
from hyperseek._terminal import printable
from hyperseek.analysis._drawing import Disk
from hyperseek.analysis._style import OTHER


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
    # Without a "<" no title can end the script element.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    page = files(__package__).joinpath("_disk.html").read_text(encoding="utf-8")
    with atomic_write(path) as file:
        # At once, since a title may hold the mark of the data.
        parts = {"@TITLE@": html.escape(printable(disk.title)), "@DATA@": text}
        file.write(re.sub("|".join(parts), lambda mark: parts[mark[0]], page))
    return Path(path)


def _rounded(values: NDArray[np.float64]) -> list[float | None]:
    return [round(value, 5) if math.isfinite(value) else None for value in values.tolist()]
