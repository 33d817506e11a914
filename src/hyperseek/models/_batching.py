"""Batches of similar length: little padding, and a bounded number of tokens at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

# Tokens of one batch. On a CPU larger batches leave the cache and return memory to the system between layers (measured
# best at 1,024 to 4,096 in both precisions); a GPU wants more of them.
CPU_BATCH_TOKENS = 2048
GPU_BATCH_TOKENS = 65536


def batches_by_tokens(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Split texts into batches of similar length.

    Args:
        lengths: Tokens of each text, at least 1 each.
        budget: Most tokens of a batch, padding included; a longer text gets a batch of its own.

    Yields:
        Positions in `lengths`, the longest texts first, so that too large a batch fails at once.
    """
    order = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    start = 0
    while start < len(order):
        count = max(1, budget // lengths[order[start]])
        yield order[start : start + count]
        start += count


def fill_empty(features: dict[str, Any], tokenizer: Any) -> None:
    """Give each text without a token one, so that what it becomes does not depend on its neighbours.

    Args:
        features: Of a batch, changed in place; `input_ids` and `attention_mask` are `(B, T)` where there are any.
        tokenizer: Names the token: the unknown one, or else that for padding.
    """
    ids, mask = features.get("input_ids"), features.get("attention_mask")
    if not isinstance(ids, Tensor) or not isinstance(mask, Tensor) or ids.ndim != 2 or mask.shape != ids.shape:
        return
    empty = mask.sum(dim=1) == 0
    if not empty.any():
        return
    known = (getattr(tokenizer, name, None) for name in ("unk_token_id", "pad_token_id"))
    token = next((number for number in known if number is not None), 0)
    if ids.shape[1] == 0:
        for name, value in features.items():
            if isinstance(value, Tensor) and value.shape == ids.shape:
                features[name] = value.new_zeros(len(value), 1, dtype=torch.long)
        ids, mask = features["input_ids"], features["attention_mask"]
    place = -1 if getattr(tokenizer, "padding_side", "right") == "left" else 0
    ids[empty, place] = token
    mask[empty, place] = 1
