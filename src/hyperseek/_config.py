"""Strict configuration: pydantic models whose errors name the closest known key, read from YAML, overridden.

```python
class Section(Config):
    rate: float = 0.1

Section.from_mapping({"rtae": 1})   # ConfigError: unknown key 'rtae'; did you mean 'rate'? ...
```
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from hyperseek._errors import ConfigError, suggestion


class Config(BaseModel):
    """Base of every configuration: frozen, no unknown keys, defaults validated."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], *, source: str = "configuration") -> Self:
        """Validate plain values.

        Args:
            values: Nested plain values, as read from YAML.
            source: Where they come from, for error messages.

        Returns:
            The configuration.

        Raises:
            ConfigError: A key is unknown or a value does not validate; every fault is listed.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            faults = "\n".join(f"  {_explain(cls, dict(fault))}" for fault in error.errors())
            raise ConfigError(f"{source} does not validate:\n{faults}") from None

    @classmethod
    def from_yaml(cls, path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Self:
        """Read a YAML file and apply `section.field=value` overrides.

        Args:
            path: The file.
            overrides: Each `section.field=value`; the value is read as YAML, so `[a, b]`, `true` and `1e-3` work.

        Returns:
            The configuration.

        Raises:
            ConfigError: The file is no YAML mapping, an override is malformed, or validation fails.
        """
        return cls.from_mapping(apply_overrides(read_yaml(path), overrides), source=str(path))


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Args:
        path: The file.

    Returns:
        Its content; an empty mapping for an empty file.

    Raises:
        ConfigError: The file is missing, is not YAML, or holds something else than a mapping.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; give the path of a YAML recipe") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a mapping of sections, not a {type(values).__name__}")
    return values


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
        if not equals or not all(path):
            raise ConfigError(f"override {override!r} is not of the form section.field=value")
        try:
            value = _plain_number(yaml.safe_load(text)) if text.strip() else None
        except yaml.YAMLError as error:
            raise ConfigError(f"the value in override {override!r} is not valid YAML: {error}") from None
        place = result
        for part in path[:-1]:
            child = place.setdefault(part, {})
            if not isinstance(child, dict):
                raise ConfigError(f"override {override!r}: {part!r} holds the value {child!r} and has no fields")
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


def _explain(model: type[BaseModel], fault: Mapping[str, Any]) -> str:
    location = fault["loc"]
    where = ".".join(str(part) for part in location) or "(top level)"
    if fault["type"] == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        listing = f"; known keys: {', '.join(sorted(known))}" if known else ""
        return f"{where}: unknown key{suggestion(str(location[-1]), known)}{listing}"
    given = fault.get("input")
    shown = "" if fault["type"] == "missing" else f" (given: {given!r})"
    return f"{where}: {fault['msg']}{shown}"


def _known_keys(model: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Names of the fields of the nested model at `location`; empty where it cannot be told."""
    current: Any = model
    for part in location:
        if isinstance(part, int):
            continue
        field = getattr(current, "model_fields", {}).get(part)
        if field is None:
            # A discriminated union adds its tag to the location.
            continue
        current = _inner_model(field.annotation)
    return list(getattr(current, "model_fields", {}))


def _inner_model(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _inner_model(argument)
        if found is not None:
            return found
    return None
