"""The vectors that a neighbour graph is built on, in a file, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hyperseek._tensors import new_array
from hyperseek.store import Snapshot

_CHUNK = 8192


@contextmanager
def written_vectors(snapshot: Snapshot, folder: Path) -> Iterator[npt.NDArray[np.float32]]:
    """Write vectors whose Euclidean neighbours are what a graph should hold, and remove the file afterwards.

    These are the stored points of flat spaces, ball coordinates of hyperbolic ones and encodings of token sets.

    Args:
        snapshot: The documents.
        folder: Where to write.

    Yields:
        `(N, e)` float32, memory-mapped.
    """
    space, path = snapshot.space, folder / "vectors.npy"
    name = "poincare" if "poincare" in space.graph_charts else "inner_product" if space.kind == "tokens" else None
    chart = None if name is None else space.chart(name)
    matrix = None
    start = 0
    try:
        for chunk in snapshot.chunks(min(_CHUNK, snapshot.chunk_rows)):
            lifted = chunk.vectors if chart is None else chart.lift_documents(chunk)
            if matrix is None:
                shape = (len(snapshot), lifted.shape[1])
                matrix = new_array(path, np.float32, shape)
            matrix[start : start + len(lifted)] = lifted.numpy()
            start += len(lifted)
        yield np.empty((0, space.width), np.float32) if matrix is None else matrix
    finally:
        path.unlink(missing_ok=True)
