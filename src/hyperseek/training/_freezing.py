"""Which parameters are trained: all, the last layers, adapters, or only what is behind the trunk."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from sentence_transformers.base.modules import Transformer
from torch import nn

from hyperseek._errors import ConfigError, require
from hyperseek.models import Retriever
from hyperseek.training._recipe import LoraConfig, TrainConfig
from hyperseek.training._routes import SIDES

logger = logging.getLogger(__name__)


def choose_trainable(retriever: Retriever, config: TrainConfig) -> None:
    """Switch gradients on and off as `config.trunk` says, and add adapters.

    Args:
        retriever: Changed in place.
        config: What to train.

    Raises:
        ConfigError: Nothing would be trained, or the trunk's layers cannot be told apart.
    """
    kept = _kept_trunk(retriever, config)
    for trunk in trunks(retriever):
        if trunk is kept:
            trunk.requires_grad_(False)
            continue
        trunk.requires_grad_(config.trunk == "full")
        if config.trunk == "last_layers":
            for layer in _last_layers(trunk, config.last_layers or 1):
                layer.requires_grad_(True)
        elif config.trunk == "lora":
            _add_adapters(trunk, config.lora or LoraConfig())
    # New adapters are born in training mode.
    retriever.model.eval()
    count = sum(parameter.numel() for parameter in retriever.model.parameters() if parameter.requires_grad)
    if not count:
        raise ConfigError(
            "nothing would be trained: the trunk is frozen and no head follows it; "
            "set train.trunk to full, last_layers or lora, or give the model a head"
        )
    logger.info("training %s parameters", f"{count:,}")


def trunks(retriever: Retriever) -> list[nn.Module]:
    """Return the transformers models at the heads of the routes; one where they share it."""
    firsts = dict.fromkeys(retriever.route(side)[0] for side in SIDES)
    return [module.model if isinstance(module, Transformer) else module for module in firsts]


def _kept_trunk(retriever: Retriever, config: TrainConfig) -> nn.Module | None:
    """Return the documents' trunk if only queries are trained."""
    if config.sides == "both" or config.trunk == "frozen":
        return None
    found = trunks(retriever)
    if len(found) < 2:
        raise ConfigError("train.sides: query needs a trunk of its own for documents; set model.document_trunk")
    return found[1]


def merge_adapters(retriever: Retriever) -> None:
    """Add the adapters to the weights they adapt and remove them, so that the model saves and loads as any other."""
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


def _last_layers(trunk: nn.Module, count: int) -> list[nn.Module]:
    layers = int(getattr(getattr(trunk, "config", None), "num_hidden_layers", 0))
    stacks = [module for module in trunk.modules() if isinstance(module, nn.ModuleList) and len(module) == layers]
    if not stacks:
        raise ConfigError(f"cannot find the layers of a {type(trunk).__name__}; use trunk: full or lora")
    if count > layers:
        raise ConfigError(f"train.last_layers is {count}, but the trunk has {layers} layers")
    return list(stacks[0])[layers - count :]


def _add_adapters(trunk: nn.Module, config: LoraConfig) -> None:
    peft = require("peft", extra="train")
    if not hasattr(trunk, "add_adapter"):
        raise ConfigError(f"a {type(trunk).__name__} takes no adapters; use trunk: full")
    targets = "all-linear" if config.target_modules is None else list(config.target_modules)
    trunk.add_adapter(  # type: ignore[operator]
        peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=targets)
    )


def _children(root: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    for parent in root.modules():
        for name, child in parent.named_children():
            yield parent, name, child
