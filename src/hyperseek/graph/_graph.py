"""The neighbour graph of a corpus, in a folder: a memory-mapped matrix of rows and a description.

Shapes: `N` documents, `d` dimensions.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from hyperseek._checksums import CHECKED_AT_ONCE
from hyperseek._errors import StoreError
from hyperseek._tensors import read_array
from hyperseek.graph._building import (
    DESCRIPTION,
    MATRIX,
    REMEDY,
    build_graph,
    check_graph_files,
    read_graph_info,
)
from hyperseek.graph._import import import_graph
from hyperseek.graph._info import GraphInfo
from hyperseek.graph._nearest import Vectors
from hyperseek.scoring._geometries import Metric


class NeighbourGraph:
    """For every document the rows of those nearest to it.

    Args:
        info: The description.
        neighbours: `(N, degree)` int32, see `neighbours`.
    """

    def __init__(self, info: GraphInfo, neighbours: NDArray[np.int32]) -> None:
        self.info = info
        self.neighbours = neighbours
        """`(N, degree)` int32: rows, nearest first, never the document's own; -1 after the last one. Read-only."""

    @classmethod
    def build(
        cls,
        folder: str | os.PathLike[str],
        vectors: Vectors,
        *,
        degree: int = 99,
        metric: Metric = "l2",
        method: Literal["auto", "exact", "approximate"] = "auto",
        seed: int = 0,
    ) -> Self:
        """Build the graph of a corpus; a killed run goes on when it is called again in the same way.

        Memory stays bounded beside the vectors, which may be a memory-mapped file: see `estimate_graph`.

        Args:
            folder: Where to write; made if missing. A graph of the same vectors and arguments that is there is opened.
            vectors: `(N, d)` floating.
            degree: Neighbours of a document, at least 1; the original's are 99.
            metric: What nearest means.
            method: `"exact"` compares all pairs; `"approximate"` looks in the 64 nearest clusters of a document's
                own, of 4 sqrt(N); `"auto"` is exact up to 100,000 documents.
            seed: Of the clusters.

        Returns:
            The graph.

        Raises:
            InputError: The vectors are no finite floating matrix, or an argument is out of range.
            StoreError: The folder holds another graph.
        """
        build_graph(Path(folder), vectors, degree=degree, metric=metric, method=method, seed=seed)
        return cls.open(folder)

    @classmethod
    def import_jsonl(cls, folder: str | os.PathLike[str], path: str | os.PathLike[str], ids: Sequence[str]) -> Self:
        """Take over a graph that the original Hypencoder wrote.

        Args:
            folder: Where to write; made if missing.
            path: One `{"item_id": ID, "neighbors": [IDS]}` a line, nearest first; plain or `.gz`. A document among its
                own neighbours is dropped; a document without a line gets no neighbours.
            ids: `N` ids of the documents, in the order of their rows.

        Returns:
            The graph, of as many columns as the longest list has ids.

        Raises:
            DataError: A line is no such object, names an unknown id, or is the second one of a document.
            InputError: `ids` holds an id twice.
            StoreError: The folder holds another graph.
        """
        import_graph(Path(folder), Path(path), ids)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Self:
        """Open a graph; the matrix is not read but mapped into memory.

        Args:
            folder: What `build` or `import_jsonl` wrote.

        Returns:
            The graph.

        Raises:
            StoreError: It is missing, unfinished or damaged.
        """
        path = Path(folder)
        missing = next((name for name in (DESCRIPTION, MATRIX) if not (path / name).exists()), None)
        if missing is not None:
            raise StoreError(f"{path} holds no finished graph ({missing} is missing); build it")
        info = read_graph_info(path)
        check_graph_files(path, info, at_most=CHECKED_AT_ONCE)
        neighbours = read_array(path / MATRIX, "the matrix of a graph", error=StoreError, remedy=REMEDY)
        if neighbours.shape != (info.count, info.degree) or neighbours.dtype != np.int32:
            raise StoreError(
                f"the graph in {path} should be int32 of shape {(info.count, info.degree)}, but is "
                f"{neighbours.dtype} of shape {neighbours.shape}; delete the folder and build again"
            )
        return cls(info, np.asarray(neighbours))

    def __len__(self) -> int:
        return self.info.count

    @property
    def degree(self) -> int:
        """Most neighbours of a document."""
        return self.info.degree

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix, on disk and, once read, in the page cache."""
        return self.neighbours.nbytes
