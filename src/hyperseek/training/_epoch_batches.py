"""Which examples make a batch: every one is in one batch of an epoch, as often as its source is repeated."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import accumulate, cycle, islice, pairwise
from typing import Literal

from torch.utils.data import BatchSampler

from hyperseek._errors import InputError
from hyperseek.training._training_set import Index, TrainingSet


class EpochBatches(BatchSampler):
    """Batches of one epoch after another, shuffled anew each time.

    Where examples do not fill the last batch, it shares with the one before what is left for both, so that no example
    is left over and none is nearly alone, without negatives. Several processes share the batch of one out evenly.

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
        if len(self._groups) == 1:
            self._sizes = [_sizes(len(self._groups[0]), batch_size, processes)]
        else:
            alone = [_sizes(len(group), batch_size, 1) if group else [] for group in self._groups]
            self._sizes = _shared_out(alone, processes)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through, from 0."""
        self._epoch = epoch

    def __len__(self) -> int:
        return sum(map(len, self._sizes))

    def __iter__(self) -> Iterator[list[Index]]:  # type: ignore[override]  # torch says a batch is a list of int
        epoch = self._epoch
        draw = random.Random(f"{self._seed}-{epoch}")
        batches: list[list[int]] = []
        for group, sizes in zip(self._groups, self._sizes, strict=True):
            order = draw.sample(group, len(group))
            order += list(islice(cycle(order), sum(sizes) - len(order)))
            batches.extend(order[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True))
        if len(self._groups) > 1:
            draw.shuffle(batches)
        for batch in batches:
            yield [(epoch, position) for position in batch]

    def smallest(self) -> dict[int, int]:
        """Return for each example, by its position, the size of the smallest batch that it can be in."""
        groups = zip(self._groups, self._sizes, strict=True)
        return {position: min(sizes) for group, sizes in groups for position in group}


def _sizes(examples: int, batch_size: int, processes: int) -> list[int]:
    """Return the sizes of the batches that some examples make; as many for each process.

    Args:
        examples: At least 1.
        batch_size: The most of a batch.
        processes: Each takes one batch of a round.

    Returns:
        Full batches, but for the last two rounds (the only one), which share what is left for them. Of fewer examples
        than batches some are in two, and the sizes add up to more.
    """
    full, left = divmod(examples, batch_size * processes)
    if not left:
        return [batch_size] * (full * processes)
    whole = max(0, full - 1)
    left += (full - whole) * batch_size * processes
    shared = (full - whole + 1) * processes
    ends = [left * batch // shared for batch in range(shared + 1)]
    return [batch_size] * (whole * processes) + [max(1, end - start) for start, end in pairwise(ends)]


def _shared_out(sizes: list[list[int]], processes: int) -> list[list[int]]:
    """Split the largest batches of groups until each process gets as many."""
    sizes = [list(own) for own in sizes]
    while sum(map(len, sizes)) % processes:
        largest = max(sizes, key=lambda own: max(own, default=0))
        size = max(largest)
        largest.remove(size)
        largest += [size - size // 2, max(1, size // 2)]
    return sizes
