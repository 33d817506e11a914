"""Nearest neighbours of blocks of documents: among all, or within clusters where comparing all pairs takes too long.

Clusters come from k-means on a sample; then every document goes to its nearest centroid. The neighbours of all
documents of a cluster are searched for together in the nearest clusters, by matrix products.

Shapes: `N` documents, `n` of a block, `m` candidates of a chunk, `C` clusters, `d` dimensions.
"""

from __future__ import annotations

import logging
import math
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperseek._files import atomic_write
from hyperseek._order import best_columns, best_positions
from hyperseek.types import Metric

ROWS = 1024
"""Most documents per block; each core takes one block at a time."""

COLUMNS = 8192
"""Most candidates per chunk; with `ROWS`, 32 MiB of scores."""

Vectors = Tensor | NDArray[np.floating[Any]]

logger = logging.getLogger(__name__)

_SAMPLE = 64  # sampled documents per cluster
_ROUNDS = 8  # of k-means
_PROBES = 64  # clusters in which neighbours are searched for


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


def building_bytes(count: int, dimension: int) -> int:
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
