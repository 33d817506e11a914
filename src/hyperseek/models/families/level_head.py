"""Models with levels: several hyperbolic points per text, from the broadest to the narrowest.

The head is the last module of both routes. Its output depends on how it is called, so that ordinary tools can use it:

| called as | `sentence_embedding` | use |
|---|---|---|
| `encode` | `(N, d)`, the tangent of the last level | any tool; with a schedule, its cosines rank as the model does |
| `encode_query`, `encode_document` | `(N, M d)`, the tangents of all levels, broadest first | what `Retriever` reads |
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self, TypeAlias

import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor, nn

from hyperseek._config import LARGEST_SEED, Config, meaningless
from hyperseek.errors import ConfigError, ModelError, shown
from hyperseek.geometry.polar import FARTHEST
from hyperseek.models.families import Family, ModelConfig, encoder_modules, join_routes, transformer_of
from hyperseek.models.modules import SavedModule, route_width
from hyperseek.models.retriever import Retriever
from hyperseek.nn.levels import (
    LevelsStart,
    RadiusHead,
    RefinementName,
    TokenAttentionPooler,
    at_radius,
    build_levels,
    radii_of_levels,
    shortened,
)
from hyperseek.nn.tangent_projection import Curvature, FullPrecision
from hyperseek.scoring import LevelScorer, Points, Space, VectorPoints, level_options
from hyperseek.types import QueryOptions

LevelsPooling: TypeAlias = Literal["trunk", "attention"]

# What a configuration from a stranger may ask for at most.
_WIDEST, _MOST = 1 << 16, 256
_DEEPEST = 1 << 12  # low and high steps of all levels; the original has 24
_MOST_PARAMETERS = 1 << 30  # 4 GiB; at the original's defaults there are eight million
# Options that some choices of others leave without an effect.
_OF_ATTENTION = ("pool_heads", "pool_hidden_mult", "pool_dropout")
_OF_STEPS = ("n_cycles", "t_low", "hrm_hidden_mult")
# Tangents of free norms may be at least so long.
_FREE = 20.0


class LevelsConfig(Config):
    """A head that gives each text a point per level, for both sides.

    Attributes:
        num_segments: Number of levels M.
        s_scales: Norm of the tangent of each level, half its distance from the origin: `M` rising numbers, or a text of
            numbers separated by commas. None means 1 to M.
        refinement: What makes the levels: the original's recurrence `hrm`, or one of two plain baselines: `linear`, a
            linear map per level, or `mlp`, a residual network as deep as the recurrence with about as many parameters.
        d_hrm: Width of the recurrence's states, and numbers of a level if `dimension` is None.
        dimension: Numbers of a level, by a linear map of the recurrence's output; None takes `d_hrm` without a map.
        n_cycles: High steps of each segment.
        t_low: Low steps before each high step.
        hrm_hidden_mult: Hidden width of the recurrence's networks as a multiple of `d_hrm`.
        hrm_grad_window: Low steps at the end of each segment that gradients flow through; 0 for all.
        pooling: `trunk` takes the trunk's own vector, which is cheap to cache; `attention` weights the states of tokens
            by a small network, as the original.
        pool_heads: Heads of that attention.
        pool_hidden_mult: Its hidden width as a multiple of the trunk's.
        pool_dropout: Dropout in its network.
        start: `trunk` starts with the trunk's angles at every level, so that a new model ranks like its trunk (with
            `attention` like the mean of its tokens); `original` starts with random maps, as the original.
        radius: `schedule` places all texts of a level equally far out, as the original; `head` learns where in the band
            around the schedule each text lies, so that general texts can lie inward. `norm` takes the norm that the
            refinement gives, times the schedule's, and is free up to `longest`: for deep hierarchies, whose uppermost
            nodes are near everything. A new model starts at about the schedule with `pooling: trunk` and
            `start: trunk`; with other choices it may start far from it.
        radius_band: Width of the bands: at 1 they touch, above 1 they overlap; below 2.
        hyp_c: Initial c of the ball, minus its curvature.
        trainable_curvature: Whether c is trained, one for all levels.
        hyp_c_min: Lower bound of c.
        hyp_c_max: Upper bound of c.
        seed: Seed of the initial weights; None takes the run's.
    """

    num_segments: int = Field(default=4, ge=1, le=64)
    s_scales: tuple[float, ...] | None = None
    refinement: RefinementName = "hrm"
    d_hrm: int = Field(default=512, ge=1, le=_WIDEST)
    dimension: int | None = Field(default=None, ge=1, le=_WIDEST)
    n_cycles: int = Field(default=2, ge=1, le=_MOST)
    t_low: int = Field(default=2, ge=1, le=_MOST)
    hrm_hidden_mult: int = Field(default=4, ge=1, le=_MOST)
    hrm_grad_window: int = Field(default=0, ge=0)
    pooling: LevelsPooling = "trunk"
    pool_heads: int = Field(default=1, ge=1, le=_MOST)
    pool_hidden_mult: int = Field(default=2, ge=1, le=_MOST)
    pool_dropout: float = Field(default=0.0, ge=0, lt=1)
    start: LevelsStart = "trunk"
    radius: Literal["schedule", "head", "norm"] = "schedule"
    radius_band: float = Field(default=1.0, gt=0, lt=2)
    hyp_c: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    trainable_curvature: bool = False
    hyp_c_min: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    hyp_c_max: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=0, le=LARGEST_SEED)

    @field_validator("s_scales", mode="before")
    @classmethod
    def _resolve_schedule(cls, given: Any, info: ValidationInfo) -> Any:
        if given is not None and not isinstance(given, str | list | tuple):
            raise ValueError("give a list of numbers, or a text of numbers separated by commas")
        levels = info.data.get("num_segments")
        return given if levels is None else radii_of_levels(given, levels)

    @property
    def radii(self) -> tuple[float, ...]:
        """Norm of the tangent of each level."""
        return radii_of_levels(self.s_scales, self.num_segments)

    @property
    def longest(self) -> float:
        """Norm that no tangent exceeds with `radius: norm`."""
        return max(_FREE, 2 * self.radii[-1])

    @property
    def level_dimension(self) -> int:
        """Numbers of a level."""
        return self.dimension or self.d_hrm

    @model_validator(mode="after")
    def _check_effects(self) -> Self:
        unread: list[tuple[str, str]] = []
        if self.pooling != "attention":
            unread += [(name, "with pooling: attention") for name in _OF_ATTENTION]
        if self.refinement == "linear":
            unread += [(name, "with refinement: hrm or mlp") for name in _OF_STEPS]
        if self.refinement != "hrm":
            unread.append(("hrm_grad_window", "with refinement: hrm"))
        if self.radius != "head":
            unread.append(("radius_band", "with radius: head"))
        for name, condition in unread:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise meaningless(name, condition)
        return self

    def parameters(self, size: int) -> int:
        """Return about how many parameters a head with these options has behind a trunk of width `size`."""
        width, dimension = self.d_hrm, self.level_dimension
        if self.refinement == "linear":
            count = self.num_segments * size * dimension
        else:
            count = width * (size + width + dimension + 7 * self.hrm_hidden_mult * width)
        if self.pooling == "attention":
            count += size * (self.pool_hidden_mult * size + self.pool_heads)
        return count + size * size * (self.radius == "head")

    @model_validator(mode="after")
    def _check_numbers(self) -> Self:
        steps = self.num_segments * self.n_cycles * (self.t_low + 1)
        if self.refinement != "linear" and steps > _DEEPEST:
            raise ValueError(
                f"num_segments, n_cycles and t_low make {steps:,} steps for each text; at most {_DEEPEST:,} are allowed"
            )
        if not self.hyp_c_min <= self.hyp_c <= self.hyp_c_max:
            raise ValueError(
                f"hyp_c is {self.hyp_c}, outside of its bounds [{self.hyp_c_min}, {self.hyp_c_max}], hyp_c_min and "
                f"hyp_c_max"
            )
        largest = self.hyp_c_max if self.trainable_curvature else self.hyp_c
        # The band of a radius head reaches beyond the schedule, less than twice as far.
        longest = self.longest if self.radius == "norm" else self.radii[-1] * (2 if self.radius == "head" else 1)
        farthest = 2 * largest**0.5 * longest
        if farthest > FARTHEST:
            raise ValueError(
                f"the last of s_scales, {self.radii[-1]:g}, can put points {farthest:g} curvature radii from the "
                f"origin, and they can be stored up to {FARTHEST:g}"
            )
        return self


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
        ConfigError: An option is invalid, or together they make too large a head.
    """

    __module__ = "hyperseek.models"  # what modules.json calls it
    forward_kwargs = {"task"}  # noqa: RUF012  # as the base class declares it

    def __init__(self, token_size: int, **options: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        config = LevelsConfig.from_mapping(options, source="LevelsHead")
        given: object = token_size
        if isinstance(given, bool) or not isinstance(given, int) or not 1 <= token_size <= _WIDEST:
            raise ConfigError(f"token_size must be a whole number from 1 to {_WIDEST:,}, not {shown(token_size)}")
        if (count := config.parameters(token_size)) > _MOST_PARAMETERS:
            raise ConfigError(
                f"a head of these sizes behind a trunk of {token_size} numbers has about {count:,} parameters, and at "
                f"most {_MOST_PARAMETERS:,} are allowed; lower d_hrm, dimension or a hidden_mult"
            )
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
        # Vectors of norm sqrt(token_size), as `pooling: trunk` gives them, keep about this one in an orthogonal map.
        states = [] if config.refinement == "linear" else [config.d_hrm]
        self._norm = math.sqrt(min(token_size, config.level_dimension, *states))
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
            if self.config.radius == "norm":
                tangents = shortened(raw * (self.schedule / self._norm)[:, None], self.config.longest)
            else:
                tangents = at_radius(raw, self.schedule if self.radius is None else self.radius(vectors))
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
            if self.config.radius != "schedule":
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


class LevelsFamily(Family):
    """Queries and documents have a hyperbolic point per level, from the broadest to the narrowest."""

    config = LevelsConfig
    section = "levels"
    copies_head = True
    modules = (LevelsHead,)

    def check(self, config: ModelConfig) -> None:
        """See `Family.check`."""
        options: LevelsConfig = config.options
        if config.document_trunk is not None:
            raise ValueError("family: levels uses one trunk for queries and documents; leave document_trunk out")
        if options.pooling == "attention" and (config.pooling is not None or config.normalize is not None):
            raise ValueError(
                "levels.pooling: attention reads the states of tokens, so that pooling and normalize have no effect; "
                "leave them out, or take levels.pooling: trunk"
            )

    def build(self, trunk: Retriever, document_trunk: Retriever, config: ModelConfig) -> Retriever:
        """Put a head with levels behind the trunk; see `Family.build`."""
        options: LevelsConfig = config.options
        modules, _ = encoder_modules(trunk, config)
        if options.pooling == "attention":
            size = transformer_of(trunk, "tokens can be pooled").get_embedding_dimension()
        else:
            size = route_width(modules)
        modules = [*modules, LevelsHead(size, **options.model_dump())]
        return join_routes(modules, modules, trunk, "cosine")

    def copy_head(self, source: Retriever, target: Retriever) -> None:
        """Copy a head with levels; see `Family.copy_head`."""
        theirs, ours = source.route("query")[-1], target.route("query")[-1]
        if not isinstance(theirs, LevelsHead) or not isinstance(ours, LevelsHead):
            raise ConfigError("head_from must be a model with levels")
        told, asked = ({**head.get_config_dict(), "seed": None, "start": None} for head in (theirs, ours))
        different = [f"{name} {told[name]} instead of {asked[name]}" for name in told if told[name] != asked[name]]
        if different:
            raise ConfigError(f"the head of head_from has {', '.join(different)}; set these under model.levels")
        ours.load_state_dict(theirs.state_dict())
