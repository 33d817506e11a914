"""Batches of similar length: little padding, and a bounded number of tokens at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

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
