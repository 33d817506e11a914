"""Hyperbolic encoders (HypRAG): a lift on top of any trunk, and a transformer that never leaves the hyperboloid.

The family makes heads for flat and hyperbolic trunks, and loads pre-trained encoders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sentence_transformers.sentence_transformer.modules import Normalize
from torch import nn

from hyperseek.errors import ConfigError
from hyperseek.models.families import Family, ModelConfig, encoder_modules, join_routes, transformer_of
from hyperseek.models.families.lorentz.config import SIMILARITIES, LorentzConfig, LorentzEncoderConfig, pooling_options
from hyperseek.models.families.lorentz.encoder import LorentzEncoder
from hyperseek.models.families.lorentz.head import LorentzHead
from hyperseek.models.families.lorentz.transformer import (
    LorentzPoints,
    LorentzPooling,
    LorentzTransformer,
    lorentz_model,
    pooling_module,
)
from hyperseek.models.modules import route_width
from hyperseek.models.retriever import Retriever
from hyperseek.nn.tangent_projection import Curvature

if TYPE_CHECKING:
    from hyperseek.models.model_files import ModelFiles

_HOMES: list[tuple[type[nn.Module], str, str]] = [
    (LorentzHead, "_lorentz_head", "families.lorentz.head"),
    (LorentzTransformer, "_lorentz_transformer", "families.lorentz.transformer"),
    (LorentzPooling, "_lorentz_transformer", "families.lorentz.transformer"),
    (LorentzPoints, "_lorentz_points", "families.lorentz.points"),
]


class Lorentz(Family):
    """Queries and documents are points of a hyperbolic space."""

    config = LorentzConfig
    architectures = (LorentzEncoderConfig.model_type,)
    modules = (LorentzHead, LorentzTransformer, LorentzPooling, LorentzPoints)
    former_names = {  # noqa: RUF012  # never changed
        f"hyperseek.models.{home}.{module.__name__}": module for module, *homes in _HOMES for home in homes
    }

    def check(self, config: ModelConfig) -> None:
        """See `Family.check`."""
        if config.document_trunk is not None:
            raise ValueError("family: lorentz uses one trunk for queries and documents; leave document_trunk out")

    def build(self, trunk: Retriever, document_trunk: Retriever, config: ModelConfig) -> Retriever:
        """Build a hyperbolic encoder, hybrid or fully so; see `Family.build`."""
        options: LorentzConfig = config.options
        modules = self._modules(trunk, config, options)
        similarity = "dot" if options.curved else options.distance
        return join_routes(modules, modules, trunk, similarity)

    def _modules(self, trunk: Retriever, config: ModelConfig, options: LorentzConfig) -> list[nn.Module]:
        modules = trunk.route("document")
        if isinstance(modules[0], LorentzTransformer):
            if config.pooling is not None or config.normalize:
                raise ConfigError(
                    "this trunk's states are points, not vectors; instead of pooling, give lorentz.pooling"
                )
            return _with_options(modules[0], modules[1], options)
        if options.pooling is not None and config.pooling is not None:
            raise ConfigError(
                f"pooling is given twice: {config.pooling} and lorentz.pooling {options.pooling}; give one"
            )
        if options.point_pooling is not None:
            first = transformer_of(trunk, f"pooling {options.pooling} can be chosen")
            if config.normalize:
                raise ConfigError(f"normalize applies to vectors, but pooling {options.pooling} lifts tokens; omit it")
            return [first, LorentzHead(first.get_embedding_dimension(), **options.model_dump())]
        pooling = config.pooling if options.pooling is None else options.pooling.removeprefix("euc_")
        # Norms become distances from the origin, so vectors are normalised only if the trunk does so itself.
        habit = pooling is None and isinstance(modules[-1], Normalize)
        changes = {"pooling": pooling, "normalize": habit if config.normalize is None else config.normalize}
        modules, _ = encoder_modules(trunk, config.model_copy(update=changes))
        return [*modules, LorentzHead(route_width(modules), **options.model_dump())]

    def load(self, files: ModelFiles, *, source: str, device: str | None, trust_remote_code: bool) -> Retriever:
        """Load a bare encoder with the pooling of its configuration, or `cls`; see `Family.load`."""
        location, revision = files.location, files.revision
        encoder = LorentzEncoder.from_pretrained(location, revision=revision)
        trunk = LorentzTransformer(
            location, model_kwargs={"revision": revision}, processor_kwargs={"revision": revision}
        )
        size = trunk.get_embedding_dimension()
        pooling = LorentzPooling(size) if encoder.pooler is None else pooling_module(encoder.pooler, size)
        return Retriever(lorentz_model(trunk, pooling, device=device), source=source)


# Options that apply to a fully hyperbolic encoder; the others configure the lift of a flat one.
_SAID = (
    "distance",
    "output_dimension",
    "trainable_curvature",
    "pooling",
    "pooling_power",
    "pooling_saturation",
    "pooling_keep_radius",
)


def _with_options(encoder: LorentzTransformer, pooling: nn.Module, config: LorentzConfig) -> list[nn.Module]:
    """Return the modules of a fully hyperbolic retriever, configured by a recipe.

    Args:
        encoder: The trunk as loaded.
        pooling: Its pooling as loaded.
        config: Options of the recipe; only those in `_SAID` may differ from the defaults.

    Returns:
        The encoder itself, its pooling or a new one, and the last module.

    Raises:
        ConfigError: The recipe has an option of the lift, which this encoder does not need.
    """
    default = LorentzConfig()
    said = [name for name in LorentzConfig.model_fields if getattr(config, name) != getattr(default, name)]
    meaningless = [name for name in said if name not in _SAID]
    if meaningless or config.distance not in SIMILARITIES or (config.pooling and config.point_pooling is None):
        wrong = ", ".join(meaningless) or f"distance {config.distance} with pooling {config.pooling}"
        raise ConfigError(
            f"this trunk is fully hyperbolic and needs no lift: under lorentz, {wrong} has no effect; "
            f"the options that apply are {', '.join(_SAID)}, with a hyperbolic distance and a pooling hyp_..."
        )
    size = encoder.get_embedding_dimension()
    if config.trainable_curvature:
        _train_curvature(encoder)
    if config.point_pooling is not None:
        pooling = LorentzPooling(size, config.point_pooling, **pooling_options(config))
    return [encoder, pooling, LorentzPoints(size, config.distance, output_dimension=config.output_dimension)]


def _train_curvature(encoder: LorentzTransformer) -> None:
    """Turn the curvature of an encoder into a parameter, with the same value."""
    old, config = encoder.model.curvature, encoder.model.config
    least, most = old.bounds
    encoder.model.curvature = Curvature(old.radius_squared, trainable=True, least=least, most=most)
    config.trainable_curvature = True
