"""What callers give to a search: each argument is checked once, here, before anything is loaded or read."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hyperseek._errors import InputError, shown
from hyperseek.plan import AUTO, EXACT
from hyperseek.scoring import Scorer
from hyperseek.store._documents import check_text


def check_count(k: object) -> int:
    """Return a number of documents as a plain integer.

    Args:
        k: Any integer type, at least 1.

    Returns:
        The number.

    Raises:
        InputError: It is of another type, as True or 2.5, or below 1.
    """
    number = None
    if not isinstance(k, bool | str | bytes) and type(k).__name__ != "bool":
        try:
            number = operator.index(k)  # type: ignore[arg-type]  # anything may come
        except TypeError:
            number = None
    if number is None:
        raise InputError(f"k must be a whole number of at least 1, the documents of a query, not {shown(k)}")
    if number < 1:
        raise InputError(f"k must be at least 1, not {shown(number)}")
    return number


def check_queries(queries: object, names: Sequence[str] | None = None) -> Sequence[str] | Scorer:
    """Return many queries, of which each says something.

    Args:
        queries: Texts in any ordered collection, or compiled queries.
        names: Their ids, for messages; None to count them from 0.

    Returns:
        A list of texts, or the compiled queries.

    Raises:
        InputError: They are something else, or one of them is no text or blank.
    """
    if isinstance(queries, Scorer):
        return queries
    if isinstance(queries, str):
        raise InputError("queries must be a sequence of strings; for one query give a list of one")
    if isinstance(queries, Mapping):
        raise InputError("queries by id are for run(); search and explain take a text, a list of texts, or a scorer")
    what = "a set has no order" if isinstance(queries, set | frozenset) else f"this is {shown(queries)}"
    texts = as_list(queries, f"queries are a text, a list of texts, or a scorer, and {what}")
    for place, text in enumerate(texts):
        name = f"query {place} (from 0)" if names is None else f"query {names[place]!r}"
        if not isinstance(text, str):
            raise InputError(f"{name} must be a text, not {shown(text)}")
        if not text.strip():
            raise InputError(f"{name} is blank, so every document would do; leave it out, or say what to look for")
        check_text(name, text)
    return texts


def as_list(values: object, otherwise: str) -> list[Any]:
    """Return an ordered collection as a list; InputError with the text `otherwise` for anything else."""
    if isinstance(values, str | bytes | bytearray | Mapping | set | frozenset) or not isinstance(values, Iterable):
        raise InputError(otherwise)
    try:
        return list(values)
    except TypeError:  # an array without axes
        raise InputError(otherwise) from None


def check_flag(value: object, name: str) -> bool:
    """Return true or false; InputError for anything else."""
    if type(value).__name__ in ("bool", "bool_"):  # Python's and numpy's
        return bool(value)
    raise InputError(f"{name} is True or False, not {shown(value)}")


def check_where(where: object) -> None:
    """Raise InputError where a condition is no SQL text."""
    if where is None:
        return
    if isinstance(where, Mapping) and where and all(isinstance(name, str) for name in where):
        parts = (f"{name} = {_literal(value)}" for name, value in where.items())
        raise InputError(
            f"where is an SQL text, not {shown(dict(where))}; write where={shown(' AND '.join(parts), 200)}"
        )
    if not isinstance(where, str) or not where.strip():
        raise InputError(
            f"where is an SQL text over metadata fields, as in \"year > 2015 AND venue = 'ACL'\", or None, not "
            f"{shown(where)}"
        )
    check_text("where is an SQL text, and this one", where)


def check_engine(engine: object) -> None:
    """Raise InputError where an engine is named by anything but a text."""
    if not isinstance(engine, str):
        raise InputError(f"engine is {AUTO!r}, {EXACT!r}, or the name of an engine of this index, not {shown(engine)}")


def check_excluded(exclude: object) -> list[str | None]:
    """Return the ids to leave out, one a query.

    Args:
        exclude: A collection of ids and None.

    Returns:
        The same as a list.

    Raises:
        InputError: It is something else.
    """
    listed = as_list(exclude, f"exclude is a list with an id, or None, for each query, not {shown(exclude)}")
    for name in listed:
        if not isinstance(name, str | None):
            raise InputError(f"exclude is a list with an id, or None, for each query, and {shown(name)} is neither")
    return listed


def check_id_lists(ids: object) -> list[list[str]]:
    """Return the ids of documents that each query is to score.

    Args:
        ids: A collection of collections of ids.

    Returns:
        The same as lists.

    Raises:
        InputError: It is something else.
    """
    wanted = "ids are a list of ids for each query, as in [['d1', 'd2'], ['d7']]"
    lists: list[list[Any]] = []
    for own in as_list(ids, f"{wanted}, not {shown(ids)}"):
        lists.append(as_list(own, f"{wanted}, and {shown(own)} is no list of ids"))
        for name in lists[-1]:
            if not isinstance(name, str):
                raise InputError(f"{wanted}, and {shown(name)} is no id")
    return lists


def check_share(recall: object) -> float:
    """Return a recall that is asked for.

    Args:
        recall: A number in (0, 1].

    Returns:
        The same.

    Raises:
        InputError: It is no number, or out of range.
    """
    number = isinstance(recall, int | float) and not isinstance(recall, bool)
    if not number or not 0 < recall <= 1:  # type: ignore[operator]  # a number
        raise InputError(f"tuning needs a recall in (0, 1], not {shown(recall)}")
    return float(recall)  # type: ignore[arg-type]


def _literal(value: object) -> str:
    if isinstance(value, bool | int | float):
        return str(value).lower()
    return "'" + str(value).replace("'", "''") + "'"
