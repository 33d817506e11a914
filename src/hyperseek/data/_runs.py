"""Rankings on disk: TREC runs, and the JSON lines that Hypencoder writes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hyperseek._bounded import PathLike, existing_file
from hyperseek._documents import id_of, number_of
from hyperseek._files import atomic_write
from hyperseek._order import best_first
from hyperseek.data._qrels import BLANKS, check_id, check_nested
from hyperseek.data.lines import base_suffix, json_lines, numbered_lines
from hyperseek.data.report import ErrorReport, Faults, OnError
from hyperseek.errors import InputError, shown
from hyperseek.types import Run

_TREC_COLUMNS = 6


def read_run(path: PathLike, *, on_error: OnError = "raise", report: ErrorReport | None = None) -> Run:
    """Read a ranking, best first.

    `.jsonl` is Hypencoder's `{"query": {"id"}, "items": [{"id", "score"}, ...]}`; everything else is TREC's six
    columns `query Q0 document rank score tag`, separated by tabs or by blanks. As trec_eval does, the order comes
    from the scores, not from the ranks; equal scores keep the order of the file.

    Args:
        path: The file, plain or `.gz`.
        on_error: Stop at a bad line, or leave it out and count it.
        report: Where to count; None makes one that is logged at the end.

    Returns:
        Scores by query and document.

    Raises:
        DataError: The file is missing, a line does not fit, a score is no finite number, or a document appears twice
            in one ranking.
    """
    file = existing_file(path)
    faults = Faults(on_error, report)
    rows = _from_json_lines(file, faults) if base_suffix(file) == ".jsonl" else _from_trec(file, faults)
    run: Run = {}
    for line, query_id, document_id, score in rows:
        ranking = run.setdefault(query_id, {})
        if document_id in ranking:
            message = f"document {document_id!r} stands a second time in the ranking of query {query_id!r}"
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

    Columns are separated by blanks. Where an id itself holds a blank, all lines of the run are separated by tabs:
    `read_run` reads them, trec_eval does not.

    Args:
        run: Scores by query and document.
        tag: The run's name, its last column.

    Yields:
        Lines without line ends.

    Raises:
        InputError: An id is empty or holds a tab or a line end, or a score is not finite.
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
            message = f"has {len(cells)} columns, a TREC run has 6: query Q0 document rank score tag"
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
