"""Points with levels: one hyperbolic point per level in a row, and queries that choose the levels to compare.

Levels are numbered from 1, the broadest, to M, the narrowest. Models give each level's point as a tangent vector u at
the origin of the Poincaré ball: the point is exp_0(u), at distance 2 |u| from the origin. Where all points of a level
are equally far out, its distance ranks as the cosine of the tangents does; different radii, and comparisons across
levels, are what make a hierarchy.

Shapes: `Q` queries, `N` documents, `n` documents of each query's own, `M` levels, `d` dimensions of each.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Annotated, Any, Self, cast, get_args

import torch
from pydantic import Field
from torch import Tensor

from hyperseek.errors import InputError, UnknownNameError, shown
from hyperseek.geometry.numerics import directions, wide_dtype
from hyperseek.geometry.polar import (
    FARTHEST,
    POLAR_EXTRA,
    cone_excess,
    cone_excess_own,
    polar_distance,
    polar_distance_own,
    split_polar,
    tangent_to_polar,
)
from hyperseek.scoring._geometries import (
    Chart,
    Fault,
    Geometry,
    L2Lift,
    Products,
    checked_level,
    checked_scores,
    not_finite,
)
from hyperseek.scoring._hyperbolic import Poincare
from hyperseek.scoring._points import Points, VectorPoints, own_vectors, vectors_of
from hyperseek.scoring._scorer import Scorer
from hyperseek.scoring._space import Space
from hyperseek.types import QueryOptions, Relation

_RELATIONS = get_args(Relation)


class Levels(Geometry):
    """M hyperbolic points of `d` dimensions in a row, of which plain scores compare the last.

    Args:
        dimension: `d` of each level, at least 1.
        levels: M, at least 1.
        radius_squared: R² of the hyperboloid, positive; the ball has c = 1/R².

    Raises:
        InputError: `levels` or `radius_squared` is out of range.
    """

    graph_charts = Poincare.graph_charts
    neighbour_chart = Poincare.neighbour_chart
    hyperbolic = True
    distance_name = "geodesic distance"
    scorer = "level"

    def __init__(self, dimension: int, levels: int, radius_squared: float = 1.0) -> None:
        super().__init__(dimension)
        given = cast("object", levels)
        if isinstance(given, bool) or not isinstance(given, int) or levels < 1:
            raise InputError(f"levels must be a whole number of at least 1, not {shown(levels)}")
        if not isinstance(cast("object", radius_squared), Real) or not 0 < radius_squared <= sys.float_info.max:
            raise InputError(f"radius_squared must be positive and finite, not {shown(radius_squared)}")
        self.levels = levels
        self.radius_squared = radius_squared
        self._each = Poincare(dimension, radius_squared)

    @property
    def width(self) -> int:
        """How many numbers the polar points of all levels have."""
        return self.levels * self._each.width

    @property
    def coordinates(self) -> int:
        """How many numbers the tangents of all levels have."""
        return self.levels * self.dimension

    def fault(self, coordinates: Tensor) -> Fault | None:
        """Find a point that is not finite, or farther out than half precision can store."""
        if (fault := not_finite(coordinates)) is not None:
            return fault
        rho = 2 * directions(self._tangents(coordinates).double())[1][..., 0] / math.sqrt(self.radius_squared)
        far = (rho > FARTHEST).nonzero()
        if not len(far):
            return None
        row, level = far[0].tolist()
        return Fault(
            row,
            f"has a tangent at level {level + 1} that is {float(rho[row, level]):.6g} R from the origin; points can "
            f"be stored up to {FARTHEST:g} R",
        )

    def canonical(self, coordinates: Tensor) -> Tensor:
        """Turn tangents into polar points."""
        return tangent_to_polar(self._tangents(coordinates), 1 / self.radius_squared).flatten(-2)

    def _tangents(self, coordinates: Tensor) -> Tensor:
        return coordinates.reshape(*coordinates.shape[:-1], self.levels, self.dimension)

    def at_level(self, vectors: Tensor, level: int) -> Tensor:
        """Return the polar points of a level."""
        width = self.dimension + POLAR_EXTRA
        return vectors[..., (level - 1) * width : level * width]

    def with_level(self, vectors: Tensor, level: int, polar: Tensor) -> Tensor:
        """Return points with the polar points of a level replaced."""
        start = (level - 1) * polar.shape[-1]
        return torch.cat([vectors[..., :start], polar, vectors[..., start + polar.shape[-1] :]], dim=-1)

    def shorten(self, vectors: Tensor, dimension: int) -> Tensor:
        """Cut the tangent of each level."""
        direction, rho = split_polar(vectors.reshape(*vectors.shape[:-1], self.levels, -1))
        return tangent_to_polar(direction[..., :dimension] * rho / 2).flatten(-2)

    def score(self, queries: Tensor, points: Points) -> Tensor:
        """Return minus the distances at the last level."""
        return self._each.score(self.at_level(queries, self.levels), self._points(points, self.levels))

    def score_own(self, queries: Tensor, documents: Tensor) -> Tensor:
        """Return minus the distances of own documents at the last level."""
        return self._each.score_own(self.at_level(queries, self.levels), self.at_level(documents, self.levels))

    def _points(self, points: Points, level: int) -> VectorPoints:
        return VectorPoints(self.at_level(vectors_of(points), level))

    def products(self, parameters: Mapping[str, Any]) -> Products:
        """Return those of the chart's level."""
        level, each = parameters["level"], self._each.products({})
        return each._replace(
            documents=lambda points: each.documents(self._points(points, level)),
            queries=lambda queries: each.queries(self.at_level(queries, level)),
        )

    def features(self, points: Points, parameters: Mapping[str, Any]) -> Tensor:
        """Return hyperboloid points of the chart's level."""
        return self._each.features(self._points(points, parameters["level"]), {})

    def query_features(self, queries: Tensor, parameters: Mapping[str, Any]) -> Tensor:
        """Return hyperboloid points of the chart's level, with the sign of time flipped."""
        return self._each.query_features(self.at_level(queries, parameters["level"]), {})

    def chart_parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Complete the level of the documents that a chart shows: the last one unless given."""
        odd = next((name for name in given if name != "level"), None)
        if odd is not None:
            raise UnknownNameError("parameter of a chart of a space of levels", odd, ("level",))
        return {"level": checked_level(given.get("level"), self.levels, name="the level of a chart")}

    def l2_lifts(self, parameters: Mapping[str, Any]) -> Mapping[str, L2Lift]:
        """Return ball coordinates of the chart's level."""
        level = parameters["level"]

        def of_level(lift: L2Lift) -> L2Lift:
            within = lift.within
            return L2Lift(
                lambda points: lift.documents(self._points(points, level)),
                lambda queries: lift.queries(self.at_level(queries, level)),
                within and (lambda queries, scores: within(self.at_level(queries, level), scores)),
            )

        return {name: of_level(lift) for name, lift in self._each.l2_lifts({}).items()}

    def moved(self, queries: Tensor, documents: Tensor, weights: Tensor) -> Tensor:
        """Move the points of the last level."""
        last = self.levels
        moved = self._each.moved(self.at_level(queries, last), self.at_level(documents, last), weights)
        return self.with_level(queries, last, moved)

    def distances(self, first: Tensor, second: Tensor) -> Tensor:
        """Return geodesic distances at the last level."""
        return self._each.distances(self.at_level(first, self.levels), self.at_level(second, self.levels))

    def radii(self, vectors: Tensor) -> Tensor:
        """Return geodesic distances from the origin at the last level."""
        return self._each.radii(self.at_level(vectors, self.levels))


def level_options(levels: int) -> dict[str, Any]:
    """Return the options that queries of a space of levels understand, with their types, for `query_options`.

    Args:
        levels: How many there are.

    Returns:
        The types of `level`, `document_level`, `broaden`, `relation` and `radius_weight`, as `QueryOptions.checked`
        reads them.
    """
    level = Annotated[int, Field(ge=1, le=levels)]
    return {
        "level": level,
        "document_level": level,
        "broaden": Annotated[float, Field(ge=0, le=1)],
        "relation": Relation,
        "radius_weight": Annotated[float, Field(ge=0, allow_inf_nan=False)],
    }


_OPTIONS = frozenset(level_options(1))


class LevelScorer(Scorer):
    """Queries with all their levels, compared with documents at chosen ones.

    | relation | score |
    |---|---|
    | `distance` | minus the geodesic distance |
    | `is_a` | -(distance + `radius_weight` (radius of the document - radius of the query)): prefers general documents, as [HiT](https://arxiv.org/abs/2401.11374) ranks parents |
    | `cone` | minus the angle by which the query lies outside of the document's entailment cone; at least 0 within |

    Args:
        space: A space of levels.
        queries: `(Q, M (d + 2))` stored points.
        level: Level of the queries, 1 to M; None takes M.
        document_level: Level of the documents; None takes `level`.
        broaden: 0 to 1 in place of the two levels: 0 is level M, 1 is level 1. In between, the scores of the two
            neighbouring levels are mixed linearly. Those of each are divided by the diameter of the ball around the
            origin that the query is on the border of, plus R, before, and multiplied by the mixed diameter afterwards,
            so scores and rankings change continuously.
        relation: What is compared; see above.
        radius_weight: λ of `is_a`, at least 0; None takes 1.
        factor: As for `LinearScorer`.

    Attributes:
        level: Level of the queries; the narrowest one if `broaden` is given.
        document_level: Level of the documents.
        broaden: As given.
        relation: As given.
        radius_weight: λ of `is_a`.

    Raises:
        InputError: The space has no levels, the queries are not its stored points, an option is out of range, or two
            exclude each other.
        UnknownNameError: There is no such relation.
    """  # noqa: E501  # a row of a table

    kind = "level"
    points = True
    surrogates = False  # a scan costs little, and what is far and general is found by no near document

    def __init__(
        self,
        space: Space,
        queries: Tensor,
        *,
        level: int | None = None,
        document_level: int | None = None,
        broaden: float | None = None,
        relation: Relation = "distance",
        radius_weight: float | None = None,
        factor: Tensor | None = None,
    ) -> None:
        if not isinstance(space.geometry, Levels):
            raise InputError(f"only a space of levels has levels to choose from, not a {space.kind!r} one")
        space.check(queries)
        if queries.ndim != 2:
            raise InputError(f"queries must have the shape (queries, numbers), not {tuple(queries.shape)}")
        if relation not in _RELATIONS:
            raise UnknownNameError("relation", relation, _RELATIONS)
        if broaden is not None and (level is not None or document_level is not None):
            raise InputError("broaden is given in place of level and document_level; give either")
        self.space = space
        self.queries = queries
        self.level = checked_level(level, space.levels)
        documents = self.level if document_level is None else document_level
        self.document_level = checked_level(documents, space.levels, name="document_level")
        self.broaden = None if broaden is None else _checked_number("broaden", broaden, most=1.0)
        self.relation: Relation = relation
        if radius_weight is not None and relation != "is_a":
            raise InputError(f"radius_weight belongs to the relation 'is_a', not to {relation!r}; leave it out")
        self.radius_weight = 1.0 if radius_weight is None else _checked_number("radius_weight", radius_weight)
        self.factor = factor

    @classmethod
    def of(cls, space: Space, queries: Tensor, options: QueryOptions, *, factor: Tensor | None = None) -> Self:
        """Make the scorer that the options of a query ask for.

        Args:
            space: A space of levels.
            queries: `(Q, M (d + 2))` stored points.
            options: Some of those of `level_options`.
            factor: As for `LinearScorer`.

        Returns:
            The scorer.

        Raises:
            InputError: An option is out of range, or two exclude each other.
            UnknownNameError: An option has another name.
        """
        checked = options.checked(level_options(space.levels))
        return cls(space, queries, **dict(checked), factor=factor).with_options(checked)

    def at(
        self,
        *,
        level: int | None = None,
        document_level: int | None = None,
        broaden: float | None = None,
        relation: Relation | None = None,
        radius_weight: float | None = None,
    ) -> LevelScorer:
        """Return the same queries at other levels.

        Args:
            level: As for the class; the scorer's own level is not kept.
            document_level: Likewise.
            broaden: Likewise.
            relation: None keeps the scorer's own, and its `radius_weight`.
            radius_weight: None keeps the scorer's own, if `relation` is not given.

        Returns:
            A scorer whose gradients reach the same queries.
        """
        asked: dict[str, Any] = {"level": level, "document_level": document_level, "broaden": broaden}
        if relation is None and radius_weight is None:
            how: dict[str, Any] = self._how()
        else:
            how = {"relation": relation or self.relation, "radius_weight": radius_weight}
        scorer = LevelScorer(self.space, self.queries, **asked, **how, factor=self.factor)
        given = {name: value for name, value in {**asked, **how}.items() if value not in (None, "distance")}
        return scorer.with_options(QueryOptions(**_others(self.options), **given))

    def asked_with(self, options: QueryOptions) -> LevelScorer | None:
        """Return the queries with other options of levels; None where an option of another kind differs."""
        if _others(options) != _others(self.options):
            return None
        own = {name: value for name, value in options.items() if name in _OPTIONS}
        return LevelScorer(self.space, self.queries, **own, factor=self.factor).with_options(options)

    def _asked(self) -> dict[str, Any]:
        if self.broaden is not None:
            return {"broaden": self.broaden}
        return {"level": self.level, "document_level": self.document_level}

    def _how(self) -> dict[str, Any]:
        return {"relation": self.relation, "radius_weight": self.radius_weight if self.relation == "is_a" else None}

    def score(self, points: Points) -> Tensor:
        """Return `(Q, N)` scores."""
        documents = vectors_of(points)
        self.space.check(documents)
        scores = self._mixed(documents, polar_distance, cone_excess)
        return checked_scores(scores, queries=self.queries, documents=documents)

    def score_own(self, documents: Tensor | Points) -> Tensor:
        """Return `(Q, n)` scores of each query with its own documents: `(Q, n, w)`, or `Q * n` points."""
        own = own_vectors(documents, len(self))
        self.space.check(own)
        scores = self._mixed(own, polar_distance_own, cone_excess_own)
        return checked_scores(scores, queries=self.queries, documents=own.flatten(0, 1))

    def _mixed(self, documents: Tensor, distance: Callable[..., Tensor], excess: Callable[..., Tensor]) -> Tensor:
        queries = self.queries.to(wide_dtype(documents))
        found = [
            self._related(
                self.space.at_level(queries, level), self.space.at_level(documents, document_level), distance, excess
            )
            for level, document_level, _ in self._parts()
        ]
        if len(found) == 1:
            return found[0].float()
        scales = [self._diameter(queries, level) for level, _, _ in self._parts()]
        shares = [share for _, _, share in self._parts()]
        (inner, outer), (share, rest) = scales, shares
        mixed = share * found[0] / inner + rest * found[1] / outer
        return (mixed * (share * inner + rest * outer)).float()

    def _parts(self) -> list[tuple[int, int, float]]:
        """Return the levels of queries and of documents whose scores are mixed, and the share of each."""
        if self.broaden is None:
            return [(self.level, self.document_level, 1.0)]
        place = self.space.levels - self.broaden * (self.space.levels - 1)
        broad, narrow = math.floor(place), math.ceil(place)
        if broad == narrow:
            return [(narrow, narrow, 1.0)]
        return [(narrow, narrow, place - broad), (broad, broad, narrow - place)]

    def _related(
        self, queries: Tensor, documents: Tensor, distance: Callable[..., Tensor], excess: Callable[..., Tensor]
    ) -> Tensor:
        """Return the scores of polar points."""
        if self.relation == "cone":
            return -excess(queries, documents)
        apart = distance(queries, documents, self.space.radius_squared)
        if self.relation == "is_a" and self.radius_weight:
            inner, outer = split_polar(queries)[1], split_polar(documents)[1][..., 0]
            apart = apart + self.radius_weight * math.sqrt(self.space.radius_squared) * (outer - inner)
        return -apart if self.factor is None else -apart * self.factor

    def _diameter(self, queries: Tensor, level: int) -> Tensor:
        """Return the `(Q, 1)` scale of scores at a level, in units of R; angles are on one scale already."""
        rho = split_polar(self.space.at_level(queries, level))[1]
        return torch.ones_like(rho) if self.relation == "cone" else 1 + 2 * rho

    def moved_towards(self, documents: Points, weights: Tensor) -> LevelScorer:
        """Move the points of the levels that are asked with towards those of the documents at the levels asked for."""
        own, queries = own_vectors(documents, len(self)).float(), self.queries.float()
        for level, document_level, _ in self._parts():
            towards = self.space.at_level(own, document_level)
            moved = self.space.one_level.moved(self.space.at_level(queries, level), towards, weights)
            queries = cast("Levels", self.space.geometry).with_level(queries, level, moved)
        return self._with({"queries": queries})

    def linear(self) -> Tensor | None:
        """Return queries that the space's plain score compares as this scorer does; None where it cannot."""
        return self._placed(self.space.levels)

    def _placed(self, document_level: int | None) -> Tensor | None:
        """Return queries that show their own point at every level; None unless distances at that level are compared."""
        (level, own, _), *others = self._parts()
        distances = self.relation == "distance" or (self.relation == "is_a" and not self.radius_weight)
        if others or own != document_level or not distances:
            return None
        return self.space.at_level(self.queries, level).repeat(1, self.space.levels)

    def lift(self, chart: Chart) -> Tensor | None:
        """Return queries for a chart of the level of the documents, whatever their own level; None for other charts."""
        placed = self._placed(chart.parameters.get("level"))
        return None if placed is None else chart.lift_queries(placed.float())

    def lift_within(self, chart: Chart, scores: Tensor) -> Tensor | None:
        """Return queries around the balls of documents that score at least as much, on charts that `lift` serves."""
        placed = self._placed(chart.parameters.get("level"))
        if placed is None or chart.lift_within is None:
            return None
        return chart.lift_within(placed.float(), scores.to(placed.device))

    @property
    def chart_parameters(self) -> Mapping[str, Any]:
        """The level of the documents."""
        return {"level": self.document_level}

    def narrowed(self) -> tuple[Scorer, Callable[[Points], Points]] | None:
        """Return the queries as points of one level; None if two levels are mixed, or there is only one."""
        (level, document_level, _), *others = self._parts()
        if others or self.space.levels == 1:
            return None
        space = Space("levels", self.space.dimension, levels=1, radius_squared=self.space.radius_squared)
        queries = self.space.at_level(self.queries, level)
        made = LevelScorer(space, queries, **self._how(), factor=self.factor)
        return made, lambda points: VectorPoints(self.space.at_level(vectors_of(points), document_level))

    def shortened(self, dimension: int) -> LevelScorer:
        """Return the queries cut to the first dimensions of each level."""
        queries = self.space.shorten(self.queries, dimension)
        made = LevelScorer(self.space.shortened(dimension), queries, **self._asked(), **self._how(), factor=self.factor)
        return made.with_options(self.options)

    def tensors(self) -> dict[str, Tensor]:
        """Return `queries`."""
        return {"queries": self.queries}

    def config(self) -> dict[str, Any]:
        """Return the space and the options."""
        return {"space": self.space.to_json(), **self._asked(), **self._how()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Self:
        """Make the scorer from `queries`, the space and the options."""
        options = {name: config[name] for name in _OPTIONS if config.get(name) is not None}
        return cls(Space.from_json(config["space"]), tensors["queries"], **options)


def _others(options: QueryOptions) -> dict[str, Any]:
    """Return the options that do not belong to levels."""
    return {name: value for name, value in options.items() if name not in _OPTIONS}


def _checked_number(name: str, given: object, *, most: float = math.inf) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= most or given == math.inf:
        allowed = "at least 0 and finite" if most == math.inf else f"from 0 to {most:g}"
        raise InputError(f"{name} must be a number {allowed}; given {shown(given)}")
    return float(given)
