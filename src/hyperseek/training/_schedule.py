"""The learning rate over a run."""

from __future__ import annotations

import math

from hyperseek.training._loop_config import LoopConfig


def learning_rate_factor(config: LoopConfig, *, step: int, progress: float) -> float:
    """Return what the highest learning rate is multiplied by.

    Args:
        config: Warm-up and schedule.
        step: Optimiser steps done.
        progress: Share of the run that is done, in [0, 1].

    Returns:
        A number in [0, 1].
    """
    if config.warmup >= 1:
        warm, start = (step + 1) / config.warmup, progress * min(1.0, config.warmup / max(1, step))
    else:
        # A schedule that starts at exactly 0 would waste its first step.
        warm, start = max(progress, 0.01 * config.warmup) / max(config.warmup, 1e-9), config.warmup
    left = 1 - max(0.0, progress - start) / max(1e-9, 1 - start)
    fall = {"constant": 1.0, "linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left)}[config.schedule]
    return min(1.0, warm if config.warmup else 1.0) * fall
