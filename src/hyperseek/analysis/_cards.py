"""Looking at a task card: what a model makes of it, and which queries gain or lose by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from hyperseek.cards import Card
from hyperseek.data import Dataset
from hyperseek.errors import InputError
from hyperseek.evaluation import bootstrap_intervals, calculate, paired_test
from hyperseek.index import Index
from hyperseek.models import Retriever
from hyperseek.types import Query, QueryOptions

_ROUNDING = 1e-6  # of a vector's length: normalising it again changes it by less


@dataclass(frozen=True, slots=True)
class HeadChange:
    """How far a card's head is from the identity, on some queries.

    Attributes:
        texts: How many queries.
        length: Mean length of the change of a query vector, relative to the vector.
        angle: Mean angle between a vector before and after, in degrees.
        largest_angle: The largest.
        common: Share of the squared change that is one vector for all queries, from 0 to 1: 1 is a mere shift.
    """

    texts: int
    length: float
    angle: float
    largest_angle: float
    common: float


@dataclass(frozen=True, slots=True)
class QueryChange:
    """A query without and with the card.

    Attributes:
        id: Its id.
        text: The query.
        overlap: Share of the best documents that both rankings have.
        before: nDCG without the card; None without judgements.
        after: nDCG with the card.
    """

    id: str
    text: str
    overlap: float
    before: float | None = None
    after: float | None = None

    @property
    def gain(self) -> float:
        """Difference of nDCG; 0 without judgements."""
        return 0.0 if self.before is None or self.after is None else self.after - self.before


@dataclass(frozen=True, slots=True)
class CardReport:
    """What a model makes of a card.

    Attributes:
        card: Its name.
        fingerprint: Of its content.
        confidence: From 0, which leaves queries as they are, to 1.
        nearest: Tasks of the training with their distances, nearest first.
        farthest: The largest distance of a task of the training to its nearest other one; None for fewer than two.
        change: How far the head is from the identity; None for a head that leaves the space.
        k: Documents of the compared rankings; None without an index.
        measure: nDCG at that depth, if the queries are judged.
        queries: What each query gains or loses, the largest gain first; without judgements the most changed first.
        difference: Mean gain; None without judgements.
        interval: 95 % bootstrap interval of it.
        p_value: Two-sided, of a paired permutation test.
    """

    card: str
    fingerprint: str
    confidence: float
    nearest: list[tuple[str, float]]
    farthest: float | None
    change: HeadChange | None
    k: int | None = None
    measure: str | None = None
    queries: tuple[QueryChange, ...] = ()
    difference: float | None = None
    interval: tuple[float, float] | None = None
    p_value: float | None = None

    @property
    def is_unlike(self) -> bool:
        """Whether the card is farther from all tasks of the training than these are from each other."""
        return bool(self.nearest and self.farthest is not None and self.nearest[0][1] > self.farthest)

    @property
    def gained(self) -> list[QueryChange]:
        """The queries that gain, most first."""
        return [query for query in self.queries if query.gain > 0]

    @property
    def lost(self) -> list[QueryChange]:
        """The queries that lose, most first."""
        return [query for query in reversed(self.queries) if query.gain < 0]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "unlike": self.is_unlike}


def inspect_card(
    card: Card,
    model: Retriever,
    *,
    index: Index | None = None,
    dataset: Dataset | None = None,
    split: str = "test",
    k: int = 10,
    exclude_same_id: bool = False,
) -> CardReport:
    """Describe what a model makes of a card.

    Args:
        card: The card.
        model: A model with cards.
        index: An index of the model's trunk, whose rankings with and without the card are compared.
        dataset: Queries with judgements of the index' documents; None asks with the card's own example queries.
        split: Split of the judgements.
        k: Documents of a ranking, at least 1.
        exclude_same_id: Leave out of a ranking the document whose id is the query's.

    Returns:
        The report.

    Raises:
        InputError: The model has no cards, or neither the card nor a data set has a query to ask an index with.
        FingerprintError: The index was made by another document side.
        UnknownNameError: There is no such split.
    """
    head: Any = model.route("query")[-1]
    if not hasattr(head, "nearest_tasks"):
        raise InputError(f"the model {model.source!r} has no task cards; give one of the family 'card'")
    judged = [] if dataset is None else dataset.queries(split)
    own = [*card.query_examples, *(pair.query for pair in card.judged)]
    queries = judged or [Query(f"example {number}", text) for number, text in enumerate(dict.fromkeys(own), start=1)]
    texts = [query.text for query in queries] or [card.about]
    report = CardReport(
        card=card.name,
        fingerprint=card.fingerprint,
        confidence=head.confidence(card),
        nearest=head.nearest_tasks(card),
        farthest=head.comparison().farthest,
        change=_change(model, head, card, texts),
    )
    if index is None:
        return report
    if not queries:
        raise InputError(f"the card {card.name!r} has no example queries; give a data set, whose queries ask the index")
    opened = Index.open(index.path, model=model)
    how: dict[str, Any] = {"k": k, "engine": "exact", "exclude_same_id": exclude_same_id}
    before = opened.run(queries, **how)
    after = opened.run(queries, options=QueryOptions(card=card), **how)
    overlaps = {name: len(before[name].keys() & after[name].keys()) / max(1, len(before[name])) for name in before}
    plain = [QueryChange(query.id, query.text, overlaps[query.id]) for query in queries]
    values = asdict(report) | {"change": report.change, "k": k}
    if dataset is None:
        return CardReport(**values | {"queries": tuple(sorted(plain, key=lambda one: one.overlap))})
    measure, qrels = f"nDCG@{k}", dataset.qrels(split)
    first, second = (calculate(run, qrels, measure)[measure] for run in (before, after))
    changes = [QueryChange(one.id, one.text, one.overlap, first[one.id], second[one.id]) for one in plain]
    gains = np.array([one.gain for one in changes])
    low, high = bootstrap_intervals(gains)[0].tolist()
    return CardReport(
        **values
        | {
            "measure": measure,
            "queries": tuple(sorted(changes, key=lambda one: -one.gain)),
            "difference": float(gains.mean()),
            "interval": (low, high),
            "p_value": float(paired_test("permutation", gains)[0]),
        }
    )


def _change(model: Retriever, head: Any, card: Card, texts: Sequence[str]) -> HeadChange | None:
    """Measure what a card's head does to query vectors."""
    with torch.inference_mode():
        vectors = model.compile(texts).linear()
        if vectors is None:
            return None
        changed = head.changed(vectors, head.compile_card(card))
    if changed.shape != vectors.shape:
        return None
    before, after = vectors.double(), changed.double()
    moves = after - before
    lengths = torch.linalg.vector_norm(moves, dim=1)
    cosines = torch.nn.functional.cosine_similarity(before, after, dim=1).clamp(-1, 1)
    angles = torch.rad2deg(torch.arccos(cosines))
    squared = float(lengths.square().mean())
    relative = lengths / torch.linalg.vector_norm(before, dim=1)
    if float(relative.max()) < _ROUNDING:
        return HeadChange(len(texts), 0.0, 0.0, 0.0, 0.0)
    return HeadChange(
        texts=len(texts),
        length=float(relative.mean()),
        angle=float(angles.mean()),
        largest_angle=float(angles.max()),
        common=float(moves.mean(dim=0).square().sum()) / squared,
    )
