"""The masked language model: how it is built, trained and validated, and the encoder extracted from it."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING

from hyperseek.errors import ConfigError, ModelError, UnknownNameError, suggestion
from hyperseek.models import Retriever, load
from hyperseek.models.light import resolve_name
from hyperseek.models.loading import loading
from hyperseek.models.model_files import ModelFiles
from hyperseek.models.modules import move_saved
from hyperseek.pretraining._recipe import EncoderConfig, PretrainConfig, PretrainValidationConfig
from hyperseek.pretraining._token_rows import IGNORED, VALIDATION, MaskedRows, RowBatches, stacked
from hyperseek.runs.loop import Clock, EpochOfBatches, Loop, Reached, TimeLimit
from hyperseek.runs.record import Validated

MASKED_LM = "mlm"
"""Folder of the full model, inside that of the encoder; further pre-training starts from it."""

logger = logging.getLogger(__name__)

_SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")


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


class MaskedTrainer(Loop):
    """Trains a model to predict masked tokens.

    The loss of an optimiser step is the mean over all its masked tokens, however they are distributed over processes
    and accumulated batches.

    Args:
        model: Returns the mean loss of its masked tokens.
        args: Arguments of the underlying trainer.
        rows: The sequences.
        batches: Groups them into batches.
        config: Schedule and limits.
        clock: Counts training time.
        validate: Measures the validation loss; None for no validation.
        callbacks: Additional callbacks.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        *,
        rows: MaskedRows,
        batches: RowBatches,
        config: PretrainConfig,
        clock: Clock,
        validate: Validate | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.batches = batches
        self.clock = clock
        self.config = config
        self.validate = validate
        own = [EpochOfBatches(batches), TimeLimit(clock, config.max_seconds), *([] if validate is None else [validate])]
        super().__init__(
            model=model, args=args, train_dataset=rows, data_collator=stacked, callbacks=[*own, *callbacks]
        )
        self.remove_callback(PrinterCallback)
        # Makes the trainer count the masked tokens of a step over batches and processes, and leave the division to us.
        self.model_accepts_loss_kwargs = True
        if validate is not None:
            validate.attach(self)

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return this batch's part of the mean over all masked tokens of the step."""
        output = model(**inputs)
        own = (inputs["labels"] != IGNORED).sum()
        # The mean over no tokens is NaN, without a gradient.
        loss: Tensor = output.loss.float() if own else output.logits.float().sum() * 0.0
        total = own if num_items_in_batch is None else num_items_in_batch
        # Gradients are averaged over processes, but the parts must be summed.
        loss = loss * own / total * self.accelerator.num_processes
        return (loss, output) if return_outputs else loss

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self.args.should_save:
            history = () if self.validate is None else tuple(self.validate.history)
            folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
            Reached(seconds=self.clock.seconds, history=history).write(folder)
        super()._save_checkpoint(model, trial)

    def run(self, checkpoint: Path | None = None) -> Any:
        """Train, from the beginning or from a checkpoint; see `Loop.run`."""
        if checkpoint is not None:
            reached = Reached.read(checkpoint)
            self.clock.set(reached.seconds)
            if self.validate is not None:
                self.validate.history[:] = reached.history
        return super().run(checkpoint)

    def full_state(self) -> dict[str, Tensor]:
        """Return all weights, gathered if they are sharded over processes; every process must call this.

        Returns:
            The weights; if they had to be gathered, only in the first process, and an empty dict elsewhere.
        """
        with torch.no_grad():
            return dict(self.accelerator.get_state_dict(self.model_wrapped) or {})


class Validate(TrainerCallback):
    """Measures before, during and after training, always on the same masked tokens.

    Args:
        rows: Sequences to measure on.
        config: When, and on how many sequences.
        clock: Paused during validation.
        batch_size: Sequences of a batch, for each process.
        seed: Seed of the choice of sequences, unless all are used.

    Attributes:
        history: All validations, in order: `loss` (nats per masked token), `perplexity`, `accuracy`.
    """

    def __init__(
        self, rows: MaskedRows, config: PretrainValidationConfig, clock: Clock, *, batch_size: int, seed: int
    ) -> None:
        self.rows = rows
        self.config = config
        self.clock = clock
        self.batch_size = config.batch_size or batch_size
        self.history: list[Validated] = []
        order = np.random.default_rng([seed, VALIDATION]).permutation(len(rows))
        self._chosen = np.sort(order[: config.sequences]).tolist()
        self._trainer: Trainer | None = None

    def attach(self, trainer: Trainer) -> None:
        """Set the trainer whose model is measured."""
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the untrained model, unless this run was resumed."""
        if not self.history:
            self._measure(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure when due."""
        if self.config.every is not None and state.global_step % self.config.every == 0:
            self._measure(state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the last step if that has not been done."""
        if self.history[-1].step != state.global_step:
            self._measure(state)

    def _measure(self, state: TrainerState) -> None:
        with self.clock.paused():
            scores = self._scores()
        self.history.append(Validated(step=state.global_step, seconds=self.clock.seconds, scores=scores))
        logger.info("step %d: %s", state.global_step, scores)
        assert self._trainer is not None  # the trainer attaches itself in its constructor
        self._trainer.log({f"validation/{name}": score for name, score in scores.items()})

    def _scores(self) -> dict[str, float]:
        trainer = self._trainer
        assert trainer is not None
        accelerator, model = trainer.accelerator, trainer.model_wrapped
        assert isinstance(model, nn.Module)
        world, rank, size = accelerator.num_processes, accelerator.process_index, self.batch_size
        sums = torch.zeros(3, dtype=torch.float64)
        training = model.training
        model.eval()
        with torch.no_grad():
            # All processes take the same number of rounds: sharded weights need every process in each.
            for start in range(0, len(self._chosen), size * world):
                own = self._chosen[start + rank * size :][: min(size, max(0, len(self._chosen) - start - rank * size))]
                sums += self._sums(model, own or self._chosen[:1], accelerator.device) * bool(own)
        model.train(training)
        loss, right, count = accelerator.reduce(sums.float().to(accelerator.device), reduction="sum").tolist()
        return {"loss": loss / count, "perplexity": math.exp(min(loss / count, 700.0)), "accuracy": right / count}

    def _sums(self, model: nn.Module, chosen: list[int], device: torch.device) -> Tensor:
        """Return the summed loss, correct predictions and masked tokens of some sequences."""
        batch = {
            name: tensor.to(device) for name, tensor in stacked([self.rows[VALIDATION, row] for row in chosen]).items()
        }
        output = model(**batch)
        hidden = batch["labels"] != IGNORED
        labels = batch["labels"][hidden]
        # Some models return logits of labelled tokens only.
        logits = output.logits if output.logits.dim() == 2 else output.logits[hidden]
        losses = nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
        right = (logits.argmax(dim=-1) == labels).sum()
        return torch.stack([losses.cpu(), right.cpu(), hidden.sum().cpu()]).double()
