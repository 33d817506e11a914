"""Filling and changing an index: every batch is one atomic commit, and a killed writer repeats nothing.

The order of writes: `index.json` in state "building", the empty table, shards (one atomic commit each), `index.json` in
state "finished". Wherever it was cut short, the next writer compares the stored documents with the corpus and resumes.

Deleted and replaced rows stay in the table's files until it is compacted. Compaction writes a new table beside the old
one and then names it in `index.json`; the old one stays until a later compaction finds that nobody reads it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from hyperseek._files import writing
from hyperseek._folders import folder_path, refuse_link, remove_unheld
from hyperseek._long_work import progress, stop_asked, stop_here, stoppable
from hyperseek.errors import FingerprintError, InputError, StoreError
from hyperseek.index._opening import open_finished
from hyperseek.scoring import Points
from hyperseek.store.attachments import keep_up
from hyperseek.store.info import IndexInfo, Mirror, record_commit
from hyperseek.store.lance import writer_lock
from hyperseek.store.rows import check_documents, document_id_of, encode_metadata
from hyperseek.store.snapshot import Snapshot
from hyperseek.store.table import Store
from hyperseek.types import Document

Item: TypeAlias = tuple[Document, Any]
"""A document, and what its vector is made from or the vector itself."""

SHARD = 2048
"""Most documents of a commit: what a kill can cost, against the number of files."""

# Documents that are encoded together. Commits hold whole pieces, so that vectors, whose last bits depend on their
# neighbours in a batch, depend neither on the time nor on kills. A GPU needs more texts at a time to be busy.
PIECE = 256

# A slow encoder commits sooner, so that a kill costs it seconds and not minutes.
_COMMIT_SECONDS = 15.0

_OTHER_CORPUS = "give the corpus it was begun with, another folder, or --overwrite"

logger = logging.getLogger(__name__)


def write_index(
    path: str | os.PathLike[str],
    items: Iterable[Item],
    encode: Callable[[list[Item]], Points],
    wanted: IndexInfo,
    *,
    total: int | None = None,
    resume: bool = True,
    overwrite: bool = False,
    piece: int = SHARD,
    shard: int = SHARD,
) -> None:
    """Make an index, or finish one.

    Args:
        path: Its folder.
        items: The corpus, in order.
        encode: Makes the points of `n` items.
        wanted: What the index is to be; `state`, `count` and `data` are filled in here.
        total: Number of items, for the progress bar.
        resume: Whether to resume what is there.
        overwrite: Whether to delete what is there.
        piece: Items that are encoded at a time, at least 1.
        shard: Most documents of a commit, at least 1.

    Raises:
        StoreError: The folder is in use, holds something else, or holds an index of other documents or settings.
        FingerprintError: It holds an index of another model.
        InputError: Two documents have one id, or a text or vector cannot be stored.
        Interrupted: Ctrl-C was pressed; what was encoded is stored.
        WriteError: The disk is full, or the folder is not ours to write to.
    """
    if shard < 1:
        raise InputError(f"a shard must have at least 1 document, not {shard}")
    folder = folder_path(path, "an index")
    with writing(folder):
        if folder.exists() and not folder.is_dir():
            raise StoreError(f"{folder} is a file; give a folder for the index")
        folder.mkdir(parents=True, exist_ok=True)
    with writer_lock(folder):
        info, store = _begin(folder, wanted, resume=resume, overwrite=overwrite)
        corpus = iter(items)
        seen = _check_stored(folder, store, corpus)
        if info.state == "finished":
            _check_ended(folder, store, corpus)
            logger.info("%s is finished already: %d documents", folder, info.count)
            return

        unit = "documents" if wanted.passages is None else "passages"

        def stored() -> str:
            of = "" if total is None else f" of {total:,}"
            return f"{len(store):,}{of} {unit} are stored in {folder}; run the same again to resume"

        def check(documents: list[Document]) -> None:
            # One hash per document seen so far, but for the rare two that share one.
            check_documents(documents, start=len(seen))
            _check_unique(documents, seen, store, passages=wanted.passages is not None)

        with stoppable(stored), progress("encoding", total, unit=unit, done=len(store)) as bar:
            for documents, points in commits(
                corpus, encode, check=check, piece=piece, shard=shard, advance=bar.advance
            ):
                store.append(documents, points)
                logger.info("stored %d documents in %s", len(store), folder)
                stop_here()
        store.index_texts()
        store.remove_leftovers()
        finished = {
            "state": "finished",
            "count": len(store),
            "data": store.fingerprint(),
            "version": store.version,
        }
        record_commit(store.path, store.version)
        info.model_copy(update=finished).write(folder)


def commits(
    items: Iterable[Item],
    encode: Callable[[list[Item]], Points],
    *,
    check: Callable[[list[Document]], None],
    piece: int,
    shard: int,
    advance: Callable[[int], None],
    whole: bool = False,
) -> Iterator[tuple[list[Document], Points]]:
    """Encode items piece by piece, and join successive pieces to commits.

    Args:
        items: Any number.
        encode: Makes the points of a piece.
        check: Raises an error for documents that cannot be stored; called before they are encoded.
        piece: Items to encode at a time, at least 1.
        shard: Most documents of a commit, at least 1.
        advance: Called with the number of documents of a piece when it is encoded.
        whole: Whether items are passages, and those of a document stay in one commit, however many they are.

    Yields:
        The documents of a commit and their points: as many as there is room for, fewer where they took long or Ctrl-C
        was pressed.
    """
    stream, size = iter(items), min(piece, shard)
    documents: list[Document] = []
    parts: list[Points] = []
    start = time.monotonic()
    for batch in _whole_pieces(stream, size) if whole else iter(lambda: list(islice(stream, size)), []):
        new = [document for document, _ in batch]
        check(new)
        for first in range(0, len(batch), size):
            if first:
                stop_here()  # a document of very many passages, of which nothing is stored yet
            parts.append(encode(batch[first : first + size]))
            advance(len(batch[first : first + size]))
        documents += new
        if len(documents) + size > shard or time.monotonic() - start >= _COMMIT_SECONDS or stop_asked():
            yield documents, type(parts[0]).concatenate(parts)
            documents, parts, start = [], [], time.monotonic()
    if documents:
        yield documents, type(parts[0]).concatenate(parts)


def _whole_pieces(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Divide passages into pieces of whole documents, of at least `size` passages but for the last."""
    piece: list[Item] = []
    for item in items:
        if len(piece) >= size and document_id_of(piece[-1][0].id) != document_id_of(item[0].id):
            yield piece
            piece = []
        piece.append(item)
    if piece:
        yield piece


def stored_documents(path: str | os.PathLike[str]) -> int:
    """Return how many rows a folder's index holds, finished or not: documents or passages; 0 where there is none."""
    folder = Path(path)
    if not IndexInfo.exists(folder):
        return 0
    table = IndexInfo.read(folder).place(folder)
    return len(Store.open(table)) if Store.exists(table) else 0


def _begin(folder: Path, wanted: IndexInfo, *, resume: bool, overwrite: bool) -> tuple[IndexInfo, Store]:
    if not IndexInfo.exists(folder):
        foreign = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
        if foreign:
            raise StoreError(
                f"{folder} holds no index but has other content ({', '.join(foreign[:3])}); give a new or empty folder"
            )
    elif not overwrite:
        if not resume:
            raise StoreError(f"{folder} holds an index already; pass overwrite=True (--overwrite) to replace it")
        info = IndexInfo.read(folder)
        _check_settings(folder, info, wanted)
        if Store.exists(table := info.place(folder)):
            return info, Store.open(table)
    refuse_link(table := wanted.place(folder))
    Mirror.forget(folder)
    wanted.write(folder)
    return wanted, Store.create(table, space=wanted.space, storage=wanted.storage)


def _check_settings(folder: Path, info: IndexInfo, wanted: IndexInfo) -> None:
    if info.fingerprint != wanted.fingerprint:
        raise FingerprintError(
            f"the index {folder} was begun with another model: {info.source} (fingerprint {info.fingerprint}), not "
            f"{wanted.source} (fingerprint {wanted.fingerprint}); give that model, another folder, or --overwrite"
        )
    for key in ("space", "storage", "dtype", "pooling", "passages"):
        there, here = getattr(info, key), getattr(wanted, key)
        if there != here:
            raise StoreError(
                f"the index {folder} was begun with {key} {there} and is now to be built with {here}; "
                f"give {key} {there} again, another folder, or --overwrite"
            )


def _check_stored(folder: Path, store: Store, corpus: Iterator[Item]) -> set[int]:
    """Take from the corpus what is stored, compare it, and return the hashes of its ids."""
    seen = set()
    with progress("comparing with what is stored", len(store), unit="documents") as bar:
        for row, stored in enumerate(store.documents()):
            item = next(corpus, None)
            if item is None:
                raise StoreError(
                    f"the index {folder} has {len(store)} documents but the corpus ends after {row}; {_OTHER_CORPUS}"
                )
            document, _ = item
            if document.id != stored.id:
                raise StoreError(
                    f"document {row} of the index {folder} is {stored.id!r} but in the corpus it is {document.id!r}; "
                    f"{_OTHER_CORPUS}"
                )
            if _content(document) != _content(stored):
                raise StoreError(f"document {stored.id!r} of the index {folder} has another text now; {_OTHER_CORPUS}")
            seen.add(hash(stored.id))
            bar.advance()
    return seen


def _content(document: Document) -> tuple[str, str, str]:
    return document.title, document.text, encode_metadata(document)


def _check_ended(folder: Path, store: Store, rest: Iterator[Item]) -> None:
    item = next(rest, None)
    if item is not None:
        raise StoreError(
            f"the index {folder} is finished with {len(store)} documents but the corpus continues with {item[0].id!r}; "
            f"{_OTHER_CORPUS}"
        )


def _check_unique(documents: list[Document], seen: set[int], store: Store, *, passages: bool) -> None:
    # Hashes take a tenth of the ids' memory; where two ids share one, which is rare, the stored ids decide.
    ids: set[str] = set()
    for document in documents:
        if document.id in ids or (hash(document.id) in seen and store.stored_ids([document.id])):
            name = document_id_of(document.id) if passages else document.id
            raise InputError(f"document id {name!r} appears twice in the corpus; ids must be unique")
        ids.add(document.id)
    seen.update(map(hash, ids))


def add_documents(
    store: Store,
    items: Iterable[Item],
    encode: Callable[[list[Item]], Points],
    *,
    replace: bool,
    total: int | None,
    piece: int = SHARD,
    shard: int = SHARD,
    committed: Callable[[int], None] = lambda count: None,
) -> int:
    """Add documents to a finished index, whose writer lock the caller holds.

    Args:
        store: Its table, in the newest version; moves on with every commit.
        items: The documents.
        encode: Makes the points of some items.
        replace: Whether a document may take the place of one with its id.
        total: Number of items, for the progress bar.
        piece: Items that are encoded at a time, at least 1.
        shard: Most documents of a commit, at least 1.
        committed: Called after each commit with the number of documents so far.

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
        done = "added or replaced" if replace else "added"
        return f"{added:,} documents were {done} in {store.path.parent}, and stay there"

    def named(rows: Iterable[str]) -> list[str]:
        return list(dict.fromkeys(map(document_id_of, rows))) if store.passages else list(rows)

    unit = "passages" if store.passages else "documents"
    with stoppable(stored), progress("adding", total, unit=unit) as bar:

        def check(documents: list[Document]) -> None:
            check_documents(documents, start=len(seen))
            for document in documents:
                if document.id in seen:
                    [name] = named([document.id])
                    raise InputError(
                        f"document id {name!r} appears twice among the documents to add; ids must be unique"
                    )
                seen.add(document.id)
            if not replace and (there := named(store.stored_ids([document.id for document in documents]))):
                raise InputError(
                    f"document id {there[0]!r} is stored already, and {len(there) - 1} others of this batch; "
                    f"use replace to put new documents in their place"
                )

        given: dict[str, Any] = {
            "check": check,
            "piece": piece,
            "shard": shard,
            "advance": bar.advance,
            "whole": store.passages,
        }
        for documents, points in commits(items, encode, **given):
            if replace:
                store.replace(documents, points)
            else:
                store.append(documents, points)
            record_commit(store.path, store.version)
            added += len(named(document.id for document in documents))
            committed(added)
            stop_here()
    return added


def delete_documents(store: Store, ids: Iterable[str], *, batch: int = 1000) -> int:
    """Delete documents by id from an index whose writer lock the caller holds.

    Args:
        store: Its table, in the newest version; moves on with every commit.
        ids: Of documents; ids that are not stored are passed over.
        batch: Ids of a commit, at least 1.

    Returns:
        How many documents were deleted.

    Raises:
        StoreError: The index is in use by another writer, unfinished or damaged.
        WriteError: The disk is full, or the folder is not ours to write to.
    """
    deleted, stream = 0, iter(ids)
    while some := list(islice(stream, batch)):
        deleted += store.delete(some)
        record_commit(store.path, store.version)
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
        record_commit(copy.path, copy.version)
        update = {
            "table": copy.path.name,
            "version": copy.version,
            "count": len(copy),
            "data": copy.fingerprint(),
        }
        info.model_copy(update=update).write(folder)
        keep_up(folder, Snapshot(copy, info.space, cache_bytes=0), compact=True)
        for path in folder.glob("documents*.lance"):
            if path not in (store.path, copy.path):
                remove_unheld(path)


def _generation(path: Path) -> int:
    number = path.stem.removeprefix("documents").removeprefix("-")
    return int(number) if number.isdigit() else 0
