"""Indexes and models in the classes of other frameworks: one module for each, behind the extra of its name.

What they share is here, and knows no framework: opening what is named by a path or an address, vectors and scores of
any model, hits as metadata, and conditions from the filters that frameworks have.
"""

from __future__ import annotations

import datetime
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from hyperseek.errors import InputError, ModelError, UnknownNameError, shown

if TYPE_CHECKING:
    from hyperseek.index import Index
    from hyperseek.models import Retriever
    from hyperseek.models.retriever import Side
    from hyperseek.serve.client import RemoteIndex
    from hyperseek.types import Hit

    AnyIndex: TypeAlias = Index | RemoteIndex
    IndexLike: TypeAlias = Index | RemoteIndex | str | os.PathLike[str]
    ModelLike: TypeAlias = Retriever | str | os.PathLike[str]

_SQL = {"==": "=", "!=": "!=", ">": ">", ">=": ">=", "<": "<", "<=": "<="}


def opened(index: IndexLike) -> AnyIndex:
    """Return an index that is open.

    Args:
        index: An index; the path of one; or the address of a server, where `#NAME` at its end names one of its indexes.

    Returns:
        The index.

    Raises:
        StoreError: There is no index.
        InputError: It is something else.
    """
    if isinstance(index, str) and index.startswith(("http://", "https://")):
        from hyperseek.serve.client import connect

        url, _, name = index.partition("#")
        return connect(url, name or None)
    if isinstance(index, str | os.PathLike):
        from hyperseek.index import Index

        return Index.open(index)
    if not callable(getattr(index, "search", None)) or not callable(getattr(index, "get", None)):
        raise InputError(f"index must be an Index, a connection, a path or the address of a server, not {shown(index)}")
    return index


def place_of(index: IndexLike) -> str:
    """Return the text from which `opened` opens an index again; it holds no key."""
    if isinstance(index, str | os.PathLike):
        return os.fspath(index)
    path = getattr(index, "path", None)
    return str(path) if path is not None else str(getattr(index, "place", ""))


def loaded(model: ModelLike, *, device: str | None = None) -> Retriever:
    """Return a model that is loaded.

    Args:
        model: A model, or its folder or name.
        device: Where to load it.

    Returns:
        The model.

    Raises:
        ModelError: There is no such model.
        InputError: It is something else.
    """
    if isinstance(model, str | os.PathLike):
        from hyperseek.models import load

        return load(os.fspath(model), device=device)
    if not callable(getattr(model, "encode_documents", None)):
        raise InputError(f"model must be a loaded model, or its folder or name, not {shown(model)}")
    return model


def source_of(model: ModelLike) -> str:
    """Return the folder or name that `loaded` loads a model from; ModelError if it has none."""
    if isinstance(model, str | os.PathLike):
        return os.fspath(model)
    if model.source is None:
        raise ModelError("this model was not loaded from a folder or by a name; save it, and give the folder")
    return model.source


def vectors(model: Retriever, texts: Sequence[str], side: Side) -> list[list[float]]:
    """Return vectors whose inner product ranks documents as the model does.

    Args:
        model: The model.
        texts: Any number.
        side: `"query"` or `"document"`.

    Returns:
        A vector for each text.

    Raises:
        InputError: No vector of one length stands for a query of this model.
    """
    from hyperseek.scoring import vectors_of

    if not texts:
        return []
    space = model.space
    if space.ragged:
        raise InputError(f"{model.source} has a vector for each token, not one for a text; search an index of it")
    chart = space.chart(space.flat_chart)
    if side == "document":
        points = model.encode_documents(texts)
        lifted = vectors_of(points) if space.plain_product else chart.lift_documents(points)
    else:
        found = model.compile(texts).lift(chart)
        if found is None:
            raise InputError(f"the queries of {model.source} are functions, not vectors; search an index of it")
        lifted = found
    rows: list[list[float]] = lifted.detach().float().cpu().tolist()
    return rows


def scores(model: Retriever, query: str, texts: Sequence[str], options: Mapping[str, Any] | None = None) -> list[float]:
    """Score texts for a query, whatever the model's scorer is.

    Args:
        model: The model.
        query: One.
        texts: Any number.
        options: Options of the query.

    Returns:
        A score for each text; higher is better.

    Raises:
        InputError: The query is blank, or the model does not understand an option.
    """
    if not query.strip():
        raise InputError("the query is blank; give it a text")
    if not texts:
        return []
    scorer = model.compile([query], options)
    [row] = scorer.score(model.encode_documents(texts).to(scorer.device)).tolist()
    return [float(score) for score in row]


def best_first(found: Sequence[float], most: int | None = None) -> list[int]:
    """Return the positions of the highest scores, equal ones in their order; None for all."""
    return sorted(range(len(found)), key=lambda place: -found[place])[:most]


def described(hit: Hit, *, ranked: bool = True) -> dict[str, Any]:
    """Return a hit's metadata with its title, if `ranked` its score and rank, and its passages with their offsets."""
    found: dict[str, Any] = dict(hit.metadata)
    if hit.title and "title" not in found:
        found["title"] = hit.title
    if ranked:
        found |= {"score": hit.score, "rank": hit.rank}
    if hit.passages:
        found["passages"] = [passage.to_json() for passage in hit.passages]
    return found


def compared(field: str, operator: str, value: Any) -> str:
    """Return a condition on a field, true or false for every document, as frameworks have it: never unknown.

    Args:
        field: Its name.
        operator: `==`, `!=`, `>`, `>=`, `<`, `<=`, `in`, `not in`, or `contains` for lists of texts.
        value: What it is compared with; a list for `in` and `not in`, and None for a field that is missing.

    Returns:
        SQL.

    Raises:
        UnknownNameError: There is no such operator.
        InputError: The value cannot be compared.
    """
    if not isinstance(field, str) or not field or "`" in field:
        raise InputError(f"a filter names a field of the index, not {shown(field)}")
    name = f"`{field}`"
    if operator in ("in", "not in"):
        if not isinstance(value, list | tuple | set | frozenset):
            raise InputError(f"the operator {operator!r} takes a list of values, not {shown(value)}")
        among = f"{name} IN ({', '.join(map(_literal, value))})" if value else "FALSE"
        return f"({among})" if operator == "in" else negated(among)
    if operator == "contains":
        return f"(array_has({name}, {_literal(value)}))"
    if operator not in _SQL:
        raise UnknownNameError("operator of filters", operator, [*_SQL, "in", "not in", "contains"])
    if value is None:
        if operator not in ("==", "!="):
            raise InputError(f"the operator {operator!r} takes a number or a text, not None")
        return f"({name} IS {'NOT ' if operator == '!=' else ''}NULL)"
    if operator == "!=":
        return negated(f"{name} = {_literal(value)}")
    return f"({name} {_SQL[operator]} {_literal(value)})"


def joined(word: str, conditions: Iterable[str]) -> str | None:
    """Join conditions by `AND` or `OR`; None where there are none."""
    parts = list(conditions)
    return f"({f' {word} '.join(parts)})" if parts else None


def negated(condition: str) -> str:
    """Return the opposite of a condition, which fields that are missing meet."""
    return f"(({condition}) IS NOT TRUE)"


def both(*conditions: str | None) -> str | None:
    """Return the condition that all those that are given hold."""
    given = [condition for condition in conditions if condition is not None]
    return given[0] if len(given) == 1 else joined("AND", (f"({condition})" for condition in given))


def _literal(value: object) -> str:
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value)
    if isinstance(value, datetime.date):
        value = value.isoformat()
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    raise InputError(f"filters compare with texts, finite numbers, true and false, not {shown(value)}")
