"""Prepared training data on disk: every text once, examples by id; and what of it evaluations know.

```
prepared.json            description: fingerprint, counts, sources, what was dropped and why
documents.jsonl.gz       {"_id": "SOURCE/ID", "text"}
examples.jsonl.gz        {"query": {"_id", "text"}, "positives": [{"_id", "score", "grade"}], "negatives": [...], ...}
relevant.jsonl.gz        {"query", "documents"}: keys of texts that are relevant to queries without an example
trained_documents.json   {SOURCE: [ID, ...]}: which documents were relevant in training
```
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from hyperseek._bounded import PathLike
from hyperseek._config import Config
from hyperseek._files import read_json
from hyperseek._relevance import Relevance, is_relevant, key_of_name, text_key
from hyperseek._version import __version__
from hyperseek.data._dataset import Dataset
from hyperseek.data.examples import TrainingExample, example_from_record
from hyperseek.data.reading import ErrorReport, Faults, json_lines
from hyperseek.data.tables.instructed import INSTRUCTION
from hyperseek.errors import DataError, InputError, brief, shown
from hyperseek.types import Document

INFO, DOCUMENTS, EXAMPLES, RELEVANT, TRAINED = (
    "prepared.json",
    "documents.jsonl.gz",
    "examples.jsonl.gz",
    "relevant.jsonl.gz",
    "trained_documents.json",
)
PREPARED_FILES = (INFO, DOCUMENTS, EXAMPLES, RELEVANT, TRAINED)
FORMAT = 1
_REMEDY = "prepare the folder again"
_LARGEST = 1 << 28  # bytes of the list of documents, which may name millions
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError)
_KEPT = 5  # messages about leaks


class LeakOptions(Config):
    """Which evaluations training examples are compared with.

    Attributes:
        against: Collections and their splits, as in `beir/scifact:test`; the split is `test` if not given.
        action: What happens to an example that an evaluation knows: `report` it, `drop` it, or `fail`.
    """

    against: tuple[str, ...] = ()
    action: Literal["report", "drop", "fail"] = "report"


class LeakInfo(Config):
    """What examples and an evaluation have in common; texts are compared as `normal_text` writes them.

    Attributes:
        against: The collection and its split, as given.
        queries: Examples whose query is one of its queries, with or without the instruction before it.
        documents: Examples with a positive that it judges relevant to one of its queries.
        examples: Examples that are counted in either.
        action: What happened to them.
        first: The first of them.
    """

    against: str
    queries: int
    documents: int
    examples: int
    action: Literal["report", "drop", "fail"]
    first: tuple[str, ...]

    def line(self) -> str:
        """Return a line for people to read."""
        first = f" (first: {self.first[0]})" if self.first else ""
        return (
            f"{self.against}: {self.examples:,} examples {'left out' if self.action == 'drop' else 'known to it'}, "
            f"{self.queries:,} by their query, {self.documents:,} by a document that is relevant there{first}"
        )


class LeakCheck:
    """The queries and relevant documents of one evaluation; memory holds hashes of their texts.

    Args:
        given: The source, as given.
        dataset: The collection, whose documents are read once.
        split: The judgements.
        action: For the report.
    """

    def __init__(
        self, given: str, dataset: Dataset, split: str, action: Literal["report", "drop", "fail"] = "report"
    ) -> None:
        self._given, self._action = given, action
        self._queries = {text_key(query.text): query.id for query in dataset.queries(split)}
        relevant = {
            one for judged in dataset.qrels(split).values() for one, grade in judged.items() if is_relevant(grade)
        }
        self._documents = {
            text_key(text): document.id
            for document in dataset.documents()
            if document.id in relevant
            for text in (document.full_text, document.text)
        }
        self._counts = {"queries": 0, "documents": 0, "examples": 0}
        self._first: list[str] = []

    def finds(self, example: TrainingExample) -> bool:
        """Count an example and return whether the evaluation knows its query or one of its positives."""
        text = example.query.text
        instruction = example.query.metadata.get(INSTRUCTION)
        forms = [text, text.removeprefix(instruction)] if isinstance(instruction, str) else [text]
        query = next((self._queries[key] for key in map(text_key, forms) if key in self._queries), None)
        keys = (text_key(item.text) for item in example.positives)
        document = next((self._documents[key] for key in keys if key in self._documents), None)
        if query is None and document is None:
            return False
        self._counts["queries"] += query is not None
        self._counts["documents"] += document is not None
        self._counts["examples"] += 1
        if len(self._first) < _KEPT:
            shared = [f"query {query!r}"] if query is not None else []
            shared += [f"document {document!r}"] if document is not None else []
            self._first.append(f"{example.query.id} has the text of {' and '.join(shared)}")
        return True

    def info(self) -> LeakInfo:
        """Return what was counted."""
        return LeakInfo(against=self._given, action=self._action, first=tuple(self._first), **self._counts)


def refuse_leaks(found: Sequence[LeakInfo]) -> None:
    """Raise InputError if an evaluation knows examples and that is to be an error."""
    for one in found:
        if one.examples and one.action == "fail":
            raise InputError(
                f"examples would leak into an evaluation; {one.line()}; leave them out with leaks.action=drop, or "
                f"count them with leaks.action=report"
            )


def _reported(value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Check that a report of dropped records has an example for each of its counts."""
    report = _Dropped.model_validate(value)
    if any(not report.examples.get(reason) for reason in report.counts):
        raise ValueError("a count has no example")
    return value


class _Dropped(Config):
    counts: dict[str, int]
    examples: dict[str, list[str]]


_Report = Annotated[dict[str, dict[str, Any]], AfterValidator(_reported)]


class SourceInfo(Config):
    """One source of prepared data.

    Attributes:
        name: The prefix of its ids.
        source: The source, as given to `prepare`.
        kind: `qrels`, a kind of table as `columns`, or `examples` for those made by a program.
        split: The split, or None for a file.
        fingerprint: Fingerprint of the collection's or the file's content; None for rows of the Hub.
        examples: How many examples it gave.
        dropped: Dropped records, `{"counts": {reason: n}, "examples": {reason: [message, ...]}}`.
    """

    name: str
    source: str
    kind: str
    split: str | None = None
    fingerprint: str | None = None
    examples: int = 0
    dropped: _Report = Field(default_factory=lambda: ErrorReport().to_dict())


class CorpusInfo(Config):
    """A mined corpus.

    Attributes:
        name: The prefix of its documents' ids.
        sources: The sources whose queries searched it.
        model: The searching model, as its index names it.
        fingerprint: Fingerprint of the model's document side.
        query_fingerprint: Fingerprint of its query side; None if it has none.
        data: Fingerprint of the documents.
        documents: Number of documents.
    """

    name: str
    sources: tuple[str, ...]
    model: str | None = None
    fingerprint: str | None = None
    query_fingerprint: str | None = None
    data: str | None = None
    documents: int = 0


class RefinedInfo(Config):
    """One round of mining and filtering.

    Attributes:
        before: Fingerprint of the examples it started from.
        options: The options of the round.
        corpora: The mined corpora.
        teacher: Name of the teacher, or None.
        teacher_fingerprint: Fingerprint of its weights; None if it has none.
        mined: Negatives added.
        short: Examples that got fewer negatives than requested.
        dropped: Dropped records, as in `SourceInfo`.
    """

    before: str
    options: dict[str, Any] = Field(default_factory=dict)
    corpora: tuple[CorpusInfo, ...] = ()
    teacher: str | None = None
    teacher_fingerprint: str | None = None
    mined: int = 0
    short: int = 0
    dropped: _Report = Field(default_factory=lambda: ErrorReport().to_dict())


class PreparedInfo(Config):
    """Description of a prepared folder.

    Attributes:
        format: Version of the folder's format.
        hyperseek: Version of the package that wrote it.
        fingerprint: Fingerprint of the examples, their texts, and how they were mined and filtered.
        examples: Number of examples.
        documents: Number of distinct documents.
        positives: Positives of all examples together.
        negatives: Negatives of all examples together.
        scored: Items with a teacher's score.
        relevant: Queries without an example that have known relevant documents.
        coarse: Examples with a coarse positive.
        sources: The sources of the examples.
        options: The options it was made with.
        refined: Rounds of mining and filtering, in order.
        leaks: Overlap of the examples with the named evaluations.
    """

    format: int = FORMAT
    hyperseek: str = __version__
    fingerprint: str
    examples: int
    documents: int
    positives: int
    negatives: int
    scored: int
    relevant: int = 0
    coarse: int = 0
    sources: tuple[SourceInfo, ...]
    options: dict[str, Any] = Field(default_factory=dict)
    refined: tuple[RefinedInfo, ...] = ()
    leaks: tuple[LeakInfo, ...] = ()

    @property
    def dropped(self) -> ErrorReport:
        """Dropped records, of all sources and by mining and filtering."""
        report = ErrorReport()
        for dropped in (*(source.dropped for source in self.sources), *(part.dropped for part in self.refined)):
            report.merge(ErrorReport.from_dict(dropped))
        return report


class Prepared:
    """A prepared folder, opened by `read_prepared`.

    Args:
        path: The folder.
        info: Its description.
    """

    def __init__(self, path: Path, info: PreparedInfo) -> None:
        self.path = path
        self.info = info

    def __len__(self) -> int:
        return self.info.examples

    def documents(self) -> Iterator[Document]:
        """Stream the documents; `text` is the full text that encoders read.

        Yields:
            Documents, in the order of their first mention by examples.

        Raises:
            DataError: The file is missing or damaged.
        """
        path = self.path / DOCUMENTS
        count = 0
        for line, record in json_lines(path, Faults()):
            try:
                document = Document(_text(record["_id"]), _text(record["text"]))
            except _MALFORMED as error:
                raise DataError(f"no {_named(error)} in a document; {_REMEDY}", path=path, line=line) from None
            yield document
            count += 1
        self._complete(path, count, self.info.documents)

    def examples(self) -> Iterator[TrainingExample]:
        """Stream the examples; memory holds each text once.

        Yields:
            Examples in the order in which they were prepared.

        Raises:
            DataError: A file is missing or damaged.
        """
        texts = {document.id: document.text for document in self.documents()}
        path = self.path / EXAMPLES
        count = 0
        for line, record in json_lines(path, Faults()):
            try:
                example = example_from_record(record, texts)
                _check_types(example)
            except _MALFORMED as error:
                raise DataError(f"no {_named(error)} in an example; {_REMEDY}", path=path, line=line) from None
            yield example
            count += 1
        self._complete(path, count, self.info.examples)

    def relevance(self) -> Relevance:
        """Return texts that are relevant to queries beyond those of their examples.

        Returns:
            Keys of texts, for queries that lost one or all of their examples.

        Raises:
            DataError: The file is missing or damaged.
        """
        relevance = Relevance()
        if not self.info.relevant:
            return relevance  # folders of earlier versions have no such file
        path = self.path / RELEVANT
        count = 0
        for line, record in json_lines(path, Faults()):
            try:
                relevance.add(key_of_name(record["query"]), map(key_of_name, record["documents"]))
            except _MALFORMED as error:
                raise DataError(f"has no keys ({brief(error)}); {_REMEDY}", path=path, line=line) from None
            count += 1
        self._complete(path, count, self.info.relevant)
        return relevance

    def trained_documents(self) -> dict[str, set[str]]:
        """Return the documents that are relevant in training: original ids, by name of the collection."""
        return trained_documents(self.path)

    def _complete(self, path: Path, count: int, expected: int) -> None:
        if count != expected:
            raise DataError(f"has {count} lines, but {INFO} lists {expected}; prepare the folder again", path=path)


def read_prepared(folder: PathLike) -> Prepared:
    """Open a folder that `prepare` wrote.

    Args:
        folder: The folder.

    Returns:
        The folder; its files are not yet read.

    Raises:
        DataError: It is not such a folder, has a format that this version does not read, or does not validate.
    """
    path = Path(folder)
    if not (path / INFO).exists():
        raise DataError(f"has no {INFO}; give a folder that `hyperseek prepare` wrote", path=path)
    values = read_json(path / INFO, "the description of prepared data", remedy=_REMEDY)
    found = values.get("format") if isinstance(values, dict) else None
    if found != FORMAT:
        raise DataError(f"has format {shown(found)}, this version reads {FORMAT}; {_REMEDY}", path=path)
    return Prepared(path, PreparedInfo.from_mapping(values, source=str(path / INFO), error=DataError))


def read_examples(folder: PathLike) -> Iterator[TrainingExample]:
    """Stream the examples of a folder that `prepare` wrote.

    Args:
        folder: The folder.

    Returns:
        The examples in their order; memory holds each text once.

    Raises:
        DataError: It is not such a folder, or (while iterating) a file is damaged.
    """
    return read_prepared(folder).examples()


def trained_documents(source: PathLike | Mapping[str, Iterable[str]]) -> dict[str, set[str]]:
    """Return the documents that were relevant in training, for reporting seen and unseen queries separately.

    Args:
        source: A prepared folder, its `trained_documents.json` or a copy of it, or the content of that file.

    Returns:
        Original document ids by name of the collection (`Dataset.name`).

    Raises:
        DataError: There is no such folder or file, or it has other content.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source) / TRAINED if Path(source).is_dir() else Path(source)
        if not path.is_file():
            raise DataError(f"no such file; give a prepared folder or its {TRAINED}", path=path)
        values = read_json(path, "a list of documents", remedy=_REMEDY, largest=_LARGEST)
    else:
        path, values = None, source
    message = "must hold an object {collection: [document id, ...]}, ids being strings"
    if not isinstance(values, Mapping) or any(isinstance(ids, str | Mapping) for ids in values.values()):
        raise DataError(message, path=path)
    try:
        found = {name: set(ids) for name, ids in values.items()}
    except TypeError:  # a number, or a list of lists
        raise DataError(message, path=path) from None
    if not all(isinstance(identity, str) for ids in found.values() for identity in ids):
        raise DataError(message, path=path)
    return found


def _named(error: Exception) -> str:
    """Name the missing key of a record, or describe the wrong value."""
    return brief(error) if isinstance(error, KeyError) else f"usable value ({brief(error)})"


def _check_types(example: TrainingExample) -> None:
    """Raise TypeError or ValueError if a value of an example does not have the type that training expects."""
    query, items = example.query, example.items
    for text in (query.id, query.text, example.source, *example.relevant, *(item.id for item in items)):
        _text(text)
    _text(example.task or "")
    _text(example.instruction or "")
    if not isinstance(query.metadata, Mapping):
        raise TypeError(f"metadata {shown(query.metadata)} is not an object")
    if not (_is_number(example.weight) and 0 < example.weight < math.inf):
        raise TypeError(f"the weight {shown(example.weight)} is not a finite number above 0")
    for item in items:
        if item.score is not None and not (_is_number(item.score) and math.isfinite(item.score)):
            raise TypeError(f"the score {shown(item.score)} is not a finite number")
        if item.grade is not None and not _is_number(item.grade):
            raise TypeError(f"the grade {shown(item.grade)} is not a number")
        if item.hops is not None and not (isinstance(item.hops, int) and _is_number(item.hops) and item.hops >= 0):
            raise TypeError(f"the hops {shown(item.hops)} are not a whole number")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{shown(value)} is not a string")
    return value
