"""Graph search: few documents are scored instead of all, by any scorer.

The queries of a batch walk side by side. On a processor each core scores whole frontiers of one query after the other,
which is faster than joining them: a query's network reads only its own documents. On other devices the frontiers are
padded and scored together. Shapes: `Q` queries, `N` documents, `d` dimensions.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperseek._errors import InputError
from hyperseek._threads import run_on_cores
from hyperseek.graph._graph import NeighbourGraph
from hyperseek.graph._info import QUERIES_TOGETHER
from hyperseek.graph._settings import GraphSearchConfig
from hyperseek.graph._walk import BestFirstWalk, Ground, Rows, Scores, Walk
from hyperseek.scoring import Points, Scorer, TokenPoints

_WALKS = {"greedy": Walk, "best_first": BestFirstWalk}

# Numbers of the padded documents that are scored together on other devices: 512 MiB of float32.
_PADDED_ELEMENTS = 1 << 27


@dataclass(frozen=True, slots=True, eq=False)
class GraphSearchResult:
    """What a graph search found.

    Attributes:
        scores: `(Q, k)` float32, best first; -inf where fewer documents were found.
        rows: `(Q, k)` int64; -1 where fewer were found. Equal scores by row.
        scored: `(Q,)` int64, number of documents scored.
        iterations: `(Q,)` int64, number of frontiers scored, the entry points' included.
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

    Results do not depend on which queries are searched together, up to the rounding of the scorer, whose `score` is
    called in several threads.

    Args:
        scorer: `Q` compiled queries.
        points: `N` documents; they may lie in a memory-mapped file and on another device than the scorer.
        graph: The neighbours of these documents.
        k: At least 1; may exceed the number of documents.
        config: The parameters; None for the original's.
        entry_points: Distinct rows at which all queries begin; None to draw them as the original does, with
            `random.Random(seed).sample`.
        allowed: `(N,)` booleans. Documents that are not allowed may be walked through, but are not returned. If no
            more are allowed than there are entry points, all of them are scored instead, which is exact.

    Returns:
        The best documents found.

    Raises:
        InputError: The sizes do not agree, an entry point is no row or given twice, or a score is not a number.
    """
    config = config or GraphSearchConfig()
    if k < 1:
        raise InputError(f"k must be at least 1, not {k}")
    if len(graph) != len(points):
        raise InputError(f"the graph is of {len(graph)} documents, but {len(points)} were given; build it again")
    mask = _check_allowed(allowed, len(points))
    entries = _entry_points(entry_points, len(points), config)
    if mask is not None and np.count_nonzero(mask) <= len(entries):
        entries, mask = np.flatnonzero(mask).astype(np.int32), None
        config = config.model_copy(update={"max_iter": 1})
    ground = Ground(graph.neighbours, mask)
    parts = []
    with torch.inference_mode():
        starts = _take(points, entries, scorer.device)
        for first in range(0, len(scorer), QUERIES_TOGETHER):
            group = scorer[first : first + QUERIES_TOGETHER]
            walks = [_WALKS[config.strategy](ground, entries, k=k, config=config) for _ in range(len(group))]
            if len(entries):
                _walk(walks, group, points, starts, first)
            parts.append(_collect(walks, k))
    return _join(parts, k)


def draw_entry_points(count: int, config: GraphSearchConfig) -> Rows:
    """Draw the rows at which searches begin, as the original does; all rows in any order if there are too few."""
    drawn = random.Random(config.seed).sample(range(count), min(config.num_entry_points, count))
    return np.array(drawn, dtype=np.int32)


def _walk(walks: Sequence[Walk], scorer: Scorer, points: Points, entries: Points, first: int) -> None:
    """Lead all walks of a group to their ends; `first` is the number of the group's first query."""
    _step(walks, list(range(len(walks))), list(scorer.score(entries).float().cpu().numpy()), first)
    singles = [scorer[query : query + 1] for query in range(len(walks))]
    while live := [query for query, walk in enumerate(walks) if len(walk.frontier)]:
        frontiers = [walks[query].frontier for query in live]
        if scorer.device.type == "cpu" or isinstance(points, TokenPoints):
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
        documents = _take(points, padded.reshape(-1), scorer.device).vectors.view(*padded.shape, -1)
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
