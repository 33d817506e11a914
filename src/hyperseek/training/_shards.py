"""Vectors and ragged token states of texts on disk, in shards that are either there or not.

A shard is a folder of plain `.npy` files, made under another name and renamed when it is whole, so that a run killed
half-way loses at most the shard it was writing. Reading maps the files into memory.

Shapes: `N` texts, `T` tokens of all texts of a shard together, `m` token width, `d` vector width.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hyperseek._errors import DataError
from hyperseek._tensors import read_array

_KEY_BYTES = 16
_NAMED = 3  # parts of a shard's name since it says what is inside
_DAY = 86400  # seconds
_Array = NDArray[np.floating]

logger = logging.getLogger(__name__)


def text_key(text: str) -> bytes:
    """Return the name of a text: 128 bits of its hash."""
    return hashlib.sha256(text.encode()).digest()[:_KEY_BYTES]


@dataclass(frozen=True, slots=True)
class Shard:
    """Some texts' features.

    Attributes:
        keys: The texts' names, in order.
        vectors: `(N, d)`, or None.
        tokens: `(T, m)`, or None.
        offsets: `(N + 1,)`; text `i` owns the tokens from `offsets[i]` to `offsets[i + 1]`; None without tokens.
    """

    keys: Sequence[bytes]
    vectors: _Array | None
    tokens: _Array | None = None
    offsets: NDArray[np.int64] | None = None

    @property
    def parts(self) -> str:
        """What the shard holds: `vectors`, `tokens`, or both."""
        held = {"vectors": self.vectors, "tokens": self.tokens}
        return "+".join(name for name, part in held.items() if part is not None)

    def is_like(self, other: Shard) -> bool:
        """Return whether another shard has the same parts, of the same widths."""
        return [None if part is None else part.shape[1:] for part in (self.vectors, self.tokens)] == [
            None if part is None else part.shape[1:] for part in (other.vectors, other.tokens)
        ]

    def write(self, folder: Path) -> Path:
        """Write the shard under a new name inside `folder`; it appears all at once."""
        # The name says what is inside, so that a part that is lost is missed.
        name = f"shard-{self.parts}-{uuid.uuid4().hex}"
        temporary = folder / f".{name}.tmp"
        temporary.mkdir(parents=True)
        np.save(temporary / "keys.npy", np.frombuffer(b"".join(self.keys), np.uint8).reshape(-1, _KEY_BYTES))
        for part in ("vectors", "tokens", "offsets"):
            array = getattr(self, part)
            if array is not None:
                np.save(temporary / f"{part}.npy", array)
        return temporary.rename(folder / name)

    @classmethod
    def read(cls, folder: Path) -> Shard:
        """Map a written shard into memory; DataError where its parts cannot be read or do not fit each other."""
        keys = read_array(folder / "keys.npy", kinds="u", dimensions=2)
        vectors, tokens = _mapped(folder / "vectors.npy", "f", 2), _mapped(folder / "tokens.npy", "f", 2)
        offsets = _mapped(folder / "offsets.npy", "i", 1)
        whole = keys.dtype == np.uint8 and keys.shape[1] == _KEY_BYTES and (tokens is None) == (offsets is None)
        whole &= vectors is None or len(vectors) == len(keys)
        if tokens is not None and offsets is not None:
            ends = [0, *offsets.tolist()]
            whole &= len(offsets) == len(keys) + 1 and ends == sorted(ends) and ends[:2] == [0, 0]
            whole &= ends[-1] == len(tokens)
        if not whole or (vectors is None and tokens is None):
            raise DataError("holds parts that do not fit each other", path=folder)
        content = keys.tobytes()
        names = [content[start : start + _KEY_BYTES] for start in range(0, len(content), _KEY_BYTES)]
        found = cls(names, vectors, tokens, offsets)
        said = folder.name.split("-")
        if len(said) == _NAMED and said[1] != found.parts:
            raise DataError(f"holds {found.parts} instead of {said[1]}", path=folder)
        return found


class ShardStore:
    """All shards of a folder, as one growing table whose rows are texts.

    Args:
        folder: Where the shards are, or will be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shards: list[Shard] = []
        self._names: set[str] = set()
        self._rows: dict[bytes, tuple[int, int]] = {}
        self.refresh()

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    @property
    def has_vectors(self) -> bool:
        """Whether the shards hold vectors; all do or none does."""
        return bool(self._shards) and self._shards[0].vectors is not None

    def refresh(self) -> None:
        """Take up shards that this or another process has written since."""
        for path in sorted(self.folder.glob("shard-*")):
            if path.name not in self._names:
                self._add(path)

    def add(self, shard: Shard) -> None:
        """Write a shard and take it up."""
        self._add(shard.write(self.folder))

    def clean(self) -> None:
        """Delete what killed runs left half-written; another run's shard is never a day in the making."""
        for path in self.folder.glob(".shard-*.tmp"):
            if time.time() - path.stat().st_mtime > _DAY:
                shutil.rmtree(path, ignore_errors=True)

    def vectors(self, keys: Sequence[bytes]) -> NDArray[np.float32]:
        """Return `(N, d)` vectors of known texts, float32."""
        places = [self._rows[key] for key in keys]
        rows = [_stored(self._shards[shard].vectors)[row] for shard, row in places]
        return np.asarray(rows, dtype=np.float32)

    def tokens(self, keys: Iterable[bytes]) -> list[NDArray[np.float32]]:
        """Return `(tokens, m)` token states of each known text, float32."""
        states = []
        for key in keys:
            shard, row = self._rows[key]
            offsets = _stored(self._shards[shard].offsets)
            stored = _stored(self._shards[shard].tokens)[offsets[row] : offsets[row + 1]]
            states.append(np.array(stored, dtype=np.float32))
        return states

    def _add(self, path: Path) -> None:
        try:
            shard = Shard.read(path)
            if self._shards and not self._shards[0].is_like(shard):
                raise DataError("holds other parts than the shards beside it", path=path)
        except DataError as error:
            # Everything in a cache can be computed again.
            logger.warning("a part of a cache is damaged and deleted, what it held is computed again: %s", error)
            shutil.rmtree(path, ignore_errors=True)
            return
        for row, key in enumerate(shard.keys):
            self._rows.setdefault(key, (len(self._shards), row))
        self._shards.append(shard)
        self._names.add(path.name)


def _mapped(path: Path, kind: str, dimensions: int) -> NDArray | None:  # type: ignore[type-arg]
    if not path.exists():
        return None
    # The plain view still reads from the file, and slices many times faster than numpy.memmap.
    mapped: NDArray = read_array(path, kinds=kind, dimensions=dimensions).view(np.ndarray)  # type: ignore[type-arg]
    return mapped


def _stored(array: NDArray | None) -> NDArray:  # type: ignore[type-arg]
    if array is None:
        raise RuntimeError("the shard does not hold this part")
    return array
