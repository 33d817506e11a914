"""The exact nearest vectors in a memory-mapped file, at the speed of matrix products.

A float32 product loses near ties, and the expansion `|q|² - 2 q·x + |x|²` loses them first. So products only bound
scores from above, with a proven bound on their rounding error; the vectors with the highest bounds are then scored in
float64, for distances by explicit differences. If the `k`-th of these scores exceeds every other vector's bound, no
other vector can be among the best. Otherwise, which is rare, all vectors whose bound reaches that score are scored.

Scores are float32; equal ones rank by position. Shapes: `Q` queries, `n` vectors of a block, `d` dimensions.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperseek._machine import run_on_cores
from hyperseek._order import best_positions
from hyperseek.engines.charts import VectorStructure
from hyperseek.engines.engine import BASE_BYTES, CHUNK, Engine, EngineConfig, EngineInfo, build_seconds, chunk_bytes
from hyperseek.engines.structure import StructureEstimate
from hyperseek.errors import InputError
from hyperseek.types import Metric

MATRIX = "vectors.npy"

Positions = NDArray[np.int64]
# Which vectors to compare, ascending.
_Rows = range | Positions

_QUERIES = 32  # queries that are compared with a block at a time
_BLOCK_BYTES = 4 << 20  # about the size of a core's cache
_ROWS = (64, 16384)  # fewest and most vectors of a block
_RESCORED_BYTES = 16 << 20  # vectors that are scored in float64 at a time
_SPARE = 16  # bounds that are kept beyond k, enough that a second look is rare
# Relative rounding of the factors of a product, by torch's setting: float32, TF32, bfloat16.
_ROUNDING = {"highest": 0.0, "high": 2.0**-10, "medium": 2.0**-7}

logger = logging.getLogger(__name__)


class FlatConfig(EngineConfig):
    """Compare all vectors, exactly.

    Attributes:
        kind: `flat`.
        storage: Number type on disk. Scores are those of the stored numbers, computed without loss.
        device: `auto` uses a CUDA device if there is one with room for all vectors; else they stay on the disk, mapped
            into memory.
    """

    exact: ClassVar[bool] = True

    kind: Literal["flat"] = "flat"
    storage: Literal["float32", "float16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"


class FlatEngine(Engine):
    """Compares all vectors; always exact."""

    kind: ClassVar[str] = "flat"
    _source: Source

    @classmethod
    def estimate(cls, config: FlatConfig, *, count: int, dimension: int) -> StructureEstimate:
        """Estimate its cost."""
        disk = count * dimension * (4 if config.storage == "float32" else 2)
        return StructureEstimate(BASE_BYTES + disk, chunk_bytes(dimension), disk + 128, build_seconds(disk / 5e8))

    @classmethod
    def _write(cls, folder: Path, chunks: Iterator[Tensor], info: EngineInfo) -> dict[str, Any]:
        assert isinstance(info.config, FlatConfig)
        write_matrix(folder / MATRIX, chunks, info, storage=info.config.storage)
        return {}

    def _load(self) -> None:
        self._source = _on_device(map_matrix(self.folder / MATRIX), self.config)

    def _search(
        self, queries: Tensor, k: int, effort: int | None, allowed: NDArray[np.bool_] | None
    ) -> tuple[Tensor, Tensor]:
        return exact_search(queries, self._source, count=len(self), k=k, metric=self.metric, allowed=allowed)


class Flat(VectorStructure):
    """The exact engine as a structure of an index."""

    config_type = FlatConfig
    engine = FlatEngine


def write_matrix(
    path: Path, chunks: Iterator[Tensor], info: EngineInfo, *, storage: Literal["float32", "float16"] = "float32"
) -> None:
    """Write vectors to a file, one chunk at a time.

    Args:
        path: The file.
        chunks: The vectors.
        info: Their number and dimension.
        storage: Number type of the file.

    Raises:
        InputError: A number is too large for the type.
    """
    start, dtype = 0, np.dtype(storage)
    # Plain writing, since pages of a mapped file would count as memory of this process.
    with path.open("wb") as file, np.errstate(over="ignore"):
        shape = (info.count, info.dimension)
        descr = np.lib.format.dtype_to_descr(dtype)
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
        for chunk in chunks:
            part = chunk.numpy().astype(dtype, copy=False)
            if dtype.itemsize < 4 and not (finite := np.isfinite(part).all(axis=1)).all():
                row = start + int((~finite).argmax())
                raise InputError(f"vector {row} (from 0) has numbers too large for {dtype}; choose float32")
            file.write(np.ascontiguousarray(part).data.cast("B"))  # unlike `tofile`, it passes on the error of the disk
            start += len(chunk)
        file.flush()
        os.fsync(file.fileno())


def read_matrix(path: Path) -> Iterator[Tensor]:
    """Yield the float32 vectors of a file in chunks, without mapping it into memory."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        (count, dimension), _, _ = np.lib.format.read_array_header_1_0(file)
        for start in range(0, count, CHUNK):
            rows = min(CHUNK, count - start)
            yield torch.from_numpy(np.fromfile(file, np.float32, rows * dimension).reshape(rows, dimension))


def map_matrix(path: Path) -> Tensor:
    """Return the `(N, d)` vectors of a file, mapped into memory; changes to them never reach the file."""
    # "c", since torch warns about arrays that cannot be written.
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))


def matrix_source(matrix: Tensor) -> Source:
    """Return a source that reads a `(N, d)` tensor."""

    def read(rows: slice | NDArray[np.int64]) -> Tensor:
        return matrix[rows if isinstance(rows, slice) else torch.from_numpy(rows).to(matrix.device)]

    return Source(read, matrix.shape[1], matrix.device)


def _on_device(matrix: Tensor, config: object) -> Source:
    assert isinstance(config, FlatConfig)
    if config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available()):
        return matrix_source(matrix)
    if not torch.cuda.is_available():
        raise InputError("the engine was built for a CUDA device, but there is none; build it with device 'auto'")
    free, _ = torch.cuda.mem_get_info()
    size = matrix.numel() * matrix.element_size()
    if config.device == "auto" and 2 * size > free:
        logger.info("scanning on the CPU: %d bytes of vectors would crowd the %d of the CUDA device", size, free)
        return matrix_source(matrix)
    return matrix_source(matrix.to("cuda"))


@dataclass(frozen=True)
class Source:
    """Vectors that can be read by position.

    Attributes:
        read: Takes a slice or positions, and returns `(n, d)` vectors, of any floating type, on the device that
            compares them.
        dimension: `d`.
        device: Where `read` puts vectors.
    """

    read: Callable[[slice | Positions], Tensor]
    dimension: int
    device: torch.device


def exact_search(
    queries: Tensor, source: Source, *, count: int, k: int, metric: Metric, allowed: NDArray[np.bool_] | None = None
) -> tuple[Tensor, Tensor]:
    """Find the best vectors for every query.

    Args:
        queries: `(Q, d)` float32, finite.
        source: The vectors, finite.
        count: Number of vectors.
        k: At least 1, at most the number of allowed vectors.
        metric: What to rank by.
        allowed: `(count,)` booleans; other vectors are not even read. None for all.

    Returns:
        Scores, float32 (inner products, or minus distances), and positions, int64, both `(Q, k)`.
    """
    rows = range(count) if allowed is None else np.flatnonzero(allowed)
    comparison = _Comparison.prepare(queries, source, rows, metric)
    kept = min(k + max(_SPARE, k // 8), len(rows))
    bounds, places = _highest_bounds(comparison, rows, kept)
    scores = _scores_of(comparison, places)
    best, found = best_positions(scores, places, k)
    if kept < len(rows):
        threshold = comparison.threshold(best[:, -1])
        unsure = (bounds.amin(dim=1) >= threshold).nonzero()[:, 0]
        if len(unsure):
            best[unsure], found[unsure] = _look_again(comparison.of(unsure), rows, threshold[unsure], k)
    return best, found


@dataclass(frozen=True)
class _Comparison:
    """Queries, vectors, and bounds of their scores.

    For distances everything is moved by `centre`, which keeps norms and therefore rounding errors small; it is 0 for
    inner products. With `q` and `x` moved, `q·x - |x|²/2 = (|q|² - distance²)/2` ranks as the distance does.
    """

    queries: Tensor
    source: Source
    metric: Metric
    centre: Tensor
    moved: Tensor
    norms: Tensor
    unit: float

    @classmethod
    def prepare(cls, queries: Tensor, source: Source, rows: _Rows, metric: Metric) -> _Comparison:
        queries = queries.to(source.device)
        centre = torch.zeros(source.dimension, device=source.device)
        if metric == "l2":
            centre = source.read(_array(rows[:: -(-len(rows) // 256)])).float().mean(dim=0)
        moved = queries - centre
        # Any order of summing d products of rounded numbers errs by less than this times both norms (Higham, Accuracy
        # and Stability of Numerical Algorithms, section 3.1), with some room for the centre, the norms and the sum.
        unit = (source.dimension + 16) * 2.0**-24 + 2 * _ROUNDING[torch.get_float32_matmul_precision()]
        return cls(queries, source, metric, centre, moved, torch.linalg.vector_norm(moved, dim=1), unit)

    def of(self, queries: Tensor | slice) -> _Comparison:
        """Return the comparison of some of the queries."""
        chosen = queries if isinstance(queries, slice) else queries.to(self.source.device)
        parts = (self.queries[chosen], self.moved[chosen], self.norms[chosen])
        return _Comparison(parts[0], self.source, self.metric, self.centre, parts[1], parts[2], self.unit)

    def bounds(self, block: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield groups of queries with `(group, n)` upper bounds of the values that they rank a block by."""
        vectors = block.float()
        if self.metric == "l2":
            vectors = vectors - self.centre
        norms = torch.linalg.vector_norm(vectors, dim=1)
        # Twice, since subtracting the centre has an error, too; `floor` covers products that underflow.
        slack, floor = 2 * self.unit * norms, torch.finfo(torch.float32).tiny * self.source.dimension
        own = slack * norms - norms.square() / 2 if self.metric == "l2" else torch.zeros_like(norms)
        for start in range(0, len(self.queries), _QUERIES):
            group = slice(start, start + _QUERIES)
            products = torch.addmm(own + floor, self.moved[group], vectors.T)
            yield group, products.addr_(self.norms[group], slack)

    def score(self, queries: Tensor, vectors: Tensor) -> Tensor:
        """Return the true scores, float32, of `(..., d)` queries and vectors."""
        queries, vectors = queries.double(), vectors.double()
        if self.metric == "l2":
            return queries.sub(vectors).square().sum(dim=-1).sqrt().neg().float()
        return queries.mul(vectors).sum(dim=-1).float()

    def threshold(self, scores: Tensor) -> Tensor:
        """Return the lowest possible bounds of vectors with at least these `(Q,)` scores."""
        # Another true score may round to the same float32 and belong to a lower position.
        least = torch.nextafter(scores, torch.full_like(scores, -torch.inf)).double()
        if self.metric == "l2":
            squares = self.queries.double().sub(self.centre.double()).square().sum(dim=1).cpu()
            least = (squares * (1 - 2.0**-48) - least.square()) / 2
        return torch.nextafter(least.float(), torch.full_like(scores, -torch.inf))


def _highest_bounds(comparison: _Comparison, rows: _Rows, kept: int) -> tuple[Tensor, Tensor]:
    """Return each query's `kept` highest bounds and their positions, unsorted; each core takes whole blocks."""
    blocks = list(_blocks(rows, comparison.source.dimension, kept=kept))
    pending = iter(blocks)
    lock = threading.Lock()
    results: list[tuple[Tensor, Tensor]] = []

    def work() -> None:
        queries = len(comparison.queries)
        bounds = torch.full((queries, kept), -torch.inf, device=comparison.source.device)
        places = torch.full((queries, kept), -1, device=comparison.source.device)
        for block in pending:
            positions = torch.from_numpy(block).to(comparison.source.device)
            for group, values in comparison.bounds(_read(comparison.source, block)):
                top, columns = values.topk(min(kept, len(block)), dim=1, sorted=False)
                merged = torch.cat([bounds[group], top], dim=1)
                both = torch.cat([places[group], positions[columns]], dim=1)
                bounds[group], order = merged.topk(kept, dim=1, sorted=False)
                places[group] = both.gather(1, order)
        with lock:
            results.append((bounds.cpu(), places.cpu()))

    run_on_cores(work, at_most=len(blocks) if comparison.source.device.type == "cpu" else 1)
    bounds, order = torch.cat([part for part, _ in results], dim=1).topk(kept, dim=1, sorted=False)
    return bounds, torch.cat([part for _, part in results], dim=1).gather(1, order)


def _scores_of(comparison: _Comparison, places: Tensor) -> Tensor:
    """Return the true scores of `(Q, m)` positions."""
    width, dimension = places.shape[1], comparison.source.dimension
    step = max(1, _RESCORED_BYTES // (8 * width * dimension))
    scores = torch.empty(places.shape)
    for start in range(0, len(places), step):
        part = places[start : start + step]
        vectors = comparison.source.read(part.flatten().numpy()).view(len(part), width, dimension)
        scores[start : start + step] = comparison.score(comparison.queries[start : start + step, None], vectors).cpu()
    return scores


def _look_again(comparison: _Comparison, rows: _Rows, threshold: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Score every vector whose bound reaches the threshold of a query."""
    best = torch.full((len(threshold), k), -torch.inf)
    found = torch.full((len(threshold), k), -1)
    step = max(1, _RESCORED_BYTES // (8 * comparison.source.dimension))
    for block in _blocks(rows, comparison.source.dimension):
        vectors = _read(comparison.source, block)
        for group, bounds in comparison.bounds(vectors):
            near = bounds >= threshold[group, None].to(bounds.device)
            # Usually few vectors of a block are near any query, or nearly all.
            columns = near.any(dim=0).nonzero()[:, 0]
            exact = torch.full((near.shape[0], len(columns)), -torch.inf)
            pairs = near[:, columns].nonzero()
            for part in torch.split(pairs, step):
                queries, chosen = comparison.queries[group][part[:, 0]], vectors[columns[part[:, 1]]]
                exact[part[:, 0].cpu(), part[:, 1].cpu()] = comparison.score(queries, chosen).cpu()
            positions = torch.from_numpy(block)[columns.cpu()].expand(exact.shape)
            scores = torch.cat([best[group], exact], dim=1)
            places = torch.cat([found[group], positions.masked_fill(exact == -torch.inf, -1)], dim=1)
            best[group], found[group] = best_positions(scores, places, k)
    return best, found


def _blocks(rows: _Rows, dimension: int, *, kept: int = 0) -> Iterator[Positions]:
    # Merging the kept bounds after each block should cost little next to comparing the block.
    size = min(max(_BLOCK_BYTES // (4 * dimension), _ROWS[0], 64 * kept), _ROWS[1])
    for start in range(0, len(rows), size):
        yield _array(rows[start : start + size])


def _array(rows: _Rows) -> Positions:
    return np.arange(rows.start, rows.stop, rows.step) if isinstance(rows, range) else rows


def _read(source: Source, block: Positions) -> Tensor:
    first, last = int(block[0]), int(block[-1])
    # Consecutive positions are read in place.
    return source.read(slice(first, last + 1) if last - first + 1 == len(block) else block)
