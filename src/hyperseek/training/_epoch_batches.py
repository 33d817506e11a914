"""The batches of an epoch: which examples are together, in what order, and how large batches are."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, cycle, islice, pairwise

from torch.utils.data import BatchSampler

from hyperseek.errors import InputError
from hyperseek.training._recipe import COMPOSITIONS
from hyperseek.training._training_set import Index, TrainingSet


class EpochBatches(BatchSampler):
    """Batches of one epoch after another, reshuffled every epoch.

    If examples do not fill the last batch, it splits the remainder with the batch before it, so that no example is
    dropped and none is nearly alone, without negatives. Several processes share batches evenly.

    Args:
        training_set: At least one batch of examples, of all sources together.
        batch_size: Most queries of a batch.
        composition: `mixed` draws a batch from all sources, `one_source` from one at a time, so that in-batch
            negatives are of the same kind; or another registered name.
        repeat: How often an epoch goes through each source; None for once.
        length_buckets: How many batches of drawn examples are sorted by length at a time; 0 for none.
        seed: Seed of the order.
        processes: How many share the batches; each gets the same number.

    Raises:
        InputError: There are too few examples for a batch per process, or the composition leaves some out.
    """

    def __init__(
        self,
        training_set: TrainingSet,
        batch_size: int,
        *,
        composition: str = "mixed",
        repeat: Sequence[int] | None = None,
        length_buckets: int = 0,
        seed: int = 0,
        processes: int = 1,
    ) -> None:
        # Otherwise accelerate, which distributes batches, would take a smaller batch for the end of an epoch.
        self.batch_size = None  # type: ignore[assignment]
        self.drop_last = False
        self._seed = seed
        self._epoch = 0
        self._bucket = length_buckets * batch_size
        self._lengths = training_set.lengths() if length_buckets else []
        sources: list[list[int]] = [[] for _ in training_set.sources]
        for position, example in enumerate(training_set.examples):
            sources[example.source].extend([position] * (1 if repeat is None else repeat[example.source]))
        self._groups = COMPOSITIONS[composition](sources)
        if {*chain.from_iterable(self._groups)} != {*range(len(training_set))}:
            raise InputError(
                f"the composition of batches {composition!r} must put each of the {len(training_set)} examples into a "
                f"group, and nothing else; correct it, or set data.batches to another one"
            )
        if sum(map(len, self._groups)) < batch_size * processes:
            sizes = ", ".join(
                f"{name} has {sum(example.source == source for example in training_set.examples)}"
                for source, name in enumerate(training_set.sources)
            )
            each = f" for each of {processes} processes" if processes > 1 else ""
            raise InputError(
                f"there are not enough examples for one batch of {batch_size}{each}: {sizes}; "
                f"lower train.batch_size or add data"
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
            order = _order(group, draw)
            order += list(islice(cycle(order), sum(sizes) - len(order)))
            if self._bucket:
                buckets = (order[start : start + self._bucket] for start in range(0, len(order), self._bucket))
                order = [position for bucket in buckets for position in sorted(bucket, key=self._lengths.__getitem__)]
            batches.extend(order[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True))
        if len(self._groups) > 1 or self._bucket:
            draw.shuffle(batches)
        for batch in batches:
            yield [(epoch, position) for position in batch]

    def largest(self) -> int:
        """Return the size of the largest batch: fewer than asked for where examples fill two batches evenly."""
        return max(max(sizes, default=0) for sizes in self._sizes)

    def smallest(self) -> dict[int, int]:
        """Return the size of the smallest batch that each example can be in, by its position."""
        groups = zip(self._groups, self._sizes, strict=True)
        return {position: min(sizes) for group, sizes in groups for position in group}


def _order(group: Sequence[int], draw: random.Random) -> list[int]:
    """Return the positions in random order; where each is there equally often, one pass through them after another."""
    distinct = list(dict.fromkeys(group))
    passes = len(group) // max(1, len(distinct))
    if passes < 2 or sorted(group) != sorted(distinct * passes):
        return draw.sample(group, len(group))
    # A batch then hardly has an example twice, which would tell no more than once.
    return list(chain.from_iterable(draw.sample(distinct, len(distinct)) for _ in range(passes)))


def _sizes(examples: int, batch_size: int, processes: int) -> list[int]:
    """Return the sizes of the batches of some examples; each process gets the same number.

    Args:
        examples: At least 1.
        batch_size: Largest size of a batch.
        processes: Each takes one batch of a round.

    Returns:
        Full batches, except in the last two rounds (or the only one), which share the remainder. With fewer examples
        than batches, some are in two, and the sizes add up to more.
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
    """Split the largest batches of groups until each process gets the same number."""
    sizes = [list(own) for own in sizes]
    while sum(map(len, sizes)) % processes:
        largest = max(sizes, key=lambda own: max(own, default=0))
        size = max(largest)
        largest.remove(size)
        largest += [size - size // 2, max(1, size // 2)]
    return sizes
