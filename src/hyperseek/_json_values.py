"""JSON from strangers: read within bounds, and without the guesses that Python's parser makes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, TypeAlias

from hyperseek._errors import shown
from hyperseek._field_names import repeated

DEEPEST = 64
LONGEST_INTEGER = 40  # tokenizers write 10 ** 30 for "no limit"
MOST_PARTS = 1_000_000
"""Brackets in a text of JSON; each costs thirty times its size in memory."""
_LONGEST_NUMBER = 1_000  # characters of a fraction; reading one takes time that grows faster than its length
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

Pairs: TypeAlias = list[tuple[str, Any]]


def json_value(text: str, pairs: Callable[[Pairs], Any] | None = None, *, most_parts: int = MOST_PARTS) -> Any:
    """Parse JSON.

    Args:
        text: The JSON.
        pairs: Makes the value of an object of its keys and values; None makes a dict, and a key that appears
            twice an error, since one of the two values would be lost.
        most_parts: Most brackets that it may have.

    Returns:
        The value: nested at most 64 deep, integers of at most 40 digits, every number finite, and texts that can be
        written again.

    Raises:
        ValueError: It is no JSON, or beyond these bounds.
    """
    brackets = text.count("[") + text.count("{")
    if brackets > most_parts:
        raise ValueError(f"{brackets:,} lists and objects, and at most {most_parts:,} are read")
    decoder = _DECODER if pairs is None else _decoder(pairs)
    try:
        value = decoder.decode(text)
        if brackets > DEEPEST:
            check_plain(value)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError(f"nested deeper than {DEEPEST}") from None
    except UnicodeEncodeError:
        raise HalfPairError("holds half of a surrogate pair, which is no text") from None
    return value


def check_plain(values: Any) -> None:
    """Raise ValueError where plain values are nested deeper than 64 or hold a number that is not finite."""
    level, depth = [values], 0
    while level:
        if depth > DEEPEST:
            raise ValueError(f"nested deeper than {DEEPEST}")
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner.extend(value.values())
            elif isinstance(value, list):
                inner.extend(value)
            elif isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{value} is no finite number")
        level, depth = inner, depth + 1


class HalfPairError(ValueError):
    """A text that is none: it holds half of a surrogate pair."""


def _unique(pairs: Pairs) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError(f"the key {shown(repeated(name for name, _ in pairs))} appears twice in one object")
    return values


def _integer(digits: str) -> int:
    if len(digits) > LONGEST_INTEGER:
        raise ValueError(f"an integer of {len(digits):,} digits")
    return int(digits)


def _fraction(digits: str) -> float:
    value = float(digits) if len(digits) <= _LONGEST_NUMBER else math.inf
    if not math.isfinite(value):
        raise ValueError(f"{shown(digits)} is no finite number")
    return value


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no number in JSON; write null for what is missing")


def _decoder(pairs: Callable[[Pairs], Any]) -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=pairs, parse_int=_integer, parse_float=_fraction, parse_constant=_constant
    )


_DECODER = _decoder(_unique)
