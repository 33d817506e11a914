"""Text and JSON lines with their numbers, from plain or gzipped files."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from hyperseek._errors import DataError, brief, shown
from hyperseek._files import atomic_write
from hyperseek.data._json_values import HalfPairError, json_value
from hyperseek.data._opening import DAMAGED_GZIP, PathLike, check_kind, damaged_gzip, opened
from hyperseek.data._report import Faults

Row: TypeAlias = tuple[int, Mapping[str, Any]]
"""A record and its line (or row) in its source, counted from 1."""

LONGEST_LINE = 1 << 24
"""Bytes of a line, its end included: more than any book, and what a line costs in memory stays below 1 GiB."""

MOST_EMPTY_LINES = 1_000_000
"""Lines without content in a row: a small packed file can hold so many that reading them would never end."""

LARGEST_TEXT = 1 << 25
"""Bytes of a file that is read whole, as judgements in JSON are."""


def base_suffix(path: PathLike) -> str:
    """Return the lower-case suffix of a file name, not counting `.gz`."""
    return Path(str(path).lower().removesuffix(".gz")).suffix


def base_stem(path: PathLike) -> str:
    """Return a file's name without its suffix and without `.gz`."""
    name = Path(path).name
    return Path(name[: -len(".gz")] if name.lower().endswith(".gz") else name).stem


def numbered_lines(path: Path, faults: Faults, *, blank: bool = False) -> Iterator[tuple[int, str]]:
    """Yield the non-empty lines of a UTF-8 file with their numbers.

    Args:
        path: A plain file, or a gzipped one if its name ends in `.gz`.
        faults: Where lines that are not UTF-8 go.
        blank: Whether lines of blanks alone are yielded too.

    Yields:
        Line number from 1, and the line without its end.

    Raises:
        DataError: The file is missing, is no text, is not the gzip file its name promises, or has a line longer than
            `LONGEST_LINE` or more than `MOST_EMPTY_LINES` without content in a row.
    """
    number = empty = 0
    with opened(path) as file:
        try:
            while raw := file.readline(LONGEST_LINE + 1):
                number += 1
                if len(raw) > LONGEST_LINE:
                    message = f"has a line longer than {LONGEST_LINE:,} bytes, which is no record; is this the file?"
                    raise DataError(message, path=path, line=number)
                if number == 1:
                    check_kind(raw[:64], path)
                try:
                    line = raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    faults.found("bad_encoding", f"not valid UTF-8 ({error.reason})", path=path, line=number)
                    continue
                line = line.rstrip("\r\n")
                if number == 1:
                    line = line.removeprefix("\ufeff")
                if line and (blank or not line.isspace()):
                    empty = 0
                    yield number, line
                    continue
                empty += 1
                if empty > MOST_EMPTY_LINES:
                    message = f"has more than {MOST_EMPTY_LINES:,} lines without content in a row; is this the file?"
                    raise DataError(message, path=path, line=number)
        except DAMAGED_GZIP as error:
            raise damaged_gzip(error, path, number + 1) from error


def whole_text(path: Path) -> str:
    """Return the text of a UTF-8 file, plain or gzipped, or raise a `DataError`; at most `LARGEST_TEXT` bytes."""
    try:
        with opened(path) as file:
            content = file.read(LARGEST_TEXT + 1)
    except DAMAGED_GZIP as error:
        raise damaged_gzip(error, path) from error
    if len(content) > LARGEST_TEXT:
        raise DataError(f"has more than {LARGEST_TEXT:,} bytes, and is read whole; divide it", path=path)
    check_kind(content[:64], path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"not valid UTF-8 ({error.reason})", path=path) from error


def json_lines(path: Path, faults: Faults) -> Iterator[Row]:
    """Yield the objects of a JSON-lines file with their line numbers.

    Args:
        path: The file.
        faults: Where lines that hold no JSON object go.

    Yields:
        Line number from 1, and the object.
    """
    for number, line in numbered_lines(path, faults):
        try:
            record = json_value(line)
        except HalfPairError as error:
            faults.found("bad_encoding", str(error), path=path, line=number)
        except ValueError as error:
            faults.found("bad_json", f"not valid JSON ({brief(error)}): {shown(line)}", path=path, line=number)
        else:
            if isinstance(record, dict):
                yield number, record
            else:
                faults.found("bad_json", f"needs a JSON object, has {shown(record)}", path=path, line=number)


@contextmanager
def gzip_json_lines(path: Path) -> Iterator[Callable[[Mapping[str, Any]], bytes]]:
    """Open a gzipped JSON-lines file for atomic writing; the same records give the same bytes.

    Args:
        path: The file.

    Yields:
        A function that writes one record and returns the line written.
    """
    # A time stamp or a name inside the gzip header would make equal contents differ.
    with (
        atomic_write(path, "wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=6) as packed,
    ):

        def write(record: Mapping[str, Any]) -> bytes:
            line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
            packed.write(line)
            return line

        yield write
