"""Rows of tokens: texts as token sequences of one length, made once and memory-mapped; masked, and put into batches.

Texts follow each other without a gap, each with its end token, and every sequence starts with the begin token, so no
position is wasted on padding, except in the last sequence of each side. Sequences are committed part by part: a
killed run resumes after the last part.

Masks are drawn from seed, epoch and sequence alone, so the draw depends neither on the number of processes or workers,
nor on where a run was interrupted.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset
from transformers import PreTrainedTokenizerBase

from hyperseek._config import Config
from hyperseek._files import atomic_write, locked, write_json
from hyperseek._fingerprint import fingerprint_json
from hyperseek._long_work import progress, stop_asked, stop_here
from hyperseek.errors import ConfigError, DataError
from hyperseek.pretraining._recipe import MaskingConfig
from hyperseek.pretraining._texts import TextSource, begin_of_text, end_of_text, tokenizer_fingerprint

Side = Literal["train", "validation"]
SIDES: tuple[Side, Side] = ("train", "validation")

_LAYOUT = 1
_INFO = "cache.json"
_PART_TOKENS = 1 << 24
_BATCH_TEXTS, _BATCH_CHARACTERS = 1000, 2_000_000
_LARGEST = 1 << 28  # bytes of the description, which holds the tokens that do not fill a sequence yet
_PIECE = 200_000  # characters tokenised at once

logger = logging.getLogger(__name__)


def _empty() -> dict[Side, list[int]]:
    return {side: [] for side in SIDES}


class CacheInfo(Config):
    """The contents of `cache.json`.

    Attributes:
        complete: Whether all texts are in.
        length: Tokens of a sequence.
        dtype: Number format of an id.
        texts: Texts read so far.
        tokens: Tokens of each side so far, including end tokens.
        rows: Sequences in each part of each side.
        rest: Tokens of each side that do not fill a sequence yet.
    """

    complete: bool = False
    length: int = Field(ge=1)
    dtype: Literal["uint16", "uint32"]
    texts: int = Field(default=0, ge=0)
    tokens: dict[Side, int] = Field(default_factory=lambda: dict.fromkeys(SIDES, 0))
    rows: dict[Side, list[NonNegativeInt]] = Field(default_factory=_empty)
    rest: dict[Side, list[Annotated[int, Field(ge=0, lt=1 << 32)]]] = Field(default_factory=_empty)

    def parts(self, folder: Path, side: Side) -> list[Path]:
        """Return the files of one side."""
        return [folder / f"{side}-{number:05d}.bin" for number in range(len(self.rows[side]))]


@dataclass(frozen=True, slots=True)
class TokenCache:
    """Tokenised texts.

    Attributes:
        train: Sequences to learn from.
        validation: Sequences to measure on; none for a share of 0.
        fingerprint: Fingerprint of the texts, the tokenizer and the sequence settings.
        info: Counts.
        folder: Its folder.
    """

    train: TokenRows
    validation: TokenRows
    fingerprint: str
    info: CacheInfo
    folder: Path


def token_cache(
    sources: Sequence[TextSource],
    tokenizer: PreTrainedTokenizerBase,
    *,
    length: int,
    validation_share: float,
    folder: Path,
    part_tokens: int = _PART_TOKENS,
) -> TokenCache:
    """Tokenise texts, or find them in the cache.

    Args:
        sources: The texts.
        tokenizer: Has an end token and a token for padding.
        length: Tokens of a sequence, at least 8.
        validation_share: Fraction of the texts, in [0, 1), that goes to validation.
        folder: Parent of all caches, one folder for each fingerprint.
        part_tokens: Tokens held in memory before they are written.

    Returns:
        The sequences.

    Raises:
        DataError: A source has a bad record.
        ConfigError: There is no sequence for training, or none for validation.
    """
    identity = {
        "layout": _LAYOUT,
        "sources": [source.fingerprint for source in sources],
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "length": length,
        "validation_share": validation_share,
    }
    fingerprint = fingerprint_json(identity)
    place = folder / "tokens" / fingerprint
    # One process tokenises, all others wait: a barrier would time out on a large corpus.
    with locked(place / "lock"):
        writer = _Writer(place, tokenizer, length=length, validation_share=validation_share, part_tokens=part_tokens)
        if not writer.info.complete:
            logger.info("tokenising %s into %s", ", ".join(source.name for source in sources), place)
            writer.run(text for source in sources for text in source.read())
    info = writer.info
    rows = {
        side: TokenRows(
            info.parts(place, side),
            info.rows[side],
            length=length,
            dtype=info.dtype,
            vocabulary=max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1),
        )
        for side in SIDES
    }
    _check_filled(rows, info, validation_share)
    return TokenCache(rows["train"], rows["validation"], fingerprint, info, place)


def side_of(text: str, validation_share: float) -> Side:
    """Return the side of a text by its hash: equal texts are always on one side."""
    position = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64
    return "validation" if position < validation_share else "train"


class _Writer:
    """Resumes where `cache.json` says, and commits part after part."""

    def __init__(
        self,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        *,
        length: int,
        validation_share: float,
        part_tokens: int,
    ) -> None:
        self.folder = folder
        self.tokenizer = tokenizer
        self.share = validation_share
        self.part_tokens = part_tokens
        begin, end = begin_of_text(tokenizer), end_of_text(tokenizer)
        self.begin = [] if begin is None else [begin]
        self.end = [] if end is None else [end]
        self.info = _read_info(
            folder, CacheInfo(length=length, dtype="uint16" if len(tokenizer) <= 1 << 16 else "uint32")
        )
        self.held = {side: array("I", self.info.rest[side]) for side in SIDES}
        self.tokens = dict(self.info.tokens)
        self.texts = self.info.texts

    def run(self, texts: Iterator[str]) -> None:
        """Tokenise the remaining texts."""
        if self.texts:
            logger.info("%d texts were tokenised earlier", self.texts)
        with progress("tokenising", unit="texts", done=self.texts) as bar:
            for batch in _batches(islice(texts, self.texts, None)):
                self._add(batch)
                bar.advance(len(batch))
                if sum(map(len, self.held.values())) >= self.part_tokens:
                    self._commit(complete=False)
                if stop_asked():
                    self._commit(complete=False)
                    stop_here()
        self._commit(complete=True)

    def _add(self, texts: list[str]) -> None:
        cut = [_pieces(text) for text in texts]
        pieces = [piece for own in cut for piece in own]
        # The name of a special token in a text is not a special token.
        encoded = self.tokenizer(
            pieces, add_special_tokens=False, split_special_tokens=True, verbose=False, return_attention_mask=False
        )["input_ids"]
        position = 0
        for text, own in zip(texts, cut, strict=True):
            side, count = side_of(text, self.share), len(own)
            ids = [number for piece in encoded[position : position + count] for number in piece]
            position += count
            if ids:
                self.held[side].extend([*ids, *self.end])
                self.tokens[side] += len(ids) + len(self.end)
        self.texts += len(texts)

    def _commit(self, *, complete: bool) -> None:
        """Write the full sequences; `cache.json`, which records them, is written last."""
        rows = {side: list(self.info.rows[side]) for side in SIDES}
        inner = self.info.length - len(self.begin)
        for side in SIDES:
            held = self.held[side]
            count = len(held) // inner
            full, rest = held[: count * inner], held[count * inner :]
            if complete and len(rest) > len(self.end):
                padding = [int(self.tokenizer.pad_token_id)] * (inner - len(rest))
                full, rest, count = full + rest + array("I", padding), array("I"), count + 1
            body = np.array(full, dtype=self.info.dtype).reshape(count, inner)
            begin = np.full((count, len(self.begin)), self.begin, dtype=self.info.dtype)
            with atomic_write(self.folder / f"{side}-{len(rows[side]):05d}.bin", "wb") as file:
                file.write(np.concatenate([begin, body], axis=1).tobytes())
            rows[side].append(count)
            self.held[side] = rest
        values = {"complete": complete, "texts": self.texts, "tokens": dict(self.tokens), "rows": rows}
        self.info = self.info.model_copy(update={**values, "rest": {side: list(self.held[side]) for side in SIDES}})
        write_json(self.folder / _INFO, self.info.model_dump(mode="json"))


def _read_info(folder: Path, empty: CacheInfo) -> CacheInfo:
    """Read the state of a cache; a damaged one is rebuilt from scratch."""
    if not (folder / _INFO).exists():
        return empty
    try:
        info = CacheInfo.from_json(folder / _INFO, "the description of a token cache", largest=_LARGEST)
        if (info.length, info.dtype) != (empty.length, empty.dtype) or not {*info.rows} == {*info.rest} == {
            *info.tokens
        } == {*SIDES}:
            raise DataError("describes a different cache", path=folder / _INFO)
        width = np.dtype(info.dtype).itemsize * info.length
        for side in SIDES:
            for part, count in zip(info.parts(folder, side), info.rows[side], strict=True):
                if not part.is_file() or part.stat().st_size != count * width:
                    raise DataError(f"does not hold the {count} sequences that {_INFO} lists", path=part)
    except DataError as error:
        logger.warning("a damaged token cache is rebuilt: %s", error)
        if (folder / _INFO).is_dir():
            shutil.rmtree(folder / _INFO)
        return empty
    return info


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if len(batch) >= _BATCH_TEXTS or size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _pieces(text: str) -> list[str]:
    """Cut a very long text, between words if possible."""
    pieces, start = [], 0
    while len(text) - start > _PIECE:
        end = text.rfind(" ", start + 1, start + _PIECE)
        end = start + _PIECE if end < 0 else end
        pieces.append(text[start:end])
        start = end
    return [*pieces, text[start:]]


def _check_filled(rows: dict[Side, TokenRows], info: CacheInfo, validation_share: float) -> None:
    if len(rows["train"]) == 0:
        raise ConfigError(
            f"{info.texts} texts give no tokens for training; check data.sources, text_key and the tokenizer"
        )
    if validation_share and len(rows["validation"]) == 0:
        raise ConfigError(
            f"none of {info.texts} texts falls into the {validation_share:g} kept for validation; "
            f"raise data.validation_share, or set it to 0 for no validation"
        )


class TokenRows:
    """All sequences of one side, in parts; each part is a file of raw ids.

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
        """Return the ids of one sequence, `(length,)`; IndexError beyond the last row, DataError if it is damaged."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        part = bisect_right(self._ends, row)
        first = self._ends[part - 1] if part else 0
        ids: npt.NDArray[np.int64] = self._map(part)[row - first].astype(np.int64)
        if ids.max() >= self._vocabulary:
            problem = f"is damaged: it has token id {ids.max()}, but the vocabulary has {self._vocabulary} tokens"
            raise DataError(f"{problem}; delete its folder to rebuild it", path=self._parts[part][0])
        return ids

    def __getstate__(self) -> dict[str, object]:
        # Workers map the files themselves.
        return {**self.__dict__, "_maps": {}}

    def _map(self, part: int) -> npt.NDArray[Any]:
        if part not in self._maps:
            path, count = self._parts[part]
            self._maps[part] = np.memmap(path, self._dtype, mode="r", shape=(count, self.length))
        return self._maps[part]


IGNORED = -100
"""The label of a token that is not to be predicted."""

VALIDATION = 0
"""The epoch of validation, which always masks the same tokens; training starts at 1."""

Index = tuple[int, int]
"""Epoch of the draw and position of a sequence, as the sampler passes them to the data loader."""


class Masker:
    """Masks tokens.

    Args:
        tokenizer: Has the mask token, and the special tokens that are never masked.
        config: Fractions of tokens.
        seed: Seed of every draw.

    Raises:
        ConfigError: The vocabulary has only special tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: MaskingConfig, *, seed: int) -> None:
        special = set(tokenizer.all_special_ids)
        self.config = config
        self.seed = seed
        self.mask_id = int(tokenizer.mask_token_id)
        self.pad_id = int(tokenizer.pad_token_id)
        self._special = np.array(sorted(special), dtype=np.int64)
        self._ordinary = np.array(sorted(set(tokenizer.get_vocab().values()) - special), dtype=np.int64)
        if not len(self._ordinary):
            raise ConfigError("the tokenizer has special tokens only; give one with a vocabulary")

    def __call__(self, ids: npt.NDArray[np.int64], epoch: int, position: int) -> dict[str, Tensor]:
        """Mask tokens of one sequence.

        Args:
            ids: `(L,)` token ids.
            epoch: Epoch of the draw; `VALIDATION` for the fixed one.
            position: Position of the sequence.

        Returns:
            `input_ids` `(L,)`, `attention_mask` `(L,)` (0 marks padding), and `labels` `(L,)`: the original ids of
            masked tokens, -100 elsewhere. At least one token is masked unless all are special.
        """
        draw = np.random.default_rng([self.seed, epoch, position])
        share = self.config.validation if epoch == VALIDATION else self.config.train
        height = draw.random(len(ids))
        height[np.isin(ids, self._special)] = np.inf
        hidden = height < share
        lowest = int(height.argmin())
        hidden[lowest] |= bool(np.isfinite(height[lowest]))
        fate = draw.random(len(ids))
        masked = hidden & (fate < self.config.masked)
        swapped = hidden & ~masked & (fate < self.config.masked + self.config.random)
        given = np.where(masked, self.mask_id, ids)
        given = np.where(swapped, draw.choice(self._ordinary, len(ids)), given)
        return {
            "input_ids": torch.from_numpy(given),
            "attention_mask": torch.from_numpy((ids != self.pad_id).astype(np.int64)),
            "labels": torch.from_numpy(np.where(hidden, ids, IGNORED)),
        }


class MaskedRows(Dataset[dict[str, Tensor]]):
    """Sequences with masked tokens, for a data loader.

    Args:
        rows: The sequences.
        masker: Masks tokens.
    """

    def __init__(self, rows: TokenRows, masker: Masker) -> None:
        self.rows = rows
        self.masker = masker

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Index) -> dict[str, Tensor]:
        epoch, position = index
        return self.masker(self.rows[position], epoch, position)


class RowBatches(BatchSampler):
    """Batches of one epoch after another, reshuffled every epoch.

    Args:
        count: Number of sequences.
        batch_size: Sequences of a batch, for each process; an incomplete last round of batches is dropped.
        processes: How many share the batches.
        seed: Seed of the order.

    Raises:
        ConfigError: There are too few sequences for a batch.
    """

    def __init__(self, count: int, batch_size: int, *, processes: int = 1, seed: int = 0) -> None:
        self.batch_size = batch_size
        self.drop_last = True
        self._count = count
        self._seed = seed
        self._epoch = 0
        if count < batch_size * processes:
            batches = f"a batch of {batch_size}" + (f" for each of {processes} processes" if processes > 1 else "")
            raise ConfigError(
                f"the texts make {count} sequences, fewer than {batches}; "
                f"lower train.batch_size or data.sequence_length, or add texts"
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration goes through, from 0."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._count // self.batch_size

    def __iter__(self) -> Iterator[list[Index]]:  # type: ignore[override]  # torch says a batch is a list of int
        epoch = self._epoch + 1
        order = np.random.default_rng([self._seed, epoch]).permutation(self._count)
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield [(epoch, int(position)) for position in order[start : start + self.batch_size]]


def stacked(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack sequences of one length into a batch: `(B, L)` each."""
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}
