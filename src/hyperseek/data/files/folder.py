"""A folder of files as a collection: a document of each file, and of each row of a table.

The id of a document is the file's path below the folder, and for a row or a message of a mailbox that path, `#` and the
row's own id or number. Metadata say where it comes from: `path`, `suffix`, `hash` of the file's bytes, `modified`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from hyperseek.data._qrels_and_runs import Judgement
from hyperseek.data.files._converter import Converter
from hyperseek.data.files.readers import File, FileError, reader_of
from hyperseek.data.reading import ErrorReport, Faults
from hyperseek.errors import DataError, HyperseekError, InputError, brief, is_panic, shown
from hyperseek.types import Document, Query

RESERVED = ("path", "suffix", "hash", "modified")
"""Metadata of every document of a file; a column of a table with such a name gets `row_` before it."""

_NOT_ENTERED = ("__pycache__", "node_modules", "__MACOSX")
_MOST_NAMED = 1_000  # files that a report names for a reason
_MOST_KINDS = 30
_LONGEST_KIND = 12  # characters of a suffix; longer ones are no kinds


class FileVersion(NamedTuple):
    """A file as it is now.

    Attributes:
        name: Its path below the folder; that of a folder ends in `/`.
        hash: Fingerprint of its bytes; None if it cannot be read now.
    """

    name: str
    hash: str | None


@dataclass(frozen=True, slots=True)
class FilesSource:
    """Documents of all files below a folder, in the order of the files' names, or of a single file.

    Hidden files and folders, caches of programs, and folders that are symbolic links are not read. Whatever is left out
    is counted, and files that cannot be read are named.

    Attributes:
        place: The folder or the file.
    """

    place: Path

    @property
    def splits(self) -> tuple[str, ...]:
        """None: files have no judgements."""
        return ()

    @staticmethod
    def reads(folder: Path) -> bool:
        """Return whether a folder, or one below, has a file that can be read."""
        return any(reader_of(file) for file in _files(folder, ErrorReport()) if isinstance(file, Path))

    def documents(self, faults: Faults) -> Iterator[Document]:
        """Stream the documents; what cannot be read goes to the report of `faults`."""
        found = False
        with FolderReader(self.place, faults.report) as reader:
            for version in reader.versions(hashed=False):
                if version.hash is not None:
                    for document in reader.read(version.name):
                        found = True
                        yield document
        faults.finish(self.place)
        if not found:
            left = "".join(f"; {line}" for line in faults.report.lines())
            raise DataError(f"has no documents{left}", path=self.place)

    def queries(self, faults: Faults) -> Iterator[Query]:
        """Stream no queries."""
        return iter(())

    def judgements(self, split: str, faults: Faults) -> Iterator[Judgement]:
        """Stream no judgements."""
        return iter(())

    def reader(self) -> FolderReader:
        """Return a reader of the files one by one, with a report of its own."""
        return FolderReader(self.place, ErrorReport())


class FolderReader:
    """Reads the files of a folder one by one.

    Attributes:
        failed: Whether the file that was read last could not be read, or only in part.

    Args:
        place: The folder, or a single file.
        report: Takes what is left out.
    """

    def __init__(self, place: Path, report: ErrorReport) -> None:
        self.place = place
        self.report = report
        self.failed = False
        self._single = place.is_file()
        self._root = place.parent if self._single else place
        self._closing = ExitStack()
        self._converter = self._closing.enter_context(Converter())

    def __enter__(self) -> FolderReader:
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.close()

    def versions(self, *, hashed: bool = True) -> Iterator[FileVersion]:
        """Yield all files of a known kind that are there, and the folders that cannot be listed.

        Args:
            hashed: Whether to read the files for their hashes; otherwise those of files are "".

        Yields:
            Names and hashes; what cannot be read has none, and is in the report.
        """
        found = [self.place] if self._single else _files(self.place, self.report)
        for path in found:
            if isinstance(path, str):
                yield FileVersion(path, None)
            elif (name := self._name(path)) is not None:
                try:
                    yield FileVersion(name, File(path, name).hash if hashed else "")
                except FileError as error:
                    self._left_out(error.reason, str(error))
                    yield FileVersion(name, None)
                except OSError as error:
                    self._left_out("unreadable", f"{path}: {error.strerror or error}")
                    yield FileVersion(name, None)

    def read(self, name: str) -> Iterator[Document]:
        """Stream the documents of a file.

        Args:
            name: Its path below the folder.

        Yields:
            The documents; what is wrong with the file goes to the report, see `failed`.
        """
        from hyperseek.store.rows import check_documents  # with torch

        self.failed = False
        path = self._root / name
        file = File(path, name, self.report, self._converter)
        kind = reader_of(path)
        count = 0
        try:
            if kind is None:
                raise FileError("other_kind_of_file", "there is no reader for its kind", path=path)
            if kind.rows:
                file.hash  # noqa: B018 (before the rows are read, so that a change meanwhile is found later)
            given = kind.read(file)
            modified = ""
            seen: set[str] = set()
            for document in [Document("", given)] if isinstance(given, str) else given:
                if not (document.text.strip() or (kind.rows and document.title.strip())):
                    continue
                if not modified:
                    modified = datetime.fromtimestamp(os.stat(path).st_mtime, UTC).isoformat(timespec="seconds")
                own = {"path": name, "suffix": file.suffix, "hash": file.hash, "modified": modified}
                rest = {f"row_{key}" if key in RESERVED else key: value for key, value in document.metadata.items()}
                identity = f"{name}#{_valid(document.id)}" if document.id else name
                made = Document(identity, _valid(document.text), _valid(document.title or file.stem), rest | own)
                try:
                    if identity in seen:
                        raise InputError(f"its id {shown(identity)} appears a second time")
                    check_documents([made])
                except InputError as error:
                    self._left_out("unusable_row", f"{path}: {error}")
                    continue
                seen.add(identity)
                count += 1
                yield made
            if not count:
                self._left_out("no_text", f"{path}: has no text")
        except FileError as error:
            self._failed(error.reason, str(error))
        except HyperseekError as error:
            message = str(error)
            self._failed("damaged", message if str(path) in message else f"{path}: {message}")
        except OSError as error:
            self._failed("vanished" if isinstance(error, FileNotFoundError) else "unreadable", f"{path}: {error}")
        except (MemoryError, RecursionError):
            self._failed("too_large", f"{path}: is too large or too deeply nested for its reader")
        except BaseException as error:
            if not isinstance(error, Exception) and not is_panic(error):
                raise
            self._failed("damaged", f"{path}: is damaged ({type(error).__name__}: {brief(error)})")

    def _failed(self, reason: str, message: str) -> None:
        self.failed = True
        self._left_out(reason, message)

    def _left_out(self, reason: str, message: str) -> None:
        self.report.add(reason, message, kept=_MOST_NAMED)

    def _name(self, path: Path) -> str | None:
        name = path.relative_to(self._root).as_posix()
        try:
            name.encode()
        except UnicodeEncodeError:
            self._left_out("bad_name", f"{self.place}: the file name {shown(name)} is not UTF-8; rename it")
            return None
        if reader_of(path) is None:
            suffix = path.suffix.lower()
            kinds = sum(reason.startswith("other_kind_of_file") for reason in self.report.counts)
            known = f"other_kind_of_file {suffix}"
            several = len(suffix) > _LONGEST_KIND or (kinds >= _MOST_KINDS and known not in self.report.counts)
            self.report.add("other_kind_of_file" if several or not suffix else known, str(path))
            return None
        return name


def _files(folder: Path, report: ErrorReport) -> Iterator[Path | str]:
    """Yield files in the order of their names, those of a folder before those of the folders in it.

    Args:
        folder: The folder.
        report: Takes what is passed over.

    Yields:
        Paths of files, and of folders that cannot be listed their names below the folder with a `/`.
    """
    unlisted: list[str] = []

    def unreadable(error: OSError) -> None:
        path = Path(os.fsdecode(error.filename or folder))
        report.add("unreadable_folder", f"{path}: cannot be read ({error.strerror or error})", kept=_MOST_NAMED)
        unlisted.append("/" if path == folder else f"{path.relative_to(folder).as_posix()}/")

    for place, folders, names in os.walk(folder, onerror=unreadable):
        if "index.json" in names and any(name.endswith(".lance") for name in folders):
            report.add("hidden_or_cache", place)  # an index, perhaps of this folder
            folders.clear()
            continue
        entered = []
        for name in sorted(folders):
            if name.startswith(".") or name in _NOT_ENTERED:
                report.add("hidden_or_cache", os.path.join(place, name))
            elif os.path.islink(os.path.join(place, name)):
                report.add("linked_folder", os.path.join(place, name), kept=_MOST_NAMED)
            else:
                entered.append(name)
        folders[:] = entered
        for name in sorted(names):
            if name.startswith("."):
                report.add("hidden_or_cache", os.path.join(place, name))
            else:
                yield Path(place, name)
        yield from unlisted
        unlisted.clear()
    yield from unlisted


def _valid(text: str) -> str:
    """Return a text without halves of surrogate pairs, which cannot be stored."""
    return text.encode(errors="replace").decode()
