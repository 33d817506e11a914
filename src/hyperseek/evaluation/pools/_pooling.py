"""Pools: documents for people to judge, from the top ranks of several systems.

A pool holds the union of the top `depth` of every system, in a random order within each query, without a word on which
system found what, at which rank and with which score: assessors who see these follow them. It is written as JSON
lines, as CSV, or as one HTML page to judge on, and what people fill in is read by `merge_judgements`.
"""

from __future__ import annotations

import csv
import html
import json
import os
import random
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from hyperseek._config import Config
from hyperseek._files import atomic_write
from hyperseek._fingerprint import fingerprint_json
from hyperseek._order import best_first
from hyperseek.errors import InputError, printable
from hyperseek.types import Qrels

if TYPE_CHECKING:
    from hyperseek.data import Dataset
    from hyperseek.evaluation._ranking import Ranking

GRADES = ("not relevant", "related", "relevant", "perfectly relevant")
"""What the page calls the grades 0 to 3, after TREC Deep Learning."""

_COLUMNS = ("query_id", "query", "document_id", "title", "text", "grade")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet computes a cell that begins so


class PoolItem(Config):
    """A document to judge for a query.

    Attributes:
        query_id: The query's id.
        query: Its text.
        document_id: The document's id.
        title: Its title; may be empty.
        text: Its text.
        grade: The judgement, for people to fill in.
    """

    query_id: str
    query: str
    document_id: str
    title: str
    text: str
    grade: int | None = None


def make_pool(
    rankings: Sequence[Ranking],
    dataset: Dataset,
    *,
    split: str = "test",
    depth: int = 10,
    judged: bool = False,
    seed: int = 0,
) -> list[PoolItem]:
    """Pool the top ranks of several systems.

    Args:
        rankings: At least one.
        dataset: Texts of queries and documents, and the judgements so far.
        split: Split of the queries.
        depth: Top ranks of each system, at least 1.
        judged: Whether documents that are judged already are pooled too, to judge them again.
        seed: Of the order.

    Returns:
        The items, query by query, in random order.

    Raises:
        InputError: There is no ranking or `depth` is below 1, nothing is left to judge, or the data set has none of it.
        UnknownNameError: There is no such split.
    """
    if not rankings or depth < 1:
        raise InputError(
            f"a pool needs at least one ranking and a depth of at least 1, not {len(rankings)} and {depth}"
        )
    qrels = dataset.qrels(split)
    draw = random.Random(seed)
    queries = dataset.queries(split)
    chosen: dict[str, list[str]] = {}
    for query in queries:
        known: Qrels | dict[str, int] = {} if judged else qrels.get(query.id, {})
        found = {name for one in rankings for name in best_first(one.run.get(query.id, {}))[:depth]}
        chosen[query.id] = sorted(found.difference(known))  # so that the order depends on the seed alone
    wanted = {name for names in chosen.values() for name in names}
    if not wanted:
        raise InputError(f"every document in the top {depth} is judged; pool deeper, or judge them again")
    texts = {document.id: document for document in dataset.documents() if document.id in wanted}
    items = []
    for query in draw.sample(queries, len(queries)):
        names = [name for name in chosen[query.id] if name in texts]
        for name in draw.sample(names, len(names)):
            own = texts[name]
            items.append(
                PoolItem(query_id=query.id, query=query.text, document_id=name, title=own.title, text=own.text)
            )
    if not items:
        raise InputError("no document to judge is in the data set; are the rankings of other documents?")
    return items


def write_pool(items: Sequence[PoolItem], path: str | os.PathLike[str], *, name: str = "pool") -> None:
    """Write a pool for people.

    Args:
        items: The pool.
        path: `.jsonl` for JSON lines; `.csv` for a spreadsheet, where texts that begin like a formula get a `'`;
            `.html` for a page to judge on, which works without a network, keeps what was judged in the browser, and
            exports it as JSON lines or CSV.
        name: Heading of the page.

    Raises:
        InputError: The name ends in none of these, or there is nothing to judge.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in (".jsonl", ".csv", ".html"):
        raise InputError(f"cannot tell the format of {os.fspath(path)!r}; end its name in .jsonl, .csv or .html")
    if not items:
        raise InputError("there is nothing to judge: the pool is empty")
    with atomic_write(path) as file:
        if suffix == ".jsonl":
            file.writelines(json.dumps(item.model_dump(), ensure_ascii=False) + "\n" for item in items)
        elif suffix == ".csv":
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(_COLUMNS)
            writer.writerows(_cells(item) for item in items)
        else:
            file.write(_page(items, name))


def _cells(item: PoolItem) -> Iterator[str]:
    for column, value in item.model_dump().items():
        if column in ("query", "title", "text"):
            value = printable(value, lines=True)
        yield "" if value is None else guarded(value) if isinstance(value, str) else str(value)


def guarded(cell: str) -> str:
    """Return a cell with one more `'` in front if it begins like a formula, after any number of these."""
    return f"'{cell}" if cell.lstrip("'").startswith(_FORMULA) else cell


def unguarded(cell: str) -> str:
    """Return what `guarded` was given."""
    return cell[1:] if cell.startswith("'") and cell.lstrip("'").startswith(_FORMULA) else cell


def _page(items: Sequence[PoolItem], name: str) -> str:
    queries: dict[str, str] = {}
    documents: dict[str, dict[str, str]] = {}
    for item in items:
        queries[item.query_id] = printable(item.query, lines=True)
        shown = {"title": printable(item.title, lines=True), "text": printable(item.text, lines=True)}
        documents[item.document_id] = shown
    pairs = [[item.query_id, item.document_id] for item in items]
    data = {
        "key": fingerprint_json([pairs, queries]),  # what the browser keeps belongs to this pool
        "grades": GRADES,
        "queries": queries,
        "documents": documents,
        "items": pairs,
    }
    # Without a "<" no text can end the script element.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    page = files(__package__).joinpath("_judge.html").read_text(encoding="utf-8")
    parts = {"@TITLE@": html.escape(printable(name)), "@DATA@": text}
    return re.sub("|".join(parts), lambda mark: parts[mark[0]], page)
