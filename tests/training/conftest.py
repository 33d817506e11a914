"""Batches whose scores are given outright: a linear scorer over the unit vectors scores what it is made of."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperseek.data import Dataset, write_beir
from hyperseek.models import ModelConfig, Retriever, build
from hyperseek.scoring import LinearScorer, Points, Space, VectorPoints
from hyperseek.training import Recipe, ScoredBatch
from hyperseek.training._training_set import Example, TrainingSet
from hyperseek.training.losses import NO_DOCUMENT
from hyperseek.types import Document, Query

WORDS = "net query document vector index neural small deep word text page cat dog bird fish sea sun moon tree"


def _scored(scores: Tensor) -> tuple[LinearScorer, Points]:
    return LinearScorer(Space("dot", scores.shape[1]), scores), VectorPoints(torch.eye(scores.shape[1]))


@pytest.fixture
def make_batch() -> Callable[..., ScoredBatch]:
    """Make a batch from a (Q, D) matrix of scores; by default items are the documents in order, item 0 is known."""

    def make(
        scores: Tensor,
        *,
        items: Tensor | None = None,
        known: Tensor | None = None,
        labels: Tensor | None = None,
        base: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> ScoredBatch:
        queries, count = scores.shape
        items = torch.arange(count).view(queries, -1) if items is None else items
        documents = torch.arange(count) + 100 if documents is None else documents
        if known is None:
            known = torch.where(items[:, :1] >= 0, documents[items[:, :1].clamp_min(0)], NO_DOCUMENT)
        scorer, points = _scored(scores)
        return ScoredBatch(
            scorer=scorer,
            points=points,
            documents=documents,
            items=items,
            known=known,
            labels=torch.full(items.shape, torch.nan) if labels is None else labels,
            base_scorer=None if base is None else _scored(base)[0],
        )

    return make


@pytest.fixture(scope="session")
def toy_texts() -> tuple[list[str], list[str]]:
    """40 documents of random words, and for each a query of three of its words."""
    draw = random.Random(0)
    documents = [" ".join(draw.sample(WORDS.split(), 12)) for _ in range(40)]
    return documents, [" ".join(draw.sample(document.split(), 3)) for document in documents]


@pytest.fixture
def toy_set(toy_texts: tuple[list[str], list[str]]) -> TrainingSet:
    """One example for each of the first 32 toy queries, with two negatives that have teacher scores."""
    documents, queries = toy_texts
    training_set = TrainingSet(negatives=1, seed=3)
    source = training_set.add_source("toy", documents)
    for place, query in enumerate(queries[:32]):
        others = ((place + 1) % 40, (place + 7) % 40)
        scores = {place: 3.0, others[0]: 1.0, others[1]: 0.0}
        training_set.add(Example(query, (place,), others, scores, source))
    return training_set


@pytest.fixture
def make_retriever(tiny_encoder: str) -> Callable[..., Retriever]:
    """Build a retriever on the tiny encoder; by default a warm-started q-net of one hidden layer."""

    def make(**options: Any) -> Retriever:
        values = {"trunk": tiny_encoder, "family": "qnet", "normalize": True, "pooling": "mean", **options}
        return build(ModelConfig.from_mapping(values), device="cpu")

    return make


@pytest.fixture(scope="session")
def collection(toy_texts: tuple[list[str], list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy documents as a BEIR folder: 28 training queries, 12 for dev."""
    documents, queries = toy_texts
    qrels = {f"q{place}": {f"d{place}": 1} for place in range(40)}
    dataset = Dataset.from_records(
        "toy",
        [Document(f"d{place}", text) for place, text in enumerate(documents)],
        queries=[Query(f"q{place}", text) for place, text in enumerate(queries)],
        qrels={
            "train": dict(list(qrels.items())[:28]),
            "dev": dict(list(qrels.items())[28:]),
        },
    )
    folder = tmp_path_factory.mktemp("collections") / "toy"
    write_beir(dataset, folder)
    return folder


@pytest.fixture
def make_recipe(tiny_encoder: str, collection: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """Make a small recipe; keyword arguments replace values of sections."""

    def make(**changes: dict[str, Any]) -> Recipe:
        values: dict[str, Any] = {
            "model": {"trunk": tiny_encoder, "family": "qnet", "pooling": "mean", "normalize": True},
            "data": {"sources": {"toy": {"source": f"{collection}:train"}}},
            "losses": {"contrastive": {"temperature": 0.1}},
            "train": {
                "max_steps": 6,
                "batch_size": 8,
                "learning_rate": 1e-3,
                "save_every": 2,
                "device": "cpu",
                "cache": {"folder": str(tmp_path / "cache"), "storage": "float32", "dtype": "float32"},
            },
            "output": {"report_to": []},
        }
        for section, change in changes.items():
            values[section] = {**values.get(section, {}), **change}
        return Recipe.from_mapping(values)

    return make


@pytest.fixture
def dev(collection: Path) -> dict[str, Any]:
    """A validation section."""
    return {"sets": {"toy": {"source": f"{collection}:dev"}}, "every": 2, "metric": "nDCG@10"}
