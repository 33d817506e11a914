"""What a model was trained on, as its `run.json` tells."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from hyperseek._errors import DataError
from hyperseek._files import read_json
from hyperseek.data import trained_documents

if TYPE_CHECKING:
    from hyperseek.data import Dataset


def trained_on(model: str | os.PathLike[str] | None, dataset: Dataset) -> tuple[frozenset[str] | None, tuple[str, ...]]:
    """Look up which documents of a data set were relevant in a model's training.

    The model's folder, or the one above it, holds the `run.json` of the training. Its `training_data` maps each
    source to a record whose `relevant_documents_file`, relative to `run.json`, lists ids by the name of the
    collection. A collection is this data set if it has its name.

    Args:
        model: The model's folder or name; None for a model that is only in memory.
        dataset: The data set that is searched.

    Returns:
        The ids, or None where no training on this data set is known; and notes on what was found.

    Raises:
        DataError: A training record is damaged.
    """
    record_file = _record_file(model)
    if record_file is None:
        return None, ()
    found: dict[str, set[str]] = {}
    notes = []
    for file in _document_files(record_file):
        if not file.is_file():
            notes.append(f"{record_file} names {file}, which is not there, so queries are not told apart by it")
            continue
        for collection, ids in trained_documents(file).items():
            found.setdefault(collection, set()).update(ids)
    if dataset.name in found:
        return frozenset(found[dataset.name]), tuple(notes)
    if found:
        notes.append(f"trained on {', '.join(found)}, not on {dataset.name}")
    return None, tuple(notes)


def _record_file(model: str | os.PathLike[str] | None) -> Path | None:
    if model is None or not Path(model).is_dir():
        return None
    candidates = (Path(model) / "run.json", Path(model).resolve().parent / "run.json")
    return next((file for file in candidates if file.is_file()), None)


def _document_files(record_file: Path) -> list[Path]:
    try:
        sources = read_json(record_file).get("training_data", {})
        places = [entry["relevant_documents_file"] for entry in sources.values()]
    except ValueError as error:
        raise DataError(f"is not JSON: {error}", path=record_file) from None
    except (AttributeError, KeyError, TypeError):
        raise DataError(
            "training_data must map each source to a record with a relevant_documents_file; train the model anew",
            path=record_file,
        ) from None
    return [record_file.parent / place for place in dict.fromkeys(places)]
