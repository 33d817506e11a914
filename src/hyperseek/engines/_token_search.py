"""Searching a token index, in the steps of PLAID (arXiv 2205.09707) with the bounds of WARP (arXiv 2501.17788).

1. Each query token looks into the inverted lists of its nearest centroids. A document scores the similarity of the best
   centroid that led to it, and for query tokens that did not reach it as much as the first centroid that was left out:
   it has no better one.
2. The best of these are scored by the centroids of all their tokens.
3. The best of those are scored by their codes.
4. The plan scores the best of those exactly, from the stored points.

Shapes: `N` documents, `K` centroids, `t` tokens of a query, `d` dimensions, `n` candidates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperseek.engines._token_codes import Codebook
from hyperseek.engines._token_parts import Part
from hyperseek.scoring import Scorer, TokenPoints

# Documents that are scored by their centroids, and by their codes: for each that is wanted, and at least. Of real
# tokens, 2 bits keep the best 10 among the first 30, centroids among the first 150, and lists among the first 500.
_BY_CENTROIDS, _BY_CODES = 8, 2
_LEAST_BY_CENTROIDS, _LEAST_BY_CODES = 500, 150
# Tokens whose centroids' similarities are gathered at a time.
_GATHERED = 1 << 15


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
