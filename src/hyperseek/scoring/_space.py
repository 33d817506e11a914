"""Space: the geometry points live in, and the charts by which ordinary vector engines can search it.

Shapes: `Q` queries, `N` documents, `d` dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from torch import Tensor

from hyperseek._errors import InputError, UnknownNameError
from hyperseek.geometry import cosine_similarity, inner_product, negative_distance, unit_vectors
from hyperseek.scoring._points import Points

Metric = Literal["inner_product", "l2"]


@dataclass(frozen=True, slots=True)
class Chart:
    """A pair of maps under which an ordinary vector engine ranks as the space does.

    Attributes:
        name: Names the chart within its space.
        metric: What the engine must rank by: the largest inner product or the smallest L2 distance.
        lift_documents: `(N, d)` points to `(N, e)` plain vectors.
        lift_queries: `(Q, d)` points to `(Q, e)` plain vectors.
    """

    name: str
    metric: Metric
    lift_documents: Callable[[Tensor], Tensor]
    lift_queries: Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class _Geometry:
    score: Callable[[Tensor, Tensor], Tensor]
    canonical: Callable[[Tensor], Tensor]
    charts: tuple[Chart, ...]


def _identity(vectors: Tensor) -> Tensor:
    return vectors


_GEOMETRIES: dict[str, _Geometry] = {
    "dot": _Geometry(inner_product, _identity, (Chart("identity", "inner_product", _identity, _identity),)),
    "cosine": _Geometry(cosine_similarity, unit_vectors, (Chart("unit", "inner_product", unit_vectors, unit_vectors),)),
    "euclidean": _Geometry(negative_distance, _identity, (Chart("identity", "l2", _identity, _identity),)),
}


@dataclass(frozen=True, slots=True)
class Space:
    """The geometry of an index: a small value that prints, compares and goes to JSON and back.

    Attributes:
        kind: `"dot"` (inner product), `"cosine"`, or `"euclidean"` (minus the distance).
        dimension: `d`, at least 1.
    """

    kind: str
    dimension: int

    def __post_init__(self) -> None:
        if self.kind not in _GEOMETRIES:
            raise UnknownNameError("space", self.kind, _GEOMETRIES)
        if self.dimension < 1:
            raise InputError(f"a space needs at least 1 dimension, not {self.dimension}")

    def score(self, queries: Tensor, points: Points) -> Tensor:
        """Compare query points with document points, exactly.

        Args:
            queries: `(Q, d)`.
            points: `N` documents.

        Returns:
            `(Q, N)` float32 (float64 for float64 points); higher is better.

        Raises:
            InputError: A dimension is not the space's.
        """
        self.check(queries)
        self.check(points.vectors)
        return _GEOMETRIES[self.kind].score(queries, points.vectors)

    def canonical(self, vectors: Tensor) -> Tensor:
        """Return `(N, d)` vectors as this space stores them: of norm 1 for the cosine, unchanged otherwise."""
        return _GEOMETRIES[self.kind].canonical(vectors)

    @property
    def charts(self) -> tuple[Chart, ...]:
        """The charts whose united candidates find the best documents; the first alone is exact for a flat scan."""
        return _GEOMETRIES[self.kind].charts

    def check(self, vectors: Tensor) -> None:
        """Raise InputError unless the last axis of `vectors` has `dimension` entries."""
        if vectors.shape[-1] != self.dimension:
            raise InputError(
                f"this space has {self.dimension} dimensions but the vectors have {vectors.shape[-1]}; "
                f"were they made by another model?"
            )

    def to_json(self) -> dict[str, Any]:
        """Return plain values from which `from_json` makes an equal space."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Make a space from the values of `to_json`."""
        return cls(**values)
