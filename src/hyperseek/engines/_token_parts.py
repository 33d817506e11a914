"""The parts of a token index: their files, which are written once, and their search.

A part holds, for documents one after the other, where their tokens begin, the centroid and the code of each token, and
for each centroid the documents that have a token there. Everything is appended, so a killed writer goes on at the last
state that it noted. Inverted lists are sorted on the disk, a bounded number of entries at a time.

They are searched in the steps of PLAID (arXiv 2205.09707) with the bounds of WARP (arXiv 2501.17788).

1. Each query token looks into the inverted lists of its nearest centroids. A document scores the similarity of the best
   centroid that led to it, and for query tokens that did not reach it as much as the first centroid that was left out:
   it has no better one.
2. The best of these are scored by the centroids of all their tokens.
3. The best of those are scored by their codes.
4. The plan scores the best of those exactly, from the stored points.

Shapes: `N` documents of a part, `T` tokens, `t` tokens of a query, `d` dimensions, `K` centroids, `B` bytes of a code,
`n` candidates.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
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
from hyperseek.scoring import Points, Scorer, TokenPoints

_OFFSETS, _CENTROIDS, _CODES = "offsets.bin", "centroids.bin", "codes.bin"
_STARTS, _DOCUMENTS = "starts.bin", "documents.bin"
_RUN = "run-"
# Entries of the inverted lists that are sorted at a time: 8 MiB.
_SORTED = 1 << 20
# Tokens that are copied at a time.
_COPIED = 1 << 18

# Documents that are scored by their centroids, and by their codes: for each that is wanted, and at least. Of real
# tokens, 2 bits keep the best 10 among the first 30, centroids among the first 150, and lists among the first 500.
_BY_CENTROIDS, _BY_CODES = 8, 2
_LEAST_BY_CENTROIDS, _LEAST_BY_CODES = 500, 150
# Tokens whose centroids' similarities are gathered at a time.
_GATHERED = 1 << 15


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


class Walk:
    """Searches for one query after another, in one thread.

    Args:
        book: Centroids and buckets.
        parts: Of the index, in order.
        allowed: `(N,)`: positions that may be found; None for all.
        n: Candidates, at least 1, at most as many as may be found.

    Attributes:
        seen: Documents that the lists of the last query led to.
    """

    def __init__(self, book: Codebook, parts: Sequence[Part], allowed: NDArray[np.bool_] | None, n: int) -> None:
        self._book = book
        self._parts = parts
        self._firsts = np.cumsum([0, *(part.notes.documents for part in parts)])
        self._allowed = allowed
        self._n = n
        size = max(part.notes.documents for part in parts)
        self._scores = np.zeros(size, np.float32)
        self._reached = np.zeros(size, np.bool_)
        self._last = np.empty(size, np.int32)
        self.seen = 0

    def find(self, scorer: Scorer, vectors: Tensor, weights: Tensor, probes: int) -> tuple[NDArray[np.int64], Tensor]:
        """Find candidates of a query.

        Args:
            scorer: The query alone.
            vectors: `(t, d)`, its tokens.
            weights: `(t,)`, 0 for none.
            probes: Centroids into whose lists each token looks, at least 1; more where they lead to too few.

        Returns:
            `n` positions and their scores by codes, in no order.
        """
        n = self._n
        kept = weights != 0
        tokens, weights = vectors[kept].float(), weights[kept].float()
        rows, scores = np.empty(0, np.int64), np.empty(0, np.float32)
        if len(tokens):
            similar = tokens @ self._book.centroids.T
            while True:
                rows, scores = self._reach(similar, weights.numpy(), probes)
                if len(rows) >= n or probes >= len(self._book):
                    break
                probes *= 4  # a narrow filter: further documents lie farther away
            self.seen = len(rows)
            rows, scores = _highest(rows, scores, max(_LEAST_BY_CENTROIDS, _BY_CENTROIDS * n))
            coded = max(_LEAST_BY_CODES, _BY_CODES * n)
            if len(rows) > coded:
                scores = self._by_centroids(rows, similar, weights)
                rows, _ = _highest(rows, scores, coded)
        if len(rows) < n:
            rows = self._filled(rows)
        found = scorer.score(self._points(rows))[0]
        top = found.topk(min(n, len(found)), sorted=False)
        return rows[top.indices.numpy()], top.values

    def _reach(
        self, similar: Tensor, weights: NDArray[np.float32], probes: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the positions that the nearest centroids of the query tokens lead to, and bounds of their scores."""
        top, centroids = similar.topk(min(probes + 1, similar.shape[1]), dim=1)
        missing = top[:, -1].numpy()  # what a token that a document was not reached by scores at most
        # The best comes last, so that it is what remains of several.
        values = (top - top[:, -1:])[:, :probes].flip(1).numpy() * weights[:, None]
        lists = centroids[:, :probes].flip(1).tolist()
        base = float((missing * weights).sum())
        rows, scores = [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        for part, first in zip(self._parts, self._firsts, strict=False):
            allowed = None if self._allowed is None else self._allowed[first : first + part.notes.documents]
            for own, gains in zip(lists, values, strict=True):
                pieces = [part.documents_of(centroid) for centroid in own]
                documents = np.concatenate(pieces)
                gain = np.repeat(gains, [len(piece) for piece in pieces])
                if allowed is not None:
                    met = allowed[documents]
                    documents, gain = documents[met], gain[met]
                numbers = np.arange(len(documents), dtype=np.int32)
                self._last[documents] = numbers
                best = self._last[documents] == numbers
                documents = documents[best]
                self._scores[documents] += gain[best]
                self._reached[documents] = True
            found = np.flatnonzero(self._reached[: part.notes.documents])
            rows.append(found + first)
            scores.append(self._scores[found] + base)
            self._scores[found], self._reached[found] = 0, False
        return np.concatenate(rows), np.concatenate(scores)

    def _by_centroids(self, rows: NDArray[np.int64], similar: Tensor, weights: Tensor) -> NDArray[np.float32]:
        """Score documents, each of which has a token, by the centroids of their tokens."""
        scores = np.empty(len(rows), np.float32)
        for part, own, places in self._parts_of(rows):
            tokens, lengths = part.tokens_of(own)
            ends = np.cumsum(lengths)
            for chosen in np.split(np.arange(len(own)), np.flatnonzero(np.diff(ends // _GATHERED)) + 1):
                start, stop = int(ends[chosen[0]] - lengths[chosen[0]]), int(ends[chosen[-1]])
                centroids = torch.from_numpy(part.centroids[tokens[start:stop]].astype(np.int64))
                gathered = similar.index_select(1, centroids).numpy()
                best = np.maximum.reduceat(gathered, ends[chosen] - lengths[chosen] - start, axis=1)
                scores[places[chosen]] = weights.numpy() @ best
        return scores

    def _filled(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return `n` positions: those that were reached, and others, as documents without tokens."""
        left = np.ones(self._firsts[-1], np.bool_) if self._allowed is None else self._allowed.copy()
        left[rows] = False
        return np.concatenate([rows, np.flatnonzero(left)[: self._n - len(rows)]])

    def _points(self, rows: NDArray[np.int64]) -> TokenPoints:
        """Return what the codes of documents stand for, in the order of the rows."""
        pieces, order = [], [np.empty(0, np.int64)]
        for part, own, places in self._parts_of(rows):
            pieces.append(part.points(own))
            order.append(places)
        joined: TokenPoints = TokenPoints.concatenate(pieces) if len(pieces) > 1 else pieces[0]
        places = np.concatenate(order)
        return joined if bool((np.diff(places) > 0).all()) else joined[torch.from_numpy(np.argsort(places))]

    def _parts_of(self, rows: NDArray[np.int64]) -> list[tuple[Part, NDArray[np.int64], NDArray[np.int64]]]:
        """Return for each part that has some of the rows their positions in it, and their places among the rows."""
        firsts = self._firsts
        owner = np.searchsorted(firsts, rows, side="right") - 1
        return [
            (part, rows[places] - firsts[number], places)
            for number, part in enumerate(self._parts)
            if len(places := np.flatnonzero(owner == number))
        ]


def _highest(
    rows: NDArray[np.int64], scores: NDArray[np.float32], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the rows of the highest scores, ascending, and these scores; of equal ones at the end any."""
    if len(rows) <= count:
        return rows, scores
    places = np.sort(np.argpartition(scores, len(scores) - count)[len(scores) - count :])
    return rows[places], scores[places]
