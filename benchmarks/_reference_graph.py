"""The graph search of the original Hypencoder as it does it: one query and one document at a time, ids as strings.

It stands beside ours in `benchmarks/graph.py` and is what `tests/graph` compares with. Written from a description of
the original's steps and costs, not from its code: a list of ids as the frontier, copied for each query, a set of
explored ids, a `PriorityQueue` (with its locks) as the heap, an `.item()` for each score, and list indexing.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from queue import PriorityQueue

import torch
from torch import Tensor


class ReferenceGraphSearch:
    """The original's searcher.

    Args:
        vectors: `(N, d)`.
        ids: `N` ids; equal scores in the heap go by id.
        neighbours: Ids of the neighbours of every id, nearest first.
    """

    def __init__(self, vectors: Tensor, ids: Sequence[str], neighbours: Mapping[str, Sequence[str]]) -> None:
        self.vectors = vectors
        self.ids = list(ids)
        self.row_of = {identity: row for row, identity in enumerate(ids)}
        self.neighbours = {identity: list(names) for identity, names in neighbours.items()}

    def search(
        self,
        q_net: Callable[[Tensor], Tensor],
        *,
        entry_points: Sequence[str],
        top_k: int,
        ncandidates: int = 50,
        max_iter: int = 16,
        early_stop: bool = True,
    ) -> tuple[list[tuple[str, float]], int, int]:
        """Search for one query.

        Args:
            q_net: From `(1, n, d)` documents to `(1, n)` scores.
            entry_points: Ids.
            top_k: Results.
            ncandidates: Documents whose neighbours are looked at in each iteration.
            max_iter: Most iterations.
            early_stop: Whether to stop when an iteration pushes nothing.

        Returns:
            Ids and scores, best first and equal scores by id; documents scored; iterations.
        """
        frontier = deque(copy.deepcopy(list(entry_points)))
        explored = set(frontier)
        heap: PriorityQueue[tuple[float, str]] = PriorityQueue(maxsize=top_k)
        scored = iterations = 0
        for _ in range(max_iter):
            if not frontier:
                break
            candidates = list(frontier)
            scores = q_net(self.vectors[[self.row_of[identity] for identity in candidates]].unsqueeze(0))[0]
            scored += len(candidates)
            iterations += 1
            # Stable, where the original's topk takes equal scores in any order.
            best = torch.sort(scores, descending=True, stable=True).indices[: max(ncandidates, top_k)]
            frontier = deque()
            pushed = 0
            for place, index in enumerate(best):
                identity, score = candidates[index.item()], scores[index].item()
                if not heap.full():
                    heap.put((score, identity))
                    pushed += 1
                else:
                    worst = heap.get()
                    if score > worst[0]:
                        heap.put((score, identity))
                        pushed += 1
                    else:
                        heap.put(worst)
                if place < ncandidates:
                    for neighbour in self.neighbours[identity]:
                        if neighbour not in explored:
                            explored.add(neighbour)
                            frontier.append(neighbour)
            if early_stop and not pushed:
                break
        found = [heap.get() for _ in range(heap.qsize())]
        found.sort(key=lambda pair: (-pair[0], pair[1]))
        return [(identity, score) for score, identity in found], scored, iterations
