"""Building a new retriever from a configuration: a trunk, a family, and how the one is started from the other."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from pydantic import Field, model_validator
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Router, Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from sentence_transformers.sentence_transformer.modules.pooling import PoolingMode
from torch import nn

from hyperseek._config import Config, meaningless
from hyperseek._machine import check_device
from hyperseek.errors import ConfigError
from hyperseek.models.families.lorentz.config import LorentzConfig
from hyperseek.models.families.lorentz.head import LorentzHead
from hyperseek.models.families.lorentz.transformer import LorentzTransformer, with_options
from hyperseek.models.families.qnet import QNetHead
from hyperseek.models.loading import load
from hyperseek.models.retriever import Retriever, Side
from hyperseek.models.saving import route_width
from hyperseek.nn.hyper_head import Initialisation


class QNetConfig(Config):
    """The q-net and its hyper-head.

    Attributes:
        depth: Hidden layers, all as wide as the document vectors; ignored where `vector_dimensions` is given.
        vector_dimensions: `[d, hidden, ..., 1]`, or None to derive it from `depth`.
        converter: Name of a registered q-net converter.
        converter_kwargs: Its further arguments (activation, layer norm, residual, dropout).
        warm_start: Start from the trunk's own similarity; needs no training to be as good as the trunk.
        initialisation: None takes `"zero_last"` with a warm start and `"original"` without.
        embedding_representation: None, `"mean"` or `"cls"`.
    """

    depth: int = Field(default=1, ge=0)
    vector_dimensions: tuple[int, ...] | None = None
    converter: str = "repeated_dense_block"
    converter_kwargs: dict[str, Any] = Field(default_factory=dict)
    warm_start: bool = True
    initialisation: Initialisation | None = None
    embedding_representation: Literal["mean", "cls"] | None = None


class LinearHeadConfig(Config):
    """A linear map of vectors, started as the identity.

    Attributes:
        sides: Which vectors are mapped. With `"query"` every index of the trunk stays valid.
        dimension: Output size; None keeps the trunk's.
    """

    sides: Literal["query", "both"] = "query"
    dimension: int | None = Field(default=None, ge=1)


class ModelConfig(Config):
    """What model a recipe starts from.

    Attributes:
        trunk: Path or name of an encoder, or `"minilm"`; or of a complete retriever to be trained further.
        family: `"dense"`: queries are vectors. `"qnet"`: queries are small networks. `"lorentz"`: queries and
            documents are points of a hyperbolic space. None takes the trunk as it is.
        document_trunk: Path or name of another encoder for documents; None shares one trunk between both sides.
        pooling: `cls`, `mean`, `lasttoken` ...; None takes the trunk's own.
        normalize: Scale vectors to norm 1; None takes the trunk's own habit.
        prompts: Texts put before queries and documents: `{"query": ..., "document": ...}`.
        query_length: Most tokens of a query; None takes the trunk's.
        document_length: Most tokens of a document; None takes the trunk's.
        qnet: For the family `qnet`; other families do not read it, so that recipes of one base may differ in the
            family alone.
        lorentz: For the family `lorentz`, in the same way.
        linear: For the family `dense`: a linear map behind the trunk; None for none.
        head_from: A q-net model whose hyper-head is copied onto this trunk (the reproduction's
            `hypernetwork_checkpoint_path`).
    """

    trunk: str
    family: Literal["dense", "qnet", "lorentz"] | None = None
    document_trunk: str | None = None
    pooling: str | None = None
    normalize: bool | None = None
    prompts: dict[Literal["query", "document"], str] = Field(default_factory=dict)
    query_length: int | None = Field(default=None, ge=1)
    document_length: int | None = Field(default=None, ge=1)
    qnet: QNetConfig = QNetConfig()
    lorentz: LorentzConfig = LorentzConfig()
    linear: LinearHeadConfig | None = None
    head_from: str | None = None

    @model_validator(mode="after")
    def _check_family(self) -> ModelConfig:
        if self.linear is not None and self.family != "dense":
            raise ValueError("a linear head needs family: dense")
        if self.family is None:
            given = [name for name in ("document_trunk", "pooling", "normalize") if getattr(self, name) is not None]
            if given:
                raise meaningless(given[0], "with a family; without one the trunk is taken as it is")
        if self.family == "lorentz" and self.document_trunk is not None:
            raise ValueError("family: lorentz lifts queries and documents of one trunk; leave document_trunk out")
        if self.head_from is not None and self.family != "qnet":
            raise ValueError("head_from needs family: qnet")
        return self


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
    trunk = load(config.trunk, device=device)
    if config.family is None:
        retriever = trunk
    else:
        document_trunk = trunk if config.document_trunk is None else load(config.document_trunk, device=device)
        query_modules, query_unit = _encoder_modules(trunk, config)
        document_modules, document_unit = (
            (list(query_modules), query_unit) if document_trunk is trunk else _encoder_modules(document_trunk, config)
        )
        similarity = trunk.model.similarity_fn_name
        if config.family == "qnet":
            query_modules = _with_qnet(query_modules, document_modules, config)
            similarity = "dot"
            if query_unit != document_unit:
                raise ConfigError("a q-net needs both trunks to normalise their vectors, or neither; set normalize")
        elif config.family == "lorentz":
            query_modules = document_modules = _with_lorentz(trunk, config)
            distance = config.lorentz.distance
            similarity = distance if distance == "cosine" or distance == "euclidean" else "dot"
        elif config.linear is not None:
            query_modules, document_modules = _with_linear(query_modules, document_modules, config.linear)
        model = SentenceTransformer(
            modules=_routes(query_modules, document_modules),
            device=device,
            prompts={side: prompt or "" for side, prompt in trunk.model.prompts.items()},
            similarity_fn_name=similarity,
        )
        retriever = Retriever(model, source=config.trunk)
    _set_lengths_and_prompts(retriever, config)
    if config.head_from is not None:
        _copy_head(load(config.head_from, device="cpu"), retriever)
    return retriever


def _encoder_modules(trunk: Retriever, config: ModelConfig) -> tuple[list[nn.Module], bool]:
    """Return trunk, pooling and normalisation, and whether vectors come out with norm 1."""
    modules = trunk.route("document")
    if isinstance(modules[0], LorentzTransformer) and config.family != "lorentz":
        raise ConfigError(f"this trunk's states are hyperbolic points; take family: lorentz, not {config.family}")
    if config.pooling is not None:
        first = modules[0]
        if not isinstance(first, Transformer):
            raise ConfigError(f"pooling can be chosen for transformer trunks only, not for a {type(first).__name__}")
        modules = [first, Pooling(first.get_embedding_dimension(), cast(PoolingMode, config.pooling))]
    unit = isinstance(modules[-1], Normalize)
    # A q-net's inner product with a vector of norm 1 is the trunk's cosine.
    wanted = config.normalize if config.normalize is not None else unit or trunk.model.similarity_fn_name == "cosine"
    if config.family != "qnet" and config.normalize is None:
        wanted = unit or (config.pooling is not None and trunk.model.similarity_fn_name == "cosine")
    modules = modules[:-1] if unit else modules
    return [*modules, Normalize()] if wanted else modules, wanted


def _with_qnet(
    query_modules: list[nn.Module], document_modules: list[nn.Module], config: ModelConfig
) -> list[nn.Module]:
    first = query_modules[0]
    if not isinstance(first, Transformer):
        raise ConfigError(f"a q-net needs a trunk with token states, not a {type(first).__name__}")
    dimension = route_width(document_modules)
    qnet = config.qnet
    sizes = list(qnet.vector_dimensions or (*[dimension] * (qnet.depth + 1), 1))
    if qnet.converter == "repeated_dense_block":
        if sizes[0] != dimension:
            raise ConfigError(f"vector_dimensions begins with {sizes[0]}, but document vectors have {dimension}")
        kwargs = {**qnet.converter_kwargs, "vector_dimensions": sizes}
    else:
        kwargs = dict(qnet.converter_kwargs)
    if qnet.warm_start and (width := route_width(query_modules)) != dimension:
        raise ConfigError(f"a warm start needs query and document vectors of one size, not {width} and {dimension}")
    head = QNetHead(
        first.get_embedding_dimension(),
        kwargs,
        converter=qnet.converter,
        warm_start=qnet.warm_start,
        initialisation=qnet.initialisation or ("zero_last" if qnet.warm_start else "original"),
        embedding_representation=qnet.embedding_representation,
        gate=_first_gate(sizes, qnet),
    )
    return [*query_modules, head] if qnet.warm_start else [first, head]


def _with_lorentz(trunk: Retriever, config: ModelConfig) -> list[nn.Module]:
    """Return the modules of both sides of a hyperbolic encoder, hybrid or fully so."""
    options = config.lorentz
    modules = trunk.route("document")
    if isinstance(modules[0], LorentzTransformer):
        if config.pooling is not None or config.normalize:
            raise ConfigError("this trunk's states are points, not vectors; instead of pooling, give lorentz.pooling")
        return with_options(modules[0], modules[1], options)
    if options.pooling is not None and config.pooling is not None:
        raise ConfigError(f"pooling is given twice: {config.pooling} and lorentz.pooling {options.pooling}; give one")
    if options.point_pooling is not None:
        first = trunk.route("document")[0]
        if not isinstance(first, Transformer):
            raise ConfigError(f"pooling {options.pooling} needs token states, not a {type(first).__name__}'s vectors")
        if config.normalize:
            raise ConfigError(f"normalize is for vectors, and pooling {options.pooling} lifts tokens; leave it out")
        return [first, LorentzHead(first.get_embedding_dimension(), **options.model_dump())]
    pooling = config.pooling if options.pooling is None else options.pooling.removeprefix("euc_")
    # Norms become distances from the origin, so vectors are normalised only where the trunk itself does that.
    habit = pooling is None and isinstance(trunk.route("document")[-1], Normalize)
    changes = {"pooling": pooling, "normalize": habit if config.normalize is None else config.normalize}
    modules, _ = _encoder_modules(trunk, config.model_copy(update=changes))
    return [*modules, LorentzHead(route_width(modules), **options.model_dump())]


def _first_gate(sizes: list[int], config: QNetConfig) -> float:
    """Return the factor of a new q-net's score.

    A layer-normalised hidden state is `sqrt(size)` long, where the points of the base similarity have norm 1. Without
    this factor one step of the optimiser changes a q-net's score that many times as much as it changes the base, and
    a warm start is forgotten before anything is learned.
    """
    deep = len(sizes) > 2 and config.converter == "repeated_dense_block"
    return sizes[-2] ** -0.5 if config.warm_start and deep else 1.0


def _with_linear(
    query_modules: list[nn.Module], document_modules: list[nn.Module], config: LinearHeadConfig
) -> tuple[list[nn.Module], list[nn.Module]]:
    width = route_width(query_modules)
    size = config.dimension or width
    if config.sides == "query" and size != width:
        raise ConfigError(f"a linear head of dimension {size} on queries alone does not fit documents of {width}")
    head = Dense(width, size, bias=False, activation_function=None, init_weight=torch.eye(size, width))
    documents = document_modules if config.sides == "query" else [*document_modules, head]
    return [*query_modules, head], documents


def _routes(query_modules: list[nn.Module], document_modules: list[nn.Module]) -> list[nn.Module]:
    same = len(query_modules) == len(document_modules) and all(
        ours is theirs for ours, theirs in zip(query_modules, document_modules, strict=True)
    )
    if same:
        return query_modules
    return [Router.for_query_document(query_modules, document_modules)]  # type: ignore[arg-type]


def _set_lengths_and_prompts(retriever: Retriever, config: ModelConfig) -> None:
    retriever.model.prompts.update({str(side): prompt for side, prompt in config.prompts.items()})
    lengths: dict[Side, int | None] = {"query": config.query_length, "document": config.document_length}
    for side, length in lengths.items():
        first = retriever.route(side)[0]
        if length is None:
            continue
        if not isinstance(first, Transformer):
            raise ConfigError(f"{side}_length can be set for transformer trunks only, not for {type(first).__name__}")
        setattr(first, f"{side}_length", length)


def _copy_head(source: Retriever, target: Retriever) -> None:
    theirs, ours = source.route("query")[-1], target.route("query")[-1]
    if not isinstance(theirs, QNetHead) or not isinstance(ours, QNetHead):
        raise ConfigError("head_from must be a q-net model")
    try:
        ours.head.load_state_dict(theirs.head.state_dict())
    except RuntimeError as error:
        raise ConfigError(f"the hyper-head of head_from does not fit this q-net: {error}") from None
