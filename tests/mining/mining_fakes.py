"""A retriever whose scores can be read off the texts, and what mines with it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from hyperseek.data import ExampleItem, TrainingExample
from hyperseek.scoring import LinearScorer, Points, Scorer, Space, VectorPoints
from hyperseek.types import Document, Query

DIMENSION = 4


class ReadableRetriever:
    """The query `about 2` scores the document `0.9@2 0.1@0 any words` with 0.9."""

    def __init__(self, *, fingerprint: str = "f" * 32) -> None:
        self.source = "readable"
        self.fingerprint = fingerprint
        self.space = Space("dot", DIMENSION)
        self.device = torch.device("cpu")
        self.encoded: list[str] = []

    def protocol(self) -> dict[str, Any]:
        return {"prompts": {}, "versions": {}, "query_fingerprint": "q" * 32}

    def encode_documents(self, texts: Sequence[str], *, dtype: str = "auto") -> Points:
        self.encoded.extend(texts)
        vectors = torch.zeros(len(texts), DIMENSION)
        for line, text in zip(vectors, texts, strict=True):
            for value, axis in re.findall(r"(-?[\d.]+)@(\d)", text):
                line[int(axis)] = float(value)
        return VectorPoints(vectors)

    def compile(self, queries: Sequence[str], options: Any = None) -> Scorer:
        return LinearScorer.concatenate(list(self.compile_batches(queries, options)))

    def compile_batches(self, queries: Sequence[str], options: Any = None) -> Iterator[Scorer]:
        for start in range(0, len(queries), 3):
            axes = [int(re.findall(r"\d", query)[0]) for query in queries[start : start + 3]]
            yield LinearScorer(self.space, torch.eye(DIMENSION)[axes])


class ReadableTeacher:
    """Scores a document by the number after `!`; remembers what it was asked."""

    name = "readable teacher"

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        self.asked.extend(pairs)
        return [float(re.findall(r"!(-?[\d.]+)", text)[0]) for _, text in pairs]


def documents(texts: dict[str, str]) -> list[Document]:
    return [Document(identity, text) for identity, text in texts.items()]


def example(
    query: str,
    positives: dict[str, str],
    negatives: dict[str, str] | None = None,
    *,
    name: str = "q",
    source: str = "c",
    relevant: Sequence[str] = (),
    grade: int | None = None,
) -> TrainingExample:
    return TrainingExample(
        Query(f"{source}/{name}", query),
        tuple(ExampleItem(f"{source}/{identity}", text) for identity, text in positives.items()),
        tuple(ExampleItem(f"{source}/{key}", text, None, grade) for key, text in (negatives or {}).items()),
        source,
        relevant=tuple(f"{source}/{identity}" for identity in relevant),
    )
