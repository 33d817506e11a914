"""The masked language model, and the encoder extracted from it."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any, cast

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

from hyperseek.errors import ConfigError, ModelError, UnknownNameError, suggestion
from hyperseek.models import Retriever, load
from hyperseek.models.loading import loading, resolve_name
from hyperseek.models.model_files import ModelFiles
from hyperseek.models.modules import move_saved
from hyperseek.pretraining._recipe import EncoderConfig

MASKED_LM = "mlm"
"""Folder of the full model, inside that of the encoder; further pre-training starts from it."""

logger = logging.getLogger(__name__)


def build_masked_lm(config: EncoderConfig, tokenizer: PreTrainedTokenizerBase, *, length: int) -> PreTrainedModel:
    """Build the model that a recipe describes; new weights are drawn from torch's current seed.

    Args:
        config: The recipe's model section.
        tokenizer: The model's tokenizer.
        length: Tokens of a sequence.

    Returns:
        The model, in float32, in training mode.

    Raises:
        ConfigError: A field of the configuration is unknown or does not fit the tokenizer or the length.
        ModelError: The model to start from cannot be loaded, or lacks tensors of its encoder.
        UnknownNameError: There is no such architecture.
    """
    model = _new(config, tokenizer, length) if config.start is None else _started(config.start)
    size = len(cast(Tensor, model.get_input_embeddings().weight))
    largest = _vocabulary_size(tokenizer)
    if largest > size:
        raise ConfigError(
            f"the tokenizer has ids up to {largest - 1}, but the model has {size} tokens: "
            f"the tokenizer is another model's; leave model.tokenizer out to take the model's own"
        )
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and positions < length:
        raise ConfigError(
            f"data.sequence_length is {length}, but the model has positions for {positions} tokens; "
            f"lower it or, for a new model, raise model.config.max_position_embeddings"
        )
    nn.Module.float(model).train()  # the class's own `float` refuses quantised models, and is not typed
    return model


def save_encoder(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    *,
    length: int,
    config: EncoderConfig,
    state: dict[str, Any] | None = None,
) -> Retriever:
    """Write the full model and its encoder, and check that the encoder loads as it was trained.

    Args:
        model: The full model.
        tokenizer: Its tokenizer.
        folder: Folder of the encoder, in the usual form of models; the full model goes into `mlm` inside.
        length: Most tokens of a text for the encoder.
        config: Sets the pooling.
        state: The weights; None takes the model's own.

    Returns:
        The encoder.

    Raises:
        ModelError: A tensor of the trained encoder is missing from the saved one.
    """
    weights = {name: tensor.float().cpu() for name, tensor in (state or model.state_dict()).items()}
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as temporary:
        model.save_pretrained(temporary, state_dict=dict(weights))  # it empties the dict it is given
        tokenizer.save_pretrained(temporary)
        move_saved(Path(temporary), folder / MASKED_LM)
    # Loaded as users would load it: the loaded weights are checked, not the written ones.
    encoder = load(folder / MASKED_LM, device="cpu")
    transformer, *rest = encoder.route("document")
    assert isinstance(transformer, Transformer)  # the module of transformers models
    _check_arrived(model, weights, transformer)
    transformer.max_seq_length = length
    if len(rest) == 1 and isinstance(rest[0], Pooling):
        pooling = Pooling(transformer.get_embedding_dimension(), config.pooling)
        encoder = Retriever(SentenceTransformer(modules=[transformer, pooling], device="cpu"), source=str(folder))
    encoder.save(folder)
    return encoder


def _new(config: EncoderConfig, tokenizer: PreTrainedTokenizerBase, length: int) -> PreTrainedModel:
    known = {kind.model_type: kind for kind in MODEL_FOR_MASKED_LM_MAPPING}
    architecture = str(config.architecture)
    if architecture not in known:
        raise UnknownNameError("architecture", architecture, known)
    blank = known[architecture]().to_dict()
    for name in config.config:
        if name not in blank:
            raise ConfigError(f"model.config.{name}: {architecture} has no such field{suggestion(name, blank)}")
    values = dict(config.config)
    if blank.get("max_position_embeddings", length) < length:
        values.setdefault("max_position_embeddings", length)
    given = values.pop("vocab_size", None)
    size = _vocabulary_size(tokenizer) if given is None else int(given)
    ids = {name: getattr(tokenizer, name) for name in _SPECIAL_IDS if name in blank}
    try:
        made = AutoConfig.for_model(architecture, vocab_size=size, **{**ids, **values})
        model: PreTrainedModel = AutoModelForMaskedLM.from_config(made)  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"model.config does not describe a {architecture} model: {error}") from error
    return model


_SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")


def _started(start: str) -> PreTrainedModel:
    folder = resolve_name(start)
    # Encoders that this project saved have the full model inside.
    whole = Path(folder) / MASKED_LM
    folder = str(whole) if whole.is_dir() else folder
    with loading("a model of masked tokens", start, folder):
        ModelFiles(folder).check()
        config: PretrainedConfig = AutoConfig.from_pretrained(folder)
        model, found = AutoModelForMaskedLM.from_pretrained(folder, config=config, output_loading_info=True)
    prefix = _encoder_prefix(model)
    lost = sorted(name for name in found["missing_keys"] if name.startswith(prefix))
    lost += sorted(str(name) for name in found["mismatched_keys"])
    if lost:
        raise ModelError(
            f"{start!r} lacks {len(lost)} tensors of the encoder, or has them in another shape: {lost[:3]}"
        )
    fresh = sorted(name for name in found["missing_keys"] if not name.startswith(prefix))
    if fresh:
        logger.warning("%s has no head for masked tokens; it is initialised at random: %s", start, ", ".join(fresh))
    return model  # type: ignore[no-any-return]


def _encoder_prefix(model: PreTrainedModel) -> str:
    """Return the prefix of the names of the encoder's tensors in the full model."""
    return next(f"{name}." for name, module in model.named_modules() if name and module is model.base_model)


def _vocabulary_size(tokenizer: PreTrainedTokenizerBase) -> int:
    # Some vocabularies have gaps, so that their largest id exceeds their number of tokens.
    return max(len(tokenizer), max(tokenizer.get_vocab().values()) + 1)


def _check_arrived(model: PreTrainedModel, weights: dict[str, Any], transformer: Transformer) -> None:
    prefix = _encoder_prefix(model)
    trained = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    arrived = transformer.auto_model.state_dict()
    lost = [name for name, tensor in trained.items() if name not in arrived or not torch.equal(arrived[name], tensor)]
    # A pooler that the masked-token model does not have is initialised at random, and no pooling here reads it.
    strange = [name for name in arrived if name not in trained and not name.startswith("pooler.")]
    if lost or strange or not trained:
        raise ModelError(
            f"the saved encoder differs from the trained one: missing {lost[:3]}, not trained {strange[:3]}; "
            f"{type(model).__name__} and {type(transformer.auto_model).__name__} name their tensors differently"
        )
