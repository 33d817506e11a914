"""The fully hyperbolic encoder with a classifier of masked tokens: what pre-training trains."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForMaskedLM
from transformers.modeling_outputs import MaskedLMOutput

from hyperseek.models.families.lorentz.encoder import LorentzEncoder, LorentzPreTrainedModel
from hyperseek.models.families.lorentz.encoder_config import LorentzEncoderConfig
from hyperseek.nn.lorentz import LorentzMLR, LorentzPredictionHead

IGNORED = -100
"""The label of tokens that are not to be predicted."""


class LorentzForMaskedLM(LorentzPreTrainedModel):  # type: ignore[no-untyped-call]  # transformers wraps subclasses
    """Predict masked tokens: linear map, activation, norm, and one hyperplane for each token of the vocabulary.

    `LorentzEncoder.from_pretrained` reads what this one saves, and complains of every tensor that is missing.

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
            labels: `(B, S)` what the tokens were before they were masked; -100 where that does not matter.
            token_type_ids: See `LorentzEncoder.forward`.
            position_ids: See there.
            num_items_in_batch: What the summed loss is divided by, as for a batch that comes in parts; None takes the
                number of labelled tokens, at least 1.
            output_hidden_states: See `LorentzEncoder.forward`.
            return_dict: See there.

        Returns:
            `loss`, 0-dim float32, where labels are given; `logits` `(B, S, vocab_size)` float32, or with
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
        labels: `(...)`; -100 where a token has none.
        count: What the sum is divided by; None takes the number of labelled tokens, at least 1.

    Returns:
        0-dim, float32; 0 where no token has a label.
    """
    total = F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    return total / ((labels != IGNORED).sum().clamp_min(1) if count is None else count)


AutoModelForMaskedLM.register(LorentzEncoderConfig, LorentzForMaskedLM, exist_ok=True)
