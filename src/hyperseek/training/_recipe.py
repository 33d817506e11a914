"""Recipes: one YAML file per run, strict about its keys, and small differences over a base.

`hyperseek._recipe_files` finds recipes and their bases.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from hyperseek._ancestors import HOP_RANGES
from hyperseek._config import Config, meaningless
from hyperseek._folders import cache_folder
from hyperseek._recipe_files import recipe_values
from hyperseek._registry import Registry, check_function
from hyperseek._relevance import known_measure
from hyperseek.cards import Card
from hyperseek.data import PrepareOptions
from hyperseek.errors import ConfigError, UnknownNameError
from hyperseek.models import ModelConfig
from hyperseek.runs.recipe import LoopConfig, OutputConfig, with_default, without_removed
from hyperseek.training.losses import LossesConfig, Material, Objective
from hyperseek.types import NO_OPTIONS, QueryOptions

Composition = Callable[[list[list[int]]], list[list[int]]]
"""From the positions of each source's examples to groups of positions; each batch is drawn from one group."""

_OURS = {name: f"{__name__}:_{name}" for name in ("mixed", "one_source")}
COMPOSITIONS: Registry[Composition] = Registry(
    "composition of batches", "hyperseek.batches", _OURS, check=check_function
)


def register_batches(name: str) -> Callable[[Composition], Composition]:
    """Register a composition of batches, as a decorator.

    Args:
        name: The value of `data.batches` in recipes.

    Returns:
        The decorator, which returns the function unchanged.

    Raises:
        InputError: The name is taken.
    """
    return COMPOSITIONS.register(name)


def _mixed(sources: list[list[int]]) -> list[list[int]]:
    return [[position for source in sources for position in source]]


def _one_source(sources: list[list[int]]) -> list[list[int]]:
    return sources


def _hop_range(name: str) -> str:
    if name not in HOP_RANGES:
        raise UnknownNameError("range of hops", name, HOP_RANGES)
    return name


def _card_fields(given: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    if isinstance(given, dict):
        Card.from_mapping({"name": "card", **given}, source="card")
    return given


HopRange = Annotated[str, BeforeValidator(str), AfterValidator(_hop_range)]


class SourceConfig(Config):
    """A source of training examples.

    Attributes:
        source: A folder that `hyperseek prepare` wrote, or a source that `prepare` accepts: `[NAME=]PLACE[:SPLIT]` with
            a collection (a BEIR folder, `ir_datasets:ID`, `hub:NAME`, `pydocs`, or `NAME:PLACE` of a registered data
            source), `hypencoder:TABLE`, `columns:TABLE`, `reasonir:TABLE` or `kalm:TABLE`. Environment variables, as
            `$HYPERSEEK_DATA`, are filled in; one that is not set is an error.
        limit: Use only this many examples, drawn by seed.
        repeat: How often an epoch goes through this source.
        anchor_only: Whether to drop the judgements and keep the queries, for the anchor loss alone.
        card: For models with cards, the card of its queries: a file, or its fields, as in `{description: ...}`. A card
            without examples gets some of the training examples; None also makes up the description, from the name.
        stranger: For models with cards: the head does not learn this task, and does not know its card; what it does to
            the task all the same teaches it how far to trust a card that is unlike those of the training.
        options: How the source is turned into examples; not for prepared folders.
    """

    source: str
    limit: int | None = Field(default=None, ge=1)
    repeat: int = Field(default=1, ge=1)
    anchor_only: bool = False
    card: Annotated[str | dict[str, Any] | None, AfterValidator(_card_fields)] = None
    stranger: bool = False
    options: PrepareOptions = PrepareOptions()

    def check_options(self, kind: str) -> None:
        """Raise ConfigError if an option is set that a source of this kind does not read.

        Args:
            kind: `qrels`, `hypencoder`, `columns`, `reasonir`, `kalm`, or `prepared`.
        """
        default = PrepareOptions()
        read = {kind} if kind == "prepared" else {kind, "coarse"}
        unread = [
            name
            for name in PrepareOptions.model_fields
            if name not in read and getattr(self.options, name) != getattr(default, name)
        ]
        if unread:
            what = "a prepared folder, which has its own" if kind == "prepared" else f"one of kind {kind}"
            raise ConfigError(f"the source {self.source!r} is {what}: options.{unread[0]} means nothing; leave it out")


class SlicesConfig(Config):
    """Tasks made of parts of the sources, for models with cards to see more tasks than there are sources.

    A slice is a task of its own: its card has the words of the source's card and examples of the slice, and its batches
    hold nothing else.

    Attributes:
        queries: How many clusters of similar queries each source is cut into; 0 for none.
        documents: The same by the queries' first positives.
        difficulty: How many bands of equal size: by how far a teacher scores the first positive above the best
            negative, where examples have scores, or else by the positive's rank by BM25 among the source's documents.
        branches: How many branches of the hierarchy of a source (`options.qrels.hierarchy`): the branch with most
            examples is cut into those below it, until there are as many. Their cards name the branch.
        least: Slices of fewer examples are left out.
        share: Share of the batches that are of slices, with `data.balance`; in (0, 1).
    """

    queries: int = Field(default=0, ge=0)
    documents: int = Field(default=0, ge=0)
    difficulty: int = Field(default=0, ge=0)
    branches: int = Field(default=0, ge=0)
    least: int = Field(default=50, ge=2)
    share: float = Field(default=0.5, gt=0, lt=1)


class DataConfig(Config):
    """The training data.

    Attributes:
        sources: Sources by a name of your choice.
        batches: `mixed` draws every batch from all sources, `one_source` from one at a time, or another name
            registered by `register_batches` or an entry point of `hyperseek.batches`.
        balance: How far an epoch makes up for the size of small sources, by going through them more often: 0 for not at
            all, 1 until all have about as many batches, 0.5 until these are as the roots of their sizes. `repeat`
            of a source counts beside that. For batches of one source at a time.
        slices: For models with cards: parts of the sources as tasks of their own.
        positives: `random` draws one of a query's positives every epoch, `first` always takes the first.
        negatives: How many of a query's own negatives an epoch draws.
        hops: For positives with hops (`qrels.hierarchy`, or prepared hierarchies) and `positives: random`: `balanced`
            first draws one of the ranges 1, 2, 3-4, 5-8 and 9+ that a query has positives in, and then one of these,
            since far ancestors are otherwise rarely asked for (arXiv 2509.16411); weights by range, as in `{9+: 2}`,
            draw ranges in proportion, others having 1. None draws all positives alike.
        extra_documents: Additional documents that every batch is scored with, as negatives and for the anchor; cheap
            if documents are cached.
        extra_from: Where those are drawn from: `examples` are positives and negatives of training examples. `corpus`
            draws from all documents, which teaches that documents without a training query are never relevant: in
            experiments that harmed queries about them.
        length_buckets: How many batches of examples, drawn at random, are sorted by document length before they are
            split into batches; 0 for none. There is less padding, and a batch's documents, which are the negatives
            of its queries, are of similar length.
        auto_lengths: Whether to choose the model's query and document lengths from the examples, negatives and
            prompts included; `model.query_length`, `model.document_length` and the length of a query expansion are
            then upper bounds.
        length_percentile: Fraction of the texts that `auto_lengths` does not truncate; None means 0.95.
        length_sample: Number of examples whose tokens `auto_lengths` counts; None means 500.
    """

    sources: Annotated[dict[str, SourceConfig], BeforeValidator(without_removed)] = Field(min_length=1)
    batches: Annotated[str, AfterValidator(COMPOSITIONS.checked)] = "mixed"
    balance: float = Field(default=0.0, ge=0, le=1)
    slices: SlicesConfig | None = None
    positives: Literal["random", "first"] = "random"
    negatives: int = Field(default=0, ge=0)
    hops: Literal["balanced"] | dict[HopRange, Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = None
    extra_documents: int = Field(default=0, ge=0)
    extra_from: Literal["examples", "corpus"] = "examples"
    length_buckets: int = Field(default=0, ge=0)
    auto_lengths: bool = False
    length_percentile: float | None = Field(default=None, gt=0, le=1)
    length_sample: int | None = Field(default=None, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _write_out(cls, values: Any) -> Any:
        for setting, default in (("length_percentile", 0.95), ("length_sample", 500)):
            values = with_default(values, setting, default, where=("auto_lengths", True))
        return values

    @model_validator(mode="after")
    def _check_tasks(self) -> Self:
        if self.batches == "mixed" and self.balance:
            raise meaningless("balance", "with batches of one source at a time, as batches: one_source, not mixed")
        if self.batches == "mixed" and self.slices is not None:
            raise meaningless("slices", "with batches of one task at a time, as batches: one_source, not mixed")
        return self

    @model_validator(mode="after")
    def _check_hops(self) -> Self:
        if self.hops is not None and self.positives != "random":
            raise meaningless("hops", f"with positives: random, not {self.positives}")
        return self

    @property
    def hop_weights(self) -> dict[str, float] | None:
        """The weight of each range of hops in draws of positives; None if hops do not count."""
        if self.hops is None:
            return None
        return dict.fromkeys(HOP_RANGES, 1.0) | ({} if self.hops == "balanced" else self.hops)

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        for setting in ("length_percentile", "length_sample"):
            if getattr(self, setting) is not None and not self.auto_lengths:
                raise meaningless(setting, "where auto_lengths is true")
        return self

    @model_validator(mode="after")
    def _check_extra(self) -> Self:
        if self.extra_from != "examples" and not self.extra_documents:
            raise ValueError(
                f"extra_from: {self.extra_from} says where extra_documents are drawn, which is 0; raise it"
            )
        return self


class LoraConfig(Config):
    """Low-rank adapters on the trunk, merged into it at the end.

    Attributes:
        rank: Rank of each adapter.
        alpha: Adapters are scaled by `alpha / rank`.
        dropout: Dropout before adapters, in [0, 1).
        target_modules: Names of the linear maps to adapt; None means all of them.
        full_layers: How many of the trunk's last layers are trained in full, with adapters on those before them.
    """

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: tuple[str, ...] | None = None
    full_layers: int = Field(default=0, ge=0)


class CacheConfig(Config):
    """The disk cache of frozen modules' outputs.

    Attributes:
        folder: Its folder; None means `$HYPERSEEK_CACHE`, or `~/.cache/hyperseek`. Environment variables are filled in.
        storage: Number format of token states.
        dtype: Number format that documents are encoded in: `auto`, `float32`, `bfloat16` or `float16`.
        indexes: Folders of indexes of the same document side, whose vectors are taken over instead of encoding
            their documents again. Environment variables are filled in.
        enabled: Whether to cache; otherwise frozen modules run in every step.
    """

    folder: str | None = None
    storage: Literal["float16", "float32"] = "float16"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    indexes: tuple[str, ...] = ()
    enabled: bool = True

    def resolved_folder(self) -> Path:
        """Return the folder, with variables filled in."""
        return cache_folder(self.folder)


class CardsConfig(Config):
    """How the card of a batch is drawn, for models with cards.

    Unless it is left out, a card holds examples drawn from other training examples of the task, never a query of the
    batch nor a document relevant to one.

    Attributes:
        support: Fewest and most queries of a card; it has as many documents, if they are distinct. None keeps the
            examples of the task's own card, but for those of the batch.
        pool: From how many training examples of each source, drawn by seed, these are taken: their documents are read
            in parts, to the end, which takes a while the first time.
        dropout: Share of batches whose card says nothing about the task.
        without_examples: Share of the other cards that are words alone.
        without_description: Share of the other cards that are examples alone.
        wrong: Share of batches that `losses.wrong_card` compares with the card of another task.
        contrasted: How many tasks `losses.card_contrast` draws two cards of for each batch.
    """

    support: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1, le=1000)]] | None = (5, 20)
    pool: int = Field(default=500, ge=2, le=1000)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    without_examples: float = Field(default=0.2, ge=0, le=1)
    without_description: float = Field(default=0.2, ge=0, le=1)
    wrong: float = Field(default=0.1, ge=0, le=1)
    contrasted: int = Field(default=8, ge=2)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.support is not None and self.support[0] > self.support[1]:
            raise ValueError(f"support says the fewest first, then the most, not {self.support}")
        if self.without_examples + self.without_description > 1:
            raise ValueError("without_examples and without_description are shares that add up to at most 1")
        return self


class TrainConfig(LoopConfig):
    """Which parts of the model are trained, and the loop (see `LoopConfig`).

    Attributes:
        trunk: `frozen` trains only the modules after the trunk, `full` everything, `last_layers` the trunk's last
            `last_layers`, `lora` adapters on it.
        sides: Which trunks `trunk` applies to. `query` leaves document vectors, and so every index, unchanged; the
            model then needs a separate trunk for documents (`model.document_trunk`).
        last_layers: How many, for `trunk: last_layers` only; None means 1.
        lora: The adapters, for `trunk: lora` only; None means the defaults.
        mini_batch: Texts per forward pass; None means all of a batch. Smaller ones bound memory without changing
            gradients, at the price of a second forward pass. (In-batch negatives do not cross the batches of
            `gradient_accumulation`.)
        gradient_checkpointing: Whether each layer of the trunk drops its activations and computes them again in the
            backward pass: less memory for a second forward pass. Not for a frozen trunk, which keeps none.
        cache: The cache of frozen modules' outputs.
        cards: How cards are drawn, for models with cards only; None means the defaults.
    """

    trunk: Literal["frozen", "full", "last_layers", "lora"] = "frozen"
    sides: Literal["both", "query"] = "both"
    last_layers: int | None = Field(default=None, ge=1)
    lora: LoraConfig | None = None
    mini_batch: int | None = Field(default=None, ge=1)
    gradient_checkpointing: bool = False
    cache: CacheConfig = CacheConfig()
    cards: CardsConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _write_out(cls, values: Any) -> Any:
        values = with_default(values, "last_layers", 1, where=("trunk", "last_layers"))
        return with_default(values, "lora", {}, where=("trunk", "lora"))

    @model_validator(mode="after")
    def _check_trunk(self) -> Self:
        if self.last_layers is not None and self.trunk != "last_layers":
            raise meaningless("last_layers", f"with trunk: last_layers, not {self.trunk}")
        if self.lora is not None and self.trunk != "lora":
            raise meaningless("lora", f"with trunk: lora, not {self.trunk}")
        if self.sides == "query" and self.trunk == "frozen":
            raise ValueError("sides: query says which trunks are trained, and trunk: frozen trains none; leave it out")
        if self.gradient_checkpointing and self.trunk == "frozen":
            raise meaningless("gradient_checkpointing", "where the trunk is trained, and trunk is frozen")
        if self.cache.indexes and not self.cache.enabled:
            raise meaningless("cache.indexes", "where cache.enabled is true")
        return self


class DevSetConfig(Config):
    """Queries and judgements to validate on.

    Attributes:
        source: As in the training data, but a collection with its split: `PLACE:SPLIT`.
        max_queries: Use at most this many queries, drawn by seed.
        max_documents: Search at most this many documents: all judged ones, and others drawn by seed.
        exclude_same_id: Leave out of each ranking the document whose id is the query's, like the option of `evaluate`:
            for collections whose documents are queries, such as ArguAna and Quora.
        options: Options of the model for every query, as in `{level: 2}`.
    """

    source: str
    max_queries: int | None = Field(default=None, ge=1)
    max_documents: int | None = Field(default=None, ge=1)
    exclude_same_id: bool = False
    options: QueryOptions = NO_OPTIONS


HOLDOUT = "holdout"
"""Name of the dev set of held-out training data."""


class ValidationConfig(Config):
    """Validation during training, by exhaustive search over each set's documents.

    The best checkpoint is that with the highest mean of `metric` over all sets, the untrained model included. Name
    sets here that are not trained on, so that losses in other domains count.

    Attributes:
        sets: Dev sets by a name of your choice; without any set or `holdout` there is no validation, whatever the
            other settings.
        holdout: Fraction of the training queries that are left out of training, in all sources, and validated on, as a
            set named `holdout`. At least one query, if it is above 0.
        holdout_documents: How many documents of the training data that set searches: the positives of its queries, and
            others drawn by seed; None for all.
        metric: `nDCG@K`, `RR@K` or `R@K`, or another name registered by
            `hyperseek.evaluation.register_measure` or an entry point of `hyperseek.measures`, with its `@K`.
        every: Steps between validations; None only validates before and after.
        patience: Stop after this many validations without a new best; None for never.
        max_drop: A checkpoint cannot be the best if a set fell by more than this below the untrained model; with
            `interpolate`, the same holds for shares, and if need be nothing learned is kept.
        interpolate: Interpolation weights between the untrained (0) and the trained model (1) to try at the end; the
        best on the dev sets is kept. Empty for none.
    """

    sets: Annotated[dict[str, DevSetConfig], BeforeValidator(without_removed)] = Field(default_factory=dict)
    holdout: float = Field(default=0.0, ge=0, lt=1)
    holdout_documents: int | None = Field(default=1000, ge=1)
    metric: Annotated[str, AfterValidator(known_measure)] = "nDCG@10"
    every: int | None = Field(default=None, ge=1)
    patience: int | None = Field(default=None, ge=1)
    max_drop: float | None = Field(default=None, ge=0)
    interpolate: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _check_patience(self) -> Self:
        if self.patience is not None and self.every is None:
            raise meaningless("patience", "where every says how often to validate")
        return self

    @model_validator(mode="after")
    def _check_interpolation(self) -> Self:
        if self.interpolate and not (self.sets or self.holdout):
            raise ValueError("interpolate chooses on dev sets; give at least one, or a holdout")
        if self.holdout and HOLDOUT in self.sets:
            raise ValueError(f"holdout makes a set named {HOLDOUT!r}; rename the dev set of that name")
        if any(not 0 <= share <= 1 for share in self.interpolate):
            raise ValueError(f"interpolate must hold shares in [0, 1], not {self.interpolate}")
        return self


class Recipe(Config):
    """A complete training run.

    Attributes:
        model: The model.
        data: The training data.
        losses: The losses to minimise.
        train: The training loop.
        validation: How the best checkpoint is chosen.
        output: Where results go.
    """

    model: ModelConfig
    data: DataConfig
    losses: LossesConfig
    train: TrainConfig
    validation: ValidationConfig = ValidationConfig()
    output: OutputConfig = OutputConfig()

    @model_validator(mode="after")
    def _check_anchored(self) -> Self:
        asked = [name for name, source in self.data.sources.items() if source.anchor_only]
        if asked and self.losses.chosen and not Objective(self.losses).learns_from(Material(False, others=True)):
            raise ValueError(
                f"the source {asked[0]!r} is anchor_only, and nothing can be learned from it without losses.anchor"
            )
        return self


def read_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, with its bases, and apply overrides.

    Args:
        path: A YAML file, or the name of a bundled recipe, as in `qnet-minilm-pydocs`.
        overrides: Each `section.field=value`; the value is read as YAML.

    Returns:
        The recipe.

    Raises:
        ConfigError: A file, a base or an override is invalid; the message names the closest known key.
        UnknownNameError: There is neither a file nor a recipe with that name.
    """
    values = recipe_values(path, overrides)
    model = values.get("model")
    if "losses" not in values and isinstance(model, Mapping) and {"architecture", "start"} & model.keys():
        raise ConfigError(f"{path} is a pre-training recipe; run it with `hyperseek pretrain`")
    return Recipe.from_mapping(values, source=str(path))
