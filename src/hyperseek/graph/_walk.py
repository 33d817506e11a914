"""One query's walk along the graph: which documents to score next, and which results to keep.

Plain numpy and no scoring: a walk names its `frontier`, is given the scores of it, and names the next one. The paper's
walk ("Hypencoder: Hypernetworks for Information Retrieval", arXiv 2502.05364, section 3.4) puts documents into a heap
one after the other; here each iteration is a few array operations with the same outcome, ties included.

Shapes: `N` documents, `n` documents of a frontier.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hyperseek._errors import StoreError
from hyperseek._order import best_places
from hyperseek.graph._settings import GraphSearchConfig

Rows = NDArray[np.int32]
Scores = NDArray[np.float32]


class Ground:
    """What all walks over a graph share.

    Args:
        neighbours: `(N, degree)` integers, -1 for none.
        allowed: `(N,)` booleans: documents that may be returned; None for all.
    """

    def __init__(self, neighbours: Rows, allowed: NDArray[np.bool_] | None) -> None:
        self.neighbours = neighbours
        self.allowed = allowed
        self._place = np.empty(len(neighbours), dtype=np.int32)

    def new_neighbours(self, rows: Rows, seen: NDArray[np.bool_]) -> Rows:
        """Return the neighbours of some documents that were not seen, in order of discovery, and mark them as seen."""
        found: Rows = self.neighbours[rows].reshape(-1)
        found = found[found >= 0]
        if len(found) and int(found.max()) >= len(self._place):
            raise StoreError(
                f"the graph names document {int(found.max())} of {len(self._place)}: it is damaged; build it again"
            )
        found = found[~seen[found]]
        # Of a document found several times the first place is written last, and so remains.
        places = np.arange(len(found), dtype=np.int32)
        self._place[found[::-1]] = places[::-1]
        found = found[self._place[found] == places]
        seen[found] = True
        return found


class Best:
    """The best `k` documents so far, as the original's heap keeps them: a tie does not replace what is there."""

    def __init__(self, k: int) -> None:
        self._k = k
        self.scores: Scores = np.empty(0, dtype=np.float32)  # worst first; equal scores by row
        self.rows: Rows = np.empty(0, dtype=np.int32)

    @property
    def threshold(self) -> float:
        """What a document must beat to be kept."""
        return float(self.scores[0]) if len(self.scores) == self._k else -np.inf

    def offer(self, scores: Scores, rows: Rows) -> int:
        """Offer documents, best first.

        Args:
            scores: `(n,)`, descending.
            rows: `(n,)`.

        Returns:
            How many were kept, also if others of the same offer replaced none of them.
        """
        free = self._k - len(self.scores)
        rivals = self.scores[: max(0, len(scores) - free)]
        # Offers fall and the kept rise, so whoever is replaced is a prefix of both.
        replaced = int(np.count_nonzero(scores[free : free + len(rivals)] > rivals))
        kept = min(free, len(scores)) + replaced
        self.scores = np.concatenate([scores[:kept], self.scores[replaced:]])
        self.rows = np.concatenate([rows[:kept], self.rows[replaced:]])
        order = np.lexsort((self.rows, self.scores))
        self.scores, self.rows = self.scores[order], self.rows[order]
        return kept


class Walk:
    """The paper's greedy walk of one query.

    Args:
        ground: What all walks share.
        entry_points: Distinct rows to begin with.
        k: Results to keep, at least 1.
        config: The parameters.

    Attributes:
        frontier: Rows to be scored next; empty when the walk has ended.
        best: The best documents, whether allowed or not: what decides where to go.
        results: The best allowed documents.
        scored: Number of documents scored.
        iterations: Number of frontiers scored.
    """

    def __init__(self, ground: Ground, entry_points: Rows, *, k: int, config: GraphSearchConfig) -> None:
        self._ground = ground
        self._seen = np.zeros(len(ground.neighbours), dtype=np.bool_)
        self._seen[entry_points] = True
        self._k = k
        self._config = config
        self.frontier = entry_points
        self.best = Best(k)
        self.results = self.best if ground.allowed is None else Best(k)
        self.scored = 0
        self.iterations = 0

    def step(self, scores: Scores) -> None:
        """Take the `(n,)` scores of the frontier and choose the next one."""
        rows = self.frontier
        self.scored += len(rows)
        self.iterations += 1
        kept = self._keep(scores, rows)
        self.frontier = rows[:0]
        if self.iterations < self._config.max_iter:
            self.frontier = self._next(scores, rows, kept)

    def _keep(self, scores: Scores, rows: Rows) -> int:
        order = best_places(scores, self._k)
        kept = self.best.offer(scores[order], rows[order])
        if self._ground.allowed is not None:
            allowed = self._ground.allowed[rows]
            scores, rows = scores[allowed], rows[allowed]
            order = best_places(scores, self._k)
            kept += self.results.offer(scores[order], rows[order])
        return kept

    def _next(self, scores: Scores, rows: Rows, kept: int) -> Rows:
        if self._config.early_stop and not kept:
            return rows[:0]
        origins = rows[best_places(scores, self._config.ncandidates)]
        return self._ground.new_neighbours(origins, self._seen)


class BestFirstWalk(Walk):
    """A walk that goes on from the best documents found anywhere on its way; arguments as for `Walk`."""

    def __init__(self, ground: Ground, entry_points: Rows, *, k: int, config: GraphSearchConfig) -> None:
        super().__init__(ground, entry_points, k=k, config=config)
        self._left = config.max_iter - 1  # times to go on
        self._open_scores: Scores = np.empty(0, dtype=np.float32)  # scored and not gone on from, best first
        self._open_rows: Rows = np.empty(0, dtype=np.int32)

    def _next(self, scores: Scores, rows: Rows, kept: int) -> Rows:
        if not self._left:
            return rows[:0]
        width = self._config.ncandidates
        scores = np.concatenate([self._open_scores, scores])
        rows = np.concatenate([self._open_rows, rows])
        reachable = best_places(scores, width * self._left)
        scores, rows = scores[reachable], rows[reachable]
        found = rows[:0]
        while self._left and len(rows) and not len(found):
            if self._config.early_stop and scores[0] <= self.results.threshold:
                break
            found = self._ground.new_neighbours(rows[:width], self._seen)
            scores, rows = scores[width:], rows[width:]
            self._left -= 1
        self._open_scores, self._open_rows = scores, rows
        return found
