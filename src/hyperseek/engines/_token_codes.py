"""Token vectors as a centroid and a residual of 2 or 4 bits a number: learned on a sample, then applied to any number.

Centroids lie in cells, a few hundred for tens of thousands of centroids, so that a vector is compared with the cells
and then with the centroids of the nearest ones only: a fortieth of the products, for an error that is hardly larger.
Of a residual each dimension is cut at its own quantiles, as in PLAID (Santhanam and others, arXiv 2205.09707, section
4.5), and a bucket stands for the mean of what fell into it.

Shapes: `n` vectors, `d` dimensions, `K` centroids, `G` cells, `B` bytes of a residual.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding

from hyperseek._files import read_tensors, write_tensors
from hyperseek._machine import run_on_cores
from hyperseek.errors import StoreError

BLOCK = 16384
"""Vectors that are compared at a time."""

# Up to so many centroids a vector is compared with all of them.
_ALL = 1024
_CELLS = 4  # whose centroids a vector is compared with
_ROUNDS = 8
_DECODED = 1024  # vectors that are decoded at a time: what a core's cache holds
_HELD_OUT = 20  # one vector in so many is kept from the centroids, and tells how large residuals are


@dataclass(frozen=True)
class Codebook:
    """Centroids and buckets.

    Attributes:
        centroids: `(K, d)` float32, cell by cell.
        cells: `(G, d)` float32, the mean of each cell's centroids.
        starts: `(G + 1,)` int64, where each cell begins among the centroids.
        cuts: `(2 ** bits - 1, d)` float32, rising: where the buckets of each dimension end.
        values: `(2 ** bits, d)` float32: what a bucket stands for.
    """

    centroids: Tensor
    cells: Tensor
    starts: Tensor
    cuts: Tensor
    values: Tensor

    @classmethod
    def learn(cls, sample: Tensor, *, centroids: int, bits: int, seed: int) -> Self:
        """Learn a codebook.

        Args:
            sample: `(n, d)` float32, finite; `n` at least 1.
            centroids: `K`; fewer are made of fewer vectors.
            bits: 2 or 4, of each number of a residual; 0 for no buckets.
            seed: Of all draws.

        Returns:
            The codebook.
        """
        generator = torch.Generator().manual_seed(seed)
        held = sample[::_HELD_OUT] if len(sample) >= 2 * _HELD_OUT else sample
        used = torch.ones(len(sample), dtype=torch.bool)
        if held is not sample:
            used[::_HELD_OUT] = False
        found, cells, starts = _learn_centroids(sample[used], min(centroids, int(used.sum())), generator)
        none = sample.new_zeros(0, sample.shape[1])
        book = cls(found, cells, starts, none, none)
        if not bits:
            return book
        residuals = held - found[book.assign(held)]
        return cls(found, cells, starts, *_buckets(residuals, bits))

    def save(self, path: Path) -> None:
        """Write the codebook to a file, atomically."""
        write_tensors(path, {name: getattr(self, name) for name in self.__dataclass_fields__})

    @classmethod
    def load(cls, path: Path, *, remedy: str) -> Self:
        """Read what `save` wrote; StoreError where it is damaged."""
        tensors, _ = read_tensors(path, "the centroids of an engine", error=StoreError, remedy=remedy)
        try:
            book = cls(**tensors)
        except TypeError:
            raise StoreError(f"{path} holds the tensors {sorted(tensors)}, not a codebook; {remedy}") from None
        centroids, starts = book.centroids, book.starts
        shapes = (book.cells.shape, book.cuts.shape, book.values.shape)
        width = centroids.shape[-1]
        buckets = len(book.values)
        if (
            centroids.ndim != 2
            or any(tensor.dtype != torch.float32 for name, tensor in tensors.items() if name != "starts")
            or starts.dtype != torch.int64
            or shapes != ((len(starts) - 1, width), (max(0, buckets - 1), width), (buckets, width))
            or (int(starts[0]), int(starts[-1])) != (0, len(centroids))
            or bool((starts.diff() < 0).any())
            or buckets not in (0, 4, 16)
        ):
            raise StoreError(f"{path} holds no sound codebook; {remedy}")
        return book

    def __len__(self) -> int:
        return len(self.centroids)

    @property
    def dimension(self) -> int:
        """`d`."""
        return self.centroids.shape[1]

    @property
    def bits(self) -> int:
        """Bits of each number of a residual; 0 where there are no buckets."""
        return max(0, len(self.values).bit_length() - 1)

    @property
    def code_bytes(self) -> int:
        """`B`."""
        return -(-self.dimension * self.bits // 8)

    def assign(self, vectors: Tensor) -> Tensor:
        """Return the nearest centroid of each of `(n, d)` vectors, by Euclidean distance: `(n,)` int64."""
        found = torch.zeros(len(vectors), dtype=torch.int64)
        pending = iter(list(_parts(len(vectors))))
        halves = self.centroids.square().sum(dim=1) / 2
        cell_halves = self.cells.square().sum(dim=1) / 2

        def work() -> None:
            for part in pending:
                block = vectors[part].float()
                if len(self.cells) <= _CELLS:
                    found[part] = (block @ self.centroids.T - halves).argmax(dim=1)
                    continue
                probes = (block @ self.cells.T - cell_halves).topk(_CELLS, dim=1).indices
                found[part] = self._nearest_of_cells(block, probes, halves)

        run_on_cores(work, at_most=-(-len(vectors) // BLOCK))
        return found

    def _nearest_of_cells(self, block: Tensor, probes: Tensor, halves: Tensor) -> Tensor:
        """Return the nearest centroid of each vector among those of its cells, cell by cell."""
        best = torch.full((len(block),), -torch.inf)
        found = torch.zeros(len(block), dtype=torch.int64)
        order = probes.flatten().argsort()
        rows = order // probes.shape[1]
        bounds = [0, *torch.bincount(probes.flatten(), minlength=len(self.cells)).cumsum(0).tolist()]
        starts = self.starts.tolist()
        for cell in range(len(self.cells)):
            own = rows[bounds[cell] : bounds[cell + 1]]
            first, last = starts[cell], starts[cell + 1]
            if not len(own) or first == last:
                continue
            closeness = torch.addmm(halves[first:last], block[own], self.centroids[first:last].T, beta=-1)
            top, places = closeness.max(dim=1)
            better = top > best[own]
            chosen = own[better]
            best[chosen], found[chosen] = top[better], places[better] + first
        return found

    def encode(self, vectors: Tensor, assigned: Tensor) -> Tensor:
        """Return the packed residuals of `(n, d)` vectors and their centroids: `(n, B)` bytes."""
        per = 8 // self.bits
        residuals = vectors - self.centroids[assigned]
        codes = torch.zeros(len(vectors), self.code_bytes * per, dtype=torch.uint8)
        own = codes[:, : self.dimension]
        for cut in self.cuts:
            own += residuals > cut
        shifts = torch.arange(per, dtype=torch.uint8) * self.bits
        return (codes.view(len(vectors), self.code_bytes, per) << shifts).sum(dim=2, dtype=torch.uint8)

    def decode(self, codes: NDArray[np.uint8], assigned: Tensor) -> Tensor:
        """Return the `(n, d)` float32 vectors that `(n, B)` bytes and `(n,)` centroids stand for."""
        residuals = np.empty((len(codes), self.code_bytes * (8 // self.bits)), np.float32)
        wide = residuals.view(self._byte_values.dtype)
        for start in range(0, len(codes), _DECODED):
            part = slice(start, start + _DECODED)
            np.take(self._byte_values, codes[part] + self._byte_offsets, out=wide[part], mode="clip")
        return torch.from_numpy(residuals)[:, : self.dimension] + embedding(assigned, self.centroids)

    @cached_property
    def _byte_offsets(self) -> NDArray[np.int64]:
        return np.arange(self.code_bytes) * 256

    @cached_property
    def _byte_values(self) -> NDArray[Any]:
        """`(B * 256,)`: what each byte stands for at each place, as one wide number, which is copied in one step."""
        per = 8 // self.bits
        codes = (torch.arange(256)[:, None] >> torch.arange(per) * self.bits) & (len(self.values) - 1)
        padded = torch.nn.functional.pad(self.values, (0, self.code_bytes * per - self.dimension))
        dimensions = torch.arange(padded.shape[1]).view(self.code_bytes, 1, per)
        values = padded[codes.expand(self.code_bytes, 256, per), dimensions].reshape(-1, per).contiguous()
        return values.numpy().view(np.complex128 if per == 4 else np.float64)[:, 0]


class Reservoir:
    """A uniform sample of a stream of vectors, of fixed size (Vitter's algorithm R).

    Args:
        size: Most vectors, at least 1.
        seed: Of the draws.

    Attributes:
        seen: Vectors so far.
    """

    def __init__(self, size: int, *, seed: int) -> None:
        self._size = size
        self._generator = torch.Generator().manual_seed(seed)
        self._kept: Tensor | None = None
        self.seen = 0

    def add(self, vectors: Tensor) -> None:
        """Take in `(n, d)` vectors."""
        if self._kept is None:
            self._kept = torch.empty(0, vectors.shape[1])
        room = max(0, min(self._size - self.seen, len(vectors)))
        if self.seen + room > len(self._kept):  # grows, since the stream may be far shorter than the sample may be
            larger = torch.empty(min(self._size, max(self.seen + room, 2 * len(self._kept))), vectors.shape[1])
            larger[: self.seen] = self._kept[: self.seen]
            self._kept = larger
        self._kept[self.seen : self.seen + room] = vectors[:room]
        rest = vectors[room:]
        if len(rest):
            numbers = torch.arange(self.seen + room, self.seen + len(vectors)) + 1
            places = (torch.rand(len(rest), generator=self._generator, dtype=torch.float64) * numbers).long()
            taken = (places < self._size).nonzero()[:, 0]
            # In order, since a later vector of the stream takes the place of an earlier one.
            self._kept.numpy()[places[taken].numpy()] = rest[taken].numpy()
        self.seen += len(vectors)

    @property
    def sample(self) -> Tensor:
        """`(n, d)` float32."""
        return torch.empty(0, 1) if self._kept is None else self._kept[: min(self.seen, self._size)]


def _parts(count: int) -> Iterator[slice]:
    for start in range(0, count, BLOCK):
        yield slice(start, min(start + BLOCK, count))


def _learn_centroids(sample: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return `(K, d)` centroids, cell by cell, the cells and where each begins."""
    cells = 1 if count <= _ALL else round((_CELLS * count) ** 0.5)
    if cells == 1:
        centroids = _k_means(sample, count, generator)
        return centroids, centroids.mean(dim=0, keepdim=True), torch.tensor([0, len(centroids)])
    coarse = _k_means(sample, cells, generator)
    owner = torch.cat([_closest(sample[part], coarse) for part in _parts(len(sample))])
    sizes = torch.bincount(owner, minlength=cells)
    counts = _shares(sizes, count)
    order = owner.argsort(stable=True)
    pieces = [
        _k_means(sample[rows], int(own), generator)
        for rows, own in zip(torch.split(order, sizes.tolist()), counts, strict=True)
        if own
    ]
    starts = torch.nn.functional.pad(counts[counts > 0].cumsum(0), (1, 0))
    centroids = torch.cat(pieces)
    for _ in range(2):  # with the neighbouring cells' vectors
        book = Codebook(centroids, _means(centroids, starts), starts, centroids[:0], centroids[:0])
        centroids = _moved(sample, book.assign(sample), centroids)
    return centroids, _means(centroids, starts), starts


def _shares(sizes: Tensor, count: int) -> Tensor:
    """Divide `count` centroids among cells in proportion to their sizes, at most one a vector."""
    exact = sizes * (count / int(sizes.sum()))
    counts = exact.floor().clamp_min(1).minimum(sizes).long()
    short = count - int(counts.sum())
    step = 1 if short > 0 else -1
    while short:
        open_ = counts < sizes if step > 0 else counts > 1
        wanted = torch.where(open_, (exact - counts) * step, -torch.inf)
        chosen = wanted.topk(min(abs(short), int(open_.sum()))).indices
        counts[chosen] += step
        short -= step * len(chosen)
    return counts


def _k_means(sample: Tensor, count: int, generator: torch.Generator) -> Tensor:
    centroids = sample[torch.randperm(len(sample), generator=generator)[:count]].clone()
    if count >= len(sample):
        return centroids
    for _ in range(_ROUNDS):
        assigned = torch.cat([_closest(sample[part], centroids) for part in _parts(len(sample))])
        centroids = _moved(sample, assigned, centroids)
    return centroids


def _closest(vectors: Tensor, centroids: Tensor) -> Tensor:
    return torch.addmm(centroids.square().sum(dim=1), vectors, centroids.T, beta=-0.5).argmax(dim=1)


def _moved(sample: Tensor, assigned: Tensor, centroids: Tensor) -> Tensor:
    """Return each centroid moved to the mean of its vectors; one without any stays where it is."""
    sizes = torch.bincount(assigned, minlength=len(centroids))
    sums = torch.zeros_like(centroids).index_add_(0, assigned, sample)
    return torch.where(sizes[:, None] > 0, sums / sizes.clamp_min(1)[:, None], centroids)


def _means(centroids: Tensor, starts: Tensor) -> Tensor:
    return torch.stack([centroids[first:last].mean(dim=0) for first, last in pairwise(starts)])


def _buckets(residuals: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return cuts at the quantiles of each dimension, and the mean of what lies between them."""
    count = 1 << bits
    ordered = residuals.sort(dim=0).values
    # Where there are fewer vectors than buckets, some buckets share one.
    bounds = [len(ordered) * bucket // count for bucket in range(count + 1)]
    cuts = ordered[[min(bound, len(ordered) - 1) for bound in bounds[1:-1]]]
    spans = [(min(low, len(ordered) - 1), max(high, low + 1)) for low, high in pairwise(bounds)]
    return cuts, torch.stack([ordered[low:high].mean(dim=0) for low, high in spans])


def squared_error(vectors: Tensor, others: Tensor) -> float:
    """Return the sum of squared differences, in float64."""
    return float((vectors - others).square().sum(dtype=torch.float64))
