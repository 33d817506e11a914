"""Building retrievers around a fully hyperbolic encoder."""

from __future__ import annotations

from typing import Any

from sentence_transformers import SentenceTransformer
from torch import nn

from hyperseek._errors import ConfigError
from hyperseek.models._lorentz_config import SIMILARITIES, Distance, LorentzConfig
from hyperseek.models._lorentz_encoder import LorentzEncoder
from hyperseek.models._lorentz_points import LorentzPoints
from hyperseek.models._lorentz_transformer import LorentzPooling, LorentzTransformer, pooling_module
from hyperseek.nn import Curvature

# What a recipe may say of an encoder that is hyperbolic already; the rest is about the lift of one that is not.
_SAID = (
    "distance",
    "output_dimension",
    "trainable_curvature",
    "pooling",
    "pooling_power",
    "pooling_saturation",
    "pooling_keep_radius",
)


def lorentz_model(
    trunk: LorentzTransformer, pooling: LorentzPooling, *, distance: Distance = "geodesic", **options: Any
) -> SentenceTransformer:
    """Put a trunk and its pooling into a model whose two sides an index can be made of and searched with.

    Args:
        trunk: The encoder.
        pooling: The pooling.
        distance: What points are compared by.
        **options: Of `SentenceTransformer`: device, prompts.

    Returns:
        The model.
    """
    modules: list[nn.Module] = [trunk, pooling, LorentzPoints(pooling.size, distance)]
    return SentenceTransformer(modules=modules, similarity_fn_name="dot", **options)


def load_lorentz_encoder(
    location: str, *, device: str | None = None, revision: str | None = None
) -> SentenceTransformer:
    """Load what pre-training saved, an encoder with its tokenizer, as the trunk of a retriever.

    Args:
        location: Folder or Hub name of a `LorentzEncoder` or `LorentzForMaskedLM`.
        device: Where to put it; None takes a GPU if there is one.
        revision: Branch, tag or commit on the Hub.

    Returns:
        The model, with the pooling that the configuration names, or `cls`.
    """
    encoder = LorentzEncoder.from_pretrained(location, revision=revision)
    trunk = LorentzTransformer(location, model_kwargs={"revision": revision}, processor_kwargs={"revision": revision})
    size = trunk.get_embedding_dimension()
    pooling = LorentzPooling(size) if encoder.pooler is None else pooling_module(encoder.pooler, size)
    return lorentz_model(trunk, pooling, device=device)


def with_options(encoder: LorentzTransformer, pooling: nn.Module, config: LorentzConfig) -> list[nn.Module]:
    """Return the modules of a fully hyperbolic retriever with the options of a recipe.

    Args:
        encoder: The trunk, as it was loaded.
        pooling: The pooling it was loaded with.
        config: What the recipe says; its distance, its pooling of points, and whether the curvature is trained.

    Returns:
        The encoder itself, its pooling or a new one, and the step to points.

    Raises:
        ConfigError: The recipe says something of the lift, of which there is none.
    """
    default = LorentzConfig()
    said = [name for name in LorentzConfig.model_fields if getattr(config, name) != getattr(default, name)]
    meaningless = [name for name in said if name not in _SAID]
    if meaningless or config.distance not in SIMILARITIES or (config.pooling and config.point_pooling is None):
        wrong = ", ".join(meaningless) or f"distance {config.distance} with pooling {config.pooling}"
        raise ConfigError(
            f"this trunk is hyperbolic from its embeddings on and needs no lift: under lorentz, {wrong} means nothing; "
            f"what can be said is {', '.join(_SAID)}, with a hyperbolic distance and a pooling hyp_..."
        )
    size = encoder.get_embedding_dimension()
    if config.trainable_curvature:
        train_curvature(encoder)
    if config.point_pooling is not None:
        pooling = LorentzPooling(
            size,
            config.point_pooling,
            power=config.pooling_power,
            saturation=config.pooling_saturation,
            keep_radius=config.pooling_keep_radius,
        )
    return [encoder, pooling, LorentzPoints(size, config.distance, output_dimension=config.output_dimension)]


def train_curvature(encoder: LorentzTransformer) -> None:
    """Make the curvature of an encoder, which it keeps, a parameter."""
    old, config = encoder.model.curvature, encoder.model.config
    least, most = old.bounds
    encoder.model.curvature = Curvature(old.radius_squared, trainable=True, least=least, most=most)
    config.trainable_curvature = True
