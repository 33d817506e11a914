"""Masking of tokens, drawn from seed, epoch and sequence alone.

The draw thus depends neither on the number of processes or workers, nor on where a run was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset
from transformers import PreTrainedTokenizerBase

from hyperseek.errors import ConfigError
from hyperseek.pretraining._recipe import MaskingConfig
from hyperseek.pretraining._token_cache import TokenRows

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
