"""Dense retrievers: queries are vectors, optionally with a linear map after the trunk."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from sentence_transformers.base.modules import Dense as LinearMap

from hyperseek._config import Config
from hyperseek.errors import ConfigError
from hyperseek.models.family import Family, ModelConfig, encoder_modules, join_routes
from hyperseek.models.modules import route_width
from hyperseek.models.retriever import Retriever


class LinearHeadConfig(Config):
    """A linear map of vectors, initialised as the identity.

    Attributes:
        sides: The vectors that are mapped. With `"query"`, indexes of the trunk remain valid.
        dimension: Output size; None keeps the trunk's.
    """

    sides: Literal["query", "both"] = "query"
    dimension: int | None = Field(default=None, ge=1)


class Dense(Family):
    """One vector per text, compared by cosine, inner product or distance."""

    config = LinearHeadConfig
    section = "linear"
    default_section = False

    def build(self, trunk: Retriever, document_trunk: Retriever, config: ModelConfig) -> Retriever:
        """Build a dense model; see `Family.build`."""
        queries, _ = encoder_modules(trunk, config)
        documents = list(queries) if document_trunk is trunk else encoder_modules(document_trunk, config)[0]
        linear: LinearHeadConfig | None = config.options
        if linear is not None:
            width = route_width(queries)
            size = linear.dimension or width
            if linear.sides == "query" and size != width:
                raise ConfigError(
                    f"a linear head of dimension {size} on queries alone does not fit documents of {width}"
                )
            head = LinearMap(width, size, bias=False, activation_function=None, init_weight=torch.eye(size, width))
            queries = [*queries, head]
            documents = documents if linear.sides == "query" else [*documents, head]
        return join_routes(queries, documents, trunk)
