"""Space: the geometry points live in, and the charts by which ordinary vector engines can search it.

Shapes: `Q` queries, `N` documents, `n` documents of a query's own, `w` numbers of a stored point.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, Literal, Self, TypeAlias, cast

import torch
from torch import Tensor

from hyperseek import geometry
from hyperseek.errors import InputError, UnknownNameError, shown
from hyperseek.scoring._geometries import GEOMETRIES, Chart, not_finite
from hyperseek.scoring._points import Points, described, is_floating

Similarity: TypeAlias = Literal["geodesic", "squared", "inner"]
"""What a hyperbolic space scores by: minus the distance, minus the squared Lorentz distance, the Lorentz inner product.
All three rank alike."""

_LARGEST = sys.float_info.max

HEADROOM = 1.25
"""How far beyond the documents at hand a chart's bound is set, so that longer ones can be added."""


@dataclass(frozen=True, slots=True)
class Space:
    """The geometry of an index: a small value that prints, compares and goes to JSON and back.

    Points have two forms: coordinates, as models give them, and stored points, as indexes keep and scorers read them.
    `canonical` leads from the first to the second.

    | kind | coordinates | stored | score |
    |---|---|---|---|
    | `dot` | `d` | the same | inner product |
    | `cosine` | `d` | norm 1 | cosine |
    | `euclidean` | `d` | the same | minus the distance |
    | `lorentz` | `d + 1`, time first | `d + 2`, polar | see `similarity` |
    | `poincare` | `d`, in the ball | `d + 2`, polar | see `similarity` |
    | `tokens` | a set of vectors of `d` | the same | late interaction |

    Attributes:
        kind: One of the above.
        dimension: `d`, at least 1.
        radius_squared: R² of the hyperboloid, positive; the ball has c = 1/R². Flat spaces have 1.
        similarity: What hyperbolic spaces score by.
    """

    kind: str
    dimension: int
    radius_squared: float = 1.0
    similarity: Similarity = "geodesic"

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in GEOMETRIES:
            raise UnknownNameError("space", str(self.kind), GEOMETRIES)
        dimension, radius_squared = cast("tuple[object, object]", (self.dimension, self.radius_squared))
        if isinstance(dimension, bool) or not isinstance(dimension, Integral):
            raise InputError(f"the dimension of a space is a whole number, not {shown(dimension)}")
        if self.dimension < 1:
            raise InputError(f"a space needs at least 1 dimension, not {self.dimension}")
        if not isinstance(radius_squared, Real) or not 0 < self.radius_squared <= _LARGEST:
            raise InputError(f"radius_squared must be positive and finite, not {shown(self.radius_squared)}")
        if self.similarity not in ("geodesic", "squared", "inner"):
            raise UnknownNameError("similarity", self.similarity, ("geodesic", "squared", "inner"))
        if not GEOMETRIES[self.kind].curved and (self.radius_squared, self.similarity) != (1.0, "geodesic"):
            raise InputError(f"radius_squared and similarity are for hyperbolic spaces, not for {self.kind!r}")

    def __repr__(self) -> str:
        return f"Space({', '.join(f'{name}={value!r}' for name, value in self.to_json().items())})"

    @property
    def width(self) -> int:
        """Numbers of a stored point."""
        return GEOMETRIES[self.kind].width(self.dimension)

    @property
    def coordinates(self) -> int:
        """Numbers of a point's coordinates, as models give them."""
        return GEOMETRIES[self.kind].coordinates(self.dimension)

    def canonical(self, coordinates: Tensor, *, names: Sequence[str] | None = None) -> Tensor:
        """Turn points as models give them into points as they are stored.

        Values are looked into, except where gradients flow, as in training: there nothing waits for a GPU.

        Args:
            coordinates: `(..., coordinates)`, floating. Coordinates of hyperbolic spaces lose what they know of far
                points where they are rounded, so give them in full precision; polar points may be rounded.
            names: What messages call the points, `N` for `(N, coordinates)`; None for their numbers.

        Returns:
            `(..., w)` stored points; differentiable.

        Raises:
            InputError: The points have another width or are no floating numbers; one is not finite, or is no point of
                the space: on the border of its ball or beyond, or off its hyperboloid by more than half precision
                rounds, as points of another R² are. The message names it.
        """
        if not is_floating(coordinates) or not coordinates.ndim:
            raise InputError(
                f"points must be a floating tensor of shape (points, coordinates), not {described(coordinates)}"
            )
        if coordinates.shape[-1] != self.coordinates:
            raise InputError(
                f"points of a {self.kind} space of {self.dimension} dimensions have {self.coordinates} coordinates, "
                f"not {coordinates.shape[-1]}"
            )
        kind = GEOMETRIES[self.kind]
        if not (torch.is_grad_enabled() and coordinates.requires_grad):
            fault = kind.fault(self, coordinates.reshape(-1, self.coordinates))
            if fault is not None:
                name = f"point {fault.row}" if names is None else names[fault.row]
                raise InputError(f"{name} {fault.reason}")
        return kind.canonical(self, coordinates)

    def shortened(self, dimension: int) -> Self:
        """Return the space of the first `dimension` dimensions; InputError if it has fewer."""
        if not 1 <= dimension <= self.dimension:
            raise InputError(f"a space of {self.dimension} dimensions cannot be cut to {dimension}")
        return replace(self, dimension=dimension)

    def shorten(self, vectors: Tensor, dimension: int) -> Tensor:
        """Return stored points of the space of the first dimensions, as Matryoshka training makes them useful.

        Points of a hyperbolic space lose the other numbers of their space part and are lifted again: coordinates that
        were merely cut would lie on no hyperboloid.

        Args:
            vectors: `(..., w)` stored points.
            dimension: At least 1, at most the space's.

        Returns:
            `(..., w')` stored points of `shortened(dimension)`; differentiable.

        Raises:
            InputError: The points have not the space's width, or the space fewer dimensions.
        """
        self.check(vectors)
        return GEOMETRIES[self.kind].shorten(self.shortened(dimension), vectors, dimension)

    def score(self, queries: Tensor, points: Points) -> Tensor:
        """Compare query points with document points, exactly.

        Args:
            queries: `(Q, w)` stored points.
            points: `N` documents.

        Returns:
            `(Q, N)` float32 (float64 for float64 points), finite; higher is better.

        Raises:
            InputError: The points have not the space's width, stand on another device, or hold what is not finite.
        """
        self._check_pair(queries, points.rows, ndim=2)
        kind = GEOMETRIES[self.kind]
        scores = kind.score(self, queries.to(wide_dtype(points.rows)), points)
        return checked_scores(scores, queries=queries, documents=points.rows)

    def score_own(self, queries: Tensor, documents: Tensor) -> Tensor:
        """Compare each query point with document points of its own, exactly.

        Args:
            queries: `(Q, w)` stored points.
            documents: `(Q, n, w)`.

        Returns:
            `(Q, n)`, as in `score`.

        Raises:
            InputError: As in `score`, or there are not as many sets of documents as queries.
        """
        self._check_pair(queries, documents, ndim=3)
        if len(queries) != len(documents):
            raise InputError(f"there are {len(queries)} queries and {len(documents)} sets of documents; give one each")
        kind = GEOMETRIES[self.kind]
        scores = kind.score_own(self, queries.to(wide_dtype(documents)), documents)
        return checked_scores(scores, queries=queries, documents=documents.flatten(0, 1))

    def _check_pair(self, queries: Tensor, documents: Tensor, *, ndim: int) -> None:
        self.check(queries)
        self.check(documents)
        for name, given, wanted in (("queries", queries, 2), ("documents", documents, ndim)):
            if given.ndim != wanted:
                raise InputError(f"{name} must have {wanted} axes, not the shape {tuple(given.shape)}")
        if queries.device != documents.device:
            raise InputError(f"the queries are on {queries.device} and the documents on {documents.device}; move one")

    def check(self, vectors: Tensor) -> None:
        """Raise InputError unless `vectors` are floating and their last axis has `width` entries."""
        if not is_floating(vectors) or not vectors.ndim:
            raise InputError(f"stored points must be a floating tensor, not {described(vectors)}")
        if vectors.shape[-1] != self.width:
            raise InputError(
                f"this space has {self.width} dimensions but the vectors have {vectors.shape[-1]}; "
                f"were they made by another model?"
            )

    @property
    def flat_chart(self) -> str:
        """Name of the chart for engines that look at all vectors, or at all of some cells: flat and IVF."""
        return GEOMETRIES[self.kind].flat

    @property
    def graph_charts(self) -> tuple[str, ...]:
        """Names of the charts whose united candidates a graph engine finds the best documents with."""
        return GEOMETRIES[self.kind].graph

    def chart(self, name: str, **parameters: Any) -> Chart:
        """Return a chart.

        Args:
            name: `inner_product` (the features, ranked by inner product), `balanced` (the same, lifted to L2), `l2`
                for Euclidean spaces, or `poincare` for hyperbolic ones.
            **parameters: `bound` for `balanced`: at least the norm of every document's features; see `fit_chart`. For
                token spaces the parameters of the fixed-dimensional encoding.

        Returns:
            The chart.

        Raises:
            UnknownNameError: The space has no such chart.
            InputError: A parameter is missing.
        """
        kind = GEOMETRIES[self.kind]
        others = kind.l2_lifts(self)
        if name in others:
            lift = others[name]
            return Chart(name, "l2", {}, lift.documents, lift.queries, lift_within=lift.within)
        own = kind.parameters(self, {key: value for key, value in parameters.items() if key != "bound"})

        def features(points: Points) -> Tensor:
            return kind.features(self, points, own)

        def query_features(queries: Tensor) -> Tensor:
            return kind.query_features(self, queries, own)

        if name == "inner_product":
            return Chart(name, "inner_product", own, features, query_features, lambda weights: weights)
        if name != "balanced":
            raise UnknownNameError("chart", name, ("inner_product", "balanced", *others))
        bound = parameters.get("bound")
        if bound is None or not 0 < bound < math.inf:
            raise InputError(f"the balanced chart needs a positive, finite bound, not {bound}; fit_chart finds one")
        return Chart(
            name,
            "l2",
            {**own, "bound": bound},
            lambda points: geometry.balanced_documents(_checked(features(points), bound), bound),
            lambda queries: geometry.balanced_queries(query_features(queries)),
            geometry.balanced_queries,
            bound=bound,
        )

    def fit_chart(self, name: str, points: Iterable[Points], *, headroom: float = HEADROOM, **parameters: Any) -> Chart:
        """Return a chart for given documents, with room for longer ones.

        Args:
            name: As for `chart`.
            points: The documents in chunks; read only where the chart has a bound.
            headroom: Factor, at least 1, by which the bound exceeds the largest norm at hand.
            **parameters: As for `chart`.

        Returns:
            The chart.

        Raises:
            UnknownNameError: The space has no such chart.
            InputError: `headroom` is below 1, or the norm of a document's features is not a number below infinity.
        """
        if headroom < 1:
            raise InputError(f"headroom must be at least 1, not {headroom}")
        if name == "balanced":
            features = self.chart("inner_product", **parameters)
            largest = max((largest_norm(features, chunk) for chunk in points), default=0.0)
            parameters = {**parameters, "bound": largest * headroom or 1.0}
        return self.chart(name, **parameters)

    def to_json(self) -> dict[str, Any]:
        """Return plain values from which `from_json` makes an equal space."""
        values: dict[str, Any] = {"kind": self.kind, "dimension": self.dimension}
        if GEOMETRIES[self.kind].curved:
            values |= {"radius_squared": self.radius_squared, "similarity": self.similarity}
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Make a space from the values of `to_json`."""
        return cls(**values)


def wide_dtype(vectors: Tensor) -> torch.dtype:
    """Return what scores of vectors are computed in: float64 for float64, else float32."""
    return torch.float64 if vectors.dtype == torch.float64 else torch.float32


def checked_scores(
    scores: Tensor, *, queries: Tensor, documents: Tensor, names: tuple[str, str] = ("query", "document")
) -> Tensor:
    """Return scores, unless one that is not finite comes of a query or a document that is not.

    Args:
        scores: `(Q, N)`.
        queries: `(Q, ...)`, what they were computed from.
        documents: `(N, ...)`, likewise.
        names: What messages call one of the first and one of the second.

    Returns:
        The scores. Where gradients flow nothing is looked into.

    Raises:
        InputError: Names the first such query or document.
    """
    if scores.requires_grad or scores.isfinite().all():
        return scores
    for name, given in zip(names, (queries, documents), strict=True):
        fault = not_finite(given.flatten(1))
        if fault is not None:
            raise InputError(f"{name} {fault.row} {fault.reason}")
    return scores


def _checked(features: Tensor, bound: float) -> Tensor:
    norms = torch.linalg.vector_norm(features, dim=-1)
    if len(norms) and norms.max() > bound * (1 + 1e-5):
        raise InputError(
            f"a document's features have the norm {float(norms.max()):.6g}, beyond the bound {bound:.6g} of the "
            f"balanced chart; build the engine again, which sets a new bound"
        )
    return features


def largest_norm(chart: Chart, points: Points) -> float:
    """Return the largest norm of lifted documents; 0 for none."""
    lifted = chart.lift_documents(points)
    return float(torch.linalg.vector_norm(lifted, dim=-1).max()) if len(lifted) else 0.0
