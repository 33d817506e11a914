"""What an index says about itself: `index.json`, beside the table's files `checksums.json`, and of files `files.json`.

Lance never changes a file that it has written, so every commit adds some, and the record of their checksums grows. The
record is written after the commit: if a writer is killed between the two, the newest files are in no record until the
next commit, and only the checksums of their rows protect them.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import Field, field_validator

from hyperseek._config import Config
from hyperseek._files import writing
from hyperseek._folders import (
    CHECKED_AT_ONCE,
    Checksum,
    check_files,
    checksum_folder,
    folder_path,
    inside,
    read_description,
    read_sealed,
    validated,
    write_sealed,
)
from hyperseek.errors import StoreError, shown
from hyperseek.scoring import Space

FORMAT = 2
"""Version of the folder's layout; a reader refuses any other."""

Storage: TypeAlias = Literal["float32", "float16"]
"""Number type of the stored vectors."""

ROUNDING: dict[Storage, float] = {"float32": 1e-6, "float16": 2e-3}
"""Relative differences that rounding of each number of a stored vector leaves between equal norms."""

FIRST_TABLE = "documents.lance"
"""Folder of the table of a new index."""

_NAME = "index.json"
_REMEDY = "take the file from a copy, or build the index again with --overwrite"

_RECORD = "checksums.json"
_RECORD_REMEDY = "take the folder from a copy, or build the index again with --overwrite"
_FILES = "files.json"
_FILES_REMEDY = "delete it; the next update then takes the stored files as they are"
# Lance's note of the newest version is the one file that it rewrites. What it says is checked by the number of the
# version that is found.
_CHANGING = ("latest_version_hint.json",)


class IndexInfo(Config):
    """How an index was made, and whether it is finished.

    Attributes:
        format: Version of the folder's layout.
        state: `"building"` until the last document is stored.
        source: Path or name of the model; None if unknown.
        fingerprint: Of the model's document side; None if unknown, in which case no model can be checked.
        space: Geometry of the points.
        storage: Number type of the stored vectors.
        dtype: Number type the model computed in; None for vectors from elsewhere.
        pooling: How the model's token vectors were made fewer, as options of `TokenPooling`; None if they were not.
        passages: How documents were split, as `{"tokens": 256, "overlap": 0}`; None if each row is a whole document.
            Else a row is a passage, and its id that of its document, `#`, and its number from 0.
        protocol: What the model says about itself: prompts, lengths, versions.
        name: Name of the corpus, for people.
        table: Folder of the table, within the index.
        version: Version of the table that `count` and `data` describe; documents may have changed since.
        data: Fingerprint of the stored documents, in order; None until finished.
        count: Number of rows; 0 until finished.
        created: When building began.
    """

    format: int = FORMAT
    state: Literal["building", "finished"] = "building"
    source: str | None = None
    fingerprint: str | None = None
    space: Space
    storage: Storage = "float32"
    dtype: str | None = None
    pooling: dict[str, Any] | None = None
    passages: dict[str, int] | None = None
    protocol: dict[str, Any] = Field(default_factory=dict)
    name: str | None = None
    table: str = FIRST_TABLE
    version: int | None = None
    data: str | None = None
    count: int = 0
    created: datetime = Field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    @field_validator("passages")
    @classmethod
    def _check_passages(cls, passages: dict[str, int] | None) -> dict[str, int] | None:
        if passages is not None and not set(passages) <= {"tokens", "overlap"}:
            raise ValueError(f"it has tokens and overlap, not {shown(sorted(passages))}")
        return passages

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """Whether a folder holds an index, finished or not."""
        return (folder_path(folder, "an index") / _NAME).is_file()

    @classmethod
    def read(cls, folder: Path, *, sealed: bool = True) -> IndexInfo:
        """Read `index.json`.

        Args:
            folder: The index.
            sealed: Whether valid values that differ from those that were written are an error, too.

        Returns:
            Its content.

        Raises:
            StoreError: The file is missing, damaged or unreadable, or has another format.
            InputError: No folder can have that path.
        """
        path = folder_path(folder, "an index") / _NAME
        if not path.exists() and _is_searchable(folder):
            raise StoreError(f"{folder} holds no index; make one with: hyperseek encode MODEL CORPUS --index {folder}")
        values, intact = read_sealed(path, "the description of an index", remedy=_REMEDY)
        if values.get("format") != FORMAT:
            raise StoreError(
                f"the index {folder} has format {values.get('format')!r} and this version of hyperseek reads format "
                f"{FORMAT}; use the version that wrote it, or build the index again with --overwrite"
            )
        return validated(cls, values, path, intact=intact or not sealed, remedy=_REMEDY)

    def write(self, folder: Path) -> None:
        """Write `index.json`, atomically."""
        write_sealed(folder / _NAME, self.model_dump(mode="json"))

    def place(self, folder: Path) -> Path:
        """Return the path of the table; StoreError if the index names one outside its folder."""
        return inside(folder, self.table, source=folder / _NAME)


class Written(Config):
    """What was written to a table: `checksums.json`.

    Attributes:
        version: Version of the table that the record belongs to.
        files: Checksums by path in the table's folder.
    """

    version: int
    files: dict[str, Checksum]

    @classmethod
    def read(cls, table: Path) -> Written | None:
        """Read the record of a table; None if there is none, as in indexes of earlier versions."""
        path = table / _RECORD
        if not path.exists():
            return None
        return read_description(cls, path, "a record of checksums", remedy=_RECORD_REMEDY)

    def check(self, table: Path, *, whole: bool) -> None:
        """Compare a table's files with the record.

        Args:
            table: Its folder.
            whole: Whether to compare all bytes, even of large tables.

        Raises:
            StoreError: A file is missing or is not what was written; the message names it.
        """
        limit = None if whole else CHECKED_AT_ONCE
        check_files(table, self.files, source=table / _RECORD, remedy=_RECORD_REMEDY, at_most=limit)


class StoredFile(Config):
    """A file whose documents are all stored.

    Attributes:
        hash: Of its bytes.
        documents: How many documents it has.
    """

    hash: str
    documents: int


class Mirror(Config):
    """Which folder an index mirrors, and what of it is stored: `files.json`.

    Attributes:
        folder: The folder, or a single file.
        files: The files whose documents are all stored, by their paths below the folder.
    """

    folder: str
    files: dict[str, StoredFile] = Field(default_factory=dict)

    @classmethod
    def exists(cls, index: Path) -> bool:
        """Return whether an index mirrors a folder."""
        return (index / _FILES).exists()

    @classmethod
    def read(cls, index: Path) -> Mirror:
        """Read the record of an index."""
        return read_description(cls, index / _FILES, "a record of files", remedy=_FILES_REMEDY)

    def write(self, index: Path) -> None:
        """Write the record, atomically."""
        with writing(index):
            write_sealed(index / _FILES, self.model_dump(mode="json"))

    @staticmethod
    def forget(index: Path) -> None:
        """Delete the record of an index, if there is one."""
        (index / _FILES).unlink(missing_ok=True)


def record_commit(table: Path, version: int) -> None:
    """Note the checksums of what the last commit wrote.

    Args:
        table: Folder of the table.
        version: Its newest version.

    Raises:
        StoreError: The record of earlier commits is damaged.
        WriteError: The disk is full, or the folder may not be written to.
    """
    before = Written.read(table)
    # Known checksums stay as they were noted: computing them again would record damage as what was written.
    known = {} if before is None else before.files
    found = checksum_folder(table, leave_out=(_RECORD, *_CHANGING), known=known)
    with writing(table):
        write_sealed(table / _RECORD, {"version": version, "files": found})


def _is_searchable(folder: Path) -> bool:
    # A folder without permission to search it seems empty.
    return not folder.is_dir() or os.access(folder, os.X_OK)
