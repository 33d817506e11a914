"""How much of what was learned to keep: between the warm start and the trained model.

"Robust fine-tuning of zero-shot models" (arXiv 2109.01903) averages weights; where a model's score is the base
similarity plus something learned, as for warm-started q-nets, the learned part itself is scaled, which is the same
idea without the average's detour through weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hyperseek.models import QNetHead
from hyperseek.training._stack import TrainingModule
from hyperseek.training._validation import Validator


class Interpolation:
    """Moves a trained model towards its start and back.

    A warm-started q-net head is scaled by its gate, an adapter by its scaling, and every other trained parameter
    lies on the line between its two values.

    Args:
        module: The trained model.
        start: The trained parameters before training.
    """

    def __init__(self, module: TrainingModule, start: Mapping[str, Tensor]) -> None:
        model = module.model
        self._heads = [
            (head, head.gate)
            for head in model.modules()
            if isinstance(head, QNetHead) and head.warm_start and head.converter == "repeated_dense_block"
        ]
        self._adapters: list[tuple[Any, str, float]] = [
            (layer, name, scaling)
            for layer in model.modules()
            if isinstance(getattr(layer, "scaling", None), dict)
            for name, scaling in layer.scaling.items()  # type: ignore[operator, union-attr]
        ]
        scaled = {id(parameter) for head, _ in self._heads for parameter in head.parameters()}
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._parameters = [
            (parameter, start[f"model.{name}"].to(parameter.device), parameter.detach().clone())
            for name, parameter in trained.items()
            if id(parameter) not in scaled and ".lora_" not in name
        ]

    @torch.no_grad()
    def set(self, share: float) -> None:
        """Go to a place on the line.

        Args:
            share: 0 is the start, 1 the trained model.
        """
        for head, gate in self._heads:
            head.gate = gate * share
        for layer, name, scaling in self._adapters:
            layer.scaling[name] = scaling * share
        for parameter, start, end in self._parameters:
            parameter.copy_(end if share == 1 else torch.lerp(start, end, share))


def choose_share(
    interpolation: Interpolation,
    shares: Sequence[float],
    validator: Validator,
    *,
    trained: Mapping[str, float],
    floor: Mapping[str, float],
) -> tuple[float, dict[str, dict[str, float]]]:
    """Find the share with the highest mean over the dev sets, and go there.

    Args:
        interpolation: Of the trained model.
        shares: What to try beside the trained model itself.
        validator: Measures the model.
        trained: What the trained model scored.
        floor: Lowest score for each dev set; shares that fall below are not chosen where another is left.

    Returns:
        The share, and what every one scored.
    """
    results = {1.0: dict(trained)}
    for share in sorted({*shares} - {1.0}, reverse=True):
        interpolation.set(share)
        results[share] = validator()
    safe = [share for share, scores in results.items() if all(scores[name] >= low for name, low in floor.items())]
    chosen = max(safe or results, key=lambda share: results[share]["mean"])
    interpolation.set(chosen)
    return chosen, {str(share): scores for share, scores in results.items()}
