"""A hierarchical graph of near vectors (Malkov and Yashunin, arXiv 1603.09320), built and walked by faiss."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperseek.engines._configs import HnswConfig
from hyperseek.engines._engine import Engine, EngineInfo
from hyperseek.engines._exact import exact_search
from hyperseek.engines._faiss import faiss_metric, load_faiss, results, selector
from hyperseek.engines._scan import matrix_source

_INDEX = "hnsw.faiss"


class HnswEngine(Engine):
    """Walks a graph from vector to nearer vector; the file is mapped into memory."""

    kind: ClassVar[str] = "hnsw"
    checked_whole: ClassVar[bool] = True  # faiss believes what it reads
    _faiss: Any
    _index: Any
    _vectors: Tensor

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
        faiss.write_index(index, str(folder / _INDEX))
        return {}

    def _load(self) -> None:
        self._faiss = load_faiss()
        self._index = self._faiss.read_index(str(self.folder / _INDEX), self._faiss.IO_FLAG_MMAP_IFC)
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
        # It compares about m vectors for each one it meets; when it would look at more than there are, look at all.
        if met >= len(self) or (allowed is not None and met * self.config.m >= matching):
            source = matrix_source(self._vectors)
            return exact_search(queries, source, count=len(self), k=k, metric=self.metric, allowed=allowed)
        parameters = {} if allowed is None else {"sel": selector(self._faiss, allowed)}
        search = self._faiss.SearchParametersHNSW(efSearch=met, **parameters)
        scores, positions = self._index.search(queries.numpy(), k, params=search)
        return results(scores, positions, self.metric)


def _reserve(faiss: Any, index: Any, info: EngineInfo) -> None:
    """Take the memory at once that growing arrays would take twice; `clear` keeps it."""
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
    # Each level above the lowest holds 1/m of the vectors of the one below, with m links each.
    upper = count * m / (m - 1)
    return math.ceil(2 * m * count + upper + 4 * m * math.sqrt(count + 1) + 64 * m)
