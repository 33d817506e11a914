"""Collections of a suite, opened, and cut down where the suite says so."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperseek._fingerprint import fingerprint_file, fingerprint_json
from hyperseek.data import Dataset, open_dataset
from hyperseek.data.open import parse_source
from hyperseek.errors import ConfigError, DataError, HyperseekError
from hyperseek.evaluation.suite._suite import Suite, SuiteCollection
from hyperseek.mining import BM25, BM25Settings
from hyperseek.runs.recipe import expanded
from hyperseek.types import Qrels, Query

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(eq=False)
class Column:
    """An open collection of a suite.

    Attributes:
        name: Its name in the suite.
        suite: The suite.
        dataset: Documents, queries and judgements that are measured.
    """

    name: str
    suite: Suite
    dataset: Dataset
    _bm25: dict[str, BM25] = field(default_factory=dict)

    @property
    def config(self) -> SuiteCollection:
        """What the suite says of it."""
        return self.suite.collections[self.name]

    @cached_property
    def qrels(self) -> Qrels:
        """The judgements."""
        return self.dataset.qrels(self.config.split)

    @cached_property
    def queries(self) -> list[Query]:
        """The judged queries, in order."""
        return [query for query in self.dataset.queries(self.config.split) if query.id in self.qrels]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What makes this column this one: results of another identity are in another column."""
        return {
            "data": self.dataset.fingerprint(),
            "split": self.config.split,
            "qrels": fingerprint_json(self.qrels),
            "max_documents": self.config.max_documents,
            "exclude_same_id": self.config.exclude_same_id,
        }

    def bm25(self, settings: BM25Settings) -> BM25:
        """Return a BM25 index of the documents, made once."""
        key = settings.model_dump_json()
        if key not in self._bm25:
            self._bm25[key] = BM25(self.dataset.documents(), settings=settings, total=self.dataset.count())
        return self._bm25[key]

    def timed_queries(self) -> list[Query]:
        """Return the queries that are timed: spread evenly over all."""
        count = min(self.suite.timed, len(self.queries))
        return [self.queries[place * len(self.queries) // count] for place in range(count)]


def open_columns(suite: Suite, chosen: Mapping[str, SuiteCollection]) -> tuple[dict[str, Column], dict[str, str]]:
    """Open the collections that are there.

    Args:
        suite: The suite.
        chosen: Some of its collections.

    Returns:
        Open collections by name, and why others are left out.

    Raises:
        DataError: None is there.
        HyperseekError: One is there and cannot be read.
    """
    columns, left_out = {}, {}
    for name, config in chosen.items():
        try:
            place = expanded(config.dataset)
            dataset = open_dataset(place)
        except (ConfigError, DataError) as error:  # the folder is not there, or the variable that names it is not set
            left_out[name] = str(error).splitlines()[0]
            continue
        columns[name] = Column(name, suite, _cut(name, dataset, config, suite.seed))
    if not columns:
        reasons = "\n".join(f"  {name}: {reason}" for name, reason in left_out.items())
        raise DataError(f"none of the suite's collections is there:\n{reasons}")
    return columns, left_out


def _cut(name: str, dataset: Dataset, config: SuiteCollection, seed: int) -> Dataset:
    """Draw documents and queries; documents that are judged for a kept query stay."""
    if config.max_documents is None and config.max_queries is None:
        return dataset
    draw = random.Random(f"{seed} {name}")
    qrels = dataset.qrels(config.split)
    queries = [query for query in dataset.queries(config.split) if query.id in qrels]
    if config.max_queries is not None and config.max_queries < len(queries):
        kept = {query.id for query in draw.sample(queries, config.max_queries)}
        queries = [query for query in queries if query.id in kept]
        qrels = {query.id: qrels[query.id] for query in queries}
    documents = list(dataset.documents())
    if config.max_documents is not None and config.max_documents < len(documents):
        judged = {document for judgements in qrels.values() for document in judgements}
        others = [document.id for document in documents if document.id not in judged]
        wanted = max(0, config.max_documents - (len(documents) - len(others)))
        chosen = judged | set(draw.sample(others, min(wanted, len(others))))
        documents = [document for document in documents if document.id in chosen]
    return Dataset.from_records(dataset.name, documents, queries=queries, qrels={config.split: qrels})


def data_fingerprint(source: str) -> str | None:
    """Return the fingerprint of the collection that a source of training examples names; None for other kinds."""
    parsed = parse_source(expanded(source))
    if parsed.kind != "qrels":
        return fingerprint_file(parsed.place) if Path(parsed.place).is_file() else None
    try:
        return open_dataset(parsed.place).fingerprint()
    except HyperseekError:  # a prepared folder; training says if it cannot be read
        record = Path(parsed.place) / "prepared.json"
        return fingerprint_file(record) if record.is_file() else None
