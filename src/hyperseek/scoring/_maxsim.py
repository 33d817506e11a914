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

from hyperseek.errors import InputError, UnknownNameError
from hyperseek.geometry.maxsim import NOT_FOUND, find_tokens, maxsim
from hyperseek.scoring._geometries import Chart, checked_scores
from hyperseek.scoring._points import Points, TokenPoints, offsets_of, own_documents, token_points
from hyperseek.scoring._scorer import Scorer
from hyperseek.scoring._space import Space

Masking: TypeAlias = Literal["exact", "pylate"]
"""How a query token scores a document whose tokens all have a negative similarity to it; see `MaxSimScorer`."""

EMPTY_SCORE = -1e9
"""Score of a document without tokens under exact masking, as in sentence-transformers: finite, but below any other.

It stands for "no score": code that scales or averages scores leaves out those at or below `EMPTY_SCORE`.
"""


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
        tokens, weights, starts = self._joined()
        scores, counts = maxsim(tokens, weights, starts, documents.vectors, documents.offsets, **self._limits())
        if counts is not None:
            scores = scores / counts.clamp_min(1)
        names = ("token of queries", "token of documents")
        scores = checked_scores(scores, queries=tokens, documents=documents.vectors, names=names)
        return scores.masked_fill(documents.lengths == 0, EMPTY_SCORE if self.masking == "exact" else 0.0)

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
        own = own_documents(_own_points(documents, mask), len(self))
        rows = [self[row : row + 1].score(points) for row, points in enumerate(own)]
        return torch.cat(rows) if rows else self.mask.new_zeros(0, 0)

    def linear(self) -> None:
        """Return None: a set of tokens is not one vector; `lift` encodes it as one."""

    def lift(self, chart: Chart) -> Tensor:
        """Return `(Q, e)` fixed-dimensional encodings of the queries, with which an engine finds candidates."""
        weights = self.mask[..., None]
        return chart.lift_queries(torch.where(weights != 0, self.queries.float() * weights, 0.0))

    def moved_towards(self, documents: Points, weights: Tensor) -> Self:
        """Append the documents' tokens; those of one share its weight, which counts as that of the query's tokens.

        Weights of 0.2 for one document leave the query's own tokens 0.8 of what they weighed, and give the document's
        0.2 of that, whatever their numbers.
        """
        tokens, present = token_points(documents).padded()
        counts = present.sum(dim=1).reshape(weights.shape)
        given = torch.where(counts > 0, weights.to(counts.device), 0)
        each = given * self.mask.sum(dim=1, keepdim=True) / counts.clamp_min(1)
        appended = (present.reshape(*weights.shape, -1) * each[..., None]).flatten(1)
        rest = 1 - given.sum(dim=1, keepdim=True)
        return self._with(
            {
                "queries": torch.cat([self.queries.float(), tokens.float().reshape(len(self), -1, tokens.shape[2])], 1),
                "mask": torch.cat([self.mask * rest, appended], dim=1),
            }
        )

    def token_vectors(self) -> tuple[Tensor, Tensor]:
        """Return `queries` and `mask`."""
        return self.queries, self.mask

    def matches(self, document: Points) -> tuple[Tensor, Tensor, Tensor]:
        """Return what each query token found in one document; its shares sum to the score, but of an empty document."""
        vectors = token_points(document).vectors
        self.space.check(vectors)
        tokens, weights, _ = self._joined()
        similar, rows = find_tokens(tokens, vectors, torch.tensor([0, len(vectors)], device=vectors.device))
        counted = similar.clamp_min(0) if self.masking == "pylate" else similar
        kept, absent = self.mask != 0, torch.zeros_like(self.mask)
        return (
            torch.full_like(kept, NOT_FOUND, dtype=torch.int64).masked_scatter(kept, rows.long()),
            absent.masked_scatter(kept, similar),
            absent.masked_scatter(kept, counted[:, 0] * weights),
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

    def _joined(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return `(A, d)` tokens that the mask keeps, their `(A,)` weights, and `(Q + 1,)` where each query's begin."""
        kept = self.mask != 0
        return self.queries[kept].float(), self.mask[kept], offsets_of(kept.sum(1))

    def retrieving(self, top_k: int) -> XTRScorer:
        """Return the queries as an `XTRScorer`; see `Scorer`."""
        return XTRScorer(self.space, self.queries, self.mask, masking=self.masking, top_k=top_k)

    def _limits(self) -> dict[str, Any]:
        """Return which pairs of tokens count, as arguments of `maxsim`."""
        return {"floor": None if self.masking == "exact" else 0.0}


class XTRScorer(MaxSimScorer):
    """Queries whose tokens retrieve: each sees only the document tokens that are most similar to it (arXiv 2304.01982).

    `score` is the sum of a query's best similarities among what its tokens retrieved of all points given, divided by
    the number of tokens that retrieved one of the document's. It depends on the documents beside it, as is meant in
    training, where the batch stands for the index; `xtr_scores` is for answers of an index.

    Args:
        space: Of kind `"tokens"`.
        queries: `(Q, t, d)`, floating.
        mask: `(Q, t)`, as in `MaxSimScorer`.
        masking: `"exact"` counts whatever a token retrieved, as the paper does; `"pylate"` only what is above 0.
        top_k: Document tokens that a query token retrieves, at least 1.

    Raises:
        InputError: As in `MaxSimScorer`, or `top_k` is below 1.
        UnknownNameError: There is no such masking.
    """

    kind = "xtr"

    def __init__(
        self, space: Space, queries: Tensor, mask: Tensor, *, masking: Masking = "exact", top_k: int = 256
    ) -> None:
        super().__init__(space, queries, mask, masking=masking)
        if top_k < 1:
            raise InputError(f"a query token retrieves at least 1 document token; top_k is {top_k}")
        self.top_k = top_k

    def score_own(self, documents: Tensor | Points, *, mask: Tensor | None = None) -> Tensor:
        """Score for each query documents of its own, retrieved among those of all queries; see `MaxSimScorer`."""
        scores = self.score(_own_points(documents, mask))
        each = scores.shape[1] // max(1, len(self))
        own = torch.arange(len(self), device=scores.device)[:, None] * each + torch.arange(each, device=scores.device)
        return scores.gather(1, own)

    def config(self) -> dict[str, Any]:
        """Return the space, the masking and how many tokens are retrieved."""
        return {**super().config(), "top_k": self.top_k}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Self:
        """Make the scorer from what `tensors` and `config` returned."""
        space, top_k = Space.from_json(config["space"]), config["top_k"]
        return cls(space, tensors["queries"], tensors["mask"], masking=config["masking"], top_k=top_k)

    def _limits(self) -> dict[str, Any]:
        return {**super()._limits(), "top_k": self.top_k}


def xtr_scores(
    documents: Sequence[Sequence[Any]], scores: Sequence[Sequence[float]], *, k: int | None = None
) -> list[tuple[Any, float]]:
    """Score the documents of one query by what its tokens retrieved from an index, without their other tokens.

    A document's score is the sum over query tokens of its best token's score; where it has none, of the lowest score
    that the query token retrieved, which no unseen one exceeds (the imputation of arXiv 2304.01982).

    Args:
        documents: For each query token the ids of the documents whose tokens it retrieved; ids may repeat.
        scores: The tokens' scores in the same order.
        k: How many documents to return; None for all.

    Returns:
        Ids and scores, best first; of equal scores, first the one that was found earlier.

    Raises:
        InputError: The lists are not of equal lengths.
    """
    if [*map(len, documents)] != [*map(len, scores)]:
        raise InputError(
            f"ids and scores must be as many for each query token; given {[*map(len, documents)]} and "
            f"{[*map(len, scores)]}"
        )
    totals = dict.fromkeys((name for names in documents for name in names), 0.0)
    for names, values in zip(documents, scores, strict=True):
        if names:
            best: dict[Any, float] = {}
            for name, value in zip(names, values, strict=True):
                best[name] = max(value, best.get(name, value))
            lowest = min(values)
            for name in totals:
                totals[name] += best.get(name, lowest)
    return sorted(totals.items(), key=lambda pair: -pair[1])[:k]


def _own_points(documents: Tensor | Points, mask: Tensor | None) -> Points:
    if not isinstance(documents, Tensor):
        return documents
    shape = documents.shape[:3]
    present = documents.new_ones(shape) if mask is None else mask
    return TokenPoints.from_padded(documents.flatten(0, 1), present.reshape(-1, shape[2]))
