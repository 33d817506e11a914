"""One grammar for every source, one registry of data sources, and opening a collection."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from hyperseek._bounded import LONGEST_PATH, PathLike, path_text
from hyperseek._registry import Registry
from hyperseek.data._dataset import Dataset
from hyperseek.data.reading import FieldKeys, OnError
from hyperseek.errors import DataError, HyperseekError, InputError, UnknownNameError, brief, shown, suggestion

_NAMED = re.compile(r"([\w.-]+)=(.+)")
TableKind: TypeAlias = Literal["hypencoder", "columns", "reasonir", "kalm"]
_TABLES: tuple[TableKind, ...] = get_args(TableKind)
_OTHER_PREFIXES = (*_TABLES, "mds")  # of tables of examples, and of texts for pre-training


@dataclass(frozen=True, slots=True)
class SourceKind:
    """A kind of data source: how `NAME:PLACE` is opened.

    Attributes:
        open: Returns the collection at a place, `open(place)`; with the keys of fields, `open(place, keys)`.
        fields: Whether `open` takes the keys of the documents' fields.
        beside: Whether it also takes `queries=` and `qrels=`, separate files.
        splits: Splits that all of its collections have; the place may then be omitted, as in `pydocs:train`.
        groups: Of a benchmark, its sets, which are places, in the groups over which means are reported.
    """

    open: Callable[..., Dataset]
    fields: bool = False
    beside: bool = False
    splits: tuple[str, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def _check(name: str, value: object) -> None:
    if len(name) == 1:
        raise InputError(f"a data source needs a name of two letters or more; {name}: starts a Windows path")
    if name in _OTHER_PREFIXES:
        raise InputError(f"the name {name!r} is taken: {name}:PLACE has another meaning; choose a different name")
    if not isinstance(value, SourceKind) and not callable(value):
        raise InputError(f"the data source {name!r} must be a function that opens a place, not {shown(value)}")


_OURS = {
    "beir": "hyperseek.data._benchmark_collections:BEIR",
    "bright": "hyperseek.data._known_collections:BRIGHT",
    "files": "hyperseek.data._text_files:FILES",
    "followir": "hyperseek.data._followir:FOLLOWIR",
    "folder": "hyperseek.data._text_files:FOLDER",
    "hub": "hyperseek.data.hub:HUB",
    "ir_datasets": "hyperseek.data.hub:IR_DATASETS",
    "nanobeir": "hyperseek.data._benchmark_collections:NANOBEIR",
    "pydocs": "hyperseek.data._known_collections:PYDOCS",
    "ragas": "hyperseek.data.question_tables:QUESTIONS",
    "ragbench": "hyperseek.data.question_tables:RAGBENCH",
    "trec": "hyperseek.data._benchmark_collections:TREC",
}
SOURCES: Registry[Any] = Registry("data source", "hyperseek.sources", _OURS, check=_check)


def register_source(name: str, opener: Callable[[str], Dataset] | None = None) -> Any:
    """Register a data source: `NAME:PLACE` then works wherever a source is named.

    Args:
        name: Its name, a word of two letters or more.
        opener: Returns the collection at a place, most simply by `Dataset.from_records`; None to use the result as a
            decorator.

    Returns:
        The opener, or a decorator.

    Raises:
        InputError: The name cannot be used or is taken, or the opener is not a function.
    """
    return SOURCES.register(name, opener)


def registered_source(text: str) -> SourceKind | None:
    """Return the kind of data source that a text starts with, or None if the text is a path."""
    name, _ = _registered(text)
    return None if name is None else _kind(name)


def benchmark_sets(name: str) -> Mapping[str, tuple[str, ...]]:
    """Return the sets of a benchmark by their groups; empty if no data source of that name has any."""
    return _kind(name).groups if name in SOURCES else {}


@dataclass(frozen=True, slots=True)
class ParsedSource:
    """A parsed source of a command or recipe: `[NAME=][TABLE:]PLACE[:SPLIT]`, of a table with its kind before it.

    Attributes:
        given: The whole text.
        name: The name given to it, or None.
        kind: How its content is turned into examples.
        place: The place to open.
        split: The split, or None.
    """

    given: str
    name: str | None
    kind: Literal["qrels"] | TableKind
    place: str
    split: str | None


def parse_source(source: PathLike) -> ParsedSource:
    """Parse a source.

    Args:
        source: A collection for `open_dataset`, or `hypencoder:`, `columns:`, `reasonir:` or `kalm:` and a table;
            `:SPLIT` may follow collections and Hub tables, `NAME=` may precede all.

    Returns:
        Its parts.
    """
    given = path_text(source)
    name, text = without_name(given)
    for kind in _TABLES:
        if text.startswith(f"{kind}:"):
            place = text.removeprefix(f"{kind}:")
            place, split = _without_split(place) if place.startswith("hub:") else (place, None)
            return ParsedSource(given, name, kind, place, split)
    place, split = _without_split(text)
    return ParsedSource(given, name, "qrels", place, split)


def without_name(text: str) -> tuple[str | None, str]:
    """Split `NAME=PLACE`; an existing path has no name before it."""
    named = None if os.path.exists(text) else _NAMED.fullmatch(text)
    return (None, text) if named is None else (named[1], named[2])


def _registered(text: str) -> tuple[str | None, str]:
    """Return the name of the data source that a text starts with, or None, and the place."""
    name, colon, place = text.partition(":")
    if not colon:  # a file or folder, unless the name alone means something
        return (name, "") if name in _OURS and _kind(name).splits else (None, text)
    is_name = len(name) > 1 and name.replace("-", "_").isidentifier() and name in SOURCES
    return (name, place) if is_name else (None, text)


def _kind(name: str) -> SourceKind:
    value = SOURCES[name]
    return value if isinstance(value, SourceKind) else SourceKind(value)


def _without_split(text: str) -> tuple[str, str | None]:
    name, rest = _registered(text)
    if name is None and os.path.exists(text):
        return text, None
    if name is not None and rest in _kind(name).splits:
        return name, rest
    place, _, split = rest.rpartition(":")
    # A split is not a path: in C:/data the colon belongs to the place.
    if not place or set(split) & {"/", "\\"} or (name is None and not split):
        return text, None
    return place if name is None else f"{name}:{place}", split or None


def open_dataset(
    source: PathLike,
    *,
    name: str | None = None,
    queries: PathLike | None = None,
    qrels: PathLike | Mapping[str, PathLike] | None = None,
    id_key: str | None = None,
    text_key: str | None = None,
    title_key: str | None = None,
    on_error: OnError = "raise",
    check: bool | None = None,
) -> Dataset:
    """Open a collection; nothing is read until it is needed.

    Args:
        source: A folder of files; a BEIR folder; a corpus file (`.jsonl`, `.tsv`, plain or `.gz`, `.csv`, `.parquet`,
            `.arrow`); any other file of a known kind;
            `ir_datasets:ID`; `hub:NAME`; `pydocs`, the docstrings of the Python standard library;
            `pydocs:PACKAGE,PACKAGE` to add those of installed packages; `beir:SET`, `nanobeir:SET`, `trec:SET`,
            `followir:SET`, `ragbench:SET` or `bright:SET`, with `FOLDER#` before the set to read a download;
            `ragas:FILE`; or `NAME:PLACE` of another registered data source. `NAME=` may precede it.
        name: Its short name; None takes the one in `source`, or derives it.
        queries: The queries of a corpus file.
        qrels: The judgements of a corpus file: one file, whose name becomes the split's, or files by split.
        id_key: Key of the documents' ids; None finds it.
        text_key: Key of the documents' texts; None finds it.
        title_key: Key of the documents' titles; None finds it.
        on_error: Stop at a bad record, or skip it and count it in `Dataset.report`.
        check: Whether a judgement of an unknown query or document is a bad record, which costs one pass over the
            corpus; None means yes except for `ir_datasets`, where published judgements often name such documents.

    Returns:
        The collection.

    Raises:
        DataError: There is no such folder or file, or it is of another kind.
        InputError: An argument does not apply to this kind of source, or `source` names a split or a table.
    """
    parsed = parse_source(source)
    if name is not None and (not isinstance(name, str) or not name):
        raise InputError(f"a collection's name must be a non-empty string, not {shown(name)}")
    if parsed.kind != "qrels":
        raise InputError(f"{parsed.given!r} is a table of training examples; give a collection")
    registered, place = _registered(parsed.place)
    if registered is None:
        place = parsed.place
        if not os.path.exists(place):
            raise _nothing_there(parsed.given)
        registered = "folder" if os.path.isdir(place) else "files"
    if parsed.split is not None:
        raise InputError(
            f"{parsed.given!r} names the split {parsed.split!r}, but collections are opened whole; give "
            f"{parsed.place!r}"
        )
    kind = _kind(registered)
    keys = FieldKeys(id_key, text_key, title_key)
    arguments: dict[str, Any] = {}
    if kind.fields:
        arguments["keys"] = keys
    elif keys.named:
        raise InputError(f"{parsed.given} has its own fields; id_key, text_key and title_key apply to other sources")
    if kind.beside:
        arguments |= {"queries": queries, "qrels": qrels}
    elif queries is not None or qrels is not None:
        raise InputError(
            f"{parsed.given} has its own queries and judgements; queries= and qrels= apply to a corpus file"
        )
    opened = _opened(registered, kind, place, arguments)
    return opened.reopened(name=name or parsed.name, on_error=on_error, check=check)


def training_split(collection: Dataset, split: str | None, *, allow_test: bool | None = False) -> str | None:
    """Return the split that a program may learn from.

    Args:
        collection: Any.
        split: The wanted one; None takes `train`.
        allow_test: Whether it may be one for tests; None refuses it without saying how to insist.

    Returns:
        The split; None for a collection without judgements, all of whose queries may be used.

    Raises:
        UnknownNameError: There is no such split.
        InputError: Its name says that it is for tests.
    """
    if not collection.splits and split is None:
        return None
    chosen = split or "train"
    if chosen not in collection.splits:
        raise UnknownNameError(f"split of {collection.name}", chosen, collection.splits)
    if "test" in re.split(r"[^a-z]+", chosen.lower()) and not allow_test:
        raise InputError(
            f"the split {chosen!r} of {collection.name} is for measuring, and what has learned from it cannot be "
            f"measured on it; name another of {list(collection.splits)}"
            + ("" if allow_test is None else ", or insist with allow_test= or --allow-test")
        )
    return chosen


def _opened(name: str, kind: SourceKind, place: str, arguments: Mapping[str, Any]) -> Dataset:
    try:
        opened = kind.open(place, **arguments)
    except HyperseekError:
        raise
    except Exception as error:
        if name in _OURS:
            raise
        message = f"cannot be opened by the data source {name!r}: {type(error).__name__}: {brief(error)}"
        raise DataError(message, path=f"{name}:{place}") from error
    if not isinstance(opened, Dataset):
        raise InputError(f"the data source {name!r} must return a hyperseek.data.Dataset, not {shown(opened)}")
    return opened


def _nothing_there(given: str) -> DataError:
    prefix, colon, _ = given.partition(":")
    return DataError(
        f"no such file or folder; give a folder of files, a BEIR folder, a corpus file, or NAME:PLACE with the name "
        f"of a data source ({', '.join(SOURCES)}){suggestion(prefix, SOURCES) if colon else ''}",
        path=given[:LONGEST_PATH],
    )
