"""A family that understands options: its points have three levels of four numbers, and a query asks at one of them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from hyperseek.models import Family, ModelConfig, Retriever, SavedModule, encoder_modules, join_routes
from hyperseek.scoring import LinearScorer, Scorer, Space
from hyperseek.types import QueryOptions

LEVELS, WIDTH = 3, 4


class LevelHead(SavedModule):
    """The last module of both routes: cuts vectors to their levels; a query looks at one level, or at all of them."""

    query_options: ClassVar = {"level": Annotated[int, Field(ge=0, lt=LEVELS)], "sign": Literal["plus", "minus"]}
    config_keys = ()  # type: ignore[assignment]  # the base class declares a list
    reads_tokens = False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weight = torch.nn.Parameter(torch.ones(LEVELS * WIDTH))

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        features["sentence_embedding"] = features["sentence_embedding"][:, : LEVELS * WIDTH] * self.weight
        return features

    def get_embedding_dimension(self) -> int:
        return LEVELS * WIDTH

    def scorer(self, rows: Tensor, options: QueryOptions) -> Scorer:
        seen = torch.ones(LEVELS * WIDTH, device=rows.device)
        if options.level is not None:
            seen[:] = 0
            seen[options.level * WIDTH : (options.level + 1) * WIDTH] = 1
        sign = -1 if options.get("sign") == "minus" else 1
        return LinearScorer(Space("dot", LEVELS * WIDTH), sign * rows * seen)


class Levels(Family):
    """Queries and documents share their levels."""

    modules = (LevelHead,)

    def build(self, trunk: Retriever, document_trunk: Retriever, config: ModelConfig) -> Retriever:
        modules = [*encoder_modules(trunk, config)[0], LevelHead()]
        return join_routes(modules, modules, trunk, similarity="dot")
