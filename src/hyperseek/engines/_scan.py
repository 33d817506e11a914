"""The exact scan of vectors that lie in one file, mapped into memory."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperseek._errors import InputError
from hyperseek.engines._configs import ScanConfig
from hyperseek.engines._engine import CHUNK, Engine, EngineInfo
from hyperseek.engines._exact import Source, exact_search

MATRIX = "vectors.npy"

_LOGGER = logging.getLogger(__name__)


class ScanEngine(Engine):
    """Compares all vectors; always exact."""

    kind: ClassVar[str] = "scan"
    _source: Source

    @classmethod
    def _write(cls, folder: Path, chunks: Iterator[Tensor], info: EngineInfo) -> dict[str, Any]:
        assert isinstance(info.config, ScanConfig)
        write_matrix(folder / MATRIX, chunks, info, storage=info.config.storage)
        return {}

    def _load(self) -> None:
        self._source = _on_device(map_matrix(self.folder / MATRIX), self.config)

    def _search(
        self, queries: Tensor, k: int, effort: int | None, allowed: NDArray[np.bool_] | None
    ) -> tuple[Tensor, Tensor]:
        return exact_search(queries, self._source, count=len(self), k=k, metric=self.metric, allowed=allowed)


def write_matrix(
    path: Path, chunks: Iterator[Tensor], info: EngineInfo, *, storage: Literal["float32", "float16"] = "float32"
) -> None:
    """Write vectors to a file, one chunk at a time.

    Args:
        path: The file.
        chunks: The vectors.
        info: How many there are.
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
            file.write(np.ascontiguousarray(part).data.cast("B"))  # unlike `tofile`, it says what a disk says
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
    # "c": torch warns of arrays that cannot be written.
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))


def matrix_source(matrix: Tensor) -> Source:
    """Return a source that reads a `(N, d)` tensor."""

    def read(rows: slice | NDArray[np.int64]) -> Tensor:
        return matrix[rows if isinstance(rows, slice) else torch.from_numpy(rows).to(matrix.device)]

    return Source(read, matrix.shape[1], matrix.device)


def _on_device(matrix: Tensor, config: object) -> Source:
    assert isinstance(config, ScanConfig)
    if config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available()):
        return matrix_source(matrix)
    if not torch.cuda.is_available():
        raise InputError("the engine was built for a CUDA device and there is none; build it with device 'auto'")
    free, _ = torch.cuda.mem_get_info()
    size = matrix.numel() * matrix.element_size()
    if config.device == "auto" and 2 * size > free:
        _LOGGER.info("scanning on the CPU: %d bytes of vectors would crowd the %d of the CUDA device", size, free)
        return matrix_source(matrix)
    return matrix_source(matrix.to("cuda"))
