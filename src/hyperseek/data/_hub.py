"""Datasets of the Hugging Face Hub: collections in BEIR form, and rows of any form."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hyperseek._errors import DataError, require, shown
from hyperseek._field_names import id_of
from hyperseek.data._fields import FieldKeys, documents_from_rows, queries_from_rows
from hyperseek.data._lines import Row
from hyperseek.data._qrels import Judgement, grade_of
from hyperseek.data._report import Faults
from hyperseek.records import Document, Query

_QUERY_COLUMNS = ("query-id", "query_id", "qid")
_DOCUMENT_COLUMNS = ("corpus-id", "corpus_id", "doc_id", "docid")
_GRADE_COLUMNS = ("score", "relevance", "label")


class HubSource:
    """A collection in BEIR form: the configurations `corpus` and `queries`, and judgements by split.

    Judgements are the configuration `qrels` or `default` (as MTEB has them), or the dataset `NAME-qrels` (as BeIR
    has them). The tables are memory-mapped, so a corpus need not fit in memory.

    Args:
        name: `organisation/name`, or a local folder that `datasets.load_dataset` reads.
        keys: Keys of the documents' fields.

    Raises:
        MissingExtraError: `datasets` is not installed.
        DataError: There is no such dataset, or it is not in BEIR form.
    """

    def __init__(self, name: str, keys: FieldKeys) -> None:
        self._name = name
        self._keys = keys
        configurations = _configurations(name)
        if "corpus" not in configurations or "queries" not in configurations:
            raise DataError(
                f"needs the configurations 'corpus' and 'queries' to be a collection, has {sorted(configurations)}; "
                f"rows of queries and positives are read by 'columns:hub:{name}'",
                path=f"hub:{name}",
            )
        inside = next((known for known in ("qrels", "default") if known in configurations), None)
        self._qrels = (name, inside) if inside else (f"{name}-qrels", None)
        self._judgements: dict[str, Any] | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the judged splits."""
        return tuple(self._loaded_qrels())

    def documents(self, faults: Faults) -> Iterator[Document]:
        """Stream the documents."""
        rows = _rows(_only_split(self._name, "corpus"))
        return documents_from_rows(rows, f"hub:{self._name} corpus", self._keys, faults)

    def queries(self, faults: Faults) -> Iterator[Query]:
        """Stream the queries."""
        rows = _rows(_only_split(self._name, "queries"))
        return queries_from_rows(rows, f"hub:{self._name} queries", FieldKeys(), faults)

    def judgements(self, split: str, faults: Faults) -> Iterator[Judgement]:
        """Stream the judgements of a split."""
        place = f"hub:{self._qrels[0]} {split}"
        table = self._loaded_qrels()[split]
        names = [_column(table, known, place) for known in (_QUERY_COLUMNS, _DOCUMENT_COLUMNS, _GRADE_COLUMNS)]
        for line, row in _rows(table):
            query_id, document_id, grade = id_of(row[names[0]]), id_of(row[names[1]]), grade_of(row[names[2]])
            if query_id is None or document_id is None or grade is None:
                faults.found("bad_field", f"no judgement: {shown(row)}", path=place, line=line)
            else:
                yield Judgement(query_id, document_id, grade, place, line)

    def _loaded_qrels(self) -> dict[str, Any]:
        if self._judgements is None:
            self._judgements = dict(_load(*self._qrels))
        return self._judgements


def hub_rows(name: str, split: str) -> Iterator[Row]:
    """Stream the rows of one split of a Hub dataset.

    Args:
        name: `organisation/name`, with `#configuration` after it if it has several; or a local folder.
        split: The split.

    Yields:
        Row number from 1, and the row.

    Raises:
        MissingExtraError: `datasets` is not installed.
        DataError: There is no such dataset, configuration or split.
    """
    dataset, _, configuration = name.partition("#")
    tables = _load(dataset, configuration or None)
    if split not in tables:
        raise DataError(f"has no split {split!r}; it has {sorted(tables)}", path=f"hub:{name}")
    yield from _rows(tables[split])


def _rows(table: Any) -> Iterator[Row]:
    return enumerate(table, start=1)


def _configurations(name: str) -> list[str]:
    datasets = require("datasets", extra="hub")
    try:
        return list(datasets.get_dataset_config_names(name))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read from the Hub: {error}", path=f"hub:{name}") from error


def _load(name: str, configuration: str | None) -> Any:
    datasets = require("datasets", extra="hub")
    try:
        return datasets.load_dataset(name, configuration)
    except (OSError, ValueError) as error:
        where = f"hub:{name}" + (f"#{configuration}" if configuration else "")
        raise DataError(f"cannot be read from the Hub: {error}", path=where) from error


def _only_split(name: str, configuration: str) -> Any:
    tables = _load(name, configuration)
    if len(tables) != 1:
        raise DataError(
            f"configuration {configuration!r} must have one split, has {sorted(tables)}", path=f"hub:{name}"
        )
    return next(iter(tables.values()))


def _column(table: Any, known: tuple[str, ...], place: str) -> str:
    for name in known:
        if name in table.column_names:
            return name
    raise DataError(f"needs one of the columns {list(known)}, has {table.column_names}", path=place)
