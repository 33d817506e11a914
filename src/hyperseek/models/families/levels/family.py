"""The family of models with levels."""

from __future__ import annotations

from hyperseek.errors import ConfigError
from hyperseek.models.families.levels.config import LevelsConfig
from hyperseek.models.families.levels.head import LevelsHead
from hyperseek.models.family import Family, ModelConfig, encoder_modules, join_routes, transformer_of
from hyperseek.models.modules import route_width
from hyperseek.models.retriever import Retriever


class LevelsFamily(Family):
    """Queries and documents have a hyperbolic point per level, from the broadest to the narrowest."""

    config = LevelsConfig
    section = "levels"
    copies_head = True
    modules = (LevelsHead,)

    def check(self, config: ModelConfig) -> None:
        """See `Family.check`."""
        options: LevelsConfig = config.options
        if config.document_trunk is not None:
            raise ValueError("family: levels uses one trunk for queries and documents; leave document_trunk out")
        if options.pooling == "attention" and (config.pooling is not None or config.normalize is not None):
            raise ValueError(
                "levels.pooling: attention reads the states of tokens, so that pooling and normalize have no effect; "
                "leave them out, or take levels.pooling: trunk"
            )

    def build(self, trunk: Retriever, document_trunk: Retriever, config: ModelConfig) -> Retriever:
        """Put a head with levels behind the trunk; see `Family.build`."""
        options: LevelsConfig = config.options
        modules, _ = encoder_modules(trunk, config)
        if options.pooling == "attention":
            size = transformer_of(trunk, "tokens can be pooled").get_embedding_dimension()
        else:
            size = route_width(modules)
        modules = [*modules, LevelsHead(size, **options.model_dump())]
        return join_routes(modules, modules, trunk, "cosine")

    def copy_head(self, source: Retriever, target: Retriever) -> None:
        """Copy a head with levels; see `Family.copy_head`."""
        theirs, ours = source.route("query")[-1], target.route("query")[-1]
        if not isinstance(theirs, LevelsHead) or not isinstance(ours, LevelsHead):
            raise ConfigError("head_from must be a model with levels")
        told, asked = ({**head.get_config_dict(), "seed": None, "start": None} for head in (theirs, ours))
        different = [f"{name} {told[name]} instead of {asked[name]}" for name in told if told[name] != asked[name]]
        if different:
            raise ConfigError(f"the head of head_from has {', '.join(different)}; set these under model.levels")
        ours.load_state_dict(theirs.state_dict())
