"""Building a new retriever from a configuration: a trunk, and its family's modules behind it."""

from __future__ import annotations

from hyperseek._machine import check_device
from hyperseek.errors import ConfigError
from hyperseek.models.family import FAMILIES, ModelConfig
from hyperseek.models.loading import load, set_length
from hyperseek.models.retriever import SIDES, Retriever


def build(config: ModelConfig, *, device: str | None = None) -> Retriever:
    """Build the retriever that a configuration describes.

    Args:
        config: The configuration.
        device: Where to put it; None takes a GPU if there is one.

    Returns:
        A new retriever. One of family `qnet` with a warm start scores exactly as its trunk does.

    Raises:
        ConfigError: The parts do not fit together.
        InputError: The device is not there.
        ModelError: A trunk cannot be loaded.
    """
    device = check_device(device)
    retriever = trunk = load(config.trunk, device=device)
    family = None if config.family is None else FAMILIES[config.family]()
    if family is not None:
        document_trunk = trunk if config.document_trunk is None else load(config.document_trunk, device=device)
        for each in (trunk, document_trunk):
            only = getattr(each.route("document")[0], "only_family", config.family)
            if only != config.family:
                raise ConfigError(
                    f"no other family than {only} can read the states of this trunk; take family: {only}, not "
                    f"{config.family}"
                )
        retriever = family.build(trunk, document_trunk, config)
    _set_lengths_and_prompts(retriever, config)
    if family is not None and config.head_from is not None:
        family.copy_head(load(config.head_from, device="cpu"), retriever)
    return retriever


def _set_lengths_and_prompts(retriever: Retriever, config: ModelConfig) -> None:
    retriever.model.prompts.update({str(side): prompt for side, prompt in config.prompts.items()})
    for side in SIDES:
        length = config.query_length if side == "query" else config.document_length
        if length is None:
            continue
        set_length(retriever, side, length)
