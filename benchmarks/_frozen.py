"""Vectors of a frozen encoder as a task: what is trained on, what is measured on, and nothing to encode twice."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from _trees import DATA
from hyperseek.data import open_dataset, read_hierarchy
from hyperseek.index import Index
from hyperseek.models import load
from hyperseek.scoring import vectors_of
from hyperseek.training import ScoredBatch
from hyperseek.training.losses import Objective
from hyperseek.types import Qrels, Run

EDGES = "edges.tsv.gz"
"""File of a hierarchy in the folder of a collection."""

WIDTH = 384
"""Numbers of a vector of MiniLM."""

UNSEEN = "unseen"
"""Settings are chosen on queries of which no relevant document is one of the training."""

TASKS: dict[str, dict[str, Any]] = {
    "ranking": {
        "names": ["medquad", "scifact", "nfcorpus"],
        "report": {"medquad": "test", "scifact": "test", "nfcorpus": "dev"},
        "tune": "medquad:dev",
    },
    "wordnet": {"names": ["wordnet-nouns"], "report": {"wordnet-nouns": "dev"}, "tune": None},
    "icd10": {"names": ["icd10cm-2026"], "report": {"icd10cm-2026": "dev"}, "tune": UNSEEN},
}
"""Tasks of several benchmarks: arguments of `gather`."""


@dataclass(frozen=True)
class Judged:
    """Queries of a split of one collection.

    Attributes:
        name: Of the collection and the split.
        vectors: `(Q, d)`.
        ids: Their names.
        qrels: Judgements.
        start: First document of the collection among those of the task.
        documents: Names of the collection's documents.
    """

    name: str
    vectors: Tensor
    ids: list[str]
    qrels: Qrels
    start: int
    documents: list[str]


@dataclass(frozen=True)
class Task:
    """What to train on and to measure, as vectors of a frozen encoder.

    Attributes:
        documents: `(N, d)` of all collections.
        queries: `(Q, d)` to train on.
        positives: `(Q, P)` rows of relevant documents, -1 behind the last.
        own: `(Q,)` row of the document that a query is made of, neither right nor wrong; -1 without one.
        tune: To choose settings by.
        report: To report on, once.
        depths: `(N,)` edges between each document and the root of its hierarchy; None without one.
    """

    documents: Tensor
    queries: Tensor
    positives: Tensor
    own: Tensor
    tune: tuple[Judged, ...]
    report: tuple[Judged, ...]
    depths: Tensor | None


def encode(texts: Sequence[str], cache: Path) -> Tensor:
    """Return MiniLM's vectors of some queries, from a cache where they are in it."""
    path = cache / f"{hashlib.sha256(chr(0).join(texts).encode()).hexdigest()[:16]}.npy"
    if not path.exists():
        scorer = load("minilm", device="cpu").compile(texts)
        cache.mkdir(parents=True, exist_ok=True)
        linear = scorer.linear()
        assert linear is not None
        np.save(path, linear.numpy())
    return torch.from_numpy(np.load(path))


def gather(names: Sequence[str], report: dict[str, str], indexes: Path, cache: Path, tune: str | None) -> Task:
    """Join collections to a task.

    Args:
        names: Collections, or folders of some, of which the train split is trained on.
        report: Split to report on, by collection.
        indexes: Folder of one MiniLM index a collection, by name.
        cache: Where vectors of queries are kept.
        tune: `COLLECTION:SPLIT` to choose settings by; None takes a tenth of the training queries, which are then
            not trained on; `UNSEEN` takes a tenth of the groups of them that share relevant documents.

    Returns:
        The task.
    """
    documents, queries, positives, own, tuning, reporting = [], [], [], [], [], []
    start = 0
    for place in names:
        data, name = open_dataset(DATA / place), Path(place).name
        index = Index.open(indexes / name)
        vectors = torch.cat([vectors_of(points) for _, points in index.points()])
        ids = index.ids
        rows = {identity: start + row for row, identity in enumerate(ids)}

        def judged(split: str) -> Judged:
            qrels = data.qrels(split)  # noqa: B023
            chosen = [query for query in data.queries(split) if query.id in qrels]  # noqa: B023
            named = {query.id: qrels[query.id] for query in chosen}
            texts = [query.text for query in chosen]
            label = f"{name} {split}"  # noqa: B023
            return Judged(label, encode(texts, cache), list(named), named, start, ids)  # noqa: B023

        trained = judged("train")
        kept = list(range(len(trained.ids)))
        if tune is None or tune == UNSEEN:
            groups = groups_of(trained) if tune == UNSEEN else kept
            held = [row for row in kept if groups[row] % 10 == 0]
            kept = [row for row in kept if groups[row] % 10]
            names_held = [trained.ids[row] for row in held]
            tuning.append(
                replace(
                    trained,
                    vectors=trained.vectors[held],
                    ids=names_held,
                    qrels={query: trained.qrels[query] for query in names_held},
                )
            )
        elif tune.split(":")[0] == name:
            tuning.append(judged(tune.split(":")[1]))
        if name in report:
            reporting.append(judged(report[name]))
        queries.append(trained.vectors[kept])
        for row in kept:
            relevant = [rows[document] for document, score in trained.qrels[trained.ids[row]].items() if score > 0]
            positives.append(torch.tensor(relevant))
            own.append(rows.get(own_document(trained.ids[row]), -1))
        documents.append(vectors)
        start += len(vectors)
    padded = torch.nn.utils.rnn.pad_sequence(positives, batch_first=True, padding_value=-1)
    depths = depths_of(names[0]) if (DATA / names[0] / EDGES).exists() else None
    return Task(
        torch.cat(documents), torch.cat(queries), padded, torch.tensor(own), tuple(tuning), tuple(reporting), depths
    )


def groups_of(judged: Judged) -> list[int]:
    """Return the number of each query's group: queries that share a relevant document, directly or by others."""
    places = {document: place for place, document in enumerate(judged.documents)}
    pairs = np.array(
        [
            (row, len(judged.ids) + places[document])
            for row, query in enumerate(judged.ids)
            for document, score in judged.qrels[query].items()
            if score > 0
        ]
    )
    size = len(judged.ids) + len(judged.documents)
    _, groups = connected_components(coo_array((np.ones(len(pairs)), pairs.T), shape=(size, size)), directed=False)
    return groups[: len(judged.ids)].tolist()  # type: ignore[no-any-return]


def descend(
    head: nn.Module, objective: Objective, batches: Iterable[ScoredBatch], *, rate: float, steps: int, rising: int = 1
) -> None:
    """Train a head and its losses by Adam, with gradients of norm 1 at most.

    Args:
        head: The head.
        objective: The losses.
        batches: At least `steps`; each is asked for after the step before it, so the head as it is then can score it.
        rate: The learning rate, which falls to zero in all steps.
        steps: How many.
        rising: Steps at the beginning in which the rate rises.
    """
    parameters = [p for module in (head, objective) for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / rising) * (1 - step / steps)
    )
    head.train()
    for batch in itertools.islice(batches, steps):
        total, _ = objective(batch)
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    head.eval()


def mean(values: dict[str, float]) -> float:
    """Return the mean of all queries' values."""
    return sum(values.values()) / len(values)


def best_documents(scores: Tensor, names: Sequence[str], documents: Sequence[str]) -> Run:
    """Return the best documents of each query, at least ten where there are as many, without the one it is made of.

    Args:
        scores: `(Q, N)`.
        names: Of the `Q` queries.
        documents: Names of the `N` documents.
    """
    values, places = scores.topk(min(12, len(documents)))
    found: Run = {}
    for name, best, rows in zip(names, values.tolist(), places.tolist(), strict=True):
        ranking = {documents[row]: score for row, score in zip(rows, best, strict=True)}
        ranking.pop(own_document(name), None)
        found[name] = ranking
    return found


def own_document(query: str) -> str:
    """Return the name of the document that a query of a hierarchy is made of."""
    return query.removeprefix("q-")


def depths_of(name: str) -> Tensor:
    """Return how many edges each document of a hierarchy lies below the nearest root."""
    depths = read_hierarchy(DATA / name / EDGES).depths
    return torch.tensor([depths.get(document.id, 0) for document in open_dataset(DATA / name).documents()])
