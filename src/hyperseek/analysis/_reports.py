"""Reports on the points of an index, each in one call: on the shape of their space, and on their levels.

The first has radii, delta, curvature and a picture of the disk; the second says whether levels differ, what their radii
are, and the paths of texts through them.

Shapes: `n` documents of a sample, `M` levels, `w` numbers of a stored point.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperseek._files import write_json, writing
from hyperseek.analysis._curvature import CurvatureEstimate, DeltaEstimate, delta_hyperbolicity, estimate_curvature
from hyperseek.analysis._pictures import draw_charts, draw_disk, write_disk_html, write_levels_html
from hyperseek.analysis._radii import (
    RadiusReport,
    Specificity,
    SpecificityReport,
    distances,
    metric_of,
    radii,
    radius_by_specificity,
    read_specificity,
    title_of,
)
from hyperseek.analysis.disk import DiskFit, View, best_scale, choose_view, fit_disk, project
from hyperseek.data.hierarchy import open_hierarchy
from hyperseek.errors import InputError, require
from hyperseek.evaluation.hierarchy_rankings import stored_points
from hyperseek.geometry.polar import split_polar
from hyperseek.index import Index
from hyperseek.scoring import LevelScorer, Space, vectors_of
from hyperseek.store.info import ROUNDING, Storage

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

_DELTA_POINTS = 400
_EXAMPLES = 6  # texts that are shown if none was chosen
_ASK = 256  # points whose distances to the sample are held at a time


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
    with writing(folder):
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
        return _plain_report(self)


def _plain_report(report: SpaceReport | LevelsReport) -> dict[str, Any]:
    values = {**asdict(report), "space": report.space.to_json(), "files": [str(path) for path in report.files]}
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


@dataclass(frozen=True, slots=True)
class NearDocument:
    """A document near a text at one level.

    Attributes:
        id: The document's id.
        title: Its title, or the beginning of its text.
        distance: Geodesic distance.
    """

    id: str
    title: str
    distance: float


@dataclass(frozen=True, slots=True)
class LevelPath:
    """One text at every level, from level 1.

    Attributes:
        title: The text, or the document's title.
        id: The document's id; None for a text of yours.
        radii: Distance from the origin at each level.
        angles: Its angle in the picture of the disk at each level, -pi to pi.
        near: The nearest other documents at each level, nearest first.
    """

    title: str
    id: str | None
    radii: list[float]
    angles: list[float]
    near: list[list[NearDocument]]


@dataclass(frozen=True, slots=True)
class LevelsReport:
    """The levels of an index.

    Attributes:
        documents: Documents of the index.
        space: Geometry of their points.
        sampled: Documents that cosines and neighbours are of.
        neighbours: Nearest neighbours whose overlap was measured.
        seed: Of the sample.
        cosines: `cosines[m][n]`: mean cosine between the directions of a text at two levels; 1 is no difference.
        overlap: `overlap[m][n]`: mean share of the nearest neighbours in the sample that two levels have in common.
        radii: Distances from the origin, level by level, of all documents.
        specificity: Radius by specificity, level by level, where the radii of a level differ.
        variance: Share of the tangent variance of all levels that the picture of the disk shows, 0 to 1.
        scale: Factor on radii in the picture.
        background: Angle and radius, in units of R, of some documents at each level, for the picture.
        paths: Texts that were asked for, or else examples.
        left_out: What was left out, and why.
        files: What was written.
    """

    documents: int
    space: Space
    sampled: int
    neighbours: int
    seed: int
    cosines: list[list[float]]
    overlap: list[list[float]]
    radii: list[RadiusReport]
    specificity: list[SpecificityReport | None]
    variance: float
    scale: float
    background: list[list[tuple[float, float]]]
    paths: list[LevelPath]
    left_out: dict[str, str] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; NaN and infinities become None."""
        return _plain_report(self)


def inspect_levels(
    index: Index,
    *,
    texts: Sequence[str] = (),
    ids: Sequence[str] = (),
    by: str | None = None,
    hierarchy: str | os.PathLike[str] | None = None,
    sample: int = 2000,
    neighbours: int = 10,
    seed: int = 0,
    output: str | os.PathLike[str] | None = None,
) -> LevelsReport:
    """Show whether the levels of an index differ, what their radii say, and how texts pass through them.

    Args:
        index: The documents, points of a space of levels.
        texts: Texts whose paths are shown; the index' model encodes them as documents.
        ids: Documents whose paths are shown. Without texts and ids, six documents of the sample are.
        by: The measure of specificity, as for `inspect_space`.
        hierarchy: A file of children and parents, or the field that names parents, as for `inspect_space`.
        sample: Most documents for cosines and overlaps, at least 2.
        neighbours: Nearest neighbours that are shown and compared, at least 1.
        seed: Of the sample.
        output: Folder for `levels.json` and `levels.html`; None writes nothing.

    Returns:
        The report.

    Raises:
        InputError: The space has no levels, the index has fewer than three documents, a number is out of range, or an
            id is not in the index.
        UnknownNameError: There is no such field.
        DataError: The hierarchy cannot be read.
        StoreError: A text is given, and the index names no model.
        MissingExtraError: scipy is not installed.
    """
    require("scipy.stats", extra="plot")  # before a minute of work rather than after it
    space = index.space
    if space.levels < 2:
        raise InputError(f"a {space.kind!r} space has no levels to look at; give an index of a model with levels")
    if min(sample, len(index)) < 3 or neighbours < 1:
        raise InputError(
            f"levels are looked at with at least 3 documents and 1 neighbour; the index has {len(index)} documents, "
            f"the sample is {sample}, neighbours {neighbours}"
        )
    chosen = np.sort(np.random.default_rng(seed).permutation(len(index))[:sample])
    rows, radii = _read(index, chosen)
    tree = None if hierarchy is None else open_hierarchy(index, os.fspath(hierarchy))
    specificity = read_specificity(index, tree, by)
    left_out, by_level = {}, []
    for level in range(space.levels):
        own = radii[:, level]
        equal = np.ptp(own) <= ROUNDING["float32"] * own.max()
        if equal:
            left_out[f"radius by {specificity.by} at level {level + 1}"] = (
                f"all points are {own.max():.4g} from the origin"
            )
        by_level.append(None if equal else radius_by_specificity(own, specificity.values, by=specificity.by))
    few = min(neighbours, len(chosen) - 1)
    named = _named(index, texts, ids, chosen, seed)
    asked = torch.cat([row for _, _, row in named])
    near = _near(index, asked, [name for name, _, _ in named], neighbours)
    levels = range(1, space.levels + 1)
    stacked = torch.cat([space.at_level(part, level) for part in (asked, rows) for level in levels])
    angles, rho, variance = project(space.one_level, stacked)
    count, unit = len(named), float(space.radius_squared) ** 0.5
    own_angles, own_rho = (part[: count * space.levels].reshape(space.levels, count) for part in (angles, rho))
    drawn = zip(*(part[count * space.levels :].reshape(space.levels, -1) for part in (angles, rho)), strict=True)
    report = LevelsReport(
        documents=len(index),
        space=space,
        sampled=len(chosen),
        neighbours=few,
        seed=seed,
        cosines=_cosines(space, rows).tolist(),
        overlap=_overlap(space, rows, few).tolist(),
        radii=[RadiusReport.of(radii[:, level]) for level in range(space.levels)],
        specificity=by_level,
        variance=variance,
        scale=best_scale(rho),
        background=[list(zip(*(part[:500].tolist() for part in both), strict=True)) for both in drawn],
        paths=[
            LevelPath(title, name, (own_rho[:, place] * unit).tolist(), own_angles[:, place].tolist(), near[place])
            for place, (name, title, _) in enumerate(named)
        ],
        left_out=left_out,
    )
    if output is None:
        return report
    folder = Path(output)
    report = replace(report, files=[folder / "levels.json", folder / "levels.html"])
    write_json(folder / "levels.json", report.to_json())
    write_levels_html(folder / "levels.html", index.info.name or index.path.name, report.to_json())
    return report


def _read(index: Index, chosen: NDArray[np.int64]) -> tuple[Tensor, Floats]:
    """Return the stored points `(n, w)` of chosen rows, and the radii `(N, M)` of all documents."""
    space, kept, radii, first = index.space, [], [], 0
    for names, points in index.points():
        vectors = vectors_of(points)
        here = chosen[(chosen >= first) & (chosen < first + len(names))] - first
        kept.append(vectors[torch.from_numpy(here)])
        radii.append(space.level_radii(vectors))
        first += len(names)
    return torch.cat(kept), torch.cat(radii).double().numpy()


def _named(
    index: Index, texts: Sequence[str], ids: Sequence[str], chosen: NDArray[np.int64], seed: int
) -> list[tuple[str | None, str, Tensor]]:
    """Return the id, title and `(1, w)` stored point of each text whose path is shown."""
    if not texts and not ids:
        every = index.ids
        ids = [every[row] for row in np.random.default_rng(seed).permutation(chosen)[:_EXAMPLES]]
    names = list(dict.fromkeys(ids))
    documents = index.get(names)
    unknown = next((name for name in names if name not in documents), None)
    if unknown is not None:
        raise InputError(f"the index holds no document {unknown!r}; its ids are like {index.ids[0]!r}")
    found: list[tuple[str | None, str, Tensor]] = []
    if texts:
        encoded = vectors_of(index.model.encode_documents(list(texts))).cpu().float()
        found += [(None, text, encoded[row : row + 1]) for row, text in enumerate(texts)]
    points = torch.split(stored_points(index, names), 1) if names else ()
    return found + [(name, title_of(documents[name]), point) for name, point in zip(names, points, strict=True)]


def _near(index: Index, asked: Tensor, names: Sequence[str | None], count: int) -> list[list[list[NearDocument]]]:
    """Return the nearest documents of each text at each level; a document is not its own neighbour."""
    scorer = LevelScorer(index.space, asked)
    found: list[list[list[NearDocument]]] = [[] for _ in names]
    for level in range(1, index.space.levels + 1):
        hits = index.search(scorer.at(level=level), k=count, engine="exact", exclude=list(names))
        for own, listed in zip(found, hits, strict=True):
            own.append([NearDocument(hit.id, title_of(hit.document), -hit.score) for hit in listed if hit.document])
    return found


def _cosines(space: Space, rows: Tensor) -> Floats:
    levels = range(1, space.levels + 1)
    directions = torch.stack([split_polar(space.at_level(rows, level).double())[0] for level in levels])
    means: Floats = torch.einsum("mnd,knd->mkn", directions, directions).mean(dim=2).numpy()
    return means


def _overlap(space: Space, rows: Tensor, count: int) -> Floats:
    """Return the `(M, M)` mean shares of `count` nearest neighbours in common."""
    shared = np.zeros((space.levels, space.levels))
    points = [space.at_level(rows, level) for level in range(1, space.levels + 1)]
    for start in range(0, len(rows), _ASK):
        own = torch.arange(start, min(start + _ASK, len(rows)))
        marks = []
        for part in points:
            apart = space.one_level.distances(part[own], part)
            apart[torch.arange(len(own)), own] = torch.inf
            mark = torch.zeros_like(apart)
            marks.append(mark.scatter(1, apart.topk(count, largest=False).indices, 1.0))
        stacked = torch.stack(marks).flatten(1).double()
        shared += (stacked @ stacked.T).numpy()
    result: Floats = shared / (count * len(rows))
    return result
