"""Stages: the parts that search plans are made of, and plain values that stand for them.

A stage may be written as itself, as its class, as its name (`"bm25"`), or as a mapping of its kind and options, as in a
file. What is wrong with it is said in the words of plans: which stage, which option, what is allowed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from pydantic import ValidationError

from hyperseek._config import Config
from hyperseek._errors import ConfigError, shown, suggestion
from hyperseek.plan._candidates import Candidates
from hyperseek.plan._context import Search
from hyperseek.plan._options import fault_in_words, option_names, refuse_switches

if TYPE_CHECKING:
    from hyperseek.plan._combine import Union
    from hyperseek.plan._plan import Plan

StageT = TypeVar("StageT", bound="Stage")


class Described(Config):
    """A part of a plan: whatever is wrong with its options is one error in the words of plans."""

    if not TYPE_CHECKING:  # type checkers know the options by name

        def __init__(self, *given: Any, **options: Any) -> None:
            title = self._title()
            if given:
                raise ConfigError(f"the options of {title} are given by name, as in {self._example()}")
            try:
                refuse_switches(type(self), options)
                super().__init__(**self._prepared(options))
            except ValidationError as error:
                faults = [fault_in_words(type(self), title, fault) for fault in error.errors(include_url=False)]
                raise ConfigError("; ".join(dict.fromkeys(faults))) from None

    @classmethod
    def _title(cls) -> str:
        return cls.__name__.lower()

    @classmethod
    def _example(cls) -> str:
        return f"{cls.__name__}({option_names(cls)[0]}=...)"

    @classmethod
    def _prepared(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Make stages of plain values that stand for them."""
        return options

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        fields = type(self).model_fields
        return [(name, value) for name, value in super().__repr_args__() if name and value != fields[name].default]

    def __str__(self) -> str:
        return repr(self)


class Stage(Described):
    """A stage of a plan."""

    known: ClassVar[dict[str, type[Stage]]] = {}

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        super().__pydantic_init_subclass__(**options)
        if "kind" in cls.model_fields:
            Stage.known[cls._title()] = cls

    @classmethod
    def _title(cls) -> str:
        kind = cls.model_fields.get("kind")
        return cls.__name__.lower() if kind is None else str(kind.default)

    @property
    def title(self) -> str:
        """Name of the stage in explanations."""
        return self._title()


class Source(Stage):
    """A stage that finds candidates. `a | b` is the union of two, `a >> stage` a plan.

    Attributes:
        n: Candidates of each query.
    """

    n: int

    @abstractmethod
    def find(self, search: Search) -> Candidates:
        """Find candidates for the queries of a search."""

    def __or__(self, other: object) -> Union:
        from hyperseek.plan._combine import Union

        parts = [*(self.sources if isinstance(self, Union) else [self]), other]
        return Union(sources=parts)  # type: ignore[arg-type]  # it makes the tuple of known stages

    def __rshift__(self, other: object) -> Plan:
        from hyperseek.plan._plan import Plan

        return Plan(stages=[self, *as_list(other)])  # type: ignore[arg-type]


class Step(Stage):
    """A stage that turns candidates into other candidates."""

    @abstractmethod
    def apply(self, search: Search, candidates: Candidates) -> Candidates:
        """Turn candidates into others."""


def as_list(value: object) -> list[object]:
    """Return the stages that a value stands for: itself, or the items of a list or tuple."""
    return list(value) if isinstance(value, list | tuple) else [value]


def as_stages(value: object, kind: type[StageT], word: str) -> list[StageT]:
    """Return the stages that plain values stand for.

    Args:
        value: One, or a list of some.
        kind: What all must be.
        word: What one is called in messages, which count them from 1.

    Returns:
        The stages.

    Raises:
        ConfigError: There are none, or one is no such stage.
    """
    given = as_list(value)
    if not given:
        raise ConfigError(f"there is no {word}; give at least 1, as in [{{kind: bm25, n: 100}}]")
    stages = []
    for number, item in enumerate(given, 1):
        try:
            stages.append(_as_stage(item, kind))
        except ConfigError as error:
            raise ConfigError(f"{word} {number}: {error}" if len(given) > 1 else str(error)) from None
    return stages


def _as_stage(value: object, kind: type[StageT]) -> StageT:
    names = sorted(name for name, known in Stage.known.items() if issubclass(known, kind))
    listed = f"{'sources' if kind is Source else 'stages'}: {', '.join(names)}"
    if isinstance(value, type) and issubclass(value, Stage):
        value = value._title() if value in Stage.known.values() else value
    if isinstance(value, str):
        value = {"kind": value}
    if isinstance(value, Mapping):
        options: dict[Any, Any] = dict(value)
        name = options.pop("kind", None)
        if name is None:
            raise ConfigError(f"{shown(dict(value))} says no kind; write {{kind: bm25, ...}}; {listed}")
        if not isinstance(name, str) or name not in Stage.known:
            raise ConfigError(f"there is no stage of the kind {shown(name)}{suggestion(str(name), names)}; {listed}")
        odd = next((key for key in options if not isinstance(key, str)), None)
        if odd is not None:
            raise ConfigError(
                f"{name} has no option {shown(odd)}; options: {', '.join(option_names(Stage.known[name]))}"
            )
        value = Stage.known[name](**options)
    if isinstance(value, kind):
        return value
    if isinstance(value, Stage):
        raise ConfigError(f"{value.title} is a step, which follows sources; {listed}")
    what = "a plan" if isinstance(value, Described) else shown(value)
    raise ConfigError(f"{what} cannot stand here; give a stage, as BM25(n=100) or {{kind: bm25, n: 100}}; {listed}")
