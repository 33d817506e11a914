"""The configuration of a fully hyperbolic encoder, which transformers saves with the weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Self

from transformers import PretrainedConfig

from hyperseek.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hyperseek.nn.lorentz import AttentionScores, PoolingName, RotaryStyle


class LorentzEncoderConfig(PretrainedConfig):  # type: ignore[no-untyped-call]  # transformers wraps subclasses
    """Configuration of `LorentzEncoder`; names follow the original's `ALBertConfig` where possible.

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
