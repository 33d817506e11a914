"""Results: the scores of one system, query by query, with their protocol.

Two results are comparable if they agree on the task: the data, the split, the judgements, the depth, the exclusions,
the candidates and the options of the queries (`COMPARED`). The systems themselves (model, prompts, truncation, number
type, versions) may differ, since they are what is compared; a comparison lists the differences.

**Seen and unseen** queries are told apart by how many of their relevant documents were relevant in training. A model
trained on one split of a collection has often seen the documents of another. Its gain on those says little about new
text, so both are reported.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, field_validator, model_validator

from hyperseek._config import Config
from hyperseek._display import ShowsTables
from hyperseek._files import atomic_write, reading, write_json
from hyperseek._machine import installed_versions
from hyperseek._relevance import is_relevant
from hyperseek.errors import DataError, InputError, ProtocolError
from hyperseek.evaluation._measures import PerQuery, aggregate
from hyperseek.types import NO_OPTIONS, Qrels, QueryOptions

if TYPE_CHECKING:
    from hyperseek.data import Dataset

COMPARED = ("data", "split", "qrels", "k", "exclude_same_id", "candidates", "options")
"""The keys of `Protocol` in which compared results must agree."""

_LARGEST = 1 << 28  # bytes, of values for many queries and measures

_PACKAGES = (
    "hyperseek",
    "bm25s",
    "ir-measures",
    "pytrec-eval-terrier",
    "sentence-transformers",
    "torch",
    "transformers",
)

SLICES = ("all", "some", "none")
"""Names of the slices: all, some, or none of a query's relevant documents were relevant in training."""


class Slices(Config):
    """Query ids of each slice, in the order of the judgements.

    Attributes:
        all: Every relevant document was relevant in training.
        some: At least one was and at least one was not.
        none: No relevant document was.
        without_relevant: Queries without any relevant document, which belong to no slice.
        trained_documents: Number of documents in the training record.
    """

    all: tuple[str, ...]
    some: tuple[str, ...]
    none: tuple[str, ...]
    without_relevant: tuple[str, ...]
    trained_documents: int

    def queries(self, name: str) -> tuple[str, ...]:
        """Return the query ids of the slice `"all"`, `"some"` or `"none"`."""
        return {"all": self.all, "some": self.some, "none": self.none}[name]

    def empty(self) -> tuple[str, ...]:
        """Return the names of the slices without queries."""
        return tuple(name for name in SLICES if not self.queries(name))


def slice_by_training(qrels: Qrels, trained: Collection[str]) -> Slices:
    """Split a test's queries by documents that were relevant in training.

    Args:
        qrels: The test's judgements; a grade of at least 1 is relevant.
        trained: Ids of the documents that were relevant to some training query, in the same collection.

    Returns:
        The slices.
    """
    known = frozenset(trained)
    found: dict[str, list[str]] = {"all": [], "some": [], "none": [], "without_relevant": []}
    for query, judged in qrels.items():
        relevant = {document for document, grade in judged.items() if is_relevant(grade)}
        seen = len(relevant & known)
        if not relevant:
            found["without_relevant"].append(query)
        elif seen == len(relevant):
            found["all"].append(query)
        else:
            found["some" if seen else "none"].append(query)
    return Slices(**{name: tuple(queries) for name, queries in found.items()}, trained_documents=len(known))


class _Collection(Config, extra="ignore"):
    fingerprint: str | None = None
    relevant_documents_file: str

    @field_validator("relevant_documents_file")
    @classmethod
    def _inside(cls, value: str) -> str:
        if Path(value).is_absolute() or ".." in Path(value).parts or "\0" in value:
            raise ValueError("it must be in the folder of the record")
        return value


class _Record(Config, extra="ignore"):
    training_data: dict[str, _Collection] = Field(default_factory=dict)


def trained_on(model: str | os.PathLike[str] | None, dataset: Dataset) -> tuple[frozenset[str] | None, tuple[str, ...]]:
    """Look up the documents of a data set that were relevant in a model's training.

    The model's folder, or its parent, holds the `run.json` of the training. Its `training_data` maps each
    collection to a record: its `fingerprint`, and the `relevant_documents_file` beside `run.json` that lists the ids,
    one per line. A collection is this data set if its name or its fingerprint matches.

    Args:
        model: The model's folder or name; None for a model that is only in memory.
        dataset: The data set to search.

    Returns:
        The ids, or None if no training on this data set is known; and notes.

    Raises:
        DataError: The record is damaged.
    """
    record_file = _record_file(model)
    if record_file is None:
        return None, ()
    collections = _collections(record_file)
    own = {name: entry for name, entry in collections.items() if _is(dataset, name, entry)}
    if not own:
        return None, (f"trained on {', '.join(collections)}, not on {dataset.name}",) if collections else ()
    found: set[str] = set()
    notes = []
    for name, entry in own.items():
        file = record_file.parent / entry.relevant_documents_file
        if not file.is_file():
            note = f"trained on {name}, but {file} is missing: seen and unseen queries are not distinguished"
            return None, (note,)
        if entry.fingerprint not in (None, dataset.fingerprint()):
            notes.append(f"trained on a different version of {name}; seen documents are recognised by their ids")
        with reading(file, "a list of documents", remedy="train the model again"):
            found.update(file.read_text(encoding="utf-8").split("\n"))
    return frozenset(found - {""}), tuple(notes)


def _record_file(model: str | os.PathLike[str] | None) -> Path | None:
    if model is None or not Path(model).is_dir():
        return None
    candidates = (Path(model) / "run.json", Path(model).resolve().parent / "run.json")
    return next((file for file in candidates if file.is_file()), None)


def _collections(record_file: Path) -> dict[str, _Collection]:
    return _Record.from_json(record_file, "a record of training", remedy="train the model again").training_data


def _is(dataset: Dataset, name: str, entry: _Collection) -> bool:
    return name == dataset.name or entry.fingerprint == dataset.fingerprint()


class Protocol(Config):
    """How a result was measured. None means unknown, as for a run read from a file.

    Attributes:
        dataset: The data set's name; for display only, since folders are renamed.
        data: Fingerprint of its corpus and queries.
        split: The split of the judgements.
        qrels: Fingerprint of the judgements.
        k: How many documents per query the run keeps.
        exclude_same_id: Whether a document with the query's own id was left out of its ranking.
        candidates: Fingerprint of the lists of documents that were reranked; None for retrieval from all.
        options: Options of the model for the queries; None for a system without options, such as BM25, which
            may be compared with any.
        system: The system: model, prompts, truncation lengths, number types, parameters.
        versions: Installed package versions.
    """

    dataset: str | None = None
    data: str | None = None
    split: str | None = None
    qrels: str
    k: int | None = None
    exclude_same_id: bool | None = None
    candidates: str | None = None
    options: QueryOptions | None = NO_OPTIONS
    system: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)


def measuring_versions() -> dict[str, str]:
    """Return the versions of the packages that can change a result."""
    return installed_versions(_PACKAGES)


def unlike_keys(protocols: Sequence[Protocol]) -> tuple[str, ...]:
    """Return the keys of `COMPARED` in which the protocols differ; a known and an unknown value differ."""
    values = {key: {getattr(protocol, key) for protocol in protocols} for key in COMPARED}
    values["options"].discard(None)
    return tuple(key for key in COMPARED if len(values[key]) > 1)


def check_alike(protocols: Mapping[str, Protocol]) -> None:
    """Raise ProtocolError, naming keys and values, unless all protocols agree in `COMPARED`."""
    keys = unlike_keys(list(protocols.values()))
    if not keys:
        return
    lines = "\n".join(
        f"  {key}: " + ", ".join(f"{name} {getattr(protocol, key)!r}" for name, protocol in protocols.items())
        for key in keys
    )
    raise ProtocolError(
        f"these results were not measured alike; they differ in {', '.join(keys)}:\n{lines}\n"
        f"measure them alike, or allow it explicitly (allow_unlike=True, --allow-unlike) to have it listed"
    )


def recorded_differences(protocols: Mapping[str, Protocol]) -> dict[str, dict[str, Any]]:
    """List the differences between systems.

    Args:
        protocols: Protocols by the results' names.

    Returns:
        `differences[key][name]` for every dotted key of `system` and `versions` whose values differ among the systems
        that have it.
    """
    flat = {
        name: dict(_flatten({"system": protocol.system, "versions": protocol.versions}))
        for name, protocol in protocols.items()
    }
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    rows = {key: {name: values[key] for name, values in flat.items() if key in values} for key in keys}
    return {key: row for key, row in rows.items() if len({repr(value) for value in row.values()}) > 1}


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            pairs += _flatten(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs


class Evaluation(ShowsTables, Config):
    """One system's result.

    Attributes:
        name: The system's name in tables.
        per_query: `per_query[measure][query_id]`; all measures have the same queries.
        aggregate: One number for each measure.
        protocol: The data, the task and the system.
        slices: The queries by documents relevant in the model's training; None if that is unknown.
        notes: Remarks for readers of the numbers.
    """

    name: str
    per_query: PerQuery
    aggregate: dict[str, float]
    protocol: Protocol
    slices: Slices | None = None
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check_alike(self) -> Self:
        measured = set(self.queries)
        if any(by_query.keys() != measured for by_query in self.per_query.values()):
            raise ValueError("its measures do not have the same queries")
        if self.aggregate.keys() != self.per_query.keys():
            raise ValueError("its aggregates and its values are of different measures")
        if self.slices is not None and not measured >= {
            query for name in SLICES for query in self.slices.queries(name)
        }:
            raise ValueError("its slices name queries that were not measured")
        return self

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of the measures."""
        return tuple(self.per_query)

    @property
    def queries(self) -> tuple[str, ...]:
        """Ids of the judged queries."""
        return tuple(next(iter(self.per_query.values()), {}))

    def over(self, queries: Iterable[str]) -> dict[str, float]:
        """Aggregate over some of the queries.

        Args:
            queries: Ids, at least one.

        Returns:
            One number for each measure.

        Raises:
            InputError: A query was not measured, or there are none.
        """
        chosen, known = list(queries), set(self.queries)
        unknown = [query for query in chosen if query not in known]
        if unknown:
            raise InputError(f"{len(unknown)} of these queries were not measured, such as {unknown[0]!r}")
        return aggregate({name: {query: by[query] for query in chosen} for name, by in self.per_query.items()})

    def by_slice(self) -> dict[str, dict[str, float]]:
        """Return the aggregates over each slice that has queries; empty without `slices`."""
        if self.slices is None:
            return {}
        return {name: self.over(self.slices.queries(name)) for name in SLICES if self.slices.queries(name)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result as JSON, which `load` reads."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a result that `save` wrote.

        Args:
            path: The JSON file.

        Returns:
            The result.

        Raises:
            DataError: The file is missing or holds no evaluation.
        """
        if not Path(path).exists():
            raise DataError("no such file; give an evaluation.json", path=path)
        remedy = "give a file that Evaluation.save wrote"
        return cls.from_json(path, "an evaluation", remedy=remedy, largest=_LARGEST)

    def write_per_query(self, path: str | os.PathLike[str]) -> None:
        """Write one row per query: its id, its value by each measure, and its slice if known.

        Args:
            path: `.jsonl` for JSON lines, `.csv` for comma-separated values.

        Raises:
            InputError: The name ends in neither.
        """
        suffix = Path(path).suffix.lower()
        if suffix not in (".jsonl", ".csv"):
            raise InputError(f"cannot tell the format of {os.fspath(path)!r}; end its name in .jsonl or .csv")
        rows = self._rows()
        with atomic_write(path) as file:
            if suffix == ".jsonl":
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            else:
                writer = csv.DictWriter(file, list(rows[0]) if rows else ["query"], lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)

    def _shown_tables(self) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
        slices = self.by_slice()
        rows = [
            [name, f"{value:.4f}", *(f"{values[name]:.4f}" for values in slices.values())]
            for name, value in self.aggregate.items()
        ]
        yield f"{self.name}: {len(self.queries)} queries", ["measure", "mean", *slices], rows

    def _shown_remarks(self) -> Sequence[str]:
        return self.notes

    def _frame_rows(self) -> list[dict[str, str | float]]:
        return self._rows()

    def _rows(self) -> list[dict[str, str | float]]:
        rows: list[dict[str, str | float]] = []
        slice_of = {}
        if self.slices is not None:
            slice_of = {query: name for name in SLICES for query in self.slices.queries(name)}
        for query in self.queries:
            row: dict[str, str | float] = {"query": query}
            row |= {name: by_query[query] for name, by_query in self.per_query.items()}
            if self.slices is not None:
                row["seen"] = slice_of.get(query, "")
            rows.append(row)
        return rows
