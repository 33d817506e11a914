"""Which part of a route is frozen, and what the rest of it reads."""

from __future__ import annotations

from collections.abc import Sequence

from sentence_transformers.base.modules import Dense, Module
from sentence_transformers.sentence_transformer.modules import Dropout, LayerNorm, Normalize
from torch import nn

from hyperseek._fingerprint import fingerprint_json, fingerprint_weights
from hyperseek.models import Retriever
from hyperseek.models._retriever import Side
from hyperseek.scoring import Space

SIDES: tuple[Side, Side] = ("query", "document")

# These read the vector of a text and nothing of its tokens; a module of another kind says so by `reads_tokens`.
_VECTOR_MODULES = (Dense, Dropout, LayerNorm, Normalize)


def frozen_prefix(modules: Sequence[nn.Module]) -> int:
    """Return how many leading modules have no parameter to train."""
    for position, module in enumerate(modules):
        if any(parameter.requires_grad for parameter in module.parameters()):
            return position
    return len(modules)


def reads_tokens(modules: Sequence[nn.Module]) -> bool:
    """Return whether any of the modules needs token states; a module of unknown kind is taken to need them."""
    return any(bool(getattr(module, "reads_tokens", not isinstance(module, _VECTOR_MODULES))) for module in modules)


def base_stop(modules: Sequence[nn.Module]) -> int:
    """Return where the modules end that make a plain vector: before a head that compiles scorers, or at the end."""
    for position, module in enumerate(modules):
        if hasattr(module, "scorer"):
            return position
    return len(modules)


def base_space_of(retriever: Retriever) -> Space:
    """Return the geometry of the vectors that a model's head starts from: its own, if the head does not say."""
    return getattr(retriever.route("query")[-1], "base_space", retriever.space)


def prefix_fingerprint(retriever: Retriever, side: Side, stop: int) -> str:
    """Name what the first `stop` modules of a route do to a text: weights, modules, vocabulary, prompt, length."""
    protocol = retriever.protocol()
    tokenizer = retriever.model.tokenizer
    modules = [
        {
            "class": type(module).__name__,
            "config": module.get_config_dict() if isinstance(module, Module) else {},
            "weights": fingerprint_weights(module),
        }
        for module in retriever.route(side)[:stop]
    ]
    vocabulary = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else None
    return fingerprint_json([modules, protocol["prompts"][side], protocol["max_length"][side], vocabulary])
