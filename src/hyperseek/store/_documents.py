"""What a document of an index may hold: what comes back from the table as it went in, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hyperseek._errors import InputError, shown
from hyperseek.records import Document

DEEPEST = 64
"""Levels of metadata."""

LONGEST_INTEGER = 4_000
"""Digits of an integer in metadata."""

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
            raise InputError(
                f"{_where(document, position)} has metadata that are no mapping: {shown(document.metadata)}"
            )
        for key, value in document.metadata.items():
            _check(document, position, f"metadata {shown(key, 60)}", key, strings_only=True)
            _check(document, position, f"metadata {shown(key, 60)}", value)


def check_text(what: str, text: str) -> None:
    """Raise InputError where a text holds half of a character (a lone surrogate), which no file can."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what} is not valid Unicode ({error}); repair it or leave it out") from None


def _check(document: Document, position: int, name: str, given: object, *, strings_only: bool = False) -> None:
    # Level by level and without recursion: strangers' values may be nested without end.
    level: list[Any] = [given]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, str):
                check_text(f"{name} of {_where(document, position)}", value)
            elif strings_only:
                _refuse(document, position, name, value, "it must be a string")
            elif type(value) is list:
                inner += value
            elif type(value) is dict:
                inner += value.values()
                for key in value:
                    _check(document, position, name, key, strings_only=True)
            elif isinstance(value, int):
                if abs(value) >= 10**LONGEST_INTEGER:
                    _refuse(document, position, name, value, f"an integer has at most {LONGEST_INTEGER:,} digits")
            elif value is not None and not isinstance(value, float):
                _refuse(document, position, name, value, _ALLOWED)
        level = inner
        if not level:
            return
    _refuse(document, position, name, given, f"metadata have at most {DEEPEST} levels")


def _refuse(document: Document, position: int, name: str, value: object, rule: str) -> None:
    raise InputError(
        f"{name} of {_where(document, position)} is or holds a {type(value).__name__}, {shown(value)}, and cannot be "
        f"stored as it is: {rule}"
    )


def _where(document: Document, position: int) -> str:
    return f"document {shown(document.id)} (position {position:,})"
