"""MaxSim in blocks, forward and backward: the similarities of all query tokens with all document tokens never coexist.

`score(q, n) = sum over tokens i of q of weight_i * max over tokens j of n of <token_i, vector_j>`

The maximum depends on a single document token. The forward pass therefore keeps only that token's position, and the
backward pass gathers it: `d score / d token_i = weight_i * vector_j`, `d score / d vector_j = weight_i * token_i`. Of
equal similarities the first wins. Besides the operands, memory is needed for positions and values, `A * N` numbers
each, and for one block of similarities per core.

XTR (arXiv 2304.01982) is the same sum over fewer pairs: for a query token, only the `k` most similar document tokens of
the whole batch count, as if they had been retrieved.

Shapes: `A` query tokens, `Q` queries, `N` documents, `T` tokens of all documents, `d` dimensions, `n` documents of a
block, `s` tokens of its longest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, pad

from hyperseek._machine import run_on_cores
from hyperseek.errors import InputError
from hyperseek.geometry.tokens import ragged_blocks

NOT_FOUND = -1
"""Position for a query token that found no token in a document."""

# Similarities of one block, 2 MiB of float32: they stay in a core's cache between the product and the maxima.
_BLOCK_ELEMENTS = 1 << 19
_QUERY_TOKENS = 512
_DOCUMENT_TOKENS = (1024, 8192)
# The same on a GPU.
_PADDED_ELEMENTS = 1 << 26
# Pairs of query token and document whose values or gradients are in memory at a time.
_PAIRS = 1 << 20


def maxsim(
    tokens: Tensor,
    weights: Tensor,
    starts: Tensor,
    vectors: Tensor,
    offsets: Tensor,
    *,
    floor: float | None = None,
    top_k: int | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Score every document with every query; differentiable once, in `tokens`, `weights` and `vectors`.

    Args:
        tokens: `(A, d)`, float32 or float64, of all queries, concatenated; everything is computed in its dtype.
        weights: `(A,)`.
        starts: `(Q + 1,)` int64: query `q` has the tokens from `starts[q]` to `starts[q + 1]`.
        vectors: `(T, d)`, floating, of all documents one after the other.
        offsets: `(N + 1,)` int64: document `n` has the vectors from `offsets[n]` to `offsets[n + 1]`.
        floor: Smaller similarities count as 0, as if nothing had been found; None for no limit.
        top_k: Number of vectors, over all documents, that a query token can match; None for all.

    Returns:
        `(Q, N)` scores, 0 for documents without tokens; and with `top_k`, `(Q, N)` the number of query tokens that
        matched one of the document's, else None.
    """
    graph = torch.is_grad_enabled() and any(given.requires_grad for given in (tokens, weights, vectors))
    if graph or top_k is not None:
        scores, counts = _MaxSim.apply(tokens, weights, starts, vectors, offsets, floor, top_k)  # type: ignore[no-untyped-call]
        return scores, counts if top_k is not None else None
    with torch.autocast(tokens.device.type, enabled=False):
        if vectors.device.type == "cpu":
            return _scan(tokens, weights, starts, vectors, offsets, floor), None
        scores = tokens.new_zeros(len(starts) - 1, len(offsets) - 1)
        for start, stop in _blocks_of_pairs(len(tokens), len(offsets) - 1):
            own = offsets[start : stop + 1]
            values, _ = find_tokens(tokens, vectors[int(own[0]) : int(own[-1])], own - own[0], floor=floor)
            scores[:, start:stop] = _summed(values, weights, starts)
        return scores, None


@torch.no_grad()
def find_tokens(
    tokens: Tensor, vectors: Tensor, offsets: Tensor, *, floor: float | None = None, top_k: int | None = None
) -> tuple[Tensor, Tensor]:
    """Find the most similar vector of every document for every query token.

    Args:
        tokens: `(A, d)`; see `maxsim`, also for the rest.
        vectors: `(T, d)`.
        offsets: `(N + 1,)`.
        floor: See `maxsim`.
        top_k: See `maxsim`.

    Returns:
        `(A, N)` similarities, and `(A, N)` int32 positions among the `T` vectors: the first of the most similar ones.
        They are 0 and `NOT_FOUND` if a document has no vector for the token.
    """
    if top_k is not None:
        values, places = _find_retrieved(tokens, vectors, offsets, top_k)
    elif vectors.device.type == "cpu":
        values, places = _find_on_cores(tokens, vectors, offsets)
    else:
        values, places = _find_padded(tokens, vectors, offsets)
    missing = places == NOT_FOUND if floor is None else (places == NOT_FOUND) | (values < floor)
    return values.masked_fill_(missing, 0.0), places.masked_fill_(missing, NOT_FOUND)


class _MaxSim(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        tokens: Tensor,
        weights: Tensor,
        starts: Tensor,
        vectors: Tensor,
        offsets: Tensor,
        floor: float | None,
        top_k: int | None,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(tokens.device.type, enabled=False):
            values, places = find_tokens(tokens, vectors, offsets, floor=floor, top_k=top_k)
            scores = _summed(values, weights, starts)
            counts = scores.new_zeros(())
            if top_k is not None:
                counts = _summed((places != NOT_FOUND).to(values.dtype), torch.ones_like(weights), starts)
        context.save_for_backward(tokens, weights, starts, vectors, offsets, places)
        context.mark_non_differentiable(counts)
        return scores, counts

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        tokens, weights, starts, vectors, offsets, places = context.saved_tensors
        found = _Gathered.apply(gradients[0], tokens, weights, starts, vectors, offsets, places)  # type: ignore[no-untyped-call]
        return found[0], found[1], None, found[2], None, None, None


class _Gathered(torch.autograd.Function):
    """The backward pass, a separate function so that a second one raises a clear error."""

    @staticmethod
    def forward(
        context: Any,
        gradient: Tensor,
        tokens: Tensor,
        weights: Tensor,
        starts: Tensor,
        vectors: Tensor,
        offsets: Tensor,
        places: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        count = len(tokens)
        owners = torch.repeat_interleave(starts.diff())
        weighted = tokens * weights[:, None]
        gathered = torch.zeros_like(tokens)
        to_vectors = torch.zeros_like(vectors)
        with torch.autocast(tokens.device.type, enabled=False):
            for start, stop in _blocks_of_pairs(count, places.shape[1]):
                first, last = int(offsets[start]), int(offsets[stop])
                if first == last or not count:
                    continue
                own = places[:, start:stop]
                factors = gradient[:, start:stop].to(tokens.dtype)[owners].masked_fill(own == NOT_FOUND, 0.0)
                own = (own - first).clamp_min(0)
                block = vectors[first:last].to(tokens.dtype)
                gathered += embedding_bag(own, block, per_sample_weights=factors, mode="sum")
                # Pairs in the order of their vectors: those of one vector are a bag. (Pair p is query token p // n.)
                pairs = own.flatten()
                order = pairs.argsort(stable=True)
                bags = pad(torch.bincount(pairs, minlength=last - first).cumsum(0)[:-1], (1, 0))
                seekers = order.div(stop - start, rounding_mode="floor")
                to_vectors[first:last] = embedding_bag(
                    seekers, weighted, bags, per_sample_weights=factors.flatten()[order], mode="sum"
                )
        # The sum of a token's maxima is its product with the sum of what it found.
        return gathered * weights[:, None], (gathered * tokens).sum(1), to_vectors

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Any:
        raise InputError(
            "MaxSim can be differentiated only once; leave out losses that need second derivatives, such as gradient "
            "penalties, or score with the plain formula"
        )


def _blocks_of_pairs(tokens: int, documents: int) -> list[tuple[int, int]]:
    size = max(1, _PAIRS // max(1, tokens))
    return [(start, min(start + size, documents)) for start in range(0, documents, size)]


def _summed(values: Tensor, weights: Tensor, starts: Tensor) -> Tensor:
    """Return the `(Q, n)` weighted sums of the `(A, n)` values of each query's tokens."""
    if not values.numel():
        return values.new_zeros(len(starts) - 1, values.shape[1])
    rows = torch.arange(len(values), device=values.device)
    return embedding_bag(rows, values, starts, per_sample_weights=weights, mode="sum", include_last_offset=True)


def _document_tokens(tokens: Tensor) -> int:
    """Return how many document tokens make a block for a core."""
    least, most = _DOCUMENT_TOKENS
    return min(most, max(least, _BLOCK_ELEMENTS // max(1, min(len(tokens), _QUERY_TOKENS))))


def _scan(
    tokens: Tensor, weights: Tensor, starts: Tensor, vectors: Tensor, offsets: Tensor, floor: float | None
) -> Tensor:
    """Score without positions, on the cores of a CPU: each takes whole blocks of documents."""
    owners = torch.repeat_interleave(starts.diff())
    parts = []
    for first in range(0, len(tokens), _QUERY_TOKENS):
        rows = torch.arange(first, min(first + _QUERY_TOKENS, len(tokens)))
        lowest, highest = int(owners[rows[0]]), int(owners[rows[-1]])
        # Sums the weighted maxima of queries of any length by one product.
        sums = weights.new_zeros(len(rows), highest + 1 - lowest)
        sums[rows - first, owners[rows] - lowest] = weights[rows]
        parts.append((tokens[rows], sums, slice(lowest, highest + 1)))
    scores = tokens.new_zeros(len(offsets) - 1, len(starts) - 1)

    def work(start: int, stop: int, segments: list[_Segment]) -> None:
        for part, sums, queries in parts:
            best = part.new_zeros(stop - start, len(part))
            _write_maxima(part, vectors, segments, best)
            if floor is not None:
                best.masked_fill_(best < floor, 0.0)
            scores[start:stop, queries].addmm_(best, sums)

    _work_on_cores(work, tokens, offsets)
    return scores.T


def token_maxima(vectors: Tensor, offsets: Tensor, tokens: Tensor) -> Tensor:
    """Return each document's largest inner product with each of some tokens, on all cores of a CPU.

    Args:
        vectors: `(T, d)`, floating; see `maxsim`, also for the rest.
        offsets: `(N + 1,)`.
        tokens: `(A, d)` float32.

    Returns:
        `(N, A)` float32, without a gradient; zero for documents without tokens.
    """
    found = torch.zeros(len(offsets) - 1, len(tokens))

    def work(start: int, stop: int, segments: list[_Segment]) -> None:
        for first in range(0, len(tokens), _QUERY_TOKENS):
            part = slice(first, first + _QUERY_TOKENS)
            _write_maxima(tokens[part], vectors, segments, found[start:stop, part])

    _work_on_cores(work, tokens, offsets)
    return found


def _write_maxima(tokens: Tensor, vectors: Tensor, segments: list[_Segment], maxima: Tensor) -> None:
    """Write the largest similarities to a block's documents into `(n, A)` zeros."""
    for segment in segments:
        similar = vectors[segment.low : segment.high].to(tokens.dtype) @ tokens.T
        for row, own, is_first in segment.documents:
            if is_first:
                torch.amax(similar[own], 0, out=maxima[row])
            else:
                torch.maximum(similar[own].amax(0), maxima[row], out=maxima[row])


class _Segment(NamedTuple):
    """Vectors of a block of documents: all, or a part where the block is a single long document.

    Attributes:
        low: The first vector.
        high: The vector after the last.
        documents: Of each document with vectors here: its number in the block, where its vectors are in the segment,
            and whether the first one is among them.
    """

    low: int
    high: int
    documents: list[tuple[int, slice, bool]]


def _work_on_cores(work: Callable[[int, int, list[_Segment]], None], tokens: Tensor, offsets: Tensor) -> None:
    """Call `work(start, stop, segments)` for blocks of documents, on all cores."""
    bounds = offsets.tolist()
    size = _document_tokens(tokens)
    blocks = list(ragged_blocks(bounds, size))
    pending = iter(blocks)

    def take() -> None:
        for start, stop in pending:
            segments = []
            for low in range(bounds[start], bounds[stop], size):
                high = min(low + size, bounds[stop])
                documents = []
                for row in range(start, stop):
                    left, right = max(bounds[row], low), min(bounds[row + 1], high)
                    if left < right:
                        documents.append((row - start, slice(left - low, right - low), left == bounds[row]))
                segments.append(_Segment(low, high, documents))
            work(start, stop, segments)

    run_on_cores(take, at_most=len(blocks))


def _find_on_cores(tokens: Tensor, vectors: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Find the best vectors on the cores of a CPU: each takes whole blocks of documents."""
    values = tokens.new_zeros(len(tokens), len(offsets) - 1)
    places = torch.full(values.shape, NOT_FOUND, dtype=torch.int32)

    def work(start: int, _: int, segments: list[_Segment]) -> None:
        for low, high, documents in segments:
            block = vectors[low:high].to(tokens.dtype)
            for first in range(0, len(tokens), _QUERY_TOKENS):
                part = slice(first, first + _QUERY_TOKENS)
                similar = tokens[part] @ block.T
                for place_in_block, own, is_first in documents:
                    row = start + place_in_block
                    # NumPy's argmax is vectorised, torch's is not.
                    place = torch.from_numpy(np.argmax(similar.numpy()[:, own], axis=1) + own.start)
                    value = similar.gather(1, place[:, None])[:, 0]
                    place = (place + low).int()
                    if not is_first:
                        # Like any maximum, it is NaN if one similarity is.
                        better = (value > values[part, row]) | value.isnan()
                        value = torch.where(better, value, values[part, row])
                        place = torch.where(better, place, places[part, row])
                    values[part, row] = value
                    places[part, row] = place

    _work_on_cores(work, tokens, offsets)
    return values, places


def _find_padded(tokens: Tensor, vectors: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Find the best vectors in padded blocks of documents of similar length, which suits a GPU."""
    values = tokens.new_zeros(len(tokens), len(offsets) - 1)
    places = torch.full(values.shape, NOT_FOUND, dtype=torch.int32, device=values.device)
    lengths = offsets.diff()
    order = lengths.argsort()
    sizes = lengths[order].tolist()
    start = sum(size == 0 for size in sizes)
    while start < len(sizes):
        piece = max(1, min(len(tokens), _PADDED_ELEMENTS // sizes[start]))
        stop = start + 1
        while stop < len(sizes) and (stop + 1 - start) * sizes[stop] * piece <= _PADDED_ELEMENTS:
            stop += 1
        rows, longest = order[start:stop], sizes[stop - 1]
        columns = torch.arange(longest, device=rows.device)
        absent = columns >= lengths[rows, None]
        taken = (offsets[rows, None] + columns).masked_fill(absent, 0)
        block = vectors[taken].to(tokens.dtype)
        for first in range(0, len(tokens), piece):
            part = slice(first, first + piece)
            similar = torch.einsum("ad,nsd->ans", tokens[part], block)
            best, column = similar.masked_fill_(absent, -torch.inf).max(2)
            values[part, rows] = best
            places[part, rows] = (offsets[rows] + column).int()
        start = stop
    return values, places


def _find_retrieved(tokens: Tensor, vectors: Tensor, offsets: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Find the best vectors among the `top_k` that each query token retrieves from all documents."""
    count = min(top_k, len(vectors))
    documents = torch.repeat_interleave(offsets.diff())
    values, places = [tokens.new_zeros(0, len(offsets) - 1)], [documents.new_zeros(0, len(offsets) - 1)]
    for part in torch.split(tokens, _QUERY_TOKENS):
        best = part.new_zeros(len(part), 0)
        found = documents.new_zeros(len(part), 0)
        size = max(count, _document_tokens(tokens))
        for low in range(0, len(vectors), size):
            high = min(low + size, len(vectors))
            similar = torch.cat([best, part @ vectors[low:high].to(part.dtype).T], 1)
            best, column = similar.topk(min(count, similar.shape[1]), dim=1)
            seen = torch.arange(low, high, device=documents.device).expand(len(part), -1)
            found = torch.cat([found, seen], 1).gather(1, column)
        # They are sorted, so the first one of a document is its best.
        ranks = torch.arange(best.shape[1], device=documents.device).expand_as(found)
        first = torch.full((len(part), len(offsets) - 1), best.shape[1], device=documents.device)
        first = first.scatter_reduce(1, documents[found], ranks, "amin")
        values.append(pad(best, (0, 1)).gather(1, first))
        places.append(pad(found, (0, 1), value=NOT_FOUND).gather(1, first))
    return torch.cat(values), torch.cat(places).int()
