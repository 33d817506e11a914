"""The shape of an index in one call: radii, delta, curvature, a picture of the disk, and its report."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperseek._files import write_json
from hyperseek.analysis._curvature import CurvatureEstimate, DeltaEstimate, delta_hyperbolicity, estimate_curvature
from hyperseek.analysis._disk import DiskFit, View, choose_view, fit_disk
from hyperseek.analysis._pictures import draw_charts, draw_disk, write_disk_html
from hyperseek.analysis._radii import (
    RadiusReport,
    Specificity,
    SpecificityReport,
    distances,
    metric_of,
    radii,
    radius_by_specificity,
    read_specificity,
)
from hyperseek.data.hierarchy import open_hierarchy
from hyperseek.errors import InputError, require
from hyperseek.index import Index
from hyperseek.scoring import Space, vectors_of
from hyperseek.store.info import ROUNDING, Storage

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

_DELTA_POINTS = 400


def inspect_space(
    index: Index,
    *,
    by: str | None = None,
    hierarchy: str | os.PathLike[str] | None = None,
    sample: int = 5000,
    neighbours: int = 10,
    edges: int = 1000,
    seed: int = 0,
    output: str | os.PathLike[str] | None = None,
) -> SpaceReport:
    """Measure and draw the shape of the space that the points of an index occupy.

    Radii and specificity cover all documents; delta, curvature and pictures use samples. Measures that make no sense in
    the space are left out, and the report says why: a cosine space has no radii, radii that are equal up to rounding
    carry no information, and only hyperbolic spaces have a disk.

    Args:
        index: The documents and their points.
        by: The measure of specificity: a metadata field of numbers, `"depth"` in the hierarchy, or `"length"` of
            the text. None takes the depth if there is a hierarchy, else the length.
        hierarchy: A tab-separated file of children and parents, or the metadata field that names parents.
        sample: Most points of the neighbour graph and of the pictures, at least 4.
        neighbours: Nearest neighbours that each point of the graph is joined with.
        edges: Most edges whose curvature is measured.
        seed: Of all samples.
        output: Folder for `space.json`, `space.png`, `disk.png`, `disk.html` and, with a hierarchy,
            `disk-hierarchy.png`; None writes nothing.

    Returns:
        The report.

    Raises:
        InputError: The points are sets of tokens, the index has fewer than four documents, or `by` makes no
            sense in this space.
        UnknownNameError: There is no such field.
        DataError: The hierarchy cannot be read.
        MissingExtraError: POT, scipy, or matplotlib where something is drawn, is not installed.
    """
    for module in ("ot", "scipy.sparse", "scipy.stats"):  # before a minute of work rather than after it
        require(module, extra="plot")
    if output is not None:
        require("matplotlib", extra="plot")
    space = index.space
    metric = metric_of(space)
    if min(sample, len(index)) < 4:
        raise InputError(f"a shape needs at least 4 documents, and the index has {len(index)}, the sample {sample}")
    tree = None if hierarchy is None else open_hierarchy(index, os.fspath(hierarchy))
    measure, left_out = _radius_measure(index, asked=by is not None)
    specificity = read_specificity(index, tree, by)
    view = choose_view(index.ids, tree, sample=sample, seed=seed)
    drawn = np.sort(np.random.default_rng(seed).permutation(len(index))[:sample])
    rows = np.union1d(drawn, view.rows)
    points, lengths = _read_points(index, rows, measure)
    alike = None if lengths is None else _alike(lengths, index.info.storage)
    if alike is not None:
        left_out["radii"] = _nothing_to_show(alike, asked=by is not None)
        lengths = None
    vectors = points[torch.from_numpy(np.searchsorted(rows, drawn))]
    some = vectors[torch.from_numpy(np.random.default_rng(seed).permutation(len(drawn))[:_DELTA_POINTS])].double()
    curvature, curvatures = estimate_curvature(
        space, vectors, neighbours=min(neighbours, len(drawn) - 1), edges=edges, seed=seed
    )
    report = SpaceReport(
        documents=len(index),
        space=space,
        metric=metric,
        radii=None if lengths is None else RadiusReport.of(lengths),
        specificity=None if lengths is None else radius_by_specificity(lengths, specificity.values, by=specificity.by),
        delta=delta_hyperbolicity(distances(space, some, some).numpy(), seed=seed),
        curvature=curvature,
        left_out=left_out,
    )
    if output is None:
        return report
    shown = points[torch.from_numpy(np.searchsorted(rows, view.rows))]
    return _write(Path(output), index, report, view, shown, specificity, lengths, curvatures, seed=seed)


def _radius_measure(index: Index, *, asked: bool) -> tuple[Callable[[Tensor], Tensor] | None, dict[str, str]]:
    """Return the function that measures radii, if the space has any, and the reasons for what is left out."""
    space, left_out = index.space, {}
    if not space.hyperbolic:
        left_out["disk"] = f"only hyperbolic spaces are drawn as a Poincaré disk, and this is a {space.kind} one"
    if not space.unit_norm:
        return lambda vectors: radii(space, vectors), left_out
    return None, {**left_out, "radii": _nothing_to_show("all vectors of a cosine space have norm 1", asked=asked)}


def _alike(lengths: Floats, storage: Storage) -> str | None:
    """Return a sentence if radii differ by no more than the rounding of stored numbers, else None."""
    least, greatest = float(lengths.min()), float(lengths.max())
    if greatest - least > ROUNDING[storage] * greatest:
        return None
    middle = float(np.median(lengths))
    return (
        f"all points are {middle:.3g} from the origin up to the rounding of {storage} ({least:.9g} to {greatest:.9g})"
    )


def _nothing_to_show(alike: str, *, asked: bool) -> str:
    reason = f"{alike}, so their radii carry no information"
    if asked:
        raise InputError(f"there is no radius by specificity to show: {reason}; leave out --by")
    return reason


def _write(
    folder: Path,
    index: Index,
    report: SpaceReport,
    view: View,
    vectors: Tensor,
    specificity: Specificity,
    lengths: Floats | None,
    curvatures: Floats,
    *,
    seed: int,
) -> SpaceReport:
    folder.mkdir(parents=True, exist_ok=True)
    written = [draw_charts(folder / "space.png", radii=lengths, specificity=report.specificity, curvatures=curvatures)]
    if index.space.hyperbolic:
        disk, fits = fit_disk(index, view, vectors, specificity, seed=seed)
        report = replace(report, disks=fits)
        names = ("disk.png", "disk-hierarchy.png")
        written += [draw_disk(folder / name, disk, layout) for name, layout in zip(names, disk.layouts, strict=False)]
        written.append(write_disk_html(folder / "disk.html", disk))
    report = replace(report, files=[folder / "space.json", *written])
    write_json(folder / "space.json", report.to_json())
    return report


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
        disks: How faithful each picture of the disk is.
        left_out: Measures that were left out, and why.
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
        """Return plain values; NaN and infinities become None."""
        values = {**asdict(self), "space": self.space.to_json(), "files": [str(path) for path in self.files]}
        plain: dict[str, Any] = plain_values(values)
        return plain


def plain_values(value: Any) -> Any:
    """Return nested values with None for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: plain_values(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_points(index: Index, rows: Rows, measure: Callable[[Tensor], Tensor] | None) -> tuple[Tensor, Floats | None]:
    """Read all points once.

    Args:
        index: The points.
        rows: `(n,)` rows to keep, ascending.
        measure: Takes `(m, w)` points and returns `(m,)` numbers, as radii; None for nothing.

    Returns:
        The kept points `(n, w)`, and the numbers of all `(N,)`.
    """
    kept, numbers, first = [], [], 0
    for names, points in index.points():
        here = rows[(rows >= first) & (rows < first + len(names))] - first
        kept.append(vectors_of(points)[torch.from_numpy(here)])
        if measure is not None:
            numbers.append(measure(vectors_of(points)))
        first += len(names)
    return torch.cat(kept), torch.cat(numbers).double().numpy() if numbers else None
