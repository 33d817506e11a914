"""Compiling many queries in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hyperseek.scoring import Scorer

if TYPE_CHECKING:
    from hyperseek.models import Retriever

# Numbers of the queries that one scan holds: 16 MiB, some ten thousand query vectors. A q-net has more by itself.
_NUMBERS = 1 << 22


def scorer_groups(model: Retriever, queries: Sequence[str]) -> Iterator[Scorer]:
    """Compile queries to scorers that are worth a scan each: many small queries together, large ones in batches.

    Args:
        model: The compiler.
        queries: Any number.

    Yields:
        Scorers of successive queries.
    """
    gathered: list[Scorer] = []
    for part in model.compile_batches(queries):
        if gathered and _numbers([*gathered, part]) > _NUMBERS:
            yield _joined(gathered)
            gathered = []
        gathered.append(part)
    if gathered:
        yield _joined(gathered)


def _numbers(parts: Sequence[Scorer]) -> int:
    return sum(math.prod(tensor.shape) for part in parts for tensor in part.tensors().values())


def _joined(parts: Sequence[Scorer]) -> Scorer:
    return parts[0] if len(parts) == 1 else type(parts[0]).concatenate(parts)
