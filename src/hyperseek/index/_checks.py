"""What must fit together before an index is searched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hyperseek._folders import Hold, files_within
from hyperseek.errors import FingerprintError, InputError, StoreError, shown
from hyperseek.store.info import IndexInfo
from hyperseek.store.snapshot import CHUNK
from hyperseek.store.table import Store
from hyperseek.store.written import Written

if TYPE_CHECKING:
    from hyperseek.models import Retriever


def open_finished(folder: Path, *, verify: bool = False) -> tuple[IndexInfo, Store]:
    """Open what an index consists of.

    Args:
        folder: The index.
        verify: Whether to compare all that the table's files hold with what was written, whatever their size.

    Returns:
        What it knows about itself, and its table.

    Raises:
        StoreError: There is no index, it is unfinished, or it is damaged.
    """
    info = IndexInfo.read(folder, sealed=False)
    table = info.place(folder)
    if info.state != "finished":
        stored = len(Store.open(table)) if Store.exists(table) else 0
        raise StoreError(
            f"the index {folder} is unfinished, with {stored} documents so far; run the command that began it once "
            f"more (hyperseek encode {info.source or 'MODEL'} CORPUS --index {folder}): it resumes where it stopped"
        )
    try:
        store = _open_checked(table, verify=verify)
    except StoreError:
        if IndexInfo.read(folder).table == info.table:
            raise
        return open_finished(folder, verify=verify)  # it was compacted meanwhile
    unchanged = store.version == info.version
    if (unchanged and len(store) != info.count) or store.width != info.space.width:
        raise StoreError(
            f"the index {folder} should have {info.count} documents of {info.space.width} numbers and has "
            f"{len(store)} of {store.width}; build it again with --overwrite"
        )
    IndexInfo.read(folder)  # whatever else is wrong says more than that its values are not those that were written
    return info, store


def _open_checked(table: Path, *, verify: bool) -> Store:
    """Open a table after comparing its files with what was written."""
    for _ in files_within(table):
        pass  # nothing leads out of it
    hold = Hold(table) if table.is_dir() else None  # nobody deletes what is being compared
    written = Written.read(table)
    if written is not None:
        written.check(table, whole=verify)
    store = Store.open(table)
    del hold
    if written is not None and written.version > store.version:
        raise StoreError(
            f"the table {table} cannot be read in its newest version: that is {written.version}, and version "
            f"{store.version} is the last that can be found; take the folder from a copy, or build the index again "
            f"with --overwrite"
        )
    if verify:
        _verify_rows(table, store, written)
    return store


def _verify_rows(table: Path, store: Store, written: Written | None) -> None:
    """Read what no checksum of a file speaks for; the rows have checksums of their own."""
    if written is None:
        raise StoreError(
            f"the table {table} cannot be verified: no checksums were noted when it was written, by an earlier version "
            f"of hyperseek. Compact the index (hyperseek update INDEX --compact), which notes them"
        )
    if written.version < store.version:
        for _ in store.documents():
            pass
        for _ in store.points(CHUNK):
            pass


def check_retriever(model: object) -> None:
    """Raise InputError where a model is given as something that was not loaded, as its name."""
    if all(hasattr(model, name) for name in ("space", "fingerprint", "source")):
        return
    if isinstance(model, str | Path):
        raise InputError(f"model is a loaded model, not its name; give hyperseek.load({shown(str(model))})")
    raise InputError(f"model is what hyperseek.load(FOLDER_OR_NAME) returns, not {shown(model)}")


def check_model(folder: Path, info: IndexInfo, model: Retriever) -> None:
    """Raise FingerprintError unless the model's documents are those of the index; InputError if it is no model."""
    check_retriever(model)
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
