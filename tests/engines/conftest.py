"""The oracle of all engines, and what tests of several of them need."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperseek.engines import Engine, _qdrant, _qdrant_tokens, build_engine
from hyperseek.engines.structure import parse_structure

sys.path.append(str(Path(__file__).parent))  # for `token_documents`


@pytest.fixture(scope="session")
def oracle() -> Callable[..., tuple[Tensor, Tensor]]:
    """Score all in float64, sort all: best first, equal float32 scores by position."""

    def search(queries: Tensor, vectors: Tensor, k: int, metric: str, allowed: Any = None) -> tuple[Tensor, Tensor]:
        wide, given = vectors.double(), queries.double()[:, None]
        scores = (-(given - wide).square().sum(-1).sqrt() if metric == "l2" else (given * wide).sum(-1)).float()
        if allowed is not None:
            scores[:, ~torch.from_numpy(allowed)] = -torch.inf
        found = scores.sort(dim=1, descending=True, stable=True)
        missing = (0, max(0, k - len(vectors)))
        scores = torch.nn.functional.pad(found.values, missing, value=-torch.inf)[:, :k]
        positions = torch.nn.functional.pad(found.indices, missing, value=-1)[:, :k]
        return scores, positions.masked_fill(scores == -torch.inf, -1)

    return search


@pytest.fixture(scope="session")
def build() -> Callable[..., Engine]:
    """Build an engine from a matrix, some vectors at a time."""

    def make(folder: Path, vectors: Tensor, kind: str, metric: Any, **settings: Any) -> Engine:
        config = parse_structure({"kind": kind, **settings})
        chunks = torch.split(vectors, 7) if len(vectors) else []
        return build_engine(folder, chunks, config, metric=metric, count=len(vectors), dimension=vectors.shape[1])

    return make


class Server:
    """A client of Qdrant that notes what it is asked, in front of the client's own search."""

    def __init__(self) -> None:
        from qdrant_client import QdrantClient

        self.client = QdrantClient(location=":memory:")
        self.created: dict[str, Any] = {}
        self.sent: list[list[Any]] = []
        self.searches: list[Any] = []
        self.asked: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def create_collection(self, collection: str, **settings: Any) -> None:
        self.created[collection] = settings
        self.client.create_collection(collection, **settings)

    def upsert(self, collection: str, *, points: Any, wait: bool) -> None:
        self.sent.append(points.vectors)
        self.client.upsert(collection, points=points, wait=wait)

    def query_batch_points(self, collection: str, *, requests: list[Any]) -> Any:
        self.searches.extend(requests)
        self.asked.append(len(requests))
        plain = [request.model_copy(update={"params": None}) for request in requests]
        return self.client.query_batch_points(collection, requests=plain)

    @property
    def names(self) -> list[str]:
        return sorted(item.name for item in self.client.get_collections().collections)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    """Answer in place of every server of Qdrant."""
    server = Server()
    for module in (_qdrant, _qdrant_tokens):
        monkeypatch.setattr(module, "connect", lambda config: server)
    return server
