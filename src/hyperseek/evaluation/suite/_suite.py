"""Suite files: collections, systems, and what all trained systems share.

A suite is a YAML file. Systems that are trained are recipes with the same `training` section: the same data, steps,
seeds and lengths, so that families are compared and not their data. What a system changes beyond that is in its result
files, and in the table.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from hyperseek._config import LARGEST_SEED, Config, apply_overrides, read_yaml
from hyperseek._recipe_files import described_files, find_file, merged, recipe_values
from hyperseek.cards import Card
from hyperseek.errors import ConfigError, UnknownNameError
from hyperseek.evaluation._measures import check_depth, measure_names
from hyperseek.evaluation.suite._result_files import Name
from hyperseek.mining import BM25Settings
from hyperseek.plan import as_plan
from hyperseek.training import Recipe
from hyperseek.types import NO_OPTIONS, QueryOptions

_KINDS = ("bm25", "model", "recipe", "run", "fusion", "plan")


def _card(given: dict[str, Any] | None) -> dict[str, Any] | None:
    if given is not None:
        Card.from_mapping({"name": "card", **given}, source="card")
    return given


class SuiteCollection(Config):
    """A collection of a suite: a column of its table.

    Attributes:
        dataset: As `open_dataset` reads it; environment variables are filled in. Where it is not there, the column is
            left out and the table says why.
        split: The split of judgements that is measured.
        max_documents: Search at most this many documents: all judged ones, and others drawn by seed; None for all. Such
            a column is another one than that of the whole collection.
        max_queries: Measure at most this many queries, drawn by seed; None for all.
        exclude_same_id: Leave out of each ranking the document whose id is the query's.
        document_length: Tokens of a document that models read; None takes the suite's.
        query_length: The same of a query.
        card: What is relevant here, for systems that are asked with cards; fields of a `Card`.
    """

    dataset: str
    split: str = "test"
    max_documents: int | None = Field(default=None, ge=1)
    max_queries: int | None = Field(default=None, ge=1)
    exclude_same_id: bool = False
    document_length: int | None = Field(default=None, ge=3)
    query_length: int | None = Field(default=None, ge=3)
    card: Annotated[dict[str, Any] | None, AfterValidator(_card)] = None


class SuiteFusion(Config):
    """One ranking of several systems, by the rankings in their result files.

    Attributes:
        of: Names of other systems.
        method: As in `Fusion`: `rrf`, `minmax` or `weighted`.
        weights: One for each; None for equal ones.
        rrf_k: For `rrf`: larger values flatten the differences between first ranks.
    """

    of: tuple[str, ...] = Field(min_length=2)
    method: Literal["rrf", "minmax", "weighted"] = "rrf"
    weights: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] | None = None
    rrf_k: int = Field(default=60, ge=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.of)) < len(self.of):
            raise ValueError("a system is named twice; name each once, and give it a weight instead")
        if self.weights is not None and len(self.weights) != len(self.of):
            raise ValueError(f"{len(self.weights)} weights were given for {len(self.of)} systems; give one each")
        return self


class SuiteSystem(Config):
    """A system of a suite: a row of its table. Exactly one of the first six says what it is.

    Attributes:
        bm25: BM25 with these settings; `{}` for the defaults.
        model: A model that is there: a folder of hyperseek or sentence-transformers, a Hub name, or `minilm`.
        recipe: A recipe to train, with the suite's `training` section: a file, or the name of one of this project.
        run: A TREC run of another program; `{collection}` stands for each collection's name.
        fusion: Rankings of other systems made one.
        plan: A plan by which the index of another system, `of`, is searched: a file, or its stages.
        changes: With `recipe`: what differs from the recipe and the suite's `training` section, as in a recipe.
        of: With `plan`: the system whose model and index it searches.
        cards: Whether queries are asked with the collection's card; a collection without one is asked without.
        options: Options of the queries, as in `{level: 4}`.
        storage: Number type of stored vectors.
        trust_remote_code: Whether code that comes with a `model` may run.
        about: What it is, for readers of the table.
    """

    bm25: BM25Settings | None = None
    model: str | None = None
    recipe: str | None = None
    run: str | None = None
    fusion: SuiteFusion | None = None
    plan: str | dict[str, Any] | None = None
    changes: dict[str, Any] = Field(default_factory=dict)
    of: str | None = None
    cards: bool = False
    options: QueryOptions = NO_OPTIONS
    storage: Literal["float32", "float16"] = "float32"
    trust_remote_code: bool = False
    about: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [kind for kind in _KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"a system is exactly one of {', '.join(_KINDS)}; this has {', '.join(given) or 'none'}")
        kind = given[0]
        searched = kind in ("model", "recipe", "plan")
        useless = {
            "changes": bool(self.changes) and kind != "recipe",
            "of": self.of is not None and kind != "plan",
            "cards": self.cards and not searched,
            "options": bool(self.options) and not searched,
            "storage": self.storage != "float32" and kind not in ("model", "recipe"),
            "trust_remote_code": self.trust_remote_code and kind != "model",
        }
        if wrong := [name for name, is_wrong in useless.items() if is_wrong]:
            raise ValueError(f"{', '.join(wrong)}: without effect on a system that is a {kind}; leave it out")
        if kind == "plan" and self.of is None:
            raise ValueError("a plan needs `of`: the system whose model and index it searches")
        if isinstance(self.plan, dict):
            as_plan(self.plan)
        return self

    @property
    def kind(self) -> str:
        """Which of the kinds it is."""
        return next(kind for kind in _KINDS if getattr(self, kind) is not None)

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the systems that come before it."""
        if self.fusion is not None:
            return self.fusion.of
        return () if self.of is None else (self.of,)


class Suite(Config):
    """What `run_suite` measures; the file of `hyperseek evaluate --suite`.

    Attributes:
        name: The suite's name; None takes the file's.
        collections: Columns by name.
        systems: Rows by name.
        baseline: The system that others are compared with.
        measures: Measures and sets of measures; the first is the one that is read first.
        training: What all recipes share, as in a recipe: it overrides theirs. Sources and validation sets are those
            here alone; one that a recipe has too keeps what only the recipe says of it, such as a card.
        seeds: Each recipe is trained once with each; measured values are means over them.
        k: Documents of each ranking that are kept, and the depth of every measure.
        document_length: Tokens of a document that models read, and recipes train with.
        query_length: The same of a query.
        timed: How many queries are timed one by one, to measure the milliseconds of a query.
        seed: Seed of drawn documents and queries, and of the statistics.
    """

    name: str | None = None
    collections: dict[Name, SuiteCollection] = Field(min_length=1)
    systems: dict[Name, SuiteSystem] = Field(min_length=1)
    baseline: str
    measures: tuple[str, ...] = ("nDCG@10", "R@100", "RR@10")
    training: dict[str, Any] = Field(default_factory=dict)
    seeds: tuple[Annotated[int, Field(ge=0, le=LARGEST_SEED)], ...] = Field(default=(0,), min_length=1)
    k: int = Field(default=100, ge=1, le=1000)
    document_length: int = Field(default=128, ge=3)
    query_length: int = Field(default=64, ge=3)
    timed: int = Field(default=30, ge=1, le=1000)
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)

    @field_validator("measures")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return measure_names(value)

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_depth(self.measures, self.k)
        for name in (self.baseline, *(needed for system in self.systems.values() for needed in system.needs)):
            if name not in self.systems:
                raise ValueError(str(UnknownNameError("system", name, self.systems)))
        for name, system in self.systems.items():
            if system.of is not None and self.systems[system.of].kind not in ("model", "recipe"):
                raise ValueError(f"the plan {name} searches {system.of}, which is no model and no recipe")
        self.in_order()
        for name in self.systems:  # trained systems have the seed in the names of their files
            stem, _, seed = name.rpartition(".")
            if stem in self.systems and seed.isdecimal():
                raise ValueError(f"{name} would share the files of {stem} with the seed {seed}; choose another name")
        return self

    def in_order(self, chosen: Iterable[str] | None = None) -> list[str]:
        """Return the names of systems, each after those that it needs.

        Args:
            chosen: Those that are wanted; what they need comes too. None for all.

        Returns:
            The names.

        Raises:
            UnknownNameError: There is no such system.
            ValueError: Systems need each other.
        """
        order: list[str] = []

        def add(name: str, above: tuple[str, ...]) -> None:
            if name not in self.systems:
                raise UnknownNameError("system", name, self.systems)
            if name in above:
                circle = " needs ".join([*above[above.index(name) :], name])
                raise ValueError(f"a system cannot need itself: {circle}")
            if name not in order:
                for needed in self.systems[name].needs:
                    add(needed, (*above, name))
                order.append(name)

        for name in self.systems if chosen is None else chosen:
            add(name, ())
        return order

    def lengths(self, collection: str) -> dict[str, int]:
        """Return how many tokens of queries and documents models read in a collection."""
        own = self.collections[collection]
        return {
            "query": own.query_length or self.query_length,
            "document": own.document_length or self.document_length,
        }

    def recipe(self, system: str, seed: int) -> Recipe:
        """Return the recipe that a system is trained by.

        Args:
            system: Name of a system with a recipe.
            seed: Seed of the training.

        Returns:
            The recipe with the suite's `training` section and the system's changes.

        Raises:
            ConfigError: The result is no valid recipe.
            UnknownNameError: There is no such recipe.
        """
        own = self.systems[system]
        assert own.recipe is not None
        values = recipe_values(own.recipe)
        for section, key in (("data", "sources"), ("validation", "sets")):
            shared = (self.training.get(section) or {}).get(key)
            if shared is not None:
                given = values.setdefault(section, {})
                given[key] = {name: (given.get(key) or {}).get(name) or {} for name in shared}
        lengths = {"query_length": self.query_length, "document_length": self.document_length}
        for part in ({"model": lengths}, self.training, own.changes, {"train": {"seed": seed}}):
            values = merged(values, part)
        return Recipe.from_mapping(values, source=f"the system {system} of the suite: recipe {own.recipe}")


def list_suites() -> dict[str, str]:
    """Return the suites of this project.

    Returns:
        Descriptions by name: the first sentence of each file's leading comment.
    """
    return described_files("suites")


def read_suite(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Suite:
    """Read a suite.

    Args:
        path: A YAML file, or the name of a suite of this project, as in `mini`.
        overrides: Each `section.field=value`; the value is read as YAML.

    Returns:
        The suite.

    Raises:
        ConfigError: The file or an override is invalid; the message names the closest known key.
        UnknownNameError: There is neither a file nor a suite of that name.
    """
    file = find_file(path, "suite", "suites")
    values = apply_overrides(read_yaml(file), overrides)
    for system in _mappings(values.get("systems")):
        for key in ("recipe", "plan"):  # files beside the suite
            given = system.get(key)
            if isinstance(given, str) and (beside := file.parent / given).is_file():
                system[key] = str(beside)
    suite = Suite.from_mapping(values, source=str(path))
    for name, one in suite.systems.items():
        if one.recipe is not None:
            try:
                suite.recipe(name, suite.seeds[0])
            except (ConfigError, UnknownNameError) as error:
                raise ConfigError(f"{path}: {error}") from None
    return suite if suite.name is not None else suite.model_copy(update={"name": file.stem})


def _mappings(values: object) -> Iterable[dict[str, Any]]:
    found = values.values() if isinstance(values, Mapping) else ()
    return [value for value in found if isinstance(value, dict)]
