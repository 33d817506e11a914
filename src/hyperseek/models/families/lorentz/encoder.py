"""LorentzEncoder, a transformer whose states are all points of the hyperboloid (HyTE-FH), and its pre-training."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput
from transformers.utils.generic import ModelOutput

from hyperseek.errors import InputError, ModelError
from hyperseek.models.families.lorentz.config import LorentzEncoderConfig, pooling_options
from hyperseek.nn.lorentz import (
    LorentzBlock,
    LorentzEmbeddings,
    LorentzLinear,
    LorentzMLR,
    LorentzPooler,
    LorentzPredictionHead,
    LorentzRadiusFactor,
    Rotary,
    make_norm,
    rotary_table,
)
from hyperseek.nn.tangent_projection import Curvature

logger = logging.getLogger(__name__)

_POOLER = "pooler."


class LorentzPreTrainedModel(PreTrainedModel):  # type: ignore[no-untyped-call]  # transformers wraps subclasses
    """Base of `LorentzEncoder` and `LorentzForMaskedLM`."""

    config_class = LorentzEncoderConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LorentzBlock"]  # noqa: RUF012  # as the base class declares it
    # A curvature rounded to half precision would be a different space.
    _keep_in_fp32_modules_strict = {"curvature"}  # noqa: RUF012

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, LorentzMLR):
            module.reset_parameters()
        elif isinstance(module, LorentzRadiusFactor):
            # Children come first: the linear map in it has just been drawn.
            nn.init.zeros_(module.linear.weight)
            nn.init.zeros_(module.linear.bias)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, output_loading_info: bool = False, **kwargs: Any
    ) -> Any:
        """Load a model; a checkpoint with missing or unexpected weights is an error.

        Args:
            pretrained_model_name_or_path: As for every model of transformers, like all that follow.
            *args: See there.
            output_loading_info: See there.
            **kwargs: See there.

        Returns:
            The model. An encoder also loads from a masked-token model; missing pooling weights are newly initialised.

        Raises:
            ModelError: The checkpoint has missing or unexpected tensors.
        """
        try:
            loaded: Any = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
        except RuntimeError as error:
            raise ModelError(f"{pretrained_model_name_or_path} does not fit its config.json: {error}") from error
        model, info = loaded
        missing = sorted(info["missing_keys"])
        fresh = [name for name in missing if name.startswith(_POOLER)]
        if fresh:
            logger.info("%s has no weights for the pooling, which is newly initialised", pretrained_model_name_or_path)
        faults = {
            "lacks": [name for name in missing if name not in fresh],
            "has unexpected tensors:": sorted(info["unexpected_keys"]),
        }
        for what, names in faults.items():
            if names:
                raise ModelError(
                    f"{pretrained_model_name_or_path} {what} {', '.join(names[:5])}"
                    f"{f' and {len(names) - 5} more' if len(names) > 5 else ''}; is it a checkpoint of {cls.__name__}?"
                )
        return (model, info) if output_loading_info else model


@dataclass
class LorentzEncoderOutput(ModelOutput):
    """The output of `LorentzEncoder`.

    Attributes:
        last_hidden_state: `(B, S, d)` points of the tokens, time first.
        pooler_output: `(B, d)` pooled points if the configuration names a pooling.
        hidden_states: The points before and after each block, if asked for.
        radius_squared: R² of the hyperboloid they all lie on, 0-dim; differentiable if it is trained.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    radius_squared: Tensor | None = None


class LorentzEncoder(LorentzPreTrainedModel):  # type: ignore[no-untyped-call]  # transformers wraps subclasses
    """Fully hyperbolic encoder of "HypRAG" (arXiv 2602.07739): HyTE-FH.

    Token embeddings are lifted onto the hyperboloid, and all states stay on it. Padding is masked in attention and in
    pooling, so a text's point does not depend on its batch.

    Args:
        config: The configuration.
        add_pooling_layer: Whether to include the pooling that the configuration names.
    """

    # The head of a masked-token model.
    _keys_to_ignore_on_load_unexpected = [r"^head\.", r"^decoder\."]  # noqa: RUF012

    def __init__(self, config: LorentzEncoderConfig, add_pooling_layer: bool = True) -> None:
        config.check()
        super().__init__(config)
        size = config.hidden_size
        self.curvature = Curvature(
            config.curvature_init,
            trainable=config.trainable_curvature,
            least=config.curvature_min,
            most=config.curvature_max,
        )
        self.embeddings = LorentzEmbeddings(
            size,
            config.vocab_size,
            padding=config.pad_token_id,
            positions=0 if config.use_rotary_embeddings else config.max_position_embeddings,
            types=config.type_vocab_size,
        )
        self.layers = nn.ModuleList(
            LorentzBlock(
                size,
                config.num_attention_heads,
                inner_size=config.intermediate_size,
                norm=config.norm_layer,
                attention_bias=config.attention_bias,
                attention_scores=config.attention_scores,
                query_key_norm=config.query_key_norm,
                residual_scale=config.residual_scale,
            )
            for _ in range(1 if config.share_layers else config.num_hidden_layers)
        )
        self.final_proj = LorentzLinear(size, size)
        self.final_norm = make_norm(config.norm_layer, size)
        self.radius_factor = LorentzRadiusFactor(size) if config.radius_factor else None
        self.pooler = make_pooler(config) if add_pooling_layer and config.pooling else None
        if self.pooler is None:
            # Without a pooling, a checkpoint's weights for one are not needed.
            self._keys_to_ignore_on_load_unexpected = [*self._keys_to_ignore_on_load_unexpected, r"^pooler\."]
        self.gradient_checkpointing = False
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """Return the embeddings of tokens, space part only."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embeddings, each of size `hidden_size - 1`."""
        self.embeddings.word_embeddings = cast("nn.Embedding", value)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> LorentzEncoderOutput:
        """Encode.

        Args:
            input_ids: `(B, S)`.
            attention_mask: `(B, S)`, 0 marks padding; or `(B, S, S)`, 0 where the row's token must not attend, as for
                packed texts. None masks nothing.
            token_type_ids: `(B, S)`; ignored if the encoder has no types.
            position_ids: `(B, S)`; None counts the tokens that are not padding.
            output_hidden_states: Whether to return the points between blocks as well.
            return_dict: Accepted and ignored: the result is always a `LorentzEncoderOutput`.

        Returns:
            The points.

        Raises:
            InputError: A text is longer than the number of positions with embeddings.
        """
        radius_squared = self.curvature()
        positions = _positions(input_ids, attention_mask) if position_ids is None else position_ids
        limit = self.config.max_position_embeddings
        if self.embeddings.position_embeddings is not None and input_ids.shape[1] > limit:
            raise InputError(f"texts of {input_ids.shape[1]} tokens; this encoder has positions for {limit}: truncate")
        points = self.embeddings(input_ids, positions, token_type_ids, radius_squared)
        mask, rotary = _attention_mask(attention_mask), self._rotary(positions)
        states = [points]
        for number in range(self.config.num_hidden_layers):
            layer = self.layers[number % len(self.layers)]
            if self.gradient_checkpointing and self.training:
                points = self._gradient_checkpointing_func(layer.__call__, points, radius_squared, mask, rotary)
            else:
                points = layer(points, radius_squared, mask, rotary)
            states.append(points)
        points = self.final_norm(self.final_proj(points, radius_squared), radius_squared)
        if self.radius_factor is not None:
            points = self.radius_factor(points, radius_squared)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return LorentzEncoderOutput(
            last_hidden_state=points,
            pooler_output=None if self.pooler is None else self._pool(points, attention_mask, radius_squared),
            hidden_states=tuple(states) if wanted else None,
            radius_squared=radius_squared,
        )

    def _pool(self, points: Tensor, attention_mask: Tensor | None, radius_squared: Tensor) -> Tensor:
        if attention_mask is not None and attention_mask.ndim == 3:
            raise InputError("packed texts cannot be pooled to one point; give an attention mask (B, S), or no pooling")
        pooled: Tensor = self.pooler(points, attention_mask, radius_squared)  # type: ignore[misc]  # there is one
        return pooled

    def _rotary(self, positions: Tensor) -> Rotary | None:
        if not self.config.use_rotary_embeddings:
            return None
        channels = self.config.hidden_size // self.config.num_attention_heads - 1
        return rotary_table(positions, channels, base=self.config.rope_theta, style=self.config.rotary_style)


def make_pooler(config: LorentzEncoderConfig) -> LorentzPooler:
    """Return a new pooling as the configuration describes it; InputError if it names none."""
    if config.pooling is None:
        raise InputError("the configuration names no pooling")
    return LorentzPooler(config.pooling, config.hidden_size, **pooling_options(config))


def _positions(input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Count the tokens that are not padding, so that padding on the left changes nothing."""
    if attention_mask is None or attention_mask.ndim == 3:
        return torch.arange(input_ids.shape[1], device=input_ids.device)[None]
    return (attention_mask.long().cumsum(dim=1) - 1).clamp_min(0)


def _attention_mask(attention_mask: Tensor | None) -> Tensor | None:
    """Return the mask of attention `(B, 1, 1 or S, S)`; a fully masked row would give NaN, so it allows all."""
    if attention_mask is None:
        return None
    allowed = attention_mask != 0
    allowed = allowed | ~allowed.any(dim=-1, keepdim=True)
    return allowed[:, None] if allowed.ndim == 3 else allowed[:, None, None]


IGNORED = -100
"""The label of tokens that are not predicted."""


class LorentzForMaskedLM(LorentzPreTrainedModel):  # type: ignore[no-untyped-call]  # transformers wraps subclasses
    """Predict masked tokens: linear map, activation, norm, and one hyperplane per token of the vocabulary.

    `LorentzEncoder.from_pretrained` reads what this model saves.

    Args:
        config: The configuration.
    """

    accepts_loss_kwargs = True
    _tied_weights_keys = {"decoder.z": "model.embeddings.word_embeddings.weight"}  # noqa: RUF012

    def __init__(self, config: LorentzEncoderConfig) -> None:
        super().__init__(config)
        self.model = LorentzEncoder(config, add_pooling_layer=False)
        self.head = LorentzPredictionHead(
            config.hidden_size,
            activation=config.classifier_activation,
            norm=config.norm_layer,
            bias=config.classifier_bias,
        )
        self.decoder = LorentzMLR(config.hidden_size, config.vocab_size)
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> MaskedLMOutput:
        """Classify tokens.

        Args:
            input_ids: `(B, S)`.
            attention_mask: `(B, S)` or `(B, S, S)`; see `LorentzEncoder.forward`.
            labels: `(B, S)` the original tokens; -100 for tokens that are not predicted.
            token_type_ids: See `LorentzEncoder.forward`.
            position_ids: See there.
            num_items_in_batch: Divisor of the summed loss, for a batch that comes in parts; None takes the number of
                labelled tokens, at least 1.
            output_hidden_states: See `LorentzEncoder.forward`.
            return_dict: See there.

        Returns:
            `loss`, 0-dim float32, if labels are given; `logits` `(B, S, vocab_size)` float32, or with
            `sparse_prediction` and labels `(labelled tokens, vocab_size)`; `hidden_states`.
        """
        encoded = self.model(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            output_hidden_states=output_hidden_states,
        )
        points, radius_squared = encoded.last_hidden_state, encoded.radius_squared
        if labels is not None and self.config.sparse_prediction:
            labelled = labels != IGNORED
            points, labels = points[labelled], labels[labelled]
        logits = self.decoder(self.head(points, radius_squared), radius_squared)
        loss = None if labels is None else masked_token_loss(logits, labels, num_items_in_batch)
        return MaskedLMOutput(loss=loss, logits=logits, hidden_states=encoded.hidden_states)


def masked_token_loss(logits: Tensor, labels: Tensor, count: Tensor | int | None = None) -> Tensor:
    """Return the cross-entropy of labelled tokens.

    Args:
        logits: `(..., vocab_size)`.
        labels: `(...)`; -100 for a token without one.
        count: Divisor of the sum; None takes the number of labelled tokens, at least 1.

    Returns:
        0-dim, float32; 0 if no token has a label.
    """
    total = F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / ((labels != IGNORED).sum().clamp_min(1) if count is None else count)


AutoConfig.register(LorentzEncoderConfig.model_type, LorentzEncoderConfig, exist_ok=True)
AutoModel.register(LorentzEncoderConfig, LorentzEncoder, exist_ok=True)
AutoModelForMaskedLM.register(LorentzEncoderConfig, LorentzForMaskedLM, exist_ok=True)
