"""An index that mirrors a folder of files: what was added, changed or removed there is so here after `sync`.

`files.json` in the index says which folder, and which version of each file is stored completely. A file is taken from
this record before its documents change, and noted again when all of them are stored, so whatever moment a writer is
killed at, the next one does what it left. New documents are stored before old ones are deleted.
"""

from __future__ import annotations

import json
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from hyperseek._long_work import progress
from hyperseek.errors import InputError, StoreError, shown
from hyperseek.index._build import encoding, piece_for, rows_of, truncation_reported
from hyperseek.index._writing import SHARD, add_documents, delete_documents
from hyperseek.store.attachments import keep_up
from hyperseek.store.info import IndexInfo, Mirror, StoredFile, record_commit
from hyperseek.store.rows import document_ids
from hyperseek.store.snapshot import Snapshot
from hyperseek.store.table import Store
from hyperseek.types import Document

if TYPE_CHECKING:
    from hyperseek.index._index import Index

_ROUND = 1 << 30  # characters of documents that wait on the disk to be encoded


class FileReader(Protocol):
    """What reads a folder's files one by one."""

    place: Path
    report: Any
    failed: bool

    def __enter__(self) -> FileReader: ...

    def __exit__(self, *error: object) -> None: ...

    def versions(self) -> Iterable[Any]:
        """Yield `name` and `hash` of each file; the hash is None where it cannot be read now, as that of `FOLDER/`."""
        ...

    def read(self, name: str) -> Iterator[Document]:
        """Stream the documents of a file; afterwards `failed` says whether it could not be read."""
        ...


@dataclass(frozen=True, slots=True)
class Changes:
    """What an update did.

    Attributes:
        added: Files that were not stored before.
        changed: Files whose documents were replaced.
        gone: Files whose documents were deleted, since they are not in the folder any more.
        kept: Files that cannot be read now; what was stored of them stays.
        same: How many files are as before.
        report: What was not read, and why: a `hyperseek.data.ErrorReport`.
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    gone: tuple[str, ...]
    kept: tuple[str, ...]
    same: int
    report: Any = field(repr=False)

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.gone)

    def __str__(self) -> str:
        kept = f", {len(self.kept):,} cannot be read now and stay as they were" if self.kept else ""
        return (
            f"+{len(self.added):,} files, ~{len(self.changed):,} changed, -{len(self.gone):,} gone, {self.same:,} as "
            f"before{kept}"
        )


def sync(
    index: Index,
    dataset: Any,
    *,
    limit: int | None = None,
    before: Callable[[Iterable[Document]], int | None] | None = None,
) -> Changes:
    """Bring an index up to date with a folder of files: what is new, has changed or is gone there.

    Files are compared by a hash of their content; those that are as before are neither converted nor encoded. A file
    that cannot be read now but could earlier stays as it was. Every commit is durable, other readers of the index see
    it at once, and an update that was interrupted or killed is finished by the next one.

    Args:
        index: The index, built of this folder or empty; it is locked for other writers meanwhile.
        dataset: `open_dataset(FOLDER)`, of a folder of files or a single one.
        limit: Read no further file once there are as many documents; None for all. What is left out is neither deleted.
        before: Called with the documents that are about to be encoded, which it may iterate over; in several parts if
            there are very many. It may return how many rows of the index they make, for reports of progress.

    Returns:
        What changed.

    Raises:
        InputError: The collection is not made of files.
        StoreError: The index mirrors another folder, holds other documents, or is in use by another writer; or the
            folder is empty and was not.
        Interrupted: Ctrl-C was pressed; what was encoded is stored.
    """
    reader = getattr(dataset, "file_reader", lambda: None)()
    if reader is None:
        raise InputError(f"an index is brought up to date with a folder of files, not with {shown(dataset)}")
    model = index.model
    with reader, truncation_reported(model), index._changing() as store:
        return _Sync(index, store, reader, limit=limit).run(before)


class _File(NamedTuple):
    """A file whose documents wait to be stored."""

    name: str
    hash: str
    documents: int
    end: int  # documents up to its last one, of the files that are encoded together


class _Sync:
    def __init__(
        self, index: Index, store: Store, reader: FileReader, *, limit: int | None = None, shard: int = SHARD
    ) -> None:
        self._index, self._store, self._reader = index, store, reader
        self._limit, self._shard = limit, shard
        self._path = index.path
        self._mirror = self._opened_mirror()
        self._stored: dict[str, list[str]] = {}
        self._before: dict[str, StoredFile] = {}
        self._documents = 0  # of files that are stored or read
        self._added: list[str] = []
        self._changed: list[str] = []

    def run(self, before: Callable[[Iterable[Document]], int | None] | None) -> Changes:
        first = not len(self._store)
        versions = list(self._versions())
        here = {version.name: version.hash for version in versions if not version.name.endswith("/")}
        unlisted = tuple(version.name for version in versions if version.name.endswith("/"))
        files = self._mirror.files
        self._stored = _by_file(_document_ids(self._store), files.keys() | here.keys())
        known = {**self._stored, **dict.fromkeys(files)}
        # The folder that cannot be listed at all is "/".
        gone = [name for name in known if name not in here and not name.startswith(unlisted) and "/" not in unlisted]
        if gone and not here:
            raise StoreError(
                f"{self._reader.place} has no files that can be read now, and the index {self._path} has "
                f"{len(known):,} of them; if they are meant to be gone, delete the index"
            )
        same = {name for name in here if name in files and self._is_stored(name, here[name])}
        kept = [name for name, now in here.items() if now is None and name in known]
        names = deque(name for name, now in here.items() if now is not None and name not in same)
        self._documents = sum(files[name].documents for name in same)
        self._before = {name: files.pop(name) for name in names if name in files}
        self._mirror.write(self._path)
        while names:
            with tempfile.TemporaryFile("w+b", dir=self._path) as waiting:
                read, failed = self._read(names, here, waiting)
                kept += failed
                rows = before(_documents(waiting)) if before is not None and read and read[-1].end else None
                self._encode(read, waiting, rows)
        delete_documents(self._store, [one for name in gone for one in self._stored.get(name, ())])
        for name in gone:
            files.pop(name, None)
        self._mirror.write(self._path)
        report = self._reader.report
        changes = Changes(tuple(self._added), tuple(self._changed), tuple(gone), tuple(kept), len(same), report)
        if changes:
            self._finish(first)
        # Also with what an update that was interrupted has stored.
        keep_up(self._path, Snapshot(self._store, self._index.space, cache_bytes=0))
        return changes

    def _versions(self) -> Iterator[Any]:
        with progress("comparing", unit="files") as bar:
            for version in self._reader.versions():
                yield version
                bar.advance()

    def _is_stored(self, name: str, now: str | None) -> bool:
        file = self._mirror.files[name]
        return now == file.hash and file.documents == len(self._stored.get(name, ()))

    def _opened_mirror(self) -> Mirror:
        place = str(self._reader.place.resolve())
        if Mirror.exists(self._path):
            mirror = Mirror.read(self._path)
            if mirror.folder != place:
                raise StoreError(
                    f"the index {self._path} is of {mirror.folder}, not of {place}; give that folder, another index, "
                    f"or --overwrite"
                )
            return mirror
        # An index that was built of files without this record has all of them.
        files: dict[str, StoredFile] = {}
        hashes: dict[str, set[str]] = {}
        counts: Counter[str] = Counter()
        for document in self._index.documents() if len(self._store) else ():
            path, digest = document.metadata.get("path"), document.metadata.get("hash")
            if not (isinstance(path, str) and isinstance(digest, str) and f"{document.id}#".startswith(f"{path}#")):
                raise StoreError(
                    f"the index {self._path} holds documents that are not of files, as {document.id!r}; give another "
                    f"index, or --overwrite"
                )
            hashes.setdefault(path, set()).add(digest)
            counts[path] += 1
        for path, digests in hashes.items():
            if len(digests) == 1:
                files[path] = StoredFile(hash=digests.pop(), documents=counts[path])
        return Mirror(folder=place, files=files)

    def _read(self, names: deque[str], here: Mapping[str, str | None], waiting: Any) -> tuple[list[_File], list[str]]:
        """Read files into `waiting`, until there are enough of them to encode."""
        files: list[_File] = []
        failed: list[str] = []
        end = 0
        with progress("reading", len(names), unit="files") as bar:
            while names and waiting.tell() < _ROUND:
                if self._limit is not None and self._documents >= self._limit:
                    names.clear()
                    break
                name, start, count = names.popleft(), waiting.tell(), 0
                digest = here[name] or ""
                for document in self._reader.read(name):
                    digest = document.metadata["hash"]
                    parts = document.id, document.text, document.title, document.metadata
                    waiting.write(json.dumps(parts).encode() + b"\n")
                    count += 1
                if self._reader.failed:  # nothing of it, and what was stored stays
                    waiting.seek(start)
                    waiting.truncate()
                    if name in self._stored:
                        failed.append(name)
                    if name in self._before:
                        self._mirror.files[name] = self._before[name]
                else:
                    end += count
                    self._documents += count
                    files.append(_File(name, digest, count, end))
                bar.advance()
        return files, failed

    def _encode(self, files: list[_File], waiting: Any, rows: int | None) -> None:
        """Store the documents of files, and note each file when all of its documents are stored."""
        pending = deque(files)
        new: dict[str, set[str]] = {file.name: set() for file in files if file.name in self._stored}
        model, info = self._index.model, self._index.info

        def documents() -> Iterator[Document]:
            for document in _documents(waiting):
                path = document.metadata["path"]
                if path in new:
                    new[path].add(document.id)
                yield document

        def committed(count: int) -> None:
            while pending and pending[0].end <= count:
                file = pending.popleft()
                if file.name in self._stored:
                    old = [one for one in self._stored[file.name] if one not in new[file.name]]
                    delete_documents(self._store, old)
                    self._changed.append(file.name)
                elif file.documents:
                    self._added.append(file.name)
                self._mirror.files[file.name] = StoredFile(hash=file.hash, documents=file.documents)
            self._mirror.write(self._path)

        encode = encoding(model, info.dtype or "auto", info.pooling)
        total = files[-1].end if files else 0
        if total:
            if rows is None and not info.passages:
                rows = total
            add_documents(
                self._store,
                ((row, None) for row in rows_of(documents(), model, info.passages)),
                encode,
                replace=True,
                total=rows,
                piece=piece_for(model),
                shard=self._shard,
                committed=committed,
            )
        committed(total)

    def _finish(self, first: bool) -> None:
        store = self._store
        store.index_texts()
        record_commit(store.path, store.version)
        if first:
            info = IndexInfo.read(self._path)
            update = {"count": len(store), "data": store.fingerprint(), "version": store.version}
            info.model_copy(update=update).write(self._path)


def _document_ids(store: Store) -> list[str]:
    ids = store.ids()
    found: list[str] = (document_ids(ids).unique() if store.passages else ids).to_pylist()
    return found


def _by_file(ids: Iterable[str], files: Collection[str]) -> dict[str, list[str]]:
    """Group ids of documents by the file that they are of: `FILE` or `FILE#ROW`; either may have a `#` of its own."""
    found: dict[str, list[str]] = {}
    everything = list(ids)
    whole = {one for one in everything if "#" not in one}
    for one in everything:
        name = one
        while name not in files and name not in whole and "#" in name:
            name = name.rpartition("#")[0]
        found.setdefault(name, []).append(one)
    return found


def _documents(waiting: Any) -> Iterator[Document]:
    waiting.seek(0)
    for line in iter(waiting.readline, b""):
        identity, text, title, metadata = json.loads(line)
        yield Document(identity, text, title, metadata)
