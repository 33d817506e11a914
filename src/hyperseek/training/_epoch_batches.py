"""Which examples make a batch: every one is in one batch of an epoch, as often as its source is repeated."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

from torch.utils.data import BatchSampler

from hyperseek._errors import InputError
from hyperseek.training._training_set import Index, TrainingSet


class EpochBatches(BatchSampler):
    """Batches of one epoch after another, shuffled anew each time.

    Where examples do not fill the last batch, all batches are a little smaller, so that none is left over and none is
    much smaller than the others: what makes negatives of each other is alike.

    Args:
        training_set: At least one batch of examples, of all sources together.
        batch_size: The most queries of a batch.
        composition: `mixed` draws a batch from all sources, `one_source` from one at a time, so that in-batch
            negatives are of the same kind.
        repeat: How often an epoch goes through each source.
        seed: Decides the order.
        processes: How many share the batches out; each gets as many.

    Raises:
        InputError: There are fewer examples than make a batch for each process.
    """

    def __init__(
        self,
        training_set: TrainingSet,
        batch_size: int,
        *,
        composition: Literal["mixed", "one_source"] = "mixed",
        repeat: Sequence[int] | None = None,
        seed: int = 0,
        processes: int = 1,
    ) -> None:
        # What shares batches out would take smaller ones than it was told for the end of an epoch.
        self.batch_size = None  # type: ignore[assignment]
        self.drop_last = False
        self._seed = seed
        self._epoch = 0
        self._groups: list[list[int]] = [[] for _ in training_set.sources]
        for position, example in enumerate(training_set.examples):
            self._groups[example.source].extend([position] * (1 if repeat is None else repeat[example.source]))
        if composition == "mixed":
            self._groups = [[position for group in self._groups for position in group]]
        if sum(map(len, self._groups)) < batch_size * processes:
            sizes = ", ".join(
                f"{name} has {sum(example.source == source for example in training_set.examples)}"
                for source, name in enumerate(training_set.sources)
            )
            each = f" for each of {processes} processes" if processes > 1 else ""
            raise InputError(
                f"there are not enough examples for one batch of {batch_size}{each}: {sizes}; "
                f"lower train.batch_size or give more data"
            )
        self._counts = _counts([len(group) for group in self._groups], batch_size, processes)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through, from 0."""
        self._epoch = epoch

    def __len__(self) -> int:
        return sum(self._counts)

    def __iter__(self) -> Iterator[list[Index]]:  # type: ignore[override]  # torch says a batch is a list of int
        epoch = self._epoch
        draw = random.Random(f"{self._seed}-{epoch}")
        batches: list[list[int]] = []
        for group, count in zip(self._groups, self._counts, strict=True):
            order = draw.sample(group, len(group))
            ends = [len(order) * batch // count for batch in range(count + 1)] if count else []
            # Of fewer examples than batches, some are in two.
            batches.extend(order[start : max(end, start + 1)] for start, end in pairwise(ends))
        if len(self._groups) > 1:
            draw.shuffle(batches)
        for batch in batches:
            yield [(epoch, position) for position in batch]

    def smallest(self) -> dict[int, int]:
        """Return for each example, by its position, the size of the smallest batch that it can be in."""
        groups = zip(self._groups, self._counts, strict=True)
        return {position: len(group) // count for group, count in groups for position in group}


def _counts(examples: Sequence[int], batch_size: int, processes: int) -> list[int]:
    """Return how many batches each group of examples makes: as few as do, and as many for each process."""
    counts = [-(-count // batch_size) for count in examples]
    while sum(counts) % processes:
        # One more of the group whose batches are largest. There are at least as many examples as a full round takes.
        largest = max(range(len(counts)), key=lambda group: examples[group] / max(1, counts[group]))
        counts[largest] += 1
    return counts
