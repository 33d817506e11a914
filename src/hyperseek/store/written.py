"""What was written to the table: the checksums of its files, in `checksums.json` beside them.

Lance never changes a file that it has written, so every commit adds some and the record grows with it. It is written
after the commit; where a writer is killed between the two, the newest files are in no record until the next commit, and
only the checksums of their rows speak for them.
"""

from __future__ import annotations

from pathlib import Path

from hyperseek._config import Config
from hyperseek._files import writing
from hyperseek._folders import CHECKED_AT_ONCE, Checksum, check_files, checksum_folder, read_description, write_sealed
from hyperseek.store.table import Store

_RECORD = "checksums.json"
# Lance's note of the newest version is the one file that it writes again and again. What it says is checked by the
# number of the version that is found.
_CHANGING = ("latest_version_hint.json",)
_REMEDY = "take the folder from a copy, or build the index again with --overwrite"


class Written(Config):
    """What was written to a table.

    Attributes:
        version: Of the table, that the record belongs to.
        files: Checksums by path in the table's folder.
    """

    version: int
    files: dict[str, Checksum]

    @classmethod
    def read(cls, table: Path) -> Written | None:
        """Read the record of a table; None where there is none, as in indexes of before."""
        path = table / _RECORD
        if not path.exists():
            return None
        return read_description(cls, path, "a record of checksums", remedy=_REMEDY)

    def check(self, table: Path, *, whole: bool) -> None:
        """Compare a table's files with the record.

        Args:
            table: Its folder.
            whole: Whether all bytes are compared, also of large tables.

        Raises:
            StoreError: A file is missing or is not what was written; the message names it.
        """
        limit = None if whole else CHECKED_AT_ONCE
        check_files(table, self.files, source=table / _RECORD, remedy=_REMEDY, at_most=limit)


def record_commit(store: Store) -> None:
    """Note the checksums of what the last commit wrote.

    Args:
        store: The table, in its newest version.

    Raises:
        StoreError: The record of earlier commits is damaged.
        WriteError: The disk is full, or the folder is not ours to write to.
    """
    before = Written.read(store.path)
    # What is known stays as it was noted: computing it anew would take damage for what was written.
    known = {} if before is None else before.files
    found = checksum_folder(store.path, leave_out=(_RECORD, *_CHANGING), known=known)
    with writing(store.path):
        write_sealed(store.path / _RECORD, {"version": store.version, "files": found})
