"""Hyperbolic spaces: points of the hyperboloid or of the ball as coordinates, polar points in the store.

Shapes: `Q` queries, `N` documents, `n` documents of each query's own, `w` numbers in a stored point, `f` features.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from numbers import Real
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor

from hyperseek.errors import InputError, UnknownNameError, shown
from hyperseek.geometry.polar import (
    POLAR_EXTRA,
    ball_centres,
    half_chord,
    half_chord_own,
    lorentz_to_polar,
    poincare_to_polar,
    polar_between,
    polar_distance,
    polar_distance_own,
    polar_to_lorentz,
    polar_to_poincare,
    split_polar,
    uneven_terms,
)
from hyperseek.scoring._geometries import Fault, Geometry, L2Lift, Products, not_finite
from hyperseek.scoring._points import Points, vectors_of

Similarity: TypeAlias = Literal["geodesic", "squared", "inner"]
"""What a hyperbolic space scores by: minus the distance, minus the squared Lorentz distance, the Lorentz inner product.
All three rank alike."""

# How far a time coordinate may be from that of its space part, relative to it: the effect of rounding to
# half precision, with room. The errors that float32 models accumulate from layer to layer are smaller.
_TIME = 2e-3
# Relative rounding of coordinates: to bfloat16, to float16, and to float32 with the errors accumulated there.
_ROUNDING = ((torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11))
_FINE = 1e-5
# Relative difference of R² from which points are those of another radius, where rounding leaves R² twice as exact.
_RADIUS = 0.1


class Lorentz(Geometry):
    """Hyperbolic space, with points of the hyperboloid as coordinates and polar points in the store.

    A graph engine on the inner-product lift chases norms and finds almost nothing. On either of the two L2 charts alone
    it fails in some dimensions; the union of their candidates does not. The Poincaré ball distorts distances, most of
    all far from the documents, so it is searched a second time, around the centre of the ball that contains the best
    candidates so far.

    Args:
        dimension: `d`, at least 1.
        radius_squared: R² of the hyperboloid, positive; the ball has c = 1/R².
        similarity: What it scores by.

    Raises:
        InputError: `radius_squared` is not positive and finite.
        UnknownNameError: There is no such similarity.
    """

    graph_charts = ("poincare", "balanced")
    neighbour_chart = "poincare"
    hyperbolic = True
    distance_name = "geodesic distance"

    def __init__(self, dimension: int, radius_squared: float = 1.0, similarity: Similarity = "geodesic") -> None:
        super().__init__(dimension)
        given = cast("object", radius_squared)
        if not isinstance(given, Real) or not 0 < radius_squared <= sys.float_info.max:
            raise InputError(f"radius_squared must be positive and finite, not {shown(radius_squared)}")
        if similarity not in ("geodesic", "squared", "inner"):
            raise UnknownNameError("similarity", similarity, ("geodesic", "squared", "inner"))
        self.radius_squared: float = radius_squared
        self.similarity: Similarity = similarity

    @property
    def width(self) -> int:
        """How many numbers a polar point has."""
        return self.dimension + POLAR_EXTRA

    @property
    def coordinates(self) -> int:
        """How many coordinates a hyperboloid point has, time included."""
        return self.dimension + 1

    def fault(self, coordinates: Tensor) -> Fault | None:
        """Find a point that is not finite, not on the space's hyperboloid, or too far out for the similarity."""
        return (
            not_finite(coordinates) or off_hyperboloid(coordinates, self.radius_squared) or self._too_far(coordinates)
        )

    def _too_far(self, coordinates: Tensor) -> Fault | None:
        """Find a point whose scores exceed float32: squared distances grow exponentially with distances."""
        if self.similarity == "geodesic":
            return None
        farthest = (math.log(torch.finfo(torch.float32).max) - math.log(self.radius_squared)) / 2
        rho = split_polar(self.canonical(coordinates.double()))[1][:, 0]
        if not (far := rho > farthest).any():
            return None
        row = int(far.nonzero()[0, 0])
        return Fault(
            row,
            f"is {float(rho[row]):.6g} R from the origin; the {self.similarity!r} similarity of points beyond "
            f"{farthest:.4g} R exceeds float32. The similarity 'geodesic' ranks alike and has no such limit",
        )

    def canonical(self, coordinates: Tensor) -> Tensor:
        """Turn hyperboloid points into polar points."""
        return lorentz_to_polar(coordinates, self.radius_squared)

    def shorten(self, vectors: Tensor, dimension: int) -> Tensor:
        """Cut the space part of the hyperboloid points and lift the rest again."""
        direction, rho = split_polar(vectors)
        # Of radius 1, since polar points do not depend on it; the time is recomputed from the rest and may be anything.
        return lorentz_to_polar(torch.cat([rho, torch.sinh(rho) * direction[..., :dimension]], dim=-1))

    def score(self, queries: Tensor, points: Points) -> Tensor:
        """Return the space's similarity."""
        if self.similarity == "geodesic":
            return -polar_distance(queries, vectors_of(points), self.radius_squared)
        return self._similarity(half_chord(queries, vectors_of(points)))

    def score_own(self, queries: Tensor, documents: Tensor) -> Tensor:
        """Return the space's similarity of own documents."""
        if self.similarity == "geodesic":
            return -polar_distance_own(queries, documents, self.radius_squared)
        return self._similarity(half_chord_own(queries, documents))

    def _similarity(self, chord: Tensor) -> Tensor:
        largest = torch.finfo(chord.dtype).max
        squared = (-4 * self.radius_squared * chord.square()).clamp_min(-largest)
        return squared if self.similarity == "squared" else squared / 2 - self.radius_squared

    def _chord(self, score: Tensor) -> Tensor:
        """Return the half chord of documents with this similarity."""
        if self.similarity == "geodesic":
            return torch.sinh(score / (-2 * math.sqrt(self.radius_squared)))
        squared = score if self.similarity == "squared" else 2 * (score + self.radius_squared)
        return (squared / (-4 * self.radius_squared)).clamp_min(0).sqrt()

    def products(self, parameters: Mapping[str, Any]) -> Products:
        """Return features with what they lack where directions were rounded, and minus cosines of distances."""

        def documents(points: Points) -> Tensor:
            return torch.cat([self.features(points, parameters), uneven_terms(vectors_of(points))], dim=-1)

        def queries(vectors: Tensor) -> Tensor:
            return torch.cat([self.query_features(vectors, parameters), -uneven_terms(vectors).flip(-1)], dim=-1)

        return Products(documents, queries, lambda scores: -1 - 2 * self._chord(scores).square())

    def features(self, points: Points, parameters: Mapping[str, Any]) -> Tensor:
        """Return hyperboloid points of radius 1: `(time, space)`."""
        return polar_to_lorentz(vectors_of(points))

    def query_features(self, queries: Tensor, parameters: Mapping[str, Any]) -> Tensor:
        """Return hyperboloid points with the sign of time flipped: the Lorentz inner product as a plain one."""
        points = polar_to_lorentz(queries)
        return torch.cat([-points[..., :1], points[..., 1:]], dim=-1)

    def l2_lifts(self, parameters: Mapping[str, Any]) -> Mapping[str, L2Lift]:
        """Return ball coordinates."""

        def within(queries: Tensor, scores: Tensor) -> Tensor:
            return ball_centres(queries, self._chord(scores))

        def documents(points: Points) -> Tensor:
            return polar_to_poincare(vectors_of(points))

        return {"poincare": L2Lift(documents, polar_to_poincare, within)}

    def moved(self, queries: Tensor, documents: Tensor, weights: Tensor) -> Tensor:
        """Move along the geodesic to the mean of the documents, which is found by such steps from one to the next."""
        mean, total = documents[:, 0], weights[:, 0]
        for own, weight in zip(documents.unbind(1)[1:], weights.unbind(1)[1:], strict=True):
            total = total + weight
            mean = polar_between(mean, own, weight / torch.where(total > 0, total, 1))
        return polar_between(queries, mean, total)

    def distances(self, first: Tensor, second: Tensor) -> Tensor:
        """Return geodesic distances, whatever the space scores by."""
        return polar_distance(first, second, self.radius_squared)

    def radii(self, vectors: Tensor) -> Tensor:
        """Return geodesic distances from the origin."""
        return split_polar(vectors)[1][..., 0] * math.sqrt(self.radius_squared)


class Poincare(Lorentz):
    """Hyperbolic space, with points of the ball as coordinates; arguments as for `Lorentz`."""

    @property
    def coordinates(self) -> int:
        """How many coordinates a point of the ball has."""
        return self.dimension

    def fault(self, coordinates: Tensor) -> Fault | None:
        """Find a point that is not finite, not in the ball, or too far out for the similarity."""
        return not_finite(coordinates) or outside_ball(coordinates, self.radius_squared) or self._too_far(coordinates)

    def canonical(self, coordinates: Tensor) -> Tensor:
        """Turn ball points into polar points."""
        # In float64: the gap between a norm and the border says how far out a point is, and norms are rounded too.
        polar = poincare_to_polar(coordinates.double(), 1 / self.radius_squared)
        return polar if coordinates.dtype == torch.float64 else polar.float()


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
        f"R = {math.sqrt(radius_squared):.9g}; if rounding put it on the border, give coordinates as float64, or "
        f"move it inside with geometry.poincare_project",
    )


def off_hyperboloid(coordinates: Tensor, radius_squared: float) -> Fault | None:
    """Find a point whose time is not that of its space part, beyond half precision's rounding, or that of another R².

    Far from the origin all hyperboloids are alike within the precision of their coordinates, so R² is judged from the
    points where they are not, all together.

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
