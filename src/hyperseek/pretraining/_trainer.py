"""The trainer of masked language models, whose loss weighs every token equally, and its validation."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from hyperseek.pretraining._recipe import PretrainConfig, PretrainValidationConfig
from hyperseek.pretraining._token_rows import IGNORED, VALIDATION, MaskedRows, RowBatches, stacked
from hyperseek.runs.loop import Clock, EpochOfBatches, Loop, Reached, TimeLimit
from hyperseek.runs.record import Validated

logger = logging.getLogger(__name__)


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
