"""Conversion of records of any usual form to documents: finding the id, the text and the title.

Field names are compared case-insensitively, and `doc-id`, `doc id` and `doc_id` are the same name.
"""

from __future__ import annotations

import datetime
import math
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Real
from typing import Any

from hyperseek.errors import InputError, shown
from hyperseek.types import Document

ALLOWED = (
    "a document is a hyperseek.Document, a text, a tuple (id, text) or (id, text, title), or a mapping with an id "
    "(as 'id', '_id', 'docid'), a text (as 'text', 'contents', 'body') and perhaps a 'title'"
)
_ROWS = 1_000  # rows of a table that are converted to Python values at a time
_MISSING = ("NAType", "NaTType")  # of pandas, for missing values

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

EMOJI = (
    "[\U0001f1e6-\U0001f1ff]{2}"  # flags
    "|[\u231a\u231b\u23e9-\u23fa\u2600-\u2767\u2776-\u27bf\u2b50\u2b55\U0001f300-\U0001f3fa\U0001f400-\U0001faff]"
)
"""Pattern of symbols that are searched for like words, without skin tones."""

# Python's own parser also reads "1_0" and digits of other scripts.
_NUMBER = re.compile(r"[+-]?([0-9]{1,400}(\.[0-9]{0,400})?|\.[0-9]{1,400})([eE][+-]?[0-9]{1,4})?")


def as_documents(given: object, *, numbered: bool = True) -> Iterator[Document]:
    """Convert records of any usual form to documents, lazily.

    Args:
        given: Any iterable of documents, of texts (whose ids are their positions, from `"0"`), of tuples `(id, text)`
            or `(id, text, title)`, or of mappings, as a `datasets.Dataset` is; a table of pandas, pyarrow or polars;
            or an object with a method `documents()`. The fields of mappings and tables are found by their names in the
            first record; fields other than id, text and title become metadata.
        numbered: Whether plain texts are accepted, with their positions as ids.

    Returns:
        The documents in order; nothing is read before it is asked for.

    Raises:
        InputError: `given` is not an iterable of documents, or (while iterating) an element is not a document; the
            message names its position, counted from 0.
    """
    return _converted(_records(given), numbered)


def joined(documents: Iterable[Document], vectors: Iterable[Any]) -> Iterator[tuple[Document, Any]]:
    """Pair documents with their vectors; InputError at the end if their numbers differ."""
    rest, nothing, count = iter(_iterable(vectors)), object(), 0
    for count, document in enumerate(documents, start=1):
        vector = next(rest, nothing)
        if vector is nothing:
            raise InputError(f"every document needs a vector, and there are only {count - 1} vectors")
        yield document, vector
    if next(rest, nothing) is not nothing:
        raise InputError(f"every vector needs a document, and there are only {count} documents")


def with_vectors(pairs: Iterable[tuple[object, Any]]) -> Iterator[tuple[Document, Any]]:
    """Convert pairs of a record, in any form that `as_documents` takes, and a vector.

    Args:
        pairs: The pairs.

    Yields:
        The pairs, in order.

    Raises:
        InputError: An element is not a pair, or its first part is not a document.
    """
    if not isinstance(pairs, Iterable):
        raise InputError(
            f"documents and vectors must be an iterable of pairs, as zip(DOCUMENTS, VECTORS), not {shown(pairs)}"
        )
    vectors: deque[Any] = deque()

    def first() -> Iterator[object]:
        for position, pair in enumerate(pairs):
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise InputError(f"position {position} must be a pair of a document and its vector, not {shown(pair)}")
            vectors.append(pair[1])
            yield pair[0]

    for document in as_documents(first()):
        yield document, vectors.popleft()


def _records(given: Any) -> Iterable[object]:
    match given:
        case str() | bytes() | os.PathLike():
            raise InputError(
                f"documents must be a collection, not {shown(given)}; for a file or folder give "
                f"open_dataset(PATH).documents() or run `hyperseek encode`, for a single text give [TEXT]"
            )
        case Document():
            raise InputError("documents must be a collection, not a single one; give [DOCUMENT]")
        case Mapping():
            raise InputError(
                f"documents are several, not one mapping with the keys {shown(list(given))}; give a list of records, "
                f"or one of its parts"
            )
        case set() | frozenset():
            raise InputError("documents need an order, which breaks ties, and a set has none; give sorted(DOCUMENTS)")
    documents = getattr(given, "documents", None)
    if callable(documents):
        return _iterable(documents())
    return _rows(given) if hasattr(type(given), "columns") else _iterable(given)


def _iterable(given: Any) -> Iterator[object]:
    try:
        found: Iterator[object] = iter(given)
        return found
    except TypeError:
        raise InputError(f"documents must be an iterable, such as a list, not {shown(given)}; {ALLOWED}") from None


def _rows(table: Any) -> Iterator[object]:
    """Return the rows of a table as mappings."""
    if hasattr(table, "iloc"):
        if any(name is not None for name in table.index.names):
            columns = list(table.columns)
            # A named index is meant as a column; an unnamed one only counts rows.
            table = table.reset_index(drop=all(name in columns or name is None for name in table.index.names))
        names = list(table.columns)
        rows = _parts(len(table), lambda start: table.iloc[start : start + _ROWS].to_dict("records"))
    elif hasattr(table, "to_pylist"):
        names = list(table.schema.names)
        rows = _parts(len(table), lambda start: table.slice(start, _ROWS).to_pylist())
    elif hasattr(table, "iter_rows"):
        names, rows = list(table.columns), table.iter_rows(named=True)
    else:
        raise InputError(
            f"a table must be an in-memory table of pandas, pyarrow or polars, not a "
            f"{type(table).__module__}.{type(table).__name__}; give an iterable of its rows as mappings"
        )
    twice = repeated(names)
    if twice is not None:
        raise InputError(f"the column {twice!r} appears twice in the table; column names must be unique")
    return ({name: None if _is_missing(value) else value for name, value in row.items()} for row in rows)


def _parts(count: int, part: Callable[[int], Iterable[Mapping[Any, Any]]]) -> Iterator[Mapping[Any, Any]]:
    for start in range(0, count, _ROWS):
        yield from part(start)


def _is_missing(value: object) -> bool:
    return type(value).__name__ in _MISSING or (isinstance(value, float) and value != value)


def _converted(records: Iterable[Any], numbered: bool) -> Iterator[Document]:
    keys: tuple[str, str] | None = None
    for position, given in enumerate(records):
        record = given.as_py() if hasattr(given, "as_py") else given  # a number or text of Arrow
        match record:
            case Document():
                _check(record.id, record.text, record.title, record.metadata, position)
                yield record
            case str() if not numbered:
                raise InputError(
                    f"position {position} of the documents has a text without an id, and replacing needs ids; give "
                    f"(id, text)"
                )
            case str():
                yield Document(str(position), str(record))
            case tuple() if hasattr(record, "_asdict") or len(record) in (2, 3):
                if hasattr(record, "_asdict"):
                    fields = record._asdict()
                    keys = keys or _keys(fields, position)
                    yield _from_mapping(fields, keys, position)
                else:
                    identity, text, title = (*record, "")[:3]
                    yield _document(identity, text, title, {}, position)
            case Mapping():
                keys = keys or _keys(record, position)
                yield _from_mapping(record, keys, position)
            case _:
                raise InputError(f"position {position} of the documents holds {shown(record)}; {ALLOWED}")


def _keys(record: Mapping[Any, Any], position: int) -> tuple[str, str]:
    found = find_key(ID_KEYS, record), find_key(TEXT_KEYS, record)
    for what, key in zip(("id", "text"), found, strict=True):
        if key is None:
            raise InputError(
                f"the record at position {position} has no {what} under a usual name but the keys "
                f"{shown(list(record), 200)}; {ALLOWED}"
            )
    return str(found[0]), str(found[1])


def _from_mapping(record: Mapping[Any, Any], keys: tuple[str, str], position: int) -> Document:
    rest = dict(record)
    missing = [key for key in keys if key not in rest]
    if missing:
        raise InputError(
            f"the record at position {position} lacks the key {missing[0]!r}, which the first record has; it has "
            f"{shown(list(record), 200)}"
        )
    identity, text = (rest.pop(key) for key in keys)
    title_key = find_key(TITLE_KEYS, rest)
    title = None if title_key is None else rest.pop(title_key)
    if isinstance(rest.get("metadata"), Mapping) and not any(key in rest for key in rest["metadata"]):
        rest |= rest.pop("metadata")  # a record that was a Document before
    return _document(identity, text, title, rest, position)


def _document(identity: object, text: object, title: object, rest: Mapping[Any, Any], position: int) -> Document:
    own = id_of(plain_values(identity))
    if own is None:
        raise InputError(
            f"the id of the document at position {position} must be a string or a whole number, not "
            f"{shown(identity)}; ids that a table holds as fractions were read as numbers, so read them as text"
        )
    text, title = plain_values(text), "" if title is None else plain_values(title)
    try:
        metadata = plain_values(rest)
    except RecursionError:
        raise InputError(f"the metadata of document {own!r} (position {position}) is nested too deeply") from None
    _check(own, text, title, metadata, position)
    return Document(own, str(text), str(title), metadata)


def _check(identity: object, text: object, title: object, metadata: object, position: int) -> None:
    if not isinstance(identity, str) or not identity:
        problem = f"an id must be a non-empty string, not {shown(identity)}"
    elif not isinstance(text, str):
        problem = f"its text must be a string, not {shown(text)}"
    elif not isinstance(title, str):
        problem = f"its title must be a string, not {shown(title)}"
    elif not isinstance(metadata, Mapping) or not all(isinstance(key, str) for key in metadata):
        problem = f"its metadata must be a mapping from names to values, not {shown(metadata)}"
    else:
        return
    raise InputError(f"document {shown(identity)} at position {position} cannot be used: {problem}")


def plain_values(value: Any) -> Any:
    """Convert numpy values, tuples and dates to JSON values; return others unchanged.

    It is applied to records and rows of tables. The metadata of a `Document` are stored unchanged, or rejected.
    """
    if isinstance(value, Mapping):
        return {plain_values(key): plain_values(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(part) for part in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, str):
        return str(value)
    if hasattr(value, "tolist"):  # numbers and arrays of numpy
        return value.tolist()
    return value


def folded(name: str) -> str:
    """Return the common form of all spellings of a name."""
    return name.strip().casefold().replace("-", "_").replace(" ", "_")


def find_key(names: Iterable[str], keys: Iterable[object]) -> str | None:
    """Find a field of a record by its usual names.

    Args:
        names: The names, the first choice first.
        keys: The record's keys.

    Returns:
        The key as spelled in the record, or None. An exact match takes precedence over other spellings.
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
        # Python refuses to write numbers of thousands of digits, and no id needs hundreds.
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
