"""Token sequences on disk, mapped into memory: many more than fit into it can be read in any order."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hyperseek._errors import DataError


class TokenRows:
    """All sequences of one side, in parts; each part is a file of nothing but ids.

    Args:
        parts: The files.
        rows: How many sequences each holds.
        length: Tokens of a sequence.
        dtype: Number format of an id.
        vocabulary: Ids are smaller than this.
    """

    def __init__(
        self, parts: Sequence[Path], rows: Sequence[int], *, length: int, dtype: str, vocabulary: int = 1 << 32
    ) -> None:
        self.length = length
        self._vocabulary = vocabulary
        self._parts = [(path, count) for path, count in zip(parts, rows, strict=True) if count]
        self._ends = list(accumulate(count for _, count in self._parts))
        self._dtype = np.dtype(dtype)
        self._maps: dict[int, npt.NDArray[Any]] = {}

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, row: int) -> npt.NDArray[np.int64]:
        """Return the ids of one sequence, `(length,)`; beyond the last row IndexError, DataError for a damaged one."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        part = bisect_right(self._ends, row)
        first = self._ends[part - 1] if part else 0
        ids: npt.NDArray[np.int64] = self._map(part)[row - first].astype(np.int64)
        if ids.max() >= self._vocabulary:
            problem = f"is damaged: it has a token {ids.max()}, but the vocabulary {self._vocabulary}"
            raise DataError(f"{problem}; delete its folder, and it is made again", path=self._parts[part][0])
        return ids

    def __getstate__(self) -> dict[str, object]:
        # Workers map the files themselves.
        return {**self.__dict__, "_maps": {}}

    def _map(self, part: int) -> npt.NDArray[Any]:
        if part not in self._maps:
            path, count = self._parts[part]
            self._maps[part] = np.memmap(path, self._dtype, mode="r", shape=(count, self.length))
        return self._maps[part]
