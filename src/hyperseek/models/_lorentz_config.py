"""What a recipe says of a hybrid hyperbolic encoder."""

from __future__ import annotations

import math
from typing import Literal, Self, TypeAlias

from pydantic import Field, model_validator

from hyperseek._config import Config
from hyperseek.nn._tangent_projection import Projection, Radius, Start
from hyperseek.scoring._space import Similarity

Distance: TypeAlias = Literal["geodesic", "squared_lorentz", "lorentz_inner", "dot", "cosine", "euclidean"]
SIMILARITIES: dict[str, Similarity] = {"geodesic": "geodesic", "squared_lorentz": "squared", "lorentz_inner": "inner"}
"""Distances of lifted points, and what a space calls them."""

_LONGEST = 80.0  # in units of the curvature radius; the exponential map leaves float32 at 88


class LorentzConfig(Config):
    """The lift of a hybrid encoder (HyTE-H of "HypRAG", arXiv 2602.07739), shared by queries and documents.

    Attributes:
        dimension: Of the space; None takes the trunk's width.
        distance: What points are compared by: `geodesic`, `squared_lorentz` or `lorentz_inner`. All three rank alike
            and train differently. `dot`, `cosine` and `euclidean` leave the lift out: a flat twin of as many
            parameters. (What the original calls `euclidean` is `dot`.)
        radius_squared: R² of the hyperboloid, where it starts; the original's `curvature_init`.
        trainable_curvature: Whether R² is trained.
        radius_squared_min: Lower bound of R².
        radius_squared_max: Upper bound of R².
        projection: `linear`, or `mlp`: three layers.
        start: `orthogonal` keeps the trunk's angles, so that a new model on normalised vectors ranks as the trunk does
            (nearly so in fewer dimensions); `normal` draws with deviation 0.02.
        norm_scale: Factor of projected vectors; None takes 1 / sqrt(dimension), made for vectors as long as a layer
            norm leaves them. Vectors of norm 1 want about 1.
        trainable_norm_scale: Whether the factor is trained.
        norm_clip: Largest distance from the origin.
        de_layer_norm: Whether states first get a length of their own again.
        radius: `projection` takes the norm of the projected vector as the distance from the origin; `head` predicts it
            from the state.
        radius_start: What a new radius head predicts.
        seed: Of the start.
    """

    dimension: int | None = Field(default=None, ge=1)
    distance: Distance = "geodesic"
    radius_squared: float = Field(default=1.0, gt=0)
    trainable_curvature: bool = False
    radius_squared_min: float = Field(default=0.1, gt=0)
    radius_squared_max: float = Field(default=10.0, gt=0)
    projection: Projection = "linear"
    start: Start = "orthogonal"
    norm_scale: float | None = Field(default=None, gt=0)
    trainable_norm_scale: bool = False
    norm_clip: float = Field(default=10.0, gt=0)
    de_layer_norm: bool = False
    radius: Radius = "projection"
    radius_start: float = Field(default=1.0, gt=0)
    seed: int = Field(default=0, ge=0)

    @property
    def curved(self) -> bool:
        """Whether vectors are lifted."""
        return self.distance in SIMILARITIES

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
                f"{self.radius_squared_min}: coordinates would leave float32"
            )
        if self.radius_start > self.norm_clip:
            raise ValueError(f"radius_start {self.radius_start} lies beyond norm_clip {self.norm_clip}")
        return self
