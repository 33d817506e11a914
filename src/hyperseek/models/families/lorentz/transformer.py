"""The fully hyperbolic encoder as sentence-transformers modules, and retrievers built around it."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from torch import nn

from hyperseek.errors import ConfigError, ModelError
from hyperseek.models.families.lorentz.config import SIMILARITIES, Distance, LorentzConfig
from hyperseek.models.families.lorentz.encoder import LorentzEncoder
from hyperseek.models.families.lorentz.points import CurvatureReader, LorentzPoints
from hyperseek.nn.lorentz import LorentzPooler
from hyperseek.nn.tangent_projection import Curvature

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hyperseek.nn.lorentz import PoolingName


class LorentzTransformer(Transformer):
    """The trunk. Reads tokenised texts; writes `token_embeddings` `(B, S, d)` points and `radius_squared`, 0-dim.

    It takes every argument of sentence-transformers' `Transformer`, and saves alike: the folder also loads as
    `LorentzEncoder`, and in transformers' `AutoModel` where hyperseek was imported.

    Args:
        model_name_or_path: Folder or name of a `LorentzEncoder` or `LorentzForMaskedLM` with its tokenizer.
        **options: See `Transformer`.

    Raises:
        ModelError: The model is of another kind, or lacks tensors.
    """

    model: LorentzEncoder

    def __init__(self, model_name_or_path: str, **options: Any) -> None:
        # The pooling, if the encoder has one, is a module of its own here.
        options["model_kwargs"] = {**(options.get("model_kwargs") or {}), "add_pooling_layer": False}
        super().__init__(model_name_or_path, **options)
        if not isinstance(self.model, LorentzEncoder):
            raise ModelError(f"{model_name_or_path} is a {type(self.model).__name__}, not a LorentzEncoder")
        self.model.config.pooling = None

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Encode the tokens of `features`, and return these with what was added."""
        features = super().forward(features, **kwargs)
        features["radius_squared"] = self.model.curvature()
        return features


class LorentzPooling(CurvatureReader):
    """Pool token points to one of the text.

    Reads `token_embeddings`, `attention_mask` and `radius_squared` (from the trunk where it is missing); writes
    `sentence_embedding`, `(B, d)` points, float32 or wider.

    Args:
        size: Coordinates of a point, time included.
        pooling: See `hyperseek.nn.lorentz.LorentzPooler`, as for all that follow.
        power: See there.
        saturation: See there.
        keep_radius: See there.
    """

    config_keys = ("size", "pooling", "power", "saturation", "keep_radius")  # type: ignore[assignment]  # a list there

    def __init__(
        self,
        size: int,
        pooling: PoolingName = "cls",
        *,
        power: float = 1.0,
        saturation: float = 0.0,
        keep_radius: bool = False,
    ) -> None:
        super().__init__()
        self.size = size
        self.pooling = pooling
        self.power = power
        self.saturation = saturation
        self.keep_radius = keep_radius
        self.pooler = LorentzPooler(pooling, size, power=power, saturation=saturation, keep_radius=keep_radius)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Write the pooled points, and return the features."""
        points = features["token_embeddings"]
        with torch.autocast(points.device.type, enabled=False):
            features["sentence_embedding"] = self.pooler(
                points, features.get("attention_mask"), self.radius_squared(features)
            )
        return features

    def get_embedding_dimension(self) -> int:
        """Return how many coordinates a point has, time included."""
        return self.size


def pooling_module(pooler: LorentzPooler, size: int) -> LorentzPooling:
    """Return the pooling of an encoder as a module.

    Args:
        pooler: The pooling; its weights are copied.
        size: Coordinates of a point.

    Returns:
        The module.
    """
    module = LorentzPooling(
        size, pooler.pooling, power=pooler.power, saturation=pooler.saturation, keep_radius=pooler.keep_radius
    )
    module.pooler.load_state_dict(pooler.state_dict())
    return module


def transformer_module(encoder: LorentzEncoder, tokenizer: PreTrainedTokenizerBase) -> LorentzTransformer:
    """Return an encoder in memory as a module.

    Args:
        encoder: The encoder; it is copied, without its pooling.
        tokenizer: Its tokenizer.

    Returns:
        The trunk of a retriever.
    """
    with tempfile.TemporaryDirectory() as folder:
        encoder.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return LorentzTransformer(folder)


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
