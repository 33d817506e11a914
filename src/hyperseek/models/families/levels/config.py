"""The section `levels` of a recipe: options of models with levels, under the original's names where it has them."""

from __future__ import annotations

from typing import Any, Literal, Self, TypeAlias

from pydantic import Field, ValidationInfo, field_validator, model_validator

from hyperseek._config import Config, meaningless
from hyperseek.geometry.polar import FARTHEST
from hyperseek.nn.levels import LevelsStart, RefinementName, radii_of_levels

LevelsPooling: TypeAlias = Literal["trunk", "attention"]

# Options that some choices of others leave without an effect.
_OF_ATTENTION = ("pool_heads", "pool_hidden_mult", "pool_dropout")
_OF_STEPS = ("n_cycles", "t_low", "hrm_hidden_mult")


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
            around the schedule each text lies, so that general texts can lie inward.
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
    d_hrm: int = Field(default=512, ge=1)
    dimension: int | None = Field(default=None, ge=1)
    n_cycles: int = Field(default=2, ge=1)
    t_low: int = Field(default=2, ge=1)
    hrm_hidden_mult: int = Field(default=4, ge=1)
    hrm_grad_window: int = Field(default=0, ge=0)
    pooling: LevelsPooling = "trunk"
    pool_heads: int = Field(default=1, ge=1)
    pool_hidden_mult: int = Field(default=2, ge=1)
    pool_dropout: float = Field(default=0.0, ge=0, lt=1)
    start: LevelsStart = "trunk"
    radius: Literal["schedule", "head"] = "schedule"
    radius_band: float = Field(default=1.0, gt=0, lt=2)
    hyp_c: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    trainable_curvature: bool = False
    hyp_c_min: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    hyp_c_max: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    seed: int | None = Field(default=None, ge=0)

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

    @model_validator(mode="after")
    def _check_numbers(self) -> Self:
        if not self.hyp_c_min <= self.hyp_c <= self.hyp_c_max:
            raise ValueError(
                f"hyp_c is {self.hyp_c}, outside of its bounds [{self.hyp_c_min}, {self.hyp_c_max}], hyp_c_min and "
                f"hyp_c_max"
            )
        largest = self.hyp_c_max if self.trainable_curvature else self.hyp_c
        # The band of a radius head reaches beyond the schedule, less than twice as far.
        farthest = 2 * largest**0.5 * self.radii[-1] * (2 if self.radius == "head" else 1)
        if farthest > FARTHEST:
            raise ValueError(
                f"the last of s_scales, {self.radii[-1]:g}, can put points {farthest:g} curvature radii from the "
                f"origin, and they can be stored up to {FARTHEST:g}"
            )
        return self
