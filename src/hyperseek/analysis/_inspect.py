"""The shape of an index in one call: radii, delta, curvature, and a picture of the disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperseek._errors import InputError, require
from hyperseek._files import write_json
from hyperseek.analysis._charts import draw_charts
from hyperseek.analysis._corpus import Specificity, open_hierarchy, read_points, read_specificity
from hyperseek.analysis._delta import delta_hyperbolicity
from hyperseek.analysis._drawing import draw_disk
from hyperseek.analysis._html import write_disk_html
from hyperseek.analysis._metric import HYPERBOLIC, distances, metric_of, radii
from hyperseek.analysis._pictured import fit_disk
from hyperseek.analysis._report import RadiusReport, SpaceReport
from hyperseek.analysis._ricci import estimate_curvature
from hyperseek.analysis._specificity import radius_by_specificity
from hyperseek.analysis._view import View, choose_view
from hyperseek.index import Index
from hyperseek.store._info import Storage

Floats = NDArray[np.float64]

_DELTA_POINTS = 400
# What is left of the differences between equal radii where each number of a vector was rounded, relative.
_ROUNDING: dict[Storage, float] = {"float32": 1e-6, "float16": 2e-3}


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
    """Measure and draw the shape of the space that an index' points are spread in.

    Radii and specificity are those of all documents; delta, curvature and pictures are of samples. What does not make
    sense in the space is left out with the reason: a cosine space has no radii, radii that are all one up to rounding
    say nothing, and only hyperbolic spaces have a disk.

    Args:
        index: The documents and their points.
        by: What specificity is: a metadata field of numbers, `"depth"` in the hierarchy, or `"length"` of the text.
            None takes the depth if there is a hierarchy, else the length.
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
        InputError: The points are sets of tokens, the index has fewer than four documents, or what was asked for by
            name makes no sense here.
        UnknownNameError: There is no such field.
        DataError: The hierarchy cannot be read.
        MissingExtraError: scipy, or matplotlib where something is drawn, is not installed.
    """
    for module in ("scipy.optimize", "scipy.sparse", "scipy.stats"):  # before a minute's work, not behind it
        require(module, extra="eval")
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
    points, lengths = read_points(index, rows, measure)
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
    """Return what measures radii, if the space has any, and what is left out."""
    space, left_out = index.space, {}
    if space.kind not in HYPERBOLIC:
        left_out["disk"] = f"only hyperbolic spaces are drawn as a Poincaré disk, and this is a {space.kind} one"
    if space.kind != "cosine":
        return lambda vectors: radii(space, vectors), left_out
    return None, {**left_out, "radii": _nothing_to_show("all vectors of a cosine space have norm 1", asked=asked)}


def _alike(lengths: Floats, storage: Storage) -> str | None:
    """Say that radii are all one but for the rounding of stored numbers, whose picture would be of nothing."""
    least, greatest = float(lengths.min()), float(lengths.max())
    if greatest - least > _ROUNDING[storage] * greatest:
        return None
    middle = float(np.median(lengths))
    return (
        f"all points are {middle:.3g} from the origin up to the rounding of {storage} ({least:.9g} to {greatest:.9g})"
    )


def _nothing_to_show(alike: str, *, asked: bool) -> str:
    reason = f"{alike}, so that their radii say nothing"
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
    written = [draw_charts(folder / "space.png", report, radii=lengths, curvatures=curvatures)]
    if index.space.kind in HYPERBOLIC:
        disk, fits = fit_disk(index, view, vectors, specificity, seed=seed)
        report = replace(report, disks=fits)
        names = ("disk.png", "disk-hierarchy.png")
        written += [draw_disk(folder / name, disk, layout) for name, layout in zip(names, disk.layouts, strict=False)]
        written.append(write_disk_html(folder / "disk.html", disk))
    files = [folder / "space.json", *(path for path in written if path is not None)]
    report = replace(report, files=files)
    write_json(folder / "space.json", report.to_json())
    return report
