"""What a graph says about itself, and what one will cost.

Shapes: `N` documents, `d` dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field

from hyperseek._config import Config
from hyperseek._folders import Checksum
from hyperseek.graph.neighbours import COLUMNS, ROWS
from hyperseek.graph.neighbours import building_bytes as clusters_building_bytes
from hyperseek.scoring._geometries import Metric

QUERIES_TOGETHER = 32
"""Queries of a search that walk side by side."""

EXACT_UP_TO = 100_000
"""Documents up to which `method="auto"` compares all pairs: about two minutes on two cores."""

Method = Literal["exact", "approximate"]


class GraphInfo(Config):
    """What `graph.json` holds.

    Attributes:
        format: Version of the folder's layout.
        count: Number of documents.
        degree: Most neighbours of a document.
        method: How the graph was made.
        metric: By which the neighbours are nearest; None where an imported file did not say.
        seed: Of the clusters of an approximate graph.
        vectors: Fingerprint of the vectors; None for an imported graph.
        ids: Fingerprint of the ids of an imported graph, else None.
        files: Checksums of the folder's other files; none in graphs that an earlier version built.
    """

    format: Literal[1] = 1
    count: int = Field(ge=0)
    degree: int = Field(ge=0)
    method: Literal["exact", "approximate", "imported"]
    metric: Metric | None = None
    seed: int = 0
    vectors: str | None = None
    ids: str | None = None
    files: dict[str, Checksum] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GraphEstimate:
    """What a graph will cost.

    Attributes:
        memory_bytes: Memory of a search over it: the graph, which lies in the page cache and may be read from the disk
            instead, and the marks of what each query has seen.
        building_bytes: Peak memory of building it, without the vectors.
        disk_bytes: Size on disk.
    """

    memory_bytes: int
    building_bytes: int
    disk_bytes: int


def estimate_graph(
    *, count: int, dimension: int, degree: int = 99, method: Literal["auto", "exact", "approximate"] = "auto"
) -> GraphEstimate:
    """Estimate what a graph will cost.

    Args:
        count: `N`.
        dimension: `d`.
        degree: Neighbours of a document.
        method: As for `NeighbourGraph.build`.

    Returns:
        Bytes of memory and disk.
    """
    disk = count * degree * 4 + 128
    cores = torch.get_num_threads()
    compared = cores * 4 * (2 * ROWS * COLUMNS + 4 * (ROWS + COLUMNS) * dimension + 12 * ROWS * degree)
    clusters = 0 if choose_method(method, count) == "exact" else clusters_building_bytes(count, dimension)
    return GraphEstimate(disk + count * (QUERIES_TOGETHER + 4), compared + clusters, disk)


def choose_method(method: Literal["auto", "exact", "approximate"], count: int) -> Method:
    """Resolve `"auto"`; no documents have no clusters."""
    if method == "auto" or not count:
        return "exact" if count <= EXACT_UP_TO else "approximate"
    return method
