"""Seen and unseen: a test's queries by how many of their relevant documents were relevant in training.

A model trained on one split of a collection has often seen the documents of another. Its gain on those says little
about new text, so both are reported.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, field_validator

from hyperseek._config import Config
from hyperseek._files import reading
from hyperseek._relevance import is_relevant
from hyperseek.types import Qrels

if TYPE_CHECKING:
    from hyperseek.data import Dataset


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
