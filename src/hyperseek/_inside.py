"""Paths within a folder that may come from a stranger: nothing outside it is read, written or deleted.

A folder's own files name other files of it, and a folder's entries may be links. Both are data: `inside` resolves every
name that a file gives, and `files_within` every entry that is found.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from hyperseek._errors import StoreError

_FORBIDDEN = set('\\:*?"<>|') | {chr(code) for code in range(32)}


def inside(folder: Path, name: str, *, source: Path) -> Path:
    """Resolve a relative path that a file of a folder names.

    Args:
        folder: The folder, as the caller gave it; it may itself be a link.
        name: The path, with `/` between its parts.
        source: The file that names it, for the message.

    Returns:
        A path below `folder`, none of whose parts is a link; it may be missing.

    Raises:
        StoreError: The path is absolute, climbs out of the folder, or leads through a link.
    """
    parts = name.split("/")
    if any(part in ("", ".", "..") or len(part) > 255 or set(part) & _FORBIDDEN for part in parts) or len(parts) > 16:
        raise StoreError(
            f"{source} names {_shown(name)}, which is no plain path within {folder}; nothing outside an index is "
            f"touched. Is the folder from somebody you trust?"
        )
    path = folder
    for part in parts:
        path = path / part
        refuse_link(path)
    return path


def refuse_link(path: Path) -> None:
    """Raise StoreError where a path is a link, or no file and no folder, as a pipe that would never end."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{path} cannot be looked at ({error.strerror}); check its permissions") from error
    _check_mode(path, mode)


def files_within(path: Path) -> Iterator[Path]:
    """Find all files below a folder, the folder itself and every entry of it looked at.

    Args:
        path: A folder, or a single file; it may be missing.

    Yields:
        The files, folder by folder in the order of their names.

    Raises:
        StoreError: An entry is a link, or neither a file nor a folder, or may not be read.
    """
    refuse_link(path)
    if path.is_file():
        yield path
    elif path.is_dir():
        try:
            names = sorted(os.listdir(path))
        except OSError as error:
            raise StoreError(f"{path} may not be read ({error.strerror}); check its permissions") from error
        for name in names:
            yield from files_within(path / name)


def _check_mode(path: Path, mode: int) -> None:
    if stat.S_ISLNK(mode):
        raise StoreError(
            f"{path} is a symbolic link; an index is whole in its own folder, and nothing is followed out of it. Put "
            f"the file or folder itself there"
        )
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise StoreError(f"{path} is neither a file nor a folder; an index holds nothing else. Delete it")


def _shown(name: str) -> str:
    return repr(name if len(name) <= 100 else f"{name[:99]}…")
