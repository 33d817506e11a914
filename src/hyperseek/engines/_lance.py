"""An index of Lance, the format of the store: it stays on disk, and a search reads only the cells that it visits."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from hyperseek.engines._flat import Source, exact_search
from hyperseek.engines.charts import VectorStructure
from hyperseek.engines.engine import BASE_BYTES, PRODUCTS, Engine, EngineConfig, EngineInfo, build_seconds, chunk_bytes
from hyperseek.engines.structure import StructureEstimate
from hyperseek.errors import InputError
from hyperseek.types import Metric

FEWEST = 256
"""Vectors that Lance wants per cell. With fewer in all, no index is made, and Lance compares them all."""

_TABLE = "vectors.lance"
_LINKS = 20  # per vector in Lance's graphs
_METRICS: dict[Metric, str] = {"inner_product": "dot", "l2": "l2"}

logger = logging.getLogger(__name__)


class LanceConfig(EngineConfig):
    """Search an index that stays on the disk (Lance).

    Attributes:
        kind: `lance`.
        index: Lance's name for the type of index. `PQ` and `SQ` shorten vectors.
        partitions: Number of cells, of 256 vectors or more; None for the square root of the number of vectors.
        effort: Cells that a search visits (nprobes). In `HNSW` indexes also the candidates that it keeps in each cell.
        pq: Bytes to which `IVF_PQ` shortens a vector, a divisor of the dimension; None for an eighth of it.
        refine: Multiple of `k` that is compared in full after a search among shortened vectors; None for no such step.
    """

    kind: Literal["lance"] = "lance"
    index: Literal["IVF_FLAT", "IVF_PQ", "IVF_SQ", "IVF_HNSW_FLAT", "IVF_HNSW_SQ"] = "IVF_FLAT"
    partitions: int | None = Field(default=None, ge=1)
    effort: int = Field(default=32, ge=1)
    pq: int | None = Field(default=None, ge=1)
    refine: int | None = Field(default=None, ge=1)

    @property
    def graph(self) -> bool:
        """Whether the cells hold graphs."""
        return "HNSW" in self.index


class LanceEngine(Engine):
    """Searches the cells of a Lance index; conditions on positions are part of the search."""

    kind: ClassVar[str] = "lance"
    _dataset: Any

    @classmethod
    def estimate(cls, config: LanceConfig, *, count: int, dimension: int) -> StructureEstimate:
        """Estimate its cost."""
        vectors = count * (4 * dimension + 8)
        if count < FEWEST:
            return StructureEstimate(BASE_BYTES + vectors, chunk_bytes(dimension) + 2 * vectors, vectors, 1.0)
        partitions = number_of_partitions(config, count)
        shortened = {"IVF_PQ": config.pq or max(1, dimension // 8), "IVF_SQ": dimension, "IVF_HNSW_SQ": dimension}
        index = count * (shortened.get(config.index, 4 * dimension) + 8) + (count * 160 if config.graph else 0)
        index += 4 * partitions * dimension
        # Measured, since Lance does not say: all vectors about one and a half times, and the sample of 256 vectors per
        # centroid. A search keeps what it has read in a cache.
        sample = min(count, FEWEST * partitions)
        building = 4 * BASE_BYTES + chunk_bytes(dimension) + 2 * vectors + 2 * 4 * sample * dimension
        work = 2 * dimension * partitions * (25 * sample + count)
        seconds = build_seconds(work / PRODUCTS) if config.index in ("IVF_FLAT", "IVF_SQ") else None
        return StructureEstimate(2 * BASE_BYTES + index, building, vectors + index, seconds)

    @classmethod
    def _write(cls, folder: Path, chunks: Iterator[Tensor], info: EngineInfo) -> dict[str, Any]:
        import lance
        import pyarrow as pa

        config = info.config
        assert isinstance(config, LanceConfig)
        partitions = number_of_partitions(config, info.count)
        pq = _check(config, partitions, info)
        schema = pa.schema({"position": pa.int64(), "vector": pa.list_(pa.float32(), info.dimension)})
        failures: list[BaseException] = []
        reader = pa.RecordBatchReader.from_batches(schema, _batches(schema, chunks, failures))
        try:
            dataset = lance.write_dataset(reader, str(folder / _TABLE), schema=schema, mode="create")
        except OSError:
            if failures:  # Lance passes on only the message of an error in its input
                raise failures[0] from None
            raise
        if info.count < FEWEST:
            logger.info("no Lance index: %d vectors are fewer than %d and will all be compared", info.count, FEWEST)
            return {"partitions": None}
        dataset.create_index(
            "vector", config.index, metric=_METRICS[info.metric], num_partitions=partitions, num_sub_vectors=pq
        )
        return {"partitions": partitions}

    def _load(self) -> None:
        import lance

        self._dataset = lance.dataset(str(self.folder / _TABLE))

    def _search(
        self, queries: Tensor, k: int, effort: int | None, allowed: NDArray[np.bool_] | None
    ) -> tuple[Tensor, Tensor]:
        import pyarrow as pa
        import pyarrow.compute as pc

        config, partitions = self.config, self.info.details["partitions"]
        assert isinstance(config, LanceConfig)
        probes = effort or config.effort
        matching = len(self) if allowed is None else int(allowed.sum())
        condition = None
        if allowed is not None:
            # How many vectors the search would look at; where no more are allowed, compare them all.
            if partitions is None or matching <= probes * (_LINKS if config.graph else len(self) / partitions):
                return self._compare(queries, k, allowed)
            condition = pc.field("position").isin(pa.array(np.flatnonzero(allowed)))
            probes = math.ceil(probes * len(self) / matching)
        nearest: dict[str, Any] = {"column": "vector", "q": queries.numpy(), "k": k, "metric": _METRICS[self.metric]}
        if partitions is None:
            nearest["use_index"] = False
        else:
            nearest |= {"nprobes": min(probes, partitions), "refine_factor": config.refine}
            if config.graph:
                nearest["ef"] = max(2 * k, probes)
        found = self._dataset.to_table(
            columns=["position", "_distance"], nearest=nearest, filter=condition, prefilter=condition is not None
        )
        return _results(found, len(queries), k, self.metric)

    def _compare(self, queries: Tensor, k: int, allowed: NDArray[np.bool_]) -> tuple[Tensor, Tensor]:
        def read(rows: slice | NDArray[np.int64]) -> Tensor:
            places = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
            # Lance wants each row once.
            once, back = np.unique(places, return_inverse=True)
            column = self._dataset.take(once.tolist(), columns=["vector"])["vector"].combine_chunks()
            vectors = column.flatten().to_numpy().reshape(len(once), self.dimension)
            return torch.from_numpy(vectors[back])

        source = Source(read, self.dimension, torch.device("cpu"))
        return exact_search(queries, source, count=len(self), k=k, metric=self.metric, allowed=allowed)


class Lance(VectorStructure):
    """Lance's index as a structure of an index."""

    config_type = LanceConfig
    engine = LanceEngine


def number_of_partitions(config: LanceConfig, count: int) -> int:
    """Return the number of cells for `count` vectors."""
    return config.partitions or max(1, min(round(math.sqrt(count)), count // FEWEST))


def _check(config: LanceConfig, partitions: int, info: EngineInfo) -> int | None:
    """Check the configuration, and return the bytes per shortened vector; None for indexes without `pq`."""
    if partitions > max(1, info.count // FEWEST):
        raise InputError(
            f"{partitions} partitions are too many for {info.count} vectors, of which Lance wants {FEWEST} for each; "
            f"give fewer, or None"
        )
    if config.index != "IVF_PQ":
        if config.pq:
            raise InputError(f"pq is for the index IVF_PQ, not for {config.index}; leave it out")
        return None
    pq = config.pq or math.gcd(info.dimension, max(1, info.dimension // 8))
    if info.dimension % pq:
        raise InputError(f"pq must divide the dimension, {info.dimension}; {pq} does not")
    return pq


def _batches(schema: Any, chunks: Iterator[Tensor], failures: list[BaseException]) -> Iterator[Any]:
    import pyarrow as pa

    start = 0
    try:
        for chunk in chunks:
            positions = pa.array(np.arange(start, start + len(chunk)))
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(chunk.numpy().reshape(-1)), chunk.shape[1])
            yield pa.RecordBatch.from_arrays([positions, vectors], schema=schema)
            start += len(chunk)
    except BaseException as error:
        failures.append(error)
        raise


def _results(found: Any, queries: int, k: int, metric: Metric) -> tuple[Tensor, Tensor]:
    """Put the found rows, which come with the number of their query, into `(Q, k)`."""
    owner = found["query_index"].to_numpy()
    distances = torch.from_numpy(found["_distance"].to_numpy().copy())
    # Lance's distances are squares, and 1 - x·y for inner products.
    values = distances.clamp_min(0).sqrt().neg() if metric == "l2" else 1 - distances
    order = np.argsort(owner, kind="stable")
    place = np.arange(len(owner)) - np.searchsorted(owner[order], owner[order])
    scores, positions = torch.full((queries, k), -torch.inf), torch.full((queries, k), -1)
    rows, columns = torch.from_numpy(owner[order].astype(np.int64)), torch.from_numpy(place)
    scores[rows, columns] = values[torch.from_numpy(order)]
    positions[rows, columns] = torch.from_numpy(found["position"].to_numpy()[order])
    return scores, positions
