"""The loss of masked tokens on texts that are not learned from."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hyperseek.pretraining._masking import IGNORED, VALIDATION, MaskedRows, stacked
from hyperseek.pretraining._recipe import PretrainValidationConfig
from hyperseek.training._callbacks import Validated
from hyperseek.training._clock import Clock

logger = logging.getLogger(__name__)


class Validate(TrainerCallback):
    """Measures before, during and after training, always on the same hidden tokens.

    Args:
        rows: Sequences to measure on.
        config: When, and on how many.
        clock: Paused meanwhile.
        batch_size: Sequences of a batch, for each process.
        seed: Chooses the sequences, where not all are measured on.

    Attributes:
        history: All validations, in order: `loss` (nats a hidden token), `perplexity`, `accuracy`.
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
        """Take the trainer whose model is measured."""
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure the untrained model, unless this run was resumed."""
        if not self.history:
            self._measure(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Measure when it is time."""
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
        assert self._trainer is not None  # the trainer attaches itself when it is made
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
            # All processes take as many rounds: where weights are spread over them, each has to help the others.
            for start in range(0, len(self._chosen), size * world):
                own = self._chosen[start + rank * size :][: min(size, max(0, len(self._chosen) - start - rank * size))]
                sums += self._sums(model, own or self._chosen[:1], accelerator.device) * bool(own)
        model.train(training)
        loss, right, count = accelerator.reduce(sums.float().to(accelerator.device), reduction="sum").tolist()
        return {"loss": loss / count, "perplexity": math.exp(min(loss / count, 700.0)), "accuracy": right / count}

    def _sums(self, model: nn.Module, chosen: list[int], device: torch.device) -> Tensor:
        """Summed loss, right guesses and hidden tokens of some sequences."""
        batch = {
            name: tensor.to(device) for name, tensor in stacked([self.rows[VALIDATION, row] for row in chosen]).items()
        }
        output = model(**batch)
        hidden = batch["labels"] != IGNORED
        labels = batch["labels"][hidden]
        # Some models classify labelled tokens only.
        logits = output.logits if output.logits.dim() == 2 else output.logits[hidden]
        losses = nn.functional.cross_entropy(logits.float(), labels, reduction="sum")
        right = (logits.argmax(dim=-1) == labels).sum()
        return torch.stack([losses.cpu(), right.cpu(), hidden.sum().cpu()]).double()
