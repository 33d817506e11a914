"""Points: what documents become, one vector each or a set of token vectors each.

Shapes: `N` documents, `d` dimensions, `T` tokens of all documents together, `t` of the longest one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from hyperseek.errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Documents as points, one vector each.

    Attributes:
        vectors: `(N, d)`, floating.
    """

    vectors: Tensor

    def __post_init__(self) -> None:
        if not is_floating(self.vectors) or self.vectors.ndim != 2:
            raise InputError(
                f"points must be a floating tensor of shape (documents, dimensions), not {described(self.vectors)}"
            )

    def __len__(self) -> int:
        return self.vectors.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Points:
        return Points(self.vectors[index])

    @property
    def dimension(self) -> int:
        """Number of dimensions `d`."""
        return self.vectors.shape[1]

    def to(self, device: str | torch.device) -> Points:
        """Return the points on `device`."""
        return Points(self.vectors.to(device))

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Join points of one dimension, in order.

        Args:
            parts: At least one.

        Returns:
            All points.

        Raises:
            InputError: `parts` is empty or the dimensions differ.
        """
        return cls(_join(parts))


@dataclass(frozen=True, slots=True, eq=False)
class TokenPoints(Points):
    """Documents as ragged sets of token vectors: document `i` has `vectors[offsets[i]:offsets[i + 1]]`.

    A document may have no tokens. Slices share memory; index tensors and masks copy.

    Attributes:
        vectors: `(T, d)`, floating, the tokens of all documents one after the other.
        offsets: `(N + 1,)` int64 on the same device, from 0 to `T`, never falling.
    """

    offsets: Tensor

    def __post_init__(self) -> None:
        if not is_floating(self.vectors) or self.vectors.ndim != 2:
            raise InputError(
                f"token points must be a floating tensor of shape (tokens, dimensions), not {described(self.vectors)}"
            )
        offsets = self.offsets
        if not isinstance(offsets, Tensor) or offsets.ndim != 1 or not len(offsets) or offsets.dtype != torch.int64:
            raise InputError(f"offsets must be an int64 tensor of shape (documents + 1,), not {described(offsets)}")
        first, last = int(offsets[0]), int(offsets[-1])
        if (first, last) != (0, len(self.vectors)) or bool((offsets.diff() < 0).any()):
            raise InputError(
                f"offsets must rise from 0 to the number of tokens, {len(self.vectors)}; "
                f"given ones lead from {first} to {last} or fall between"
            )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: slice | Tensor) -> TokenPoints:
        if isinstance(index, slice):
            rows = range(len(self))[index]
            if rows.step == 1:
                offsets = self.offsets[rows.start : max(rows.start, rows.stop) + 1]
                return TokenPoints(self.vectors[int(offsets[0]) : int(offsets[-1])], offsets - offsets[0])
            index = torch.tensor(rows, dtype=torch.int64)
        index = index.to(self.offsets.device)
        lengths = self.lengths[index]
        offsets = offsets_of(lengths)
        shifts = self.offsets[:-1][index] - offsets[:-1]
        places = torch.arange(int(offsets[-1]), device=offsets.device) + torch.repeat_interleave(shifts, lengths)
        return TokenPoints(self.vectors[places], offsets)

    @property
    def lengths(self) -> Tensor:
        """Tokens of each document, `(N,)` int64."""
        return self.offsets.diff()

    def to(self, device: str | torch.device) -> TokenPoints:
        """Return the points on `device`."""
        return TokenPoints(self.vectors.to(device), self.offsets.to(device))

    def padded(self) -> tuple[Tensor, Tensor]:
        """Return `(N, t, d)` vectors, zero behind each document's last token, and a `(N, t)` bool mask of tokens."""
        lengths = self.lengths
        longest = int(lengths.max()) if len(self) else 0
        mask = torch.arange(longest, device=lengths.device) < lengths[:, None]
        padded = self.vectors.new_zeros(len(self), longest, self.dimension)
        return padded.masked_scatter(mask[..., None], self.vectors), mask

    @classmethod
    def from_padded(cls, vectors: Tensor, mask: Tensor) -> Self:
        """Make points from a padded tensor; differentiable.

        Args:
            vectors: `(N, t, d)`, floating; what the mask leaves out is never read.
            mask: `(N, t)`: non-zero where there is a token, not necessarily the first ones.

        Returns:
            `N` documents with the tokens in order.

        Raises:
            InputError: The shapes do not fit each other.
        """
        if vectors.ndim != 3 or mask.shape != vectors.shape[:2]:
            raise InputError(
                f"padded tokens need the shapes (documents, tokens, dimensions) and (documents, tokens), "
                f"not {tuple(vectors.shape)} and {tuple(mask.shape)}"
            )
        kept = mask.bool()
        return cls(vectors[kept], offsets_of(kept.sum(dim=1)))

    @classmethod
    def from_documents(cls, documents: Sequence[Tensor]) -> Self:
        """Make points from one `(tokens, d)` tensor a document; at least one document."""
        if not documents:
            raise InputError("no documents were given, so their dimension is not known; give at least one")
        lengths = torch.tensor([len(document) for document in documents], device=documents[0].device)
        return cls(torch.cat(list(documents)), offsets_of(lengths))

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Join points of one dimension, in order.

        Args:
            parts: At least one.

        Returns:
            All points.

        Raises:
            InputError: `parts` is empty or the dimensions differ.
        """
        vectors = _join(parts)
        return cls(vectors, offsets_of(torch.cat([part.lengths for part in parts])))


def is_floating(given: object) -> bool:
    """Whether something is a tensor of real floating numbers."""
    return isinstance(given, Tensor) and given.is_floating_point()


def described(given: object) -> str:
    """Return what a message says of something that should have been a tensor."""
    return f"{given.dtype} of shape {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__


def token_points(points: Points) -> TokenPoints:
    """Return the points as what they are; InputError if they have one vector a document."""
    if not isinstance(points, TokenPoints):
        raise InputError(f"late interaction needs TokenPoints, but was given {type(points).__name__}, one vector each")
    return points


def own_documents(documents: Tensor | Points, queries: int) -> list[Points]:
    """Split documents of each query's own by query.

    Args:
        documents: `(Q, n, w)`, or `Q * n` points, those of the first query first.
        queries: `Q`.

    Returns:
        `Q` times `n` points.

    Raises:
        InputError: The number of documents is no multiple of the queries.
    """
    if isinstance(documents, Tensor):
        return [Points(own) for own in documents]
    each, rest = divmod(len(documents), max(1, queries))
    if rest:
        raise InputError(f"{len(documents)} documents cannot be divided among {queries} queries; all have as many")
    return [documents[row * each : (row + 1) * each] for row in range(queries)]


def offsets_of(lengths: Tensor) -> Tensor:
    """Return the `(N + 1,)` int64 offsets of documents with `(N,)` tokens each."""
    return torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int64), (1, 0))


def _join(parts: Sequence[Points]) -> Tensor:
    dimensions = {part.dimension for part in parts}
    if len(dimensions) != 1:
        raise InputError(f"cannot join points of dimensions {sorted(dimensions)}; they must be one and the same")
    return torch.cat([part.vectors for part in parts])
