"""Features after the frozen part of a route, computed once and kept on disk in shards."""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from hyperseek._files import read_array, write_json
from hyperseek._fingerprint import fingerprint_json
from hyperseek._long_work import progress, stop_here
from hyperseek.errors import ConfigError, DataError, ModelError
from hyperseek.models import Retriever
from hyperseek.models.encoding import resolve_dtype
from hyperseek.models.retriever import Side
from hyperseek.runs.distributed import is_distributed
from hyperseek.scoring import vectors_of
from hyperseek.training._routes import prefix_fingerprint

if TYPE_CHECKING:
    from hyperseek.index import Index


_LAYOUT = 1  # raise it when the files' meaning changes
_BATCH_TOKENS = 8192
# Texts of a shard, and the tokens it may hold: what a kill can cost, and 100 MB of float16 at width 384.
_SHARD_TEXTS = 2048
_SHARD_TOKENS = 1 << 17
_CHARACTERS_PER_TOKEN = 4

logger = logging.getLogger(__name__)


class FeatureCache:
    """What the first `stop` modules of a route make of texts.

    Args:
        folder: Parent of all caches; the cache makes its own folder inside.
        retriever: Its weights must not change in those modules while the cache is used.
        side: The route.
        stop: How many leading modules are frozen.
        tokens: Whether token states are kept, beside the vectors if the prefix makes any.
        storage: Number format of token states on disk; vectors are float32 always.
        dtype: What documents are encoded in where the prefix is their whole route; see
            `Retriever.encode_documents`. Everything else is computed in the model's own format.
    """

    def __init__(
        self,
        folder: Path,
        retriever: Retriever,
        side: Side,
        *,
        stop: int,
        tokens: bool,
        storage: Literal["float16", "float32"] = "float16",
        dtype: str = "auto",
    ) -> None:
        self.retriever = retriever
        self.side = side
        self.stop = stop
        self.keeps_tokens = tokens
        self.storage = storage
        self._whole_documents = side == "document" and not tokens and stop == len(retriever.route(side))
        self.dtype = dtype if self._whole_documents else "model"
        identity = {
            "layout": _LAYOUT,
            "side": side,
            "prefix": prefix_fingerprint(retriever, side, stop),
            "tokens": storage if tokens else None,
            "dtype": self.dtype,
        }
        self.folder = Path(folder) / fingerprint_json(identity)
        self._longest = retriever.protocol()["max_length"][side] or 512
        self._store = ShardStore(self.folder)
        self._identity = identity
        self._keys: dict[str, bytes] = {}

    def ensure(self, texts: Sequence[str]) -> None:
        """Compute what is missing; every process of a distributed run computes its share.

        Args:
            texts: Any number; repeated ones are computed once.
        """
        self._store.refresh()
        missing = sorted({text for text in texts if self._key(text) not in self._store}, key=lambda t: (-len(t), t))
        if is_distributed():
            # All must look before any writes, or the shares would not add up.
            dist.barrier()
            missing = missing[dist.get_rank() :: dist.get_world_size()]
        if missing:
            logger.info("caching %d of %d %s texts in %s", len(missing), len(texts), self.side, self.folder)
            self._store.clean()
            if not (self.folder / "cache.json").exists():
                write_json(self.folder / "cache.json", {**self._identity, "model": self.retriever.source})
            with progress(f"encoding {self.side} texts once", len(missing), unit="texts") as bar:
                for shard in self._shards(missing):
                    batch = [missing[position] for position in shard]
                    self._store.add(self._compute(batch))
                    bar.advance(len(batch))
                    stop_here()
        if is_distributed():
            dist.barrier()
            self._store.refresh()

    def adopt(self, index: Index) -> None:
        """Take over the vectors of an index, so that what is indexed is not encoded again.

        Args:
            index: An index of the retriever's document side, stored in float32.

        Raises:
            ConfigError: The cache holds something else than whole documents' vectors, or the index was made with
                another number format.
            FingerprintError: The index was made by another document side.
        """
        # Lance, which an index stands on, does not like the data loader's forked workers: load it only for this.
        from hyperseek.index import check_model

        if not self._whole_documents:
            raise ConfigError("an index can stand in for documents only where their whole route is frozen")
        check_model(index.path, index.info, self.retriever)
        wanted = (str(resolve_dtype(self.dtype, self.retriever.device)).removeprefix("torch."), "float32")
        made = (index.info.dtype, index.info.storage)
        if made[0] is None:
            raise ConfigError(f"{index.path} was made of given vectors and cannot stand in for encoding; leave it out")
        if made != wanted:
            raise ConfigError(
                f"{index.path} was computed in {made[0]} and stored in {made[1]}, but this cache keeps {wanted[0]} in "
                f"{wanted[1]}; set train.cache.dtype to {made[0]}, or leave the index out"
            )
        self._store.refresh()
        documents = index.documents()
        for ids, points in index.points():
            keys = [self._key(document.full_text) for document in islice(documents, len(ids))]
            new = [row for row, key in enumerate(keys) if key not in self._store]
            if new:
                self._store.add(Shard([keys[row] for row in new], vectors_of(points)[new].numpy()))
        logger.info("took over the vectors of %d documents from %s", len(index), index.path)

    def features(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return the features of texts that `ensure` has seen.

        Args:
            texts: `B` texts.

        Returns:
            `sentence_embedding` `(B, d)` if the prefix makes it; with tokens also `token_embeddings` `(B, T, m)`
            and `attention_mask` `(B, T)`. All on the CPU, float32.
        """
        keys = [self._key(text) for text in texts]
        features: dict[str, Tensor] = {}
        if self.keeps_tokens:
            states = [torch.from_numpy(array) for array in self._store.tokens(keys)]
            lengths = torch.tensor([len(state) for state in states])
            features["token_embeddings"] = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)
            features["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        if self._store.has_vectors:
            features["sentence_embedding"] = self.vectors(texts)
        return features

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """Return `(B, d)` float32 vectors of texts that `ensure` has seen, on the CPU."""
        return torch.from_numpy(self._store.vectors([self._key(text) for text in texts]))

    def _key(self, text: str) -> bytes:
        key = self._keys.get(text)
        if key is None:
            key = self._keys[text] = text_key(text)
        return key

    def _shards(self, texts: Sequence[str]) -> Iterator[range]:
        """Split texts, sorted by falling length, into ranges of bounded size."""
        start = 0
        while start < len(texts):
            count = _SHARD_TEXTS
            if self.keeps_tokens:
                count = max(1, min(count, _SHARD_TOKENS // self._estimated_tokens(texts[start])))
            yield range(start, min(start + count, len(texts)))
            start += count

    def _estimated_tokens(self, text: str) -> int:
        return min(self._longest, len(text) // _CHARACTERS_PER_TOKEN + 2)

    def _compute(self, texts: Sequence[str]) -> Shard:
        keys = [self._key(text) for text in texts]
        if self._whole_documents:
            return Shard(keys, vectors_of(self.retriever.encode_documents(texts, dtype=self.dtype)).numpy())
        vectors: list[Tensor] = []
        tokens: list[Tensor] = []
        start = 0
        with torch.inference_mode():
            while start < len(texts):
                count = max(1, _BATCH_TOKENS // self._estimated_tokens(texts[start]))
                features = self.retriever.preprocess(texts[start : start + count], self.side)
                features = self.retriever.forward(features, self.side, stop=self.stop)
                if "sentence_embedding" in features:
                    vectors.append(features["sentence_embedding"].float().cpu())
                if self.keeps_tokens:
                    tokens.extend(_unpadded(features))
                start += count
        stacked = torch.cat(vectors).numpy() if vectors else None
        if not self.keeps_tokens:
            if stacked is None:
                raise ModelError(
                    f"the first {self.stop} modules of the {self.side} route make no vector of a text; "
                    f"a pull towards the base similarity needs a model with pooling (for q-nets: warm_start: true)"
                )
            return Shard(keys, stacked)
        offsets = np.cumsum([0, *(len(state) for state in tokens)], dtype=np.int64)
        return Shard(keys, stacked, torch.cat(tokens).numpy().astype(self.storage), offsets)


def _unpadded(features: dict[str, Any]) -> list[Tensor]:
    states = features["token_embeddings"].float().cpu()
    masks = features["attention_mask"].cpu().bool()
    return [state[mask] for state, mask in zip(states, masks, strict=True)]


_KEY_BYTES = 16
_NAMED = 3  # parts of a shard's name since it says what is inside
_DAY = 86400  # seconds
_Array = NDArray[np.floating]


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
