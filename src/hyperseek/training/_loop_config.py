"""What every kind of training decides: when it ends, how large its steps are, what it leaves behind."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from hyperseek._config import Config


class LoopConfig(Config):
    """How a training loop goes.

    Attributes:
        epochs: Stop after so many passes.
        max_steps: Stop after so many optimiser steps.
        max_seconds: Stop after so much time in training steps (not in caching or validation).
        clock: What `max_seconds` counts: `wall` time, or `cpu` time of this process over all its threads.
        batch_size: Examples of a batch, for each process.
        gradient_accumulation: Batches of an optimiser step.
        learning_rate: Highest learning rate.
        weight_decay: Of AdamW.
        schedule: What follows the warm-up: a constant rate, or a linear or cosine fall to zero at the end.
        warmup: Steps of linear warm-up if 1 or more, a share of the run if below 1.
        max_grad_norm: Gradients are clipped to this norm; 0 for never.
        precision: `bfloat16` or `float16` for mixed precision; weights and scores stay float32. `float16` scales the
            loss and needs a GPU.
        tf32: Whether a GPU may round matrix products to tf32.
        seed: Decides order, draws and dropout.
        save_every: Steps between checkpoints; None for none.
        log_every: Steps between log lines.
        workers: Processes that prepare batches; 0 prepares them in the training process.
        device: `cpu`, `cuda`; None takes a GPU if there is one.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    epochs: int | None = Field(default=None, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    max_seconds: float | None = Field(default=None, gt=0)
    clock: Literal["wall", "cpu"] = "wall"
    batch_size: int = Field(default=64, ge=1)
    gradient_accumulation: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup: float = Field(default=0.05, ge=0)
    max_grad_norm: float = Field(default=1.0, ge=0)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    tf32: bool = False
    seed: int = Field(default=0, ge=0)
    save_every: int | None = Field(default=500, ge=1)
    log_every: int = Field(default=10, ge=1)
    workers: int = Field(default=0, ge=0)
    device: str | None = None

    @model_validator(mode="after")
    def _check_end(self) -> Self:
        if self.epochs is None and self.max_steps is None and self.max_seconds is None:
            raise ValueError("one of epochs, max_steps and max_seconds is needed, or training never ends")
        return self
