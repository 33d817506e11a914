"""Engines that use faiss: a hierarchical graph (HNSW, arXiv 1603.09320) and cells around centroids (IVF).

IVF stores vectors unchanged (IVF-Flat) or shortened by product quantisation (IVF-PQ; Jégou et al., TPAMI 2011).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from hyperseek._machine import one_core
from hyperseek.engines._flat import MATRIX, exact_search, matrix_source, read_matrix, write_matrix
from hyperseek.engines.charts import VectorStructure
from hyperseek.engines.engine import BASE_BYTES, PRODUCTS, Engine, EngineConfig, EngineInfo, build_seconds, chunk_bytes
from hyperseek.engines.structure import StructureEstimate
from hyperseek.errors import InputError, require
from hyperseek.types import Metric

CENTROIDS_OF_PQ = 256
"""Centroids of a sub-quantiser of one byte."""

_IVF_FILE = "ivf.faiss"
_SAMPLE = 64  # training vectors per centroid

_HNSW_FILE = "hnsw.faiss"
# Seconds to compare with a vector anywhere in memory, and for each of its numbers; measured as `PRODUCTS` was.
_COMPARISON, _NUMBER = 3e-8, 3e-10


def load_faiss() -> Any:
    """Import faiss, and let it use as many threads as torch does."""
    faiss = require("faiss", extra="faiss")
    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss


def faiss_metric(faiss: Any, metric: Metric) -> int:
    """Return faiss's number of a metric."""
    return int(faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)


def selector(faiss: Any, allowed: NDArray[np.bool_]) -> Any:
    """Return a mask in faiss's form."""
    return faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))


def results(scores: NDArray[np.float32], positions: NDArray[np.int64], metric: Metric) -> tuple[Tensor, Tensor]:
    """Return faiss's results as scores, higher is better, and positions."""
    values = torch.from_numpy(scores)
    if metric == "l2":
        with one_core():
            values = values.clamp_min(0).sqrt().neg()  # faiss gives squares
    return values, torch.from_numpy(positions)


class HnswConfig(EngineConfig):
    """Walk a hierarchical graph of near vectors (faiss), mapped into memory.

    Attributes:
        kind: `hnsw`.
        m: Links per vector; twice as many on the lowest level.
        ef_construction: Candidates that are considered for the links of a new vector.
        effort: Candidates that a search keeps (efSearch), at least `k`.
    """

    kind: Literal["hnsw"] = "hnsw"
    m: int = Field(default=32, ge=2, le=256)
    ef_construction: int = Field(default=200, ge=1)
    effort: int = Field(default=128, ge=1)

    @property
    def graph(self) -> bool:
        """True."""
        return True


class HnswEngine(Engine):
    """Walks a graph from vector to nearer vector; the file is mapped into memory."""

    kind: ClassVar[str] = "hnsw"
    checked_whole: ClassVar[bool] = True  # faiss believes what it reads
    _faiss: Any
    _index: Any
    _vectors: Tensor

    @classmethod
    def estimate(cls, config: HnswConfig, *, count: int, dimension: int) -> StructureEstimate:
        """Estimate its cost."""
        # faiss, HNSW.h and IndexFlatCodes.h: float32 vectors; int32 links, all taken at once (`_reserve`); 8 bytes an
        # offset and 4 a level, which grow by doubling; while vectors are added a lock and a mark for each.
        index = 4 * count * dimension + 4 * expected_links(count, config.m) + 12 * count
        building = index + 12 * count + count * (64 + torch.get_num_threads())
        # Each new vector is compared with about m others per candidate, and links are compared with each other.
        comparisons = count * (config.ef_construction * config.m + 2 * config.m**2)
        seconds = comparisons * (_COMPARISON + _NUMBER * dimension)
        return StructureEstimate(BASE_BYTES + index, chunk_bytes(dimension) + building, index, build_seconds(seconds))

    @classmethod
    def _write(cls, folder: Path, chunks: Iterator[Tensor], info: EngineInfo) -> dict[str, Any]:
        config = info.config
        assert isinstance(config, HnswConfig)
        faiss = load_faiss()
        index = faiss.IndexHNSWFlat(info.dimension, config.m, faiss_metric(faiss, info.metric))
        index.hnsw.efConstruction = config.ef_construction
        _reserve(faiss, index, info)
        for chunk in chunks:
            index.add(chunk.numpy())
        faiss.write_index(index, str(folder / _HNSW_FILE))
        return {}

    def _load(self) -> None:
        self._faiss = load_faiss()
        self._index = self._faiss.read_index(str(self.folder / _HNSW_FILE), self._faiss.IO_FLAG_MMAP_IFC)
        storage = self._faiss.downcast_index(self._index.storage)
        shape = (len(self), self.dimension)
        self._vectors = torch.from_numpy(self._faiss.rev_swig_ptr(storage.get_xb(), math.prod(shape)).reshape(shape))

    def _search(
        self, queries: Tensor, k: int, effort: int | None, allowed: NDArray[np.bool_] | None
    ) -> tuple[Tensor, Tensor]:
        assert isinstance(self.config, HnswConfig)
        wanted = max(effort or self.config.effort, k)
        matching = len(self) if allowed is None else int(allowed.sum())
        # The walk passes through vectors that are not allowed: to meet `wanted` of the others it must meet more.
        met = math.ceil(wanted * len(self) / matching)
        # It compares about m vectors per vector it meets; if that is more than there are, compare them all.
        if met >= len(self) or (allowed is not None and met * self.config.m >= matching):
            source = matrix_source(self._vectors)
            return exact_search(queries, source, count=len(self), k=k, metric=self.metric, allowed=allowed)
        parameters = {} if allowed is None else {"sel": selector(self._faiss, allowed)}
        search = self._faiss.SearchParametersHNSW(efSearch=met, **parameters)
        scores, positions = self._index.search(queries.numpy(), k, params=search)
        return results(scores, positions, self.metric)


class Hnsw(VectorStructure):
    """The graph engine as a structure of an index."""

    config_type = HnswConfig
    engine = HnswEngine


def _reserve(faiss: Any, index: Any, info: EngineInfo) -> None:
    """Allocate at once the memory that growing arrays would take twice; `clear` keeps it allocated."""
    config = info.config
    assert isinstance(config, HnswConfig)
    for array, length in (
        (faiss.downcast_index(index.storage).codes, 4 * info.count * info.dimension),
        (index.hnsw.neighbors, expected_links(info.count, config.m)),
    ):
        array.resize(length)
        array.clear()


def expected_links(count: int, m: int) -> int:
    """Return the number of links of a graph, with room for chance."""
    # Each level above the lowest has 1/m of the vectors of the one below, with m links each.
    upper = count * m / (m - 1)
    return math.ceil(2 * m * count + upper + 4 * m * math.sqrt(count + 1) + 64 * m)


class IvfConfig(EngineConfig):
    """Compare the vectors in the cells nearest to the query (faiss), mapped into memory.

    Attributes:
        kind: `ivf`.
        lists: Number of cells; None for about four times the square root of the number of vectors.
        effort: Cells that a search visits (nprobe).
        pq: Bytes to which each vector is shortened, a divisor of the dimension; None not to shorten it. Shortened
            vectors have approximate scores.
        seed: Seed of the training sample and the cells.
    """

    kind: Literal["ivf"] = "ivf"
    lists: int | None = Field(default=None, ge=1)
    effort: int = Field(default=32, ge=1)
    pq: int | None = Field(default=None, ge=1)
    seed: int = 0


class IvfEngine(Engine):
    """Compares the vectors of some cells; their file is mapped into memory."""

    kind: ClassVar[str] = "ivf"
    checked_whole: ClassVar[bool] = True  # faiss believes what it reads
    _faiss: Any
    _index: Any

    @classmethod
    def estimate(cls, config: IvfConfig, *, count: int, dimension: int) -> StructureEstimate:
        """Estimate its cost."""
        lists, sample = number_of_lists(config, count), sample_size(config, count)
        vector = config.pq or 4 * dimension
        centroids = 4 * lists * dimension
        # faiss, IndexIVFPQ.h: distances between centroids and the 256 codes of each sub-quantiser, up to 2 GiB.
        tables = min(2 << 30, 4 * lists * config.pq * CENTROIDS_OF_PQ) if config.pq else 0
        index = count * (vector + 8) + centroids
        # faiss, InvertedLists.h: an array per list of codes and of int64 ids, which double when they are full, so that
        # the old and the new one are held for a moment and up to half of the new one stays unused.
        filling = 2 * count * (vector + 8)
        # The sample is held twice while it is joined, and for product quantisation also less its centroids
        # (IndexIVF.cpp); Clustering.cpp keeps an assignment for each vector.
        training = (3 if config.pq else 2) * 4 * sample * dimension + 16 * sample + 3 * centroids
        building = chunk_bytes(dimension) + count + centroids + tables + max(filling, training)
        quantising = 50 * sample * CENTROIDS_OF_PQ * dimension if config.pq else 0
        work = 2 * dimension * lists * (10 * sample + count) + quantising
        return StructureEstimate(BASE_BYTES + index + tables, building, index, build_seconds(work / PRODUCTS))

    @classmethod
    def _write(cls, folder: Path, chunks: Iterator[Tensor], info: EngineInfo) -> dict[str, Any]:
        config = info.config
        assert isinstance(config, IvfConfig)
        lists = number_of_lists(config, info.count)
        _check(config, lists, info)
        faiss = load_faiss()
        # The sample must come from all over, so all vectors are written out before the first can be added.
        spool = folder / MATRIX
        write_matrix(spool, chunks, info)
        index = _new_index(faiss, config, lists, info)
        index.train(_sample(spool, config, lists, info.count).numpy())
        for chunk in read_matrix(spool):
            index.add(chunk.numpy())
        faiss.write_index(index, str(folder / _IVF_FILE))
        spool.unlink()
        return {"lists": lists}

    def _load(self) -> None:
        self._faiss = load_faiss()
        flags = self._faiss.IO_FLAG_MMAP | self._faiss.IO_FLAG_READ_ONLY
        self._index = self._faiss.read_index(str(self.folder / _IVF_FILE), flags)

    def _search(
        self, queries: Tensor, k: int, effort: int | None, allowed: NDArray[Any] | None
    ) -> tuple[Tensor, Tensor]:
        assert isinstance(self.config, IvfConfig)
        probes, parameters = effort or self.config.effort, {}
        if allowed is not None:
            # The fewer are allowed, the more cells it takes to meet as many of them; in the end all, which is exact.
            probes = math.ceil(probes * len(self) / int(allowed.sum()))
            parameters = {"sel": selector(self._faiss, allowed)}
        search = self._faiss.SearchParametersIVF(nprobe=min(probes, self._index.nlist), **parameters)
        scores, positions = self._index.search(queries.numpy(), k, params=search)
        return results(scores, positions, self.metric)


class Ivf(VectorStructure):
    """The engine with cells as a structure of an index."""

    config_type = IvfConfig
    engine = IvfEngine


def number_of_lists(config: IvfConfig, count: int) -> int:
    """Return the number of cells for `count` vectors."""
    # With fewer than about 8 vectors per cell, finding the cells would cost more than searching them.
    return config.lists or max(1, min(round(4 * math.sqrt(count)), count // 8))


def sample_size(config: IvfConfig, count: int) -> int:
    """Return the number of vectors to train the centroids on."""
    centroids = max(number_of_lists(config, count), CENTROIDS_OF_PQ if config.pq else 0)
    return min(count, _SAMPLE * centroids)


def _check(config: IvfConfig, lists: int, info: EngineInfo) -> None:
    if lists > info.count:
        raise InputError(f"{lists} lists are too many for {info.count} vectors; give at most as many, or None")
    if config.pq and info.dimension % config.pq:
        raise InputError(f"pq must divide the dimension, {info.dimension}; {config.pq} does not")
    if config.pq and info.count < CENTROIDS_OF_PQ:
        raise InputError(f"pq needs at least {CENTROIDS_OF_PQ} vectors, there are {info.count}; leave it out")


def _new_index(faiss: Any, config: IvfConfig, lists: int, info: EngineInfo) -> Any:
    metric = faiss_metric(faiss, info.metric)
    quantizer = faiss.IndexFlat(info.dimension, metric)
    if config.pq:
        index = faiss.IndexIVFPQ(quantizer, info.dimension, lists, config.pq, 8, metric)
        settings = [index.cp, index.pq.cp]
    else:
        index = faiss.IndexIVFFlat(quantizer, info.dimension, lists, metric)
        settings = [index.cp]
    for parameters in settings:
        parameters.seed = config.seed
        # faiss warns on stderr about samples below the first, and samples again above the second.
        parameters.min_points_per_centroid = 1
        parameters.max_points_per_centroid = info.count
    return index


def _sample(spool: Path, config: IvfConfig, lists: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(config.seed)
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[torch.randperm(count, generator=generator)[: sample_size(config, count)]] = True
    start, parts = 0, []
    for chunk in read_matrix(spool):
        parts.append(chunk[chosen[start : start + len(chunk)]])
        start += len(chunk)
    return torch.cat(parts)
