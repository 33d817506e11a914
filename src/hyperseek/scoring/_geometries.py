"""The kinds of spaces: which coordinates are valid, how points compare, and how they are lifted for engines.

Shapes: `Q` queries, `N` documents, `n` documents of each query's own, `w` numbers in a stored point, `f` features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, NamedTuple, get_type_hints

import torch
from torch import Tensor

from hyperseek import geometry
from hyperseek._registry import Registry
from hyperseek.errors import InputError, UnknownNameError, shown
from hyperseek.geometry.euclidean import (
    cosine_similarity,
    negative_distance,
    paraboloid_documents,
    paraboloid_queries,
    unit_vectors,
)
from hyperseek.geometry.tokens import TokenEncoding
from hyperseek.scoring._learned_encoding import LearnedEncoding
from hyperseek.scoring._points import Points, VectorPoints, token_points, vectors_of
from hyperseek.types import Metric

_MUVERA = "muvera"
_ENCODINGS: dict[str, type[TokenEncoding | LearnedEncoding]] = {_MUVERA: TokenEncoding, "learned": LearnedEncoding}


class Fault(NamedTuple):
    """A row that is not a point of a space.

    Attributes:
        row: Its number, from 0.
        reason: What is wrong with it, as the end of a sentence that begins with the name of the point.
    """

    row: int
    reason: str


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
    return Fault(row, f"has infinite or undefined numbers: {number} at place {column}; all must be finite")


def checked_scores(
    scores: Tensor, *, queries: Tensor, documents: Tensor, names: tuple[str, str] = ("query", "document")
) -> Tensor:
    """Return scores unless one is not finite because its query or document is not.

    Args:
        scores: `(Q, N)`.
        queries: `(Q, ...)`, which the scores were computed from.
        documents: `(N, ...)`, likewise.
        names: Names of a query and of a document in messages.

    Returns:
        The scores. Where gradients flow, nothing is checked.

    Raises:
        InputError: A query or document is not finite; the message names the first one.
    """
    if scores.requires_grad or scores.isfinite().all():
        return scores
    for name, given in zip(names, (queries, documents), strict=True):
        fault = not_finite(given.flatten(1))
        if fault is not None:
            raise InputError(f"{name} {fault.row} {fault.reason}")
    return scores


def checked_level(level: object, levels: int, *, name: str = "level") -> int:
    """Return a level if it is a whole number from 1, the broadest, to `levels`, which None stands for."""
    if level is None:
        return levels
    if isinstance(level, bool) or not isinstance(level, int) or not 1 <= level <= levels:
        allowed = f"a whole number from 1, the broadest, to {levels}" if levels > 1 else "1, the only one there is"
        raise InputError(f"{name} must be {allowed}; given {shown(level)}")
    return level


class L2Lift(NamedTuple):
    """The maps of a chart that is searched by distance; see `Chart`."""

    documents: Callable[[Points], Tensor]
    queries: Callable[[Tensor], Tensor]
    within: Callable[[Tensor, Tensor], Tensor] | None = None


class Products(NamedTuple):
    """The maps to vectors whose inner products are a rising function of scores; see `Geometry.products`."""

    documents: Callable[[Points], Tensor]
    queries: Callable[[Tensor], Tensor]
    of: Callable[[Tensor], Tensor]


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
            score at least as much; None where `lift_queries` ranks as the space does.
        bound: Largest norm of features that the lift was made for; None where it takes any. Points beyond it are
            lifted wrongly, so an engine checks them.
        fitted: Tensors that features were fitted with, which `Space.chart` needs too; None for none.
    """

    name: str
    metric: Metric
    parameters: Mapping[str, Any]
    lift_documents: Callable[[Points], Tensor]
    lift_queries: Callable[[Tensor], Tensor]
    lift_weights: Callable[[Tensor], Tensor] | None = None
    lift_within: Callable[[Tensor, Tensor], Tensor] | None = None
    bound: float | None = None
    fitted: Mapping[str, Tensor] | None = field(default=None, compare=False, repr=False)


class Geometry:
    """A kind of space. Features are vectors whose inner product with a query's features ranks as the space does.

    A subclass is registered with `register_space`, and declares the capabilities of its spaces by the attributes below.
    The parameters of its constructor after the dimension are those of its spaces: plain values, each kept as an
    attribute of the same name.

    Args:
        dimension: `d`, at least 1.

    Attributes:
        flat_chart: Name of the chart for engines that compare with all vectors, or with all of some cells.
        graph_charts: Names of the charts whose united candidates give a graph engine the best documents.
        encodings: Kinds of features to choose from by the parameter `encoding` of a chart.
        neighbour_chart: Name of the chart in which a neighbour graph is built; None for the stored points.
        ragged: Whether a document is a set of vectors: `TokenPoints`.
        hyperbolic: Whether stored points are polar; see `geometry.polar.split_polar`.
        unit_norm: Whether all stored points have norm 1.
        plain_product: Whether the inner product of features is the score itself, and features are stored points.
        rounding: What a score's rounding error is relative to: the `"score"`, the product of both `"norms"`, or
            `"one"`. Near ties are then told apart in float64; None leaves them as they are.
        distance_name: Names what `distances` measures, with its unit; None where documents have no distance.
        levels: How many points a stored point is made of, from the broadest level to the narrowest.
        scorer: Kind of the scorer of queries that are points.
    """

    levels: int = 1
    scorer: ClassVar[str] = "linear"
    flat_chart: ClassVar[str] = "inner_product"
    graph_charts: ClassVar[tuple[str, ...]] = ("balanced",)
    encodings: ClassVar[tuple[str, ...]] = ()
    neighbour_chart: ClassVar[str | None] = None
    ragged: ClassVar[bool] = False
    hyperbolic: ClassVar[bool] = False
    unit_norm: ClassVar[bool] = False
    plain_product: ClassVar[bool] = False
    rounding: ClassVar[Literal["score", "norms", "one"] | None] = None
    distance_name: ClassVar[str | None] = None

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension

    @property
    def width(self) -> int:
        """How many numbers a stored point has."""
        return self.dimension

    @property
    def coordinates(self) -> int:
        """How many numbers a point has as models give it."""
        return self.dimension

    def canonical(self, coordinates: Tensor) -> Tensor:
        """Turn points as models give them into points as they are stored."""
        return coordinates

    def fault(self, coordinates: Tensor) -> Fault | None:
        """Find a row of `(N, c)` coordinates that is not a point of the space."""
        return not_finite(coordinates)

    def shorten(self, vectors: Tensor, dimension: int) -> Tensor:
        """Turn stored points into stored points of the first dimensions."""
        return self.canonical(vectors[..., :dimension])

    def score(self, queries: Tensor, points: Points) -> Tensor:
        """Compare all pairs: `(Q, N)`, higher is better."""
        raise NotImplementedError

    def score_own(self, queries: Tensor, documents: Tensor) -> Tensor:
        """Compare each query with its own `(Q, n, w)` documents: `(Q, n)`."""
        rows = [self.score(query[None], VectorPoints(own)) for query, own in zip(queries, documents, strict=True)]
        return torch.cat(rows) if rows else documents.new_zeros(0, documents.shape[1])

    def score_own_precisely(self, queries: Tensor, documents: Tensor) -> Tensor:
        """Do what `score_own` does, on float64 points, where `rounding` is given."""
        if not self.plain_product:
            return self.score_own(queries, documents)
        features = self.features(VectorPoints(documents.flatten(0, 1)), {}).view(*documents.shape[:2], -1)
        lifted = self.query_features(queries, {})
        if len(lifted) == 1:  # a batch of one product is slower than the product
            return (features[0] @ lifted[0])[None]
        return (features @ lifted[..., None])[..., 0]

    def features(self, points: Points, parameters: Mapping[str, Any]) -> Tensor:
        """Return `(N, f)` features of documents, under the parameters of a chart; they may hold `fitted`."""
        return vectors_of(points)

    def query_features(self, queries: Tensor, parameters: Mapping[str, Any]) -> Tensor:
        """Return `(Q, f)` features of queries."""
        return queries

    def chart_parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Check and complete the parameters of features."""
        if given:
            raise InputError(f"the charts of this kind of space take no {', '.join(map(repr, given))}")
        return {}

    def fit_features(self, points: Iterable[Points], parameters: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """Return tensors that features are fitted with, under the parameters of a chart; None where nothing is."""
        return None

    def products(self, parameters: Mapping[str, Any]) -> Products | None:
        """Return maps of documents and of queries, under the parameters of a chart, and of float64 scores to products.

        Scans then compare products first. None where `rounding` tells them how, or no products rank exactly alike.
        """
        return None

    def l2_lifts(self, parameters: Mapping[str, Any]) -> Mapping[str, L2Lift]:
        """Return further charts, ranked by L2: name, and how documents and queries are lifted."""
        return {}

    def at_level(self, vectors: Tensor, level: int) -> Tensor:
        """Return the part of stored points that belongs to a level, 1 to `levels`."""
        return vectors

    def moved(self, queries: Tensor, documents: Tensor, weights: Tensor) -> Tensor:
        """Move `(Q, w)` query points towards the mean of `(Q, n, w)` documents; see `Space.moved`."""
        return queries * (1 - weights.sum(dim=1, keepdim=True)) + _weighted_sum(documents, weights)

    def distances(self, first: Tensor, second: Tensor) -> Tensor:
        """Return all distances between stored points, each exact for near points, too; see `distance_name`."""
        return -negative_distance(first, second)

    def radii(self, vectors: Tensor) -> Tensor:
        """Return the distances of stored points from the origin; in flat spaces the norms, in float64."""
        norms: Tensor = torch.linalg.vector_norm(vectors.double(), dim=-1)
        return norms


def _weighted_sum(documents: Tensor, weights: Tensor) -> Tensor:
    return torch.einsum("qn,qnw->qw", weights, documents)


class Dot(Geometry):
    """The inner product. It has no distance of its own, so distances are those of the vectors."""

    plain_product = True
    rounding = "norms"
    distance_name = "Euclidean distance"

    def score(self, queries: Tensor, points: Points) -> Tensor:
        """Return inner products."""
        return geometry.inner_product(queries, vectors_of(points))

    def moved(self, queries: Tensor, documents: Tensor, weights: Tensor) -> Tensor:
        """Move query points, with documents scaled to the norm of the query: models may give theirs quite another."""
        total = weights.sum(dim=1, keepdim=True)
        lengths = torch.linalg.vector_norm(queries, dim=1, keepdim=True)
        moved: Tensor = queries * (1 - total) + total * lengths * unit_vectors(_weighted_sum(documents, weights))
        return moved


class Cosine(Geometry):
    """The cosine; stored vectors have norm 1, so engines of every kind can search them as they are."""

    graph_charts = ("inner_product",)
    unit_norm = True
    plain_product = True
    rounding = "one"
    distance_name = "angle in radians"

    def canonical(self, coordinates: Tensor) -> Tensor:
        """Scale to norm 1."""
        return unit_vectors(coordinates)

    def score(self, queries: Tensor, points: Points) -> Tensor:
        """Return cosines."""
        return cosine_similarity(queries, vectors_of(points))

    def features(self, points: Points, parameters: Mapping[str, Any]) -> Tensor:
        """Return unit vectors."""
        return unit_vectors(vectors_of(points))

    def query_features(self, queries: Tensor, parameters: Mapping[str, Any]) -> Tensor:
        """Return unit vectors."""
        return unit_vectors(queries)

    def moved(self, queries: Tensor, documents: Tensor, weights: Tensor) -> Tensor:
        """Move unit vectors, and scale them to norm 1 again."""
        return unit_vectors(super().moved(unit_vectors(queries), unit_vectors(documents), weights))

    def distances(self, first: Tensor, second: Tensor) -> Tensor:
        """Return angles."""
        chord = -negative_distance(unit_vectors(first), unit_vectors(second))
        return 2 * torch.asin((chord / 2).clamp(max=1))


class Euclidean(Geometry):
    """Minus the distance."""

    flat_chart = "l2"
    graph_charts = ("l2",)
    rounding = "score"
    distance_name = "Euclidean distance"

    def score(self, queries: Tensor, points: Points) -> Tensor:
        """Return distances with a minus sign."""
        return negative_distance(queries, vectors_of(points))

    def score_own_precisely(self, queries: Tensor, documents: Tensor) -> Tensor:
        """Return distances with a minus sign."""
        distances: Tensor = torch.linalg.vector_norm(documents - queries[:, None], dim=-1)
        return -distances

    def features(self, points: Points, parameters: Mapping[str, Any]) -> Tensor:
        """Lift to the paraboloid."""
        return paraboloid_documents(vectors_of(points))

    def query_features(self, queries: Tensor, parameters: Mapping[str, Any]) -> Tensor:
        """Lift to the paraboloid's tangent planes."""
        return paraboloid_queries(queries)

    def l2_lifts(self, parameters: Mapping[str, Any]) -> Mapping[str, L2Lift]:
        """Return the vectors themselves."""
        return {"l2": L2Lift(vectors_of, lambda queries: queries)}


class Tokens(Geometry):
    """Sets of token vectors, compared by late interaction: see `MaxSimScorer`."""

    encodings = tuple(_ENCODINGS)
    neighbour_chart = "inner_product"
    ragged = True

    def shorten(self, vectors: Tensor, dimension: int) -> Tensor:
        """Raise InputError: a text is not a single point here."""
        raise InputError("token points cannot be cut to fewer dimensions")

    def score(self, queries: Tensor, points: Points) -> Tensor:
        """Raise InputError: one vector cannot stand for a query of many."""
        raise InputError("token points are compared by a MaxSimScorer, which holds all tokens of a query")

    def features(self, points: Points, parameters: Mapping[str, Any]) -> Tensor:
        """Return encodings of documents."""
        documents = token_points(points)
        return self._encoding(parameters).encode_documents(documents.vectors, documents.offsets)

    def query_features(self, queries: Tensor, parameters: Mapping[str, Any]) -> Tensor:
        """Return encodings of `(Q, t, d)` queries, whose missing tokens are zero."""
        return self._encoding(parameters).encode_queries(queries)

    def fit_features(self, points: Iterable[Points], parameters: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """Fit a learned encoding."""
        encoding = self._encoding(parameters)
        if not isinstance(encoding, LearnedEncoding):
            return None
        documents = map(token_points, points)
        return encoding.fit((chunk.vectors, chunk.offsets) for chunk in documents)

    def chart_parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Complete the settings of the encoding, so that a stored chart survives other defaults."""
        name = given.get("encoding", _MUVERA)
        if not isinstance(name, str) or name not in _ENCODINGS:
            raise UnknownNameError("encoding of tokens", str(name), _ENCODINGS)
        known = {field.name for field in fields(_ENCODINGS[name])} - {"dimension", "fitted"}
        types = get_type_hints(_ENCODINGS[name])
        for parameter, value in given.items():
            if parameter == "encoding":
                continue
            if parameter not in known:
                raise UnknownNameError("parameter of a token space's chart", parameter, known)
            if not isinstance(value, types[parameter]):
                raise InputError(f"{parameter} of the encoding {name!r} must be a whole number, not {shown(value)}")
        settings = self._encoding(given)
        # Charts that were stored before there was a choice do not name theirs.
        chosen = {} if name == _MUVERA else {"encoding": name}
        return {**chosen, **{parameter: getattr(settings, parameter) for parameter in sorted(known)}}

    def _encoding(self, parameters: Mapping[str, Any]) -> TokenEncoding | LearnedEncoding:
        settings = dict(parameters)
        return _ENCODINGS[settings.pop("encoding", _MUVERA)](self.dimension, **settings)


def _check_geometry(name: str, value: Any) -> None:
    if not isinstance(value, type) or not issubclass(value, Geometry):
        raise InputError(f"a space is registered as a class that extends Geometry, and {shown(value)} is not one")


SPACES: Registry[type[Geometry]] = Registry(
    "space",
    "hyperseek.spaces",
    {
        "cosine": "hyperseek.scoring._geometries:Cosine",
        "dot": "hyperseek.scoring._geometries:Dot",
        "euclidean": "hyperseek.scoring._geometries:Euclidean",
        "levels": "hyperseek.scoring._levels:Levels",
        "lorentz": "hyperseek.scoring._hyperbolic:Lorentz",
        "poincare": "hyperseek.scoring._hyperbolic:Poincare",
        "tokens": "hyperseek.scoring._geometries:Tokens",
    },
    check=_check_geometry,
)
"""The kinds of spaces; `register_space` adds one, and so do entry points of `hyperseek.spaces`."""


def register_space(kind: str, geometry: type[Geometry] | None = None) -> Any:
    """Register a kind of space of yours, so that `Space(kind, dimension)` works and indexes can be saved with it.

    Args:
        kind: Its name.
        geometry: The class, which extends `Geometry`; None to use the result as a decorator.

    Returns:
        The class, or a decorator.

    Raises:
        InputError: The name is taken, or the class does not extend `Geometry`.
    """
    return SPACES.register(kind, geometry)
