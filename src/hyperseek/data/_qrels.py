"""Relevance judgements: BEIR's three columns, TREC's four, Hypencoder's JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from hyperseek._bounded import PathLike, existing_file, json_value, whole_text
from hyperseek._documents import find_key, number_of
from hyperseek._files import atomic_write
from hyperseek.data.lines import base_suffix, numbered_lines
from hyperseek.data.report import ErrorReport, Faults, OnError
from hyperseek.errors import DataError, InputError, brief, shown
from hyperseek.types import Qrels

BEIR_HEADER = ("query-id", "corpus-id", "score")
# ASCII blanks only: str.split() would also split ids at no-break spaces and control characters.
BLANKS = re.compile(r"[ \t]+")
QUERY_NAMES = ("query-id", "qid", "query", "topic", "topic_id")
DOCUMENT_NAMES = ("corpus-id", "doc_id", "docid", "document_id", "docno", "pid", "passage_id", "document", "doc")
GRADE_NAMES = ("score", "relevance", "rel", "grade", "label", "judgment", "judgement", "rating", "relevancy", "gain")

LARGEST_GRADE = (1 << 31) - 1
"""Grades are small; those that do not fit into 32 bits are mistakes, and measures could not tell them apart."""


class Judgement(NamedTuple):
    """One judgement and where it stands.

    Attributes:
        query_id: The query.
        document_id: The document.
        grade: 0 or less means judged and not relevant.
        path: The file.
        line: Its line from 1, where there is one.
    """

    query_id: str
    document_id: str
    grade: int
    path: object
    line: int | None


def read_qrels(
    path: PathLike,
    *,
    queries: Collection[str] | None = None,
    documents: Collection[str] | None = None,
    on_error: OnError = "raise",
    report: ErrorReport | None = None,
) -> Qrels:
    """Read judgements; the format is told by the suffix and the number of columns.

    `.json` is Hypencoder's `{query: {document: grade}}`; three columns are BEIR's (a header line is optional); four
    are TREC's (`query iteration document grade`). Columns are separated by tabs or, without tabs, by blanks.

    Args:
        path: The file, plain or `.gz`.
        queries: The ids of all known queries; None does not check.
        documents: The ids of all known documents; None does not check.
        on_error: Stop at a bad judgement, or leave it out and count it.
        report: Where to count; None makes one that is logged at the end.

    Returns:
        The judgements, in order.

    Raises:
        DataError: The file is missing, a line does not fit its format, a grade is no whole number, a pair is judged
            twice, or a query or document is unknown.
    """
    file = existing_file(path)
    faults = Faults(on_error, report)
    qrels = collect_qrels(check_known(read_judgements(file, faults), queries, documents, faults), faults)
    faults.finish(file)
    return qrels


def write_qrels(qrels: Qrels, path: PathLike) -> None:
    """Write judgements atomically: BEIR's TSV with header if the name ends in `.tsv`, else TREC's four columns.

    Args:
        qrels: The judgements.
        path: The file.

    Raises:
        InputError: An id holds a tab or a line end, or for TREC a blank, or a grade is no whole number; nothing is
            written.
    """
    check_nested(qrels, "judgements")
    beir = base_suffix(path) == ".tsv"
    forbidden = "\t\r\n" if beir else " \t\r\n"
    with atomic_write(path) as file:
        if beir:
            file.write("\t".join(BEIR_HEADER) + "\n")
        for query_id, judged in qrels.items():
            check_id(query_id, forbidden, path)
            for document_id, given in judged.items():
                check_id(document_id, forbidden, path)
                grade = grade_of(given)
                if grade is None:
                    raise InputError(
                        f"query {query_id!r}, document {document_id!r}: a grade must be a whole number of at most "
                        f"{LARGEST_GRADE}, and not {shown(given)}"
                    )
                cells = (query_id, document_id, grade) if beir else (query_id, 0, document_id, grade)
                file.write(("\t" if beir else " ").join(map(str, cells)) + "\n")


def check_id(identity: object, forbidden: str, path: object) -> None:
    """Raise an `InputError` if an id cannot be written with separators `forbidden`."""
    if not isinstance(identity, str):
        raise InputError(f"cannot write id {shown(identity)} to {path}: ids there are texts")
    if not identity or any(character in identity for character in forbidden):
        raise InputError(
            f"cannot write id {identity!r} to {path}: ids there must not be empty nor hold any of {list(forbidden)}"
        )
    if not identity.isascii() and any("\ud800" <= character <= "\udfff" for character in identity):
        raise InputError(f"cannot write id {identity!r} to {path}: it holds half of a surrogate pair, which is no text")


def check_nested(values: object, what: str) -> None:
    """Raise an `InputError` unless these are values by query and by document."""
    if not isinstance(values, Mapping) or not all(isinstance(part, Mapping) for part in values.values()):
        raise InputError(f"{what} must be {{query: {{document: number}}}}, and not {shown(values, 200)}")


def read_judgements(path: Path, faults: Faults) -> Iterator[Judgement]:
    """Stream the judgements of a file of any known format."""
    return _from_json(path, faults) if base_suffix(path) == ".json" else _from_columns(path, faults)


def collect_qrels(judgements: Iterable[Judgement], faults: Faults) -> Qrels:
    """Gather judgements by query; a pair that is judged twice is a fault."""
    qrels: Qrels = {}
    for query_id, document_id, grade, path, line in judgements:
        judged = qrels.setdefault(query_id, {})
        if document_id in judged:
            message = f"document {document_id!r} is judged a second time for query {query_id!r}"
            faults.found("duplicate_judgement", message, path=path, line=line)
        else:
            judged[document_id] = grade
    return qrels


def check_known(
    judgements: Iterable[Judgement],
    queries: Collection[str] | None,
    documents: Collection[str] | None,
    faults: Faults,
    *,
    missing: Collection[str] = (),
) -> Iterator[Judgement]:
    """Pass on judgements of known queries and documents; `missing` lists documents known to be unknown."""
    for judgement in judgements:
        if queries is not None and judgement.query_id not in queries:
            reason, message = "unknown_query", f"query {judgement.query_id!r} is judged but is not among the queries"
        elif judgement.document_id in missing or (documents is not None and judgement.document_id not in documents):
            reason = "unknown_document"
            message = f"document {judgement.document_id!r} is judged but is not in the corpus"
        else:
            yield judgement
            continue
        faults.found(reason, message, path=judgement.path, line=judgement.line)


def grade_of(value: object) -> int | None:
    """Return a grade, or None if `value` is no whole number within `LARGEST_GRADE`; `"1.0"` and `1.0` count as 1."""
    number = number_of(value)
    if number is None or not number.is_integer() or abs(number) > LARGEST_GRADE:
        return None
    return int(number)


def _from_columns(path: Path, faults: Faults) -> Iterator[Judgement]:
    places: tuple[int, int, int] | None = None
    columns = 0
    for number, line in numbered_lines(path, faults):
        cells = line.split("\t") if line.count("\t") in (2, 3) else BLANKS.split(line.strip(" \t"))
        if places is None and len(cells) in (3, 4):
            columns = len(cells)
            places = _named_places(cells)
            if places is not None:
                continue
            places = (0, columns - 2, columns - 1)
        if places is None or len(cells) != columns:
            needed = f"{columns}, as the lines before" if columns else "3 (query, document, grade) or TREC's 4"
            faults.found("bad_columns", f"has {len(cells)} columns, needs {needed}", path=path, line=number)
            continue
        query_id, document_id, given = (cells[place] for place in places)
        grade = grade_of(given)
        if grade is None:
            message = f"the grade must be a whole number, not {shown(given)}"
            faults.found("bad_grade", message, path=path, line=number)
        elif not query_id or not document_id:
            faults.found("missing_field", "an id is empty", path=path, line=number)
        else:
            yield Judgement(query_id, document_id, grade, path, number)


def _named_places(cells: list[str]) -> tuple[int, int, int] | None:
    """Return the places of query, document and grade by the names in a header, or None where there is none."""
    if grade_of(cells[-1]) is not None:
        return None
    found = [find_key(names, cells) for names in (QUERY_NAMES, DOCUMENT_NAMES, GRADE_NAMES)]
    if found[2] is None:
        return None
    if found[0] is None or found[1] is None:
        # Only the grade has a name that is known: the columns stand in their usual order.
        return (0, len(cells) - 2, len(cells) - 1) if cells[-1] == found[2] else None
    query, document, grade = (cells.index(str(name)) for name in found)
    return query, document, grade


def _from_json(path: Path, faults: Faults) -> Iterator[Judgement]:
    text = whole_text(path)
    try:
        # Lists of pairs, because a dict would hide keys that stand there twice.
        queries = json_value(text, pairs=lambda pairs: pairs)
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON ({error.msg})", path=path, line=error.lineno) from None
    except ValueError as error:
        raise DataError(f"not valid JSON ({brief(error)})", path=path) from None
    if text.lstrip()[:1] != "{":
        raise DataError("judgements in JSON must be one object {query: {document: grade}}", path=path, line=1)
    for query_id, judged in queries:
        if not query_id:
            faults.found("missing_field", "the id of a query is empty", path=path)
            continue
        if not isinstance(judged, list) or not all(isinstance(pair, tuple) for pair in judged):
            message = f"query {query_id!r} must hold an object {{document: grade}}, not {shown(judged)}"
            faults.found("bad_field", message, path=path)
            continue
        for document_id, value in judged:
            grade = None if isinstance(value, str) else grade_of(value)
            if grade is None or not document_id:
                message = f"query {query_id!r}, document {document_id!r}: needs a document id and a whole number"
                faults.found("bad_grade", f"{message}, not {shown(value)}", path=path)
            else:
                yield Judgement(query_id, document_id, grade, path, None)
