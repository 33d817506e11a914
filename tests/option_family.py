"""A family that understands options: its points have three levels of four numbers, and a query asks at one of them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from hyperseek.scoring import LinearScorer, Scorer, Space
from hyperseek.types import QueryOptions

LEVELS, WIDTH = 3, 4


class LevelHead(nn.Module):
    """The last module of a route: cuts each vector to its levels; a query looks at one level, or at all of them."""

    query_options: ClassVar = {"level": Annotated[int, Field(ge=0, lt=LEVELS)], "sign": Literal["plus", "minus"]}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        features["sentence_embedding"] = features["sentence_embedding"][:, : LEVELS * WIDTH]
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
