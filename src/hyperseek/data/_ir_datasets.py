"""Collections of the `ir_datasets` catalogue.

Texts follow its conventions: the title is `title` or `page_title`, the text `text`, `body` or `abstract`; for
records without these, and for queries, it is the catalogue's own default text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hyperseek._documents import TITLE_KEYS
from hyperseek.data._dataset import Dataset
from hyperseek.data._qrels_and_runs import Judgement, grade_of, wrong_grade
from hyperseek.data.open import SourceKind
from hyperseek.data.reading import Faults
from hyperseek.errors import DataError, HyperseekError, UnknownNameError, brief, require
from hyperseek.types import Document, Query

_BODY_KEYS = ("text", "body", "abstract")


class IrDatasetsSource:
    """One entry of the catalogue, with the judged entries below it as splits.

    `beir/scifact` has the splits `test` and `train`; `beir/scifact/test` has `test` alone.

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
