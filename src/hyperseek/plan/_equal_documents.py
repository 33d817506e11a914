"""Equal documents get equal scores, even where rounding would separate them.

Most scorers are chains of matrix products, whose last bits depend on a document's place in a block. So documents with
the same stored numbers are recognised by a mark, and take the highest of their scores.

Shapes: `Q` queries, `N` documents, `n` documents of a query's own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hyperseek.scoring import Points

# Numbers that are marked at a time: they stay in a core's cache.
_MARKED = 1 << 16


def marks_of(points: Points) -> Tensor:
    """Mark documents by their stored numbers.

    Args:
        points: `N` documents.

    Returns:
        `(N,)` int64 on their device: the same for equal documents, different for others except with a probability
        of 2⁻⁶⁴.
    """
    rows = _marks(points.rows)
    if points.single:
        return rows
    lengths = points.lengths
    owner = torch.repeat_interleave(lengths)
    place = torch.arange(len(rows), device=rows.device) - (lengths.cumsum(0) - lengths)[owner]
    # The place of a row counts, and the number of rows.
    return (lengths * _odd(1, lengths.device)).index_add(0, owner, rows * (2 * place + 1))


def level(scores: Tensor, marks: Tensor) -> Tensor:
    """Give equal documents of each query their highest score.

    Args:
        scores: `(Q, n)`.
        marks: `(Q, n)`, or `(n,)` for the same documents of all queries.

    Returns:
        `(Q, n)`.
    """
    if marks.ndim == 1:
        distinct, group = torch.unique(marks, return_inverse=True)
        if len(distinct) == len(marks):
            return scores
        group = group.expand_as(scores)
    else:
        ordered, order = marks.sort(dim=1)
        new = torch.ones_like(ordered)
        new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        if new.all():
            return scores
        group = torch.empty_like(order).scatter_(1, order, new.cumsum(dim=1) - 1)
    highest = torch.full_like(scores, -torch.inf).scatter_reduce(1, group, scores, "amax")
    return highest.gather(1, group)


def _marks(vectors: Tensor) -> Tensor:
    words = 8 // vectors.element_size()  # that make a number of 64 bits
    spare = -vectors.shape[1] % words
    weights = _odd((vectors.shape[1] + spare) // words, vectors.device)
    marks = []
    for part in torch.split(vectors, max(1, _MARKED // max(1, len(weights)))):
        # A copy, even where nothing is spare, and so of a part only.
        bits = torch.nn.functional.pad(part, (0, spare)).contiguous().view(torch.int64)
        marks.append((_mixed(bits) * weights).sum(dim=1))  # wraps around
    return torch.cat(marks)


def _mixed(bits: Tensor) -> Tensor:
    """Spread bits over the whole number: round ones end in many zeros, which products keep."""
    spread = bits * -0x61C8864680B583EB  # the golden ratio's, as in Fibonacci hashing
    return (spread >> 32).bitwise_xor_(spread).mul_(-0x61C8864680B583EB)


def _odd(count: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(0x5EED)
    drawn = torch.randint(-(2**62), 2**62, (count,), generator=generator)
    return (2 * drawn + 1).to(device)
