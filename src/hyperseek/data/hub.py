"""Collections from catalogues of others: datasets of the Hugging Face Hub, and of `ir_datasets`."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hyperseek._documents import TITLE_KEYS, find_key, id_of
from hyperseek._fingerprint import fingerprint_file, fingerprint_json
from hyperseek.data._dataset import Dataset
from hyperseek.data._qrels_and_runs import DOCUMENT_NAMES, GRADE_NAMES, QUERY_NAMES, Judgement, grade_of, wrong_grade
from hyperseek.data.candidate_files import add_candidates
from hyperseek.data.open import SourceKind
from hyperseek.data.reading import Faults, FieldKeys, Row, documents_from_rows, queries_from_rows
from hyperseek.errors import DataError, HyperseekError, UnknownNameError, brief, require, shown
from hyperseek.types import Document, Query

_MOST_COLUMNS = 1_000  # of a CSV file

logger = logging.getLogger(__name__)


class HubSource:
    """A collection in BEIR form: the configurations `corpus` and `queries`, and judgements by split.

    Judgements are the configuration `qrels` or `default` (as in MTEB), or the dataset `NAME-qrels` (as in
    BeIR). Documents to rerank are the configuration `top_ranked`, if there is one. The tables are memory-mapped, so a
    corpus need not fit in memory. Cells of CSV files are read as text.

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
        self._has_candidates = "top_ranked" in configurations
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

    def candidates(self) -> dict[str, list[str]] | None:
        """Return the documents to rerank of each query, of all splits; None if there are none."""
        if not self._has_candidates:
            return None
        place, lists = f"hub:{self._name} top_ranked", dict[str, list[str]]()
        for table in _load(self._name, "top_ranked").values():
            for line, row in _rows(table, self._name):
                add_candidates(lists, row, place, line)
        return {query: list(dict.fromkeys(ids)) for query, ids in lists.items()}

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


_BODY_KEYS = ("text", "body", "abstract")


class IrDatasetsSource:
    """One entry of the catalogue, with the judged entries below it as splits.

    `beir/scifact` has the splits `test` and `train`; `beir/scifact/test` has `test` alone.

    Texts follow the catalogue's conventions: the title is `title` or `page_title`, the text `text`, `body` or
    `abstract`; for records without these, and for queries, it is the catalogue's own default text.

    Args:
        identity: The entry, as in `"beir/scifact/test"`.

    Raises:
        MissingExtraError: `ir_datasets` is not installed.
        UnknownNameError: The catalogue has no such entry.
    """

    def __init__(self, identity: str) -> None:
        catalogue = require("ir_datasets", extra="hub")
        self._identity = identity
        try:
            self._dataset = catalogue.load(identity)
        except KeyError:
            raise UnknownNameError("ir_datasets id", identity, catalogue.registry) from None
        if not self._dataset.has_docs():
            raise UnknownNameError("ir_datasets id with documents", identity, _with_documents(catalogue, identity))
        self._entries: dict[str, Any] = {}
        if self._dataset.has_qrels():
            self._entries[identity.rpartition("/")[2]] = self._dataset
        else:
            for below in sorted(name for name in catalogue.registry if name.startswith(f"{identity}/")):
                entry = catalogue.registry[below]
                if entry.has_qrels() and entry.has_queries():
                    self._entries[below.removeprefix(f"{identity}/").replace("/", "-")] = entry
        self.name = _documents_name(catalogue, identity)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the judged splits."""
        return tuple(self._entries)

    def documents(self, faults: Faults) -> Iterator[Document]:
        """Stream the documents."""
        for record in _records(self._dataset.docs_iter, self._identity):
            fields = record._asdict()
            identity = fields.pop("doc_id")
            title_key = next((key for key in TITLE_KEYS if isinstance(fields.get(key), str)), None)
            body_key = next((key for key in _BODY_KEYS if isinstance(fields.get(key), str)), None)
            if body_key is None:
                yield Document(identity, record.default_text(), "", _plain(fields))
                continue
            title = fields.pop(title_key) if title_key else ""
            yield Document(identity, fields.pop(body_key), title, _plain(fields))

    def queries(self, faults: Faults) -> Iterator[Query]:
        """Stream the queries of the entry and of its splits, each once."""
        seen: set[str] = set()
        for entry in (self._dataset, *self._entries.values()):
            for record in _records(entry.queries_iter, self._identity) if entry.has_queries() else ():
                if record.query_id not in seen:
                    seen.add(record.query_id)
                    fields = {key: value for key, value in record._asdict().items() if key not in ("query_id", "text")}
                    yield Query(record.query_id, record.default_text(), _plain(fields))

    def judgements(self, split: str, faults: Faults) -> Iterator[Judgement]:
        """Stream the judgements of a split."""
        place = f"ir_datasets:{self._identity} {split}"
        for line, record in enumerate(_records(self._entries[split].qrels_iter, self._identity), start=1):
            grade = grade_of(record.relevance)
            if grade is None:
                faults.found("bad_grade", wrong_grade(record.relevance), path=place, line=line)
            else:
                yield Judgement(record.query_id, record.doc_id, grade, place, line)


def open_ir_datasets(identity: str) -> Dataset:
    """Open an entry of the catalogue, as in `"beir/scifact/test"`."""
    source = IrDatasetsSource(identity)
    # Published judgements often name documents that are not in the corpus.
    return Dataset(source.name, source, check=False)


IR_DATASETS = SourceKind(open_ir_datasets)


def _records(start: Callable[[], Iterable[Any]], identity: str) -> Iterator[Any]:
    """Read records; any failure of the catalogue, a download or a file is a `DataError`."""
    try:
        yield from start()
    except HyperseekError:
        raise
    except Exception as error:
        raise DataError(
            f"cannot be read by ir_datasets: {type(error).__name__}: {brief(error)}", path=f"ir_datasets:{identity}"
        ) from error


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if isinstance(value, str | int | float | list | dict)}


def _with_documents(catalogue: Any, identity: str) -> list[str]:
    below = [name for name in catalogue.registry if name.startswith(f"{identity}/")]
    return [name for name in below if catalogue.registry[name].has_docs()]


def _documents_name(catalogue: Any, identity: str) -> str:
    # The entries of one corpus (train, test, ...) must share a name, by which documents seen in training are found.
    parts = identity.split("/")
    documents = catalogue.registry[identity].docs_handler()
    for length in range(1, len(parts)):
        above = "/".join(parts[:length])
        if above in catalogue.registry:
            entry = catalogue.registry[above]
            if entry.has_docs() and entry.docs_handler() is documents:
                return above
    return identity
