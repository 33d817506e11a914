"""What an index knows about itself: `index.json`, beside the table."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import Field

from hyperseek._config import Config
from hyperseek._folders import folder_path, inside, read_sealed, validated, write_sealed
from hyperseek.errors import StoreError
from hyperseek.scoring import Space

FORMAT = 2
"""Version of the folder's layout; a reader refuses any other."""

Storage: TypeAlias = Literal["float32", "float16"]
"""Number type of the stored vectors."""

FIRST_TABLE = "documents.lance"
"""Folder of the table of a new index."""

_NAME = "index.json"
_AGAIN = "take the file from a copy, or build the index again with --overwrite"


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


class IndexInfo(Config):
    """How an index was made, and whether it is finished.

    Attributes:
        format: Version of the folder's layout.
        state: `"building"` until the last document is stored.
        source: Path or name of the model; None if unknown.
        fingerprint: Of the model's document side; None if unknown, and then no model can be checked.
        space: Geometry of the points.
        storage: Number type of the stored vectors.
        dtype: Number type the model computed in; None for vectors from elsewhere.
        protocol: What the model says about itself: prompts, lengths, versions.
        name: The corpus' name, for people.
        table: Folder of the table, within the index.
        version: Version of the table that `count` and `data` are true of; documents may have changed since.
        data: Fingerprint of the stored documents, in their order; None until finished.
        count: Number of documents; 0 until finished.
        created: When building began.
    """

    format: int = FORMAT
    state: Literal["building", "finished"] = "building"
    source: str | None = None
    fingerprint: str | None = None
    space: Space
    storage: Storage = "float32"
    dtype: str | None = None
    protocol: dict[str, Any] = Field(default_factory=dict)
    name: str | None = None
    table: str = FIRST_TABLE
    version: int | None = None
    data: str | None = None
    count: int = 0
    created: datetime = Field(default_factory=_now)

    def write(self, folder: Path) -> None:
        """Write `index.json`, atomically."""
        write_sealed(folder / _NAME, self.model_dump(mode="json"))

    def place(self, folder: Path) -> Path:
        """Return the path of the table; StoreError where the index names one outside its folder."""
        return inside(folder, self.table, source=folder / _NAME)

    @classmethod
    def exists(cls, folder: Path) -> bool:
        """Whether a folder holds an index, finished or not."""
        return (folder_path(folder, "an index") / _NAME).is_file()

    @classmethod
    def read(cls, folder: Path, *, sealed: bool = True) -> IndexInfo:
        """Read `index.json`.

        Args:
            folder: The index.
            sealed: Whether values that are valid and not those that were written are an error, too.

        Returns:
            Its content.

        Raises:
            StoreError: There is none, it is damaged, it has another format, or may not be read.
            InputError: No folder can have that path.
        """
        path = folder_path(folder, "an index") / _NAME
        if not path.exists() and _may_look(folder):
            raise StoreError(f"{folder} holds no index; make one with: hyperseek encode MODEL CORPUS --index {folder}")
        values, intact = read_sealed(path, "the description of an index", remedy=_AGAIN)
        if values.get("format") != FORMAT:
            raise StoreError(
                f"the index {folder} has format {values.get('format')!r} and this version of hyperseek reads format "
                f"{FORMAT}; use the version that wrote it, or build the index again with --overwrite"
            )
        return validated(cls, values, path, intact=intact or not sealed, remedy=_AGAIN)


def _may_look(folder: Path) -> bool:
    """Whether what a folder holds can be known; a folder without permission to search it seems empty."""
    return not folder.is_dir() or os.access(folder, os.X_OK)
