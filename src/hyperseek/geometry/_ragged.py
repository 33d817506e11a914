"""Blocks of ragged rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def ragged_blocks(bounds: Sequence[int], size: int) -> Iterator[tuple[int, int]]:
    """Split rows of different sizes into blocks of successive ones.

    Args:
        bounds: Row `i` has the entries from `bounds[i]` to `bounds[i + 1]`.
        size: Most entries of a block; a larger row is a block of its own.

    Yields:
        First row and last, exclusive.
    """
    start = 0
    while start < len(bounds) - 1:
        stop = start + 1
        while stop < len(bounds) - 1 and bounds[stop + 1] - bounds[start] <= size:
            stop += 1
        yield start, stop
        start = stop
