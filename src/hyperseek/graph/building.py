"""Building a graph block by block, so that a killed run resumes where it stopped.

Shapes: `N` documents, `d` dimensions.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from hyperseek._files import new_array, read_array, writing
from hyperseek._fingerprint import fingerprint_json, fingerprint_tensors
from hyperseek._folders import checksum, read_sealed, write_sealed
from hyperseek._long_work import progress, stop_asked, stop_here, stoppable
from hyperseek._machine import run_on_cores
from hyperseek.engines.structure import FolderDescription
from hyperseek.errors import InputError, StoreError
from hyperseek.graph.neighbours import COLUMNS, ROWS, Clusters, Vectors, find_clusters, nearest, read_rows
from hyperseek.graph.neighbours import building_bytes as clusters_building_bytes
from hyperseek.types import Metric

QUERIES_TOGETHER = 32
"""Queries of a search that walk side by side."""

EXACT_UP_TO = 100_000
"""Documents up to which `method="auto"` compares all pairs: about two minutes on two cores."""

MATRIX = "neighbours.npy"
REMEDY = "delete the folder and build the graph again"
_STATE = "building.json"
_CLUSTERS = "clusters.npz"
_COMMIT_EVERY = 5.0  # seconds
_BATCH = 32  # blocks that the cores share; a run may commit after each batch

logger = logging.getLogger(__name__)

_Block = tuple[NDArray[np.integer[Any]], Callable[[], Iterator[NDArray[np.integer[Any]]]]]
"""Rows whose neighbours are wanted, and the rows to search, in chunks."""

Method = Literal["exact", "approximate"]


class GraphInfo(FolderDescription):
    """The content of `graph.json`.

    Attributes:
        format: Version of the folder's layout.
        count: Number of documents.
        degree: Most neighbours of a document.
        method: How the graph was made.
        metric: Metric by which the neighbours are nearest; None for an imported graph, whose file does not say.
        seed: Seed of the clusters of an approximate graph.
        vectors: Fingerprint of the vectors; None for an imported graph.
        ids: Fingerprint of the ids of an imported graph, else None.
    """

    file: ClassVar[str] = "graph.json"
    what: ClassVar[str] = "the description of a graph"
    remedy: ClassVar[str] = REMEDY

    format: Literal[1] = 1
    count: int = Field(ge=0)
    degree: int = Field(ge=0)
    method: Literal["exact", "approximate", "imported"]
    metric: Metric | None = None
    seed: int = 0
    vectors: str | None = None
    ids: str | None = None


@dataclass(frozen=True, slots=True)
class GraphEstimate:
    """What a graph will cost.

    Attributes:
        memory_bytes: Memory of a search: the graph, which is in the page cache and can be read from the disk instead,
            and the marks of what each query has seen.
        building_bytes: Peak memory of building it, without the vectors.
        disk_bytes: Size on disk.
    """

    memory_bytes: int
    building_bytes: int
    disk_bytes: int


def estimate_graph(
    *, count: int, dimension: int, degree: int = 99, method: Literal["auto", "exact", "approximate"] = "auto"
) -> GraphEstimate:
    """Estimate what a graph will cost.

    Args:
        count: `N`.
        dimension: `d`.
        degree: Neighbours of a document.
        method: As for `NeighbourGraph.build`.

    Returns:
        Bytes of memory and disk.
    """
    disk = count * degree * 4 + 128
    cores = torch.get_num_threads()
    compared = cores * 4 * (2 * ROWS * COLUMNS + 4 * (ROWS + COLUMNS) * dimension + 12 * ROWS * degree)
    clusters = 0 if choose_method(method, count) == "exact" else clusters_building_bytes(count, dimension)
    return GraphEstimate(disk + count * (QUERIES_TOGETHER + 4), compared + clusters, disk)


def choose_method(method: Literal["auto", "exact", "approximate"], count: int) -> Method:
    """Resolve `"auto"`; without documents there are no clusters, so an empty graph is exact."""
    if method == "auto" or not count:
        return "exact" if count <= EXACT_UP_TO else "approximate"
    return method


def build_graph(
    folder: Path,
    vectors: Vectors,
    *,
    degree: int,
    metric: Metric,
    method: Literal["auto", "exact", "approximate"],
    seed: int,
) -> None:
    """Write a graph into a folder; see `NeighbourGraph.build`."""
    _check(vectors, degree)
    chosen = choose_method(method, len(vectors))
    if method == "auto":
        logger.info("%s neighbours: there are %d documents", chosen, len(vectors))
    fingerprint, mean = _survey(vectors)
    info = GraphInfo(count=len(vectors), degree=degree, method=chosen, metric=metric, seed=seed, vectors=fingerprint)
    if (folder / info.file).exists():
        _compare(folder, info)
        return
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    done = _done(folder, info)
    matrix = _matrix(folder, info, new=not done)
    exact = chosen == "exact"
    blocks = _exact_blocks(len(vectors)) if exact else _cluster_blocks(_clusters(folder, vectors, info))
    _fill(folder, matrix, vectors, mean, blocks, info, done)
    finish(folder, matrix, info)


def _compare(folder: Path, info: GraphInfo) -> None:
    """Raise StoreError if the folder holds a graph with another description."""
    given, there = info.model_dump(exclude={"files"}), GraphInfo.read(folder).model_dump()
    differing = [f"{key}: {there[key]!r}, now {value!r}" for key, value in given.items() if there[key] != value]
    if differing:
        raise StoreError(f"{folder} holds another graph ({'; '.join(differing)}); delete it or choose another folder")


def finish(folder: Path, matrix: NDArray[np.int32], info: GraphInfo) -> None:
    """Write the description, which makes a complete matrix a graph."""
    _flush(matrix)
    info.model_copy(update={"files": {MATRIX: checksum(folder / MATRIX)}}).write(folder)
    for name in (_STATE, _CLUSTERS):
        (folder / name).unlink(missing_ok=True)


def new_matrix(folder: Path, count: int, degree: int) -> NDArray[np.int32]:
    """Make the file of a matrix, mapped into memory.

    Args:
        folder: Folder of the graph.
        count: Rows.
        degree: Columns.

    Returns:
        The matrix.

    Raises:
        WriteError: There is no room for it.
    """
    return new_array(folder / MATRIX, np.int32, (count, degree))


def _check(vectors: Vectors, degree: int) -> None:
    floating = vectors.is_floating_point() if isinstance(vectors, Tensor) else vectors.dtype.kind == "f"
    if vectors.ndim != 2 or not floating:
        raise InputError(
            f"vectors must be a floating matrix (documents, dimensions), not {vectors.dtype} of shape "
            f"{tuple(vectors.shape)}"
        )
    if degree < 1:
        raise InputError(f"degree must be at least 1, not {degree}")


def _survey(vectors: Vectors) -> tuple[str, Tensor]:
    """Return the fingerprint and the mean of the vectors; InputError if one is not finite."""
    parts = []
    total = torch.zeros(vectors.shape[1], dtype=torch.float64)
    for start in range(0, len(vectors), COLUMNS):
        part = read_rows(vectors, slice(start, start + COLUMNS))
        finite = part.isfinite().all(dim=1)
        if not finite.all():
            row = start + int((~finite).nonzero()[0])
            raise InputError(f"the vector of document {row} (from 0) has infinite or undefined numbers")
        parts.append(fingerprint_tensors([("part", part)]))
        total += part.sum(dim=0, dtype=torch.float64)
    return fingerprint_json([*vectors.shape, *parts]), (total / max(1, len(vectors))).float()


def _done(folder: Path, info: GraphInfo) -> int:
    """Return how many blocks an earlier run with the same description finished; if none, prepare for a new run."""
    path = folder / _STATE
    if path.exists() and (folder / MATRIX).exists():
        blocks = _blocks_done(path, info)
        if blocks is not None:
            return blocks
        logger.info("%s holds the beginning of another graph, or a damaged one; it is replaced", folder)
    # In this order, a run that is killed here leaves no clusters of other vectors.
    (folder / _CLUSTERS).unlink(missing_ok=True)
    write_sealed(path, _state(info, 0))
    return 0


def _blocks_done(path: Path, info: GraphInfo) -> int | None:
    """Return how many blocks of this graph are done; None if the state is damaged or belongs to another graph."""
    try:
        state, intact = read_sealed(path, "the state of a build", remedy=REMEDY)
        matrix = read_array(path.parent / MATRIX, error=StoreError)
    except StoreError:
        return None
    blocks = state.get("blocks")
    same = {**state, "blocks": 0} == _state(info, 0) and matrix.shape == (info.count, info.degree)
    return blocks if intact and same and isinstance(blocks, int) and matrix.dtype == np.int32 else None


def _state(info: GraphInfo, blocks: int) -> dict[str, Any]:
    return {"info": info.model_dump(mode="json"), "rows_of_a_block": ROWS, "blocks": blocks}


def _matrix(folder: Path, info: GraphInfo, *, new: bool) -> NDArray[np.int32]:
    if new:
        return new_matrix(folder, info.count, info.degree)
    return read_array(folder / MATRIX, "the matrix of a graph", mode="r+", error=StoreError, remedy=REMEDY)


def _exact_blocks(count: int) -> list[_Block]:
    def chunks() -> Iterator[NDArray[np.integer[Any]]]:
        for start in range(0, count, COLUMNS):
            yield np.arange(start, min(start + COLUMNS, count))

    return [(np.arange(start, min(start + ROWS, count)), chunks) for start in range(0, count, ROWS)]


def _clusters(folder: Path, vectors: Vectors, info: GraphInfo) -> Clusters:
    path = folder / _CLUSTERS
    clusters = Clusters.load(path, info.count) if path.exists() else None
    if clusters is None:
        assert info.metric is not None
        clusters = find_clusters(vectors, metric=info.metric, seed=info.seed)
        clusters.save(path)
    return clusters


def _cluster_blocks(clusters: Clusters) -> list[_Block]:
    def chunks(cluster: int) -> Iterator[NDArray[np.integer[Any]]]:
        near = np.concatenate([clusters.members(probe) for probe in clusters.probes[cluster]])
        near.sort()
        for start in range(0, len(near), COLUMNS):
            yield near[start : start + COLUMNS]

    return [(rows, lambda cluster=cluster: chunks(cluster)) for cluster, rows in clusters.blocks()]  # type: ignore[misc]


def _fill(
    folder: Path,
    matrix: NDArray[np.int32],
    vectors: Vectors,
    mean: Tensor,
    blocks: list[_Block],
    info: GraphInfo,
    done: int,
) -> None:
    """Find the neighbours of all blocks after the first `done`, and record what is safely on the disk."""
    metric = info.metric
    assert metric is not None
    centre = mean if metric == "l2" else torch.zeros_like(mean)

    def read(rows: NDArray[np.integer[Any]]) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(rows.astype(np.int64)), read_rows(vectors, rows) - centre

    def stored() -> str:
        return f"{done:,} of {len(blocks):,} blocks of the graph are kept in {folder}; run the same again to resume"

    committed = time.monotonic()
    before = sum(len(rows) for rows, _ in blocks[:done])
    showing = progress("building the graph", info.count, unit="documents", done=before)
    with stoppable(stored), showing as bar, torch.inference_mode():
        for first in range(done, len(blocks), _BATCH):
            batch = blocks[first : first + _BATCH]
            pending = iter(batch)

            def work(pending: Iterator[_Block] = pending) -> None:
                for rows, chunks in pending:
                    row_tensor, own = read(rows)
                    others = (read(chunk) for chunk in chunks())
                    matrix[rows] = nearest(own, row_tensor, others, degree=info.degree, metric=metric).numpy()
                    bar.advance(len(rows))

            run_on_cores(work, at_most=len(batch))
            if time.monotonic() - committed > _COMMIT_EVERY or stop_asked():
                _flush(matrix)
                done = first + len(batch)
                write_sealed(folder / _STATE, _state(info, done))
                committed = time.monotonic()
                stop_here()


def _flush(matrix: NDArray[np.int32]) -> None:
    if isinstance(matrix, np.memmap):
        matrix.flush()
