"""What a Dataset reads from: one small interface, implemented for files, memory, ir_datasets and the Hub."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from hyperseek._documents import as_documents
from hyperseek._errors import InputError, shown
from hyperseek.data._qrels import Judgement, check_nested, grade_of
from hyperseek.data._report import Faults
from hyperseek.records import Document, Qrels, Query

_Record = TypeVar("_Record", Document, Query)


class Source(Protocol):
    """Streams of records; each call starts again at the first."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the judged splits."""
        ...

    def documents(self, faults: Faults) -> Iterator[Document]:
        """Stream the documents; bad ones go to `faults`."""
        ...

    def queries(self, faults: Faults) -> Iterator[Query]:
        """Stream the queries; bad ones go to `faults`."""
        ...

    def judgements(self, split: str, faults: Faults) -> Iterator[Judgement]:
        """Stream the judgements of one of `splits`; bad ones go to `faults`."""
        ...


class MemorySource:
    """Records that are in memory.

    Args:
        documents: With unique ids.
        queries: With unique ids.
        qrels: Judgements by split.
    """

    def __init__(self, documents: Iterable[Document], queries: Iterable[Query], qrels: Mapping[str, Qrels]) -> None:
        self._documents = tuple(as_documents(documents))
        self._queries = tuple(_as_queries(queries))
        if not isinstance(qrels, Mapping):
            raise InputError(f"judgements must be a mapping from splits to judgements, and not {shown(qrels)}")
        for split, judged in qrels.items():
            check_nested(judged, f"the judgements of split {shown(split)}")
        self._qrels = dict(qrels)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the judged splits."""
        return tuple(self._qrels)

    def documents(self, faults: Faults) -> Iterator[Document]:
        """Stream the documents."""
        return _unique(self._documents, faults)

    def queries(self, faults: Faults) -> Iterator[Query]:
        """Stream the queries."""
        return _unique(self._queries, faults)

    def judgements(self, split: str, faults: Faults) -> Iterator[Judgement]:
        """Stream the judgements of a split."""
        for query_id, judged in self._qrels[split].items():
            for document_id, given in judged.items():
                grade = grade_of(given)
                if grade is None:
                    message = f"query {query_id!r}, document {document_id!r}: a grade must be a whole number, not "
                    faults.found("bad_grade", message + shown(given), path=f"qrels {split!r}")
                else:
                    yield Judgement(query_id, document_id, grade, f"qrels {split!r}", None)


def _as_queries(given: Iterable[Any]) -> Iterator[Query]:
    """Turn what `as_documents` takes into queries; queries stay as they are."""
    if isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping):
        given = (Document(one.id, one.text, "", one.metadata) if isinstance(one, Query) else one for one in given)
    for document in as_documents(given):
        yield Query(document.id, document.text, document.metadata)


def _unique(records: Iterable[_Record], faults: Faults) -> Iterator[_Record]:
    seen: set[str] = set()
    for position, record in enumerate(records, start=1):
        if record.id in seen:
            faults.found("duplicate_id", f"id {record.id!r} stands here a second time", path="memory", line=position)
        else:
            seen.add(record.id)
            yield record
