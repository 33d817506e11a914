"""Registries of the names in recipes, plans and on the command line, extensible by other packages."""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from types import TracebackType
from typing import Any, Generic, TypeVar, cast, overload

from hyperseek.errors import InputError, UnknownNameError, brief, shown

T = TypeVar("T")
S = TypeVar("S")
V = TypeVar("V")
logger = logging.getLogger(__name__)

_OURS = __name__.partition(".")[0]
_foreign: dict[str, str] = {}  # packages that registered something, and a description of the last thing


class Registry(Mapping[str, T], Generic[T]):
    """Named values of one kind: built-in, registered by a program, or from installed packages.

    An installed package declares its values as entry points of `group`, which are imported on first use:

    ```toml
    [project.entry-points."hyperseek.losses"]
    focal = "my_package:FocalLoss"
    ```

    For a name that is taken, `register` raises, and an entry point is skipped with a warning.

    Args:
        kind: The kind, for messages, as in `"loss"`.
        group: The entry points' group, as in `"hyperseek.losses"`.
        homes: Built-in values by name, as `"package.module:attribute"`, imported on first use.
        check: Raises InputError for a value that is not of the kind.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        homes: Mapping[str, str] | None = None,
        *,
        check: Callable[[str, Any], None] | None = None,
    ) -> None:
        self.kind, self.group = kind, group
        self._homes = dict(homes or {})
        self._values: dict[str, T] = {}
        self._points: dict[str, EntryPoint] | None = None
        self._check = check
        self._lock = threading.RLock()

    @overload
    def register(self, name: str) -> Callable[[V], V]: ...

    @overload
    def register(self, name: str, value: V | None) -> Any: ...

    def register(self, name: str, value: Any = None) -> Any:
        """Register a value under a name.

        Args:
            name: The name that recipes, plans and the command line give.
            value: The value; None to use the result as a decorator.

        Returns:
            The value, or a decorator that registers what it decorates and returns it unchanged.

        Raises:
            InputError: The name is not a word, is taken, or the value is not of this kind.
        """
        if value is None:
            return lambda decorated: self.register(name, decorated)
        if not isinstance(name, str) or not name.replace("-", "_").isidentifier():
            raise InputError(f"a {self.kind} is registered under a word of letters, digits, - and _, not {shown(name)}")
        with self._lock:
            point = self._installed().get(name)
            # A class may be declared as an entry point and also register itself when it is loaded.
            other = point is not None and point.value != _place_of(value)
            if name in self._values or name in self._homes or other:
                raise InputError(f"the name {name!r} is taken by another {self.kind}; choose another")
            self._accept(name, value)
        return value

    def unregister(self, name: str) -> None:
        """Remove a registered name, if it is there."""
        with self._lock:
            if name not in self._homes:
                self._values.pop(name, None)

    def __getitem__(self, name: str) -> T:
        with self._lock:
            if name not in self._values:
                if name in self._homes:
                    module, _, attribute = self._homes[name].partition(":")
                    self._values[name] = getattr(importlib.import_module(module), attribute)
                elif name in self._installed():
                    self._accept(name, self._load(self._installed()[name]))
                else:
                    raise UnknownNameError(self.kind, name, list(self))
            return self._values[name]

    def checked(self, name: str) -> str:
        """Return `name` if it is registered, for validators of configurations; UnknownNameError otherwise."""
        if name not in self:
            raise UnknownNameError(self.kind, name, list(self))
        return name

    def view(self, function: Callable[[T], S]) -> Mapping[str, S]:
        """Return a mapping from names to `function(value)`; values are still imported on first use only."""
        return _View(self, function)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a name, or `default` if it is not registered."""
        return self[name] if name in self else default  # noqa: SIM401

    def __contains__(self, name: object) -> bool:
        return name in self._values or name in self._homes or name in self._installed()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._homes, *self._values, *self._installed()}))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _accept(self, name: str, value: Any) -> None:
        if self._check is not None:
            self._check(name, value)
        self._values[name] = cast("T", value)
        package = str(getattr(value, "__module__", "")).partition(".")[0]
        if package and package != _OURS:
            _foreign[package] = f"the {self.kind} {name!r}"

    def _installed(self) -> dict[str, EntryPoint]:
        if self._points is None:
            found: dict[str, EntryPoint] = {}
            for point in entry_points(group=self.group):
                if point.name in found or point.name in self._homes or point.name in self._values:
                    logger.warning("%s is ignored: the name of this %s is taken", _described(point), self.kind)
                else:
                    found[point.name] = point
            self._points = found
        return self._points

    def _load(self, point: EntryPoint) -> Any:
        try:
            return point.load()
        except Exception as error:  # the package may raise anything
            raise InputError(
                f"cannot load {_described(point)}: {brief(error)}; repair or remove that package"
            ) from error


def foreign_place(traceback: TracebackType | None) -> str | None:
    """Describe where an exception passed through a package that registered something.

    Args:
        traceback: The exception's.

    Returns:
        The innermost function of such a package, with its class, module, file and line; None if there is none.
    """
    place = None
    while traceback is not None:
        frame, line, traceback = traceback.tb_frame, traceback.tb_lineno, traceback.tb_next
        module = str(frame.f_globals.get("__name__", ""))
        package = module.partition(".")[0]
        if package in _foreign:
            place = (
                f"{module}.{frame.f_code.co_qualname} ({frame.f_code.co_filename}, line {line}), of the package "
                f"{package!r}, which registered {_foreign[package]}"
            )
    return place


class _View(Mapping[str, S], Generic[T, S]):
    def __init__(self, registry: Registry[T], function: Callable[[T], S]) -> None:
        self._registry, self._function = registry, function

    def __getitem__(self, name: str) -> S:
        return self._function(self._registry[name])

    def __contains__(self, name: object) -> bool:
        return name in self._registry

    def __iter__(self) -> Iterator[str]:
        return iter(self._registry)

    def __len__(self) -> int:
        return len(self._registry)


def check_function(name: str, value: Any) -> None:
    """Raise InputError unless a registered value can be called, for registries of functions."""
    if not callable(value):
        raise InputError(f"{name!r} must be a function, not {shown(value)}")


def _place_of(value: Any) -> str:
    return f"{getattr(value, '__module__', '')}:{getattr(value, '__qualname__', '')}"


def _described(point: EntryPoint) -> str:
    package = "" if point.dist is None else f" of the package {point.dist.name}"
    return f"the entry point {point.name} = {point.value!r}{package}"
