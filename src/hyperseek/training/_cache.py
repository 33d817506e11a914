"""Features after the frozen part of a route, computed once and kept on disk.

A folder belongs to one frozen prefix: its weights, prompt, length and number format name the folder, and every run
that shares them shares it. Texts are found by their content, so a run computes only the texts no earlier run had.

Shapes: `B` texts of a batch, `T` tokens of the longest, `m` token width, `d` vector width.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from hyperseek._errors import ConfigError, ModelError
from hyperseek._files import write_json
from hyperseek._fingerprint import fingerprint_json
from hyperseek._interrupt import stop_here
from hyperseek._progress import progress
from hyperseek.models import Retriever
from hyperseek.models._precision import resolve_dtype
from hyperseek.models._retriever import Side
from hyperseek.training._losses._gather import is_distributed
from hyperseek.training._routes import prefix_fingerprint
from hyperseek.training._shards import Shard, ShardStore, text_key

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
                self._store.add(Shard([keys[row] for row in new], points.vectors[new].numpy()))
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
            return Shard(keys, self.retriever.encode_documents(texts, dtype=self.dtype).vectors.numpy())
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
