"""How the recall of structures is measured: documents of the index serve as queries.

A document is an easy query, since it lies among the others, so a measurement compares structures and warns of bad ones;
`Engines.tune` measures with real queries. A document is never counted as found by itself.

Shapes: `Q` queries.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from hyperseek._config import Config
from hyperseek.scoring import LinearScorer, MaxSimScorer, Points, Scorer, Space, TokenPoints

RECALL_K = 10
"""Recall is the share of so many best documents."""

RECALL_QUERIES = 16
"""Documents that serve as queries."""

# Of a document with more tokens, so many serve as its query: about as many as real queries have.
_TOKENS = 16
# A structure that has grown by more than this factor is no longer the one that was measured.
_GROWTH = 2


class Recall(Config):
    """What a structure found of the exact best documents when it was built, searched as it is by default.

    Attributes:
        share: Share of the best `k` that it found, in [0, 1].
        k: Documents per query.
        queries: Documents that served as queries.
        documents: Number of documents that it had then.
    """

    share: float = Field(ge=0, le=1)
    k: int = Field(ge=1)
    queries: int = Field(ge=1)
    documents: int = Field(ge=1)

    def __str__(self) -> str:
        return f"recall@{self.k} {self.share:.4f} for {self.queries} documents as queries"

    def holds_for(self, count: int) -> bool:
        """Whether a structure that now has `count` documents is still much the same."""
        return count <= _GROWTH * self.documents


def draw_documents(count: int, *, seed: int = 0) -> Tensor:
    """Return the sorted positions, of `count` documents, of those that serve as queries."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(count, generator=generator)[:RECALL_QUERIES].sort().values


def draw_tokens(tokens: Tensor, generator: torch.Generator) -> Tensor:
    """Return some of a document's `(n, d)` token vectors, as a query has."""
    return tokens[torch.randperm(len(tokens), generator=generator)[:_TOKENS]]


def as_queries(space: Space, documents: Points, *, seed: int = 0) -> Scorer:
    """Return documents as queries: `Q` points, or some tokens of each.

    Args:
        space: Space of the documents.
        documents: `Q` documents; of token sets, none empty.
        seed: Of the choice of tokens.

    Returns:
        The queries.
    """
    if not space.ragged:
        return LinearScorer(space, documents.rows.float())
    generator = torch.Generator().manual_seed(seed)
    parts = torch.split(documents.rows.float(), documents.lengths.tolist())
    queries, mask = TokenPoints.from_documents([draw_tokens(part, generator) for part in parts]).padded()
    return MaxSimScorer(space, queries, mask.float())
