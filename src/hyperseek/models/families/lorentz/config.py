"""The section `lorentz` of a recipe: options of hyperbolic encoders."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, cast

from pydantic import Field, model_validator

from hyperseek._config import LARGEST_SEED, Config
from hyperseek.nn.lorentz import PoolingName
from hyperseek.nn.tangent_projection import Projection, Radius, Start

if TYPE_CHECKING:
    from hyperseek.models.families.lorentz.encoder_config import LorentzEncoderConfig

Distance: TypeAlias = Literal["geodesic", "squared_lorentz", "lorentz_inner", "dot", "cosine", "euclidean"]
SIMILARITIES: dict[str, str] = {"geodesic": "geodesic", "squared_lorentz": "squared", "lorentz_inner": "inner"}
"""Distances of lifted points, and their names in a space."""

Pooling: TypeAlias = Literal[
    "euc_cls", "euc_mean", "hyp_cls", "hyp_mean", "hyp_outward_einstein_midpoint", "hyp_attentive_mean"
]
_ORIGINAL_NAMES = {
    "curvature_init": "radius_squared",
    "curvature_min": "radius_squared_min",
    "curvature_max": "radius_squared_max",
    "delayer_norm": "de_layer_norm",
    "hidden_size": "dimension, which does not count the time",
    "norm_clip_factor": "norm_clip",
    "norm_scaler": "norm_scale",
    "trainable_norm_scaler": "trainable_norm_scale",
    "num_hyperbolic_blocks": "blocks",
}
_LONGEST = 40.0  # in units of the curvature radius; the exponential map overflows float32 beyond


class LorentzConfig(Config):
    """The lift and the pooling of a hybrid encoder (HyTE-H of "HypRAG", arXiv 2602.07739), for both sides.

    Attributes:
        dimension: Dimension of the space; None takes the trunk's width.
        output_dimension: Return only the first `output_dimension` dimensions, lifted again; for models trained with
            `losses.matryoshka`. None returns all.
        distance: How points are compared: `geodesic`, `squared_lorentz` or `lorentz_inner`. All three rank alike
            but train differently. `dot`, `cosine` and `euclidean` skip the lift: a flat twin of the same size.
            (The original's `euclidean` is `dot`.)
        radius_squared: Initial R² of the hyperboloid; the original's `curvature_init`.
        trainable_curvature: Whether R² is trained.
        radius_squared_min: Lower bound of R².
        radius_squared_max: Upper bound of R².
        projection: `linear`, or `mlp`: three layers.
        start: `orthogonal` preserves the trunk's angles, so that a new model on normalised vectors ranks like the trunk
            (nearly so in fewer dimensions); `normal` draws with standard deviation 0.02.
        norm_scale: Factor of projected vectors; None takes 1 / sqrt(dimension + 1), which suits layer-normalised
            vectors. Vectors of norm 1 need about 1.
        trainable_norm_scale: Whether the factor is trained.
        norm_clip: Largest distance from the origin.
        de_layer_norm: Whether states first get individual norms again.
        radius: `projection` takes the norm of the projected vector as the distance from the origin; `head` predicts it
            from the state, so that `norm_scale` has no effect.
        radius_start: Initial prediction of a radius head.
        pooling: `euc_cls` and `euc_mean` pool the trunk's states before the lift. `hyp_cls`, `hyp_mean`,
            `hyp_outward_einstein_midpoint` and `hyp_attentive_mean` lift tokens and pool their points; see
            `hyperseek.nn.lorentz.LorentzPooler`. None pools before the lift, like the trunk.
        pooling_power: Exponent of the outward midpoint: 0 for the plain Einstein midpoint; the paper's is one less.
        pooling_saturation: Saturation of the outward midpoint, at least 0.
        pooling_keep_radius: Whether the outward midpoint keeps its tokens' mean distance from the origin.
        blocks: Hyperbolic transformer layers between a lift of tokens and the pooling.
        block_heads: Attention heads of the blocks, a divisor of `dimension` + 1.
        block_norm: `layer_norm`, `rms_norm` or `dyt_norm`. The first two leave all tokens about equally far out.
        seed: Seed of the initial weights.
    """

    dimension: int | None = Field(default=None, ge=1)
    output_dimension: int | None = Field(default=None, ge=1)
    distance: Distance = "geodesic"
    radius_squared: float = Field(default=1.0, gt=0)
    trainable_curvature: bool = False
    radius_squared_min: float = Field(default=0.1, gt=0)
    radius_squared_max: float = Field(default=10.0, gt=0)
    projection: Projection = "linear"
    start: Start = "orthogonal"
    norm_scale: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    trainable_norm_scale: bool = False
    norm_clip: float = Field(default=10.0, gt=0)
    de_layer_norm: bool = False
    radius: Radius = "projection"
    radius_start: float = Field(default=1.0, gt=0)
    pooling: Pooling | None = None
    pooling_power: float = Field(default=1.0, allow_inf_nan=False)
    pooling_saturation: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    pooling_keep_radius: bool = False
    blocks: int = Field(default=0, ge=0)
    block_heads: int = Field(default=12, ge=1)
    block_norm: Literal["layer_norm", "rms_norm", "dyt_norm"] = "rms_norm"
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)

    @model_validator(mode="before")
    @classmethod
    def _name_the_originals_fields(cls, values: Any) -> Any:
        found = [name for name in _ORIGINAL_NAMES if isinstance(values, Mapping) and name in values]
        if found:
            raise ValueError(
                "; ".join(f"the original's {name} is called {_ORIGINAL_NAMES[name]} here" for name in found)
            )
        return values

    @property
    def curved(self) -> bool:
        """Whether vectors are lifted."""
        return self.distance in SIMILARITIES

    @property
    def point_pooling(self) -> PoolingName | None:
        """The pooling of token points; None if the lift comes after the pooling."""
        if self.pooling is None or not self.pooling.startswith("hyp_"):
            return None
        return cast("PoolingName", self.pooling.removeprefix("hyp_"))

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        if self.output_dimension is not None and self.dimension is not None and self.output_dimension > self.dimension:
            raise ValueError(f"output_dimension {self.output_dimension} is above dimension {self.dimension}")
        if self.point_pooling is not None and not self.curved:
            raise ValueError(
                f"pooling {self.pooling} needs points; distance {self.distance} does not lift: use euc_mean or euc_cls"
            )
        outward = (self.pooling_power, self.pooling_saturation, self.pooling_keep_radius)
        if outward != (1.0, 0.0, False) and self.point_pooling != "outward_einstein_midpoint":
            raise ValueError(
                "pooling_power, pooling_saturation and pooling_keep_radius belong to pooling "
                f"hyp_outward_einstein_midpoint, not to {self.pooling}"
            )
        if self.blocks and self.point_pooling is None:
            raise ValueError("hyperbolic blocks come between lifted tokens and their pooling; use a hyp_ pooling")
        return self

    @model_validator(mode="after")
    def _check_numbers(self) -> Self:
        if not self.radius_squared_min <= self.radius_squared <= self.radius_squared_max:
            raise ValueError(
                f"radius_squared is {self.radius_squared}, outside of its bounds "
                f"[{self.radius_squared_min}, {self.radius_squared_max}]"
            )
        if self.norm_clip / math.sqrt(self.radius_squared_min) > _LONGEST:
            raise ValueError(
                f"norm_clip {self.norm_clip} is more than {_LONGEST:g} times the root of radius_squared_min "
                f"{self.radius_squared_min}: coordinates would overflow float32"
            )
        if self.radius_start > self.norm_clip:
            raise ValueError(f"radius_start {self.radius_start} is above norm_clip {self.norm_clip}")
        return self


def pooling_options(config: LorentzConfig | LorentzEncoderConfig) -> dict[str, Any]:
    """Return the options of a configuration that are common to all poolings of points."""
    return {
        "power": config.pooling_power,
        "saturation": config.pooling_saturation,
        "keep_radius": config.pooling_keep_radius,
    }
