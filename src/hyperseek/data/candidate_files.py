"""Files of candidates: the documents that are given for each query, to be reranked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperseek._bounded import PathLike, existing_file
from hyperseek._documents import find_key, id_of
from hyperseek._order import best_first
from hyperseek.data._qrels_and_runs import DOCUMENT_NAMES, QUERY_NAMES, read_run
from hyperseek.data.reading import Faults, base_suffix, json_lines
from hyperseek.errors import shown

LIST_NAMES = ("corpus-ids", "candidates", "documents", "doc_ids", "docids", "pids", "top_ranked")


def read_candidates(path: PathLike) -> dict[str, list[str]]:
    """Read the documents to rerank of each query.

    `.jsonl` has a list for each query, as in mteb's `top_ranked` (`{"query-id": "q", "corpus-ids": ["a", "b"]}`), or
    a line for each document, best first, as in FollowIR's (`{"qid": "q", "pid": "a"}`). A run in Hypencoder's JSON
    lines, and everything else as a TREC run, is read as by `read_run`.

    Args:
        path: The file, plain or `.gz`.

    Returns:
        Ids by query, best first, each once.

    Raises:
        DataError: The file is missing, or a line does not fit.
    """
    file = existing_file(path)
    if base_suffix(file) == ".jsonl" and not _is_run(file):
        return _from_json_lines(file)
    return {query: best_first(ranking) for query, ranking in read_run(file).items()}


def _is_run(file: Path) -> bool:
    first = next((record for _, record in json_lines(file, Faults("skip"))), {})
    return "items" in first


def _from_json_lines(file: Path) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {}
    for number, record in json_lines(file, Faults()):
        add_candidates(lists, record, file, number)
    return {query: list(dict.fromkeys(ids)) for query, ids in lists.items()}


def add_candidates(lists: dict[str, list[str]], record: Mapping[str, Any], path: object, line: int) -> None:
    """Add one row to lists of candidates; DataError if it has no query, or no list of documents and no document."""
    query_key, list_key = find_key(QUERY_NAMES, record), find_key(LIST_NAMES, record)
    document_key = find_key(DOCUMENT_NAMES, record)
    query = None if query_key is None else id_of(record[query_key])
    given: Any = None
    if list_key is not None and isinstance(record[list_key], list | tuple):
        given = record[list_key]
    elif document_key is not None:
        given = [record[document_key]]
    ids = None if given is None else [id_of(one) for one in given]
    if query is None or ids is None or None in ids:
        message = f"needs a query-id and a list corpus-ids, or a pid, has {shown(record)}"
        Faults().found("bad_field", message, path=path, line=line)
        return
    lists.setdefault(query, []).extend(one for one in ids if one is not None)
