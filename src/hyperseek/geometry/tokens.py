"""Sets of token vectors: fixed-dimensional encodings that estimate late interaction, and groups of a document's tokens.

Encodings are MUVERA's (Dhulipala and others, arXiv 2405.19504). Random hyperplanes partition the space, so that a query
token and its nearest document token probably fall into the same partition. In each partition, a query is the sum of its
tokens and a document their mean; a partition without document tokens uses the nearest one, by Hamming distance. This is
repeated with new hyperplanes, and all blocks are concatenated.

Groups are labels per token, by hierarchical clustering, k-means, or reading order. Vectors are left alone, so that
means of the groups are differentiable. Hierarchical clustering is exact and avoids a distance matrix where possible.
Two of its linkages depend only on sums over clusters: the mean cosine distance of two clusters is
1 - <mean A, mean B> of their unit vectors, and Ward's growth of variance is
2|A||B| / (|A| + |B|) · |mean A - mean B|². Both are *reducible*: when two clusters that are each other's nearest are
joined, no third one comes closer. So all such pairs may be joined at once, which gives the same dendrogram as
repeatedly joining the nearest pair (Murtagh, "A survey of recent advances in hierarchical clustering algorithms",
1983). For the same reason a cluster's last known distance to its nearest is a lower bound for all later ones, and is
recomputed only when the cut comes near it. All other linkages use scipy.

Shapes: `N` documents, `Q` queries, `n` tokens of a document, `d` dimensions, `T` tokens of all documents, `t` of a
query, `C` clusters, `R` repetitions, `B` partitions, `p` numbers of a partition, `e` numbers of an encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperseek.errors import InputError, UnknownNameError

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


Linkage: TypeAlias = Literal["average", "ward", "complete"]
Distance: TypeAlias = Literal["cosine", "euclidean"]

_Ints: TypeAlias = NDArray[np.int64]
_Floats: TypeAlias = NDArray[np.float32]

# Size of a block of distances, 4 MiB of float32: large enough for an efficient matrix product. The buffer is reused, so
# that no new memory is touched.
_BLOCK = 1 << 20
_K_MEANS_ROUNDS = 10
# For fewer tokens scipy is faster; it takes equally long for 512.
_FEW_TOKENS = 512
# The cut is raised when a round joins fewer pairs than this share of the clusters; long chains would otherwise be
# joined pair by pair at every height.
_FEW = 0.03
_COMPACTED = 6  # joined clusters are dropped from memory once they are one in this many


def hierarchical_labels(
    vectors: Tensor, count: int, *, linkage: Linkage = "average", distance: Distance = "cosine"
) -> Tensor:
    """Cut the dendrogram of some vectors at `count` clusters.

    `average` of cosine distances and `ward` of Euclidean ones take memory O(n · d); the others O(n²), and scipy. The
    order of joins at equal distances is undefined.

    Args:
        vectors: `(n, d)`, floating, on any device.
        count: `C`, 1 to `n`; scipy's linkages may return fewer if distances are equal.
        linkage: Distance of two clusters: the mean distance of their members, Ward's growth, or the largest.
        distance: `cosine` is 1 minus the cosine. `ward` of it, as in PyLate and sentence-transformers, applies Ward's
            formula to a distance that is not Euclidean.

    Returns:
        `(n,)` int64 on the CPU, consecutive from 0, numbered by first member or in scipy's order.

    Raises:
        InputError: `count` is out of range.
        UnknownNameError: The linkage or the distance is unknown.
    """
    if linkage not in get_args(Linkage):
        raise UnknownNameError("linkage", linkage, get_args(Linkage))
    if distance not in get_args(Distance):
        raise UnknownNameError("distance", distance, get_args(Distance))
    values = _checked(vectors, count)
    if count >= len(values) or count == 1:
        return torch.arange(len(values)) if count > 1 else torch.zeros(len(values), dtype=torch.int64)
    if distance == "cosine":
        values = _unit(values)
    with torch.autocast("cpu", enabled=False):
        if (linkage, distance) not in (("average", "cosine"), ("ward", "euclidean")):
            return torch.from_numpy(_scipy_labels(values, count, linkage, distance))
        if len(values) < _FEW_TOKENS:
            return torch.from_numpy(_by_first_member(_scipy_labels(values, count, linkage, distance)))
        return torch.from_numpy(_reciprocal_labels(values, count, ward=linkage == "ward"))


def k_means_labels(vectors: Tensor, count: int) -> Tensor:
    """Cluster directions by k-means, initialised with evenly spaced tokens of the text; deterministic.

    Args:
        vectors: `(n, d)`, floating, on any device.
        count: `C`, 1 to `n`.

    Returns:
        `(n,)` int64 on the CPU, consecutive from 0, at most `C` - 1.

    Raises:
        InputError: `count` is out of range.
    """
    points = torch.from_numpy(_unit(_checked(vectors, count)))
    centres = points[torch.arange(count) * len(points) // count]
    labels = torch.zeros(len(points), dtype=torch.int64)
    for _ in range(_K_MEANS_ROUNDS):
        with torch.autocast("cpu", enabled=False):
            nearest, found = (points @ centres.T).max(1)
        empty = torch.bincount(found, minlength=count) == 0
        if empty.any():
            # An empty centre moves to a token that is far from its own centre.
            badly = nearest.argsort(stable=True)[: int(empty.sum())]
            found[badly] = empty.nonzero()[:, 0]
        if torch.equal(found, labels):
            break
        labels = found
        sums = torch.zeros_like(centres).index_add_(0, labels, points)
        centres = torch.nn.functional.normalize(sums, dim=1)
    distinct: Tensor = torch.unique(labels, return_inverse=True)[1]
    return distinct


def sequential_labels(size: int, count: int) -> Tensor:
    """Cut a text into segments of nearly equal length.

    Args:
        size: `n`.
        count: `C`, 1 to `n`.

    Returns:
        `(n,)` int64, rising from 0 to `C` - 1.

    Raises:
        InputError: `count` is out of range.
    """
    _check_count(count, size)
    return torch.arange(size) * count // size


def _checked(vectors: Tensor, count: int) -> _Floats:
    if vectors.ndim != 2:
        raise InputError(f"vectors must have the shape (tokens, dimensions); given {tuple(vectors.shape)}")
    _check_count(count, len(vectors))
    values: _Floats = vectors.detach().float().cpu().numpy()
    return values


def _check_count(count: int, size: int) -> None:
    if not 1 <= count <= size:
        raise InputError(f"{size} tokens can be put into 1 to {size} clusters, not {count}")


def _unit(values: _Floats) -> _Floats:
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    # A zero vector has no direction: it stays zero, at distance 1 from every other.
    return np.asarray(values / np.where(norms > 0, norms, 1), np.float32)


def _scipy_labels(values: _Floats, count: int, linkage: str, distance: str) -> _Ints:
    from scipy.cluster.hierarchy import fcluster
    from scipy.cluster.hierarchy import linkage as link
    from scipy.spatial.distance import pdist, squareform

    if distance == "cosine":
        points = torch.from_numpy(values)
        condensed = squareform((1 - points @ points.T).clamp_(0, 2).numpy(), checks=False)
    else:
        condensed = pdist(values.astype(np.float64))
    labels = fcluster(link(condensed, method=linkage), t=count, criterion="maxclust")
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def _by_first_member(labels: _Ints) -> _Ints:
    _, firsts, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return firsts.argsort().argsort()[inverse]


class _Clusters:
    """Means and sizes of the current clusters, and their nearest neighbours.

    A cluster uses the slot of its first member. Slots of joined clusters are infinitely far from all others, until
    `compact` drops them.

    Args:
        values: `(n, d)`; each is a cluster at first.
        ward: Whether the distance is Ward's growth; otherwise it is the mean cosine distance.
    """

    def __init__(self, values: _Floats, ward: bool) -> None:
        count = len(values)
        self.ward = ward
        self.means = torch.from_numpy(values.copy())
        self.sizes = np.ones(count, np.float32)
        self.squares = np.square(values).sum(1)
        self.far = np.zeros(count, np.float32)
        self.origins = np.arange(count)
        self._block = torch.empty(0)
        self._inverse = np.empty(0, np.float32)

    def nearest(self, rows: _Ints) -> tuple[_Ints, _Floats]:
        """Return the nearest neighbours of some clusters, and their distances."""
        count = len(self.sizes)
        step = min(max(8, _BLOCK // count), len(rows))
        if self._block.numel() < step * count:
            self._block = torch.empty(step * count)
            self._inverse = np.empty(step * count if self.ward else 0, np.float32)
        offsets = torch.from_numpy(self.squares + self.far if self.ward else self.far)
        near: _Ints = np.empty(len(rows), np.int64)
        low: _Floats = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            block = self._block[: len(part) * count].view(len(part), count)
            torch.addmm(offsets, self.means[torch.from_numpy(part)], self.means.T, alpha=-2, out=block)
            far = block.numpy()
            if self.ward:
                far += self.squares[part][:, None]
                inverse = self._inverse[: len(part) * count].reshape(len(part), count)
                far /= np.add((1 / self.sizes[part])[:, None], 1 / self.sizes, out=inverse)
            lines = np.arange(len(part))
            far[lines, part] = np.inf
            best = far.argmin(1)
            near[start : start + step], low[start : start + step] = best, far[lines, best]
        if self.ward:
            return near, np.sqrt(np.maximum(2 * low, 0)).astype(np.float32)  # below 0 by rounding only
        return near, (1 + low / 2).astype(np.float32)

    def join(self, kept: _Ints, gone: _Ints) -> None:
        """Merge each of the clusters `gone` into the corresponding one of `kept`."""
        into, outof = torch.from_numpy(kept), torch.from_numpy(gone)
        both = self.sizes[kept] + self.sizes[gone]
        share = torch.from_numpy(self.sizes[gone] / both)[:, None]
        means = torch.lerp(self.means[into], self.means[outof], share)
        self.means[into] = means
        self.sizes[kept] = both
        self.squares[kept] = means.square().sum(1).numpy()
        self.far[gone] = np.inf

    def compact(self, kept: _Ints) -> None:
        """Drop all slots but these."""
        self.means = self.means[torch.from_numpy(kept)]
        self.sizes, self.squares = self.sizes[kept], self.squares[kept]
        self.far, self.origins = self.far[kept], self.origins[kept]


def _reciprocal_labels(values: _Floats, count: int, *, ward: bool) -> _Ints:
    """Join pairs of reciprocal nearest neighbours until the lowest `n - C` joins of the dendrogram are known."""
    size, needed = len(values), len(values) - count
    clusters = _Clusters(values, ward)
    near, low = clusters.nearest(np.arange(size))
    stale = np.zeros(size, bool)  # the nearest was joined: `low` is a lower bound, `near` unknown
    heights = np.zeros(size, np.float32)
    joins: list[tuple[_Ints, _Ints, _Floats]] = []
    level = np.quantile(low, min(1.0, 1.2 * needed / size))  # only lower distances are examined
    done = 0
    while True:
        todo = np.flatnonzero(stale & (low <= level))
        if len(todo):
            near[todo], low[todo] = clusters.nearest(todo)
            stale[todo] = False
        open_ = np.flatnonzero(low <= level)
        partners = near[open_]
        chosen = (near[partners] == open_) & (open_ < partners) & ~stale[partners]
        kept, gone = open_[chosen], partners[chosen]
        if not len(kept) and len(open_):
            # By rounding, nearest neighbours at nearly equal distances can form a cycle; the shortest will do.
            first = open_[low[open_].argmin()]
            kept, gone = np.sort(np.array([[first], [near[first]]]), axis=0)
        if len(kept):
            height = np.maximum(low[kept], np.maximum(heights[kept], heights[gone]))
            joins.append((clusters.origins[kept], clusters.origins[gone], height))
            clusters.join(kept, gone)
            done += len(kept)
            touched = np.zeros(len(low), bool)
            touched[kept] = touched[gone] = True
            stale |= touched[near]
            stale[kept], stale[gone] = True, False
            low[kept] = heights[kept] = height
            low[gone] = np.inf
        if done >= needed:
            level = np.partition(np.concatenate([join[2] for join in joins]), needed - 1)[needed - 1]
            if not (low <= level).any():
                return _labels(size, joins, needed)
        elif len(kept) < _FEW * (size - done):
            above = low[(low > level) & (low < np.inf)]
            if len(above):
                place = min(len(above) - 1, needed - done)
                level = max(level, np.partition(above, place)[place])
        alive = low < np.inf
        if _COMPACTED * np.count_nonzero(~alive) > len(low):
            rest = np.flatnonzero(alive)
            places = np.cumsum(alive) - 1
            clusters.compact(rest)
            near, low, stale, heights = places[near[rest]], low[rest], stale[rest], heights[rest]


def _labels(size: int, joins: list[tuple[_Ints, _Ints, _Floats]], needed: int) -> _Ints:
    """Return labels after the `needed` lowest joins; at equal heights, the earlier ones."""
    kept, gone, heights = (np.concatenate(part) for part in zip(*joins, strict=True))
    lowest = np.argsort(heights, kind="stable")[:needed]
    roots = np.arange(size)
    roots[gone[lowest]] = kept[lowest]
    while not np.array_equal(above := roots[roots], roots):
        roots = above
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)
