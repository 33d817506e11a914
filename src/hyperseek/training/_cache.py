"""Features after the frozen part of a route, computed once and kept on disk in shards.

A folder belongs to one frozen prefix: its weights, prompt, length and number format name the folder, and every run
that shares them shares it. Texts are found by their content, so a run computes only the texts that no earlier run
had. A shard is a folder of plain `.npy` files, written under a temporary name and renamed once it is complete, so a
killed run loses at most the shard it was writing. Reading maps the files into memory.

Shapes: `B` texts of a batch, `N` texts of a shard, `T` tokens of the longest text or of a whole shard, `m` token width,
`d` vector width.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

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
from hyperseek.runs.recipe import is_distributed
from hyperseek.training._routes import prefix_fingerprint, reads_only_states

if TYPE_CHECKING:
    from hyperseek.index import Index
    from hyperseek.training._recipe import CacheConfig

_LAYOUT = 1  # raise it when the file format changes
_BATCH_TOKENS = 8192
# Texts of a shard, and the tokens it may hold: the most a kill can cost, and 100 MB of float16 at width 384.
_SHARD_TEXTS = 2048
_SHARD_TOKENS = 1 << 17
_CHARACTERS_PER_TOKEN = 4
# Features with a row per token; the last two say which rows are tokens.
_TOKEN_FEATURES = ("token_embeddings", "input_ids", "attention_mask", "query_expansion_positions")
_SAY_TOKENS = _TOKEN_FEATURES[2:]
_KEY_BYTES = 16
_NAMED = 3  # parts of a shard's name; older names do not list the contents
_DAY = 86400  # seconds
# What earlier versions called the files of these features.
_FILES = {"sentence_embedding": "vectors", "token_embeddings": "tokens"}
_FEATURES = {file: name for name, file in _FILES.items()}
_Array = NDArray[Any]

logger = logging.getLogger(__name__)


class FeatureCache:
    """The output of the first `stop` modules of a route for texts.

    Args:
        folder: Parent of all caches; the cache makes its own folder inside.
        retriever: Its weights must not change in those modules while the cache is used.
        side: The route.
        stop: How many leading modules are frozen.
        tokens: Whether to keep token states, and other token features that the rest of the route reads, in addition to
            vectors if the prefix makes any.
        storage: Number format of token states on disk; vectors are always float32.
        dtype: Number format that documents are encoded in if the prefix is their whole route; see
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
        self.storage = storage
        modules = retriever.route(side)
        # The rest of the route may read more than token states, as modules that skip words do.
        extra = () if not tokens or reads_only_states(modules[stop:]) else _TOKEN_FEATURES[1:]
        self._token_names = ("token_embeddings", *extra) if tokens else ()
        self._names = {"sentence_embedding", *retriever.outputs} - {*_TOKEN_FEATURES}
        self._whole_documents = side == "document" and stop == len(modules)
        self.dtype = dtype if self._whole_documents else "model"
        identity = {
            "layout": _LAYOUT,
            "side": side,
            "prefix": prefix_fingerprint(retriever, side, stop),
            "tokens": storage if tokens else None,
            "dtype": self.dtype,
            **({"features": extra} if extra else {}),
        }
        self.folder = Path(folder) / fingerprint_json(identity)
        self._longest = retriever.max_length[side] or 512
        self._store = ShardStore(self.folder)
        self._identity = identity
        self._keys: dict[str, bytes] = {}

    @classmethod
    def of(cls, config: CacheConfig, retriever: Retriever, side: Side, stop: int, *, tokens: bool) -> Self:
        """Return the cache that a recipe describes; other arguments as for the class."""
        folder = config.resolved_folder()
        return cls(folder, retriever, side, stop=stop, tokens=tokens, storage=config.storage, dtype=config.dtype)

    def ensure(self, texts: Sequence[str]) -> None:
        """Compute the missing features; every process of a distributed run computes its share.

        Args:
            texts: Any number; repeated ones are computed once.
        """
        self._store.refresh()
        missing = sorted({text for text in texts if self._key(text) not in self._store}, key=lambda t: (-len(t), t))
        if is_distributed():
            # All processes must look before any of them writes, or the shares would not add up.
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

    def adopt_indexes(self, config: CacheConfig) -> None:
        """Take over the vectors of the indexes that a recipe names, with the errors of `adopt`."""
        for path in config.indexes:
            from hyperseek.index import Index

            self.adopt(Index.open(Path(os.path.expandvars(path)).expanduser()))

    def adopt(self, index: Index) -> None:
        """Take over the vectors of an index, so that indexed documents are not encoded again.

        Args:
            index: An index of the retriever's document side, stored in float32.

        Raises:
            ConfigError: The cache does not hold vectors of whole documents, or the index was made in another
                number format.
            FingerprintError: The index was made by another document side.
        """
        # Lance, which indexes are built on, is not safe in the data loader's forked workers: import it only here.
        from hyperseek.index import check_model

        if not self._whole_documents:
            raise ConfigError("an index can replace encoding only if the whole document route is frozen")
        check_model(index.path, index.info, self.retriever)
        wanted = (str(resolve_dtype(self.dtype, self.retriever.device)).removeprefix("torch."), "float32")
        made = (index.info.dtype, index.info.storage)
        if made[0] is None:
            raise ConfigError(f"{index.path} was built from given vectors and cannot replace encoding; leave it out")
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
                chosen = points[torch.tensor(new)]
                self._store.add(self._shard([keys[row] for row in new], [self.retriever.features_of(chosen)]))
        logger.info("took over the vectors of %d documents from %s", len(index), index.path)

    def features(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return the features of texts that `ensure` has seen.

        Args:
            texts: `B` texts.

        Returns:
            Those that the prefix makes and the rest of the route reads: `sentence_embedding` `(B, d)`; for tokens
            `token_embeddings` `(B, T, m)` and `attention_mask` `(B, T)`. All are on the CPU, floating point as float32.
        """
        keys = [self._key(text) for text in texts]
        features: dict[str, Tensor] = {}
        if self._token_names:
            found = {name: self._store.ragged(name, keys) for name in self._token_names if name in self._store.names}
            for name, arrays in found.items():
                features[name] = torch.nn.utils.rnn.pad_sequence(list(map(torch.from_numpy, arrays)), batch_first=True)
            lengths = torch.tensor([len(array) for array in found["token_embeddings"]])
            features.setdefault("attention_mask", (torch.arange(int(lengths.max())) < lengths[:, None]).long())
        for name in self._store.names:
            if name not in _TOKEN_FEATURES:
                features[name] = torch.from_numpy(self._store.rows(name, keys))
        return features

    def vectors(self, texts: Sequence[str]) -> Tensor:
        """Return `(B, d)` float32 vectors of texts that `ensure` has seen, on the CPU."""
        return torch.from_numpy(self._store.rows("sentence_embedding", [self._key(text) for text in texts]))

    def look_up(self, texts: Sequence[str]) -> Tensor:
        """Return `(B, d)` vectors like `vectors`, but compute those it lacks, in this process alone, and keep them."""
        missing = list(dict.fromkeys(text for text in texts if self._key(text) not in self._store))
        if missing:
            self._store.add(self._compute(sorted(missing, key=len, reverse=True)))
        return self.vectors(texts)

    def _key(self, text: str) -> bytes:
        key = self._keys.get(text)
        if key is None:
            key = self._keys[text] = content_key(text)
        return key

    def _shards(self, texts: Sequence[str]) -> Iterator[range]:
        """Split texts, sorted by decreasing length, into ranges of bounded size."""
        start = 0
        while start < len(texts):
            count = _SHARD_TEXTS
            if self.retriever.device.type == "cpu":  # where these take minutes, without a word of progress
                count = max(1, count // 4)
            if self._token_names:
                count = max(1, min(count, _SHARD_TOKENS // self._estimated_tokens(texts[start])))
            yield range(start, min(start + count, len(texts)))
            start += count

    def _estimated_tokens(self, text: str) -> int:
        return min(self._longest, len(text) // _CHARACTERS_PER_TOKEN + 2)

    def _compute(self, texts: Sequence[str]) -> Shard:
        keys = [self._key(text) for text in texts]
        if self._whole_documents:
            points = self.retriever.encode_documents(texts, dtype=self.dtype)
            return self._shard(keys, [self.retriever.features_of(points)])
        batches: list[dict[str, Any]] = []
        start = 0
        with torch.inference_mode():
            while start < len(texts):
                count = max(1, _BATCH_TOKENS // self._estimated_tokens(texts[start]))
                features = self.retriever.preprocess(texts[start : start + count], self.side)
                features = self.retriever.forward(features, self.side, stop=self.stop)
                # Off the device at once: a shard holds the states of many batches.
                batches.append({name: features[name].cpu() for name in self._read(features)})
                start += count
        return self._shard(keys, batches)

    def _read(self, features: dict[str, Any]) -> list[str]:
        wanted = {*self._names, *self._token_names}
        return [name for name in features if name in wanted or (self._token_names and name in _SAY_TOKENS)]

    def _shard(self, keys: Sequence[bytes], batches: Sequence[dict[str, Tensor]]) -> Shard:
        """Make a shard of the features of successive texts."""
        parts: dict[str, _Array] = {}
        for name in sorted(self._names & batches[0].keys()):
            parts[name] = torch.cat([batch[name].float().cpu() for batch in batches]).numpy()
        if not self._token_names:
            if not parts:
                raise ModelError(
                    f"the first {self.stop} modules of the {self.side} route make no vector per text; "
                    f"a pull towards the base similarity needs a model with pooling (for q-nets: warm_start: true)"
                )
            return Shard(keys, parts)
        masks = [_tokens_of(batch).cpu() for batch in batches]
        for name in self._token_names:
            if name in batches[0]:
                kept = torch.cat([batch[name].cpu()[mask] for batch, mask in zip(batches, masks, strict=True)])
                parts[name] = (kept.float().numpy().astype(self.storage)) if kept.is_floating_point() else kept.numpy()
        lengths = torch.cat([mask.sum(dim=1) for mask in masks])
        return Shard(keys, parts, np.cumsum([0, *lengths.tolist()], dtype=np.int64))


@dataclass(frozen=True, slots=True)
class SideFeatures:
    """Where one side's features come from: a cache of the frozen prefix, or the tokeniser.

    Attributes:
        retriever: The model.
        side: The route.
        cache: Features after the frozen prefix; None to tokenise texts.
        base: Features before training; None where no loss reads them.
    """

    retriever: Retriever
    side: Side
    cache: FeatureCache | None = None
    base: FeatureCache | None = None

    def features(self, texts: Sequence[str]) -> dict[str, Any]:
        """Return the input features of training, on the CPU."""
        if self.cache is not None:
            return self.cache.features(texts)
        return self.retriever.tokenize(texts, self.side)

    def base_features(self, texts: Sequence[str]) -> dict[str, Tensor] | None:
        """Return features before training, or None."""
        return None if self.base is None else self.base.features(texts)

    def ensure(self, texts: Sequence[str]) -> None:
        """Fill the caches."""
        for cache in (self.cache, self.base):
            if cache is not None:
                cache.ensure(texts)


def _tokens_of(features: dict[str, Tensor]) -> Tensor:
    """Return the `(B, T)` mask of tokens that modules may read, expansion tokens of queries included."""
    mask = features["attention_mask"].bool()
    expansion = features.get("query_expansion_positions")
    return mask if expansion is None else mask | expansion.bool()


def content_key(text: str) -> bytes:
    """Return the key of a text: 128 bits of its hash."""
    return hashlib.sha256(text.encode()).digest()[:_KEY_BYTES]


@dataclass(frozen=True, slots=True)
class Shard:
    """Features of some texts.

    Attributes:
        keys: The keys of the `N` texts, in order.
        parts: Features by name: `(N, ...)`, or `(T, ...)` with a row per token of all texts.
        offsets: `(N + 1,)`; text `i` owns the tokens from `offsets[i]` to `offsets[i + 1]`; None without tokens.
    """

    keys: Sequence[bytes]
    parts: dict[str, _Array]
    offsets: NDArray[np.int64] | None = None

    @property
    def files(self) -> set[str]:
        """Names of the files of its parts, without extensions."""
        return {_FILES.get(name, name) for name in self.parts}

    def is_like(self, other: Shard) -> bool:
        """Return whether another shard has the same parts, of the same widths."""
        ours, theirs = ({name: part.shape[1:] for name, part in one.parts.items()} for one in (self, other))
        return ours == theirs

    def write(self, folder: Path) -> Path:
        """Write the shard under a new name inside `folder`; it appears all at once."""
        # The name lists the contents, so that a lost part is noticed.
        name = f"shard-{'+'.join(sorted(self.files, reverse=True))}-{uuid.uuid4().hex}"
        temporary = folder / f".{name}.tmp"
        temporary.mkdir(parents=True)
        np.save(temporary / "keys.npy", np.frombuffer(b"".join(self.keys), np.uint8).reshape(-1, _KEY_BYTES))
        for feature, part in self.parts.items():
            np.save(temporary / f"{_FILES.get(feature, feature)}.npy", part)
        if self.offsets is not None:
            np.save(temporary / "offsets.npy", self.offsets)
        return temporary.rename(folder / name)

    @classmethod
    def read(cls, folder: Path) -> Shard:
        """Map a written shard into memory; DataError if its parts cannot be read or are inconsistent."""
        keys = read_array(folder / "keys.npy", kinds="u", dimensions=2)
        parts = {
            _FEATURES.get(path.stem, path.stem): _mapped(path)
            for path in sorted(folder.glob("*.npy"))
            if path.stem not in ("keys", "offsets")
        }
        offsets = None
        if (folder / "offsets.npy").exists():
            offsets = read_array(folder / "offsets.npy", kinds="i", dimensions=1).view(np.ndarray)
        of_tokens = {name for name in parts if name in _TOKEN_FEATURES}
        whole = keys.dtype == np.uint8 and keys.shape[1] == _KEY_BYTES and bool(of_tokens) == (offsets is not None)
        whole &= all(part.ndim > 0 for part in parts.values()) and bool(parts)
        whole &= all(len(part) == len(keys) for name, part in parts.items() if name not in of_tokens)
        if offsets is not None:
            ends = [0, *offsets.tolist()]
            whole &= len(offsets) == len(keys) + 1 and ends == sorted(ends) and ends[:2] == [0, 0]
            whole &= all(len(parts[name]) == ends[-1] for name in of_tokens)
        if not whole:
            raise DataError("holds parts that are inconsistent with each other", path=folder)
        content = keys.tobytes()
        names = [content[start : start + _KEY_BYTES] for start in range(0, len(content), _KEY_BYTES)]
        found = cls(names, parts, offsets)
        said = folder.name.split("-")
        if len(said) == _NAMED and {*said[1].split("+")} != found.files:
            raise DataError(f"holds {' and '.join(sorted(found.files))} instead of {said[1]}", path=folder)
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
    def names(self) -> list[str]:
        """The features in the shards; all shards hold the same ones."""
        return list(self._shards[0].parts) if self._shards else []

    def refresh(self) -> None:
        """Read shards that this or another process has written since."""
        for path in sorted(self.folder.glob("shard-*")):
            if path.name not in self._names:
                self._add(path)

    def add(self, shard: Shard) -> None:
        """Write a shard and add it to the table."""
        self._add(shard.write(self.folder))

    def clean(self) -> None:
        """Delete incomplete shards of killed runs; a running one never takes a day to write a shard."""
        for path in self.folder.glob(".shard-*.tmp"):
            # Another process may finish its shard, and rename it, at any time.
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _DAY:
                    shutil.rmtree(path, ignore_errors=True)

    def rows(self, name: str, keys: Sequence[bytes]) -> NDArray[np.float32]:
        """Return a feature of known texts, `(N, ...)` float32."""
        places = [self._rows[key] for key in keys]
        return np.asarray([self._shards[shard].parts[name][row] for shard, row in places], dtype=np.float32)

    def ragged(self, name: str, keys: Iterable[bytes]) -> list[_Array]:
        """Return a feature of the tokens of each known text, `(tokens, ...)`; floating numbers as float32."""
        found = []
        for key in keys:
            place, row = self._rows[key]
            shard = self._shards[place]
            assert shard.offsets is not None  # shards with token features have them
            stored = shard.parts[name][shard.offsets[row] : shard.offsets[row + 1]]
            found.append(np.array(stored, dtype=np.float32 if stored.dtype.kind == "f" else np.int64))
        return found

    def _add(self, path: Path) -> None:
        try:
            shard = Shard.read(path)
            if self._shards and not self._shards[0].is_like(shard):
                raise DataError("holds different parts than the other shards", path=path)
        except DataError as error:
            # Everything in a cache can be computed again.
            logger.warning("a damaged part of a cache was deleted and will be computed again: %s", error)
            shutil.rmtree(path, ignore_errors=True)
            return
        for row, key in enumerate(shard.keys):
            self._rows.setdefault(key, (len(self._shards), row))
        self._shards.append(shard)
        self._names.add(path.name)


def _mapped(path: Path) -> _Array:
    # The plain view still reads from the file, and slices many times faster than numpy.memmap.
    return read_array(path).view(np.ndarray)
