"""Text and JSON lines with their numbers, from plain or gzipped files."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias

from hyperseek._errors import DataError
from hyperseek._files import atomic_write
from hyperseek.data._report import Faults

PathLike: TypeAlias = str | os.PathLike[str]
Row: TypeAlias = tuple[int, Mapping[str, Any]]
"""A record and its line (or row) in its source, counted from 1."""

_DAMAGED_GZIP = (gzip.BadGzipFile, EOFError, zlib.error)


def existing_file(path: PathLike) -> Path:
    """Return `path`, or raise a `DataError` if it is no file."""
    found = Path(path)
    if not found.exists():
        raise DataError("no such file; check the path", path=found)
    if not found.is_file():
        raise DataError("is a folder where a file is needed; open folders with open_dataset", path=found)
    return found


def base_suffix(path: PathLike) -> str:
    """Return the lower-case suffix of a file name, not counting `.gz`."""
    return Path(str(path).lower().removesuffix(".gz")).suffix


def base_stem(path: PathLike) -> str:
    """Return a file's name without its suffix and without `.gz`."""
    return Path(Path(path).name.removesuffix(".gz")).stem


def numbered_lines(path: Path, faults: Faults) -> Iterator[tuple[int, str]]:
    """Yield the non-empty lines of a UTF-8 file with their numbers.

    Args:
        path: A plain file, or a gzipped one if its name ends in `.gz`.
        faults: Where lines that are not UTF-8 go.

    Yields:
        Line number from 1, and the line without its end.

    Raises:
        DataError: The file is missing, or is not the gzip file its name promises.
    """
    number = 0
    try:
        with _open_bytes(existing_file(path)) as file:
            for number, raw in enumerate(file, start=1):
                try:
                    line = raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    faults.found("bad_encoding", f"not valid UTF-8 ({error.reason})", path=path, line=number)
                    continue
                line = line.rstrip("\r\n")
                if number == 1:
                    line = line.removeprefix("\ufeff")
                if line and not line.isspace():
                    yield number, line
    except _DAMAGED_GZIP as error:
        raise DataError(f"damaged gzip file ({error}); fetch it again", path=path, line=number + 1) from error


def whole_text(path: Path) -> str:
    """Return the text of a UTF-8 file, plain or gzipped, or raise a `DataError`."""
    try:
        with _open_bytes(existing_file(path)) as file:
            return file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"not valid UTF-8 ({error.reason})", path=path) from error
    except _DAMAGED_GZIP as error:
        raise DataError(f"damaged gzip file ({error}); fetch it again", path=path) from error


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
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            faults.found("bad_json", f"not valid JSON ({error}): {line[:80]!r}", path=path, line=number)
            continue
        if not isinstance(record, dict):
            faults.found("bad_json", f"needs a JSON object, has {shown(record)}", path=path, line=number)
        elif "\\u" in line and not _encodable(record):
            faults.found("bad_encoding", "holds half of a surrogate pair, which is no text", path=path, line=number)
        else:
            yield number, record


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


def shown(value: object) -> str:
    """Return a value, shortened, for an error message."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _open_bytes(path: Path) -> IO[bytes]:
    if path.name.endswith(".gz"):
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return path.open("rb")


def _encodable(record: Mapping[str, Any]) -> bool:
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True
