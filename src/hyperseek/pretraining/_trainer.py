"""The trainer: transformers' own, with our batches, schedule and checkpoints; its loss counts every token once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, TrainingArguments

from hyperseek.pretraining._masking import IGNORED, MaskedRows, RowBatches, stacked
from hyperseek.pretraining._recipe import PretrainConfig
from hyperseek.pretraining._validation import Validate
from hyperseek.training._callbacks import Reached, TimeLimit
from hyperseek.training._clock import Clock
from hyperseek.training._loop import EpochOfBatches, Loop

_PROGRESS = "progress.json"


class MaskedTrainer(Loop):
    """Trains a model to predict masked tokens.

    The loss of an optimiser step is the mean over all its hidden tokens, however these are spread over processes and
    accumulated batches.

    Args:
        model: Returns the mean loss of its hidden tokens.
        args: Arguments of the underlying trainer.
        rows: The sequences.
        batches: Which of them make a batch.
        config: Schedule and limits.
        clock: Counts training time.
        validate: Measures the validation loss; None for no validation.
        callbacks: Further ones.
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
        # Counts the hidden tokens of a step over its batches and processes, and leaves it to us to divide by them.
        self.model_accepts_loss_kwargs = True
        if validate is not None:
            validate.attach(self)

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return this batch's part of the mean over all hidden tokens of the step."""
        output = model(**inputs)
        own = (inputs["labels"] != IGNORED).sum()
        # The mean of no tokens is not a number, and has no gradient.
        loss: Tensor = output.loss.float() if own else output.logits.float().sum() * 0.0
        total = own if num_items_in_batch is None else num_items_in_batch
        # The processes' gradients are averaged, the parts are to be added.
        loss = loss * own / total * self.accelerator.num_processes
        return (loss, output) if return_outputs else loss

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Name the parameters that decay: matrices, not biases, gains and curvatures."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if self.args.should_save:
            history = () if self.validate is None else tuple(self.validate.history)
            folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
            Reached(seconds=self.clock.seconds, history=history).write(folder / _PROGRESS)
        super()._save_checkpoint(model, trial)

    def run(self, checkpoint: Path | None = None) -> Any:
        """Train, from the beginning or from a checkpoint; see `Loop.run`."""
        if checkpoint is not None:
            reached = Reached.read(checkpoint / _PROGRESS)
            self.clock.set(reached.seconds)
            if self.validate is not None:
                self.validate.history[:] = reached.history
        return super().run(checkpoint)

    def full_state(self) -> dict[str, Tensor]:
        """Return all weights, gathered where they are spread over processes; every process has to ask.

        Returns:
            The weights; where they had to be gathered, those of the first process only, and none elsewhere.
        """
        with torch.no_grad():
            return dict(self.accelerator.get_state_dict(self.model_wrapped) or {})
