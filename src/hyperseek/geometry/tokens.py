"""Sets of token vectors: blocks of ragged rows, and fixed-dimensional encodings that estimate late interaction.

MUVERA (Dhulipala and others, arXiv 2405.19504). Random hyperplanes partition the space, so that a query token and its
nearest document token probably fall into the same partition. In each partition, a query is the sum of its tokens and a
document their mean; a partition without document tokens uses the nearest one, by Hamming distance. This is repeated
with new hyperplanes, and all blocks are concatenated.

Shapes: `N` documents, `Q` queries, `d` dimensions, `T` tokens of all documents, `t` of a query, `R` repetitions, `B`
partitions, `p` numbers of a partition, `e` numbers of an encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from hyperseek.errors import InputError

# Tokens that are encoded at a time: with 20 repetitions of 16 numbers, 5 MiB of float32.
_TOKENS = 1 << 12
_MOST_BITS = 10
_MOST_NUMBERS = 1 << 24  # of one encoding, 64 MiB of float32


@dataclass(frozen=True, slots=True)
class TokenEncoding:
    """Settings of a fixed-dimensional encoding of token sets, which determine it completely.

    Equal settings give equal encodings on every machine, so an index stores only the settings.

    Attributes:
        dimension: `d`, of the tokens.
        repetitions: `R`, at least 1; more give a better estimate.
        bits: Hyperplanes per repetition, 0 to 10; `B` is 2 ** `bits`.
        projected: `p`, the size to which a random ±1 projection reduces each partition; None for all `d`.
        sketched: Final size, by a count sketch of all blocks; None for no sketch.
        seed: Seed of all random draws.

    Raises:
        InputError: A setting is out of its range.
    """

    dimension: int
    repetitions: int = 20
    bits: int = 3
    projected: int | None = 16
    sketched: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        sizes = (self.dimension, self.repetitions, self.projected or 1, self.sketched or 1)
        if min(sizes) < 1 or not 0 <= self.bits <= _MOST_BITS or not 0 <= self.seed < 1 << 32:
            raise InputError(f"sizes must be at least 1, bits 0 to {_MOST_BITS}, seed 0 to 2³² - 1; given {self}")
        if max(self._unfolded, self.width, self.repetitions * self.dimension) > _MOST_NUMBERS:
            raise InputError(f"an encoding has at most {_MOST_NUMBERS:,} numbers; lower a size of {self}")

    @property
    def width(self) -> int:
        """Size of an encoding, `e`."""
        return self.sketched or self._unfolded

    @property
    def _unfolded(self) -> int:
        return self.repetitions * (self.projected or self.dimension) << self.bits

    def encode_documents(self, vectors: Tensor, offsets: Tensor) -> Tensor:
        """Encode documents.

        Args:
            vectors: `(T, d)`, floating, the tokens of all documents one after the other.
            offsets: `(N + 1,)` int64: document `i` has the tokens from `offsets[i]` to `offsets[i + 1]`.

        Returns:
            `(N, e)` float32; zero for documents without tokens.
        """
        bounds = offsets.tolist()
        parts: list[Tensor] = []
        for start, stop in ragged_blocks(bounds, _TOKENS):
            lengths = offsets[start : stop + 1].diff()
            sums, counts = self._partitions(vectors[bounds[start] : bounds[stop]], lengths)
            means = sums / counts.clamp_min(1)[..., None]
            nearest = self._nearest(counts > 0)[..., None].expand_as(means)
            parts.append(self._fold(means.gather(2, nearest)))
        return torch.cat(parts) if parts else vectors.new_zeros(0, self.width, dtype=torch.float32)

    def encode_queries(self, queries: Tensor) -> Tensor:
        """Encode queries.

        Args:
            queries: `(Q, t, d)`, floating; tokens to leave out are zero.

        Returns:
            `(Q, e)` float32.
        """
        lengths = torch.full((len(queries),), queries.shape[1], device=queries.device)
        return self._fold(self._partitions(queries.flatten(0, 1), lengths)[0])

    def _partitions(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return `(N, R, B, p)` sums of the tokens in each partition and `(N, R, B)` how many there are."""
        draws = [draw.to(tokens.device) for draw in _draws(self)]
        tokens = tokens.float()
        repetitions = torch.arange(self.repetitions, device=tokens.device)
        sides = (tokens @ draws[0]).view(len(tokens), self.repetitions, self.bits) > 0
        codes = (sides * (1 << torch.arange(self.bits, device=tokens.device))).sum(-1)
        document = torch.repeat_interleave(torch.arange(len(lengths), device=tokens.device), lengths)
        slots = (((document[:, None] * self.repetitions + repetitions) << self.bits) + codes).flatten()
        kept = tokens[:, None]
        if self.projected is not None:
            kept = (tokens @ draws[1]).view(*codes.shape, self.projected)
        shape = (len(lengths), self.repetitions, 1 << self.bits)
        sums = tokens.new_zeros(shape[0] * shape[1] * shape[2], self._block)
        sums = sums.index_add(0, slots, kept.expand(-1, self.repetitions, -1).flatten(0, 1))
        return sums.view(*shape, -1), torch.bincount(slots, minlength=len(sums)).view(shape)

    @property
    def _block(self) -> int:
        return self.projected or self.dimension

    def _nearest(self, occupied: Tensor) -> Tensor:
        """Return the nearest occupied partition of every partition, `(N, R, B)`; occupied ones return themselves."""
        codes = torch.arange(1 << self.bits, device=occupied.device)
        differing = codes[:, None] ^ codes
        distance = torch.stack([differing >> bit & 1 for bit in range(self.bits)] or [differing]).sum(0)
        far = distance.new_tensor(self.bits + 1)
        nearest: Tensor = torch.where(occupied[..., None, :], distance, far).argmin(-1)
        return nearest

    def _fold(self, blocks: Tensor) -> Tensor:
        # With this scale, the inner product estimates the MaxSim score itself.
        joined: Tensor = blocks.flatten(1) / self.repetitions**0.5
        if self.sketched is None:
            return joined
        _, _, place, sign = (draw.to(joined.device) for draw in _draws(self))
        folded: Tensor = joined.new_zeros(len(joined), self.sketched).index_add(1, place, joined * sign)
        return folded


@lru_cache(maxsize=8)
def _draws(encoding: TokenEncoding) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw hyperplanes `(d, R * bits)`, projections `(d, R * p)`, and the sketch's places and signs `(R * B * p,)`."""
    # NumPy guarantees this legacy generator's stream; those of torch and of newer generators may change.
    random = np.random.RandomState(encoding.seed)
    dimension, projected = encoding.dimension, encoding.projected or 0
    planes = random.standard_normal((dimension, encoding.repetitions * encoding.bits))
    projections = random.choice((-1.0, 1.0), (dimension, encoding.repetitions * projected)) / max(1, projected) ** 0.5
    unfolded = encoding._unfolded if encoding.sketched else 0
    place = random.randint(0, encoding.sketched or 1, unfolded)
    sign = random.choice((-1.0, 1.0), unfolded)
    floats = [torch.from_numpy(draw.astype(np.float32)) for draw in (planes, projections, sign)]
    return floats[0], floats[1], torch.from_numpy(place.astype(np.int64)), floats[2]


def ragged_blocks(bounds: Sequence[int], size: int) -> Iterator[tuple[int, int]]:
    """Split rows of different sizes into blocks of successive ones.

    Args:
        bounds: Row `i` has the entries from `bounds[i]` to `bounds[i + 1]`.
        size: Maximum number of entries per block; a larger row is a block of its own.

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
