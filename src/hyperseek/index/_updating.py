"""Changing a finished index: every batch is one atomic commit, and open readers keep the version they have.

Deleted and replaced rows stay in the table's files until it is compacted. Compaction writes a new table beside the old
one and then names it in `index.json`; the old one stays until a later compaction finds that nobody reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

from hyperseek._errors import InputError, StoreError
from hyperseek._hold import remove_unheld
from hyperseek._interrupt import stop_here, stoppable
from hyperseek._progress import progress
from hyperseek.index._checks import open_finished
from hyperseek.index._write import SHARD, Item, commits
from hyperseek.records import Document
from hyperseek.scoring import Points
from hyperseek.store import Store, writer_lock
from hyperseek.store._documents import check_documents
from hyperseek.store._written import record_commit


def add_documents(
    folder: Path,
    items: Iterable[Item],
    encode: Callable[[list[Item]], Points],
    *,
    replace: bool,
    total: int | None,
    piece: int = SHARD,
    shard: int = SHARD,
) -> int:
    """Add documents to a finished index.

    Args:
        folder: The index.
        items: The documents.
        encode: Makes the points of some items.
        replace: Whether a document may take the place of one with its id.
        total: Number of items, for the progress bar.
        piece: Items that are encoded at a time, at least 1.
        shard: Most documents of a commit, at least 1.

    Returns:
        How many were added; all of them are on the disk.

    Raises:
        InputError: An id is stored already and `replace` is False, appears twice, or a text or vector
            cannot be stored. Earlier batches stay.
        StoreError: The index is in use by another writer, unfinished or damaged.
        WriteError: The disk is full, or the folder is not ours to write to.
    """
    added = 0
    seen: set[str] = set()

    def stored() -> str:
        return f"{added:,} documents were {'added or replaced' if replace else 'added'} in {folder}, and stay there"

    with writer_lock(folder), stoppable(stored), progress("adding", total, unit="documents") as bar:
        _, store = open_finished(folder)

        def check(documents: list[Document]) -> None:
            check_documents(documents, start=len(seen))
            for document in documents:
                if document.id in seen:
                    raise InputError(
                        f"document id {document.id!r} appears twice among the documents to add; ids must be unique"
                    )
                seen.add(document.id)
            if not replace and (there := store.stored_ids([document.id for document in documents])):
                raise InputError(
                    f"document id {there[0]!r} is stored already, and {len(there) - 1} others of this batch; "
                    f"use replace to put new documents in their place"
                )

        for documents, points in commits(items, encode, check=check, piece=piece, shard=shard, advance=bar.advance):
            if replace:
                store.replace(documents, points)
            else:
                store.append(documents, points)
            record_commit(store)
            added += len(documents)
            stop_here()
    return added


def delete_documents(folder: Path, ids: Iterable[str], *, batch: int = 1000) -> int:
    """Delete documents by id.

    Args:
        folder: The index.
        ids: Of documents; ids that are not stored are passed over.
        batch: Ids of a commit, at least 1.

    Returns:
        How many documents were deleted.

    Raises:
        StoreError: The index is in use by another writer, unfinished or damaged.
        WriteError: The disk is full, or the folder is not ours to write to.
    """
    deleted, stream = 0, iter(ids)
    with writer_lock(folder):
        _, store = open_finished(folder)
        while some := list(islice(stream, batch)):
            deleted += store.delete(some)
            record_commit(store)
    return deleted


def compact_index(folder: Path) -> None:
    """Rewrite the table without deleted rows and old versions, and bring the full-text index up to date.

    Args:
        folder: The index.

    Raises:
        StoreError: The index is in use by another writer, unfinished or damaged.
        WriteError: The disk is full, or the folder is not ours to write to.
    """
    with writer_lock(folder):
        info, store = open_finished(folder)
        number = 1 + max((_generation(path) for path in folder.glob("documents*.lance")), default=0)
        copy: Store = store.copy(folder / f"documents-{number}.lance")
        if len(copy) != len(store):
            raise StoreError(f"the copy of {store.path} has {len(copy)} rows instead of {len(store)}; nothing changed")
        copy.index_texts()
        record_commit(copy)
        update = {
            "table": copy.path.name,
            "version": copy.version,
            "count": len(copy),
            "data": copy.fingerprint(),
        }
        info.model_copy(update=update).write(folder)
        for path in folder.glob("documents*.lance"):
            if path not in (store.path, copy.path):
                remove_unheld(path)


def _generation(path: Path) -> int:
    number = path.stem.removeprefix("documents").removeprefix("-")
    return int(number) if number.isdigit() else 0
