"""Judgements and rankings in files: those of BEIR, TREC and Hypencoder."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hyperseek._bounded import PathLike, existing_file, json_value, whole_text
from hyperseek._documents import find_key, id_of, number_of
from hyperseek._files import atomic_write
from hyperseek._order import best_first
from hyperseek.data.reading import ErrorReport, Faults, OnError, base_suffix, json_lines, numbered_lines
from hyperseek.errors import DataError, InputError, brief, shown
from hyperseek.types import Qrels, Run

BEIR_HEADER = ("query-id", "corpus-id", "score")
# ASCII blanks only: str.split() would also split ids at no-break spaces and control characters.
BLANKS = re.compile(r"[ \t]+")
QUERY_NAMES = ("query-id", "qid", "query", "topic", "topic_id")
DOCUMENT_NAMES = ("corpus-id", "doc_id", "docid", "document_id", "docno", "pid", "passage_id", "document", "doc")
GRADE_NAMES = ("score", "relevance", "rel", "grade", "label", "judgment", "judgement", "rating", "relevancy", "gain")

LARGEST_GRADE = (1 << 31) - 1
"""Grades that do not fit into 32 bits are mistakes, and measures could not distinguish them."""
_TREC_COLUMNS = 6


class Judgement(NamedTuple):
    """One judgement and its place in a file.

    Attributes:
        query_id: The query.
        document_id: The document.
        grade: 0 or less means judged and not relevant.
        path: The file.
        line: Its line from 1, if it has one.
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
    """Read judgements; the suffix and the number of columns determine the format.

    `.json` is Hypencoder's `{query: {document: grade}}`; three columns are BEIR's (a header line is optional); four
    are TREC's (`query iteration document grade`). Columns are separated by tabs or, without tabs, by blanks.

    Args:
        path: The file, plain or `.gz`.
        queries: The ids of all known queries; None does not check.
        documents: The ids of all known documents; None does not check.
        on_error: Stop at a bad judgement, or skip and count it.
        report: Counts them; None makes one that is logged at the end.

    Returns:
        The judgements, in order.

    Raises:
        DataError: The file is missing, a line does not fit its format, a grade is not a whole number, a pair is judged
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
        InputError: An id contains a tab or a line end, or for TREC a blank, or a grade is not a whole number;
            nothing is written.
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
                    raise InputError(f"query {query_id!r}, document {document_id!r}: {wrong_grade(given)}")
                cells = (query_id, document_id, grade) if beir else (query_id, 0, document_id, grade)
                file.write(("\t" if beir else " ").join(map(str, cells)) + "\n")


def check_id(identity: object, forbidden: str, path: object) -> None:
    """Raise an `InputError` if an id cannot be written with separators `forbidden`."""
    if not isinstance(identity, str):
        raise InputError(f"cannot write id {shown(identity)} to {path}: ids must be strings")
    if not identity or any(character in identity for character in forbidden):
        raise InputError(
            f"cannot write id {identity!r} to {path}: ids must not be empty or contain any of {list(forbidden)}"
        )
    if not identity.isascii() and any("\ud800" <= character <= "\udfff" for character in identity):
        raise InputError(f"cannot write id {identity!r} to {path}: half of a surrogate pair is not text")


def check_nested(values: object, what: str) -> None:
    """Raise an `InputError` unless these are values by query and by document."""
    if not isinstance(values, Mapping) or not all(isinstance(part, Mapping) for part in values.values()):
        raise InputError(f"{what} must be {{query: {{document: number}}}}, not {shown(values, 200)}")


def read_judgements(path: Path, faults: Faults) -> Iterator[Judgement]:
    """Stream the judgements of a file of any known format."""
    return _from_json(path, faults) if base_suffix(path) == ".json" else _from_columns(path, faults)


def collect_qrels(judgements: Iterable[Judgement], faults: Faults) -> Qrels:
    """Group judgements by query; judging a pair twice is a fault."""
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
    """Pass on judgements of known queries and documents; `missing` lists documents known not to exist."""
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
    """Return a grade, or None if `value` is not a whole number within `LARGEST_GRADE`; `"1.0"` and `1.0` count as 1."""
    number = number_of(value)
    if number is None or not number.is_integer() or abs(number) > LARGEST_GRADE:
        return None
    return int(number)


def wrong_grade(given: object) -> str:
    """Describe the problem with a grade that `grade_of` refuses."""
    number = number_of(given)
    if number is not None and number.is_integer():
        return f"a grade must be from -{LARGEST_GRADE} to {LARGEST_GRADE}, and {shown(given)} is out of range"
    return f"a grade must be a whole number, not {shown(given)}"


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
            needed = f"{columns}, like the lines before" if columns else "3 (query, document, grade) or TREC's 4"
            faults.found("bad_columns", f"has {len(cells)} columns, but needs {needed}", path=path, line=number)
            continue
        query_id, document_id, given = (cells[place] for place in places)
        grade = grade_of(given)
        if grade is None:
            faults.found("bad_grade", wrong_grade(given), path=path, line=number)
        elif not query_id or not document_id:
            faults.found("missing_field", "an id is empty", path=path, line=number)
        else:
            yield Judgement(query_id, document_id, grade, path, number)


def _named_places(cells: list[str]) -> tuple[int, int, int] | None:
    """Return the places of query, document and grade by the names in a header, or None if there is no header."""
    if grade_of(cells[-1]) is not None:
        return None
    found = [find_key(names, cells) for names in (QUERY_NAMES, DOCUMENT_NAMES, GRADE_NAMES)]
    if found[2] is None:
        return None
    if found[0] is None or found[1] is None:
        # Only the grade's name is known: assume the usual order of columns.
        return (0, len(cells) - 2, len(cells) - 1) if cells[-1] == found[2] else None
    query, document, grade = (cells.index(str(name)) for name in found)
    return query, document, grade


def _from_json(path: Path, faults: Faults) -> Iterator[Judgement]:
    text = whole_text(path)
    try:
        # Lists of pairs, because a dict would hide keys that appear twice.
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
                if not document_id:
                    problem = "the id of the document is empty"
                elif isinstance(value, str):
                    problem = f"a grade must be a whole number, not the text {shown(value)}"
                else:
                    problem = wrong_grade(value)
                faults.found("bad_grade", f"query {query_id!r}, document {document_id!r}: {problem}", path=path)
            else:
                yield Judgement(query_id, document_id, grade, path, None)


def read_run(path: PathLike, *, on_error: OnError = "raise", report: ErrorReport | None = None) -> Run:
    """Read a ranking, best first.

    `.jsonl` is Hypencoder's `{"query": {"id"}, "items": [{"id", "score"}, ...]}`; everything else is TREC's six
    columns `query Q0 document rank score tag`, separated by tabs or by blanks. As trec_eval does, the order comes
    from the scores, not from the ranks; equal scores keep the order of the file.

    Args:
        path: The file, plain or `.gz`.
        on_error: Stop at a bad line, or skip and count it.
        report: Counts them; None makes one that is logged at the end.

    Returns:
        Scores by query and document.

    Raises:
        DataError: The file is missing, a line does not fit, a score is not a finite number, or a document appears twice
            in one ranking.
    """
    file = existing_file(path)
    faults = Faults(on_error, report)
    rows = _from_json_lines(file, faults) if base_suffix(file) == ".jsonl" else _from_trec(file, faults)
    run: Run = {}
    for line, query_id, document_id, score in rows:
        ranking = run.setdefault(query_id, {})
        if document_id in ranking:
            message = f"document {document_id!r} appears a second time in the ranking of query {query_id!r}"
            faults.found("duplicate_document", message, path=file, line=line)
        else:
            ranking[document_id] = score
    faults.finish(file)
    return {query_id: {name: ranking[name] for name in best_first(ranking)} for query_id, ranking in run.items()}


def write_run(run: Run, path: PathLike, *, tag: str = "hyperseek") -> None:
    """Write a ranking as a TREC run, atomically.

    Args:
        run: Scores by query and document.
        path: The file.
        tag: The run's name, its last column.

    Raises:
        InputError: As for `trec_lines`; nothing is written.
    """
    with atomic_write(path) as file:
        file.writelines(line + "\n" for line in trec_lines(run, tag=tag))


def trec_lines(run: Run, *, tag: str = "hyperseek") -> Iterator[str]:
    """Yield the lines of a TREC run, best first, ranks from 1, scores with every digit.

    Columns are separated by blanks, or by tabs in all lines if any id contains a blank:
    `read_run` reads them, trec_eval does not.

    Args:
        run: Scores by query and document.
        tag: The run's name, its last column.

    Yields:
        Lines without line ends.

    Raises:
        InputError: An id is empty or contains a tab or a line end, or a score is not finite.
    """
    check_nested(run, "a run")
    identities = [*run, *(document_id for ranking in run.values() for document_id in ranking), tag]
    for identity in identities:
        check_id(identity, "\t\r\n", "a TREC run")
    separator = "\t" if any(" " in identity for identity in identities) else " "
    for query_id, ranking in run.items():
        for document_id, score in ranking.items():
            if not _is_finite(score):
                raise InputError(
                    f"query {query_id!r}, document {document_id!r}: a score must be a finite number, not {shown(score)}"
                )
        for rank, document_id in enumerate(best_first(ranking), start=1):
            yield separator.join((query_id, "Q0", document_id, str(rank), repr(float(ranking[document_id])), tag))


def _is_finite(score: object) -> bool:
    try:
        return math.isfinite(score)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return False


def _from_trec(path: Path, faults: Faults) -> Iterator[tuple[int, str, str, float]]:
    for number, line in numbered_lines(path, faults):
        cells = line.split("\t")
        if len(cells) != _TREC_COLUMNS:
            cells = BLANKS.split(line.strip(" \t"))
        if len(cells) != _TREC_COLUMNS:
            message = f"has {len(cells)} columns, but a TREC run has 6: query Q0 document rank score tag"
            faults.found("bad_columns", message, path=path, line=number)
            continue
        score = number_of(cells[4])
        if score is None:
            faults.found("bad_score", f"the score must be a number, not {shown(cells[4])}", path=path, line=number)
        elif not cells[0] or not cells[2]:
            faults.found("missing_field", "an id is empty", path=path, line=number)
        else:
            yield number, cells[0], cells[2], score


def _from_json_lines(path: Path, faults: Faults) -> Iterator[tuple[int, str, str, float]]:
    for number, record in json_lines(path, faults):
        query, items = record.get("query"), record.get("items")
        query_id = id_of(query.get("id")) if isinstance(query, dict) else None
        if query_id is None or not isinstance(items, list):
            message = 'needs {"query": {"id": ...}, "items": [...]}'
            faults.found(
                "missing_field", f"{message}, has the keys {shown(sorted(record), 200)}", path=path, line=number
            )
            continue
        for item in items:
            fields: Mapping[str, Any] = item if isinstance(item, dict) else {}
            document_id, score = id_of(fields.get("id")), number_of(fields.get("score"))
            if document_id is None or score is None:
                message = f"an item needs an id and a numeric score, not {shown(item)}"
                faults.found("bad_score", message, path=path, line=number)
            else:
                yield number, query_id, document_id, score
