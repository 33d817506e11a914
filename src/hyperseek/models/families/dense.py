"""Dense retrievers: queries are vectors, optionally with a linear map after the trunk, or with task cards.

A card is compiled to a head over the query vectors of a frozen encoder.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from sentence_transformers.base.modules import Dense as LinearMap
from torch import Tensor, nn

from hyperseek._config import Config
from hyperseek.cards import Card
from hyperseek.errors import ConfigError
from hyperseek.models.families import Family, ModelConfig, encoder_modules, join_routes
from hyperseek.models.families.card_head import CardConfig, CardHead
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


class CardFamily(Family):
    """Queries are vectors that a task card changes; documents are the trunk's."""

    config = CardConfig
    section = "card"
    copies_head = True
    modules = (CardHead,)

    def check(self, config: ModelConfig) -> None:
        """See `Family.check`."""
        if config.document_trunk is not None:
            raise ValueError("family: card uses one trunk for queries and documents; leave document_trunk out")

    def build(self, trunk: Retriever, document_trunk: Retriever, config: ModelConfig) -> Retriever:
        """Put a card's head behind the query route; see `Family.build`."""
        queries, documents = trunk.route("query"), trunk.route("document")
        if config.pooling is not None or config.normalize is not None:
            queries = documents = encoder_modules(trunk, config)[0]
        if trunk.space.ragged or trunk.space.levels > 1 or trunk.space.hyperbolic or hasattr(queries[-1], "scorer"):
            raise ConfigError("a card changes query vectors; take a trunk whose queries are vectors of a flat space")
        dimension, similarity = route_width(documents), str(trunk.model.similarity_fn_name)
        head = CardHead(dimension, similarity, **config.options.model_dump())
        return join_routes([*queries, head], documents, trunk)

    def copy_head(self, source: Retriever, target: Retriever) -> None:
        """Copy a card's head; see `Family.copy_head`."""
        theirs, ours = source.route("query")[-1], target.route("query")[-1]
        if not isinstance(theirs, CardHead) or not isinstance(ours, CardHead):
            raise ConfigError("head_from must be a model of family: card")
        told, asked = ({**head.get_config_dict(), "seed": None, "share": None} for head in (theirs, ours))
        different = [f"{name} {told[name]} instead of {asked[name]}" for name in told if told[name] != asked[name]]
        if different:
            raise ConfigError(f"the head of head_from has {', '.join(different)}; set these under model.card")
        ours.load_state_dict(theirs.state_dict())
        ours.seen, ours.share = theirs.seen, theirs.share


def query_map(model: Retriever, card: Card) -> tuple[Tensor, Tensor] | None:
    """Return what a compiled card does to query vectors.

    Args:
        model: Any model.
        card: The card.

    Returns:
        Matrix `(d, d)` and shift `(d,)` of x M + b; None if the model compiles no cards, or to something else.
    """
    compiler = model.route("query")[-1]
    if not isinstance(compiler, CardHead) or compiler.config.sides != "query" or compiler.qnet is not None:
        return None
    numbers = compiler.compile_card(card).detach()
    affine = compiler.head.affine(numbers[: compiler.head.count])
    if affine is None:
        return None
    matrix, shift = affine
    gate, eye = compiler.share * numbers[-1], torch.eye(compiler.dimension, device=matrix.device)
    return eye + gate * (matrix - eye), gate * shift


def without_cards(model: Retriever) -> list[nn.Module]:
    """Return the query route of a model up to a head that compiles cards: all of it where there is none."""
    route = model.route("query")
    return route[:-1] if isinstance(route[-1], CardHead) else route
