"""Checksums of files that were written: damage is noticed before anything is made of the bytes.

A checksum is a file's size and its CRC-32, which notices accidents (a flipped bit, a cut, a file of another version)
at the speed of reading. It is no proof of who wrote a file. Descriptions in JSON are sealed: they carry a checksum of
their own values.
"""

from __future__ import annotations

import json
import os
import threading
import time
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from hyperseek._config import Config
from hyperseek._files import all_inside, files_within, read_json, reading, refuse_link, write_json
from hyperseek.errors import HyperseekError, StoreError

ConfigT = TypeVar("ConfigT", bound=Config)

Checksum: TypeAlias = tuple[int, int]
"""Size in bytes, and CRC-32."""

SEAL = "checksum"
"""Key of a sealed description's own checksum."""

CHECKED_AT_ONCE = 256 << 20
"""Bytes that are compared whenever something is opened, which takes about a tenth of a second."""

_PIECE = 1 << 20
_LARGEST_DESCRIPTION = 32 << 20
# A file that was written within this time of being read could be written again without looking newer.
_SETTLED = 0.1  # seconds
_MOST_KNOWN = 1 << 16

# By what the system says of a file: where its bytes are, how many, and when they were last changed.
_known: dict[tuple[int, ...], Checksum] = {}
_lock = threading.Lock()


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
        known: Checksums of files that are taken as they are, without reading these again.

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
    """Compare files with the checksums that were noted when they were written.

    Args:
        folder: Where they lie.
        noted: Checksums by path in the folder.
        source: The file with the checksums, for messages.
        remedy: What to do about damage.
        at_most: Bytes to read, the smallest files first; of the others only the size is compared. None for all.

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
    # What is read back is what is compared, so values are taken in the form in which JSON keeps them.
    plain = json.loads(json.dumps(dict(values), ensure_ascii=False, default=str))
    write_json(path, {**plain, SEAL: _seal(plain)})


def read_sealed(
    path: Path, what: str, *, remedy: str, error: type[HyperseekError] = StoreError
) -> tuple[dict[str, Any], bool]:
    """Read what `write_sealed` wrote.

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
    """Read what `write_sealed` wrote of a configuration.

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
    """Make a configuration of what `read_sealed` returned.

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
