"""Fewer vectors per text: tokens are pooled in groups, or the less important ones are dropped.

PyLate's pooling (Clavié, Chaffin and Adams, arXiv 2409.14683) is `linkage: ward` with defaults otherwise. The two of
reasoning_embedder are `distance: euclidean` and `method: attention, keep_ratio: 0.6`, both with `rounding: ceil` and
`protected_tokens: 2`. sentence-transformers renormalises means, PyLate does not: a mean of dissimilar tokens has a norm
below 1, and so counts for less in MaxSim.

Shapes: `N` texts, `T` tokens of the longest, `n` of one, `d` dimensions.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import BeforeValidator, Field, model_validator
from sentence_transformers.multi_vector_encoder.modules import BaseTokenPooling
from torch import Tensor

from hyperseek._config import Config, meaningless
from hyperseek.geometry.euclidean import unit_vectors
from hyperseek.geometry.tokens import (
    Distance,
    Linkage,
    hierarchical_labels,
    k_means_labels,
    sequential_labels,
)
from hyperseek.scoring import TokenPoints

Method = Literal["hierarchical", "k_means", "sequential", "attention"]
Tasks = Annotated[
    tuple[Literal["document", "query"], ...],
    BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
]

IMPORTANCE = "token_importance"
"""The feature `(N, T)` that pruning passes to pooling: the importance of each token."""


GROUPS = "token_groups"
"""The feature `(N, T)` that pooling adds for explanations: the vector each token went into, -1 for none."""


class PoolingConfig(Config):
    """How the tokens of a text become fewer vectors. One of three fields sets their number.

    Attributes:
        method: `hierarchical` clustering, `k_means`, `sequential` (neighbours in the text), or `attention`: the most
            important tokens, unchanged, by the importance from pruning, or else by centrality, the inner product with
            the mean of all.
        pool_factor: Tokens per vector, at least 1.
        keep_ratio: Instead of `pool_factor`, the share of vectors to keep, above 0 and at most 1.
        budget: Instead of both, the maximum number of vectors per text, including protected ones: constant space.
        rounding: Rounding of the number of vectors: `floor`, as in PyLate, or `ceil`, as in reasoning_embedder.
        linkage: Linkage of hierarchical clustering.
        distance: Distance of hierarchical clustering. `average` of `cosine` and `ward` of `euclidean` are fast.
        protected_tokens: Number of leading tokens left unpooled; 1 protects `[CLS]`.
        renormalise: Whether means are scaled to norm 1.
        tasks: Which texts are pooled: `document`, `query` or both.
    """

    method: Method = "hierarchical"
    pool_factor: float = Field(default=2.0, ge=1, allow_inf_nan=False)
    keep_ratio: float | None = Field(default=None, gt=0, le=1)
    budget: int | None = Field(default=None, ge=1)
    rounding: Literal["floor", "ceil"] = "floor"
    linkage: Linkage = "average"
    distance: Distance = "cosine"
    protected_tokens: int = Field(default=1, ge=0)
    renormalise: bool = False
    tasks: Tasks = ("document",)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.budget is not None and self.keep_ratio is not None:
            raise meaningless("keep_ratio", "without budget")
        if "pool_factor" in self.model_fields_set and (self.budget is not None or self.keep_ratio is not None):
            raise meaningless("pool_factor", "without budget and keep_ratio")
        if self.budget is not None and self.budget <= self.protected_tokens:
            raise ValueError(
                f"budget is {self.budget}, and {self.protected_tokens} of a text's vectors are protected; raise it"
            )
        return self

    def count(self, tokens: int) -> int:
        """Return the number of vectors for `tokens` unprotected tokens: 1 to `tokens`, and 0 for 0."""
        if self.budget is not None:
            wanted: float = self.budget - self.protected_tokens
        else:
            wanted = tokens / self.pool_factor if self.keep_ratio is None else tokens * self.keep_ratio
        whole = math.floor(wanted) if self.rounding == "floor" else math.ceil(wanted)
        return min(tokens, max(1, whole))


class Counts:
    """Numbers of tokens read and kept; shared by a module and its copies in other dtypes.

    Attributes:
        seen: Tokens read, of texts of the tasks that are shortened.
        kept: Tokens kept, or vectors in their place.
    """

    def __init__(self) -> None:
        self.seen = self.kept = 0

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __str__(self) -> str:
        return f"{self.kept:,} of {self.seen:,}"


class TokenPooling(BaseTokenPooling):
    """The module that pools token vectors; after normalisation, or after encoding by `encode(token_pooling=...)`.

    It is differentiable: clusters are chosen without a gradient, and their means pass it on. Saved in `modules.json`
    like any module.

    Args:
        **options: The fields of `PoolingConfig`.

    Attributes:
        config: The options.
        counts: Token vectors read and kept, since the module was created.

    Raises:
        ConfigError: An option is unknown or invalid.
    """

    __module__ = "hyperseek.models"  # what modules.json calls it

    config_keys: ClassVar[list[str]] = list(PoolingConfig.model_fields)  # type: ignore[misc]  # theirs is no ClassVar
    reads_tokens: ClassVar[bool] = True

    def __init__(self, **options: Any) -> None:
        config = PoolingConfig.from_mapping(options, source="token pooling")
        super().__init__(tasks=list(config.tasks))
        self.config = config
        self.counts = Counts()

    def get_config_dict(self) -> dict[str, Any]:
        """Return the options that differ from their defaults, and which texts are pooled."""
        return {"tasks": list(self.config.tasks), **self.config.model_dump(mode="json", exclude_defaults=True)}

    def forward(  # type: ignore[override]  # features are not all tensors
        self, features: dict[str, Any], task: str | None = None
    ) -> dict[str, Any]:
        """Pool the texts of a batch.

        Args:
            features: `token_embeddings` `(N, T, d)`, `attention_mask` `(N, T)`, and perhaps `token_importance`.
            task: `"document"`, `"query"`, or None, which counts as a document.

        Returns:
            The features with fewer tokens, padded on the right.
        """
        if not self.applies_to(task) or len(features["token_embeddings"]) == 0:
            return features
        masks = features["attention_mask"].bool()
        importance = features.pop(IMPORTANCE, None)
        groups = torch.full(masks.shape, -1, device=masks.device)
        pooled = []
        for row, (vectors, mask) in enumerate(zip(features["token_embeddings"], masks, strict=True)):
            own, labels = self.pool_and_group(vectors[mask], None if importance is None else importance[row][mask])
            pooled.append(own)
            groups[row, mask] = labels
        earlier = features.get(GROUPS)
        if earlier is not None:  # the inputs were vectors of an earlier pooling
            groups = groups.gather(1, earlier.clamp_min(0)).masked_fill(earlier < 0, -1)
        features[GROUPS] = groups
        lengths = torch.tensor([len(vectors) for vectors in pooled], device=masks.device)
        features["token_embeddings"] = torch.nn.utils.rnn.pad_sequence(pooled, batch_first=True)
        places = torch.arange(int(lengths.max()), device=masks.device)
        features["attention_mask"] = (places < lengths[:, None]).to(features["attention_mask"].dtype)
        return features

    def pool_one(self, embedding: Tensor, importance: Tensor | None = None, **_: Any) -> Tensor:
        """Pool one text.

        Args:
            embedding: `(n, d)`, floating.
            importance: `(n,)`, for `method: attention`; None takes the centrality.

        Returns:
            Its vectors, at most `n`: the protected ones, then the others, ordered by the first token of their groups,
            or in scipy's order if scipy clusters.
        """
        return self.pool_and_group(embedding, importance)[0]

    def pool_and_count(self, embedding: Tensor, importance: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pool one text, and return the number of tokens in each vector.

        Args:
            embedding: `(n, d)`, floating.
            importance: As for `pool_one`.

        Returns:
            The vectors, as from `pool_one`, and as many numbers, float32.
        """
        pooled, groups = self.pool_and_group(embedding, importance)
        return pooled, torch.bincount(groups[groups >= 0], minlength=len(pooled)).float()

    def pool_and_group(self, embedding: Tensor, importance: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pool one text, and return the vector that each of its tokens went into.

        Args:
            embedding: `(n, d)`, floating.
            importance: As for `pool_one`.

        Returns:
            The vectors, as from `pool_one`, and `(n,)` their row numbers, -1 for tokens that were dropped.
        """
        config = self.config
        first = min(config.protected_tokens, len(embedding))
        protected, rest = embedding[:first], embedding[first:]
        count = config.count(len(rest))
        self.counts.seen += len(embedding)
        self.counts.kept += first + count
        places = torch.arange(len(embedding), device=embedding.device)
        if count == len(rest):
            return embedding, places
        if config.method == "attention":
            scores = (embedding.detach().mean(0) @ rest.detach().T) if importance is None else importance[first:]
            best = scores.argsort(descending=True, stable=True)[:count].sort().values
            groups = torch.full_like(places, -1)
            groups[:first] = places[:first]
            groups[first + best] = places[first : first + count]
            return torch.cat([protected, rest[best]]), groups
        labels = self._labels(rest, count).to(rest.device)
        sizes = torch.bincount(labels)
        means = rest.new_zeros(len(sizes), rest.shape[1], dtype=torch.float32).index_add(0, labels, rest.float())
        means = means / sizes[:, None]
        if config.renormalise:
            means = unit_vectors(means)
        return torch.cat([protected, means.to(embedding.dtype)]), torch.cat([places[:first], first + labels])

    def pool_points(self, points: TokenPoints) -> TokenPoints:
        """Return documents with fewer vectors; differentiable."""
        lengths = points.lengths.tolist()
        return TokenPoints.from_documents([self.pool_one(tokens) for tokens in torch.split(points.vectors, lengths)])

    def _labels(self, tokens: Tensor, count: int) -> Tensor:
        if self.config.method == "sequential":
            return sequential_labels(len(tokens), count)
        if self.config.method == "k_means":
            return k_means_labels(tokens, count)
        return hierarchical_labels(tokens, count, linkage=self.config.linkage, distance=self.config.distance)
