"""One consistent version of an index's documents, as a search sees it.

Shapes: `N` documents, `n` rows. A row is a position in this version, a key names a stored document in all versions.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from hyperseek._machine import Kept
from hyperseek.scoring import Points, Space
from hyperseek.store.rows import check_id
from hyperseek.store.table import Store

CHUNK = 32768
"""Documents per chunk: enough to keep a matrix product busy, few enough that scores stay in the cache."""

# Token sets per chunk: about 50 MiB at a few hundred tokens of 128 numbers.
_TOKEN_CHUNK = 512
# Documents per chunk when the rows of a condition are gathered.
_GATHERED = 8192
# Masks of conditions that are kept, at a byte per document: those of 64 conditions on four million documents.
_MASK_BYTES = 256 << 20


class Snapshot:
    """Documents, keys and points of one version; any number of threads may use it, and each part is read once.

    Args:
        store: The table, open.
        space: Geometry of the points.
        cache_bytes: Points are kept in memory after the first scan if they take no more than this many bytes.
    """

    def __init__(self, store: Store, space: Space, *, cache_bytes: int) -> None:
        self.store = store
        self.space = space
        self._cache_bytes = cache_bytes
        self._points: Points | None = None
        # Not an `lru_cache`: that would keep this object in a cycle, and its files open, long after the last search.
        self._read = Kept()
        self._masks = Kept(most_bytes=_MASK_BYTES)
        self._beside: dict[Hashable, int] = {}  # bytes

    def __len__(self) -> int:
        return len(self.store)

    @property
    def keys(self) -> npt.NDArray[np.int64]:
        """`(N,)` keys."""
        return self._read.get("keys", lambda: self.store.keys)

    @property
    def ids(self) -> Any:
        """All ids, as an Arrow array."""
        return self._read.get("ids", self.store.ids)

    def texts(self) -> Iterator[str]:
        """Stream the documents' titles and texts, each joined by a space, in order."""
        return (document.full_text for document in self.store.documents())

    @property
    def in_memory(self) -> Points | None:
        """All points, if `load` found them small enough; else None."""
        return self._points

    def load(self, *, scan: bool = True) -> None:
        """Read the points into memory if they are small enough; sets of tokens only for a scan of all of them.

        Args:
            scan: Whether all points will be read. Token sets take a hundred times the memory of single vectors, so
                those of a few candidates are read from disk.
        """
        if scan or not self.store.ragged:
            self._points = self._read.get("points", self._load)

    def _load(self) -> Points | None:
        if not len(self):
            return None
        if self.store.ragged:
            return self._load_tokens()
        return next(self.store.points(len(self))) if len(self) * self.space.width * 4 <= self._cache_bytes else None

    def _load_tokens(self) -> Points | None:
        """Read token sets until they turn out to be too large, since their size is unknown before."""
        parts, left = [], self._cache_bytes
        for part in self.store.points(self.chunk_rows):
            left -= part.rows.nbytes
            if left < 0:
                return None
            parts.append(part)
        return Points.concatenate(parts)

    @property
    def chunk_rows(self) -> int:
        """Documents per chunk of a scan."""
        return _TOKEN_CHUNK if self.store.ragged else CHUNK

    def chunks(self, rows: int) -> Iterator[Points]:
        """Stream the points in order, at most `rows` documents at a time."""
        points = self._points
        if points is None:
            yield from self.store.points(rows)
            return
        for start in range(0, len(self), rows):
            yield points[start : start + rows]

    def points(self, rows: Tensor, *, part: Callable[[Points], Points] | None = None) -> Points:
        """Return the points of `(n,)` rows, in the order given, float32 on the CPU.

        Args:
            rows: The rows.
            part: Takes a part of each point, without copying; None for all of it.

        Returns:
            The points.
        """
        if self._points is not None:
            return (self._points if part is None else part(self._points))[rows]
        points = self.store.take_points(rows.tolist())
        return points if part is None else part(points)

    def beside(self, key: Hashable, make: Callable[[], Tensor], *, size: int) -> Tensor | None:
        """Return what was computed from all points, which is kept beside them in memory.

        Args:
            key: Names it.
            make: Computes it, the first time.
            size: Bytes that it takes.

        Returns:
            It; None where it would not fit into `cache_bytes` with the points and what is kept already.
        """
        others = sum(taken for other, taken in list(self._beside.items()) if other != key)
        if self._points is None or self._points.nbytes + others + size > self._cache_bytes:
            return None
        self._beside[key] = size
        return self._read.get(key, make)

    def chunks_of(self, rows: npt.NDArray[np.int64]) -> Iterator[Points]:
        """Stream the points of some rows."""
        size = min(_GATHERED, self.chunk_rows)
        for start in range(0, len(rows), size):
            yield self.points(torch.from_numpy(rows[start : start + size]))

    def rows_of_keys(self, keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the row of each key; -1 if the document is not in this version."""
        if not len(self):
            return np.full(len(keys), -1, np.int64)
        order, ordered = self._key_order
        places = np.searchsorted(ordered, keys).clip(max=len(ordered) - 1)
        return np.where(ordered[places] == keys, order[places], -1)

    def rows_of_ids(self, ids: Sequence[str | None]) -> npt.NDArray[np.int64]:
        """Return the row of each id; -1 for None and for unknown ids; InputError for anything that is not an id."""
        for document_id in ids:
            if document_id is not None:
                check_id(document_id)
        if not len(ids):  # all ids would be hashed for nothing
            return np.empty(0, dtype=np.int64)
        found = pc.index_in(pa.array(ids, type=self.ids.type), value_set=self.ids, skip_nulls=True)
        return np.array([-1 if row is None else row for row in found.to_pylist()], dtype=np.int64)

    def mask(self, condition: str) -> npt.NDArray[np.bool_]:
        """Return `(N,)`: which documents meet an SQL condition. Recent masks are kept."""

        def make() -> npt.NDArray[np.bool_]:
            mask = np.zeros(len(self), dtype=np.bool_)
            mask[self.rows_of_keys(self.store.keys_where(condition))] = True
            mask.flags.writeable = False  # searches share it
            return mask

        return self._masks.get(condition, make, size=lambda mask: mask.nbytes)

    @property
    def _key_order(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Rows sorted by their keys, and the sorted keys; rows are in that order already unless they were rewritten."""

        def make() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
            order = np.argsort(self.keys, kind="stable")
            return order, self.keys[order]

        return self._read.get("key order", make)


class SomeDocuments:
    """Some documents of a snapshot, as structures read documents.

    Args:
        snapshot: All documents.
        rows: `(n,)` rows of these.
    """

    def __init__(self, snapshot: Snapshot, rows: npt.NDArray[np.int64]) -> None:
        self._snapshot = snapshot
        self._rows = rows
        self.space = snapshot.space
        self.chunk_rows = snapshot.chunk_rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def ids(self) -> Any:
        """Their ids, as an Arrow array."""
        return self._snapshot.ids.take(pa.array(self._rows))

    def chunks(self, rows: int) -> Iterator[Points]:
        """Stream their points, at most `rows` documents at a time."""
        for start in range(0, len(self), rows):
            yield self._snapshot.points(torch.from_numpy(self._rows[start : start + rows]))

    def texts(self) -> Iterator[str]:
        """Stream their titles and texts, each joined by a space."""
        for start in range(0, len(self), _GATHERED):
            for document in self._snapshot.store.take(self._rows[start : start + _GATHERED].tolist()):
                yield document.full_text
