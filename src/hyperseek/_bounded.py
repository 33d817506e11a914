"""Untrusted text and JSON, read within bounds, so that no line, compressed file or nesting exhausts the memory."""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias

from hyperseek._documents import repeated
from hyperseek.errors import DataError, InputError, shown

PathLike: TypeAlias = str | os.PathLike[str]

LONGEST_LINE = 1 << 24
"""Bytes of a line, including its end: more than any book has, and a line takes less than 1 GiB of memory."""

MOST_EMPTY_LINES = 1_000_000
"""Consecutive empty lines: a small compressed file can contain so many that reading them would never end."""

LARGEST_TEXT = 1 << 25
"""Bytes of a file that is read as a whole, such as judgements in JSON."""

DEEPEST = 64
LONGEST_INTEGER = 40  # tokenizers write 10 ** 30 for "no limit"
MOST_PARTS = 1_000_000
"""Brackets in a JSON text; each takes thirty times its size in memory."""
_LONGEST_NUMBER = 1_000  # characters of a fraction; parsing one takes superlinear time
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

_DAMAGED_GZIP = (gzip.BadGzipFile, EOFError, zlib.error)
LONGEST_PATH = 300  # in a message; text meant for another argument may be long

_PACKED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstandard",
    b"\xfd7zXZ\x00": "xz",
    b"PK\x03\x04": "zip",
}
_BINARY = {b"PAR1\x15": "Parquet", b"ARROW1\x00": "Arrow", b"SQLite format 3\x00": "SQLite"}
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def path_text(path: object) -> str:
    """Return a path as a string; InputError if it is not a path."""
    if isinstance(path, os.PathLike):
        path = os.fspath(path)
    if not isinstance(path, str):
        raise InputError(f"a path must be a string or a pathlib.Path, not {shown(path)}")
    return path


def existing_file(path: PathLike) -> Path:
    """Return `path`, or raise a `DataError` if it is not a file that can be read repeatedly."""
    named = path_text(path)[:LONGEST_PATH]
    try:
        found = Path(path)
        mode = found.stat().st_mode
    except FileNotFoundError:
        missing = "is a symbolic link to nothing" if os.path.islink(path) else "cannot be read: no such file"
        raise DataError(f"{missing}; check the path", path=named) from None
    except NotADirectoryError:
        raise DataError("no such file, since a part of the path is not a folder; check the path", path=named) from None
    except PermissionError:
        raise DataError("may not be read; check the permissions of its folders", path=named) from None
    except (OSError, ValueError) as error:
        raise DataError(f"is not a path of a file ({getattr(error, 'strerror', None) or error})", path=named) from None
    if stat.S_ISDIR(mode):
        raise DataError("is a folder where a file is needed; open folders with open_dataset", path=found)
    if not stat.S_ISREG(mode):
        raise DataError(
            "is a pipe or a device, and this file is read more than once; write it to a file first", path=found
        )
    return found


def raw_lines(path: PathLike) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a text file with their numbers.

    Args:
        path: A plain file, or a gzip file if its name ends in `.gz`.

    Yields:
        Line number from 1, and the line with its end.

    Raises:
        DataError: The file is missing, is not text, is not the gzip file its name promises, cannot be read, or has a
            line longer than `LONGEST_LINE` or more than `MOST_EMPTY_LINES` consecutive blank lines.
    """
    number = empty = 0
    with _opened(path) as file:
        try:
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(line) > LONGEST_LINE:
                    message = f"has a line longer than {LONGEST_LINE:,} bytes; is this the right file?"
                    raise DataError(message, path=path, line=number)
                if number == 1:
                    _check_kind(line[:64], Path(path))
                empty = empty + 1 if line.isspace() else 0
                if empty > MOST_EMPTY_LINES:
                    message = f"has more than {MOST_EMPTY_LINES:,} consecutive empty lines; is this the right file?"
                    raise DataError(message, path=path, line=number)
                yield number, line
        except _DAMAGED_GZIP as error:
            raise DataError(f"damaged gzip file ({error}); fetch it again", path=path, line=number + 1) from error


def whole_text(path: PathLike) -> str:
    """Return the text of a UTF-8 file, plain or gzipped, or raise a `DataError`; at most `LARGEST_TEXT` bytes."""
    with _opened(path) as file:
        try:
            content = file.read(LARGEST_TEXT + 1)
        except _DAMAGED_GZIP as error:
            raise DataError(f"damaged gzip file ({error}); fetch it again", path=path) from error
    if len(content) > LARGEST_TEXT:
        raise DataError(f"has more than {LARGEST_TEXT:,} bytes, and is read as a whole; split it", path=path)
    _check_kind(content[:64], Path(path))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"not valid UTF-8 ({error.reason})", path=path) from error


@contextmanager
def _opened(path: PathLike) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes, decompressed if its name ends in `.gz`."""
    found = existing_file(path)
    try:
        with found.open("rb") as file:
            if found.name.lower().endswith(".gz"):
                yield io.BufferedReader(gzip.GzipFile(fileobj=file))
            else:
                yield file
    except PermissionError:
        raise DataError("may not be read; check its permissions", path=found) from None
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror or error})", path=found) from error


def _check_kind(head: bytes, path: Path) -> None:
    """Raise a `DataError` if the first bytes of a file, decompressed, show that it is not UTF-8 text."""
    for begin, kind in _PACKED.items():
        if head.startswith(begin):
            name = f"{path.name}.gz" if kind == "gzip" else "a plain file, or one packed with gzip and named .gz"
            raise DataError(f"is packed with {kind}; give {name}", path=path)
    if head.startswith(b"BZh") and head[4:10] == b"1AY&SY":
        raise DataError("is packed with bzip2; give a plain file, or one packed with gzip", path=path)
    for begin, kind in _BINARY.items():
        if head.startswith(begin):
            raise DataError(f"is a file of {kind}, not text; write it as .jsonl", path=path)
    pairs = head[: len(head) // 2 * 2]
    halves = pairs[::2], pairs[1::2]
    wide = len(pairs) >= 8 and any(not any(one) and all(other) for one, other in (halves, halves[::-1]))
    if wide or head.startswith(_UTF_16):
        raise DataError("is text in UTF-16; save it as UTF-8", path=path)


Pairs: TypeAlias = list[tuple[str, Any]]


def json_value(text: str, pairs: Callable[[Pairs], Any] | None = None, *, most_parts: int = MOST_PARTS) -> Any:
    """Parse JSON.

    Args:
        text: The JSON.
        pairs: Makes the value of an object of its keys and values; None makes a dict, and a key that appears
            twice an error, since one of the two values would be lost.
        most_parts: Maximum number of brackets.

    Returns:
        The value: at most 64 levels deep, integers of at most 40 digits, all numbers finite, and texts valid Unicode.

    Raises:
        ValueError: It is not JSON, or beyond these bounds.
    """
    brackets = text.count("[") + text.count("{")
    if brackets > most_parts:
        raise ValueError(f"{brackets:,} lists and objects; the limit is {most_parts:,}")
    decoder = _DECODER if pairs is None else _decoder(pairs)
    try:
        value = decoder.decode(text)
        if brackets > DEEPEST:
            check_plain(value)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError(f"nested deeper than {DEEPEST}") from None
    except UnicodeEncodeError:
        raise HalfPairError("contains half of a surrogate pair, which is not valid text") from None
    return value


def check_plain(values: Any) -> None:
    """Raise ValueError if plain values are nested deeper than 64 levels or contain a number that is not finite."""
    level, depth = [values], 0
    while level:
        if depth > DEEPEST:
            raise ValueError(f"nested deeper than {DEEPEST}")
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner.extend(value.values())
            elif isinstance(value, list):
                inner.extend(value)
            elif isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{value} is not a finite number")
        level, depth = inner, depth + 1


class HalfPairError(ValueError):
    """Half of a surrogate pair in a text, which makes it invalid."""


def _unique(pairs: Pairs) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError(f"the key {shown(repeated(name for name, _ in pairs))} appears twice in one object")
    return values


def _integer(digits: str) -> int:
    if len(digits) > LONGEST_INTEGER:
        raise ValueError(f"an integer of {len(digits):,} digits")
    return int(digits)


def _fraction(digits: str) -> float:
    value = float(digits) if len(digits) <= _LONGEST_NUMBER else math.inf
    if not math.isfinite(value):
        raise ValueError(f"{shown(digits)} is not a finite number")
    return value


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not a number in JSON; write null for missing values")


def _decoder(pairs: Callable[[Pairs], Any]) -> json.JSONDecoder:
    return json.JSONDecoder(
        object_pairs_hook=pairs, parse_int=_integer, parse_float=_fraction, parse_constant=_constant
    )


_DECODER = _decoder(_unique)
