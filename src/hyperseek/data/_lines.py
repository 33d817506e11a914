"""Text and JSON lines with their numbers, from plain or gzipped files."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from hyperseek._errors import InputError, brief, shown
from hyperseek._files import atomic_write
from hyperseek._json_values import HalfPairError, json_value
from hyperseek._text_files import PathLike, path_text, raw_lines
from hyperseek.data._report import Faults

Row: TypeAlias = tuple[int, Mapping[str, Any]]
"""A record and its line (or row) in its source, counted from 1."""


def base_suffix(path: PathLike) -> str:
    """Return the lower-case suffix of a file name, not counting `.gz`."""
    return Path(path_text(path).lower().removesuffix(".gz")).suffix


def base_stem(path: PathLike) -> str:
    """Return a file's name without its suffix and without `.gz`."""
    name = Path(path_text(path)).name
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
        DataError: As `raw_lines` says.
    """
    for number, raw in raw_lines(path):
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            faults.found("bad_encoding", f"not valid UTF-8 ({error.reason})", path=path, line=number)
            continue
        line = line.rstrip("\r\n")
        if number == 1:
            line = line.removeprefix("\ufeff")
        if line and (blank or not line.isspace()):
            yield number, line


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
            try:
                line = json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
            except (TypeError, ValueError, RecursionError) as error:
                name = shown(record.get("_id", record))
                raise InputError(f"{name} cannot be written as JSON ({brief(error)}); only plain values can") from None
            packed.write(line)
            return line

        yield write
