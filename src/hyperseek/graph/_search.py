"""Graph search: a walk along the neighbour graph that scores few documents instead of all, by any scorer.

The paper's walk ("Hypencoder: Hypernetworks for Information Retrieval", arXiv 2502.05364, section 3.4) pushes documents
onto a heap one by one; here each iteration is a few array operations with the same outcome, ties included. A walk is
plain NumPy and does not score: it names a `frontier`, is given the frontier's scores, and names the next one.

The queries of a batch walk side by side. On a CPU each core scores whole frontiers, one query at a time, which is
faster than joining them, since a query's network reads only its own documents. On other devices the frontiers are
padded and scored together. Shapes: `Q` queries, `N` documents, `n` documents of a frontier, `d` dimensions.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from hyperseek._config import Config
from hyperseek._machine import run_on_cores
from hyperseek._order import best_places
from hyperseek.errors import InputError, StoreError
from hyperseek.graph._graph import NeighbourGraph
from hyperseek.graph.building import QUERIES_TOGETHER
from hyperseek.scoring import Points, Scorer, vectors_of


class GraphSearchConfig(Config):
    """How far a search walks. The defaults are the original's.

    Attributes:
        num_entry_points: Documents at which every query starts, drawn once for all queries; at most all documents.
        ncandidates: Documents whose neighbours are scored in each iteration.
        max_iter: Most iterations; scoring the entry points is the first.
        early_stop: Whether to stop as soon as an iteration improves nothing.
        seed: Seed of the entry points.
        strategy: `"greedy"`, the paper's, expands the best documents that the last iteration found, and never turns
            back. `"best_first"` expands the best of all documents that are not expanded yet, so it may turn back; with
            early stop it ends when none of them beats the `k`-th result.
    """

    num_entry_points: Annotated[int, Field(ge=1)] = 10_000
    ncandidates: Annotated[int, Field(ge=1)] = 50
    max_iter: Annotated[int, Field(ge=1)] = 16
    early_stop: bool = True
    seed: int = 43
    strategy: Literal["greedy", "best_first"] = "greedy"


GRAPH_PRESETS = {
    "efficient_1": GraphSearchConfig(num_entry_points=10_000, ncandidates=64, max_iter=16),
    "efficient_2": GraphSearchConfig(num_entry_points=10_000, ncandidates=328, max_iter=16),
}
"""The paper's "Efficient 1" and "Efficient 2"; of the second only `ncandidates` is known, the rest is the first's."""

Rows = NDArray[np.int32]
Scores = NDArray[np.float32]

# Numbers of padded documents that are scored at once on devices other than the CPU: 512 MiB of float32.
_PADDED_ELEMENTS = 1 << 27


class SearchedGraph:
    """The graph of one search, shared by its walks.

    Args:
        neighbours: `(N, degree)` integers, -1 for none.
        allowed: `(N,)` booleans: documents that may be returned; None for all.
    """

    def __init__(self, neighbours: Rows, allowed: NDArray[np.bool_] | None) -> None:
        self.neighbours = neighbours
        self.allowed = allowed
        self._place = np.empty(len(neighbours), dtype=np.int32)

    def new_neighbours(self, rows: Rows, seen: NDArray[np.bool_]) -> Rows:
        """Return the unseen neighbours of documents, in order of discovery, and mark them as seen."""
        found: Rows = self.neighbours[rows].reshape(-1)
        found = found[found >= 0]
        if len(found) and int(found.max()) >= len(self._place):
            raise StoreError(
                f"the graph names document {int(found.max())} of {len(self._place)}: it is damaged; build it again"
            )
        found = found[~seen[found]]
        # If a document is found several times, its first place is written last and so remains.
        places = np.arange(len(found), dtype=np.int32)
        self._place[found[::-1]] = places[::-1]
        found = found[self._place[found] == places]
        seen[found] = True
        return found


class Best:
    """The best `k` documents so far, as the original's heap keeps them: a tie replaces nothing."""

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
        # Offers fall and kept scores rise, so those that win and those that lose are prefixes of both.
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
        graph: The graph that all walks of the search share.
        entry_points: Distinct rows to start with.
        k: Results to keep, at least 1.
        config: The parameters.

    Attributes:
        frontier: Rows to score next; empty when the walk has ended.
        best: The best documents, allowed or not, which decide where to go.
        results: The best allowed documents.
        scored: Number of documents scored.
        iterations: Number of frontiers scored.
    """

    def __init__(self, graph: SearchedGraph, entry_points: Rows, *, k: int, config: GraphSearchConfig) -> None:
        self._graph = graph
        self._seen = np.zeros(len(graph.neighbours), dtype=np.bool_)
        self._seen[entry_points] = True
        self._k = k
        self._config = config
        self.frontier = entry_points
        self.best = Best(k)
        self.results = self.best if graph.allowed is None else Best(k)
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
        if self._graph.allowed is not None:
            allowed = self._graph.allowed[rows]
            scores, rows = scores[allowed], rows[allowed]
            order = best_places(scores, self._k)
            kept += self.results.offer(scores[order], rows[order])
        return kept

    def _next(self, scores: Scores, rows: Rows, kept: int) -> Rows:
        if self._config.early_stop and not kept:
            return rows[:0]
        origins = rows[best_places(scores, self._config.ncandidates)]
        return self._graph.new_neighbours(origins, self._seen)


class BestFirstWalk(Walk):
    """A walk that expands the best documents found anywhere on its way; arguments as for `Walk`."""

    def __init__(self, graph: SearchedGraph, entry_points: Rows, *, k: int, config: GraphSearchConfig) -> None:
        super().__init__(graph, entry_points, k=k, config=config)
        self._left = config.max_iter - 1  # iterations
        self._open_scores: Scores = np.empty(0, dtype=np.float32)  # scored and not expanded, best first
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
            found = self._graph.new_neighbours(rows[:width], self._seen)
            scores, rows = scores[width:], rows[width:]
            self._left -= 1
        self._open_scores, self._open_rows = scores, rows
        return found


_WALKS = {"greedy": Walk, "best_first": BestFirstWalk}


@dataclass(frozen=True, slots=True, eq=False)
class GraphSearchResult:
    """The result of a graph search.

    Attributes:
        scores: `(Q, k)` float32, best first; -inf where fewer documents were found.
        rows: `(Q, k)` int64; -1 where fewer were found. Equal scores by row.
        scored: `(Q,)` int64, number of documents scored.
        iterations: `(Q,)` int64, number of frontiers scored, including the entry points.
    """

    scores: Tensor
    rows: Tensor
    scored: Tensor
    iterations: Tensor


def graph_search(
    scorer: Scorer,
    points: Points,
    graph: NeighbourGraph,
    *,
    k: int,
    config: GraphSearchConfig | None = None,
    entry_points: Tensor | NDArray[np.integer] | Sequence[int] | None = None,
    allowed: Tensor | NDArray[np.bool_] | None = None,
) -> GraphSearchResult:
    """Find good documents for every query without scoring all of them.

    Apart from the scorer's rounding, results do not depend on which queries are searched together. `scorer.score` is
    called in several threads.

    Args:
        scorer: `Q` compiled queries.
        points: `N` documents; they may be memory-mapped, and on another device than the scorer.
        graph: The neighbours of these documents.
        k: At least 1; may exceed the number of documents.
        config: The parameters; None for the original's.
        entry_points: Distinct rows at which all queries start; None to draw them as the original does, with
            `random.Random(seed).sample`.
        allowed: `(N,)` booleans. Documents that are not allowed may be walked through, but are not returned. If no
            more are allowed than there are entry points, all of them are scored instead, which is exact.

    Returns:
        The best documents found.

    Raises:
        InputError: Sizes disagree, an entry point is not a row or is given twice, or a score is not a number.
    """
    config = config or GraphSearchConfig()
    if k < 1:
        raise InputError(f"k must be at least 1, not {k}")
    if len(graph) != len(points):
        raise InputError(f"the graph has {len(graph)} documents, but {len(points)} were given; build it again")
    mask = _check_allowed(allowed, len(points))
    entries = _entry_points(entry_points, len(points), config)
    if mask is not None and np.count_nonzero(mask) <= len(entries):
        entries, mask = np.flatnonzero(mask).astype(np.int32), None
        config = config.model_copy(update={"max_iter": 1})
    searched = SearchedGraph(graph.neighbours, mask)
    parts = []
    with torch.inference_mode():
        starts = _take(points, entries, scorer.device)
        for first in range(0, len(scorer), QUERIES_TOGETHER):
            group = scorer[first : first + QUERIES_TOGETHER]
            walks = [_WALKS[config.strategy](searched, entries, k=k, config=config) for _ in range(len(group))]
            if len(entries):
                _walk(walks, group, points, starts, first)
            parts.append(_collect(walks, k))
    return _join(parts, k)


def draw_entry_points(count: int, config: GraphSearchConfig) -> Rows:
    """Draw the rows at which searches start, as the original does; all rows, in any order, if there are too few."""
    drawn = random.Random(config.seed).sample(range(count), min(config.num_entry_points, count))
    return np.array(drawn, dtype=np.int32)


def _walk(walks: Sequence[Walk], scorer: Scorer, points: Points, entries: Points, first: int) -> None:
    """Run all walks of a group to their ends; `first` is the number of the group's first query."""
    _step(walks, list(range(len(walks))), list(scorer.score(entries).float().cpu().numpy()), first)
    singles = [scorer[query : query + 1] for query in range(len(walks))]
    while live := [query for query, walk in enumerate(walks) if len(walk.frontier)]:
        frontiers = [walks[query].frontier for query in live]
        if scorer.device.type == "cpu" or scorer.space.ragged:
            scores = _score_on_cores([singles[query] for query in live], points, frontiers)
        else:
            scores = _score_padded(scorer[torch.tensor(live, device=scorer.device)], points, frontiers)
        _step(walks, live, scores, first)


def _step(walks: Sequence[Walk], live: Sequence[int], scores: Sequence[Scores], first: int) -> None:
    for query, own in zip(live, scores, strict=True):
        if np.isnan(own).any():
            raise InputError(
                f"query {first + query} (from 0) scores documents as not-a-number; are its own numbers finite?"
            )
        walks[query].step(own)


def _score_on_cores(scorers: Sequence[Scorer], points: Points, frontiers: Sequence[Rows]) -> list[Scores]:
    scores: dict[int, Scores] = {}
    pending = iter(range(len(scorers)))

    def work() -> None:
        for query in pending:
            documents = _take(points, frontiers[query], scorers[query].device)
            scores[query] = scorers[query].score(documents)[0].float().cpu().numpy()

    run_on_cores(work, at_most=len(scorers))
    return [scores[query] for query in range(len(scorers))]


def _score_padded(scorer: Scorer, points: Points, frontiers: Sequence[Rows]) -> list[Scores]:
    """Score each query's own frontier, as many queries at once as memory allows."""
    longest = max(map(len, frontiers))
    together = max(1, _PADDED_ELEMENTS // (longest * points.dimension))
    scores: list[Scores] = []
    for start in range(0, len(frontiers), together):
        part = frontiers[start : start + together]
        padded = np.zeros((len(part), max(map(len, part))), dtype=np.int32)
        for row, frontier in zip(padded, part, strict=True):
            row[: len(frontier)] = frontier
        documents = vectors_of(_take(points, padded.reshape(-1), scorer.device)).view(*padded.shape, -1)
        own = scorer[start : start + together].score_own(documents).float().cpu().numpy()
        scores += [row[: len(frontier)] for row, frontier in zip(own, part, strict=True)]
    return scores


def _take(points: Points, rows: Rows, device: torch.device) -> Points:
    return points[torch.from_numpy(rows.astype(np.int64))].to(device)


def _check_allowed(allowed: Tensor | NDArray[np.bool_] | None, count: int) -> NDArray[np.bool_] | None:
    if allowed is None:
        return None
    mask = np.asarray(allowed.cpu() if isinstance(allowed, Tensor) else allowed)
    if mask.dtype != np.bool_ or mask.shape != (count,):
        raise InputError(f"allowed must be ({count},) booleans, not {mask.dtype} of shape {mask.shape}")
    return mask


def _entry_points(
    given: Tensor | NDArray[np.integer] | Sequence[int] | None, count: int, config: GraphSearchConfig
) -> Rows:
    if given is None:
        return draw_entry_points(count, config)
    rows = np.asarray(given.cpu() if isinstance(given, Tensor) else given)
    if rows.ndim != 1 or not len(rows) or rows.dtype.kind not in "iu":
        raise InputError(f"entry points must be a list of rows, not {rows.dtype} of shape {rows.shape}")
    if rows.min() < 0 or rows.max() >= count:
        raise InputError(f"entry points must be rows from 0 to {count - 1}, not {rows.min()} to {rows.max()}")
    if len(np.unique(rows)) < len(rows):
        raise InputError("an entry point is given twice; give every row once")
    return rows.astype(np.int32)


def _collect(walks: Sequence[Walk], k: int) -> GraphSearchResult:
    scores = np.full((len(walks), k), -np.inf, dtype=np.float32)
    rows = np.full((len(walks), k), -1, dtype=np.int64)
    for query, walk in enumerate(walks):
        found = walk.results
        order = np.lexsort((found.rows, -found.scores))
        scores[query, : len(order)] = found.scores[order]
        rows[query, : len(order)] = found.rows[order]
    counts = np.array([(walk.scored, walk.iterations) for walk in walks], dtype=np.int64).reshape(-1, 2)
    return GraphSearchResult(*map(torch.from_numpy, (scores, rows, counts[:, 0].copy(), counts[:, 1].copy())))


def _join(parts: Sequence[GraphSearchResult], k: int) -> GraphSearchResult:
    if not parts:
        return _collect([], k)
    names = ("scores", "rows", "scored", "iterations")
    return GraphSearchResult(*(torch.cat([getattr(part, name) for part in parts]) for name in names))
