"""Points: the form that documents take: one vector each, or a ragged set of token vectors each.

Shapes: `N` documents, `d` dimensions, `T` tokens of all documents together, `t` of the longest one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self, TypeVar

import torch
from torch import Tensor

from hyperseek.errors import InputError


class Points(ABC):
    """Documents as points: the base of every form.

    A form is defined by `tensors` and `from_tensors`; moving, joining and gathering are written once, here.

    Attributes:
        single: Whether every document of this form has exactly one row.
    """

    __slots__ = ()
    single: ClassVar[bool] = False

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of documents `N`."""

    @abstractmethod
    def __getitem__(self, index: slice | Tensor) -> Self:
        """Return the documents of a slice, a mask or a tensor of rows."""

    @property
    @abstractmethod
    def rows(self) -> Tensor:
        """All vectors of all documents, `(R, d)`: the ones that are stored, checked and counted."""

    @abstractmethod
    def tensors(self) -> tuple[Tensor, ...]:
        """Return tensors which, each concatenated with that of other points, describe all of the points together."""

    @classmethod
    @abstractmethod
    def from_tensors(cls, *tensors: Tensor) -> Self:
        """Make points from what `tensors` returned."""

    @property
    def lengths(self) -> Tensor:
        """How many rows each document has, `(N,)` int64."""
        rows = self.rows
        return torch.full((len(self),), len(rows) // max(1, len(self)), device=rows.device)

    def document_of(self, row: int) -> int:
        """Return the place of the document that a row, counted from 0 over all documents, belongs to."""
        return int((self.lengths.cumsum(0) <= row).sum())

    @property
    def dimension(self) -> int:
        """Number of dimensions `d`."""
        return self.rows.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the points take."""
        return sum(tensor.nbytes for tensor in self.tensors())

    def to(self, device: str | torch.device) -> Self:
        """Return the points on `device`."""
        return self.from_tensors(*(tensor.to(device) for tensor in self.tensors()))

    def gather(self, join: Callable[[Tensor], Tensor]) -> Self:
        """Return these points joined with those of others, such as other processes.

        Args:
            join: Takes a tensor of these points and returns it joined with those of the others along the first axis.

        Returns:
            All points.
        """
        return self.from_tensors(*map(join, self.tensors()))

    @classmethod
    def concatenate(cls, parts: Sequence[P]) -> P:
        """Join points of one form and dimension, in order.

        Args:
            parts: At least one.

        Returns:
            All points.

        Raises:
            InputError: `parts` is empty, or the forms or dimensions differ.
        """
        dimensions = {part.dimension for part in parts}
        if len(dimensions) != 1:
            raise InputError(f"cannot join points of dimensions {sorted(dimensions)}; they must all be the same")
        form = type(parts[0])
        if any(type(part) is not form for part in parts):
            names = sorted({type(part).__name__ for part in parts})
            raise InputError(f"cannot join points of the forms {', '.join(names)}; they must all be the same")
        return form.from_tensors(*map(torch.cat, zip(*(part.tensors() for part in parts), strict=True)))


P = TypeVar("P", bound=Points)


@dataclass(frozen=True, slots=True, eq=False)
class VectorPoints(Points):
    """Documents as points, one vector each.

    Attributes:
        vectors: `(N, d)`, floating.
    """

    single: ClassVar[bool] = True
    vectors: Tensor

    def __post_init__(self) -> None:
        if not is_floating(self.vectors) or self.vectors.ndim != 2:
            raise InputError(
                f"points must be a floating tensor of shape (documents, dimensions), not {described(self.vectors)}"
            )

    def __len__(self) -> int:
        return self.vectors.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Self:
        if isinstance(index, Tensor) and _are_rows(index) and index.device == self.vectors.device:
            return type(self)(self.vectors.index_select(0, index))  # in a quarter of the time
        return type(self)(self.vectors[index])

    @property
    def rows(self) -> Tensor:
        """The vectors."""
        return self.vectors

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the vectors."""
        return (self.vectors,)

    @classmethod
    def from_tensors(cls, *tensors: Tensor) -> Self:
        """Make points from vectors."""
        return cls(*tensors)


@dataclass(frozen=True, slots=True, eq=False)
class TokenPoints(Points):
    """Documents as ragged sets of token vectors: document `i` has `vectors[offsets[i]:offsets[i + 1]]`.

    A document may have no tokens. Slices share memory; index tensors and masks copy.

    Attributes:
        vectors: `(T, d)`, floating, the tokens of all documents in order.
        offsets: `(N + 1,)` int64 on the same device, from 0 to `T`, never decreasing.
    """

    vectors: Tensor
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
                f"these lead from {first} to {last}, or fall between"
            )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: slice | Tensor) -> Self:
        if isinstance(index, slice):
            rows = range(len(self))[index]
            if rows.step == 1:
                offsets = self.offsets[rows.start : max(rows.start, rows.stop) + 1]
                return type(self)(self.vectors[int(offsets[0]) : int(offsets[-1])], offsets - offsets[0])
            index = torch.tensor(rows, dtype=torch.int64)
        index = index.to(self.offsets.device)
        lengths = self.lengths[index]
        offsets = offsets_of(lengths)
        shifts = self.offsets[:-1][index] - offsets[:-1]
        places = torch.arange(int(offsets[-1]), device=offsets.device) + torch.repeat_interleave(shifts, lengths)
        return type(self)(self.vectors[places], offsets)

    @property
    def lengths(self) -> Tensor:
        """Tokens of each document, `(N,)` int64."""
        return self.offsets.diff()

    @property
    def rows(self) -> Tensor:
        """The tokens of all documents, `(T, d)`."""
        return self.vectors

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the tokens of all documents, and the number of tokens of each."""
        return self.vectors, self.lengths

    @classmethod
    def from_tensors(cls, *tensors: Tensor) -> Self:
        """Make points from tokens and `(N,)` lengths."""
        vectors, lengths = tensors
        return cls(vectors, offsets_of(lengths))

    def padded(self) -> tuple[Tensor, Tensor]:
        """Return `(N, t, d)` vectors, zero after each document's last token, and a `(N, t)` bool mask of tokens."""
        lengths = self.lengths
        longest = int(lengths.max()) if len(self) else 0
        mask = torch.arange(longest, device=lengths.device) < lengths[:, None]
        padded = self.vectors.new_zeros(len(self), longest, self.dimension)
        return padded.masked_scatter(mask[..., None], self.vectors), mask

    @classmethod
    def from_padded(cls, vectors: Tensor, mask: Tensor) -> Self:
        """Make points from a padded tensor; differentiable.

        Args:
            vectors: `(N, t, d)`, floating; masked positions are never read.
            mask: `(N, t)`: non-zero where there is a token, in any positions.

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
        """Make points from one `(tokens, d)` tensor per document; at least one document."""
        if not documents:
            raise InputError("no documents were given, so their dimension is not known; give at least one")
        lengths = torch.tensor([len(document) for document in documents], device=documents[0].device)
        return cls(torch.cat(list(documents)), offsets_of(lengths))


def _are_rows(index: Tensor) -> bool:
    return index.ndim == 1 and index.dtype == torch.int64 and len(index) > 0 and bool(index.amin() >= 0)


def is_floating(given: object) -> bool:
    """Whether something is a tensor of real floating numbers."""
    return isinstance(given, Tensor) and given.is_floating_point()


def described(given: object) -> str:
    """Describe, for a message, something that should have been a tensor of another kind."""
    return f"{given.dtype} of shape {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__


def token_points(points: Points) -> TokenPoints:
    """Return `points` unchanged if they are `TokenPoints`; InputError otherwise."""
    if not isinstance(points, TokenPoints):
        raise InputError(f"late interaction needs TokenPoints, but was given {type(points).__name__}, one vector each")
    return points


def vectors_of(points: Points) -> Tensor:
    """Return the `(N, d)` vectors of points that have one each; InputError for points of another form."""
    if not isinstance(points, VectorPoints):
        raise InputError(f"this needs one vector per document, but was given {type(points).__name__}")
    return points.vectors


def own_documents(documents: Tensor | Points, queries: int) -> list[Points]:
    """Split each query's own documents by query.

    Args:
        documents: `(Q, n, w)`, or `Q * n` points, those of the first query first.
        queries: `Q`.

    Returns:
        For each of the `Q` queries, its `n` points.

    Raises:
        InputError: The number of documents is not a multiple of the number of queries.
    """
    if isinstance(documents, Tensor):
        return [VectorPoints(own) for own in documents]
    each = _each(documents, queries)
    return [documents[row * each : (row + 1) * each] for row in range(queries)]


def own_vectors(documents: Tensor | Points, queries: int) -> Tensor:
    """Return the vectors of each query's own documents.

    Args:
        documents: `(Q, n, w)`, or `Q * n` points with one vector each, those of the first query first.
        queries: `Q`.

    Returns:
        `(Q, n, w)`.

    Raises:
        InputError: The number of documents is not a multiple of the number of queries, or they have another form.
    """
    if isinstance(documents, Tensor):
        return documents
    vectors = vectors_of(documents)
    return vectors.reshape(queries, _each(documents, queries), vectors.shape[1])


def _each(documents: Points, queries: int) -> int:
    each, rest = divmod(len(documents), max(1, queries))
    if rest:
        raise InputError(
            f"{len(documents)} documents cannot be divided among {queries} queries; each must have the same number"
        )
    return each


def offsets_of(lengths: Tensor) -> Tensor:
    """Return the `(N + 1,)` int64 offsets of documents with `(N,)` tokens each."""
    return torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int64), (1, 0))
