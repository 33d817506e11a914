"""Folders: written atomically, held while they are read, verified by checksums, and never escaped by a path in them.

A checksum is a file's size and its CRC-32, which notices accidents (a flipped bit, a cut, a file of another version)
at the speed of reading. It does not prove who wrote a file. Descriptions in JSON are sealed: they carry a checksum of
their own values.

A reader holds the folders it reads by a shared lock of the operating system, which ends with its process. Where there
are no such locks (Windows, some network file systems) nothing is held.

A folder's files name other files in it, and its entries may be links. Both are untrusted: `inside` resolves every path
that a file contains, and `files_within` checks every entry.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import secrets
import shutil
import stat
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from hyperseek._bounded import PathLike
from hyperseek._config import Config
from hyperseek._files import read_json, reading, write_json
from hyperseek.errors import HyperseekError, InputError, StoreError, brief, shown

try:
    import fcntl

    _LOCKS = True
except ImportError:  # Windows, which refuses to delete open files by itself
    _LOCKS = False

ConfigT = TypeVar("ConfigT", bound=Config)

Checksum: TypeAlias = tuple[int, int]
"""Size in bytes, and CRC-32."""

SEAL = "checksum"
"""Key of a sealed description's own checksum."""

CHECKED_AT_ONCE = 256 << 20
"""Bytes that are verified on every opening, which takes about a tenth of a second."""

_PIECE = 1 << 20
_LARGEST_DESCRIPTION = 32 << 20
# A file modified this shortly before it was read could be modified again with the same timestamp.
_SETTLED = 0.1  # seconds
_MOST_KNOWN = 1 << 16

# By what the system says of a file: where its bytes are, how many, and when they were last changed.
_known: dict[tuple[int, ...], Checksum] = {}
_lock = threading.Lock()

_FORBIDDEN = set('\\:*?"<>|') | {chr(code) for code in range(32)}


def cache_folder(chosen: str | None = None) -> Path:
    """Return the cache folder, variables filled in: the chosen one, `$HYPERSEEK_CACHE`, or `~/.cache/hyperseek`."""
    place = chosen or os.environ.get("HYPERSEEK_CACHE") or "~/.cache/hyperseek"
    return Path(os.path.expandvars(place)).expanduser()


def folder_path(path: str | os.PathLike[str], what: str) -> Path:
    """Return the path of a folder that exists or could be created, judging by its name.

    Args:
        path: As a caller gave it.
        what: Whose folder it is, with an article, as in `"an index"`.

    Returns:
        The path.

    Raises:
        InputError: It is not a path, or an impossible one: too long, with a null byte, not valid Unicode.
    """
    try:
        found = Path(path)
        os.lstat(found)
    except TypeError:
        raise InputError(f"the folder of {what} is given by its path, not as {shown(path)}") from None
    except (OSError, ValueError) as cause:
        number = getattr(cause, "errno", None)
        if number is None or number in (errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP):
            reason = os.strerror(number) if number else brief(cause)
            raise InputError(f"{shown(os.fspath(path))} cannot be the folder of {what}: {reason}") from None
    return found


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
    """Resolve many paths like `inside`, checking the folders that they share only once.

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
                f"{source} names {shown(name)}, which is not a plain path within {folder}; nothing outside an index is "
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
    """Raise StoreError if a path is a link, or neither a file nor a folder, such as an endless pipe."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{path} cannot be examined ({error.strerror}); check its permissions") from error
    _check_mode(path, mode)


def files_within(folder: Path) -> Iterator[str]:
    """Find all files below a folder, checking the folder itself and every entry.

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


@contextmanager
def staged_folder(folder: PathLike, *, overwrite: bool, owned: Collection[str]) -> Iterator[Path]:
    """Create a hidden sibling of `folder`, and rename it to `folder` when the block ends without an error.

    Args:
        folder: The folder to create.
        overwrite: Whether an existing folder may be replaced.
        owned: Names that such a folder may contain; one that contains anything else is never replaced.

    Yields:
        The folder to write into.

    Raises:
        InputError: `folder` exists and may not be replaced.
    """
    target = Path(folder)
    check_replaceable(target, overwrite, owned)
    with scratch_folder(target) as staging:
        yield staging
        if target.exists():
            replaced = staging.with_suffix(".old")
            os.replace(target, replaced)
            os.replace(staging, target)
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            os.replace(staging, target)


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """Create a hidden sibling of `target` for the duration of the block; first delete those left by killed processes.

    Args:
        target: It need not exist.

    Yields:
        The folder. Renaming it keeps it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        remove_unheld(left)
    scratch = target.parent / f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    scratch.mkdir()
    hold = Hold(scratch)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        del hold


def check_replaceable(target: Path, overwrite: bool, owned: Collection[str]) -> None:
    """Raise InputError if a folder exists and may not be replaced; see `staged_folder`."""
    _bring_back(target)
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(f"{target} is a file; give the path of a folder to be made")
    held = sorted(path.name for path in target.iterdir())
    strange = [name for name in held if name not in owned]
    if strange:
        raise InputError(f"{target} holds {strange[0]!r}, which is not one of {sorted(owned)}; choose a new folder")
    if held and not overwrite:
        raise InputError(f"{target} exists; choose a new folder, or replace it with overwrite=True (--overwrite)")


def _bring_back(target: Path) -> None:
    """Undo an interrupted replacement, in which the old folder was moved away and the new one is not yet in place."""
    for old in target.parent.glob(f".{glob.escape(target.name)}.*.old"):
        if not remove_unheld(old.with_suffix(".tmp")):
            continue  # at work
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(old, target)


class Hold:
    """Keeps a folder from being deleted by `remove_unheld` for as long as the object lives.

    Args:
        folder: It may be read-only.

    Raises:
        OSError: There is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not _LOCKS:
            return
        descriptor = os.open(folder, os.O_RDONLY)
        weakref.finalize(self, os.close, descriptor)
        with suppress(OSError):  # of a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_SH)


def remove_unheld(folder: Path, before: Callable[[Path], object] | None = None) -> bool:
    """Delete a folder unless it is held. Attempts to hold it meanwhile wait, and then find it gone.

    Args:
        folder: With all its files; it may be missing.
        before: Called with the folder right before it is deleted.

    Returns:
        Whether it is gone.
    """
    descriptor = None
    if _LOCKS and folder.is_dir():
        # Another process may rename or delete the folder at any time.
        with suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY)
    try:
        if descriptor is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError:
                pass  # a file system without locks
        if before is not None:
            before(folder)
        shutil.rmtree(folder, ignore_errors=True)
        return True
    finally:
        if descriptor is not None:
            os.close(descriptor)


def checksum(path: str | Path) -> Checksum:
    """Return a file's checksum; one that was computed before is remembered until the file changes."""
    with _lock:
        there = _known.get(_state(os.stat(path)))
    if there is not None:
        return there
    with open(path, "rb") as file:
        before = os.fstat(file.fileno())
        size = value = 0
        while piece := file.read(_PIECE):
            size += len(piece)
            value = zlib.crc32(piece, value)
    if time.time() - max(before.st_mtime, before.st_ctime) > _SETTLED:
        with _lock:
            if len(_known) >= _MOST_KNOWN:
                _known.clear()
            _known[_state(before)] = (size, value)
    return size, value


def checksum_folder(
    folder: Path, *, leave_out: Iterable[str] = (), known: Mapping[str, Checksum] | None = None
) -> dict[str, Checksum]:
    """Return the checksums of all files below a folder.

    Args:
        folder: The folder.
        leave_out: Names of files, at any depth, that are not to be noted.
        known: Checksums to use without reading the files again.

    Returns:
        Checksums by path in the folder.

    Raises:
        StoreError: An entry is a link, or neither a file nor a folder, or may not be read.
    """
    left_out, noted = {*leave_out}, known or {}
    names = [name for name in files_within(folder) if name.rpartition("/")[2] not in left_out]
    return {name: noted.get(name) or checksum(folder / name) for name in names}


def check_files(
    folder: Path, noted: Mapping[str, Checksum], *, source: Path, remedy: str, at_most: int | None = None
) -> None:
    """Verify files against their recorded checksums.

    Args:
        folder: Their folder.
        noted: Checksums by path in the folder.
        source: The file with the checksums, for messages.
        remedy: What to do about damage.
        at_most: Maximum bytes to read, the smallest files first; for others only the size is checked. None for all.

    Raises:
        StoreError: A file is missing, or is not what was written; the message names it.
    """
    left, ordered = at_most, sorted(noted, key=lambda name: noted[name][0])
    for name, path in zip(ordered, all_inside(folder, ordered, source=source), strict=True):
        size, value = noted[name]
        with reading(path, "what was written", error=StoreError, remedy=remedy):
            found = os.stat(path).st_size
            if found != size:
                raise StoreError(f"{path} cannot be read: it has {found} bytes and was written with {size}; {remedy}")
            if left is not None:
                left -= size
            if (left is None or left >= 0) and checksum(path) != (size, value):
                raise StoreError(f"{path} cannot be read: its bytes are not those that were written; {remedy}")


def write_sealed(path: Path, values: Mapping[str, Any]) -> None:
    """Write plain values as JSON with a checksum of their own, atomically."""
    # The checksum is verified on values read back, so it is computed on their JSON form.
    plain = json.loads(json.dumps(dict(values), ensure_ascii=False, default=str))
    write_json(path, {**plain, SEAL: _seal(plain)})


def read_sealed(
    path: Path, what: str, *, remedy: str, error: type[HyperseekError] = StoreError
) -> tuple[dict[str, Any], bool]:
    """Read a file of `write_sealed`.

    Args:
        path: The file.
        what: What it should be, with its article.
        remedy: What to do where it is not.
        error: Class of the error to raise.

    Returns:
        The values without their checksum; and whether they are those that were written, which is also said of a file
        without a checksum, as older versions wrote it.

    Raises:
        HyperseekError: `error`: the file is missing, is not JSON, or holds something else than a mapping.
    """
    refuse_link(path)
    values = read_json(path, what, error=error, remedy=remedy, largest=_LARGEST_DESCRIPTION)
    if not isinstance(values, dict):
        raise error(f"{path} is not {what}: it holds a {type(values).__name__} and not a mapping; {remedy}")
    seal = values.pop(SEAL, None)
    return values, seal is None or seal == _seal(values)


def read_description(kind: type[ConfigT], path: Path, what: str, *, remedy: str) -> ConfigT:
    """Read a configuration that `write_sealed` wrote.

    Args:
        kind: Its class.
        path: The file.
        what: What it should be, with its article.
        remedy: What to do where it is not.

    Returns:
        The configuration.

    Raises:
        StoreError: The file is missing, does not validate, or is not what was written.
    """
    values, intact = read_sealed(path, what, remedy=remedy)
    return validated(kind, values, path, intact=intact, remedy=remedy)


def validated(kind: type[ConfigT], values: dict[str, Any], path: Path, *, intact: bool, remedy: str) -> ConfigT:
    """Validate values from `read_sealed` as a configuration.

    Args:
        kind: Its class.
        values: Plain values.
        path: Where they come from.
        intact: Whether they are those that were written.
        remedy: What to do where they are not.

    Returns:
        The configuration.

    Raises:
        StoreError: The values do not validate, or are not those that were written.
    """
    found = kind.from_mapping(values, source=str(path), error=StoreError, remedy=remedy)
    if not intact:
        raise StoreError(
            f"{path} is damaged: its values are not those that were written. If you have changed them on purpose, "
            f"take out the line {SEAL!r}; else {remedy}"
        )
    return found


def _state(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _seal(values: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(values, sort_keys=True, ensure_ascii=True).encode())
