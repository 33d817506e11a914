"""A retriever small enough for a subprocess: it hashes words, and imports neither transformers nor a model."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from hyperseek.scoring import LinearScorer, Points, Scorer, Space, VectorPoints

DIMENSION = 8


class FakeRetriever:
    """Turns a text into the sum of its words' random vectors; equal texts give equal bits in any batch."""

    def __init__(self, *, source: str | None = "fake", fingerprint: str = "f" * 32, space: str = "dot") -> None:
        self.source = source
        self.fingerprint = fingerprint
        self.space = Space(space, DIMENSION)
        self.device = torch.device("cpu")
        self.encoded: list[str] = []

    def protocol(self) -> dict[str, Any]:
        return {"prompts": {}, "versions": {}}

    def encode_documents(self, texts: Sequence[str], *, dtype: str = "auto") -> Points:
        self.encoded.extend(texts)
        vectors = torch.stack([_vector(text) for text in texts]) if texts else torch.empty(0, DIMENSION)
        return VectorPoints(self.space.canonical(vectors))

    def compile(self, queries: Sequence[str], options: Any = None) -> Scorer:
        return LinearScorer.concatenate(list(self.compile_batches(queries, options)))

    def compile_batches(self, queries: Sequence[str], options: Any = None) -> Iterator[Scorer]:
        for start in range(0, len(queries), 3):
            vectors = torch.stack([_vector(query) for query in queries[start : start + 3]])
            yield LinearScorer(self.space, vectors)


def _vector(text: str) -> torch.Tensor:
    total = torch.zeros(DIMENSION)
    for word in text.split():
        total += torch.randn(DIMENSION, generator=torch.Generator().manual_seed(zlib.crc32(word.encode())))
    return total
