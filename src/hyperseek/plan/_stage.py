"""Stages: the parts that plans are made of, their options, and the plain values that stand for them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from hyperseek._config import Config
from hyperseek.errors import ConfigError, HyperseekError, shown, suggestion
from hyperseek.plan._context import Candidates, Search

if TYPE_CHECKING:
    from hyperseek.plan._fusion import Union
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
        from hyperseek.plan._fusion import Union

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


_BOUNDS = {"ge": "of at least {}", "gt": "above {}", "le": "of at most {}", "lt": "below {}"}


def option_names(model: type[BaseModel]) -> list[str]:
    """Return the names of a stage's options, the most important first."""
    names = [name for name in model.model_fields if name != "kind"]
    return sorted(names, key=lambda name: name not in ("sources", "stages"))


def refuse_switches(model: type[BaseModel], options: Mapping[str, Any]) -> None:
    """Raise ConfigError where true or false was given for a number, which Python takes for 1 and 0."""
    for name, value in options.items():
        field = model.model_fields.get(name)
        if isinstance(value, bool) and field is not None and {int, float} & set(_types(field.annotation)):
            raise ConfigError(f"{_title(model)}: {name} must be {allowed(field)}, not {value}")


def allowed(field: FieldInfo) -> str:
    """Return what an option may be, in words."""
    types = _types(field.annotation)
    words = [_words(kind) for kind in types if kind is not NoneType]
    bounds = [
        text.format(getattr(bound, name))
        for bound in field.metadata
        for name, text in _BOUNDS.items()
        if hasattr(bound, name)
    ]
    described = " ".join([" or ".join(words), " and ".join(bounds)]).strip()
    return f"{described}, or nothing" if NoneType in types else described


def fault_in_words(model: type[BaseModel], title: str, fault: Mapping[str, Any]) -> str:
    """Return what is wrong with an option.

    Args:
        model: The stage.
        title: Its name.
        fault: One of `ValidationError.errors`.

    Returns:
        A sentence without an end.
    """
    cause = fault.get("ctx", {}).get("error")
    if isinstance(cause, HyperseekError) or (fault["type"] == "value_error" and not fault["loc"]):
        return str(cause)
    names: list[str] = []
    inner: type[BaseModel] | None = model
    for name in fault["loc"]:
        if inner is None or isinstance(name, int):
            break
        names.append(str(name))
        field = inner.model_fields.get(str(name))
        inner = None if field is None else _nested(field)
    if not names:
        return f"{title}: {fault['msg']}"
    holder: type[BaseModel] = model
    for name in names[:-1]:
        nested = _nested(holder.model_fields[name])
        holder = holder if nested is None else nested
    place, last = ".".join([title, *names[:-1]]), names[-1]
    known = option_names(holder)
    if fault["type"] == "extra_forbidden":
        return f"{place} has no option {shown(last)}{suggestion(last, known)}; options: {', '.join(known)}"
    field = holder.model_fields[last]
    if fault["type"] == "missing":
        return f"{place} lacks {last}: {allowed(field)}"
    if cause is not None:
        return f"{place}: {last}: {cause}"
    return f"{place}: {last} must be {allowed(field)}, not {shown(fault.get('input'))}"


def _title(model: type[BaseModel]) -> str:
    kind = model.model_fields.get("kind")
    return model.__name__.lower() if kind is None else str(kind.default)


def _types(annotation: Any) -> tuple[Any, ...]:
    """Return the alternatives of a type."""
    if get_origin(annotation) in (Literal, tuple) or isinstance(annotation, type):
        return (annotation,)
    return get_args(annotation) or (annotation,)


def _nested(field: FieldInfo) -> type[BaseModel] | None:
    for kind in _types(field.annotation):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(repr, get_args(kind)))
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        return "a list of numbers" if inner in (int, float) else "a list of stages"
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return f"a mapping of {', '.join(kind.model_fields)}"
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}.get(kind, str(kind))
