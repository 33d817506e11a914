"""The exact nearest neighbours of a block of documents among streamed candidates.

Shapes: `n` documents of the block, `m` candidates of a chunk, `d` dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperseek.scoring._best import best_columns, best_first
from hyperseek.scoring._geometries import Metric

ROWS = 1024
"""Most documents of a block; each core takes one at a time."""

COLUMNS = 8192
"""Most candidates of a chunk; with `ROWS`, 32 MiB of scores."""

Vectors = Tensor | NDArray[np.floating[Any]]


def read_rows(vectors: Vectors, rows: slice | NDArray[np.integer[Any]]) -> Tensor:
    """Return some rows of vectors, which may lie in a memory-mapped file, as float32 `(n, d)`."""
    if isinstance(vectors, Tensor):
        part = vectors[rows if isinstance(rows, slice) else torch.from_numpy(rows.astype(np.int64))]
        return part.detach().float().cpu()
    return torch.from_numpy(np.array(vectors[rows], dtype=np.float32))


def nearest(
    vectors: Tensor, rows: Tensor, candidates: Iterable[tuple[Tensor, Tensor]], *, degree: int, metric: Metric
) -> Tensor:
    """Find the nearest candidates of every document of a block, itself left out.

    Args:
        vectors: `(n, d)` float32. For `"l2"` all vectors should be centred, which keeps near ties apart.
        rows: `(n,)` int64, their rows.
        candidates: Chunks of rows `(m,)` int64, ascending, and vectors `(m, d)`; no row in two chunks.
        degree: Most neighbours.
        metric: What nearest means.

    Returns:
        `(n, degree)` int64 rows, nearest first, equally near ones by row; -1 where there are too few.
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
        best, found = best_first(torch.cat([best, top], dim=1), torch.cat([found, rows_found], dim=1), degree)
    return found


def _closeness(vectors: Tensor, others: Tensor, metric: Metric) -> Tensor:
    if metric == "inner_product":
        return vectors @ others.T
    # Ranks as minus the distance: |x - y|² = |x|² - 2 (x·y - |y|²/2), and |x|² is one number a row.
    return torch.addmm(others.square().sum(dim=1), vectors, others.T, beta=-0.5)
