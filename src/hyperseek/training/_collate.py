"""From drawn examples to the tensors of a batch: distinct documents, each encoded once.

Shapes: `Q` queries, `D` distinct documents of the batch, `n` items of each query, `P` known positives.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor

from hyperseek.models import Retriever
from hyperseek.models.retriever import Side
from hyperseek.runs.arguments import is_distributed
from hyperseek.training._cache import FeatureCache
from hyperseek.training._training_set import Drawn, TrainingSet
from hyperseek.training.losses import NO_DOCUMENT


class Batch(TypedDict):
    """What the data loader yields.

    Attributes:
        query: Features of the `Q` queries.
        document: Features of the `D` documents.
        numbers: `(D,)` numbers of the documents.
        items: `(Q, n)` positions among the `D` documents.
        known: `(Q, P)` numbers of the queries' positives.
        spared: `(Q, S)` numbers of all documents that are never their negatives, the positives included.
        scores: `(Q, n)` teacher scores, NaN where there is none.
        base_query: Features of the `Q` queries before training, or None.
        base_document: Features of the `D` documents before training, or None.
    """

    query: dict[str, Any]
    document: dict[str, Any]
    numbers: Tensor
    items: Tensor
    known: Tensor
    spared: Tensor
    scores: Tensor
    base_query: dict[str, Tensor] | None
    base_document: dict[str, Tensor] | None


@dataclass(frozen=True, slots=True)
class SideFeatures:
    """Where one side's features come from: a cache of the frozen prefix, or the tokeniser.

    Attributes:
        retriever: The model.
        side: The route.
        cache: Features after the frozen prefix; None to tokenise texts.
        base: Features before training; None where no loss reads them.
    """

    retriever: Retriever
    side: Side
    cache: FeatureCache | None = None
    base: FeatureCache | None = None

    def features(self, texts: Sequence[str]) -> dict[str, Any]:
        """Return the features that training goes on from, on the CPU."""
        if self.cache is not None:
            return self.cache.features(texts)
        return self.retriever.tokenize(texts, self.side)

    def base_features(self, texts: Sequence[str]) -> dict[str, Tensor] | None:
        """Return features before training, or None."""
        return None if self.base is None else self.base.features(texts)

    def ensure(self, texts: Sequence[str]) -> None:
        """Fill the caches."""
        for cache in (self.cache, self.base):
            if cache is not None:
                cache.ensure(texts)


class Collator:
    """Make a batch of drawn examples.

    Args:
        training_set: Where document numbers lead to texts.
        query: Features of queries.
        document: Features of documents.
        extra_documents: How many further documents of the training set every query is scored with: cheap negatives
            where documents are cached.
    """

    def __init__(
        self, training_set: TrainingSet, query: SideFeatures, document: SideFeatures, *, extra_documents: int = 0
    ) -> None:
        self._set = training_set
        self._query = query
        self._document = document
        self._extra = extra_documents

    def __call__(self, drawn: Sequence[Drawn]) -> Batch:
        """Make the batch.

        Args:
            drawn: At least one example.

        Returns:
            Its tensors, on the CPU.
        """
        numbers = self._numbers(drawn)
        places = {number: place for place, number in enumerate(numbers)} | {NO_DOCUMENT: NO_DOCUMENT}
        documents = [self._set.documents[number] for number in numbers]
        queries = [example.query for example in drawn]
        return {
            "query": self._query.features(queries),
            "document": self._document.features(documents),
            "numbers": torch.tensor(numbers),
            "items": _padded([[places[number] for number in example.items] for example in drawn], NO_DOCUMENT),
            "known": _padded([_of_batch(self._set.known(query), places) for query in queries], NO_DOCUMENT),
            "spared": _padded([_of_batch(self._set.spared(query), places) for query in queries], NO_DOCUMENT),
            "scores": _padded(
                [[torch.nan if label is None else float(label) for label in example.labels] for example in drawn],
                torch.nan,
            ),
            "base_query": self._query.base_features(queries),
            "base_document": self._document.base_features(documents),
        }

    def _numbers(self, drawn: Sequence[Drawn]) -> list[int]:
        numbers = dict.fromkeys(number for example in drawn for number in example.items if number != NO_DOCUMENT)
        if self._extra:
            draw = random.Random(drawn[0].draw)
            numbers |= dict.fromkeys(draw.choices(range(len(self._set.documents)), k=self._extra))
        # A batch of anchor queries alone still needs something to score.
        return list(numbers) or [0]


def _of_batch(numbers: frozenset[int], places: Mapping[int, int]) -> list[int]:
    # Some queries have hundreds; other processes' documents are the only reason to keep those not in the batch.
    return sorted(numbers if is_distributed() else numbers & places.keys())


def _padded(rows: Sequence[Sequence[float]], fill: float) -> Tensor:
    width = max(1, *(len(row) for row in rows))
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])
