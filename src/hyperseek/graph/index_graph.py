"""The neighbour graph as a structure of an index, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from hyperseek._files import new_array
from hyperseek.engines import CandidateRequest, Documents, Structure, StructureConfig, StructureEstimate
from hyperseek.engines.structure import Ranking
from hyperseek.graph._graph import NeighbourGraph
from hyperseek.graph._search import GraphSearchConfig, graph_search
from hyperseek.graph.building import COLUMNS, QUERIES_TOGETHER, ROWS, GraphInfo, choose_method, clustering_bytes
from hyperseek.scoring import Scorer, Space, vectors_of

_FOLDER = "graph"
_CHUNK = 8192  # documents written at once
_CANDIDATES = (16, 64, 328)  # values of `ncandidates` that tuning tries


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
    clusters = 0 if choose_method(method, count) == "exact" else clustering_bytes(count, dimension)
    return GraphEstimate(disk + count * (QUERIES_TOGETHER + 4), compared + clusters, disk)


class GraphConfig(StructureConfig):
    """Walk a graph that links every document to those nearest to it; scores few of them, by any scorer.

    Attributes:
        kind: `graph`.
        degree: Neighbours of a document.
        method: `exact` takes time that grows with the square of the number of documents; `auto` is exact up to 100,000.
        seed: Seed of the clusters of an approximate graph.
        level: For points with levels, the one whose points are linked; None for the narrowest.
        source: A JSONL file of the original Hypencoder to import instead; its path is not kept.
    """

    kind: Literal["graph"] = "graph"
    degree: int = Field(default=99, ge=1)
    method: Literal["auto", "exact", "approximate"] = "auto"
    seed: int = 0
    level: int | None = None
    source: str | None = Field(default=None, exclude=True)

    def of_level(self, space: Space, level: int) -> Self:
        """Return the configuration of a graph of one level's points."""
        return self.model_copy(update={"level": level})


class Graph(Structure):
    """A neighbour graph of an index, open for search.

    Args:
        graph: The graph.
    """

    config_type = GraphConfig
    automatic: ClassVar[bool] = False  # a walk pays off for few scorers only
    resumable: ClassVar[bool] = True

    def __init__(self, graph: NeighbourGraph) -> None:
        self.graph = graph

    @classmethod
    def build(cls, folder: Path, documents: Documents, config: GraphConfig) -> dict[str, Any]:
        """Build the graph of all documents, or import it."""
        place = folder / _FOLDER
        if config.source is not None:
            NeighbourGraph.import_jsonl(place, config.source, documents.ids.to_pylist())
            return {}
        with _written_vectors(documents, folder, config.level) as vectors:
            NeighbourGraph.build(place, vectors, degree=config.degree, method=config.method, seed=config.seed)
        return {}

    @classmethod
    def open(cls, folder: Path, documents: Documents, config: Any, details: Mapping[str, Any]) -> Self:
        """Open the graph."""
        return cls(NeighbourGraph.open(folder / _FOLDER))

    def search(
        self, request: CandidateRequest, *, effort: int | None = None, walk: GraphSearchConfig | None = None
    ) -> list[Ranking]:
        """Walk along the graph.

        Args:
            request: The queries, and what may be found.
            effort: Documents whose neighbours are scored in each iteration; None for that of `walk`.
            walk: How far to walk; None for the original's parameters.

        Returns:
            One ranking, by exact scores.
        """
        config = walk or GraphSearchConfig()
        found = graph_search(
            request.scorer,
            request.points,
            self.graph,
            k=request.n,
            config=config if effort is None else config.model_copy(update={"ncandidates": effort}),
            allowed=request.allowed,
        )
        request.notes["scored"] = float(found.scored.float().mean())
        return [(found.scores, found.rows)]

    @classmethod
    def stages(cls, name: str, n: int) -> list[dict[str, Any]]:
        """Return the stage that walks; it ranks by exact scores."""
        return [{"kind": "graph", "name": name}]

    def trials(self, name: str, scorer: Scorer, *, k: int, count: int) -> Iterator[Iterable[list[dict[str, Any]]]]:
        """Yield walks of both strategies, each wider than the one before."""
        for strategy in ("greedy", "best_first"):
            walks = [{"ncandidates": candidates, "strategy": strategy} for candidates in _CANDIDATES]
            yield [[{"kind": "graph", "name": name, "walk": walk}] for walk in walks]

    @classmethod
    def estimate(cls, space: Space, config: GraphConfig, *, count: int) -> StructureEstimate:
        """Estimate the cost of a graph; the time to build it is unknown."""
        cost = estimate_graph(count=count, dimension=space.width, degree=config.degree, method=config.method)
        return StructureEstimate(cost.memory_bytes, cost.building_bytes, cost.disk_bytes, None)

    @classmethod
    def verify(cls, folder: Path, details: Mapping[str, Any]) -> None:
        """Compare all bytes of the graph with what was written; StoreError names a file that differs."""
        GraphInfo.read(graph := folder / _FOLDER).check(graph)


@contextmanager
def _written_vectors(documents: Documents, folder: Path, level: int | None) -> Iterator[npt.NDArray[np.float32]]:
    """Write vectors whose Euclidean neighbours are those that the graph should have, and remove the file afterwards.

    These are the stored points in flat spaces, ball coordinates in hyperbolic ones and encodings of token sets.

    Args:
        documents: The documents of the index.
        folder: Where to write.
        level: Level of the points; None for the only one, or the narrowest.

    Yields:
        `(N, e)` float32, memory-mapped.
    """
    space, path = documents.space, folder / "vectors.npy"
    parameters: dict[str, Any] = {} if level is None else {"level": level}
    chart = None if space.neighbour_chart is None else space.chart(space.neighbour_chart, **parameters)
    matrix = None
    start = 0
    try:
        for chunk in documents.chunks(min(_CHUNK, documents.chunk_rows)):
            lifted = vectors_of(chunk) if chart is None else chart.lift_documents(chunk)
            if matrix is None:
                shape = (len(documents), lifted.shape[1])
                matrix = new_array(path, np.float32, shape)
            matrix[start : start + len(lifted)] = lifted.numpy()
            start += len(lifted)
        yield np.empty((0, space.width), np.float32) if matrix is None else matrix
    finally:
        path.unlink(missing_ok=True)
