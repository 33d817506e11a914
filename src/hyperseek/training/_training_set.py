"""Examples in memory, and which of them make a batch.

What an epoch draws depends on the seed, the epoch and the example alone: not on the number of workers or processes,
and not on where a run was interrupted.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch.utils.data import BatchSampler, Dataset

from hyperseek._errors import DataError, InputError
from hyperseek.training._losses import NO_DOCUMENT

Index = tuple[int, int]
"""Epoch and position of an example: what the sampler hands to the data loader."""


@dataclass(frozen=True, slots=True)
class Example:
    """A query and its documents, by number.

    Attributes:
        query: Text.
        positives: Numbers of relevant documents; none for a query that only the anchor loss reads.
        negatives: Numbers of other documents.
        scores: Teacher scores by document number.
        source: Position of the source it came from.
    """

    query: str
    positives: tuple[int, ...]
    negatives: tuple[int, ...]
    scores: Mapping[int, float]
    source: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """What one example contributes to one batch of one epoch.

    Attributes:
        query: Text.
        items: Numbers of documents, the positive first; `NO_DOCUMENT` for a query without.
        labels: Teacher scores in the same order; None where there is none.
        draw: A number that differs between epochs and examples, to draw further things with.
    """

    query: str
    items: tuple[int, ...]
    labels: tuple[float | None, ...]
    draw: int


class TrainingSet(Dataset[Drawn]):
    """All examples of all sources over one table of distinct documents.

    Args:
        positives: `first` always asks for an example's first positive, `random` for one drawn anew every epoch.
        negatives: How many of an example's own negatives an epoch draws; fewer where it has fewer.
        seed: Decides every draw.
    """

    def __init__(self, *, positives: Literal["first", "random"] = "random", negatives: int = 0, seed: int = 0) -> None:
        self.documents: list[str] = []
        self.examples: list[Example] = []
        self.sources: list[str] = []
        self._numbers: dict[str, int] = {}
        self._known: dict[str, set[int]] = {}
        self._choice = positives
        self._negatives = negatives
        self._seed = seed

    def add_source(self, name: str, pool: Iterable[str] = ()) -> int:
        """Begin a source.

        Args:
            name: For logs and records.
            pool: Texts of documents that may be drawn as extra documents, beside those of the examples.

        Returns:
            Its position.
        """
        self.sources.append(name)
        for text in pool:
            self.number(text)
        return len(self.sources) - 1

    def number(self, text: str) -> int:
        """Return the number of a document; equal texts are one document, whatever their source."""
        number = self._numbers.setdefault(text, len(self.documents))
        if number == len(self.documents):
            self.documents.append(text)
        return number

    def add(self, example: Example) -> None:
        """Add an example; its positives are known from now on for every example with the same query text."""
        self.examples.append(example)
        self._known.setdefault(example.query, set()).update(example.positives)

    def known(self, query: str) -> frozenset[int]:
        """Return the numbers of all documents known to be relevant to a query text."""
        return frozenset(self._known.get(query, ()))

    @property
    def queries(self) -> list[str]:
        """Distinct query texts, in order."""
        return list(dict.fromkeys(example.query for example in self.examples))

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: Index) -> Drawn:
        epoch, position = index
        example = self.examples[position]
        draw = random.Random(f"{self._seed}-{epoch}-{position}")
        items = [self._positive(example, draw)]
        items += draw.sample(example.negatives, min(self._negatives, len(example.negatives)))
        labels = tuple(example.scores.get(number) for number in items)
        return Drawn(example.query, tuple(items), labels, draw.getrandbits(32))

    def _positive(self, example: Example, draw: random.Random) -> int:
        if not example.positives:
            return NO_DOCUMENT
        return example.positives[0] if self._choice == "first" else draw.choice(example.positives)


class EpochBatches(BatchSampler):
    """Batches of one epoch after another, shuffled anew each time.

    Args:
        training_set: At least one batch of examples.
        batch_size: Queries of a batch; the last, smaller batch of an epoch is left out.
        composition: `mixed` draws a batch from all sources, `one_source` from one at a time, so that in-batch
            negatives are of the same kind.
        repeat: How often an epoch goes through each source.
        seed: Decides the order.

    Raises:
        InputError: There are fewer examples than make a batch.
    """

    def __init__(
        self,
        training_set: TrainingSet,
        batch_size: int,
        *,
        composition: Literal["mixed", "one_source"] = "mixed",
        repeat: Sequence[int] | None = None,
        seed: int = 0,
    ) -> None:
        self.batch_size = batch_size
        self.drop_last = True
        self._seed = seed
        self._epoch = 0
        self._groups: list[list[int]] = [[] for _ in training_set.sources]
        for position, example in enumerate(training_set.examples):
            self._groups[example.source].extend([position] * (1 if repeat is None else repeat[example.source]))
        if composition == "mixed":
            self._groups = [[position for group in self._groups for position in group]]
        if len(self) == 0:
            sizes = ", ".join(
                f"{name} has {sum(example.source == source for example in training_set.examples)}"
                for source, name in enumerate(training_set.sources)
            )
            raise InputError(
                f"there are not enough examples for one batch of {batch_size}: {sizes}; "
                f"lower train.batch_size or give more data"
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through, from 0."""
        self._epoch = epoch

    def __len__(self) -> int:
        return sum(len(group) // self.batch_size for group in self._groups)

    def __iter__(self) -> Iterator[list[Index]]:  # type: ignore[override]  # torch says a batch is a list of int
        epoch = self._epoch
        draw = random.Random(f"{self._seed}-{epoch}")
        batches: list[list[int]] = []
        for group in self._groups:
            order = draw.sample(group, len(group))
            ends = range(self.batch_size, len(order) + 1, self.batch_size)
            batches.extend(order[end - self.batch_size : end] for end in ends)
        if len(self._groups) > 1:
            draw.shuffle(batches)
        for batch in batches:
            yield [(epoch, position) for position in batch]


def check_not_empty(training_set: TrainingSet) -> None:
    """Raise DataError unless every source gave at least one example."""
    counts = dict.fromkeys(range(len(training_set.sources)), 0)
    for example in training_set.examples:
        counts[example.source] += 1
    empty = [training_set.sources[source] for source, count in counts.items() if count == 0]
    if empty or not counts:
        raise DataError(f"no training examples in: {', '.join(empty) or 'any source'}; check their splits and limits")
