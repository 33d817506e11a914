"""What coordinates must be, before they become points: numbers, inside of a ball, on the space's own hyperboloid.

Shapes: `N` points, `c` coordinates of each.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Fault(NamedTuple):
    """A point that a space does not have.

    Attributes:
        row: Its number, from 0.
        reason: What is wrong with it, as the end of a sentence that begins with the point.
    """

    row: int
    reason: str


# How far a time coordinate may be from the one that the space part asks for, relative to it: what rounding to half
# precision does, with room. What float32 models gather from layer to layer is less.
_TIME = 2e-3
# Rounding of coordinates, relative: to bfloat16, to float16, and to float32 with what is gathered there.
_ROUNDING = ((torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11))
_FINE = 1e-5
# Of R², where rounding leaves it twice as exact: points of another radius are not told from this one's by less.
_RADIUS = 0.1


def not_finite(coordinates: Tensor) -> Fault | None:
    """Find a point with a number that is NaN or infinite.

    Args:
        coordinates: `(N, c)`, floating.

    Returns:
        The first one, or None.
    """
    fine = coordinates.isfinite().all(dim=-1)
    if fine.all():
        return None
    row = int((~fine).nonzero()[0, 0])
    column = int((~coordinates[row].isfinite()).nonzero()[0, 0])
    number = float(coordinates[row, column])
    return Fault(row, f"has infinite or undefined numbers: {number} at place {column}; every one must be finite")


def outside_ball(coordinates: Tensor, radius_squared: float) -> Fault | None:
    """Find a point on the border of the Poincaré ball or beyond.

    Args:
        coordinates: `(N, d)`, finite.
        radius_squared: R², positive.

    Returns:
        The first one, or None.
    """
    length = torch.linalg.vector_norm(coordinates.double(), dim=-1)
    outside = length * math.sqrt(1 / radius_squared) >= 1
    if not outside.any():
        return None
    row = int(outside.nonzero()[0, 0])
    return Fault(
        row,
        f"has the norm {float(length[row]):.9g}, and points of the ball of R² = {radius_squared:g} have norms below "
        f"R = {math.sqrt(radius_squared):.9g}; where rounding put it on the border, give coordinates as float64, or "
        f"move it inside with geometry.poincare_project",
    )


def off_hyperboloid(coordinates: Tensor, radius_squared: float) -> Fault | None:
    """Find a point whose time is not the one of its space part, beyond what half precision rounds, or another R²'s.

    Far from the origin all hyperboloids are alike to the precision of their coordinates; so the points for which they
    are not decide about R², all together.

    Args:
        coordinates: `(N, d + 1)`, time first, finite.
        radius_squared: R², positive.

    Returns:
        The first one, or None.
    """
    if not len(coordinates):
        return None
    rounding = next((size for dtype, size in _ROUNDING if _is_rounded(coordinates, dtype)), _FINE)
    wide = coordinates.double()
    time, length = wide[:, 0], torch.linalg.vector_norm(wide[:, 1:], dim=-1)
    wanted = torch.hypot(length, torch.full_like(length, math.sqrt(radius_squared)))
    own = (time - length) * (time + length)  # the R² of each one's own hyperboloid
    wrong = (time - wanted).abs() > max(_TIME, 3 * rounding) * wanted
    if not wrong.any():
        telling = 2 * rounding * wanted.square() < _RADIUS * radius_squared / 2
        if not telling.any() or abs(float(own[telling].median()) / radius_squared - 1) < _RADIUS:
            return None
        wrong = telling
    row = int(wrong.nonzero()[0, 0])
    own_square = float(own[row])
    whose = (
        f"which is that of R² = {own_square:.6g}" if own_square > 0 and time[row] > 0 else "which no hyperboloid has"
    )
    return Fault(
        row,
        f"has the time {float(time[row]):.6g}, {whose}; with the space's R² = {radius_squared:.6g} a space part of "
        f"length {float(length[row]):.6g} has the time {float(wanted[row]):.6g}. The time comes first, and is positive",
    )


def _is_rounded(coordinates: Tensor, dtype: torch.dtype) -> bool:
    return bool((coordinates.to(dtype).to(coordinates.dtype) == coordinates).all())
