"""The scorer of late interaction: a query is a set of token vectors, each matched to its best document token.

`score = sum over query tokens i of mask_i * max over document tokens j of <q_i, d_j>`

Shapes: `Q` queries, `N` documents, `n` documents of each query's own, `d` dimensions, `t` tokens of the longest query,
`A` tokens of all queries that the mask keeps, `s` tokens of the longest document.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, TypeAlias

import torch
from torch import Tensor

from hyperseek._machine import run_on_cores
from hyperseek.errors import InputError, UnknownNameError
from hyperseek.geometry.tokens import ragged_blocks
from hyperseek.scoring._geometries import Chart
from hyperseek.scoring._points import Points, TokenPoints, own_documents, token_points
from hyperseek.scoring._scorer import Scorer
from hyperseek.scoring._space import Space, checked_scores

Masking: TypeAlias = Literal["exact", "pylate"]
"""How a query token scores a document whose tokens all have a negative similarity to it; see `MaxSimScorer`."""

EMPTY_SCORE = -1e9
"""Score of a document without tokens under exact masking, as in sentence-transformers: finite, but below any other.

It stands for "no score": code that scales or averages scores leaves out those at or below `EMPTY_SCORE`.
"""

# Similarities in a block, 2 MiB of float32, which stay in a core's cache between the product and the maxima.
_BLOCK_ELEMENTS = 1 << 19
_QUERY_TOKENS = 512
_DOCUMENT_TOKENS = (1024, 8192)
# The same for a GPU, and where a gradient's graph keeps them.
_PADDED_ELEMENTS = 1 << 26


class MaxSimScorer(Scorer):
    """Queries as sets of token vectors.

    Masking `"exact"` reads only real document tokens, so the best similarity may be negative. `"pylate"` is the zero
    masking of PyLate and of checkpoints trained with it: padding counts with similarity 0, so a negative best
    similarity becomes 0. In PyLate this does not happen to the longest document of a batch, which has no padding; here
    all documents are treated alike, so a score does not depend on the other documents.

    Args:
        space: Of kind `"tokens"`.
        queries: `(Q, t, d)`, floating; masked positions are never read.
        mask: `(Q, t)`, 0 where there is no token, 1 where there is one; other positive numbers are weights.
        masking: `"exact"` or `"pylate"`.

    Raises:
        InputError: The space is of another kind, or the shapes do not fit.
        UnknownNameError: There is no such masking.
    """

    kind = "maxsim"

    def __init__(self, space: Space, queries: Tensor, mask: Tensor, *, masking: Masking = "exact") -> None:
        if not space.ragged:
            raise InputError(f"late interaction compares points of a 'tokens' space, not {space.kind!r}")
        if masking not in ("exact", "pylate"):
            raise UnknownNameError("masking", masking, ("exact", "pylate"))
        if queries.ndim != 3 or mask.shape != queries.shape[:2]:
            raise InputError(
                f"queries and mask need the shapes (queries, tokens, dimensions) and (queries, tokens), "
                f"not {tuple(queries.shape)} and {tuple(mask.shape)}"
            )
        space.check(queries)
        self.space = space
        self.queries = queries
        self.mask = mask.float()
        self.masking = masking

    def __len__(self) -> int:
        return self.queries.shape[0]

    def score(self, points: Points) -> Tensor:
        """Return `(Q, N)` scores of token points: exact, in bounded memory, differentiable in queries and documents."""
        documents = token_points(points)
        self.space.check(documents.vectors)
        kept = self.mask != 0
        tokens = self.queries[kept].float()
        # Sums each query's weighted maxima in one product, whichever tokens are masked.
        owner = kept.nonzero()[:, 0]
        weights = self.mask.new_zeros(len(tokens), len(self))
        weights = weights.index_put((torch.arange(len(tokens), device=owner.device), owner), self.mask[kept])
        graph = torch.is_grad_enabled() and (tokens.requires_grad or documents.vectors.requires_grad)
        if documents.vectors.device.type == "cpu" and not graph:
            scores = self._scan(documents, tokens, weights)
        else:
            scores = self._score_padded(documents, tokens, weights)
        names = ("token of queries", "token of documents")
        scores = checked_scores(scores, queries=tokens, documents=documents.vectors, names=names)
        empty = documents.lengths == 0
        return scores.masked_fill(empty, EMPTY_SCORE if self.masking == "exact" else 0.0)

    def score_own(self, documents: Tensor | Points, *, mask: Tensor | None = None) -> Tensor:
        """Score each query's own documents.

        Args:
            documents: `Q * n` token points, the first query's first; or a padded `(Q, n, s, d)` tensor.
            mask: `(Q, n, s)`, non-zero where a padded tensor has a token; None if it has one everywhere.

        Returns:
            `(Q, n)` float32.

        Raises:
            InputError: The number of token points is not a multiple of the number of queries.
        """
        if isinstance(documents, Tensor):
            shape = documents.shape[:3]
            present = documents.new_ones(shape) if mask is None else mask
            documents = TokenPoints.from_padded(documents.flatten(0, 1), present.reshape(-1, shape[2]))
        own = own_documents(documents, len(self))
        rows = [self[row : row + 1].score(points) for row, points in enumerate(own)]
        return torch.cat(rows) if rows else self.mask.new_zeros(0, 0)

    def linear(self) -> None:
        """Return None: a set of tokens is not one vector; `lift` encodes it as one."""

    def lift(self, chart: Chart) -> Tensor:
        """Return `(Q, e)` fixed-dimensional encodings of the queries, with which an engine finds candidates."""
        weights = self.mask[..., None]
        return chart.lift_queries(torch.where(weights != 0, self.queries.float() * weights, 0.0))

    def token_vectors(self) -> tuple[Tensor, Tensor]:
        """Return `queries` and `mask`."""
        return self.queries, self.mask

    def matches(self, document: Points) -> tuple[Tensor, Tensor, Tensor]:
        """Return what each query token found in one document; its shares sum to the score, but of an empty document."""
        vectors = token_points(document).vectors.float()
        kept = self.mask != 0
        if not len(vectors):
            return (
                torch.full_like(kept, -1, dtype=torch.int64),
                torch.zeros_like(self.mask),
                torch.zeros_like(self.mask),
            )
        similar, rows = (self.queries.float() @ vectors.T).max(dim=2)
        counted = similar.clamp_min(0) if self.masking == "pylate" else similar
        return (
            rows.masked_fill(~kept, -1),
            similar.masked_fill(~kept, 0),
            torch.where(kept, counted * self.mask, 0),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return `queries` and `mask`."""
        return {"queries": self.queries, "mask": self.mask}

    def config(self) -> dict[str, Any]:
        """Return the space and the masking."""
        return {"space": self.space.to_json(), "masking": self.masking}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Self:
        """Make the scorer from what `tensors` and `config` returned."""
        return cls(Space.from_json(config["space"]), tensors["queries"], tensors["mask"], masking=config["masking"])

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Join scorers of one configuration, in order; shorter queries are padded.

        Args:
            parts: At least one.

        Returns:
            All queries in one scorer.

        Raises:
            InputError: `parts` is empty or the configurations differ.
        """
        longest = max((part.mask.shape[1] for part in parts), default=0)
        return super().concatenate([part._widened(longest) for part in parts])

    def _widened(self, tokens: int) -> Self:
        pad = tokens - self.mask.shape[1]
        padded = {
            "queries": torch.nn.functional.pad(self.queries, (0, 0, 0, pad)),
            "mask": torch.nn.functional.pad(self.mask, (0, pad)),
        }
        return self.from_tensors(padded, self.config()).with_options(self.options)

    def _scan(self, documents: TokenPoints, tokens: Tensor, weights: Tensor) -> Tensor:
        """Score on the cores of a CPU, each of which takes whole blocks of documents."""
        scores = weights.new_zeros(len(documents), len(self))
        bounds = documents.offsets.tolist()
        columns = list(zip(torch.split(tokens, _QUERY_TOKENS), torch.split(weights, _QUERY_TOKENS), strict=True))
        least, most = _DOCUMENT_TOKENS
        size = min(most, max(least, _BLOCK_ELEMENTS // max(1, min(len(tokens), _QUERY_TOKENS))))
        blocks = list(ragged_blocks(bounds, size))
        pending = iter(blocks)

        def work() -> None:
            for start, stop in pending:
                block = documents.vectors[bounds[start] : bounds[stop]].float()
                for part, weight in columns:
                    similar = block @ part.T
                    best = similar.new_zeros(stop - start, len(part))
                    for row in range(start, stop):
                        own = similar[bounds[row] - bounds[start] : bounds[row + 1] - bounds[start]]
                        if len(own):
                            torch.amax(own, 0, out=best[row - start])
                    if self.masking == "pylate":
                        best.clamp_min_(0)
                    scores[start:stop].addmm_(best, weight)

        run_on_cores(work, at_most=len(blocks))
        return scores.T

    def _score_padded(self, documents: TokenPoints, tokens: Tensor, weights: Tensor) -> Tensor:
        """Score padded blocks of documents of similar length: faster on a GPU, and differentiable."""
        order = documents.lengths.argsort()
        lengths = documents.lengths[order].tolist()
        parts: list[Tensor] = [weights.new_zeros(0, len(self))]
        start = 0
        while start < len(lengths):
            stop = start + 1
            while stop < len(lengths) and (stop + 1 - start) * lengths[stop] * len(tokens) <= _PADDED_ELEMENTS:
                stop += 1
            padded, mask = documents[order[start:stop]].padded()
            # One row more than there are tokens, so that documents without tokens have a maximum too.
            similar = torch.nn.functional.pad(padded.float() @ tokens.T, (0, 0, 0, 1))
            filler = torch.finfo(similar.dtype).min if self.masking == "exact" else 0.0
            absent = ~torch.nn.functional.pad(mask, (0, 1))[..., None]
            best = similar.masked_fill(absent, filler).amax(1)
            best = best.masked_fill(~mask.any(1, keepdim=True), 0.0)
            parts.append(best @ weights)
            start = stop
        return torch.cat(parts)[order.argsort()].T
