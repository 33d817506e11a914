"""Parts of plans, whose options are described in the words of plans: names, allowed values, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from hyperseek._config import Config
from hyperseek.errors import ConfigError, HyperseekError, shown, suggestion

_BOUNDS = {"ge": "of at least {}", "gt": "above {}", "le": "of at most {}", "lt": "below {}"}


class Described(Config):
    """A part of a plan: whatever is wrong with its options is one error in the words of plans."""

    if not TYPE_CHECKING:  # type checkers know the options by name

        def __init__(self, *given: Any, **options: Any) -> None:
            title = self._title()
            if given:
                raise ConfigError(f"the options of {title} are given by name, as in {self._example()}")
            try:
                _refuse_switches(type(self), title, options)
                super().__init__(**self._prepared(options))
            except ValidationError as error:
                faults = [_fault_in_words(type(self), title, fault) for fault in error.errors(include_url=False)]
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


def option_names(model: type[BaseModel]) -> list[str]:
    """Return the names of a stage's options, the most important first."""
    names = [name for name in model.model_fields if name != "kind"]
    return sorted(names, key=lambda name: name not in ("sources", "stages"))


def _refuse_switches(model: type[BaseModel], title: str, options: Mapping[str, Any]) -> None:
    """Raise ConfigError where true or false was given for a number, which Python takes for 1 and 0."""
    for name, value in options.items():
        field = model.model_fields.get(name)
        if isinstance(value, bool) and field is not None and {int, float} & set(_types(field.annotation)):
            raise ConfigError(f"{title}: {name} must be {_allowed(field)}, not {value}")


def _allowed(field: FieldInfo) -> str:
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


def _fault_in_words(model: type[BaseModel], title: str, fault: Mapping[str, Any]) -> str:
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
        return f"{place} lacks {last}: {_allowed(field)}"
    if cause is not None:
        return f"{place}: {last}: {cause}"
    return f"{place}: {last} must be {_allowed(field)}, not {shown(fault.get('input'))}"


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
