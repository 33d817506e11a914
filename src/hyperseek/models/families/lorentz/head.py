"""The sentence-transformers module that lifts a trunk's vectors into hyperbolic space.

It is the last module of both routes. Its output depends on the side, so that ordinary tools rank correctly:

| called as | `sentence_embedding` | use |
|---|---|---|
| `encode_document` | `(time, space)`, a point of the hyperboloid | an index of plain inner products |
| `encode_query` | `(-time, space)` | its queries: their inner products rank as the distance does |
| `encode` | the logarithmic map, a vector of the tangent space at the origin | classification, clustering, similarity |

`Retriever` reverts the sign and compares exactly. Mixing up `encode` and the others is an error, not a wrong ranking,
because their outputs differ in size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hyperseek import geometry
from hyperseek.errors import ModelError
from hyperseek.models.families.lorentz.config import SIMILARITIES, Distance, LorentzConfig, pooling_options
from hyperseek.models.modules import SavedModule
from hyperseek.nn.lorentz import LorentzBlock, LorentzPooler
from hyperseek.nn.tangent_projection import Curvature, FullPrecision, TangentProjection
from hyperseek.scoring import LinearScorer, Points, Space, VectorPoints


class LorentzHead(FullPrecision, SavedModule):
    """Projection, norm clip and lift after a trunk: the last module of both routes of a hybrid encoder.

    Reads `sentence_embedding`, or `token_embeddings` and `attention_mask` if the lift comes before the pooling;
    writes points to `sentence_embedding`. Everything is computed in float32, regardless of autocast and of the model's
    dtype.

    Args:
        token_size: Trunk width.
        dimension: Dimension of the space; points have one more coordinate. None takes the trunk's width.
        **options: Further fields of `LorentzConfig`.

    Attributes:
        config: All options.

    Raises:
        ConfigError: An option is invalid.
    """

    __module__ = "hyperseek.models"  # what modules.json calls it
    forward_kwargs = {"task"}  # noqa: RUF012  # as the base class declares it

    def __init__(self, token_size: int, dimension: int | None = None, **options: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        config = LorentzConfig.from_mapping({**options, "dimension": dimension or token_size}, source="LorentzHead")
        self.token_size = token_size
        self.config = config
        self.curvature = Curvature(
            config.radius_squared,
            trainable=config.trainable_curvature and config.curved,
            least=config.radius_squared_min,
            most=config.radius_squared_max,
        )
        self.tangent = TangentProjection(
            token_size,
            self.dimension,
            projection=config.projection,
            start=config.start,
            norm_scale=config.norm_scale,
            trainable_norm_scale=config.trainable_norm_scale,
            norm_clip=config.norm_clip,
            de_layer_norm=config.de_layer_norm,
            radius=config.radius,
            radius_start=config.radius_start,
            seed=config.seed,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            size = self.dimension + 1
            self.blocks = nn.ModuleList(
                LorentzBlock(size, config.block_heads, norm=config.block_norm) for _ in range(config.blocks)
            )
            self.pooler = _pooler(config, size)
        self._clipped: Tensor | None = None

    @property
    def reads_tokens(self) -> bool:
        """Whether tokens are lifted and then pooled."""
        return self.pooler is not None

    @property
    def dimension(self) -> int:
        """Dimension of the projection."""
        return self.config.dimension or self.token_size

    @property
    def output_dimension(self) -> int:
        """Dimension of the space in which points are returned."""
        return self.config.output_dimension or self.dimension

    @property
    def distance(self) -> Distance:
        """How points are compared."""
        return self.config.distance

    @property
    def curved(self) -> bool:
        """Whether vectors are lifted."""
        return self.config.curved

    @property
    def space(self) -> Space:
        """The space of the points, with the present curvature."""
        if not self.curved:
            return Space(self.distance, self.output_dimension)
        return Space("lorentz", self.output_dimension, self.curvature.radius_squared, SIMILARITIES[self.distance])

    @property
    def base_space(self) -> Space:
        """The space of the trunk's own vectors, for losses that compare with the trunk."""
        return Space("cosine", self.token_size)

    def on_model_ready(self, model: nn.Module) -> None:
        """Raise ModelError for a model that would truncate points."""
        if self.curved:
            refuse_truncation(model)

    def forward(self, features: dict[str, Any], task: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Replace `sentence_embedding` by points.

        Args:
            features: With `sentence_embedding`, `(N, m)`, or the tokens.
            task: `"query"`, `"document"`, or anything else for the logarithmic map.
            **kwargs: Ignored.

        Returns:
            The features.
        """
        states = features["token_embeddings" if self.reads_tokens else "sentence_embedding"]
        mask = features["attention_mask"].bool() if self.reads_tokens else None
        if mask is not None:
            # Some trunks leave NaN at padded positions, and 0 times NaN is NaN.
            states = states.masked_fill(~mask[..., None], 0)
        with torch.autocast(states.device.type, enabled=False):
            tangent = self.tangent(states)
            self._clipped = _share(self.tangent.clipped, mask)
            if not self.curved:
                features["sentence_embedding"] = tangent[..., : self.output_dimension]
                return features
            radius_squared = self.curvature()
            points = geometry.lorentz_expmap0(tangent, radius_squared)
            if mask is not None:
                points = self._pooled(points, mask, radius_squared)
            features["sentence_embedding"] = side_rows(points, radius_squared, task, self.output_dimension)
        return features

    def _pooled(self, points: Tensor, mask: Tensor, radius_squared: Tensor) -> Tensor:
        for block in self.blocks:
            points = block(points, radius_squared, mask=mask[:, None, None])
        pooled: Tensor = self.pooler(points, mask, radius_squared)  # type: ignore[misc]
        return pooled

    def points(self, rows: Tensor) -> Points:
        """Return the points of document rows `(N, d + 1)`; differentiable, also in the curvature."""
        if not self.curved:
            return VectorPoints(self.space.canonical(rows))
        return document_points(rows, self.space, self.curvature)

    def scorer(self, rows: Tensor) -> LinearScorer:
        """Return the scorer of query rows `(Q, d + 1)`; differentiable, also in the curvature."""
        if not self.curved:
            return LinearScorer(self.space, self.space.canonical(rows))
        return query_scorer(rows, self.space, self.curvature, self.distance)

    def diagnostics(self) -> dict[str, Tensor]:
        """Return numbers for the training log: R², and the share of the last vectors that the norm clip shortened."""
        values = {"radius_squared": self.curvature().detach()} if self.curved else {}
        return values if self._clipped is None else {**values, "clipped": self._clipped}

    def get_embedding_dimension(self) -> int:
        """Return the number of coordinates of a point, time included."""
        return self.output_dimension + self.curved

    def shorten(self, dimension: int) -> None:
        """Truncate points to the first dimensions, lifted again, for models trained with `losses.matryoshka`.

        Args:
            dimension: At most the projection's. Do this before anything is encoded, and save the model under another
                name: its points lie in another space.

        Raises:
            ConfigError: The projection has fewer dimensions.
        """
        values = {**self.config.model_dump(), "output_dimension": dimension}
        self.config = LorentzConfig.from_mapping(values, source="LorentzHead")

    def get_config_dict(self) -> dict[str, Any]:
        """Return the constructor arguments, as plain JSON values."""
        return {"token_size": self.token_size, **self.config.model_dump(mode="json")}


def _share(clipped: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """Return the share of vectors under the mask that were clipped."""
    if clipped is None or mask is None:
        return None if clipped is None else clipped.float().mean()
    return (clipped & mask).sum() / mask.sum().clamp_min(1)


def _pooler(config: LorentzConfig, size: int) -> LorentzPooler | None:
    if config.point_pooling is None:
        return None
    return LorentzPooler(config.point_pooling, size, **pooling_options(config))


def refuse_truncation(model: nn.Module) -> None:
    """Raise ModelError for a sentence-transformers model that would truncate points, which would leave their space."""
    dimension = getattr(model, "truncate_dim", None)
    if dimension is not None:
        raise ModelError(
            f"truncate_dim={dimension} would cut points off their hyperboloid; load the whole model, and for fewer "
            f"dimensions call `shorten` of its last module, or set model.lorentz.output_dimension"
        )


def side_rows(points: Tensor, radius_squared: Tensor, task: str | None, dimension: int) -> Tensor:
    """Return the output of a hyperbolic route, its `sentence_embedding`.

    Args:
        points: `(N, d + 1)`.
        radius_squared: 0-dim.
        task: `"query"`, `"document"`, or anything else for the logarithmic map.
        dimension: Dimension of the returned points, at most `d`; if lower, points are truncated and lifted again.

    Returns:
        `(N, dimension + 1)` points for documents, with the sign of time reversed for queries; else `(N, dimension)`.
    """
    if dimension < points.shape[-1] - 1:
        points = geometry.lorentz_from_space(points[..., 1 : dimension + 1], radius_squared)
    if task == "query":
        return flip_time(points)
    return points if task == "document" else geometry.lorentz_logmap0(points, radius_squared)


def document_points(rows: Tensor, space: Space, curvature: Curvature) -> Points:
    """Return the points of document rows.

    Args:
        rows: `(N, d + 1)`.
        space: The space, with the present curvature.
        curvature: The same curvature, for its gradient.

    Returns:
        `N` points; differentiable, also in the curvature.
    """
    return VectorPoints(space.canonical(rows / curvature.one))


def query_scorer(rows: Tensor, space: Space, curvature: Curvature, distance: Distance) -> LinearScorer:
    """Return the scorer of query rows.

    Args:
        rows: `(Q, d + 1)`.
        space: The space, with the present curvature.
        curvature: The same curvature, for its gradient.
        distance: How points are compared.

    Returns:
        The scorer of `Q` queries; differentiable, also in the curvature.
    """
    one = curvature.one
    # Distances grow with R, the other two similarities with R². Polar points do not depend on R.
    factor = one if distance == "geodesic" else one.square()
    queries = space.canonical(flip_time(rows) / one)
    return LinearScorer(space, queries, factor=factor if factor.requires_grad else None)


def flip_time(points: Tensor) -> Tensor:
    """Return points with the sign of the time coordinate, the first one, reversed."""
    return torch.cat([-points[..., :1], points[..., 1:]], dim=-1)
