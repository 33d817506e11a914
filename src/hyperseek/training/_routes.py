"""Which parts of a route are trained, and what the rest of it reads."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from sentence_transformers.base.modules import Dense, Module, Transformer
from sentence_transformers.sentence_transformer.modules import Dropout, LayerNorm, Normalize
from torch import Tensor, nn

from hyperseek._fingerprint import fingerprint_json, fingerprint_weights
from hyperseek.errors import ConfigError, require
from hyperseek.models import Retriever
from hyperseek.models.retriever import SIDES, Side
from hyperseek.runs.recipe import recompute_activations
from hyperseek.scoring import LinearScorer, Points, Scorer, Space, VectorPoints
from hyperseek.training._recipe import LoraConfig, TrainConfig

# These read a text's vector and none of its tokens; other modules declare which they are by `reads_tokens`.
_VECTOR_MODULES = (Dense, Dropout, LayerNorm, Normalize)

logger = logging.getLogger(__name__)


def choose_trainable(retriever: Retriever, config: TrainConfig) -> None:
    """Switch gradients on and off as `config.trunk` says, and add adapters.

    Args:
        retriever: Changed in place.
        config: What to train.

    Raises:
        ConfigError: Nothing would be trained, or the trunk's layers cannot be identified.
    """
    kept = _kept_trunk(retriever, config)
    for trunk in trunks(retriever):
        if trunk is kept:
            trunk.requires_grad_(False)
            continue
        trunk.requires_grad_(config.trunk == "full")
        full = []
        if config.trunk == "last_layers":
            full = _last_layers(trunk, config.last_layers or 1)
        elif config.trunk == "lora":
            lora = config.lora or LoraConfig()
            full = _last_layers(trunk, lora.full_layers) if lora.full_layers else []
            _add_adapters(trunk, lora, beside=full, seed=config.seed)
        # Last, since adding adapters freezes everything else.
        for layer in full:
            layer.requires_grad_(True)
        if config.gradient_checkpointing:
            recompute_activations(trunk)
    # New adapters are born in training mode.
    retriever.model.eval()
    count = sum(parameter.numel() for parameter in retriever.model.parameters() if parameter.requires_grad)
    if not count:
        raise ConfigError(
            "nothing would be trained: the trunk is frozen and no head follows it; "
            "set train.trunk to full, last_layers or lora, or give the model a head"
        )
    logger.info("training %s parameters", f"{count:,}")


@dataclass(frozen=True, slots=True)
class TrainedPart:
    """A part of a model, and how much of it is trained.

    Attributes:
        name: Its place in the model: `trunk: layers 0 to 3`, `Dense`.
        parameters: Number of parameters in it.
        trained: How many of them are trained.
    """

    name: str
    parameters: int
    trained: int


def trained_parts(retriever: Retriever, objective: nn.Module) -> list[TrainedPart]:
    """Return the parts of a model and its losses, in the order of the routes, with how much of each is trained.

    Args:
        retriever: After `choose_trainable`.
        objective: The losses, which may have a temperature.

    Returns:
        Parts that have parameters; each parameter is counted once.
    """
    found: dict[str, list[int]] = {}
    counted: set[int] = set()

    def count(name: str, parameters: Iterable[nn.Parameter]) -> None:
        for parameter in parameters:
            if id(parameter) not in counted:
                counted.add(id(parameter))
                part = found.setdefault(name, [0, 0])
                part[0] += parameter.numel()
                part[1] += parameter.numel() if parameter.requires_grad else 0

    heads = trunks(retriever)
    for trunk, side in zip(heads, ("query trunk", "document trunk") if len(heads) > 1 else ("trunk",), strict=True):
        adapters = [(name, parameter) for name, parameter in trunk.named_parameters() if ".lora_" in name]
        count(f"{side}: adapters", (parameter for _, parameter in adapters))
        embeddings = getattr(trunk, "get_input_embeddings", lambda: None)()
        if isinstance(embeddings, nn.Module):
            count(f"{side}: token embeddings", embeddings.parameters())
        for title, layers in _runs_of_layers(trunk):
            count(f"{side}: {title}", itertools.chain.from_iterable(layer.parameters() for layer in layers))
        count(f"{side}: the rest", trunk.parameters())
    for module in itertools.chain(*(retriever.route(side) for side in SIDES)):
        count(type(module).__name__, module.parameters())
    count("losses", objective.parameters())
    return [TrainedPart(name, *numbers) for name, numbers in found.items()]


def _runs_of_layers(trunk: nn.Module) -> Iterator[tuple[str, list[nn.Module]]]:
    """Split a trunk's layers where those that are trained in full begin or end."""

    def in_full(numbered: tuple[int, nn.Module]) -> bool:
        return all(weight.requires_grad for name, weight in numbered[1].named_parameters() if ".lora_" not in name)

    for _, part in itertools.groupby(enumerate(_layers(trunk)), key=in_full):
        numbers, layers = zip(*part, strict=True)
        title = f"layer {numbers[0]}" if len(numbers) == 1 else f"layers {numbers[0]} to {numbers[-1]}"
        yield title, list(layers)


def trunks(retriever: Retriever) -> list[nn.Module]:
    """Return the transformers models at the start of the routes; only one if they share it."""
    firsts = dict.fromkeys(retriever.route(side)[0] for side in SIDES)
    return [module.model if isinstance(module, Transformer) else module for module in firsts]


def _kept_trunk(retriever: Retriever, config: TrainConfig) -> nn.Module | None:
    """Return the documents' trunk if only queries are trained."""
    if config.sides == "both" or config.trunk == "frozen":
        return None
    found = trunks(retriever)
    if len(found) < 2:
        raise ConfigError("train.sides: query needs a separate trunk for documents; set model.document_trunk")
    return found[1]


def merge_adapters(retriever: Retriever) -> None:
    """Merge the adapters into the weights they adapt, so that the model saves and loads like any other."""
    tuners = require("peft.tuners.tuners_utils", extra="train")
    for trunk in trunks(retriever):
        if not getattr(trunk, "_hf_peft_config_loaded", False):
            continue
        for parent, name, layer in list(_children(trunk)):
            if isinstance(layer, tuners.BaseTunerLayer):
                layer.merge()
                setattr(parent, name, layer.get_base_layer())
        del trunk.peft_config
        trunk._hf_peft_config_loaded = False  # type: ignore[assignment]
        trunk.requires_grad_(False)


def _layers(trunk: nn.Module) -> list[nn.Module]:
    """Return the layers of a transformer; none if they cannot be identified."""
    count = int(getattr(getattr(trunk, "config", None), "num_hidden_layers", 0))
    stacks = [module for module in trunk.modules() if isinstance(module, nn.ModuleList) and len(module) == count]
    return list(stacks[0]) if count and stacks else []


def _last_layers(trunk: nn.Module, count: int) -> list[nn.Module]:
    """Return the last layers of a transformer; ConfigError if it has fewer, or they cannot be identified."""
    layers = _layers(trunk)
    if not layers:
        raise ConfigError(f"cannot find the layers of a {type(trunk).__name__}; use trunk: full or lora alone")
    if count > len(layers):
        raise ConfigError(f"the last {count} layers are to be trained, but the trunk has {len(layers)} layers")
    return layers[len(layers) - count :]


def _add_adapters(trunk: nn.Module, config: LoraConfig, *, beside: Sequence[nn.Module], seed: int) -> None:
    """Put adapters on the linear maps of a trunk, but not on those of the layers `beside` them."""
    peft = require("peft", extra="train")
    if not hasattr(trunk, "add_adapter"):
        raise ConfigError(f"a {type(trunk).__name__} takes no adapters; use trunk: full")
    own = {id(module) for layer in beside for module in layer.modules() if isinstance(module, nn.Linear)}
    linear = {name: module for name, module in trunk.named_modules() if isinstance(module, nn.Linear)}
    names = sorted({name.rpartition(".")[2] for name in linear})
    unknown = [
        target
        for target in config.target_modules or ()
        if not any(name == target or name.endswith(f".{target}") for name, _ in trunk.named_modules())
    ]
    if unknown:
        raise ConfigError(
            f"lora.target_modules: the trunk has no part {unknown[0]!r}; its linear maps are {', '.join(names)}"
        )
    targets = "all-linear" if config.target_modules is None else list(config.target_modules)
    with torch.random.fork_rng():
        # The adapters depend on the seed alone, whatever was drawn before.
        torch.manual_seed(seed)
        trunk.add_adapter(  # type: ignore[operator]
            peft.LoraConfig(
                r=config.rank,
                lora_alpha=config.alpha,
                lora_dropout=config.dropout,
                target_modules=targets,
                exclude_modules=[name for name, module in linear.items() if id(module) in own] or None,
            )
        )


def _children(root: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    for parent in root.modules():
        for name, child in parent.named_children():
            yield parent, name, child


def is_frozen(module: nn.Module) -> bool:
    """Return whether a module has no parameter to train."""
    return not any(parameter.requires_grad for parameter in module.parameters())


def frozen_prefix(modules: Sequence[nn.Module]) -> int:
    """Return how many leading modules have no parameter to train."""
    for position, module in enumerate(modules):
        if not is_frozen(module):
            return position
    return len(modules)


def reads_tokens(modules: Sequence[nn.Module], outputs: Sequence[str] = ()) -> bool:
    """Return whether token states are read by any of the modules, or are among the route's outputs.

    Args:
        modules: The end of a route; a module of an unknown kind is assumed to read token states.
        outputs: Features that the route ends with.

    Returns:
        Whether they are needed.
    """
    if "token_embeddings" in outputs:
        return True
    return any(bool(getattr(module, "reads_tokens", not isinstance(module, _VECTOR_MODULES))) for module in modules)


def reads_only_states(modules: Sequence[nn.Module]) -> bool:
    """Return whether the modules read only the states and mask of tokens; False for unknown kinds."""
    return all(hasattr(module, "reads_tokens") or isinstance(module, _VECTOR_MODULES) for module in modules)


def base_stop(modules: Sequence[nn.Module]) -> int:
    """Return how many leading modules make a plain vector: those before a head that compiles scorers, or all."""
    for position, module in enumerate(modules):
        if hasattr(module, "scorer"):
            return position
    return len(modules)


def before_training(
    retriever: Retriever, query: dict[str, Tensor] | None, document: dict[str, Tensor] | None
) -> tuple[Scorer | None, Points | None]:
    """Return queries and documents as they were before training.

    Args:
        retriever: The model, as it is now.
        query: Features of queries after `base_stop` modules, or None.
        document: The same for documents.

    Returns:
        Their scorer and points. If a head compiles scorers, these are made of the vectors in front of it, in its
        `base_space`, or in the model's own space if the head has no such attribute.
    """
    head = retriever.route("query")[-1]
    if not hasattr(head, "scorer"):
        scorer = None if query is None else retriever.scorer(query)
        return scorer, None if document is None else retriever.points(document)
    space: Space = getattr(head, "base_space", retriever.space)
    return (
        None if query is None else LinearScorer(space, query["sentence_embedding"]),
        None if document is None else VectorPoints(space.canonical(document["sentence_embedding"])),
    )


def prefix_fingerprint(retriever: Retriever, side: Side, stop: int) -> str:
    """Return a fingerprint of the first `stop` modules of a route: weights, modules, vocabulary, prompt, length."""
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
