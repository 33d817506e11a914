"""What an engine will cost, before it is built.

The formulas count the arrays that each engine is known to hold, and were compared with measured peaks of memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hyperseek.engines._faiss import CENTROIDS_OF_PQ, expected_links, number_of_lists, sample_size
from hyperseek.engines._lance import FEWEST, number_of_partitions
from hyperseek.engines.configs import (
    AnyEngineConfig,
    HnswConfig,
    IvfConfig,
    LanceConfig,
    QdrantConfig,
    ScanConfig,
)
from hyperseek.engines.engine import CHUNK
from hyperseek.errors import InputError

# What libraries take whatever the size: buffers of matrix products, stacks, allocators.
_BASE = 48 << 20
# Times are rough because cores differ. Measured on one core of a busy server: float32 operations a second in long
# products; seconds to compare with a vector that lies anywhere, and for each of its numbers.
_PRODUCTS = 4e10
_COMPARISON, _NUMBER = 3e-8, 3e-10


@dataclass(frozen=True, slots=True)
class EngineEstimate:
    """What an engine will cost.

    Attributes:
        memory_bytes: Memory of a search. For engines whose files are mapped into memory the system may take most of
            it back, and read the disk again.
        building_bytes: Peak memory of building it, beyond the chunks of vectors that it is given.
        disk_bytes: Size on this machine's disk when it is finished.
        seconds: Time to build it on this machine's cores, within a factor of about three; None where that cannot be
            told.
    """

    memory_bytes: int
    building_bytes: int
    disk_bytes: int
    seconds: float | None


def estimate_engine(config: AnyEngineConfig, *, count: int, dimension: int) -> EngineEstimate:
    """Estimate what an engine will cost.

    Args:
        config: Which engine.
        count: Number of vectors, at least 0.
        dimension: Of the vectors, at least 1.

    Returns:
        Bytes of memory and disk, and seconds.

    Raises:
        InputError: The count or the dimension is out of range.
    """
    if dimension < 1 or count < 0:
        raise InputError(f"an engine needs at least 0 vectors of at least 1 dimension, not {count} of {dimension}")
    if isinstance(config, ScanConfig):
        return _scan(config, count, dimension)
    if isinstance(config, HnswConfig):
        return _hnsw(config, count, dimension)
    if isinstance(config, IvfConfig):
        return _ivf(config, count, dimension)
    if isinstance(config, LanceConfig):
        return _lance(config, count, dimension)
    return _qdrant(config, count, dimension)


def _chunks(dimension: int) -> int:
    # The chunk at hand, a copy of it in another type, and one that is being read.
    return _BASE + 3 * 4 * CHUNK * dimension


def _scan(config: ScanConfig, count: int, dimension: int) -> EngineEstimate:
    disk = count * dimension * (4 if config.storage == "float32" else 2)
    return EngineEstimate(_BASE + disk, _chunks(dimension), disk + 128, _time(disk / 5e8))


def _hnsw(config: HnswConfig, count: int, dimension: int) -> EngineEstimate:
    # faiss, HNSW.h and IndexFlatCodes.h: float32 vectors; int32 links, all taken at once (`_reserve`); 8 bytes an
    # offset and 4 a level, which grow by doubling; while vectors are added a lock and a mark for each.
    index = 4 * count * dimension + 4 * expected_links(count, config.m) + 12 * count
    building = index + 12 * count + count * (64 + torch.get_num_threads())
    # Each new vector is compared with about m others for every candidate, and links are weighed against each other.
    comparisons = count * (config.ef_construction * config.m + 2 * config.m**2)
    seconds = comparisons * (_COMPARISON + _NUMBER * dimension)
    return EngineEstimate(_BASE + index, _chunks(dimension) + building, index, _time(seconds))


def _ivf(config: IvfConfig, count: int, dimension: int) -> EngineEstimate:
    lists, sample = number_of_lists(config, count), sample_size(config, count)
    vector = config.pq or 4 * dimension
    centroids = 4 * lists * dimension
    # faiss, IndexIVFPQ.h: distances between centroids and the 256 codes of each sub-quantiser, up to 2 GiB.
    tables = min(2 << 30, 4 * lists * config.pq * CENTROIDS_OF_PQ) if config.pq else 0
    index = count * (vector + 8) + centroids
    # faiss, InvertedLists.h: an array a list of codes and of int64 ids, which double when they are full, so that the
    # old and the new one are held for a moment and up to half of the new one stays unused.
    filling = 2 * count * (vector + 8)
    # The sample is held twice while it is joined, and for product quantisation less its centroids, too (IndexIVF.cpp);
    # Clustering.cpp keeps an assignment for each.
    training = (3 if config.pq else 2) * 4 * sample * dimension + 16 * sample + 3 * centroids
    building = _chunks(dimension) + count + centroids + tables + max(filling, training)
    work = 2 * dimension * lists * (10 * sample + count) + 50 * sample * CENTROIDS_OF_PQ * dimension * bool(config.pq)
    return EngineEstimate(_BASE + index + tables, building, index, _time(work / _PRODUCTS))


def _lance(config: LanceConfig, count: int, dimension: int) -> EngineEstimate:
    vectors = count * (4 * dimension + 8)
    if count < FEWEST:
        return EngineEstimate(_BASE + vectors, _chunks(dimension) + 2 * vectors, vectors, 1.0)
    partitions = number_of_partitions(config, count)
    shortened = {"IVF_PQ": config.pq or max(1, dimension // 8), "IVF_SQ": dimension, "IVF_HNSW_SQ": dimension}
    index = count * (shortened.get(config.index, 4 * dimension) + 8) + (count * 160 if config.graph else 0)
    index += 4 * partitions * dimension
    # Measured, since Lance does not say: all vectors about one and a half times, and the sample of 256 vectors for each
    # centroid. A search keeps what it has read in a cache.
    sample = min(count, FEWEST * partitions)
    building = 4 * _BASE + _chunks(dimension) + 2 * vectors + 2 * 4 * sample * dimension
    work = 2 * dimension * partitions * (25 * sample + count)
    seconds = _time(work / _PRODUCTS) if config.index in ("IVF_FLAT", "IVF_SQ") else None
    return EngineEstimate(2 * _BASE + index, building, vectors + index, seconds)


def _qdrant(config: QdrantConfig, count: int, dimension: int) -> EngineEstimate:
    if config.server:
        # The server's memory and disk are not this machine's, and its speed is unknown.
        return EngineEstimate(_BASE, _chunks(dimension) + 1024 * dimension * 64, 0, None)
    # The client's LocalCollection: a matrix that grows by half or more, and some Python objects a vector. One batch is
    # lists of Python numbers.
    memory = _BASE + 2 * 4 * count * dimension + 1500 * count + 1024 * dimension * 64
    return EngineEstimate(memory, _chunks(dimension) + memory, 4 * count * dimension + 128, count * 1e-4)


def _time(seconds_of_one_core: float) -> float:
    return round(seconds_of_one_core / torch.get_num_threads() + 1.0, 1)
