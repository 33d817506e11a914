"""Looking at levels: whether they differ, what their radii say, and the paths of texts through them.

Shapes: `n` documents of a sample, `M` levels, `w` numbers of a stored point.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperseek._files import write_json
from hyperseek.analysis._disk import best_scale, project
from hyperseek.analysis._pictures import write_levels_html
from hyperseek.analysis._radii import RadiusReport, SpecificityReport, radius_by_specificity, read_specificity, title_of
from hyperseek.analysis._shape import plain_values
from hyperseek.data.hierarchy import open_hierarchy
from hyperseek.errors import InputError, require
from hyperseek.evaluation.hierarchy_rankings import stored_points
from hyperseek.geometry.polar import split_polar
from hyperseek.index import Index
from hyperseek.scoring import LevelScorer, Space, vectors_of
from hyperseek.store.info import ROUNDING

Floats = NDArray[np.float64]

_EXAMPLES = 6  # texts that are shown if none was chosen
_ASK = 256  # points whose distances to the sample are held at a time


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
        values = {**asdict(self), "space": self.space.to_json(), "files": [str(path) for path in self.files]}
        plain: dict[str, Any] = plain_values(values)
        return plain


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
    folder.mkdir(parents=True, exist_ok=True)
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
