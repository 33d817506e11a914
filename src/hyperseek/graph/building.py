"""Building a graph block by block, so that a killed run resumes where it stopped.

The nearest neighbours of a block of documents are found among all, or within clusters where comparing all pairs takes
too long. Clusters come from k-means on a sample; then every document goes to its nearest centroid. The neighbours of
all documents of a cluster are searched for together in the nearest clusters, by matrix products.

Shapes: `N` documents, `n` of a block, `m` candidates of a chunk, `C` clusters, `d` dimensions.
"""

from __future__ import annotations

import logging
import math
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from hyperseek._files import atomic_write, new_array, read_array, writing
from hyperseek._fingerprint import fingerprint_json, fingerprint_tensors
from hyperseek._folders import checksum, read_sealed, write_sealed
from hyperseek._long_work import progress, stop_asked, stop_here, stoppable
from hyperseek._machine import run_on_cores
from hyperseek._order import best_columns, best_positions
from hyperseek.engines.structure import FolderDescription
from hyperseek.errors import InputError, StoreError
from hyperseek.types import Metric

ROWS = 1024
"""Most documents per block; each core takes one block at a time."""

COLUMNS = 8192
"""Most candidates per chunk; with `ROWS`, 32 MiB of scores."""

Vectors = Tensor | NDArray[np.floating[Any]]

QUERIES_TOGETHER = 32
"""Queries of a search that walk side by side."""

EXACT_UP_TO = 100_000
"""Documents up to which `method="auto"` compares all pairs: about two minutes on two cores."""

MATRIX = "neighbours.npy"
REMEDY = "delete the folder and build the graph again"
_STATE = "building.json"
_CLUSTERS = "clusters.npz"
_COMMIT_EVERY = 5.0  # seconds
_SAMPLE = 64  # sampled documents per cluster
_ROUNDS = 8  # of k-means
_PROBES = 64  # clusters in which neighbours are searched for
_BATCH = 32  # blocks that the cores share; a run may commit after each batch

_Block = tuple[NDArray[np.integer[Any]], Callable[[], Iterator[NDArray[np.integer[Any]]]]]
"""Rows whose neighbours are wanted, and the rows to search, in chunks."""

Method = Literal["exact", "approximate"]

logger = logging.getLogger(__name__)


def read_rows(vectors: Vectors, rows: slice | NDArray[np.integer[Any]]) -> Tensor:
    """Return some rows of vectors, which may be memory-mapped, as float32 `(n, d)`."""
    if isinstance(vectors, Tensor):
        part = vectors[rows if isinstance(rows, slice) else torch.from_numpy(rows.astype(np.int64))]
        return part.detach().float().cpu()
    return torch.from_numpy(np.array(vectors[rows], dtype=np.float32))


def nearest(
    vectors: Tensor, rows: Tensor, candidates: Iterable[tuple[Tensor, Tensor]], *, degree: int, metric: Metric
) -> Tensor:
    """Find the nearest candidates of every document of a block, other than itself.

    Args:
        vectors: `(n, d)` float32. For `"l2"` all vectors should be centred, which keeps near ties apart.
        rows: `(n,)` int64, the documents' rows.
        candidates: Chunks of rows `(m,)` int64, ascending, and vectors `(m, d)`; no row is in two chunks.
        degree: Most neighbours.
        metric: What "nearest" means.

    Returns:
        `(n, degree)` int64 rows, nearest first, equally near ones by row; -1 if there are too few.
    """
    best = torch.full((len(rows), degree), -torch.inf)
    found = torch.full((len(rows), degree), -1)
    for others, their_vectors in candidates:
        scores = _closeness(vectors, their_vectors, metric)
        places = torch.searchsorted(others, rows).clamp_max(len(others) - 1)
        present = (others[places] == rows).nonzero()[:, 0]
        scores[present, places[present]] = -torch.inf
        top, columns = best_columns(scores, degree)
        rows_found = others[columns].masked_fill(top == -torch.inf, -1)
        best, found = best_positions(torch.cat([best, top], dim=1), torch.cat([found, rows_found], dim=1), degree)
    return found


def _closeness(vectors: Tensor, others: Tensor, metric: Metric) -> Tensor:
    if metric == "inner_product":
        return vectors @ others.T
    # This ranks as minus the distance: |x - y|² = |x|² - 2 (x·y - |y|²/2), and |x|² is constant in a row.
    return torch.addmm(others.square().sum(dim=1), vectors, others.T, beta=-0.5)


@dataclass(frozen=True, slots=True)
class Clusters:
    """A division of documents into clusters.

    Attributes:
        order: `(N,)` int32, all rows, cluster by cluster and ascending within a cluster.
        starts: `(C + 1,)` int64, where each cluster begins in `order`.
        probes: `(C, p)` int32, the clusters nearest to each cluster, including itself.
    """

    order: NDArray[np.int32]
    starts: NDArray[np.int64]
    probes: NDArray[np.int32]

    def members(self, cluster: int) -> NDArray[np.int32]:
        """Return the rows of a cluster, ascending."""
        return self.order[self.starts[cluster] : self.starts[cluster + 1]]

    def blocks(self) -> list[tuple[int, NDArray[np.int32]]]:
        """Return all documents in blocks, each of one cluster, with the cluster's number."""
        return [
            (cluster, members[start : start + ROWS])
            for cluster, members in enumerate(map(self.members, range(len(self.probes))))
            for start in range(0, len(members), ROWS)
        ]

    def save(self, path: Path) -> None:
        """Write the clusters to a file, atomically."""
        with atomic_write(path, "wb") as file:
            np.savez(file, order=self.order, starts=self.starts, probes=self.probes)

    @classmethod
    def load(cls, path: Path, count: int) -> Self | None:
        """Read what `save` wrote for `count` documents; None if it is damaged and must be made again."""
        try:
            with np.load(path, allow_pickle=False) as values:
                found = cls(values["order"], values["starts"], values["probes"])
            order, starts, probes = found.order, found.starts, found.probes
            sound = (
                [array.dtype.name for array in (order, starts, probes)] == ["int32", "int64", "int32"]
                and np.array_equal(np.sort(order), np.arange(count))
                and (starts[0], starts[-1]) == (0, count)
                and bool((np.diff(starts) >= 0).all())
                and probes.ndim == 2
                and len(probes) == len(starts) - 1
                and bool(((probes >= 0) & (probes < len(probes))).all())
            )
        except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile, zlib.error, MemoryError):
            return None
        return found if sound else None


def find_clusters(vectors: Vectors, *, metric: Metric, seed: int) -> Clusters:
    """Cluster documents.

    Args:
        vectors: `(N, d)`, `N` at least 1.
        metric: Metric by which clusters are near each other; documents go to centroids by L2.
        seed: Seed of the sample and the first centroids.

    Returns:
        The clusters.
    """
    count = len(vectors)
    centroids = _centroids(vectors, _cluster_count(count), torch.Generator().manual_seed(seed))
    assigned = torch.cat([_assign(read_rows(vectors, part), centroids) for part in _parts(count)])
    order = assigned.argsort(stable=True)
    sizes = torch.bincount(assigned, minlength=len(centroids))
    starts = np.concatenate([[0], sizes.cumsum(0).numpy()]).astype(np.int64)
    logger.info("%d clusters of %d documents on average", len(centroids), count // len(centroids))
    return Clusters(order.to(torch.int32).numpy(), starts, _probes(centroids, metric))


def clustering_bytes(count: int, dimension: int) -> int:
    """Return the approximate peak memory of `find_clusters`."""
    clusters = _cluster_count(count)
    return (
        4 * (min(count, _SAMPLE * clusters) + 3 * clusters + COLUMNS) * dimension + 4 * COLUMNS * clusters + 24 * count
    )


def _cluster_count(count: int) -> int:
    return max(1, min(count, round(4 * math.sqrt(count))))


def _centroids(vectors: Vectors, clusters: int, generator: torch.Generator) -> Tensor:
    chosen = torch.randperm(len(vectors), generator=generator)[: _SAMPLE * clusters].sort().values
    sample = read_rows(vectors, chosen.numpy())
    centroids = sample[torch.randperm(len(sample), generator=generator)[:clusters]].clone()
    for _ in range(_ROUNDS):
        assigned = torch.cat([_assign(sample[part], centroids) for part in _parts(len(sample))])
        sizes = torch.bincount(assigned, minlength=clusters)
        sums = torch.zeros_like(centroids).index_add_(0, assigned, sample)
        used = sizes > 0  # an unused centroid stays where it is
        centroids[used] = sums[used] / sizes[used, None]
    return centroids


def _assign(vectors: Tensor, centroids: Tensor) -> Tensor:
    return torch.addmm(centroids.square().sum(dim=1), vectors, centroids.T, beta=-0.5).argmax(dim=1)


def _probes(centroids: Tensor, metric: Metric) -> NDArray[np.int32]:
    width = min(_PROBES, len(centroids))
    rows = []
    for start in range(0, len(centroids), ROWS):
        part = centroids[start : start + ROWS]
        closeness = part @ centroids.T
        if metric == "l2":
            closeness -= centroids.square().sum(dim=1) / 2
        closeness.diagonal(start).fill_(torch.inf)  # each cluster comes first in its own row
        rows.append(closeness.topk(width, dim=1).indices)
    return torch.cat(rows).to(torch.int32).numpy()


def _parts(count: int) -> list[slice[int, int, Any]]:
    return [slice(start, min(start + COLUMNS, count)) for start in range(0, count, COLUMNS)]


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
