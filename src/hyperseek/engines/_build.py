"""Building and opening engines of any kind."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from torch import Tensor

from hyperseek._errors import InputError, StoreError
from hyperseek.engines._configs import KINDS, AnyEngineConfig, QdrantConfig
from hyperseek.engines._engine import Engine, read_info
from hyperseek.engines._estimate import estimate_engine
from hyperseek.engines._faiss_hnsw import HnswEngine
from hyperseek.engines._faiss_ivf import IvfEngine
from hyperseek.engines._lance import LanceEngine
from hyperseek.engines._qdrant import QdrantEngine, named_server
from hyperseek.engines._scan import ScanEngine
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


def what_fits(building_bytes: Callable[[AnyEngineConfig], int], max_bytes: int) -> str:
    """Say which kinds of engines with their defaults would fit into memory, by what building each of them takes."""
    needs = {kind: building_bytes(make()) for kind, make in KINDS.items()}
    fitting = [f"{kind!r} ({need:,})" for kind, need in needs.items() if need <= max_bytes]
    if fitting:
        return f"with their defaults these would fit: {', '.join(fitting)}"
    return f"none fits; the smallest, {min(needs, key=needs.__getitem__)!r}, takes {min(needs.values()):,}"
