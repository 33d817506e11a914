"""What must fit together before an index is searched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hyperseek._errors import FingerprintError, InputError, StoreError
from hyperseek.store._info import IndexInfo
from hyperseek.store._store import Store

if TYPE_CHECKING:
    from hyperseek.models import Retriever


def open_finished(folder: Path) -> tuple[IndexInfo, Store]:
    """Open what an index consists of.

    Args:
        folder: The index.

    Returns:
        What it knows about itself, and its table.

    Raises:
        StoreError: There is no index, it is unfinished, or it is damaged.
    """
    info = IndexInfo.read(folder)
    if info.state != "finished":
        stored = len(Store.open(folder / info.table)) if Store.exists(folder / info.table) else 0
        raise StoreError(
            f"the index {folder} is unfinished, with {stored} documents so far; run the command that began it once "
            f"more (hyperseek encode {info.source or 'MODEL'} CORPUS --index {folder}): it goes on where it stopped"
        )
    try:
        store = Store.open(folder / info.table)
    except StoreError:
        if IndexInfo.read(folder).table == info.table:
            raise
        return open_finished(folder)  # it was compacted meanwhile
    unchanged = store.version == info.version
    if (unchanged and len(store) != info.count) or store.width != info.space.width:
        raise StoreError(
            f"the index {folder} should have {info.count} documents of {info.space.width} numbers and has "
            f"{len(store)} of {store.width}; build it again with --overwrite"
        )
    return info, store


def check_model(folder: Path, info: IndexInfo, model: Retriever) -> None:
    """Raise FingerprintError unless the model's documents are those of the index."""
    if info.fingerprint is None:
        _check_dimension(info, model.space.dimension)
    elif model.fingerprint != info.fingerprint:
        raise FingerprintError(
            f"the index {folder} was made by {info.source} (fingerprint {info.fingerprint}) and cannot be searched "
            f"with {model.source} (fingerprint {model.fingerprint}): their documents differ. Use the first, or build "
            f"an index with the second"
        )


def _check_dimension(info: IndexInfo, dimension: int) -> None:
    if dimension != info.space.dimension:
        raise InputError(
            f"the queries are for points of {dimension} dimensions and the index has {info.space.dimension}; "
            f"use the model of the index ({info.source or 'unknown'})"
        )
