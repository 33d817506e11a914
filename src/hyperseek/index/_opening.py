"""What is checked when an index is opened: that it is finished and whole, and that a model is the one that made it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hyperseek._folders import Hold, files_within
from hyperseek.errors import FingerprintError, InputError, StoreError, shown
from hyperseek.index.searching import check_points
from hyperseek.store import IndexInfo
from hyperseek.store.info import Written
from hyperseek.store.snapshot import CHUNK
from hyperseek.store.table import Store

if TYPE_CHECKING:
    from hyperseek.models import Retriever


def open_finished(folder: Path, *, verify: bool = False) -> tuple[IndexInfo, Store]:
    """Open the parts of a finished index.

    Args:
        folder: The index.
        verify: Whether to verify the checksums of all table files, whatever their size.

    Returns:
        Its description, and its table.

    Raises:
        StoreError: There is no index, it is unfinished, or it is damaged.
    """
    info = IndexInfo.read(folder, sealed=False)
    table = info.place(folder)
    if info.state != "finished":
        stored = len(Store.open(table)) if Store.exists(table) else 0
        raise StoreError(
            f"the index {folder} is unfinished, with {stored} documents so far; run the command that started it "
            f"again (hyperseek encode {info.source or 'MODEL'} CORPUS --index {folder}): it resumes where it stopped"
        )
    try:
        store = _open_checked(table, verify=verify)
    except StoreError:
        if IndexInfo.read(folder).table == info.table:
            raise
        return open_finished(folder, verify=verify)  # it was compacted in the meantime
    store.passages = info.passages is not None
    unchanged = store.version == info.version
    if (unchanged and len(store) != info.count) or store.width != info.space.width:
        raise StoreError(
            f"the index {folder} should have {info.count} documents of {info.space.width} numbers, but has "
            f"{len(store)} of {store.width}; build it again with --overwrite"
        )
    IndexInfo.read(folder)  # checked last: other errors are more specific than a wrong checksum
    return info, store


def _open_checked(table: Path, *, verify: bool) -> Store:
    """Open a table after verifying its files."""
    for _ in files_within(table):
        pass  # no link leads out of it
    hold = Hold(table) if table.is_dir() else None  # nobody deletes files that are being verified
    written = Written.read(table)
    if written is not None:
        written.check(table, whole=verify)
    store = Store.open(table)
    del hold
    if written is not None and written.version > store.version:
        raise StoreError(
            f"the table {table} cannot be read in its newest version, {written.version}: version "
            f"{store.version} is the last one found; restore the folder from a copy, or build the index again "
            f"with --overwrite"
        )
    if verify:
        _verify_rows(table, store, written)
    return store


def _verify_rows(table: Path, store: Store, written: Written | None) -> None:
    """Read data without file checksums; rows have their own checksums."""
    if written is None:
        raise StoreError(
            f"the table {table} cannot be verified: an earlier version of hyperseek wrote it without "
            f"checksums. Compact the index (hyperseek update INDEX --compact) to add them"
        )
    if written.version < store.version:
        for _ in store.documents():
            pass
        for _ in store.points(CHUNK):
            pass


def check_retriever(model: object) -> None:
    """Raise InputError if a model is not a loaded one, such as its name."""
    if all(hasattr(model, name) for name in ("space", "fingerprint", "source")):
        return
    if isinstance(model, str | Path):
        raise InputError(f"model must be a loaded model, not its name; give hyperseek.load({shown(str(model))})")
    raise InputError(f"model must be the result of hyperseek.load(FOLDER_OR_NAME), not {shown(model)}")


def check_model(folder: Path, info: IndexInfo, model: Retriever) -> None:
    """Raise FingerprintError unless the model's document side is that of the index; InputError if it is not a model."""
    check_retriever(model)
    if info.fingerprint is None:
        check_points(model.space, info.space, info.source or "unknown")
    elif model.fingerprint != info.fingerprint:
        raise FingerprintError(
            f"the index {folder} was made by {info.source} (fingerprint {info.fingerprint}) and cannot be searched "
            f"with {model.source} (fingerprint {model.fingerprint}): their document vectors differ. Use the first, or "
            f"build an index with the second"
        )
