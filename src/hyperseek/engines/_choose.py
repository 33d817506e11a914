"""Which engine, when nobody says."""

from __future__ import annotations

from hyperseek._errors import InputError
from hyperseek.engines._configs import AnyEngineConfig, HnswConfig, IvfConfig, ScanConfig
from hyperseek.engines._estimate import estimate_engine
from hyperseek.scoring._geometries import Metric

SCAN_NUMBERS = 20_000_000
"""Numbers of all vectors together that a core reads and compares in about ten milliseconds."""


def choose_engine(
    *, count: int, dimension: int, metric: Metric, max_bytes: int | None = None
) -> tuple[AnyEngineConfig, str]:
    """Choose an engine by size.

    Args:
        count: Number of vectors, at least 0.
        dimension: Of the vectors, at least 1.
        metric: What to rank by. Graphs lead to what is near, not to what is long, so they need `"l2"`.
        max_bytes: Memory that building may take; None for no limit.

    Returns:
        The configuration, and the reason in one sentence.

    Raises:
        InputError: No engine can be built in so little memory, or the count or dimension is out of range.
    """

    def fits(config: AnyEngineConfig) -> bool:
        needed = estimate_engine(config, count=count, dimension=dimension).building_bytes
        return max_bytes is None or needed <= max_bytes

    size = f"{count:,} vectors of {dimension} dimensions"
    scan = ScanConfig()
    if not fits(scan):
        needed = estimate_engine(scan, count=count, dimension=dimension).building_bytes
        raise InputError(f"no engine for {size} can be built in {max_bytes:,} bytes; a scan takes {needed:,}")
    if count * dimension <= SCAN_NUMBERS:
        return scan, f"an exact scan, because {size} are compared in some milliseconds"
    if metric == "l2" and fits(hnsw := HnswConfig()):
        return hnsw, f"a graph (HNSW), because {size} are many and it finds the nearest with the fewest comparisons"
    why = "inner products mislead graphs" if metric == "inner_product" else "a graph would not fit into memory"
    if fits(ivf := IvfConfig()):
        return ivf, f"cells (IVF), because {size} are many and {why}"
    if fits(short := IvfConfig(pq=_bytes_of_a_vector(dimension))):
        return short, f"cells of shortened vectors (IVF-PQ), because {size} do not fit into {max_bytes:,} bytes"
    return scan, f"an exact scan, because nothing faster for {size} can be built in {max_bytes:,} bytes"


def _bytes_of_a_vector(dimension: int) -> int:
    """Return the largest divisor of the dimension that shortens float32 vectors to a sixteenth at least."""
    return next(pq for pq in range(max(1, dimension // 4), 0, -1) if dimension % pq == 0)
