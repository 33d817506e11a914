"""The arguments of a search: each is checked here, once, before anything is loaded or read."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, ParamSpec, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hyperseek._relevance import excluded_ids
from hyperseek.errors import ArgumentError, InputError, brief, shown, suggestion
from hyperseek.plan import AUTO, EXACT, PlanLike
from hyperseek.scoring import MaxSimScorer, Scorer, Space, point_scorer
from hyperseek.store.rows import check_text
from hyperseek.types import NamedOptions, Query, QueryOptions

Vectors: TypeAlias = npt.NDArray[Any] | Tensor
"""Coordinates of one query, `(d,)`, or of many, `(Q, d)`; in token spaces `(t, d)` and `(Q, t, d)`."""

HABITS = {
    **dict.fromkeys(("top_k", "topk", "n", "limit", "size", "count", "num_results", "n_results", "max_results"), "k"),
    **dict.fromkeys(("filter", "filters", "condition", "where_filter", "conditions"), "where"),
    **dict.fromkeys(("query", "text", "q", "question", "queries_", "query_text", "query_texts"), "queries"),
    **dict.fromkeys(("engine_name", "index", "method"), "engine"),
    **dict.fromkeys(("stages", "pipeline"), "plan"),
    **dict.fromkeys(("option", "query_options"), "options"),
    **dict.fromkeys(("task", "task_card"), "card"),
    **dict.fromkeys(("documents", "doc_ids", "document_ids"), "ids"),
    **dict.fromkeys(("with_texts", "include_texts", "return_texts"), "texts"),
}
"""Argument names that people type by habit, and their names here."""

NAMED = tuple(NamedOptions.__annotations__)
"""Options of queries that searches take by name."""


class SearchArguments(NamedOptions, total=False):
    """What `Index.search` takes besides the queries, for its overloads."""

    k: int
    where: str | None
    engine: str
    plan: PlanLike | None
    options: Mapping[str, Any] | None
    exclude: Sequence[str | Collection[str] | None] | None
    texts: bool
    combine: Literal["best", "soft"]


P = ParamSpec("P")
T = TypeVar("T")


def check_count(k: object) -> int:
    """Return a number of documents as a plain integer.

    Args:
        k: Any integer type, at least 1.

    Returns:
        The number.

    Raises:
        InputError: It is of another type, such as True or 2.5, or below 1.
    """
    number = None
    if not isinstance(k, bool | str | bytes) and type(k).__name__ != "bool":
        try:
            number = operator.index(k)  # type: ignore[arg-type]  # any type may be given
        except TypeError:
            number = None
    if number is None:
        raise InputError(f"k must be a whole number of at least 1, the number of documents per query, not {shown(k)}")
    if number < 1:
        raise InputError(f"k must be at least 1, not {shown(number)}")
    return number


def check_queries(queries: object, names: Sequence[str] | None = None) -> Sequence[str] | Scorer:
    """Return several queries, checked not to be blank.

    Args:
        queries: Texts in any ordered collection, or compiled queries.
        names: Their ids, for messages; None to count them from 0.

    Returns:
        A list of texts, or the compiled queries.

    Raises:
        InputError: They are something else, or one of them is not a string or is blank.
    """
    if isinstance(queries, Scorer):
        return queries
    if isinstance(queries, str):
        raise InputError("queries must be a sequence of strings; for one query give a list with one string")
    if isinstance(queries, Mapping):
        raise InputError("queries by id are for run(); search and explain take a text, a list of texts, or a scorer")
    what = "a set has no order" if isinstance(queries, set | frozenset) else f"this is {shown(queries)}"
    texts = as_list(queries, f"queries are a text, a list of texts, or a scorer, and {what}")
    for place, text in enumerate(texts):
        name = f"query {place} (from 0)" if names is None else f"query {names[place]!r}"
        if not isinstance(text, str):
            raise InputError(f"{name} must be a text, not {shown(text)}")
        if not any(character.isprintable() and not character.isspace() for character in text):
            raise InputError(f"{name} is blank, so every document would match; leave it out, or give it a text")
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
    """Return a boolean; InputError for anything else."""
    if type(value).__name__ in ("bool", "bool_"):  # Python's and numpy's
        return bool(value)
    raise InputError(f"{name} must be True or False, not {shown(value)}")


def check_where(where: object) -> None:
    """Raise InputError if a condition is not SQL text."""
    if where is None:
        return
    if isinstance(where, Mapping) and where and all(isinstance(name, str) for name in where):
        parts = (f"{name} = {_literal(value)}" for name, value in where.items())
        raise InputError(
            f"where must be SQL text, not {shown(dict(where))}; write where={shown(' AND '.join(parts), 200)}"
        )
    if not isinstance(where, str) or not where.strip():
        raise InputError(
            f"where must be SQL text over metadata fields, as in \"year > 2015 AND venue = 'ACL'\", or None, not "
            f"{shown(where)}"
        )
    check_text("the SQL text of where", where)


def check_engine(engine: object) -> None:
    """Raise InputError if an engine is named by anything but a string."""
    if not isinstance(engine, str):
        raise InputError(f"engine must be {AUTO!r}, {EXACT!r}, or the name of an engine, not {shown(engine)}")


def check_options(
    options: object, queries: Sequence[str] | Scorer, named: NamedOptions | None = None
) -> tuple[Sequence[str] | Scorer, QueryOptions]:
    """Return queries and the options that they are asked with.

    Args:
        options: A mapping, or None.
        queries: The queries.
        named: Options that were given by name.

    Returns:
        The queries, compiled ones asked with the options; and the options, which the model has not checked for texts.

    Raises:
        InputError: They are not options, one of them is given twice, or they come with compiled queries that cannot be
            asked otherwise.
    """
    checked = QueryOptions.of(options)
    given = QueryOptions.of(named)
    twice = [name for name in given if name in checked and given[name] != checked[name]]
    if twice:
        one, other = shown(given[twice[0]]), shown(checked[twice[0]])
        raise InputError(f"{twice[0]} is given as {one} and in options as {other}")
    checked = QueryOptions(**{**checked, **given})
    if not isinstance(queries, Scorer):
        return queries, checked
    if not checked:
        return queries, queries.options
    asked = queries.asked_with(checked)
    if asked is None:
        raise InputError(
            f"these queries are already compiled, so {checked!r} comes too late; give it to model.compile, or "
            f"search with texts"
        )
    return asked, checked


def check_excluded(exclude: object) -> list[list[str]]:
    """Return the ids to leave out of each query's ranking.

    Args:
        exclude: For each query an id, a collection of ids, or None.

    Returns:
        Lists of distinct ids.

    Raises:
        InputError: It is something else.
    """
    wanted = "exclude must be a list with an id, ids, or None, for each query"
    listed = as_list(exclude, f"{wanted}, not {shown(exclude)}")
    found = []
    for given in listed:
        ids = [given] if isinstance(given, str) else [] if given is None else given
        if isinstance(ids, bytes | Mapping) or not isinstance(ids, Iterable):
            raise InputError(f"{wanted}; {shown(given)} is none of these")
        found.append(list(dict.fromkeys(ids)))
        for name in found[-1]:
            if not isinstance(name, str):
                raise InputError(f"{wanted}; {shown(name)} is not an id")
    return found


def check_id_lists(ids: object) -> list[list[str]]:
    """Return the ids of the documents to score for each query.

    Args:
        ids: A collection of collections of ids.

    Returns:
        The same as lists.

    Raises:
        InputError: It is something else.
    """
    wanted = "ids must be a list of ids for each query, as in [['d1', 'd2'], ['d7']]"
    lists: list[list[Any]] = []
    for own in as_list(ids, f"{wanted}, not {shown(ids)}"):
        lists.append(as_list(own, f"{wanted}, and {shown(own)} is not a list of ids"))
        for name in lists[-1]:
            if not isinstance(name, str):
                raise InputError(f"{wanted}, and {shown(name)} is not an id")
    return lists


def check_share(recall: object) -> float:
    """Return the requested recall.

    Args:
        recall: A number in (0, 1].

    Returns:
        The same.

    Raises:
        InputError: It is not a number, or out of range.
    """
    number = isinstance(recall, int | float) and not isinstance(recall, bool)
    if not number or not 0 < recall <= 1:  # type: ignore[operator]  # a number
        raise InputError(f"tuning needs a recall in (0, 1], not {shown(recall)}")
    return float(recall)  # type: ignore[arg-type]


def _literal(value: object) -> str:
    if isinstance(value, bool | int | float):
        return str(value).lower()
    return "'" + str(value).replace("'", "''") + "'"


def meant(*also: str, **habits: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Report unknown arguments of a function with the name that was probably meant.

    Args:
        *also: Names that the function takes as `**`.
        **habits: Names that people type, and the argument's name here.

    Returns:
        A decorator that keeps the function's types.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)
        packed = {name for name, parameter in signature.parameters.items() if parameter.kind is parameter.VAR_KEYWORD}
        known = [*(name for name in signature.parameters if name not in {"self", *packed}), *also]
        positional = [
            name
            for name, parameter in signature.parameters.items()
            if parameter.kind not in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD)
        ]

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            for name in kwargs:
                if name not in known:
                    raise ArgumentError(f"{function.__name__}() has no argument {name!r}{_hint(name, known, habits)}")
            if len(args) > len(positional):
                named = ", ".join(name for name in known if name not in positional)
                raise ArgumentError(
                    f"{function.__name__}() takes {', '.join(positional[1:])} by position and everything else by name, "
                    f"as in k=10; given by position: {len(args) - 1}; names: {named}"
                )
            return function(*args, **kwargs)

        return call

    return decorate


def _hint(name: str, known: list[str], habits: Mapping[str, str]) -> str:
    other = habits.get(name.lower().replace("-", "_"))
    if other in known:
        return f"; it is called {other!r} here. Arguments: {', '.join(known)}"
    return f"{suggestion(name, known)}; arguments: {', '.join(known)}"


def compiled_queries(queries: Any, space: Space) -> tuple[Sequence[str] | Scorer, bool]:
    """Return queries in the form that an index searches for: texts unchanged, vectors compiled.

    Args:
        queries: One text, many texts, a scorer, or vectors: an array, a tensor, or a list of numbers or of vectors.
        space: The index's space.

    Returns:
        Texts or a scorer, and whether a single query was given, for which one list of hits is returned.

    Raises:
        InputError: Vectors differ in width from the space's coordinates, do not hold numbers, or hold numbers beyond
            float32, or are not points of the space.
    """
    if isinstance(queries, str):
        return [queries], True
    if isinstance(queries, Scorer):
        return queries, False
    if isinstance(queries, np.ndarray) and queries.dtype.kind in "UO" and queries.ndim <= 1:
        return queries.tolist(), False  # a column of texts
    if not _are_vectors(queries, space.coordinates):
        return queries, False  # texts, or an unknown type
    vectors = _tensor(queries)
    own = 1 + space.ragged  # axes of one query
    if vectors.ndim not in (own, own + 1) or vectors.shape[-1] != space.coordinates:
        one = f"({space.coordinates},)" if own == 1 else f"(tokens, {space.coordinates})"
        raise InputError(
            f"the queries are vectors of shape {tuple(vectors.shape)}, but the index has points of "
            f"{space.coordinates} coordinates ({space}): give {one} for one query, one more axis for several"
        )
    single = vectors.ndim == own
    vectors = vectors[None] if single else vectors
    names = [f"query {row}" for row in range(len(vectors)) for _ in range(1 if own == 1 else vectors.shape[1])]
    points = space.canonical(vectors.flatten(0, -2), names=names).float()
    finite = points.isfinite().all(dim=-1)
    if not finite.all():  # the given ones were
        raise InputError(f"{names[int((~finite).nonzero()[0])]} has numbers beyond float32; give smaller ones")
    if own == 1:
        return point_scorer(space, points), single
    return MaxSimScorer(space, points.view(vectors.shape), torch.ones(vectors.shape[:2])), single


def _are_vectors(queries: Any, coordinates: int) -> bool:
    if isinstance(queries, Tensor | np.ndarray):
        return queries.ndim > 0
    if not isinstance(queries, list | tuple) or not queries:
        return False
    first = queries[0]
    if isinstance(first, list | tuple) and first:
        first = first[0][0] if isinstance(first[0], list | tuple) and first[0] else first[0]
    elif isinstance(first, np.number | int | float):
        # A few numbers may be meant as texts or counts; as many as a point has are a point.
        return len(queries) == coordinates and not isinstance(first, bool)
    return isinstance(first, Tensor | np.ndarray | np.number | int | float)


def _tensor(queries: Any) -> Tensor:
    otherwise = "the queries are not vectors of one length"
    if isinstance(queries, list | tuple) and isinstance(queries[0], Tensor):
        try:
            queries = torch.stack([query.detach().cpu() for query in queries])
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise InputError(f"{otherwise}: {brief(error)}") from error
    return as_numbers(queries, "vectors of queries", otherwise=otherwise)


def as_numbers(values: Any, what: str, *, otherwise: str) -> Tensor:
    """Return coordinates as float32, or as float64 if they are: hyperbolic ones must not lose precision.

    Args:
        values: A tensor, or values that numpy makes an array of.
        what: Their description, for messages.
        otherwise: Message about values that are not an array.

    Returns:
        The coordinates, on the CPU.

    Raises:
        InputError: They are not an array, or not of real numbers.
    """
    if isinstance(values, Tensor):
        numbers = values.detach().cpu()
    else:
        try:
            array = np.asarray(values)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{otherwise}: {brief(error)}") from error
        if array.dtype.kind not in "fiub":
            raise InputError(f"{what} must be numbers, not {array.dtype}")
        numbers = torch.tensor(array.astype(np.float64 if array.dtype.itemsize >= 8 else np.float32))
    if numbers.is_complex():
        raise InputError(f"{what} must be real numbers, not {numbers.dtype}")
    return numbers if numbers.dtype == torch.float64 else numbers.float()


def named_queries(queries: object) -> tuple[Mapping[str, str], list[frozenset[str]]]:
    """Return texts by id, and what each query record excludes; InputError for anything else."""
    wanted = "run() takes texts by id, as {'q1': 'a text'}, or Query records"
    if isinstance(queries, Mapping):
        for name in queries:
            if not isinstance(name, str | int):
                raise InputError(f"{wanted}, and {shown(name)} is not an id")
        return queries, [frozenset()] * len(queries)
    other = f"{wanted}, not {shown(queries)}; for queries without ids use search()"
    texts: dict[str, str] = {}
    records = as_list(queries, other)
    for query in records:
        if not isinstance(query, Query):
            raise InputError(f"{wanted}, and one of them is {shown(query)}; for queries without ids use search()")
        if query.id in texts:
            raise InputError(f"two queries have the id {shown(query.id)}; ids must be unique")
        texts[query.id] = query.text
    excluded = excluded_ids(records)
    return texts, [excluded.get(name, frozenset()) for name in texts]
