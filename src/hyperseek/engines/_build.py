"""Building and opening engines of any kind, and choosing one when nobody says which."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from hyperseek.engines._estimate import estimate_engine
from hyperseek.engines._faiss import HnswEngine, IvfEngine
from hyperseek.engines._flat import ScanEngine
from hyperseek.engines._lance import LanceEngine
from hyperseek.engines._qdrant import QdrantEngine, named_server
from hyperseek.engines.configs import AnyEngineConfig, HnswConfig, IvfConfig, QdrantConfig, ScanConfig, what_fits
from hyperseek.engines.engine import Engine, read_info
from hyperseek.errors import InputError, StoreError
from hyperseek.scoring._geometries import Metric

_ENGINES: dict[str, type[Engine]] = {
    engine.kind: engine for engine in (ScanEngine, HnswEngine, IvfEngine, LanceEngine, QdrantEngine)
}


def build_engine(
    folder: Path,
    vectors: Iterable[Tensor],
    config: AnyEngineConfig,
    *,
    metric: Metric,
    count: int,
    dimension: int,
    max_bytes: int | None = None,
) -> Engine:
    """Build an engine in a folder; what a failed build wrote is deleted.

    Args:
        folder: Missing or empty.
        vectors: Chunks `(n, d)` of finite vectors, in order; read once. Positions count them from 0.
        config: Which engine.
        metric: What it ranks by.
        count: Number of vectors.
        dimension: `d`.
        max_bytes: Memory that building may take; None for no limit.

    Returns:
        The engine.

    Raises:
        InputError: Building would take more memory (nothing was read then; the message says what would fit), or a
            vector cannot be used; the message names its position.
        StoreError: The folder is not empty.
        MissingExtraError: The engine needs a package that is not installed.
    """
    folder = Path(folder)
    if dimension < 1 or count < 0:
        raise InputError(f"an engine needs at least 0 vectors of at least 1 dimension, not {count} of {dimension}")

    def building(config: AnyEngineConfig) -> int:
        return estimate_engine(config, count=count, dimension=dimension).building_bytes

    needed = building(config)
    if max_bytes is not None and needed > max_bytes:
        raise InputError(
            f"building {config.kind!r} for {count} vectors of {dimension} dimensions takes about {needed:,} bytes of "
            f"memory, more than the {max_bytes:,} that are allowed; {what_fits(building, max_bytes)}"
        )
    if folder.exists() and any(folder.iterdir()):
        raise StoreError(f"{folder} is not empty; choose another folder for the engine")
    if isinstance(config, QdrantConfig) and config.server is None:
        config = config.model_copy(update={"server": named_server() is not None})
    try:
        return _ENGINES[config.kind].build(folder, vectors, config, metric=metric, count=count, dimension=dimension)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def open_engine(folder: Path) -> Engine:
    """Open an engine of any kind.

    Args:
        folder: That `build_engine` filled.

    Returns:
        The engine; it finds what the one that was built finds.

    Raises:
        StoreError: The folder holds no engine, or a damaged one.
        MissingExtraError: The engine needs a package that is not installed.
    """
    return _ENGINES[read_info(Path(folder)).config.kind].open(Path(folder))


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
