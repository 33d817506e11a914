"""The files of a token index: documents in parts that are written once, each with its own inverted lists.

A part holds, for documents one after the other, where their tokens begin, the centroid and the code of each token, and
for each centroid the documents that have a token there. Everything is appended, so a killed writer goes on at the last
state that it noted. Inverted lists are sorted on the disk, a bounded number of entries at a time.

Shapes: `N` documents of a part, `T` tokens, `K` centroids, `B` bytes of a code.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from hyperseek._config import Config
from hyperseek.engines._token_codes import Codebook, squared_error
from hyperseek.errors import InputError, StoreError
from hyperseek.scoring import Points, TokenPoints

_OFFSETS, _CENTROIDS, _CODES = "offsets.bin", "centroids.bin", "codes.bin"
_STARTS, _DOCUMENTS = "starts.bin", "documents.bin"
_RUN = "run-"
# Entries of the inverted lists that are sorted at a time: 8 MiB.
_SORTED = 1 << 20
# Tokens that are copied at a time.
_COPIED = 1 << 18


class PartNotes(Config):
    """What is known of a part.

    Attributes:
        folder: Where it lies, within the structure's.
        documents: `N`.
        tokens: `T`.
        squares: Sum of the tokens' squared norms.
        centroid_error: Sum of their squared distances from their centroids.
        code_error: Sum of their squared distances from what their codes stand for.
    """

    folder: str = Field(pattern=r"^part-\d{1,9}$")
    documents: int = Field(default=0, ge=0)
    tokens: int = Field(default=0, ge=0)
    squares: float = 0.0
    centroid_error: float = 0.0
    code_error: float = 0.0


class PartWriter:
    """Appends documents to the files of a part.

    Args:
        folder: Of the structure.
        notes: The part: a new one, or what was noted when its files were last flushed.
        book: Centroids and buckets; one without buckets stores float16.
    """

    def __init__(self, folder: Path, notes: PartNotes, book: Codebook) -> None:
        self.notes = notes
        self._book = book
        self._place = folder / notes.folder
        self._place.mkdir(exist_ok=True)
        widths = {_OFFSETS: 8 * (notes.documents + 1 if notes.documents else 0)}
        widths |= {_CENTROIDS: _numbers(book).itemsize * notes.tokens, _CODES: _code_bytes(book) * notes.tokens}
        with ExitStack() as stack:
            self._files = {name: stack.enter_context(_resumed(self._place / name, at)) for name, at in widths.items()}
            self._stack = stack.pop_all()
        if not notes.documents:
            self._files[_OFFSETS].write(np.zeros(1, np.int64).tobytes())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, points: Points) -> None:
        """Assign and append documents; InputError names the position of one that is not finite."""
        vectors = points.rows.float()
        finite = vectors.isfinite().all(dim=1)
        if self._book.bits == 0:
            finite &= vectors.abs().amax(dim=1) <= torch.finfo(torch.float16).max
        if not finite.all():
            row = points.document_of(int((~finite).nonzero()[0]))
            raise InputError(
                f"document {self.notes.documents + row} (from 0) has a token vector whose numbers are infinite, "
                f"undefined or too large"
            )
        assigned = self._book.assign(vectors)
        if self._book.bits:
            codes = self._book.encode(vectors, assigned).numpy()
            errors = [
                squared_error(part, self._book.decode(own, place))
                for part, own, place in _pieces(vectors, codes, assigned)
            ]
        else:
            codes, errors = vectors.half().numpy(), [0.0]
        distances = [
            squared_error(part, self._book.centroids[place]) for part, _, place in _pieces(vectors, codes, assigned)
        ]
        self.append(
            points.lengths.numpy(),
            assigned.numpy().astype(_numbers(self._book)),
            codes,
            PartNotes(
                folder=self.notes.folder,
                squares=float(vectors.square().sum(dtype=torch.float64)),
                centroid_error=sum(distances),
                code_error=sum(errors),
            ),
        )

    def append(self, lengths: NDArray[Any], assigned: NDArray[Any], codes: NDArray[Any], errors: PartNotes) -> None:
        """Append documents whose tokens are coded.

        Args:
            lengths: `(N,)`.
            assigned: `(T,)` centroids.
            codes: `(T, B)` bytes, or `(T, d)` float16.
            errors: Sums over these tokens.
        """
        before = self.notes
        offsets = before.tokens + np.cumsum(lengths, dtype=np.int64)
        for name, array in ((_OFFSETS, offsets), (_CENTROIDS, assigned), (_CODES, codes)):
            self._files[name].write(_bytes(array))
        self.notes = before.model_copy(
            update={
                "documents": before.documents + len(lengths),
                "tokens": before.tokens + len(assigned),
                "squares": before.squares + errors.squares,
                "centroid_error": before.centroid_error + errors.centroid_error,
                "code_error": before.code_error + errors.code_error,
            }
        )

    def flush(self) -> None:
        """Put everything so far on the disk."""
        for file in self._files.values():
            _sync(file)

    def finish(self) -> PartNotes:
        """Write the inverted lists, and return what is known of the part."""
        self.flush()
        for left in self._place.glob(f"{_RUN}*"):
            left.unlink()
        part = Part(self._place.parent, self.notes, self._book)
        counts = np.zeros(len(self._book), np.int64)
        runs = []
        for number, keys in enumerate(_sorted_runs(part)):
            runs.append(self._place / f"{_RUN}{number}")
            keys.tofile(runs[-1])
            counts += np.bincount(keys >> 32, minlength=len(counts))
        lengths = np.zeros(len(counts) + 1, np.int64)
        with (self._place / _DOCUMENTS).open("wb") as file:
            for keys in _merged(runs, counts):
                lengths[1:] += np.bincount(keys >> 32, minlength=len(counts))
                file.write(_bytes((keys & 0xFFFFFFFF).astype(np.int32)))
            _sync(file)
        with (self._place / _STARTS).open("wb") as file:
            file.write(_bytes(np.cumsum(lengths)))
            _sync(file)
        for run in runs:
            run.unlink()
        return self.notes


class Part:
    """A part, mapped into memory.

    Args:
        folder: Of the structure.
        notes: What is known of it.
        book: What its codes stand for.

    Attributes:
        notes: What is known of it.
        path: Its folder.
        offsets: `(N + 1,)` int64: where each document's tokens begin.
        centroids: `(T,)` uint16, or int32 where there are too many.
        codes: `(T, B)` bytes, or `(T, d)` float16.
    """

    def __init__(self, folder: Path, notes: PartNotes, book: Codebook) -> None:
        self.notes = notes
        self._book = book
        self.path = place = folder / notes.folder
        self.offsets = _mapped(place / _OFFSETS, np.int64, (notes.documents + 1,))
        self.centroids = _mapped(place / _CENTROIDS, _numbers(book), (notes.tokens,))
        self.codes = (
            _mapped(place / _CODES, np.uint8, (notes.tokens, book.code_bytes))
            if book.bits
            else _mapped(place / _CODES, np.float16, (notes.tokens, book.dimension))
        )
        self._lists: tuple[NDArray[np.int64], NDArray[np.int32]] | None = None
        if (place / _STARTS).exists():
            starts = _mapped(place / _STARTS, np.int64, (len(book) + 1,))
            self._lists = np.array(starts), _mapped(place / _DOCUMENTS, np.int32, (int(starts[-1]),))

    def check(self, *, remedy: str) -> None:
        """Raise StoreError where offsets or lists lead out of the files."""
        sound = self._lists is not None and all(
            array[0] == 0 and array[-1] == end and bool((np.diff(array) >= 0).all())
            for array, end in ((self.offsets, self.notes.tokens), (self._lists[0], len(self._lists[1])))
        )
        if not sound:
            raise StoreError(f"{self.path} holds no sound part of a token index; {remedy}")

    def documents_of(self, centroid: int) -> NDArray[np.int32]:
        """Return the documents that have a token at a centroid, ascending."""
        assert self._lists is not None
        starts, documents = self._lists
        return documents[starts[centroid] : starts[centroid + 1]]

    def tokens_of(self, documents: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the places of the tokens of some documents, one after the other, and how many each has."""
        first = self.offsets[documents]
        lengths = self.offsets[documents + 1] - first
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        return np.arange(total) + np.repeat(first - (ends - lengths), lengths), lengths

    def points(self, documents: NDArray[np.int64]) -> TokenPoints:
        """Return what the codes of some documents stand for."""
        places, lengths = self.tokens_of(documents)
        codes = self.codes[places]
        vectors = (
            self._book.decode(codes, torch.from_numpy(self.centroids[places].astype(np.int64)))
            if self._book.bits
            else torch.from_numpy(codes).float()
        )
        return TokenPoints.from_tensors(vectors, torch.from_numpy(lengths))


def write_joined(
    folder: Path, name: str, parts: list[tuple[Part, NDArray[np.bool_] | None]], book: Codebook
) -> PartNotes:
    """Write a part that holds the documents of others.

    Args:
        folder: Of the structure.
        name: Of the new part.
        parts: In order, each with `(N,)` booleans, True for documents that stay; None for all.
        book: What their codes stand for.

    Returns:
        The notes of the new part.
    """
    with PartWriter(folder, PartNotes(folder=name), book) as writer:
        for part, kept in parts:
            chosen = np.arange(part.notes.documents) if kept is None else np.flatnonzero(kept)
            lengths = np.diff(part.offsets)[chosen]
            bounds = np.cumsum(lengths) // _COPIED
            for rows in np.split(chosen, np.flatnonzero(np.diff(bounds)) + 1):
                places, own = part.tokens_of(rows)
                share = len(places) / max(1, part.notes.tokens)
                sums = ("squares", "centroid_error", "code_error")
                errors = part.notes.model_copy(update={key: getattr(part.notes, key) * share for key in sums})
                writer.append(own, part.centroids[places], part.codes[places], errors)
        return writer.finish()


def _code_bytes(book: Codebook) -> int:
    return book.code_bytes if book.bits else 2 * book.dimension


def _numbers(book: Codebook) -> np.dtype[Any]:
    return np.dtype(np.uint16 if len(book) <= 1 << 16 else np.int32)


def _resumed(path: Path, size: int) -> IO[bytes]:
    """Open a file for writing behind its first `size` bytes; what a killed writer left behind them is cut off."""
    file = path.open("r+b" if size else "w+b")
    file.truncate(size)
    file.seek(size)
    return file


def _bytes(array: NDArray[Any]) -> memoryview | bytes:
    return np.ascontiguousarray(array).data.cast("B") if array.size else b""  # which cannot be cast


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _mapped(path: Path, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    # A file without bytes cannot be mapped; and a plain view of what is mapped is sliced in half the time.
    return np.asarray(np.memmap(path, dtype, "r", shape=shape)) if all(shape) else np.empty(shape, dtype)


def _pieces(
    vectors: Tensor, codes: NDArray[Any], assigned: Tensor, size: int = 16384
) -> Iterator[tuple[Tensor, NDArray[Any], Tensor]]:
    for start in range(0, len(vectors), size):
        part = slice(start, start + size)
        yield vectors[part], codes[part], assigned[part]


def _sorted_runs(part: Part) -> Iterator[NDArray[np.int64]]:
    """Yield the distinct pairs of centroid and document, `centroid << 32 | document`, sorted within each run."""
    tokens = part.notes.tokens
    with (part.path / _CENTROIDS).open("rb") as file:
        for start in range(0, tokens, _SORTED):
            assigned = np.fromfile(file, part.centroids.dtype, min(_SORTED, tokens - start)).astype(np.int64)
            # The document of a token is the last one that begins at it or before; empty ones begin there too.
            first = int(np.searchsorted(part.offsets, start, side="right")) - 1
            last = int(np.searchsorted(part.offsets, start + len(assigned), side="left"))
            bounds = np.clip(part.offsets[first : last + 1] - start, 0, len(assigned))
            owners = np.repeat(np.arange(first, last), np.diff(bounds))
            yield np.unique(assigned << 32 | owners)


def _merged(runs: list[Path], counts: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Merge sorted runs, which hold so many entries of each centroid, a bounded number of entries at a time."""
    files = [np.memmap(run, np.int64, "r") for run in runs]
    done = [0] * len(files)
    starts = np.concatenate([[0], np.cumsum(counts)])
    centroid = 0
    while centroid < len(counts):
        end = max(centroid + 1, int(np.searchsorted(starts, starts[centroid] + _SORTED, side="right")) - 1)
        pieces = [np.empty(0, np.int64)]
        for number, file in enumerate(files):
            stop = int(np.searchsorted(file, np.int64(end) << 32))
            pieces.append(np.array(file[done[number] : stop]))
            done[number] = stop
        yield np.unique(np.concatenate(pieces))  # a document may lie in two runs
        centroid = end
