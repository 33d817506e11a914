"""Arguments that hands type by habit, of other libraries: an error that names the argument meant."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

from hyperseek._errors import ArgumentError, suggestion

P = ParamSpec("P")
T = TypeVar("T")


def meant(**habits: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Answer unknown arguments of a function with the name of the one that was meant.

    Args:
        **habits: What is typed, and what it is called here.

    Returns:
        A decorator, which keeps the function's types.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)
        known = [name for name in signature.parameters if name != "self"]
        positional = [
            name for name, parameter in signature.parameters.items() if parameter.kind is not parameter.KEYWORD_ONLY
        ]

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            for name in kwargs:
                if name not in signature.parameters:
                    raise ArgumentError(f"{function.__name__}() has no argument {name!r}{_hint(name, known, habits)}")
            if len(args) > len(positional):
                named = ", ".join(name for name in known if name not in positional)
                raise ArgumentError(
                    f"{function.__name__}() takes {', '.join(positional[1:])} by place and everything else by name, as "
                    f"in k=10; given by place: {len(args) - 1}; names: {named}"
                )
            return function(*args, **kwargs)

        return call

    return decorate


def _hint(name: str, known: list[str], habits: Mapping[str, str]) -> str:
    other = habits.get(name.lower().replace("-", "_"))
    if other in known:
        return f"; it is called {other!r} here. Arguments: {', '.join(known)}"
    return f"{suggestion(name, known)}; arguments: {', '.join(known)}"
