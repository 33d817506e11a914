"""Corpora and queries in single files: JSON lines with any keys, or tab-separated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hyperseek._errors import DataError
from hyperseek._text_files import PathLike, existing_file
from hyperseek.data._fields import FieldKeys, documents_from_rows, queries_from_rows
from hyperseek.data._lines import Row, base_suffix, json_lines, numbered_lines
from hyperseek.data._report import ErrorReport, Faults, OnError
from hyperseek.data._tab_separated import tab_separated
from hyperseek.records import Document, Query

TEXT_SUFFIXES = (".jsonl", ".tsv")


def read_corpus(
    path: PathLike,
    *,
    id_key: str | None = None,
    text_key: str | None = None,
    title_key: str | None = None,
    on_error: OnError = "raise",
    report: ErrorReport | None = None,
) -> Iterator[Document]:
    """Stream the documents of a `.jsonl` or `.tsv` file, plain or `.gz`.

    A TSV file has two columns, id and text, or a first line that names its columns. Where that cannot be told, it is an
    error; keys then say it, by the names in the first line, or by numbers from 1 where no line names the columns.

    Args:
        path: The file.
        id_key: Key or column of the id; None finds the usual ones (`_id`, `id`, `doc_id`, ...).
        text_key: Key or column of the text; None finds the usual ones (`text`, `content`, `body`, ...).
        title_key: Key or column of the title; None finds `title` or `page_title`. Other keys become metadata.
        on_error: Stop at a bad record, or leave it out and count it.
        report: Where to count; None makes one that is logged at the end.

    Returns:
        The documents in order. Memory holds 8-byte hashes of the ids, never the texts.

    Raises:
        DataError: The file is missing or of another kind, or (while iterating) a record is bad: not JSON, a field
            missing or of the wrong type, an id that stands there twice; or it holds no document. The message names
            file and line.
    """
    return read_document_rows(existing_file(path), FieldKeys(id_key, text_key, title_key), Faults(on_error, report))


def read_queries(
    path: PathLike,
    *,
    id_key: str | None = None,
    text_key: str | None = None,
    on_error: OnError = "raise",
    report: ErrorReport | None = None,
) -> Iterator[Query]:
    """Stream the queries of a `.jsonl` or `.tsv` file, plain or `.gz`.

    Args:
        path: The file.
        id_key: Key or column of the id; None finds the usual ones.
        text_key: Key or column of the text; None finds the usual ones. Other keys become metadata.
        on_error: Stop at a bad record, or leave it out and count it.
        report: Where to count; None makes one that is logged at the end.

    Returns:
        The queries in order.

    Raises:
        DataError: As in `read_corpus`; an empty query is bad too.
    """
    return read_query_rows(existing_file(path), FieldKeys(id_key, text_key), Faults(on_error, report))


def read_id_list(path: PathLike) -> list[str]:
    """Read a file of ids, one a line, as they are: blanks at their ends belong to them. Empty lines do not count.

    Args:
        path: The file.

    Returns:
        The ids, in order.

    Raises:
        DataError: The file is missing, not UTF-8, or holds none.
    """
    found = existing_file(path)
    ids = [line for _, line in numbered_lines(found, Faults(), blank=True)]
    if not ids:
        raise DataError("holds no ids", path=found)
    return ids


def read_document_rows(path: Path, keys: FieldKeys, faults: Faults) -> Iterator[Document]:
    """Stream the documents of a file; bad ones go to `faults`."""
    return documents_from_rows(_rows(path, keys, faults), path, keys, faults)


def read_query_rows(path: Path, keys: FieldKeys, faults: Faults) -> Iterator[Query]:
    """Stream the queries of a file; bad ones go to `faults`."""
    return queries_from_rows(_rows(path, keys, faults), path, keys, faults)


def _rows(path: Path, keys: FieldKeys, faults: Faults) -> Iterator[Row]:
    if base_suffix(path) not in TEXT_SUFFIXES:
        raise DataError(f"texts are read from {' or '.join(TEXT_SUFFIXES)} files, plain or .gz", path=path)
    return json_lines(path, faults) if base_suffix(path) == ".jsonl" else tab_separated(path, keys.named, faults)
