"""Options of hyperbolic encoders: the section `lorentz` of a recipe, and the configuration of fully hyperbolic ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, cast

from pydantic import Field, model_validator
from transformers import PretrainedConfig

from hyperseek._config import LARGEST_SEED, Config
from hyperseek.errors import InputError
from hyperseek.nn.lorentz import PoolingName
from hyperseek.nn.tangent_projection import Projection, Radius, Start

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hyperseek.nn.lorentz import AttentionScores, RotaryStyle

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


class LorentzEncoderConfig(PretrainedConfig):  # type: ignore[no-untyped-call]  # transformers wraps subclasses
    """Configuration of `LorentzEncoder`, which transformers saves with the weights.

    Names follow the original's `ALBertConfig` where possible.

    Args:
        vocab_size: Number of tokens; `for_tokenizer` takes it from a tokenizer.
        hidden_size: Coordinates of a point, time included.
        num_hidden_layers: Number of blocks.
        num_attention_heads: Heads; `hidden_size` is a multiple of them.
        intermediate_size: Coordinates in the feed-forward layers; None takes 4 `hidden_size`.
        share_layers: Whether all blocks share their weights, as in ALBERT: fewer parameters, at equal cost.
        max_position_embeddings: Maximum number of tokens of a text.
        type_vocab_size: Token types; 0 for none.
        pad_token_id: The token of the padding.
        curvature_init: Initial R² of the hyperboloid <x, x> = -R². (Not the curvature, which is -1 / R².)
        curvature_min: Lower bound of R².
        curvature_max: Upper bound of R².
        trainable_curvature: Whether R² is trained. The whole encoder has one.
        use_rotary_embeddings: Whether positions rotate queries and keys; otherwise they have embeddings.
        rope_theta: Base of the rotations' frequencies.
        rotary_style: `"standard"`, or `"original"` for checkpoints of the original; see `hyperseek.nn.lorentz`.
        attention_scores: `"lorentz_inner"`, or `"distance"`; see `hyperseek.nn.lorentz.LorentzAttention`.
        attention_bias: Whether queries, keys and values have a bias.
        query_key_norm: Whether queries and keys are scaled to the same distance from the origin.
        norm_layer: `"layer_norm"`, `"rms_norm"` or `"dyt_norm"`.
        residual_scale: Factor of the space part after a residual; None takes the original's 4 sqrt(`hidden_size`).
        radius_factor: Whether each token gets its own distance from the origin at the end; see
            `hyperseek.nn.lorentz.LorentzRadiusFactor`.
        pooling: `"cls"`, `"mean"`, `"outward_einstein_midpoint"`, `"attentive_mean"`, or None for no pooled point.
        pooling_power: Exponent of the outward Einstein midpoint; see `hyperseek.nn.lorentz.LorentzPooler`.
        pooling_saturation: See `hyperseek.nn.lorentz.LorentzPooler`.
        pooling_keep_radius: See `hyperseek.nn.lorentz.LorentzPooler`.
        classifier_activation: Activation of the masked-token head: `"gelu"`, `"relu"`, `"silu"` or `"tanh"`.
        classifier_bias: Whether the linear map of that head has a bias.
        sparse_prediction: Whether to classify only labelled tokens if labels are given, which saves most of the head's
            work; its logits are then `(labelled tokens, vocab_size)`.
        tie_word_embeddings: Whether the classes' normals are the word embeddings.
        initializer_range: Standard deviation of new weights.
        **kwargs: Arguments of every configuration in transformers.
    """

    model_type = "hyte_fh"

    def __init__(
        self,
        vocab_size: int = 30522,
        hidden_size: int = 768,
        num_hidden_layers: int = 12,
        num_attention_heads: int = 12,
        intermediate_size: int | None = None,
        share_layers: bool = False,
        max_position_embeddings: int = 2048,
        type_vocab_size: int = 0,
        pad_token_id: int | None = 0,
        curvature_init: float = 1.0,
        curvature_min: float = 0.1,
        curvature_max: float = 10.0,
        trainable_curvature: bool = False,
        use_rotary_embeddings: bool = True,
        rope_theta: float = 10000.0,
        rotary_style: RotaryStyle = "standard",
        attention_scores: AttentionScores = "lorentz_inner",
        attention_bias: bool = True,
        query_key_norm: bool = False,
        norm_layer: str = "layer_norm",
        residual_scale: float | None = None,
        radius_factor: bool = False,
        pooling: PoolingName | None = "cls",
        pooling_power: float = 1.0,
        pooling_saturation: float = 0.0,
        pooling_keep_radius: bool = False,
        classifier_activation: str = "gelu",
        classifier_bias: bool = True,
        sparse_prediction: bool = False,
        tie_word_embeddings: bool = False,
        initializer_range: float = 0.02,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.intermediate_size = intermediate_size
        self.share_layers = share_layers
        self.max_position_embeddings = max_position_embeddings
        self.type_vocab_size = type_vocab_size
        self.curvature_init = curvature_init
        self.curvature_min = curvature_min
        self.curvature_max = curvature_max
        self.trainable_curvature = trainable_curvature
        self.use_rotary_embeddings = use_rotary_embeddings
        self.rope_theta = rope_theta
        self.rotary_style = rotary_style
        self.attention_scores = attention_scores
        self.attention_bias = attention_bias
        self.query_key_norm = query_key_norm
        self.norm_layer = norm_layer
        self.residual_scale = residual_scale
        self.radius_factor = radius_factor
        self.pooling = pooling
        self.pooling_power = pooling_power
        self.pooling_saturation = pooling_saturation
        self.pooling_keep_radius = pooling_keep_radius
        self.classifier_activation = classifier_activation
        self.classifier_bias = classifier_bias
        self.sparse_prediction = sparse_prediction
        self.initializer_range = initializer_range
        super().__init__(**{"pad_token_id": pad_token_id, "tie_word_embeddings": tie_word_embeddings, **kwargs})

    def check(self) -> None:
        """Raise InputError if a number is out of range; models call this before they are built."""
        padding = 0 if self.pad_token_id is None else self.pad_token_id
        inner = 2 if self.intermediate_size is None else self.intermediate_size
        rules = {
            "vocab_size": (self.vocab_size >= 1, "at least 1"),
            "hidden_size": (self.hidden_size >= 2, "at least 2, time included"),
            "num_hidden_layers": (self.num_hidden_layers >= 1, "at least 1"),
            "num_attention_heads": (self.num_attention_heads >= 1, "at least 1"),
            "intermediate_size": (inner >= 2, "at least 2, time included, or null"),
            "max_position_embeddings": (self.max_position_embeddings >= 1, "at least 1"),
            "type_vocab_size": (self.type_vocab_size >= 0, "at least 0"),
            "pad_token_id": (0 <= padding < self.vocab_size, f"null or below vocab_size {self.vocab_size}"),
            "rope_theta": (0 < self.rope_theta < math.inf, "positive and finite"),
            "residual_scale": (self.residual_scale is None or 0 < self.residual_scale < math.inf, "positive or null"),
            "initializer_range": (0 <= self.initializer_range < math.inf, "at least 0 and finite"),
        }
        for name, (right, allowed) in rules.items():
            if not right:
                raise InputError(f"{name} must be {allowed}, not {getattr(self, name)}")

    @classmethod
    def for_tokenizer(cls, tokenizer: PreTrainedTokenizerBase, **options: Any) -> Self:
        """Create a configuration for a tokenizer's vocabulary and padding.

        Args:
            tokenizer: Any tokenizer of transformers.
            **options: All other options.

        Returns:
            The configuration.

        Raises:
            InputError: The tokenizer has no padding token.
        """
        if tokenizer.pad_token_id is None:
            raise InputError("the tokenizer has no padding token; set tokenizer.pad_token")
        # Some vocabularies have gaps, so their largest id exceeds their number of tokens.
        size = max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1)
        return cls(**{"vocab_size": size, "pad_token_id": int(tokenizer.pad_token_id), **options})
