"""Families of models: what is built behind a trunk, and how saved models are recognised and opened.

A family is one file or folder here, or a class of another package, registered under the name that a
recipe gives as `model.family`. Nothing outside a family asks which family a model belongs to: what distinguishes models
is answered by their modules (see `models/modules.py`) and spaces.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, cast

from pydantic import BaseModel, Field, model_validator
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router, Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling
from sentence_transformers.sentence_transformer.modules.pooling import PoolingMode
from torch import nn

from hyperseek._config import OpenConfig, meaningless
from hyperseek._registry import Registry
from hyperseek.errors import ConfigError, InputError, shown
from hyperseek.models.model_files import PLAIN, ModelFiles
from hyperseek.models.retriever import Retriever

logger = logging.getLogger(__name__)


class Family:
    """The base class of families. Instances have no state.

    Attributes:
        config: A pydantic model of the family's own options, a section of `ModelConfig`; None for no options.
        section: Name of that section; None takes the family's name.
        default_section: Whether a model of this family has the section even if a recipe leaves it out. If not, the
            section asks for a part of the model, and is refused with another family.
        copies_head: Whether the family implements `copy_head`, for `ModelConfig.head_from`.
        modules: The family's own modules, which `load` builds from a saved model without trusting its code. In
            `modules.json` they are called `MODULE.CLASS`, by their `__module__`, which should be a public module.
        former_names: Their names in `modules.json` in earlier versions.
        containers: Kinds of sentence-transformers containers that `load` opens (`model_type` of
            `config_sentence_transformers.json`).
        architectures: Models of transformers that `load` opens: a `model_type` or one of the `architectures` of
            `config.json`.
    """

    config: ClassVar[type[BaseModel] | None] = None
    section: ClassVar[str | None] = None
    default_section: ClassVar[bool] = True
    copies_head: ClassVar[bool] = False
    modules: ClassVar[tuple[type[nn.Module], ...]] = ()
    former_names: ClassVar[Mapping[str, type[nn.Module]]] = {}
    containers: ClassVar[tuple[str, ...]] = ()
    architectures: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def module_names(cls) -> dict[str, type[nn.Module]]:
        """Return the family's own modules by every name that saved models have for them."""
        return {f"{module.__module__}.{module.__name__}": module for module in cls.modules} | dict(cls.former_names)

    def check(self, config: ModelConfig) -> None:
        """Raise ValueError if a recipe has a field that this family does not read.

        Args:
            config: Names this family; its section is validated.
        """

    def build(self, trunk: Retriever, document_trunk: Retriever, config: ModelConfig) -> Retriever:
        """Build a model behind a trunk; the recipe's lengths and prompts are set afterwards.

        Args:
            trunk: The trunk of queries, whose modules become part of the model.
            document_trunk: The trunk of documents; `trunk` itself if both sides share one.
            config: The recipe's section `model`.

        Returns:
            The new model, whose `source` is `config.trunk`.

        Raises:
            ConfigError: This family cannot be built behind this trunk.
        """
        raise NotImplementedError

    def copy_head(self, source: Retriever, target: Retriever) -> None:
        """Copy the head's weights from one model of this family to another, for `ModelConfig.head_from`.

        Args:
            source: The trained model.
            target: The new model, as built.

        Raises:
            ConfigError: `source` is not of this family, or the sizes of its head differ.
        """
        raise NotImplementedError

    def recognises(self, files: ModelFiles) -> bool:
        """Say whether this family opens a model, by default according to `containers` and `architectures`.

        `load` asks about models that are not plain sentence-transformers stacks: those with another kind of container,
        and those without `modules.json`.

        Args:
            files: The model's small files.

        Returns:
            True if the model is of this family.
        """
        kind = files.container.model_type
        if kind not in PLAIN:
            return kind in self.containers
        return not set(self.architectures).isdisjoint(files.architecture.names)

    def load(self, files: ModelFiles, *, source: str, device: str | None, trust_remote_code: bool) -> Retriever:
        """Open a model for which `recognises` returned True.

        Args:
            files: The model's location, revision and small files.
            source: Its name as the user gave it.
            device: Where to put it; None takes a GPU if there is one.
            trust_remote_code: Whether code that comes with the model may run.

        Returns:
            The model.
        """
        raise NotImplementedError


def _check_family(name: str, value: Any) -> None:
    if not (isinstance(value, type) and issubclass(value, Family)):
        raise InputError(f"the family {name!r} must be a subclass of hyperseek.models.Family, not {shown(value)}")
    section = value.section or name
    if section in ModelConfig.model_fields or section in map(_section_of, _OWN):
        raise InputError(f"the section {section!r} of the family {name!r} is taken; choose another")


_OWN = {
    "card": "hyperseek.models.families.dense:CardFamily",
    "dense": "hyperseek.models.families.dense:Dense",
    "late": "hyperseek.models.families.late:Late",
    "levels": "hyperseek.models.families.level_head:LevelsFamily",
    "lorentz": "hyperseek.models.families.lorentz:Lorentz",
    "qnet": "hyperseek.models.families.qnet:QNet",
}
FAMILIES: Registry[type[Family]] = Registry("family", "hyperseek.families", _OWN, check=_check_family)
"""All families by name, those of other packages included."""


def register_family(name: str, family: type[Family] | None = None) -> Any:
    """Register a family of yours, so that recipes, the command line and `load` know it.

    Args:
        name: Its name, as recipes give it in `model.family`.
        family: The class, which extends `Family`; None to use the result as a decorator.

    Returns:
        The class, or a decorator.

    Raises:
        InputError: The name or its section is taken, or the class does not extend `Family`.
    """
    return FAMILIES.register(name, family)


def usable_families() -> Iterator[tuple[str, type[Family]]]:
    """Iterate over all families, ours first; one that cannot be imported is skipped with a warning, once.

    Yields:
        Name and class.
    """
    for name in sorted(FAMILIES, key=lambda name: (name not in _OWN, name)):
        try:
            family = FAMILIES[name]
        except InputError as error:
            if name not in _reported:
                logger.warning("the family %r is left out: %s", name, error)
                _reported.add(name)
        else:
            yield name, family


_reported: set[str] = set()


class _Sections(Mapping[str, type[BaseModel]]):
    """Sections of all families; a family is imported only when its section is asked for."""

    def __getitem__(self, name: str) -> type[BaseModel]:
        near = [(name, FAMILIES[name])] if name in FAMILIES else usable_families()
        for family, kind in near:
            if (kind.section or family) == name and kind.config is not None:
                return kind.config
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (kind.section or name for name, kind in usable_families() if kind.config is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _section_of(family: str) -> str:
    return FAMILIES[family].section or family


class ModelConfig(OpenConfig):
    """The model that a recipe starts from.

    Besides the fields below it has a section for each family (`qnet`, `lorentz`, `levels`, `late`, and `linear` of the
    family `dense`). Only the section of the named family is kept; the others are validated and dropped, so that recipes
    with one base may differ in the family alone.

    Attributes:
        trunk: Path or name of an encoder, or `"minilm"`; or of a complete retriever to train further.
        family: Name of a registered family. `"dense"`: queries are vectors. `"qnet"`: queries are small networks.
            `"lorentz"`: queries and documents are points of a hyperbolic space. `"levels"`: they have several such
            points each, from the broadest to the narrowest. `"late"`: queries and documents have a vector per token.
            None takes the trunk as it is.
        document_trunk: Path or name of another encoder for documents; None shares one trunk between both sides.
        pooling: `cls`, `mean`, `lasttoken` ...; None takes the trunk's own.
        normalize: Whether to scale vectors to norm 1; None does what the trunk does.
        prompts: Texts put before queries and documents: `{"query": ..., "document": ...}`.
        query_length: Most tokens of a query; None takes the trunk's.
        document_length: Most tokens of a document; None takes the trunk's.
        head_from: A model of the same family whose head is copied onto this trunk (the reproduction's
            `hypernetwork_checkpoint_path`).
    """

    trunk: str
    family: str | None = None
    document_trunk: str | None = None
    pooling: str | None = None
    normalize: bool | None = None
    prompts: dict[Literal["query", "document"], str] = Field(default_factory=dict)
    query_length: int | None = Field(default=None, ge=1)
    document_length: int | None = Field(default=None, ge=1)
    head_from: str | None = None

    @classmethod
    def registered(cls) -> Mapping[str, type[BaseModel]]:
        """Return the sections of all families by name."""
        return _Sections()

    @property
    def options(self) -> Any:
        """The section of the named family; None if it has none."""
        if self.family is None or FAMILIES[self.family].config is None:
            return None
        return self.section(_section_of(self.family))

    def seeded(self, seed: int) -> ModelConfig:
        """Return the configuration with a seed for what the family's section leaves to the run, with `seed: null`."""
        name, options = None if self.family is None else _section_of(self.family), self.options
        if name is None or getattr(options, "seed", 0) is not None:
            return self
        return self.model_copy(update={name: options.model_copy(update={"seed": seed})})

    @model_validator(mode="after")
    def _check_family(self) -> ModelConfig:
        kind = None if self.family is None else FAMILIES[self.family]
        self._keep_own_section(kind)
        if kind is None:
            unread = [name for name in ("document_trunk", "pooling", "normalize") if getattr(self, name) is not None]
            if unread:
                raise meaningless(unread[0], "with a family; without one the trunk is taken as it is")
        if self.head_from is not None and not (kind and kind.copies_head):
            able = [name for name, family in usable_families() if family.copies_head]
            raise ValueError(f"head_from needs family: {' or '.join(able)}")
        if kind is not None:
            kind().check(self)
        return self

    def _keep_own_section(self, kind: type[Family] | None) -> None:
        sections = cast("dict[str, Any]", self.__pydantic_extra__)  # changed in place: the configuration is frozen
        own = None if self.family is None else _section_of(self.family)
        for name in [name for name in sections if name != own]:
            owner, other = next(pair for pair in usable_families() if name == (pair[1].section or pair[0]))
            if sections.pop(name) is not None and not other.default_section:
                raise ValueError(f"{name} needs family: {owner}")
        if own is not None and sections.get(own) is None:
            sections.pop(own, None)
            if kind is not None and kind.config is not None and kind.default_section:
                sections[own] = kind.config()


def encoder_modules(trunk: Retriever, config: ModelConfig, *, unit: bool = False) -> tuple[list[nn.Module], bool]:
    """Return the modules that turn a text into one vector: trunk, pooling and normalisation.

    Args:
        trunk: The model that they come from.
        config: May choose another pooling, and whether vectors have norm 1.
        unit: Whether to normalise vectors if the trunk compares by cosine and the recipe says nothing.

    Returns:
        The modules, and whether their vectors have norm 1.

    Raises:
        ConfigError: The trunk cannot be pooled this way.
    """
    modules = trunk.route("document")
    if config.pooling is not None:
        first = transformer_of(trunk, "pooling can be chosen")
        modules = [first, Pooling(first.get_embedding_dimension(), cast("PoolingMode", config.pooling))]
    normalised = isinstance(modules[-1], Normalize)
    by_cosine = trunk.model.similarity_fn_name == "cosine"
    habit = normalised or (by_cosine and (unit or config.pooling is not None))
    wanted = habit if config.normalize is None else config.normalize
    modules = modules[:-1] if normalised else modules
    return [*modules, Normalize()] if wanted else modules, wanted


def transformer_of(trunk: Retriever, what: str) -> Transformer:
    """Return the transformer that a trunk begins with.

    Args:
        trunk: The trunk.
        what: What needs a transformer, for the message, as in `"pooling can be chosen"`.

    Returns:
        The module.

    Raises:
        ConfigError: It begins with something else, such as static embeddings.
    """
    first = trunk.route("document")[0]
    if not isinstance(first, Transformer):
        raise ConfigError(f"{what} for transformer trunks only, not for a {type(first).__name__}")
    transformer: Transformer = first
    return transformer


def join_routes(
    query_modules: list[nn.Module], document_modules: list[nn.Module], trunk: Retriever, similarity: str | None = None
) -> Retriever:
    """Put two routes into one model.

    Args:
        query_modules: The query route.
        document_modules: The document route; modules that are the same object are shared.
        trunk: The source of device, prompts, name and, if `similarity` is None, the similarity.
        similarity: How sentence-transformers compares vectors.

    Returns:
        The model.
    """
    modules = query_modules
    if [id(module) for module in query_modules] != [id(module) for module in document_modules]:
        modules = [Router.for_query_document(query_modules, document_modules)]  # type: ignore[arg-type]
    model = SentenceTransformer(
        modules=modules,
        device=str(trunk.device),
        prompts={side: prompt or "" for side, prompt in trunk.model.prompts.items()},
        similarity_fn_name=similarity or trunk.model.similarity_fn_name,  # type: ignore[arg-type]
    )
    return Retriever(model, source=trunk.source)
