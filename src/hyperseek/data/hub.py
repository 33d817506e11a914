"""Datasets of the Hugging Face Hub: collections in BEIR form, and rows of any form."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hyperseek._documents import find_key, id_of
from hyperseek._fingerprint import fingerprint_file, fingerprint_json
from hyperseek.data._dataset import Dataset
from hyperseek.data._qrels_and_runs import DOCUMENT_NAMES, GRADE_NAMES, QUERY_NAMES, Judgement, grade_of
from hyperseek.data.open import SourceKind
from hyperseek.data.reading import Faults, FieldKeys, Row, documents_from_rows, queries_from_rows
from hyperseek.errors import DataError, HyperseekError, brief, require, shown
from hyperseek.types import Document, Query

_MOST_COLUMNS = 1_000  # of a CSV file

logger = logging.getLogger(__name__)


class HubSource:
    """A collection in BEIR form: the configurations `corpus` and `queries`, and judgements by split.

    Judgements are the configuration `qrels` or `default` (as in MTEB), or the dataset `NAME-qrels` (as in
    BeIR). The tables are memory-mapped, so a corpus need not fit in memory. Cells of CSV files are read as text.

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
                f"use 'columns:hub:{name}' for rows of queries and positives",
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
        rows = _rows(_only_split(self._name, "corpus"), self._name)
        return documents_from_rows(rows, f"hub:{self._name} corpus", self._keys, faults)

    def queries(self, faults: Faults) -> Iterator[Query]:
        """Stream the queries."""
        rows = _rows(_only_split(self._name, "queries"), self._name)
        return queries_from_rows(rows, f"hub:{self._name} queries", FieldKeys(), faults)

    def judgements(self, split: str, faults: Faults) -> Iterator[Judgement]:
        """Stream the judgements of a split."""
        place = f"hub:{self._qrels[0]} {split}"
        table = self._loaded_qrels()[split]
        names = [_column(table, known, place) for known in (QUERY_NAMES, DOCUMENT_NAMES, GRADE_NAMES)]
        for line, row in _rows(table, self._name):
            query_id, document_id, grade = id_of(row[names[0]]), id_of(row[names[1]]), grade_of(row[names[2]])
            if query_id is None or document_id is None or grade is None:
                faults.found("bad_field", f"not a judgement: {shown(row)}", path=place, line=line)
            else:
                yield Judgement(query_id, document_id, grade, place, line)

    def _loaded_qrels(self) -> dict[str, Any]:
        if self._judgements is None:
            self._judgements = dict(_load(*self._qrels))
        return self._judgements


def open_hub(name: str, keys: FieldKeys) -> Dataset:
    """Open a collection of the Hub.

    Args:
        name: `organisation/name`, or a local folder that `datasets.load_dataset` reads.
        keys: Keys of the documents' fields.

    Returns:
        The collection.
    """
    name = name.rstrip("/")
    return Dataset(Path(name).name if os.path.isdir(name) else name, HubSource(name, keys))


HUB = SourceKind(open_hub, fields=True)


def hub_rows(name: str, split: str | None) -> Iterator[Row]:
    """Stream the rows of a Hub dataset.

    Args:
        name: `organisation/name`, with `#configuration` after it if it has several; or a local folder.
        split: The split; None for all, one after the other.

    Yields:
        Row number from 1, in each split, and the row.

    Raises:
        MissingExtraError: `datasets` is not installed.
        DataError: There is no such dataset, configuration or split.
    """
    dataset, _, configuration = name.partition("#")
    tables = _load(dataset, configuration or None)
    if split is not None and split not in tables:
        raise DataError(f"has no split {split!r}; it has {sorted(tables)}", path=f"hub:{name}")
    for table in tables.values() if split is None else [tables[split]]:
        yield from _rows(table, name)


def hub_paths(name: str) -> list[str]:
    """List the files of a Hub dataset, by their paths in its repository.

    Args:
        name: `organisation/name`.

    Returns:
        The paths, sorted.

    Raises:
        DataError: There is no such dataset, or the Hub cannot be reached.
    """
    from huggingface_hub import HfApi

    with _reading_hub(name):
        return sorted(HfApi().list_repo_files(name, repo_type="dataset"))


def hub_file(name: str, path: str) -> Path:
    """Download a file of a Hub dataset, unless it is in the Hub's cache already.

    Args:
        name: `organisation/name`.
        path: Its path in the repository.

    Returns:
        The file on disk.

    Raises:
        DataError: There is no such file, or the Hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download

    with _reading_hub(name):
        return Path(hf_hub_download(name, path, repo_type="dataset"))


def streamed_hub_rows(name: str, *, split: str, revision: str | None) -> Iterator[Row]:
    """Stream the rows of a Hub dataset, or of a local folder that `datasets` reads.

    Args:
        name: `organisation/name`, with `#configuration` after it if it has several.
        split: The split.
        revision: Branch, tag or commit; None takes the newest.

    Yields:
        Row number from 1, and the row.

    Raises:
        MissingExtraError: `datasets` is not installed.
        DataError: There is no such dataset, configuration or split.
    """
    datasets = require("datasets", extra="hub")
    dataset, _, configuration = name.partition("#")
    with _reading_hub(name):
        options = _csv_as_text(dataset, configuration or None, revision)
        rows = datasets.load_dataset(
            dataset, configuration or None, split=split, revision=revision, streaming=True, **options
        )
        yield from enumerate(rows, start=1)


def hub_fingerprint(name: str, *, split: str, revision: str | None) -> str:
    """Fingerprint the input of `streamed_hub_rows`: the files of a local folder, or the commit of a Hub dataset."""
    dataset, _, configuration = name.partition("#")
    if Path(dataset).is_dir():
        files = sorted(file for file in Path(dataset).rglob("*") if file.is_file())
        content: object = [fingerprint_file(file) for file in files]
    else:
        content = [dataset, _commit(dataset, revision)]
    return fingerprint_json(["hub", content, configuration, split])


@contextmanager
def _reading_hub(name: str) -> Iterator[None]:
    """Report any failure of `datasets`, the network or a damaged file as a `DataError`.

    Args:
        name: The data set, for the message.

    Yields:
        Nothing.

    Raises:
        DataError: The block raised an exception that is not an error of this library.
    """
    try:
        yield
    except HyperseekError:
        raise
    except Exception as error:
        # `datasets` only reports that it could not read a file; the reason is in the cause.
        cause = error.__cause__ or error
        raise DataError(f"cannot be read from the Hub: {brief(cause)}", path=f"hub:{name}") from error


def _csv_as_text(name: str, configuration: str | None, revision: str | None = None) -> dict[str, Any]:
    """Return the options of `datasets.load_dataset` that keep the cells of CSV files as text.

    Otherwise pandas guesses: the id 007 becomes 7, the title NA is missing, and a long number becomes a fraction.

    Args:
        name: The data set.
        configuration: One of its configurations, or None.
        revision: Branch, tag or commit; None takes the newest.

    Returns:
        The options; empty for other file types.
    """
    datasets = require("datasets", extra="hub")
    builder = datasets.load_dataset_builder(name, configuration, revision=revision)
    if type(builder.config).__name__ != "CsvConfig":
        return {}
    return {"converters": dict.fromkeys(range(_MOST_COLUMNS), str), "keep_default_na": False}


def _rows(table: Any, name: str) -> Iterator[Row]:
    with _reading_hub(name):
        yield from enumerate(table, start=1)


def _configurations(name: str) -> list[str]:
    datasets = require("datasets", extra="hub")
    with _reading_hub(name):
        return list(datasets.get_dataset_config_names(name))


def _load(name: str, configuration: str | None) -> Any:
    datasets = require("datasets", extra="hub")
    with _reading_hub(name + (f"#{configuration}" if configuration else "")):
        return datasets.load_dataset(name, configuration, **_csv_as_text(name, configuration))


def _only_split(name: str, configuration: str) -> Any:
    tables = _load(name, configuration)
    if len(tables) != 1:
        raise DataError(
            f"configuration {configuration!r} must have one split, has {sorted(tables)}", path=f"hub:{name}"
        )
    return next(iter(tables.values()))


def _column(table: Any, known: tuple[str, ...], place: str) -> str:
    found = find_key(known, table.column_names)
    if found is not None:
        return found
    raise DataError(f"needs one of the columns {list(known)}, has {table.column_names}", path=place)


def _commit(dataset: str, revision: str | None) -> str | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return str(HfApi().dataset_info(dataset, revision=revision).sha)
    except (HfHubHTTPError, OSError, ValueError) as error:
        logger.warning("hub:%s: cannot determine its commit (%s); later changes go unnoticed", dataset, error)
        return revision
