"""Strict configuration: pydantic models read from YAML, with overrides and errors that name the closest known key.

```python
class Section(Config):
    rate: float = 0.1

Section.from_mapping({"rtae": 1})   # ConfigError: unknown key 'rtae'; did you mean 'rate'? ...
```
"""

from __future__ import annotations

import copy
import inspect
import itertools
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, create_model, model_validator

from hyperseek._bounded import DEEPEST, LONGEST_INTEGER
from hyperseek._files import LARGEST_JSON, bounded_text, read_json, reading
from hyperseek.errors import (
    ConfigError,
    DataError,
    HyperseekError,
    UnknownNameError,
    brief,
    shortened,
    shown,
    suggestion,
)

LARGEST_YAML = 1 << 18
"""Bytes of a file of YAML, which are read in a second; aliases may not expand it further."""

_MOST_VALUES = 10_000
_MOST_FAULTS, _MOST_PARTS = 20, 20
_LONGEST_VALUE = 200  # characters of a given value


LARGEST_SEED = (1 << 32) - 1
"""The largest that all generators take, numpy's older one among them."""


class Config(BaseModel):
    """Base of every configuration: frozen, no unknown keys, defaults validated."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())

    @classmethod
    def from_mapping(
        cls,
        values: object,
        *,
        source: str = "configuration",
        error: type[HyperseekError] = ConfigError,
        remedy: str = "",
    ) -> Self:
        """Validate plain values.

        Args:
            values: A mapping of nested plain values, as read from YAML.
            source: Where they come from, for error messages.
            error: Class of the error to raise.
            remedy: Advice for the end of messages.

        Returns:
            The configuration.

        Raises:
            HyperseekError: `error`: a key is unknown or a value does not validate; up to 20 mistakes are listed.
        """
        end = f"\n{remedy}" if remedy else ""
        if not isinstance(values, Mapping):
            raise error(f"{source} must hold a mapping of names to values, not {shown(values, _LONGEST_VALUE)}{end}")
        try:
            return cls.model_validate(dict(values))
        except ValidationError as cause:
            faults = [f"  {_explain(cls, dict(fault))}" for fault in cause.errors(include_url=False)]
            more = [f"  ... and {len(faults) - _MOST_FAULTS} more"] if len(faults) > _MOST_FAULTS else []
            listing = "\n".join([*faults[:_MOST_FAULTS], *more])
            raise error(f"{source} does not validate:\n{listing}{end}") from None
        except (TypeError, ArithmeticError, RecursionError) as cause:
            # Errors of Python itself inside our validators; pydantic only collects a ValueError.
            raise error(f"{source} does not validate: {brief(cause)}{end}") from cause

    @classmethod
    def from_json(
        cls,
        path: str | os.PathLike[str],
        what: str,
        *,
        error: type[HyperseekError] = DataError,
        remedy: str = "",
        largest: int = LARGEST_JSON,
    ) -> Self:
        """Read a configuration that `write_json` saved from `model_dump(mode="json")`.

        Args:
            path: The file.
            what: Its kind with an article, for messages, as in `"a recipe"`.
            error: Class of every error that is raised.
            remedy: Advice for a damaged file.
            largest: Maximum bytes.

        Returns:
            The configuration.

        Raises:
            HyperseekError: `error`: the file is missing, is damaged, or does not validate.
        """
        values = read_json(path, what, error=error, remedy=remedy, largest=largest)
        return cls.from_mapping(values, source=os.fspath(path), error=error, remedy=remedy)

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Self:
        """Read a YAML file and apply `section.field=value` overrides.

        Args:
            path: The file.
            overrides: Each `section.field=value`; the value is read as YAML, so `[a, b]`, `true` and `1e-3` work.

        Returns:
            The configuration.

        Raises:
            ConfigError: The file is not a YAML mapping, an override is malformed, or validation fails.
        """
        return cls.from_mapping(apply_overrides(read_yaml(path), overrides), source=str(path))


class OpenConfig(Config):
    """A configuration with sections of registered names besides its own fields.

    A subclass names the registry. A section is validated by the configuration class registered under its name, and is
    read as an attribute like any field, or by `section`.
    """

    model_config = ConfigDict(extra="allow")

    @classmethod
    def registered(cls) -> Mapping[str, type[BaseModel]]:
        """Return the sections that may be given: configuration classes by name."""
        raise NotImplementedError

    def section(self, name: str) -> Any:
        """Return a section, or None if it is not given.

        Args:
            name: A field or a registered name.

        Returns:
            The validated section.

        Raises:
            UnknownNameError: Nothing has that name.
        """
        if name in type(self).model_fields:
            return getattr(self, name)
        if name not in self.registered():
            raise UnknownNameError("section", name, [*type(self).model_fields, *self.registered()])
        return (self.model_extra or {}).get(name)

    @model_validator(mode="before")
    @classmethod
    def _validated_sections(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        own = {name: value for name, value in values.items() if name in cls.model_fields}
        known = cls.registered()
        # Null removes a section that a base sets.
        given = {
            name: value
            for name, value in values.items()
            if name not in own and (value is not None or name not in known)
        }
        fields: dict[str, Any] = {name: (known[name], ...) for name in given if name in known}
        sections = create_model(cls.__name__, __config__=ConfigDict(extra="forbid"), **fields).model_validate(given)
        return {**own, **{name: getattr(sections, name) for name in given}}


def meaningless(setting: str, condition: str) -> ValueError:
    """Return the error for a setting that has no effect in combination with others.

    Args:
        setting: Its name, as in `"lora"`.
        condition: When it has an effect, as in `"with trunk: lora"`.

    Returns:
        The error, for validators of configurations to raise.
    """
    return ValueError(
        f"{setting} has an effect only {condition}; leave it out, or write '{setting}: null' to remove the "
        f"value of a base"
    )


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Args:
        path: The file.

    Returns:
        Its content; an empty mapping for an empty file.

    Raises:
        ConfigError: The file is missing, is not YAML, or is not a mapping.
    """
    values = read_yaml_value(path)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of sections, not a {type(values).__name__}")
    return values


def read_yaml_value(path: str | os.PathLike[str]) -> Any:
    """Read a YAML file of any plain values; ConfigError if it is missing or malformed."""
    with reading(path, "a YAML file", error=ConfigError):
        try:
            text = bounded_text(Path(path), LARGEST_YAML).removeprefix("\ufeff")
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such file; give the path of a YAML file") from None
    return _parsed(text, str(path))


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of `values` with every `section.field=value` applied.

    Args:
        values: Nested plain values.
        overrides: Assignments; later ones win.

    Returns:
        The new values.

    Raises:
        ConfigError: An override has no `=`, no key, a value that is not YAML, or goes through a plain value.
    """
    result = copy.deepcopy(dict(values))
    for override in overrides:
        key, equals, text = override.partition("=")
        path = key.strip().split(".")
        if not equals or not all(path) or len(path) > DEEPEST:
            raise ConfigError(f"override {shown(override)} is not of the form section.field=value")
        value = _plain_number(_parsed(text, f"the value in override {shown(override)}")) if text.strip() else None
        place = result
        for part in path[:-1]:
            child = place.setdefault(part, {})
            if not isinstance(child, dict):
                raise ConfigError(
                    f"override {shown(override)}: {part!r} holds the value {shown(child)} and has no fields"
                )
            place = child
        place[path[-1]] = value
    return result


def _plain_number(value: Any) -> Any:
    # YAML 1.1 reads "1e-3" as a string for want of a dot; everyone means the number.
    if isinstance(value, str):
        try:
            return float(value) if "e" in value.lower() else value
        except ValueError:
            return value
    return value


class _Loader(yaml.SafeLoader):
    """Reads plain values, and none that expand far beyond their written size."""

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > LONGEST_INTEGER:
            raise ValueError(f"an integer of {len(node.value):,} digits")
        return int(super().construct_yaml_int(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _parsed(text: str, source: str) -> Any:
    """Read YAML within bounds; ConfigError if it is malformed."""
    loader = None
    try:
        if len(text) > LARGEST_YAML:
            raise ValueError(f"more than {LARGEST_YAML:,} characters")
        loader = _Loader(text)
        node = _bounded_node(text, loader)
        return None if node is None else loader.construct_document(node)
    except Exception as error:  # YAML's own errors, and Python's for invalid dates and numbers
        message = " ".join(str(error).split())
        raise ConfigError(f"{source} is not valid YAML: {shortened(message)}") from None
    finally:
        if loader is not None:
            loader.dispose()


def _bounded_node(text: str, loader: _Loader) -> yaml.Node | None:
    """Compose a document after checking its events, since composing and using it follow every level and alias."""
    depth = count = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        count += isinstance(event, yaml.NodeEvent)
        if depth > DEEPEST:
            raise ValueError(f"nested deeper than {DEEPEST}")
        if count > _MOST_VALUES:
            raise ValueError(f"more than {_MOST_VALUES:,} values")
    node: yaml.Node | None = loader.get_single_node()
    if node is not None and _written_out(node, {}) > LARGEST_YAML:
        raise ValueError(f"its aliases expand to more than {LARGEST_YAML:,} characters")
    return node


def _written_out(node: yaml.Node, known: dict[int, float]) -> float:
    """Return the length of a document with its aliases written out; infinite if one contains itself."""
    if id(node) in known:
        return known[id(node)]
    if isinstance(node, yaml.ScalarNode):
        return len(node.value) + 1
    known[id(node)] = math.inf
    parts = itertools.chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
    known[id(node)] = 1 + sum(_written_out(part, known) for part in parts)
    return known[id(node)]


def _explain(model: type[BaseModel], fault: Mapping[str, Any]) -> str:
    location = fault["loc"]
    where = ".".join(shortened(str(part), 60) for part in location[:_MOST_PARTS]) or "(top level)"
    if fault["type"] == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        listing = f"; known keys: {', '.join(sorted(known))}" if known else ""
        return f"{where}: unknown key{suggestion(str(location[-1]), known)}{listing}"
    if fault["type"] == "missing":
        return f"{where}: missing{_remedy(model, location, where)}"
    given = f" (given: {shown(fault.get('input'), _LONGEST_VALUE)})"
    return f"{where}: {shortened(' '.join(fault['msg'].split()), 600)}{given}"


def _remedy(model: type[BaseModel], location: Sequence[str | int], where: str) -> str:
    """Describe a missing field, from the docstring of its class, and how to write it."""
    owner, name = _model_at(model, location[:-1]), str(location[-1])
    field = getattr(owner, "model_fields", {}).get(name)
    if field is None:
        return ""
    found = re.search(
        rf"^    {re.escape(name)}: (.+(?:\n {{8}}.+)*)", inspect.cleandoc(owner.__doc__ or ""), re.MULTILINE
    )
    meaning = f" ({' '.join(found[1].split()).split('. ')[0].rstrip('.')})" if found else ""
    inner = getattr(_inner_model(field.annotation), "model_fields", {})
    if not inner:
        return f"{meaning}; write {name}: VALUE, or {where}=VALUE on the command line"
    needed = next((key for key, one in inner.items() if one.is_required()), None)
    listing = "" if needed else f"; its fields: {', '.join(sorted(_known_keys(model, location)))}"
    first = needed or "FIELD"
    return f"{meaning}; write {name}: {{{first}: VALUE}}, or {where}.{first}=VALUE on the command line{listing}"


def _known_keys(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Names of the fields of the nested model at `location`; empty if unknown."""
    current = _model_at(model, location)
    return [*getattr(current, "model_fields", {}), *_sections_of(current)]


def _model_at(model: type[BaseModel], location: Sequence[str | int]) -> Any:
    """Return the nested model at `location`, or something else if unknown."""
    current: Any = model
    for part in location:
        if isinstance(part, int):
            continue
        field = getattr(current, "model_fields", {}).get(part)
        sections = _sections_of(current)
        if field is not None:
            current = _inner_model(field.annotation)
        elif part in sections:
            current = sections[part]
        # Else a discriminated union has added its tag to the location.
    return current


def _sections_of(model: Any) -> Mapping[str, type[BaseModel]]:
    return model.registered() if isinstance(model, type) and issubclass(model, OpenConfig) else {}


def _inner_model(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _inner_model(argument)
        if found is not None:
            return found
    return None
