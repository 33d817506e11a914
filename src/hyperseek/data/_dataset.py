"""A collection: documents, queries and judgements, from any source."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

from hyperseek._documents import as_documents
from hyperseek._fingerprint import fingerprint_json, fingerprint_texts
from hyperseek.data._qrels_and_runs import Judgement, check_known, check_nested, collect_qrels, grade_of, wrong_grade
from hyperseek.data.reading import ErrorReport, Faults, OnError
from hyperseek.errors import DataError, HyperseekError, InputError, UnknownNameError, brief, shown
from hyperseek.types import Document, Qrels, Query


@dataclass(frozen=True, slots=True)
class _Survey:
    """Facts about all documents, found in one pass."""

    count: int
    digest: str
    missing: frozenset[str]


class Dataset:
    """Documents, queries and judgements of one collection; made by `open_dataset` or `Dataset.from_records`.

    Every call streams the documents from the start. The first call that needs facts about all of them (`count`,
    `fingerprint`, or `qrels` with checks) makes one pass and keeps those facts, never the texts.

    Args:
        name: Short name of the collection, without a slash.
        source: The source of the records.
        on_error: What happens at a bad record; see `report`.
        check: Whether judgements of unknown queries and documents are bad records.
    """

    def __init__(self, name: str, source: Source, *, on_error: OnError = "raise", check: bool = True) -> None:
        self.name = name.replace("/", "-")
        self._source = source
        self._on_error: OnError = on_error
        self._check = check
        self._survey: _Survey | None = None
        self._reports: dict[str, ErrorReport] = {}

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, splits={list(self.splits)})"

    @classmethod
    def from_records(
        cls,
        name: str,
        documents: Records[Document],
        *,
        queries: Records[Query] = (),
        qrels: Mapping[str, Qrels | Callable[[], Qrels]] | None = None,
    ) -> Dataset:
        """Make a collection from a program's own records.

        Args:
            name: Its short name.
            documents: With unique ids, in any form that `Index.build` takes; or a function that returns them at
                each call, so that they need not fit in memory.
            queries: With unique ids; or a function that returns them.
            qrels: Judgements by split; each may be a function that returns them.

        Returns:
            The collection.
        """
        return cls(name, RecordsSource(documents, queries, qrels, name=name))

    def reopened(
        self, *, name: str | None = None, on_error: OnError | None = None, check: bool | None = None
    ) -> Dataset:
        """Return the same collection with other settings.

        Args:
            name: Another short name; None keeps its own.
            on_error: What happens at a bad record; None leaves it as it is.
            check: Whether judgements of unknown queries and documents are bad records; None leaves it as it is.

        Returns:
            A new collection of the same records.
        """
        return Dataset(
            name or self.name,
            self._source,
            on_error=on_error or self._on_error,
            check=self._check if check is None else check,
        )

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the judged splits, sorted."""
        return tuple(sorted(self._source.splits))

    @property
    def report(self) -> ErrorReport:
        """Records left out by the latest complete reading of each part."""
        result = ErrorReport()
        for report in self._reports.values():
            result.merge(report)
        return result

    def reports(self) -> dict[str, ErrorReport]:
        """Return `report` by part: `documents`, `queries` and `qrels SPLIT`, for the parts that have been read."""
        return dict(self._reports)

    @property
    def source(self) -> Source:
        """The source of its records."""
        return self._source

    def candidates(self) -> dict[str, list[str]] | None:
        """Return the documents to rerank of each query, best first, where the source gives any; otherwise None."""
        given = getattr(self._source, "candidates", None)
        return None if given is None else given()

    def file_reader(self) -> Any:
        """Return a reader of its files one by one, for `hyperseek.index.sync`; None if it is not made of files."""
        reader = getattr(self._source, "reader", None)
        return None if reader is None else reader()

    def documents(self) -> Iterator[Document]:
        """Stream the documents in their order.

        Returns:
            A new iterator.

        Raises:
            DataError: While iterating: a bad record, with file and line.
        """
        return self._reported("documents", self._source.documents)

    def queries(self, split: str | None = None) -> list[Query]:
        """Return queries in their order; documents are read only if `on_error` is `"skip"`.

        Args:
            split: Only those judged in this split; None for all.

        Returns:
            The queries.

        Raises:
            DataError: A bad record, with file and line; or no query is judged in the split.
            UnknownNameError: There is no such split.
        """
        if split is None:
            return list(self._reported("queries", self._source.queries))
        judgements, faults = self._judgements(split)
        queries = list(self._reported("queries", self._source.queries))
        if self._check:
            # Leave out the same judgements as `qrels`, which without "skip" reports the errors.
            missing = self._surveyed({split: judgements}).missing if self._on_error == "skip" else frozenset()
            known = {query.id for query in queries}
            judgements = list(check_known(judgements, known, None, faults, missing=missing))
        judged = {judgement.query_id for judgement in judgements}
        found = [query for query in queries if query.id in judged]
        if not found:
            raise DataError(f"no query of {self.name} is judged in the split {split!r}")
        return found

    def qrels(self, split: str) -> Qrels:
        """Return the judgements of a split.

        Args:
            split: One of `splits`.

        Returns:
            Grades by query and document.

        Raises:
            DataError: A bad judgement, with file and line.
            UnknownNameError: There is no such split.
        """
        return self._qrels([split])[split]

    def _qrels(self, splits: Sequence[str], queries: Iterable[Query] | None = None) -> dict[str, Qrels]:
        """Return judgements by split; every part of the collection is read at most once."""
        read = {split: self._judgements(split) for split in splits}
        if self._check:
            known = {query.id for query in (self.queries() if queries is None else queries)}
            missing = self._surveyed({split: judgements for split, (judgements, _) in read.items()}).missing
        found = {}
        for split, (judgements, faults) in read.items():
            kept = check_known(judgements, known, None, faults, missing=missing) if self._check else judgements
            found[split] = collect_qrels(kept, faults)
            self._keep(f"qrels {split}", faults)
        return found

    def _judgements(self, split: str) -> tuple[list[Judgement], Faults]:
        """Read the judgements of a split, without checking that their queries and documents exist."""
        if not isinstance(split, str):
            raise InputError(f"a split is named by a string, not by {shown(split)}; it has {list(self.splits)}")
        if split not in self.splits:
            raise UnknownNameError(f"split of {self.name}", split, self.splits)
        faults = Faults(self._on_error, ErrorReport())
        return list(self._source.judgements(split, faults)), faults

    def count(self) -> int:
        """Return the number of documents."""
        return self._surveyed().count

    def fingerprint(self) -> str:
        """Return a fingerprint of the content: documents, queries and judgements, in their order.

        It does not depend on the container: a collection and its copy by `write_beir` have the same fingerprint.

        Returns:
            32 hexadecimal digits.
        """
        queries = self.queries()
        qrels = self._qrels(self.splits, queries)
        texts = (part for query in queries for part in (query.id, query.text, _plain(query.metadata)))
        return fingerprint_json(
            {"documents": self._surveyed().digest, "queries": fingerprint_texts(texts), "qrels": qrels}
        )

    def _surveyed(self, read: Mapping[str, Sequence[Judgement]] | None = None) -> _Survey:
        """Read all documents once; `read` holds judgements already read, for the check."""
        if self._survey is None:
            missing = self._judged_documents(read or {}) if self._check else set()
            count = 0

            def parts() -> Iterator[str]:
                nonlocal count
                for document in self.documents():
                    count += 1
                    missing.discard(document.id)
                    yield from (document.id, document.title, document.text, _plain(document.metadata))

            digest = fingerprint_texts(parts())
            self._survey = _Survey(count, digest, frozenset(missing))
        return self._survey

    def _judged_documents(self, read: Mapping[str, Sequence[Judgement]]) -> set[str]:
        # Bad lines are reported when their own split is read, not another one.
        ignored = Faults("skip", ErrorReport())
        streams = (read[split] if split in read else self._source.judgements(split, ignored) for split in self.splits)
        return {judgement.document_id for stream in streams for judgement in stream}

    def _reported(self, part: str, stream: Any) -> Iterator[Any]:
        faults = Faults(self._on_error, ErrorReport())
        yield from stream(faults)
        self._keep(part, faults)

    def _keep(self, part: str, faults: Faults) -> None:
        if part not in self._reports:
            # A source may leave records out by design; those left out by on_error="skip" may be unexpected.
            level = logging.WARNING if self._on_error == "skip" else logging.INFO
            faults.report.log(f"{self.name}, {part}", level=level)
        self._reports[part] = faults.report


def _plain(metadata: Mapping[str, Any]) -> str:
    return json.dumps(metadata, sort_keys=True, ensure_ascii=False, default=str) if metadata else ""


_Record = TypeVar("_Record", Document, Query)
Records: TypeAlias = Iterable[_Record] | Callable[[], Iterable[_Record]]
"""Records, or a function that returns them at each call."""


class Source(Protocol):
    """Streams of records; each call starts at the first record."""

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


class RecordsSource:
    """Records in memory, or functions that read them at each call.

    Args:
        documents: With unique ids.
        queries: With unique ids.
        qrels: Judgements by split.
        name: Their name in messages.
    """

    def __init__(
        self,
        documents: Records[Document],
        queries: Records[Query] = (),
        qrels: Mapping[str, Qrels | Callable[[], Qrels]] | None = None,
        *,
        name: str = "memory",
    ) -> None:
        self._name = name
        self._documents: Any = documents if _is_reader(documents) else tuple(as_documents(documents))
        self._queries: Any = queries if _is_reader(queries) else tuple(_as_queries(queries))
        if not isinstance(qrels or {}, Mapping):
            raise InputError(f"judgements must be a mapping from splits to judgements, not {shown(qrels)}")
        self._qrels = dict(qrels or {})
        for split, judged in self._qrels.items():
            if not callable(judged):
                check_nested(judged, f"the judgements of split {shown(split)}")

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the judged splits."""
        return tuple(self._qrels)

    def documents(self, faults: Faults) -> Iterator[Document]:
        """Stream the documents."""
        return _unique(self._read(self._documents, as_documents), faults, self._name)

    def queries(self, faults: Faults) -> Iterator[Query]:
        """Stream the queries."""
        return _unique(self._read(self._queries, _as_queries), faults, self._name)

    def judgements(self, split: str, faults: Faults) -> Iterator[Judgement]:
        """Stream the judgements of a split."""
        qrels = self._qrels[split]
        if callable(qrels):
            with self._foreign():
                qrels = qrels()
            check_nested(qrels, f"the judgements of split {shown(split)}")
        for query_id, judged in qrels.items():
            for document_id, given in judged.items():
                grade = grade_of(given)
                if grade is None:
                    message = f"query {query_id!r}, document {document_id!r}: {wrong_grade(given)}"
                    faults.found("bad_grade", message, path=f"qrels {split!r}")
                else:
                    yield Judgement(query_id, document_id, grade, f"qrels {split!r}", None)

    def _read(self, given: Any, convert: Callable[[Any], Iterator[Any]]) -> Iterator[Any]:
        if not callable(given):
            yield from given
            return
        with self._foreign():
            yield from convert(given())

    @contextmanager
    def _foreign(self) -> Iterator[None]:
        """Turn any exception of a caller's function into an error of ours."""
        try:
            yield
        except HyperseekError:
            raise
        except Exception as error:
            raise DataError(f"cannot be read: {type(error).__name__}: {brief(error)}", path=self._name) from error


def _is_reader(given: object) -> bool:
    return callable(given) and not isinstance(given, Iterable)


def _as_queries(given: Any) -> Iterator[Query]:
    """Convert any form that `as_documents` takes into queries; queries stay unchanged."""
    if isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping):
        given = (Document(one.id, one.text, "", one.metadata) if isinstance(one, Query) else one for one in given)
    for document in as_documents(given):
        yield Query(document.id, document.text, document.metadata)


def _unique(records: Iterable[_Record], faults: Faults, name: str) -> Iterator[_Record]:
    seen: set[str] = set()
    for position, record in enumerate(records, start=1):
        if record.id in seen:
            faults.found("duplicate_id", f"id {record.id!r} appears a second time", path=name, line=position)
        else:
            seen.add(record.id)
            yield record
