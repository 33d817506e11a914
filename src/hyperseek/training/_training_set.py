"""Examples in memory, the draws of an epoch, and the tensors of a batch.

The draws of an epoch depend only on the seed, the epoch and the example: not on the number of workers or processes,
nor on where a run was interrupted. Each distinct document of a batch is encoded once.

Shapes: `Q` queries, `D` distinct documents of the batch, `n` items per query, `P` known positives, `S` spared
documents.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hyperseek._ancestors import hop_range
from hyperseek._relevance import Relevance, text_key
from hyperseek.errors import DataError
from hyperseek.runs.recipe import is_distributed
from hyperseek.training.losses import NO_DOCUMENT, Material

if TYPE_CHECKING:  # the cache reads recipes, which read the compositions of batches
    from hyperseek.training._cache import SideFeatures

Index = tuple[int, int]
"""Epoch and position of an example, as the sampler passes them to the data loader."""


@dataclass(frozen=True, slots=True)
class Example:
    """A query and its documents, by number.

    Attributes:
        query: Text.
        positives: Numbers of relevant documents; empty for a query that only the anchor loss reads.
        negatives: Numbers of other documents.
        scores: Teacher scores by document number.
        source: Position of the source it came from.
        coarse: Numbers of coarse positives, the coarsest first.
        hops: How far above the query positives are in a hierarchy, by document number.
        weight: How much it counts in losses that weigh examples, above 0.
    """

    query: str
    positives: tuple[int, ...]
    negatives: tuple[int, ...]
    scores: Mapping[int, float]
    source: int
    coarse: tuple[int, ...] = ()
    hops: Mapping[int, int] = field(default_factory=dict)
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Drawn:
    """One example's contribution to a batch of one epoch.

    Attributes:
        query: Text.
        items: Numbers of documents, the positive first; `NO_DOCUMENT` for a query without one.
        labels: Teacher scores in the same order; None if missing.
        draw: A random number for further draws, different for each epoch and example.
        coarse: Number of the coarse positive; `NO_DOCUMENT` for none.
        source: Position of the source it came from.
        weight: How much it counts.
    """

    query: str
    items: tuple[int, ...]
    labels: tuple[float | None, ...]
    draw: int
    coarse: int = NO_DOCUMENT
    source: int = 0
    weight: float = 1.0


class TrainingSet(Dataset[Drawn]):
    """All examples of all sources over one table of distinct documents.

    Documents whose texts differ only in case, blanks or Unicode form keep separate numbers, since a model may read
    them differently, but share relevance (see `hyperseek._relevance`).

    Args:
        positives: `first` always takes an example's first positive, `random` draws one every epoch.
        negatives: How many of an example's own negatives an epoch draws; fewer if it has fewer.
        seed: Seed of every draw.
        hops: The weight of each range of hops, of which a random positive's is drawn first; None for no ranges.
            Positives without hops are as those one hop away.
    """

    def __init__(
        self,
        *,
        positives: Literal["first", "random"] = "random",
        negatives: int = 0,
        seed: int = 0,
        hops: Mapping[str, float] | None = None,
    ) -> None:
        self.documents: list[str] = []
        self._keys: list[int] = []  # of the documents' texts
        self.examples: list[Example] = []
        self.sources: list[str] = []
        # Positions of examples that are in a slice too, by those of their copies there.
        self.copies: dict[int, int] = {}
        # By key of the text: the first document with it, and its variants.
        self._first: dict[int, int] = {}
        self._others: dict[int, list[int]] = {}
        self._known: dict[int, set[int]] = {}
        self._relevance = Relevance()
        self._choice = positives
        self._negatives = negatives
        self._seed = seed
        self._hops = hops

    def add_source(self, name: str, pool: Iterable[str] = ()) -> int:
        """Begin a source.

        Args:
            name: For logs and records.
            pool: Texts of documents that may be drawn as extra documents, in addition to those of the examples.

        Returns:
            Its position.
        """
        self.sources.append(name)
        for text in pool:
            self.number(text)
        return len(self.sources) - 1

    def number(self, text: str) -> int:
        """Return the number of a document; equal texts are one document, even from different sources."""
        key, new = text_key(text), len(self.documents)
        first = self._first.setdefault(key, new)
        if first != new:
            for number in self._written(key):
                if self.documents[number] == text:
                    return number
            self._others.setdefault(key, []).append(new)
        self.documents.append(text)
        self._keys.append(key)
        return new

    def key(self, number: int) -> int:
        """Return the `text_key` of a document, worked out once."""
        return self._keys[number]

    def add(self, example: Example) -> None:
        """Add an example; its positives are known from now on for every example with the same query."""
        query = text_key(example.query)
        self.examples.append(example)
        self._known.setdefault(query, set()).update(example.positives)
        relevant = (*example.positives, *example.coarse)
        self._relevance.add(query, map(self.key, relevant))

    def add_relevant(self, relevance: Relevance) -> None:
        """Add documents that are relevant without being a positive of any example: they are never negatives.

        Args:
            relevance: Keys of texts; those of documents not added yet are kept for later.
        """
        self._relevance.merge(relevance)

    def known(self, query: str) -> frozenset[int]:
        """Return the numbers of all positives of a query, the possible targets of losses."""
        return frozenset(self._known.get(text_key(query), ()))

    def spared(self, query: str) -> frozenset[int]:
        """Return the numbers of all documents that are never negatives of a query.

        Args:
            query: Its text.

        Returns:
            Its positives, other documents judged relevant, and the query itself, with all variants of their
            texts.
        """
        query_key = text_key(query)
        found: set[int] = set()
        for key in (query_key, *self._relevance.of(query_key)):
            found.update(self._written(key))
        return frozenset(found)

    def negatives(self, example: Example) -> list[int]:
        """Return the numbers of an example's own negatives, without those that another example shows to be relevant."""
        spared = self.spared(example.query)
        return [number for number in example.negatives if number not in spared]

    def lengths(self) -> list[int]:
        """Return the length in characters of each example's longest document."""
        return [
            max((len(self.documents[number]) for number in (*example.positives, *example.negatives)), default=0)
            for example in self.examples
        ]

    @property
    def draws_negatives(self) -> bool:
        """Whether examples bring negatives of their own."""
        return self._negatives > 0

    @property
    def queries(self) -> list[str]:
        """Distinct query texts, in order."""
        return list(dict.fromkeys(example.query for example in self.examples))

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: Index) -> Drawn:
        example, draw = self._draw(index)
        items = [self._positive(example, draw)]
        if self._negatives:
            negatives = self.negatives(example)
            items += draw.sample(negatives, min(self._negatives, len(negatives)))
        labels = tuple(example.scores.get(number) for number in items)
        number, coarse = draw.getrandbits(32), _coarser(example, items[0], draw)
        return Drawn(example.query, tuple(items), labels, number, coarse, example.source, example.weight)

    def asks_for(self, index: Index, *, coarse: bool) -> tuple[int, ...]:
        """Return the numbers of an example's positives in an epoch, the coarse one included if losses read it.

        `NO_DOCUMENT` stands for one that it does not have.
        """
        if not coarse or not self.examples[index[1]].coarse:
            return (self._positive(*self._draw(index)),)
        drawn = self[index]
        return drawn.items[0], drawn.coarse

    def can_ask_for(self, position: int, *, coarse: bool) -> tuple[int, ...]:
        """Return the numbers of the positives that an example may use in some epoch, coarse ones included or not."""
        example = self.examples[position]
        positives = example.positives[:1] if self._choice == "first" else example.positives
        return (*positives, *example.coarse) if coarse else positives

    def material(self, example: Example, *, others: bool) -> Material:
        """Return an example's contribution to a batch.

        Args:
            example: One of the set's examples.
            others: Whether its batches hold documents of other examples.

        Returns:
            The properties by which losses tell whether they can learn from it.
        """
        negatives = self.negatives(example) if self._negatives else []
        return Material(
            positive=bool(example.positives),
            negatives=min(self._negatives, len(negatives)),
            scored_positive=any(number in example.scores for number in example.positives),
            scored_negatives=min(self._negatives, sum(number in example.scores for number in negatives)),
            others=others,
            coarse=bool(example.coarse),
        )

    def _written(self, key: int) -> list[int]:
        """Return the numbers of all variants of one text."""
        return [self._first[key], *self._others.get(key, ())] if key in self._first else []

    def _draw(self, index: Index) -> tuple[Example, random.Random]:
        epoch, position = index
        return self.examples[position], random.Random(f"{self._seed}-{epoch}-{position}")

    def _positive(self, example: Example, draw: random.Random) -> int:
        if not example.positives:
            return NO_DOCUMENT
        if self._choice == "first":
            return example.positives[0]
        if self._hops is None or not example.hops:
            return draw.choice(example.positives)
        ranges: dict[str, list[int]] = {}
        for number in example.positives:
            ranges.setdefault(hop_range(example.hops.get(number, 1)), []).append(number)
        weights = [self._hops[name] for name in ranges]
        if not any(weights):
            return draw.choice(example.positives)
        return draw.choice(draw.choices(list(ranges.values()), weights)[0])


def _coarser(example: Example, positive: int, draw: random.Random) -> int:
    """Draw a coarse positive: one before the positive, if that is among them, or any; `NO_DOCUMENT` for none."""
    coarse = example.coarse
    if positive in coarse:
        coarse = coarse[: coarse.index(positive)]
    return draw.choice(coarse) if coarse else NO_DOCUMENT


def check_not_empty(training_set: TrainingSet) -> None:
    """Raise DataError unless every source gave at least one example."""
    counts = dict.fromkeys(range(len(training_set.sources)), 0)
    for example in training_set.examples:
        counts[example.source] += 1
    empty = [training_set.sources[source] for source, count in counts.items() if count == 0]
    if empty or not counts:
        raise DataError(f"no training examples in: {', '.join(empty) or 'any source'}; check their splits and limits")
    if not training_set.documents:
        raise DataError(
            "there are only queries, and no document to score them with; set data.extra_documents, and "
            "data.extra_from: corpus"
        )


class BatchCards(TypedDict):
    """The cards of a batch, as the option `card` of queries holds them.

    Attributes:
        own: The card of the batch's task.
        stranger: Whether the task is one that confidence alone is learned from.
        wrong: The card of another task, or None.
        views: Two cards of each of several tasks; empty for none.
    """

    own: str
    stranger: bool
    wrong: str | None
    views: list[list[str]]


class Batch(TypedDict):
    """A batch of the data loader.

    Attributes:
        query: Features of the `Q` queries.
        document: Features of the `D` documents.
        numbers: `(D,)` numbers of the documents.
        items: `(Q, n)` positions among the `D` documents.
        known: `(Q, P)` numbers of the queries' positives.
        spared: `(Q, S)` numbers of all documents that are never their negatives, the positives included.
        scores: `(Q, n)` teacher scores, NaN if missing.
        coarse: `(Q,)` positions of the coarse positives among the `D` documents, or None.
        weights: `(Q,)` how much the examples count.
        cards: The cards that its queries are asked with, or None.
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
    coarse: Tensor | None
    weights: Tensor
    cards: BatchCards | None
    base_query: dict[str, Tensor] | None
    base_document: dict[str, Tensor] | None


class Collator:
    """Makes batches of drawn examples.

    Args:
        training_set: The texts of document numbers.
        query: Features of queries.
        document: Features of documents.
        extra_documents: How many additional documents of the training set every query is scored with: cheap negatives
            if documents are cached.
        coarse: Whether coarse positives are among the documents.
        cards: Draws the cards of a batch; None for none.
    """

    def __init__(
        self,
        training_set: TrainingSet,
        query: SideFeatures,
        document: SideFeatures,
        *,
        extra_documents: int = 0,
        coarse: bool = False,
        cards: Callable[[Sequence[Drawn]], BatchCards] | None = None,
    ) -> None:
        self._set = training_set
        self._cards = cards
        self._query = query
        self._document = document
        self._extra = extra_documents
        self._coarse = coarse

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
            "coarse": torch.tensor([places[example.coarse] for example in drawn]) if self._coarse else None,
            "weights": torch.tensor([example.weight for example in drawn]),
            "cards": None if self._cards is None else self._cards(drawn),
            "base_query": self._query.base_features(queries),
            "base_document": self._document.base_features(documents),
        }

    def _numbers(self, drawn: Sequence[Drawn]) -> list[int]:
        numbers = dict.fromkeys(number for example in drawn for number in example.items if number != NO_DOCUMENT)
        if self._coarse:
            numbers |= dict.fromkeys(example.coarse for example in drawn if example.coarse != NO_DOCUMENT)
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
