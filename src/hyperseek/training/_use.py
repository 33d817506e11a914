"""What became of the examples: what can have an effect, and what was in a batch."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pydantic import Field

from hyperseek._config import Config
from hyperseek.training._training_set import EpochBatches, TrainingSet
from hyperseek.training.losses import NO_DOCUMENT, Objective

logger = logging.getLogger(__name__)


class SourceUse(Config):
    """What became of one source's examples.

    Attributes:
        examples: Those that could be drawn.
        over_limit: Those that the recipe's `limit` leaves out.
        left_out: What reading left out, by reason; of a prepared folder its `prepared.json` tells.
        without_effect: Those from which no loss of the recipe can learn anything.
        negatives_left_out: Negatives of their own that turned out to be relevant, or the query itself.
        negatives_not_drawn: Negatives of their own that are never drawn, as `data.negatives` is 0.
        unused: Those that were in no batch, as training ended before; None while it goes on.
    """

    examples: int = 0
    over_limit: int = 0
    left_out: dict[str, int] = Field(default_factory=dict)
    without_effect: int = 0
    negatives_left_out: int = 0
    negatives_not_drawn: int = 0
    unused: int | None = None


@dataclass(frozen=True, slots=True)
class Used:
    """What was in the batches of a run.

    Attributes:
        examples: Positions.
        positives: Numbers of the documents that were somebody's positive.
    """

    examples: frozenset[int]
    positives: frozenset[int]


def checked(
    uses: Mapping[str, SourceUse],
    training_set: TrainingSet,
    batches: EpochBatches,
    objective: Objective,
    *,
    extra_documents: int,
) -> dict[str, SourceUse]:
    """Count which examples, and which of their negatives, can have no effect, and warn about them.

    Args:
        uses: By name of the source, as far as they are known.
        training_set: All examples.
        batches: How they are put together.
        objective: The losses.
        extra_documents: Further documents of every batch.

    Returns:
        The same with `without_effect`, `negatives_left_out` and `negatives_not_drawn`.
    """
    smallest = batches.smallest()
    without, left_out, not_drawn = (dict.fromkeys(training_set.sources, 0) for _ in range(3))
    for position, example in enumerate(training_set.examples):
        name = training_set.sources[example.source]
        material = training_set.material(example, others=smallest[position] > 1 or extra_documents > 0)
        without[name] += not objective.learns_from(material)
        usable = len(training_set.negatives(example))
        left_out[name] += len(example.negatives) - usable
        not_drawn[name] += 0 if training_set.draws_negatives else usable
    for name, count in without.items():
        if count:
            logger.warning(
                "%d of %d examples of %s change nothing: no loss of the recipe (%s) can learn from them, for want of "
                "negatives, of teacher scores or of other examples in their batch",
                count,
                uses[name].examples,
                name,
                ", ".join(objective.weights),
            )
    for name, count in not_drawn.items():
        if count:
            logger.warning(
                "the examples of %s have %d negatives of their own, and none is drawn; set data.negatives to so many "
                "of each example",
                name,
                count,
            )
    return {
        name: use.model_copy(
            update={
                "without_effect": without[name],
                "negatives_left_out": left_out[name],
                "negatives_not_drawn": not_drawn[name],
            }
        )
        for name, use in uses.items()
    }


def used(training_set: TrainingSet, batches: EpochBatches, *, epochs: int, more: int) -> Used:
    """Draw again what a run drew.

    Args:
        training_set: All examples.
        batches: How they were put together.
        epochs: How many epochs were gone through.
        more: Batches of the epoch after them.

    Returns:
        What was in a batch.
    """
    everything = range(len(training_set))
    examples: set[int] = set()
    positives: set[int] = set()
    drawn = list(everything)
    for epoch in range(epochs):
        examples.update(everything)
        # What an example can ask for is seen after an epoch if it is one document, and else after some.
        drawn = [position for position in drawn if not positives.issuperset(training_set.can_ask_for(position))]
        positives.update(training_set.positive((epoch, position)) for position in drawn)
    if more:
        batches.set_epoch(epochs)
        for batch, _ in zip(batches, range(more), strict=False):
            examples.update(position for _, position in batch)
            positives.update(map(training_set.positive, batch))
    return Used(frozenset(examples), frozenset(positives - {NO_DOCUMENT}))


def ended(uses: Mapping[str, SourceUse], training_set: TrainingSet, examples: Collection[int]) -> dict[str, SourceUse]:
    """Count which examples were in no batch, and warn about them.

    Args:
        uses: By name of the source.
        training_set: All examples.
        examples: Positions of those that were in one.

    Returns:
        The same with `unused`.
    """
    unused = dict.fromkeys(training_set.sources, 0)
    for position, example in enumerate(training_set.examples):
        unused[training_set.sources[example.source]] += position not in examples
    for name, count in unused.items():
        if count:
            logger.warning(
                "%d of %d examples of %s were in no batch, as training ended before; their documents do not count as "
                "seen",
                count,
                uses[name].examples,
                name,
            )
    return {name: use.model_copy(update={"unused": unused[name]}) for name, use in uses.items()}
