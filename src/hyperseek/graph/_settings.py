"""The parameters of the graph search."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hyperseek._config import Config


class GraphSearchConfig(Config):
    """How far a search walks. The defaults are the original's.

    Attributes:
        num_entry_points: Documents at which every query begins, drawn once for all of them; at most all documents.
        ncandidates: Documents whose neighbours are looked at in each iteration.
        max_iter: Most iterations; the entry points are the first.
        early_stop: Whether to stop as soon as an iteration improves nothing.
        seed: Of the entry points.
        strategy: `"greedy"`, the paper's: goes on from the best of the documents that the last iteration found, and
            never back. `"best_first"`: goes on from the best of all documents found so far that it has not gone on
            from, so it may turn back; with early stop it ends when none of them beats the `k`-th result.
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
