"""Paths within a folder that may come from a stranger: nothing outside it is read, written or deleted.

A folder's own files name other files of it, and a folder's entries may be links. Both are data: `inside` resolves every
name that a file gives, and `files_within` every entry that is found.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from hyperseek._errors import StoreError, shown

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
    [path] = all_inside(folder, [name], source=source)
    return Path(path)


def all_inside(folder: Path, names: Iterable[str], *, source: Path) -> Iterator[str]:
    """Resolve many paths as `inside` does, looking once at the folders that they share.

    Args:
        folder: The folder, as the caller gave it; it may itself be a link.
        names: The paths, with `/` between their parts.
        source: The file that names them, for the message.

    Yields:
        For each name its path below `folder`, as text: a table has thousands of files, and making a `Path` of each
        would take longer than looking at them.

    Raises:
        StoreError: A path is absolute, climbs out of the folder, or leads through a link.
    """
    seen: set[str] = set()
    for name in names:
        parts = name.split("/")
        if len(parts) > 16 or any(
            part in ("", ".", "..") or len(part) > 255 or not _FORBIDDEN.isdisjoint(part) for part in parts
        ):
            raise StoreError(
                f"{source} names {shown(name)}, which is no plain path within {folder}; nothing outside an index is "
                f"touched. Is the folder from somebody you trust?"
            )
        path = os.fspath(folder)
        for part in parts:
            path = os.path.join(path, part)
            if path not in seen:
                refuse_link(path)
                seen.add(path)
        yield path


def refuse_link(path: str | Path) -> None:
    """Raise StoreError where a path is a link, or no file and no folder, as a pipe that would never end."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{path} cannot be looked at ({error.strerror}); check its permissions") from error
    _check_mode(path, mode)


def files_within(folder: Path) -> Iterator[str]:
    """Find all files below a folder, the folder itself and every entry of it looked at.

    Args:
        folder: The folder; it may be missing.

    Yields:
        Their paths in the folder, with `/` between the parts, folder by folder in the order of their names.

    Raises:
        StoreError: An entry is a link, or neither a file nor a folder, or may not be read.
    """
    refuse_link(folder)
    if folder.is_dir():
        yield from _files_within(os.fspath(folder), "")


def _files_within(folder: str, start: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        kinds = [(entry.is_file(follow_symlinks=False), entry.is_dir(follow_symlinks=False)) for entry in entries]
    except OSError as error:
        raise StoreError(f"{folder} may not be read ({error.strerror}); check its permissions") from error
    for entry, (is_file, is_folder) in zip(entries, kinds, strict=True):
        if is_file:
            yield start + entry.name
        elif is_folder:
            yield from _files_within(entry.path, f"{start}{entry.name}/")
        else:
            refuse_link(entry.path)


def _check_mode(path: str | Path, mode: int) -> None:
    if stat.S_ISLNK(mode):
        raise StoreError(
            f"{path} is a symbolic link; an index is whole in its own folder, and nothing is followed out of it. Put "
            f"the file or folder itself there"
        )
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise StoreError(f"{path} is neither a file nor a folder; an index holds nothing else. Delete it")
