"""Cells around centroids, of which a search visits the nearest, built and searched by faiss.

Vectors are kept as they are (IVF-Flat) or shortened by product quantisation (IVF-PQ; Jégou et al., TPAMI 2011).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperseek._errors import InputError
from hyperseek.engines._configs import IvfConfig
from hyperseek.engines._engine import Engine, EngineInfo
from hyperseek.engines._faiss import faiss_metric, load_faiss, results, selector
from hyperseek.engines._scan import MATRIX, read_matrix, write_matrix

CENTROIDS_OF_PQ = 256
"""Centroids of a sub-quantiser of one byte."""

_INDEX = "ivf.faiss"
_SAMPLE = 64  # vectors of the training sample for each centroid


class IvfEngine(Engine):
    """Compares the vectors of some cells; their file is mapped into memory."""

    kind: ClassVar[str] = "ivf"
    checked_whole: ClassVar[bool] = True  # faiss believes what it reads
    _faiss: Any
    _index: Any

    @classmethod
    def _write(cls, folder: Path, chunks: Iterator[Tensor], info: EngineInfo) -> dict[str, Any]:
        config = info.config
        assert isinstance(config, IvfConfig)
        lists = number_of_lists(config, info.count)
        _check(config, lists, info)
        faiss = load_faiss()
        # The sample must come from everywhere, so all vectors are set down before the first can be added.
        spool = folder / MATRIX
        write_matrix(spool, chunks, info)
        index = _new_index(faiss, config, lists, info)
        index.train(_sample(spool, config, lists, info.count).numpy())
        for chunk in read_matrix(spool):
            index.add(chunk.numpy())
        faiss.write_index(index, str(folder / _INDEX))
        spool.unlink()
        return {"lists": lists}

    def _load(self) -> None:
        self._faiss = load_faiss()
        flags = self._faiss.IO_FLAG_MMAP | self._faiss.IO_FLAG_READ_ONLY
        self._index = self._faiss.read_index(str(self.folder / _INDEX), flags)

    def _search(
        self, queries: Tensor, k: int, effort: int | None, allowed: NDArray[Any] | None
    ) -> tuple[Tensor, Tensor]:
        assert isinstance(self.config, IvfConfig)
        probes, parameters = effort or self.config.effort, {}
        if allowed is not None:
            # The fewer are allowed, the more cells it takes to meet as many; in the end all, which is exact.
            probes = math.ceil(probes * len(self) / int(allowed.sum()))
            parameters = {"sel": selector(self._faiss, allowed)}
        search = self._faiss.SearchParametersIVF(nprobe=min(probes, self._index.nlist), **parameters)
        scores, positions = self._index.search(queries.numpy(), k, params=search)
        return results(scores, positions, self.metric)


def number_of_lists(config: IvfConfig, count: int) -> int:
    """Return the number of cells for `count` vectors."""
    # Fewer than about 8 vectors a cell would make finding the cells dearer than searching them.
    return config.lists or max(1, min(round(4 * math.sqrt(count)), count // 8))


def sample_size(config: IvfConfig, count: int) -> int:
    """Return the number of vectors that the centroids are found from."""
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
        # faiss warns on stderr of samples below the first, and takes a sample of its own above the second.
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
