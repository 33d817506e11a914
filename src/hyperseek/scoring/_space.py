"""Space: the geometry that points live in, and the charts by which ordinary vector engines can search it.

Shapes: `Q` queries, `N` documents, `n` documents of each query's own, `w` numbers in a stored point.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from numbers import Integral
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor

from hyperseek.errors import InputError, UnknownNameError, shown
from hyperseek.geometry.euclidean import balanced_documents, balanced_queries
from hyperseek.geometry.numerics import wide_dtype
from hyperseek.scoring._geometries import SPACES, Chart, Geometry, checked_level, checked_scores
from hyperseek.scoring._points import Points, described, is_floating

HEADROOM = 1.25
"""Factor between a chart's bound and the longest of the given documents, so that longer ones can be added."""


_FORMER_DEFAULTS = {"radius_squared": 1.0, "similarity": "geodesic"}


@lru_cache(maxsize=64)
def _parameters_of(kind: Callable[..., Geometry]) -> tuple[str, ...]:
    """Return the names of a kind's parameters: those of its constructor, after the dimension."""
    return tuple(inspect.signature(kind).parameters)[1:]


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Space:
    """The geometry of an index: a small value that can be printed, compared, and converted to JSON and back.

    Points have two forms: coordinates, as models give them, and stored points, as indexes keep and scorers read them.
    `canonical` turns the first into the second.

    | kind | coordinates | stored | score |
    |---|---|---|---|
    | `dot` | `d` | the same | inner product |
    | `cosine` | `d` | norm 1 | cosine |
    | `euclidean` | `d` | the same | minus the distance |
    | `lorentz` | `d + 1`, time first | `d + 2`, polar | see `similarity` |
    | `poincare` | `d`, in the ball | `d + 2`, polar | see `similarity` |
    | `levels` | `levels * d`, tangents at the origin | `levels * (d + 2)`, polar | minus the last level's distance |
    | `tokens` | a set of vectors of `d` | the same | late interaction |

    Code for all kinds asks a space for its properties: `ragged`, `hyperbolic`, `unit_norm`, `plain_product`, ...

    Args:
        kind: One of the above, or a registered one.
        dimension: `d`, at least 1.
        *values: Parameters of the kind, in order.
        **parameters: Parameters of the kind by name. Hyperbolic spaces have `radius_squared`, R² of the hyperboloid,
            positive (the ball has c = 1/R²), and `similarity`: `"geodesic"`, `"squared"` or `"inner"`. A space of
            levels has `levels` and `radius_squared`. Flat spaces have none.

    Raises:
        UnknownNameError: There is no such kind, or it has no such parameter.
        InputError: The dimension or a parameter is out of range.
    """

    kind: str
    dimension: int
    parameters: Mapping[str, Any] = field(compare=False)
    _identity: tuple[tuple[str, Any], ...]
    geometry: Geometry = field(compare=False)

    def __init__(self, kind: str, dimension: int, *values: Any, **parameters: Any) -> None:
        if not isinstance(kind, str) or kind not in SPACES:
            raise UnknownNameError("space", kind, SPACES)
        given = cast("object", dimension)
        if isinstance(given, bool) or not isinstance(given, Integral):
            raise InputError(f"the dimension of a space is a whole number, not {shown(given)}")
        if dimension < 1:
            raise InputError(f"a space needs at least 1 dimension, not {dimension}")
        geometry = SPACES[kind]
        names = _parameters_of(cast("Any", geometry))
        odd = next((name for name in parameters if name not in names), None)
        if names and odd is not None:
            raise UnknownNameError(f"parameter of a {kind!r} space", odd, names)
        try:
            made = geometry(dimension, *values, **parameters)
        except TypeError as error:  # too many parameters, too few, or one twice
            raise InputError(
                f"a {kind!r} space has {', '.join(names) or 'no parameters'} beside its dimension; given "
                f"{', '.join(map(shown, (*values, *parameters))) or 'none'} ({error})"
            ) from error
        complete = {name: getattr(made, name) for name in names}
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "dimension", dimension)
        object.__setattr__(self, "parameters", complete)
        object.__setattr__(self, "_identity", tuple(complete.items()))
        object.__setattr__(self, "geometry", made)

    def __repr__(self) -> str:
        return f"Space({', '.join(f'{name}={value!r}' for name, value in self.to_json().items())})"

    @property
    def width(self) -> int:
        """How many numbers a stored point has."""
        return self.geometry.width

    @property
    def coordinates(self) -> int:
        """How many coordinates a point has, as models give it."""
        return self.geometry.coordinates

    @property
    def ragged(self) -> bool:
        """Whether a document is a set of vectors, `TokenPoints`, and not one vector."""
        return self.geometry.ragged

    @property
    def hyperbolic(self) -> bool:
        """Whether the space is hyperbolic: its stored points are polar."""
        return self.geometry.hyperbolic

    @property
    def unit_norm(self) -> bool:
        """Whether all stored points have norm 1."""
        return self.geometry.unit_norm

    @property
    def plain_product(self) -> bool:
        """Whether the score is the inner product of stored points, which `linear` scorers can be folded into."""
        return self.geometry.plain_product

    @property
    def rounding(self) -> Literal["score", "norms", "one"] | None:
        """What a score's rounding error is relative to; None where it is not known. See `Geometry`."""
        return self.geometry.rounding

    @property
    def distance_name(self) -> str | None:
        """Names what `distances` measures, with its unit; None where documents have no distance."""
        return self.geometry.distance_name

    @property
    def levels(self) -> int:
        """How many points a stored point is made of, one per level; 1 for all spaces but those of levels."""
        return self.geometry.levels

    @property
    def radius_squared(self) -> float:
        """R² of a hyperbolic space; 1 for other spaces."""
        return float(self.parameters.get("radius_squared", 1.0))

    @property
    def similarity(self) -> str:
        """What a hyperbolic space scores by; `"geodesic"` for other spaces, where it has no meaning."""
        return str(self.parameters.get("similarity", "geodesic"))

    def canonical(self, coordinates: Tensor, *, names: Sequence[str] | None = None) -> Tensor:
        """Turn points as models give them into points as they are stored.

        Values are checked, except where gradients flow, as in training, so that nothing waits for a GPU there.

        Args:
            coordinates: `(..., coordinates)`, floating. Give those of hyperbolic spaces in full precision, since
                rounding destroys the coordinates of far points; polar points may be rounded.
            names: Names of the points in messages, `N` for `(N, coordinates)`; None numbers them.

        Returns:
            `(..., w)` stored points; differentiable.

        Raises:
            InputError: The points have another width or are not floating numbers; or one, which the message names, is
                not finite or not a point of the space: on the border of the ball or beyond, or off the hyperboloid by
                more than half precision's rounding, as points of another R² are.
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
        if not (torch.is_grad_enabled() and coordinates.requires_grad):
            fault = self.geometry.fault(coordinates.reshape(-1, self.coordinates))
            if fault is not None:
                name = f"point {fault.row}" if names is None else names[fault.row]
                raise InputError(f"{name} {fault.reason}")
        return self.geometry.canonical(coordinates)

    def shortened(self, dimension: int) -> Self:
        """Return the space of the first `dimension` dimensions; InputError if it has fewer."""
        if not 1 <= dimension <= self.dimension:
            raise InputError(f"a space of {self.dimension} dimensions cannot be cut to {dimension}")
        return type(self)(self.kind, dimension, **self.parameters)

    def shorten(self, vectors: Tensor, dimension: int) -> Tensor:
        """Return stored points of the space of the first dimensions, as Matryoshka training makes them useful.

        Points of a hyperbolic space lose the other numbers of their space part and are lifted again, since points that
        were merely cut would not lie on the hyperboloid.

        Args:
            vectors: `(..., w)` stored points.
            dimension: At least 1, at most the space's.

        Returns:
            `(..., w')` stored points of `shortened(dimension)`; differentiable.

        Raises:
            InputError: The points do not have the space's width, or the space has fewer dimensions.
        """
        self.check(vectors)
        return self.shortened(dimension).geometry.shorten(vectors, dimension)

    def score(self, queries: Tensor, points: Points) -> Tensor:
        """Compare query points with document points, exactly.

        Args:
            queries: `(Q, w)` stored points.
            points: `N` documents.

        Returns:
            `(Q, N)` float32 (float64 for float64 points), finite; higher is better.

        Raises:
            InputError: The points do not have the space's width, are on different devices, or are not finite.
        """
        self._check_pair(queries, points.rows, ndim=2)
        scores = self.geometry.score(queries.to(wide_dtype(points.rows)), points)
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
        scores = self.geometry.score_own(queries.to(wide_dtype(documents)), documents)
        return checked_scores(scores, queries=queries, documents=documents.flatten(0, 1))

    def score_own_precisely(self, queries: Tensor, documents: Tensor) -> Tensor:
        """Do what `score_own` does for `(Q, w)` and `(Q, n, w)` finite float64 points of a space with `rounding`."""
        return self.geometry.score_own_precisely(queries, documents)

    def distances(self, first: Tensor, second: Tensor) -> Tensor:
        """Measure the distances between stored points: angles, geodesic distances, or Euclidean ones.

        Args:
            first: `(n, w)`.
            second: `(m, w)`.

        Returns:
            `(n, m)`, at least 0, exact for near points too; see `distance_name`.

        Raises:
            InputError: Documents of the space have no distance.
        """
        if self.distance_name is None:
            raise InputError(f"a {self.kind!r} space has no distance between documents")
        return self.geometry.distances(first, second)

    def moved(self, queries: Tensor, documents: Tensor, weights: Tensor) -> Tensor:
        """Move `(Q, w)` query points towards the mean of `(Q, n, w)` documents of their own, along the geodesic.

        The `(Q, n)` weights of the documents, at least 0, sum to the share of the way, at most 1. In a `dot` space
        documents are scaled to the norm of the query before.
        """
        self._check_pair(queries, documents, ndim=3)
        return self.geometry.moved(queries.float(), documents.float(), weights.to(queries.device))

    def at_level(self, vectors: Tensor, level: int | None = None) -> Tensor:
        """Return one level of stored points.

        Args:
            vectors: `(..., w)` stored points.
            level: 1, the broadest, to `levels`, the narrowest; None for the narrowest.

        Returns:
            `(..., w')`: polar points `(..., d + 2)` of a space of levels; in other spaces the points themselves.

        Raises:
            InputError: The points do not have the space's width, or there is no such level.
        """
        self.check(vectors)
        return self.geometry.at_level(vectors, checked_level(level, self.levels))

    @property
    def one_level(self) -> Space:
        """The space that the points of `at_level` are in: a Poincaré ball for a space of levels, else the space."""
        return self if self.levels == 1 else Space("poincare", self.dimension, radius_squared=self.radius_squared)

    def level_radii(self, vectors: Tensor) -> Tensor:
        """Return the `(n, levels)` distances of stored points from the origin, level by level; see `radii`."""
        levels = range(1, self.levels + 1)
        return torch.stack([self.one_level.radii(self.at_level(vectors, level)) for level in levels], dim=1)

    def radii(self, vectors: Tensor) -> Tensor:
        """Return the `(n,)` distances from the origin of `(n, w)` stored points; in flat spaces the norms."""
        return self.geometry.radii(vectors)

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
        """Name of the chart for engines that compare with all vectors, or with all of some cells: flat and IVF."""
        return self.geometry.flat_chart

    @property
    def graph_charts(self) -> tuple[str, ...]:
        """Names of the charts whose united candidates give a graph engine the best documents."""
        return self.geometry.graph_charts

    @property
    def neighbour_chart(self) -> str | None:
        """Name of the chart in which a neighbour graph is built; None for the stored points."""
        return self.geometry.neighbour_chart

    def chart(self, name: str, *, fitted: Mapping[str, Tensor] | None = None, **parameters: Any) -> Chart:
        """Return a chart.

        Args:
            name: `inner_product` (the features, ranked by inner product), `balanced` (the same, lifted to L2), `l2`
                for Euclidean spaces, or `poincare` for hyperbolic ones.
            fitted: What `fit_features` returned, where features are learned.
            **parameters: `bound` for `balanced`: at least the norm of every document's features; see `fit_chart`. For
                token spaces `encoding`, `"muvera"` or `"learned"`, and its settings. For spaces of levels `level`, the
                level of the documents; the narrowest unless given.

        Returns:
            The chart.

        Raises:
            UnknownNameError: The space has no such chart.
            InputError: A parameter is missing.
        """
        kind = self.geometry
        own = kind.chart_parameters({key: value for key, value in parameters.items() if key != "bound"})
        others = kind.l2_lifts(own)
        if name in others:
            lift = others[name]
            return Chart(name, "l2", own, lift.documents, lift.queries, lift_within=lift.within)
        used = own if fitted is None else {**own, "fitted": fitted}

        def features(points: Points) -> Tensor:
            return kind.features(points, used)

        def query_features(queries: Tensor) -> Tensor:
            return kind.query_features(queries, used)

        if name == "inner_product":
            weights_lift = (lambda weights: weights) if fitted is None else None
            return Chart(name, "inner_product", own, features, query_features, weights_lift, fitted=fitted)
        if name != "balanced":
            raise UnknownNameError("chart", name, ("inner_product", "balanced", *others))
        bound = parameters.get("bound")
        if bound is None or not 0 < bound < math.inf:
            raise InputError(f"the balanced chart needs a positive, finite bound, not {bound}; fit_chart finds one")
        return Chart(
            name,
            "l2",
            {**own, "bound": bound},
            lambda points: balanced_documents(_checked(features(points), bound), bound),
            lambda queries: balanced_queries(query_features(queries)),
            balanced_queries if fitted is None else None,
            bound=bound,
            fitted=fitted,
        )

    def fit_features(self, points: Iterable[Points], **parameters: Any) -> dict[str, Tensor] | None:
        """Learn the features of charts from documents, where `encoding="learned"` asks for it.

        Args:
            points: The documents in chunks, read once, and only where features are learned.
            **parameters: As for `chart`.

        Returns:
            Tensors for the argument `fitted` of `chart` and `fit_chart`; None where features are not learned.
        """
        own = self.geometry.chart_parameters({key: value for key, value in parameters.items() if key != "bound"})
        return self.geometry.fit_features(points, own)

    def fit_chart(
        self,
        name: str,
        points: Iterable[Points],
        *,
        headroom: float = HEADROOM,
        fitted: Mapping[str, Tensor] | None = None,
        **parameters: Any,
    ) -> Chart:
        """Return a chart for given documents, with room for longer ones.

        Args:
            name: As for `chart`.
            points: The documents in chunks; read only where the chart has a bound.
            headroom: Factor, at least 1, by which the bound exceeds the largest norm of these documents.
            fitted: As for `chart`.
            **parameters: As for `chart`.

        Returns:
            The chart.

        Raises:
            UnknownNameError: The space has no such chart.
            InputError: `headroom` is below 1, or the norm of a document's features is not finite.
        """
        if headroom < 1:
            raise InputError(f"headroom must be at least 1, not {headroom}")
        if name == "balanced":
            features = self.chart("inner_product", fitted=fitted, **parameters)
            largest = max((largest_norm(features, chunk) for chunk in points), default=0.0)
            parameters = {**parameters, "bound": largest * headroom or 1.0}
        return self.chart(name, fitted=fitted, **parameters)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            lambda value: value if isinstance(value, cls) else cls.from_json(value),
            serialization=core_schema.plain_serializer_function_ser_schema(cls.to_json),
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain values from which `from_json` makes an equal space."""
        return {"kind": self.kind, "dimension": self.dimension, **self.parameters}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Make a space from the values of `to_json`; InputError if they are not a kind, a dimension and parameters."""
        if not isinstance(values, Mapping) or "kind" not in values or "dimension" not in values:
            raise InputError(f"a space is given as a mapping with kind and dimension, not {shown(values)}")
        kind = values["kind"]
        geometry = SPACES.get(kind) if isinstance(kind, str) else None
        try:
            return cast("Self", _saved_space(cast("Any", cls), geometry, **values))
        except TypeError:  # a parameter cannot be hashed
            return cast("Self", _saved_space.__wrapped__(cls, geometry, **values))


@lru_cache(maxsize=64, typed=True)
def _saved_space(cls: type[Space], geometry: type[Geometry] | None, /, **values: Any) -> Space:
    """Make a space from saved values; kept, since every slice of a scorer asks for its space again."""
    # Earlier versions saved all kinds with the parameters of hyperbolic ones, at these values.
    known = () if geometry is None else _parameters_of(cast("Any", geometry))
    former = {name for name, value in _FORMER_DEFAULTS.items() if name not in known and values.get(name) == value}
    return cls(**{name: value for name, value in values.items() if name not in former or geometry is None})


def _checked(features: Tensor, bound: float) -> Tensor:
    norms = torch.linalg.vector_norm(features, dim=-1)
    if len(norms) and norms.max() > bound * (1 + 1e-5):
        raise InputError(
            f"a document's features have the norm {float(norms.max()):.6g}, beyond the bound {bound:.6g} of the "
            f"balanced chart; build the engine again, which sets a new bound"
        )
    return features


def largest_norm(chart: Chart, points: Points) -> float:
    """Return the largest norm of lifted documents; 0 if there are none."""
    lifted = chart.lift_documents(points)
    return float(torch.linalg.vector_norm(lifted, dim=-1).max()) if len(lifted) else 0.0
