"""What each kind of space knows: what its coordinates must be, how they compare, and how they lift for engines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from hyperseek import geometry
from hyperseek.errors import InputError, UnknownNameError
from hyperseek.scoring._points import Points, VectorPoints, token_points, vectors_of
from hyperseek.types import Metric

if TYPE_CHECKING:
    from hyperseek.scoring._space import Space


class L2Lift(NamedTuple):
    """The maps of a chart that is searched by distance; see `Chart`."""

    documents: Callable[[Points], Tensor]
    queries: Callable[[Tensor], Tensor]
    within: Callable[[Tensor, Tensor], Tensor] | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    """A pair of maps under which an ordinary vector engine finds what the space ranks first.

    Attributes:
        name: Names the chart within its space.
        metric: What the engine must rank by.
        parameters: Plain values from which `Space.chart` makes an equal chart.
        lift_documents: `N` points to `(N, e)` vectors.
        lift_queries: `(Q, w)` query points to `(Q, e)` vectors.
        lift_weights: `(Q, f)` weights of a function that is linear in the space's features to `(Q, e)` vectors; None
            where this chart cannot search by such a function.
        lift_within: `(Q, w)` query points and `(Q,)` scores to `(Q, e)` vectors, whose nearest documents are those that
            score at least so much; None where `lift_queries` ranks as the space does.
        bound: Largest norm of features that the lift was made for; None where it takes any. Points beyond it are
            lifted wrongly, so an engine checks them.
    """

    name: str
    metric: Metric
    parameters: Mapping[str, Any]
    lift_documents: Callable[[Points], Tensor]
    lift_queries: Callable[[Tensor], Tensor]
    lift_weights: Callable[[Tensor], Tensor] | None = None
    lift_within: Callable[[Tensor, Tensor], Tensor] | None = None
    bound: float | None = None


class Geometry:
    """One kind of space. Features are vectors whose inner product with a query's features ranks as the space does."""

    flat: ClassVar[str] = "inner_product"
    graph: ClassVar[tuple[str, ...]] = ("balanced",)
    curved: ClassVar[bool] = False

    def width(self, dimension: int) -> int:
        """Return the numbers of a stored point."""
        return dimension

    def coordinates(self, dimension: int) -> int:
        """Return the numbers of a point as models give it."""
        return dimension

    def canonical(self, space: Space, coordinates: Tensor) -> Tensor:
        """Turn points as models give them into points as they are stored."""
        return coordinates

    def fault(self, space: Space, coordinates: Tensor) -> Fault | None:
        """Find among `(N, c)` coordinates what is no point of the space."""
        return not_finite(coordinates)

    def shorten(self, space: Space, vectors: Tensor, dimension: int) -> Tensor:
        """Turn stored points into stored points of the space's first dimensions."""
        return self.canonical(space, vectors[..., :dimension])

    def score(self, space: Space, queries: Tensor, points: Points) -> Tensor:
        """Compare all pairs: `(Q, N)`, higher is better."""
        raise NotImplementedError

    def score_own(self, space: Space, queries: Tensor, documents: Tensor) -> Tensor:
        """Compare each query with its own `(Q, n, w)` documents: `(Q, n)`."""
        rows = [
            self.score(space, query[None], VectorPoints(own)) for query, own in zip(queries, documents, strict=True)
        ]
        return torch.cat(rows) if rows else documents.new_zeros(0, documents.shape[1])

    def features(self, space: Space, points: Points, parameters: Mapping[str, Any]) -> Tensor:
        """Return `(N, f)` features of documents."""
        return vectors_of(points)

    def query_features(self, space: Space, queries: Tensor, parameters: Mapping[str, Any]) -> Tensor:
        """Return `(Q, f)` features of queries."""
        return queries

    def parameters(self, space: Space, given: Mapping[str, Any]) -> dict[str, Any]:
        """Check and complete the parameters of features."""
        if given:
            raise InputError(f"the charts of a {space.kind!r} space take no {', '.join(map(repr, given))}")
        return {}

    def l2_lifts(self, space: Space) -> Mapping[str, L2Lift]:
        """Return further charts, ranked by L2: name, and how documents and queries are lifted."""
        return {}


class Dot(Geometry):
    """The inner product."""

    def score(self, space: Space, queries: Tensor, points: Points) -> Tensor:
        """Return inner products."""
        return geometry.inner_product(queries, vectors_of(points))


class Cosine(Geometry):
    """The cosine; stored vectors have norm 1, so engines of every sort can search them as they are."""

    graph = ("inner_product",)

    def canonical(self, space: Space, coordinates: Tensor) -> Tensor:
        """Scale to norm 1."""
        return geometry.unit_vectors(coordinates)

    def score(self, space: Space, queries: Tensor, points: Points) -> Tensor:
        """Return cosines."""
        return geometry.cosine_similarity(queries, vectors_of(points))

    def features(self, space: Space, points: Points, parameters: Mapping[str, Any]) -> Tensor:
        """Return unit vectors."""
        return geometry.unit_vectors(vectors_of(points))

    def query_features(self, space: Space, queries: Tensor, parameters: Mapping[str, Any]) -> Tensor:
        """Return unit vectors."""
        return geometry.unit_vectors(queries)


class Euclidean(Geometry):
    """Minus the distance."""

    flat = "l2"
    graph = ("l2",)

    def score(self, space: Space, queries: Tensor, points: Points) -> Tensor:
        """Return distances with a minus sign."""
        return geometry.negative_distance(queries, vectors_of(points))

    def features(self, space: Space, points: Points, parameters: Mapping[str, Any]) -> Tensor:
        """Lift to the paraboloid."""
        return geometry.paraboloid_documents(vectors_of(points))

    def query_features(self, space: Space, queries: Tensor, parameters: Mapping[str, Any]) -> Tensor:
        """Lift to the paraboloid's tangent planes."""
        return geometry.paraboloid_queries(queries)

    def l2_lifts(self, space: Space) -> Mapping[str, L2Lift]:
        """Return the vectors themselves."""
        return {"l2": L2Lift(vectors_of, lambda queries: queries)}


class Lorentz(Geometry):
    """Hyperbolic space, with points of the hyperboloid as coordinates and polar points in the store.

    A graph engine on the inner-product lift chases norms and finds almost nothing; on either of the two L2 charts alone
    it fails at some dimension; the union of their candidates does not. The ball bends distances, most of all far from
    all documents, so that it is asked a second time, around the centre of the ball that holds the best found so far.
    """

    graph = ("poincare", "balanced")
    curved = True

    def width(self, dimension: int) -> int:
        """Return the numbers of a polar point."""
        return dimension + geometry.POLAR_EXTRA

    def coordinates(self, dimension: int) -> int:
        """Return the numbers of a hyperboloid point, time included."""
        return dimension + 1

    def fault(self, space: Space, coordinates: Tensor) -> Fault | None:
        """Find what is not finite, or not on the space's hyperboloid."""
        return not_finite(coordinates) or off_hyperboloid(coordinates, space.radius_squared)

    def canonical(self, space: Space, coordinates: Tensor) -> Tensor:
        """Turn hyperboloid points into polar points."""
        return geometry.lorentz_to_polar(coordinates, space.radius_squared)

    def shorten(self, space: Space, vectors: Tensor, dimension: int) -> Tensor:
        """Cut the space part of the hyperboloid's points and lift what is left."""
        direction, rho = geometry.split_polar(vectors)
        # Of unit radius, since polar points know no other; the time is made from the rest and may be anything here.
        return geometry.lorentz_to_polar(torch.cat([rho, torch.sinh(rho) * direction[..., :dimension]], dim=-1))

    def score(self, space: Space, queries: Tensor, points: Points) -> Tensor:
        """Return the space's similarity."""
        return _similarity(space, geometry.half_chord(queries, vectors_of(points)))

    def score_own(self, space: Space, queries: Tensor, documents: Tensor) -> Tensor:
        """Return the space's similarity of own documents."""
        return _similarity(space, geometry.half_chord_own(queries, documents))

    def features(self, space: Space, points: Points, parameters: Mapping[str, Any]) -> Tensor:
        """Return hyperboloid points of radius 1: `(time, space)`."""
        return geometry.polar_to_lorentz(vectors_of(points))

    def query_features(self, space: Space, queries: Tensor, parameters: Mapping[str, Any]) -> Tensor:
        """Return hyperboloid points with the sign of time flipped: the Lorentz inner product as a plain one."""
        points = geometry.polar_to_lorentz(queries)
        return torch.cat([-points[..., :1], points[..., 1:]], dim=-1)

    def l2_lifts(self, space: Space) -> Mapping[str, L2Lift]:
        """Return ball coordinates."""

        def within(queries: Tensor, scores: Tensor) -> Tensor:
            return geometry.ball_centres(queries, _chord(space, scores))

        def documents(points: Points) -> Tensor:
            return geometry.polar_to_poincare(vectors_of(points))

        return {"poincare": L2Lift(documents, geometry.polar_to_poincare, within)}


class Poincare(Lorentz):
    """Hyperbolic space, with points of the ball as coordinates."""

    def coordinates(self, dimension: int) -> int:
        """Return the numbers of a ball point."""
        return dimension

    def fault(self, space: Space, coordinates: Tensor) -> Fault | None:
        """Find what is not finite, or not in the ball."""
        return not_finite(coordinates) or outside_ball(coordinates, space.radius_squared)

    def canonical(self, space: Space, coordinates: Tensor) -> Tensor:
        """Turn ball points into polar points."""
        # In float64: what is between a norm and the border says how far out a point is, and norms are rounded, too.
        polar = geometry.poincare_to_polar(coordinates.double(), 1 / space.radius_squared)
        return polar if coordinates.dtype == torch.float64 else polar.float()


class Tokens(Geometry):
    """Sets of token vectors, compared by late interaction: see `MaxSimScorer`."""

    def shorten(self, space: Space, vectors: Tensor, dimension: int) -> Tensor:
        """Refuse: what stands for a text is no single point."""
        raise InputError("points of tokens cannot be cut to fewer dimensions")

    def score(self, space: Space, queries: Tensor, points: Points) -> Tensor:
        """Refuse: one vector cannot stand for a query of many."""
        raise InputError("token points are compared by a MaxSimScorer, which holds all tokens of a query")

    def features(self, space: Space, points: Points, parameters: Mapping[str, Any]) -> Tensor:
        """Return fixed-dimensional encodings of documents."""
        documents = token_points(points)
        encoding = geometry.TokenEncoding(space.dimension, **parameters)
        return encoding.encode_documents(documents.vectors, documents.offsets)

    def query_features(self, space: Space, queries: Tensor, parameters: Mapping[str, Any]) -> Tensor:
        """Return fixed-dimensional encodings of `(Q, t, d)` queries, whose missing tokens are zero."""
        return geometry.TokenEncoding(space.dimension, **parameters).encode_queries(queries)

    def parameters(self, space: Space, given: Mapping[str, Any]) -> dict[str, Any]:
        """Complete the settings of the encoding, so that a stored chart survives other defaults."""
        known = {field.name for field in fields(geometry.TokenEncoding)} - {"dimension"}
        for name in given:
            if name not in known:
                raise UnknownNameError("parameter of a token space's chart", name, known)
        settings = asdict(geometry.TokenEncoding(space.dimension, **given))
        return {name: settings[name] for name in sorted(known)}


GEOMETRIES: dict[str, Geometry] = {
    "dot": Dot(),
    "cosine": Cosine(),
    "euclidean": Euclidean(),
    "lorentz": Lorentz(),
    "poincare": Poincare(),
    "tokens": Tokens(),
}
"""The kinds of spaces."""


def _similarity(space: Space, chord: Tensor) -> Tensor:
    if space.similarity == "geodesic":
        return geometry.chord_distance(chord, space.radius_squared).neg()
    largest = torch.finfo(chord.dtype).max
    squared = (-4 * space.radius_squared * chord.square()).clamp_min(-largest)
    return squared if space.similarity == "squared" else squared / 2 - space.radius_squared


def _chord(space: Space, score: Tensor) -> Tensor:
    """Return the half chord at which documents have a similarity: the inverse of `_similarity`."""
    if space.similarity == "geodesic":
        return torch.sinh(score / (-2 * math.sqrt(space.radius_squared)))
    squared = score if space.similarity == "squared" else 2 * (score + space.radius_squared)
    return (squared / (-4 * space.radius_squared)).clamp_min(0).sqrt()


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
