from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hyperseek.graph import NeighbourGraph
from hyperseek.graph.building import GraphInfo
from hyperseek.scoring import Points, QNetScorer, Scorer, Space, VectorPoints

ROOT = Path(__file__).parents[2]


class TableScorer(Scorer):
    """Scores documents by looking them up: the first number of a point is its row."""

    kind = "test-graph-table"

    def __init__(self, table: Tensor) -> None:
        self.space = Space("dot", 1)
        self.table = table

    def score(self, points: Points) -> Tensor:
        return self.table[:, points.vectors[:, 0].long()]

    def score_own(self, documents: Tensor) -> Tensor:
        return self.table.gather(1, documents[..., 0].long())

    def linear(self) -> None:
        return None

    def tensors(self) -> dict[str, Tensor]:
        return {"table": self.table}

    def config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> TableScorer:
        return cls(tensors["table"])


def row_points(count: int) -> Points:
    """Points for a TableScorer."""
    return VectorPoints(torch.arange(count, dtype=torch.float32)[:, None])


def graph_of(lists: Sequence[Sequence[int]]) -> NeighbourGraph:
    """A graph in memory."""
    degree = max((len(rows) for rows in lists), default=0)
    neighbours = np.full((len(lists), degree), -1, dtype=np.int32)
    for row, own in enumerate(lists):
        neighbours[row, : len(own)] = own
    return NeighbourGraph(GraphInfo(count=len(lists), degree=degree, method="imported"), neighbours)


def random_qnets(queries: int, dimension: int, depth: int, seed: int = 0) -> QNetScorer:
    """Random q-nets with a linear part."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [dimension] * (depth + 1) + [1]
    return QNetScorer(
        Space("dot", dimension),
        [torch.randn(queries, a, b, generator=generator) / a**0.5 for a, b in pairwise(sizes)],
        [torch.randn(queries, size, 1, generator=generator) for size in sizes[1:-1]],
        converter_kwargs={"vector_dimensions": sizes},
        base=torch.randn(queries, dimension, generator=generator),
    )


def load_reference() -> Any:
    """The literal reimplementation of the original's search, which the benchmark uses too."""
    spec = importlib.util.spec_from_file_location("reference_graph", ROOT / "benchmarks" / "_reference_graph.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ReferenceGraphSearch


class Tools:
    """The helpers above, since test modules cannot import one another."""

    TableScorer = TableScorer
    row_points = staticmethod(row_points)
    graph_of = staticmethod(graph_of)
    random_qnets = staticmethod(random_qnets)


@pytest.fixture(scope="session")
def tools() -> type[Tools]:
    return Tools


@pytest.fixture(scope="session")
def reference() -> Any:
    return load_reference()
