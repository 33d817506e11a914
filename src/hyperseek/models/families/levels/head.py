"""The sentence-transformers module that gives each text a point per level: the last module of both routes.

Its output depends on how it is called, so that ordinary tools can use it:

| called as | `sentence_embedding` | use |
|---|---|---|
| `encode` | `(N, d)`, the tangent of the last level | any tool; with a schedule, its cosines rank as the model does |
| `encode_query`, `encode_document` | `(N, M d)`, the tangents of all levels, broadest first | what `Retriever` reads |
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from hyperseek.errors import ModelError
from hyperseek.models.families.levels.config import LevelsConfig
from hyperseek.models.modules import SavedModule
from hyperseek.nn.levels import RadiusHead, TokenAttentionPooler, at_radius, build_levels
from hyperseek.nn.tangent_projection import Curvature, FullPrecision
from hyperseek.scoring import LevelScorer, Points, Space, VectorPoints, level_options
from hyperseek.types import QueryOptions


class LevelsHead(FullPrecision, SavedModule):
    """Pooling, refinement and radii behind a trunk: tangents of M levels at the origin of the Poincaré ball.

    Reads `token_embeddings` and `attention_mask`, or `sentence_embedding` if `pooling` is `"trunk"`; writes tangents
    to `sentence_embedding`. Everything is computed in float32, regardless of autocast and of the model's dtype.

    Args:
        token_size: Width of what it reads.
        **options: Fields of `LevelsConfig`.

    Attributes:
        config: All options.

    Raises:
        ConfigError: An option is invalid.
    """

    __module__ = "hyperseek.models"  # what modules.json calls it
    forward_kwargs = {"task"}  # noqa: RUF012  # as the base class declares it

    def __init__(self, token_size: int, **options: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        config = LevelsConfig.from_mapping(options, source="LevelsHead")
        seed = config.seed or 0
        self.token_size = token_size
        self.config = config
        self.pooler = None
        if config.pooling == "attention":
            self.pooler = TokenAttentionPooler(
                token_size,
                heads=config.pool_heads,
                hidden_mult=config.pool_hidden_mult,
                dropout=config.pool_dropout,
                start=config.start,
                seed=seed,
            )
        self.refinement = build_levels(
            config.refinement,
            token_size,
            config.d_hrm,
            config.dimension,
            levels=config.num_segments,
            n_cycles=config.n_cycles,
            t_low=config.t_low,
            hidden_mult=config.hrm_hidden_mult,
            grad_window=config.hrm_grad_window,
            start=config.start,
            seed=seed,
        )
        self.radius = None
        if config.radius == "head":
            self.radius = RadiusHead(token_size, config.radii, band=config.radius_band, seed=seed)
        self.curvature = Curvature(
            1 / config.hyp_c,
            trainable=config.trainable_curvature,
            least=1 / config.hyp_c_max,
            most=1 / config.hyp_c_min,
        )
        self.register_buffer("schedule", torch.tensor(config.radii), persistent=False)
        self._measured: dict[str, Tensor] = {}

    schedule: Tensor

    @property
    def reads_tokens(self) -> bool:
        """Whether it pools the states of tokens itself."""
        return self.pooler is not None

    @property
    def space(self) -> Space:
        """The space of the points, with the present curvature."""
        config = self.config
        return Space("levels", config.level_dimension, config.num_segments, self.curvature.radius_squared)

    @property
    def base_space(self) -> Space:
        """The space of the trunk's own vectors, for losses that compare with the trunk."""
        return Space("cosine", self.token_size)

    @property
    def query_options(self) -> dict[str, Any]:
        """The options of queries: `level`, `document_level`, `broaden`, `relation` and `radius_weight`."""
        return level_options(self.config.num_segments)

    def on_model_ready(self, model: nn.Module) -> None:
        """Raise ModelError for a sentence-transformers model that would truncate points."""
        dimension = getattr(model, "truncate_dim", None)
        if dimension is not None:
            raise ModelError(
                f"truncate_dim={dimension} would cut through the levels of points; load the whole model, and for fewer "
                f"numbers per level train it with model.levels.dimension"
            )

    def forward(self, features: dict[str, Any], task: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Replace `sentence_embedding` by tangents.

        Args:
            features: `token_embeddings` and `attention_mask`, or `sentence_embedding`.
            task: `"query"` or `"document"` for all levels, anything else for the last.
            **kwargs: Ignored.

        Returns:
            The features.
        """
        read: Tensor = features["sentence_embedding" if self.pooler is None else "token_embeddings"]
        with torch.autocast(read.device.type, enabled=False):
            vectors = self._pooled(read.to(self.schedule.dtype), features)
            raw = self.refinement(vectors)
            radii = self.schedule if self.radius is None else self.radius(vectors)
            tangents = at_radius(raw, radii)
            self._measure(tangents)
            features["sentence_embedding"] = tangents.flatten(1) if task in ("query", "document") else tangents[:, -1]
        return features

    def _pooled(self, read: Tensor, features: dict[str, Any]) -> Tensor:
        if self.pooler is None:
            # As long as a layer-normalised state: beside shorter ones, what the first optimiser steps add is too much.
            pooled = nn.functional.normalize(read, dim=-1) * math.sqrt(self.token_size)
        else:
            pooled = self.pooler(read, features["attention_mask"])
        return pooled

    def _measure(self, tangents: Tensor) -> None:
        if self.training and len(tangents) > 1:
            found = tangents.detach()
            self._measured["levels_alike"] = nn.functional.cosine_similarity(found[:, 0], found[:, -1], dim=-1).mean()
            if self.radius is not None:
                self._measured["radius_spread"] = torch.linalg.vector_norm(found, dim=-1).std(dim=0).mean()

    def points(self, rows: Tensor) -> Points:
        """Return the points of document rows `(N, M d)`; differentiable, also in the curvature."""
        return VectorPoints(self.space.canonical(rows / self.curvature.one))

    def scorer(self, rows: Tensor, options: QueryOptions) -> LevelScorer:
        """Return the scorer of query rows `(Q, M d)`; differentiable, also in the curvature."""
        one = self.curvature.one
        factor = one if one.requires_grad else None  # distances grow with R; polar points do not depend on it
        return LevelScorer.of(self.space, self.space.canonical(rows / one), options, factor=factor)

    def diagnostics(self) -> dict[str, Tensor]:
        """Return numbers for the training log.

        Returns:
            c, if it is trained; the mean cosine between level 1 and level M of a text, 1 if levels do not differ; and
            the standard deviation of the tangent norms of a level, if they are learned. The last two are those of the
            last batch.
        """
        values = {"hyp_c": 1 / self.curvature().detach()} if self.curvature.trainable else {}
        return {**values, **self._measured}

    def get_embedding_dimension(self) -> int:
        """Return how many numbers the levels of a text have together."""
        return self.config.num_segments * self.config.level_dimension

    def get_config_dict(self) -> dict[str, Any]:
        """Return the constructor arguments, as plain JSON values; the schedule is written out."""
        return {"token_size": self.token_size, **self.config.model_dump(mode="json")}
