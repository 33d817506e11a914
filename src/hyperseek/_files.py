"""Files: written whole or not at all, read with errors of this library, and never outside the folder they belong to."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from hyperseek._bounded import json_value
from hyperseek.errors import DataError, HyperseekError, InputError, StoreError, WriteError, brief, is_panic, shown

LARGEST_JSON = 1 << 24
"""Bytes of a JSON file of ours, those apart that grow with a collection."""


@contextmanager
def reading(
    path: str | os.PathLike[str], what: str, *, error: type[HyperseekError] = DataError, remedy: str = ""
) -> Iterator[None]:
    """Report everything that goes wrong while a file is read as one error of this library.

    Args:
        path: What the block reads, for the message.
        what: What it should be, with its article, as in `"a run record"`.
        error: Class of the error to raise.
        remedy: What to do about it, as in `"train again with --overwrite"`.

    Yields:
        Nothing.

    Raises:
        HyperseekError: `error`, unless the block raised one of this library itself, which passes unchanged.
    """
    try:
        yield
    except (HyperseekError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as cause:
        if not isinstance(cause, Exception) and not is_panic(cause):
            raise
        match cause:
            case FileNotFoundError():
                reason = "does not exist"
            case PermissionError():
                reason = "may not be read; check its permissions"
            case IsADirectoryError() | NotADirectoryError():
                reason = f"is not {what}"
            case _:
                reason = f"is damaged, or is not {what} ({type(cause).__name__}: {brief(cause)})"
        raise error(f"{os.fspath(path)} {reason}" + (f"; {remedy}" if remedy else "")) from cause


def folder_path(path: str | os.PathLike[str], what: str) -> Path:
    """Return the path of a folder that is there or could be made, as far as its name tells.

    Args:
        path: As a caller gave it.
        what: Whose folder it is, with an article, as in `"an index"`.

    Returns:
        The path.

    Raises:
        InputError: It is no path, or one that no file system can hold: too long, with a null byte, not valid Unicode.
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


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Report a disk that is full, read-only, broken or not ours to write to as `WriteError`, naming `path`.

    Args:
        path: The file or folder that the block writes.

    Yields:
        Nothing.

    Raises:
        WriteError: The operating system refused; errors of other kinds pass unchanged.
    """
    try:
        yield
    except (OSError, RuntimeError) as cause:
        # Libraries in Rust, C++ and numpy raise errors without a number; their text still says what the disk said.
        number = getattr(cause, "errno", None)
        text = f"{getattr(cause, 'strerror', None) or ''} {cause}".lower()
        if number in (errno.ENOSPC, errno.EDQUOT) or "no space left" in text or "quota exceeded" in text:
            advice = "the disk is full; make room, then run the same command again"
        elif number == errno.EFBIG or "file too large" in text:
            advice = "the file would be larger than is allowed here (ulimit -f, or the file system's own limit)"
        elif number == errno.EIO or "input/output error" in text:
            advice = "the disk reports an error; choose another place, and look after the disk"
        elif number == errno.EROFS or "read-only file system" in text:
            advice = "the file system is read-only; choose another place"
        elif number in (errno.EACCES, errno.EPERM) or "permission denied" in text:
            advice = "you may not write there; check its permissions or choose another place"
        elif number in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
            advice = "a file stands where a folder should be, or the other way round; choose another place"
        elif number in (errno.ENOENT, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL):
            advice = f"no such file or folder can be made ({os.strerror(number)}); choose another place"
        elif re.search(r"\d+ requested and \d+ written|write error", text):
            advice = "not all of it could be stored; is the disk full, or is there a limit (ulimit -f)?"
        else:
            raise
        raise WriteError(f"{os.fspath(path)} cannot be written: {advice}") from cause


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary sibling of `path` and rename it over `path` when the block ends without an error.

    The data is flushed to the disk before the rename, so after a crash `path` holds either the old content
    or the whole new one.

    Args:
        path: The file to write; missing parent folders are made.
        mode: `"w"` for UTF-8 text, `"wb"` for bytes.

    Yields:
        The open temporary file.

    Raises:
        WriteError: The disk is full or read-only, or the folder is not ours to write to.
    """
    with writing(path), _replacement(Path(path), mode) as file:
        yield file


@contextmanager
def _replacement(target: Path, mode: str) -> Iterator[IO[Any]]:
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(target.parent)


def write_json(path: str | os.PathLike[str], value: object) -> None:
    """Write `value` as indented JSON with a final newline, atomically."""
    with atomic_write(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False, default=str)
        file.write("\n")


def read_json(
    path: str | os.PathLike[str],
    what: str = "a JSON file",
    *,
    error: type[HyperseekError] = DataError,
    remedy: str = "",
    largest: int = LARGEST_JSON,
) -> Any:
    """Read a JSON file that a stranger may have written.

    Args:
        path: The file.
        what: What it should be, with its article, for messages.
        error: Class of the error to raise.
        remedy: What to do about a damaged one.
        largest: Most bytes it may have.

    Returns:
        Its content: plain values, nested at most 64 deep, integers of at most 40 digits, every number finite.

    Raises:
        HyperseekError: `error`: it is missing, is no JSON, or is beyond these bounds.
    """
    with reading(path, what, error=error, remedy=remedy):
        # Of two values of a key the last one counts; a file may have as many brackets as bytes.
        return json_value(bounded_text(Path(path), largest), dict, most_parts=largest)


def bounded_text(path: Path, largest: int) -> str:
    """Read a text of at most `largest` bytes of UTF-8; ValueError where it has more."""
    with path.open("rb") as file:
        content = file.read(largest + 1)
    if len(content) > largest:
        raise ValueError(f"more than {largest:,} bytes")
    return content.decode("utf-8")


def take_umask(folder: str | os.PathLike[str]) -> None:
    """Give every file below a folder the mode that the user's umask says, whatever library wrote it.

    Some write through temporary files that only their owner may read, and leave that mode on what they keep.

    Args:
        folder: A folder, or a single file.
    """
    mode = 0o666 & ~_umask()
    found = [Path(folder), *Path(folder).rglob("*")]
    for path in found:
        if path.is_file() and not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) != mode:
            with suppress(PermissionError):
                path.chmod(mode)


@contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold a lock that other processes wait for.

    Args:
        path: The file that stands for it.

    Yields:
        Nothing.

    Raises:
        WriteError: The file cannot be made.
    """
    from filelock import FileLock

    lock = FileLock(path)
    with writing(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    # Without this a rename may be lost in a power cut. Windows cannot open folders.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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
