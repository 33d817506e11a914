"""What was found about the shape of a space, as plain values."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyperseek.analysis._delta import DeltaEstimate
from hyperseek.analysis._disk import DiskFit
from hyperseek.analysis._ricci import CurvatureEstimate
from hyperseek.analysis._specificity import SpecificityReport
from hyperseek.scoring import Space

_BINS = 40


@dataclass(frozen=True, slots=True)
class RadiusReport:
    """How far from the origin the documents are.

    Attributes:
        count: Documents.
        mean: Mean radius.
        deviation: Standard deviation.
        quantiles: The least, 5, 25, 50, 75, 95 per cent, the greatest.
        edges: Bounds of the histogram's bins, one more than there are bins.
        histogram: Documents of each bin.
    """

    count: int
    mean: float
    deviation: float
    quantiles: list[float]
    edges: list[float]
    histogram: list[int]

    @classmethod
    def of(cls, radii: NDArray[np.float64]) -> RadiusReport:
        """Summarise `(N,)` radii, at least one."""
        counts, edges = np.histogram(radii, bins=_BINS)
        quantiles = np.quantile(radii, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1])
        return cls(len(radii), float(radii.mean()), float(radii.std()), quantiles.tolist(), edges.tolist(),
                   counts.tolist())  # fmt: skip


@dataclass(frozen=True, slots=True)
class SpaceReport:
    """The shape of an index.

    Attributes:
        documents: Documents of the index.
        space: Geometry of their points.
        metric: The distance that was measured.
        radii: Distances from the origin, in flat spaces norms, of all documents.
        specificity: Radius by specificity, over all documents that have one.
        delta: Gromov's delta.
        curvature: Ollivier-Ricci curvature of the graph of nearest neighbours.
        disks: How true each picture of the disk is.
        left_out: What could not be measured, and why.
        files: Pictures and data that were written.
    """

    documents: int
    space: Space
    metric: str
    radii: RadiusReport | None = None
    specificity: SpecificityReport | None = None
    delta: DeltaEstimate | None = None
    curvature: CurvatureEstimate | None = None
    disks: list[DiskFit] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; what is not a number is None."""
        values = {**asdict(self), "space": self.space.to_json(), "files": [str(path) for path in self.files]}
        plain: dict[str, Any] = _plain(values)
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
