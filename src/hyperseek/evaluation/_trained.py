"""What a model was trained on, as its `run.json` tells."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperseek._errors import DataError
from hyperseek._files import read_json

if TYPE_CHECKING:
    from hyperseek.data import Dataset


def trained_on(model: str | os.PathLike[str] | None, dataset: Dataset) -> tuple[frozenset[str] | None, tuple[str, ...]]:
    """Look up which documents of a data set were relevant in a model's training.

    The model's folder, or the one above it, holds the `run.json` of the training. Its `training_data` maps each
    collection to a record: its `fingerprint`, and the `relevant_documents_file` beside `run.json` that lists the ids,
    one a line. A collection is this data set if it has its name or its fingerprint.

    Args:
        model: The model's folder or name; None for a model that is only in memory.
        dataset: The data set that is searched.

    Returns:
        The ids, or None where no training on this data set is known; and notes on what was found.

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
        file = record_file.parent / entry["relevant_documents_file"]
        if not file.is_file():
            note = f"trained on {name}, but {file} is not there: seen and unseen queries are not told apart"
            return None, (note,)
        if entry.get("fingerprint") not in (None, dataset.fingerprint()):
            notes.append(f"trained on another version of {name}; seen documents are told by their ids")
        found.update(file.read_text(encoding="utf-8").split("\n"))
    return frozenset(found - {""}), tuple(notes)


def _record_file(model: str | os.PathLike[str] | None) -> Path | None:
    if model is None or not Path(model).is_dir():
        return None
    candidates = (Path(model) / "run.json", Path(model).resolve().parent / "run.json")
    return next((file for file in candidates if file.is_file()), None)


def _collections(record_file: Path) -> dict[str, dict[str, Any]]:
    try:
        record = read_json(record_file)
    except ValueError as error:
        raise DataError(f"is not JSON: {error}", path=record_file) from None
    collections = record.get("training_data", {}) if isinstance(record, dict) else None
    if not isinstance(collections, dict) or not all(
        isinstance(entry, dict) and isinstance(entry.get("relevant_documents_file"), str)
        for entry in collections.values()
    ):
        raise DataError(
            "training_data must map each collection to a record with a relevant_documents_file; train the model anew",
            path=record_file,
        )
    return collections


def _is(dataset: Dataset, name: str, entry: Mapping[str, Any]) -> bool:
    return name == dataset.name or entry.get("fingerprint") == dataset.fingerprint()
