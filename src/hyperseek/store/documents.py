"""What a document of an index may hold: what comes back from the table as it went in, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hyperseek.errors import InputError, shown
from hyperseek.types import Document

DEEPEST = 64
"""Levels of metadata."""

LONGEST_INTEGER = 4_000
"""Digits of an integer in metadata."""

MOST_VALUES = 1_000_000
"""Values of a field, those within others counted."""

_ALLOWED = "metadata are values of JSON: None, booleans, numbers, strings, lists, and mappings from strings"


def check_documents(documents: Sequence[Document], start: int = 0) -> None:
    """Raise InputError where a document could not be stored, or would come back as another.

    Args:
        documents: Any number.
        start: Position of the first one in its corpus, for messages.
    """
    for position, document in enumerate(documents, start=start):
        for name in ("id", "title", "text"):
            _check(document, position, name, getattr(document, name), strings_only=True)
        if not isinstance(document.metadata, Mapping):
            raise InputError(f"{_where(document, position)} has a {type(document.metadata).__name__} as metadata")
        for key, value in document.metadata.items():
            _check(document, position, f"metadata {shown(key, 60)}", key, strings_only=True)
            _check(document, position, f"metadata {shown(key, 60)}", value)


def check_text(what: str, text: str) -> None:
    """Raise InputError where a text holds half of a character (a lone surrogate), which no file can."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what} is not valid Unicode ({error}); repair it or leave it out") from None


def check_id(given: object) -> None:
    """Raise InputError where something cannot be the id of a document."""
    if not isinstance(given, str):
        raise InputError(f"the id of a document is a text, and not {shown(given)}")
    check_text(f"the id {shown(given)}", given)


def _check(document: Document, position: int, name: str, given: object, *, strings_only: bool = False) -> None:
    # Level by level and without recursion: strangers' values may be nested without end.
    level: list[Any] = [given]
    count = 0
    for _ in range(DEEPEST):
        inner: list[Any] = []
        count += len(level)
        if count > MOST_VALUES:
            _refuse(document, position, name, given, f"a field has at most {MOST_VALUES:,} values")
        for value in level:
            if isinstance(value, str):
                _check_unicode(document, position, name, value)
            elif strings_only:
                _refuse(document, position, name, value, "it must be a string")
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, dict):
                inner += value.values()
                for key in value:
                    if not isinstance(key, str):
                        _refuse(document, position, name, key, _ALLOWED)
                    _check_unicode(document, position, name, key)
            elif isinstance(value, int):
                if abs(value) >= 10**LONGEST_INTEGER:
                    _refuse(document, position, name, value, f"an integer has at most {LONGEST_INTEGER:,} digits")
            elif value is not None and not isinstance(value, float):
                _refuse(document, position, name, value, _ALLOWED)
        level = inner
        if not level:
            return
    _refuse(document, position, name, given, f"metadata have at most {DEEPEST} levels")


def _check_unicode(document: Document, position: int, name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"document {shown(document.id)} has {name} that is not valid Unicode (position {position:,}; {error}); "
            f"repair it or leave it out"
        ) from None


def _refuse(document: Document, position: int, name: str, value: object, rule: str) -> None:
    # What is nested without end would be written without end.
    example = "" if isinstance(value, Mapping | list | tuple | set | frozenset) else f", {shown(value)},"
    raise InputError(
        f"{name} of {_where(document, position)} is or holds a {type(value).__name__}{example} and cannot be stored "
        f"as it is: {rule}"
    )


def _where(document: Document, position: int) -> str:
    return f"document {shown(document.id)} (position {position:,})"
