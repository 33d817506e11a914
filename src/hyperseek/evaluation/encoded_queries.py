"""Queries that a model reads once, to be compiled under options of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from hyperseek.cards import Card
from hyperseek.errors import InputError
from hyperseek.scoring import Scorer
from hyperseek.types import NO_OPTIONS, Query

if TYPE_CHECKING:
    from hyperseek.models import Retriever

_BATCH = 64


class EncodedQueries:
    """Queries that a model has read once, to be compiled under many options.

    Args:
        model: The model.
        texts: At least one.
    """

    def __init__(self, model: Retriever, texts: Sequence[str]) -> None:
        self._model = model
        self._count = len(texts)
        self._parts: list[dict[str, Any]] = []
        with torch.inference_mode():
            for start in range(0, len(texts), _BATCH):
                self._parts.append(model.forward(model.preprocess(texts[start : start + _BATCH], "query"), "query"))

    def scorer(self, options: Mapping[str, Any] | None = None) -> Scorer:
        """Compile all of them under the same options."""
        with torch.inference_mode():
            return _joined([self._model.scorer(dict(part), options) for part in self._parts])

    def scorer_each(self, options: Sequence[Mapping[str, Any]]) -> Scorer:
        """Compile each under options of its own; the scorer itself records none."""
        parts: list[Scorer] = []
        with torch.inference_mode():
            for place in range(self._count):
                features = self._parts[place // _BATCH]
                row = place % _BATCH
                own = {name: features[name][row : row + 1] for name in self._model.outputs}
                parts.append(self._model.scorer(own, options[place]).with_options(NO_OPTIONS))
        return _joined(parts)


def _joined(parts: Sequence[Scorer]) -> Scorer:
    return parts[0] if len(parts) == 1 else type(parts[0]).concatenate(parts)


def compile_instructed(
    model: Retriever, queries: Sequence[Query], field: str, options: Mapping[str, Any] | None = None
) -> Scorer:
    """Compile queries, each with a card of its own: what a field of its metadata says is relevant.

    Args:
        model: A model with task cards.
        queries: At least one.
        field: Name of the field, as in `narrative`.
        options: Further options of all queries.

    Returns:
        The queries, in order; their options are not recorded, since they differ.

    Raises:
        InputError: A query has no text in the field, or more than a description may have.
        UnknownNameError: The model has no cards.
    """
    asked = []
    for query in queries:
        text = query.metadata.get(field)
        if not isinstance(text, str) or not text.strip():
            raise InputError(
                f"query {query.id!r} has no text in the field {field!r} of its metadata, which has "
                f"{list(query.metadata)}; name the field that holds its instruction"
            )
        said = {"name": field, "description": text.strip()}
        card = Card.from_mapping(said, source=f"the card of query {query.id!r}, from its {field!r}", error=InputError)
        asked.append(model.check_options({**(options or {}), "card": card}))
    return EncodedQueries(model, [query.text for query in queries]).scorer_each(asked)
