"""Rows of an index of passages, and the documents that they are passages of.

Shapes: `Q` queries, `N` rows, `D` documents.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hyperseek._order import NOTHING
from hyperseek.errors import InputError
from hyperseek.index._splitting import Splitter
from hyperseek.plan import Candidates
from hyperseek.plan.exhaustive import exact_scores
from hyperseek.scoring import EMPTY_SCORE, Scorer
from hyperseek.store.rows import PASSAGE, check_documents, check_id, document_id_of, document_ids, row_id
from hyperseek.store.snapshot import Snapshot
from hyperseek.types import Document, Passage

Combine: TypeAlias = Literal["best", "soft"]
"""What the score of a document is: that of its best passage, or the soft maximum over all of them."""

MOST_SHOWN = 3
"""Passages that a hit names."""

# The temperature of the soft maximum, in standard deviations of the query's scores over passages of all kinds: more
# favours long documents (docs/LOG.md, 30 November).
_TEMPERATURE = 0.1
_SAMPLE = 256
# Documents that are found by their best passages for a soft maximum, beyond those asked for.
_MORE = 50

_Rows: TypeAlias = npt.NDArray[np.int64]


def split_documents(documents: Iterable[Document], splitter: Splitter) -> Iterator[Document]:
    """Yield the rows of documents: each passage as a document.

    Args:
        documents: Any number.
        splitter: Finds their passages.

    Yields:
        Passages, those of a document one after the other.

    Raises:
        InputError: A document cannot be stored, or its metadata have the key that places of passages have.
    """
    for position, document in enumerate(documents):
        check_documents([document], start=position)
        if PASSAGE in document.metadata:
            raise InputError(
                f"document {document.id!r} (position {position:,}) has the metadata {PASSAGE!r}, which an index of "
                f"passages uses itself; leave it out"
            )
        for number, part in enumerate(splitter.split(document)):
            place: dict[str, Any] = {"start": part.start, "end": part.end}
            if part.headings:
                place["headings"] = list(part.headings)
            if part.title != document.title:
                place["title"] = document.title
            text = document.text[part.start : part.end]
            yield Document(row_id(document.id, number), text, part.title, {**document.metadata, PASSAGE: place})


def whole_documents(rows: Iterable[Document]) -> Iterator[Document]:
    """Put documents together again from their rows, which follow each other."""
    for identity, passages in groupby(rows, key=lambda row: document_id_of(row.id)):
        parts: list[str] = []
        length = 0
        first: Document | None = None
        for row in passages:
            first = first or row
            parts.append(row.text[length - row.metadata[PASSAGE]["start"] :])
            length += len(parts[-1])
        assert first is not None
        yield _document(first, identity, "".join(parts))


def best_passage(row: Document) -> Document:
    """Return a document with the text of one of its passages."""
    return _document(row, document_id_of(row.id), row.text)


def as_passage(row: Document, score: float) -> Passage:
    """Return a row as a passage with its score."""
    place = row.metadata[PASSAGE]
    return Passage(row.text, place["start"], place["end"], score, tuple(place.get("headings", ())))


def _document(row: Document, identity: str, text: str) -> Document:
    metadata = {key: value for key, value in row.metadata.items() if key != PASSAGE}
    return Document(identity, text, row.metadata[PASSAGE].get("title", row.title), metadata)


@dataclass(frozen=True, slots=True)
class FoundDocument:
    """A document of a ranking.

    Attributes:
        id: Its id.
        score: Its score.
        passages: Rows of its best passages and their scores, best first.
    """

    id: str
    score: float
    passages: list[tuple[int, float]]


class Passages:
    """Which rows of a version of an index are of which document.

    Args:
        snapshot: The rows; those of a document follow each other.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        # Not kept for an index of whole documents, and read when it is first needed.
        self._read: tuple[Any, _Rows, _Rows] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def ids(self) -> Any:
        """Ids of all documents, as an Arrow array, in the order of their first rows."""
        return self._parts[0]

    @property
    def of_rows(self) -> _Rows:
        """`(N,)`: the number of each row's document."""
        return self._parts[1]

    @property
    def starts(self) -> _Rows:
        """`(D + 1,)`: the first row of each document, and `N`."""
        return self._parts[2]

    @property
    def _parts(self) -> tuple[Any, _Rows, _Rows]:
        if self._read is None:
            encoded = document_ids(self._snapshot.ids).dictionary_encode()
            numbers = encoded.indices.to_numpy().astype(np.int64)
            starts = np.flatnonzero(np.diff(numbers, prepend=-1))
            self._read = encoded.dictionary, numbers, np.append(starts, len(numbers))
        return self._read

    def rows_of(self, ids: Sequence[str]) -> list[_Rows]:
        """Return the rows of each document; none of one that is not stored."""
        for document_id in ids:
            check_id(document_id)
        firsts = self._snapshot.rows_of_ids([row_id(document_id, 0) for document_id in ids])
        if not len(firsts):
            return []
        starts = self.starts
        found = np.searchsorted(starts, firsts)
        return [
            np.arange(first, starts[number + 1]) if first >= 0 else np.empty(0, np.int64)
            for first, number in zip(firsts.tolist(), found.tolist(), strict=True)
        ]

    def documents_by_id(self, ids: Sequence[str]) -> dict[str, Document]:
        """Return whole documents by id; those that are not stored are missing."""
        distinct = list(dict.fromkeys(ids))
        stored = [rows for rows in self.rows_of(distinct) if len(rows)]
        if not stored:
            return {}
        order = np.argsort([rows[0] for rows in stored])
        read = self._snapshot.store.take(np.concatenate([stored[place] for place in order]).tolist())
        found = {document.id: document for document in whole_documents(read)}
        return {document_id: found[document_id] for document_id in distinct if document_id in found}

    def wanted(self, k: int, combine: Combine) -> int:
        """Return how many documents a search must find by their best passages."""
        return min(len(self), k + max(k, _MORE) if combine == "soft" else k)

    def lacking(self, found: Candidates, k: int) -> Tensor:
        """Return `(Q,)`: which queries found rows of fewer than `k` documents."""
        rows = found.rows.numpy()
        numbers = np.where(rows >= 0, self.of_rows[rows.clip(min=0)], -1)
        numbers.sort(axis=1)
        new = np.diff(numbers, axis=1, prepend=-1) != 0  # -1 sorts first
        return torch.from_numpy(new.sum(axis=1) < k)

    def ranked(self, scorer: Scorer, found: Candidates, k: int, combine: Combine) -> list[list[FoundDocument]]:
        """Rank documents by the scores of their passages.

        Args:
            scorer: `Q` compiled queries.
            found: Rows of each, best first.
            k: Documents of each query.
            combine: What the score of a document is.

        Returns:
            For each query its best documents; of equal scores first the one whose passage comes first.
        """
        scores = found.scores + 0.0  # 0.0, not -0.0
        grouped = [self._by_document(rows, own) for rows, own in zip(found.rows.tolist(), scores.tolist(), strict=True)]
        if combine == "soft" and len(self):
            return self._softly(scorer, [list(own)[: self.wanted(k, combine)] for own in grouped], k)
        best = [list(own.items())[:k] for own in grouped]
        names = self._names({number for own in best for number, _ in own})
        return [
            [FoundDocument(names[number], passages[0][1], passages[:MOST_SHOWN]) for number, passages in own]
            for own in best
        ]

    def best_scores(self, scorer: Scorer, lists: Sequence[Sequence[_Rows]]) -> list[list[float]]:
        """Return the score of each query's documents, given by their rows: that of the best passage."""
        rows = [np.concatenate([np.empty(0, np.int64), *own]) for own in lists]
        scores = exact_scores(self._snapshot, scorer, _padded(rows)).tolist()
        found = []
        for own, line in zip(lists, scores, strict=True):
            values = iter(line)
            found.append([max(next(values) for _ in passages) for passages in own])
        return found

    def _softly(self, scorer: Scorer, numbers: Sequence[Sequence[int]], k: int) -> list[list[FoundDocument]]:
        starts = self.starts
        rows = [
            np.concatenate([np.empty(0, np.int64), *(np.arange(starts[one], starts[one + 1]) for one in own)])
            for own in numbers
        ]
        padded = _padded(rows)
        scores = exact_scores(self._snapshot, scorer, padded) + 0.0
        spreads = self._spreads(scorer)
        ranked = []
        for own_rows, own_scores, spread in zip(padded.tolist(), scores.tolist(), spreads, strict=True):
            documents = []
            for number, passages in self._by_document(own_rows, own_scores).items():
                passages.sort(key=lambda passage: (-passage[1], passage[0]))
                documents.append((soft_maximum([score for _, score in passages], spread), number, passages))
            documents.sort(key=lambda document: (-document[0], document[2][0]))
            ranked.append(documents[:k])
        names = self._names({number for own in ranked for _, number, _ in own})
        return [
            [FoundDocument(names[number], score, passages[:MOST_SHOWN]) for score, number, passages in own]
            for own in ranked
        ]

    def _spreads(self, scorer: Scorer) -> list[float]:
        """Return the temperature of each query."""
        sample = np.unique(np.linspace(0, max(0, len(self._snapshot) - 1), _SAMPLE).astype(np.int64))
        rows = torch.from_numpy(sample).expand(len(scorer), -1)
        temperatures = []
        for own in exact_scores(self._snapshot, scorer, rows).double().numpy():
            real = own[np.isfinite(own) & (own != EMPTY_SCORE)]
            temperatures.append(_TEMPERATURE * float(real.std()) if len(real) else 0.0)
        return temperatures

    def _by_document(self, rows: Sequence[int], scores: Sequence[float]) -> dict[int, list[tuple[int, float]]]:
        found: dict[int, list[tuple[int, float]]] = {}
        of_rows = self.of_rows
        for row, score in zip(rows, scores, strict=True):
            if row != NOTHING:
                found.setdefault(int(of_rows[row]), []).append((row, score))
        return found

    def _names(self, numbers: set[int]) -> dict[int, str]:
        listed = sorted(numbers)
        return dict(zip(listed, self.ids.take(np.array(listed, np.int64)).to_pylist(), strict=True))


def soft_maximum(scores: Sequence[float], temperature: float) -> float:
    """Return t log Σ exp(s / t), which is the largest score where t is 0.

    Args:
        scores: At least one.
        temperature: At least 0.

    Returns:
        The soft maximum, at least the largest score.
    """
    most = max(scores)
    if temperature <= 0 or not math.isfinite(most):
        return most
    return most + temperature * math.log(sum(math.exp((score - most) / temperature) for score in scores))


def _padded(rows: Sequence[_Rows]) -> Tensor:
    parts = [torch.from_numpy(own) for own in rows]
    return torch.nn.utils.rnn.pad_sequence(parts, True, NOTHING) if parts else torch.empty(0, 0, dtype=torch.int64)
