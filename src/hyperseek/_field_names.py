"""What people call the fields of a record: the names under which an id, a text and a title are found.

Names are compared without regard to case, and `doc-id`, `doc id` and `doc_id` are one name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from numbers import Real

ID_KEYS = (
    "_id",
    "id",
    "doc_id",
    "docid",
    "docno",
    "document_id",
    "query_id",
    "qid",
    "pid",
    "passage_id",
    "corpus_id",
    "uid",
)
TEXT_KEYS = ("text", "content", "contents", "body", "passage", "document", "query", "question")
TITLE_KEYS = ("title", "page_title")

# Python's own parser also reads "1_0" and digits of other scripts.
_NUMBER = re.compile(r"[+-]?([0-9]{1,400}(\.[0-9]{0,400})?|\.[0-9]{1,400})([eE][+-]?[0-9]{1,4})?")


def folded(name: str) -> str:
    """Return what two spellings of one name share."""
    return name.strip().casefold().replace("-", "_").replace(" ", "_")


def find_key(names: Iterable[str], keys: Iterable[object]) -> str | None:
    """Find a field of a record by its usual names.

    Args:
        names: The names, the first choice first.
        keys: The record's keys.

    Returns:
        The key as the record spells it, or None. A key that is a name letter by letter goes before one that is
        spelled otherwise.
    """
    given = [(name, folded(name)) for name in names]
    spelled = [key for key in keys if isinstance(key, str)]
    known = {folded(key): key for key in reversed(spelled)} | {key: key for key in spelled}
    return next((known[name] for names in given for name in names if name in known), None)


def repeated(names: Iterable[str]) -> str | None:
    """Return the first name that appears a second time, or None; in linear time, since there may be millions."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def id_of(value: object) -> str | None:
    """Return an id as text, or None if `value` cannot be one: ids are non-empty strings or whole numbers."""
    if isinstance(value, str):
        return str(value) or None
    if isinstance(value, int) and not isinstance(value, bool):
        # Python refuses to write numbers of thousands of digits, and nobody counts as far as hundreds.
        return str(value) if value.bit_length() < 1_000 else None
    return None


def number_of(value: object) -> float | None:
    """Return a finite number, or None if `value` is neither one nor a text of one."""
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            return None
    elif isinstance(value, bool) or not isinstance(value, Real):  # numpy's numbers are real ones, too
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
