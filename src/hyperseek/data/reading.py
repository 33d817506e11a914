"""Reading records from files: lines, JSON and their fields; bad records raise or are counted."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from hyperseek._bounded import HalfPairError, PathLike, json_value, path_text, raw_lines
from hyperseek._documents import ID_KEYS, TEXT_KEYS, TITLE_KEYS, find_key, id_of, plain_values
from hyperseek._files import atomic_write
from hyperseek.errors import DataError, InputError, brief, shown
from hyperseek.types import Document, Query

OnError: TypeAlias = Literal["raise", "skip"]
"""`"raise"` stops at the first bad record; `"skip"` skips and counts bad records."""

_EXAMPLES_KEPT = 3
_NOTES_KEPT = 1_000
_LONGEST_MESSAGE = 1_000  # characters; records can be very long
_LONGEST_PARAGRAPH = 1_000_000  # characters; a file without empty lines must not fill memory

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class ErrorReport:
    """Records left out, by reason.

    Attributes:
        counts: Number of records left out, by reason.
        examples: First messages by reason, with file and line where known.
        notes: What a reader had to guess about records that were read, as an encoding.
    """

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Records left out for any reason."""
        return sum(self.counts.values())

    def __bool__(self) -> bool:
        return bool(self.counts)

    def add(self, reason: str, message: str, *, count: int = 1, kept: int = _EXAMPLES_KEPT) -> None:
        """Count `count` records as left out.

        Args:
            reason: A short stable name, as in `"duplicate_id"`.
            message: The exact problem.
            count: Number of records that the message stands for.
            kept: How many messages of this reason are kept.
        """
        self.counts[reason] = self.counts.get(reason, 0) + count
        examples = self.examples.setdefault(reason, [])
        if len(examples) < kept:
            examples.append(message)

    def note(self, message: str) -> None:
        """Keep a remark about a record that was read; the first thousand are kept."""
        if len(self.notes) < _NOTES_KEPT:
            self.notes.append(message)

    def merge(self, other: ErrorReport) -> None:
        """Add everything in `other` to this report."""
        for reason, count in other.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + count
            kept = self.examples.setdefault(reason, [])
            kept.extend(other.examples[reason][: max(_EXAMPLES_KEPT, len(other.examples[reason])) - len(kept)])
        for message in other.notes:
            self.note(message)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: `{"counts": ..., "examples": ...}`."""
        return {"counts": dict(self.counts), "examples": {reason: list(kept) for reason, kept in self.examples.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ErrorReport:
        """Return the report that `to_dict` turned into plain values."""
        return cls(dict(values["counts"]), {reason: list(kept) for reason, kept in values["examples"].items()})

    def lines(self) -> list[str]:
        """Return one line per reason for people to read, most frequent first."""
        ranked = sorted(self.counts.items(), key=lambda pair: (-pair[1], pair[0]))
        return [f"{count:,} {reason} (first: {self.examples[reason][0]})" for reason, count in ranked]

    def log(self, what: str, *, level: int = logging.WARNING) -> None:
        """Log the report as one message, unless it is empty."""
        if self:
            logger.log(
                level,
                "%s: left out %s records:\n  %s",
                what,
                f"{self.total:,}",
                "\n  ".join(self.lines()),
            )


class Faults:
    """Raises or counts bad records, as the caller of a reader chose.

    Args:
        on_error: What to do with a bad record.
        report: Where to count; a new report if None.
    """

    def __init__(self, on_error: OnError = "raise", report: ErrorReport | None = None) -> None:
        if on_error not in ("raise", "skip"):
            raise InputError(f"on_error must be 'raise' or 'skip', not {on_error!r}")
        self.on_error = on_error
        self.report = ErrorReport() if report is None else report
        self._owned = report is None

    def found(self, reason: str, message: str, *, path: object, line: int | None = None) -> None:
        """Raise a `DataError` about a bad record, or count it.

        Args:
            reason: A short stable name, as in `"duplicate_id"`.
            message: What is wrong.
            path: The file.
            line: Its line, counted from 1.

        Raises:
            DataError: `on_error` is `"raise"`.
        """
        if len(message) > _LONGEST_MESSAGE:
            message = f"{message[: _LONGEST_MESSAGE - 1]}…"
        if self.on_error == "raise":
            raise DataError(
                f"{message}; correct it, or read with on_error='skip' to leave it out", path=path, line=line
            )
        self.report.add(reason, str(DataError(message, path=path, line=line)))

    def finish(self, what: object) -> None:
        """Log the counts of a finished reading, unless the caller passed in a report, and logs it."""
        if self._owned:
            self.report.log(str(what))


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
        faults: Takes lines that are not UTF-8.
        blank: Whether lines of blanks are yielded too.

    Yields:
        Line number from 1, and the line without its end.

    Raises:
        DataError: As in `raw_lines`.
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


def paragraphs(lines: Iterable[tuple[int, str]]) -> Iterator[str]:
    """Join numbered lines that no empty line separates, up to 1,000,000 characters or so.

    Args:
        lines: Those of `numbered_lines`, which skips empty ones and so leaves gaps in the numbers.

    Yields:
        Paragraphs, with their lines.
    """
    held: list[str] = []
    size, last = 0, 0
    for number, line in lines:
        if held and (number > last + 1 or size > _LONGEST_PARAGRAPH):
            yield "\n".join(held)
            held, size = [], 0
        held.append(line)
        size, last = size + len(line), number
    if held:
        yield "\n".join(held)


def json_lines(path: Path, faults: Faults) -> Iterator[Row]:
    """Yield the objects of a JSON-lines file with their line numbers.

    Args:
        path: The file.
        faults: Takes lines without a JSON object.

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
        A function that writes a record and returns the written line.
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


@dataclass(frozen=True, slots=True)
class FieldKeys:
    """Keys of a record's fields; None finds them in the first record.

    Attributes:
        id: Key of the id.
        text: Key of the text.
        title: Key of the title.
    """

    id: str | None = None
    text: str | None = None
    title: str | None = None

    def __post_init__(self) -> None:
        for name in ("id", "text", "title"):
            key = getattr(self, name)
            if key is not None and (not isinstance(key, str) or not key):
                raise InputError(f"{name}_key must be the name of a field, a non-empty string, not {shown(key)}")

    @property
    def named(self) -> tuple[str, ...]:
        """The given keys."""
        return tuple(key for key in (self.id, self.text, self.title) if key is not None)

    def resolve(self, record: Mapping[str, Any], path: object) -> tuple[str, str, str]:
        """Return the keys of id, text and title, or raise a `DataError` that lists the record's keys."""
        id_key = self.id or find_key(ID_KEYS, (key for key in record if key != self.text))
        text_key = self.text or find_key(TEXT_KEYS, (key for key in record if key != id_key))
        if len(record) == 2 and (self.id is None) != (self.text is None):
            # One key was given, and there is only one other.
            id_key = id_key or next((key for key in record if key != text_key), None)
            text_key = text_key or next((key for key in record if key != id_key), None)
        for what, key, option in (("id", id_key, "id_key"), ("text", text_key, "text_key")):
            if key is None or key not in record:
                listed = shown(sorted(record), 200)
                raise DataError(f"no {what}{f' {key!r}' if key else ''}; {option} can name one of {listed}")
        if (self.id is None and id_key != ID_KEYS[0]) or (self.text is None and text_key != TEXT_KEYS[0]):
            logger.info("%s: ids from %r, texts from %r, by its first record", path, id_key, text_key)
        return str(id_key), str(text_key), self.title or find_key(TITLE_KEYS, record) or TITLE_KEYS[0]


def documents_from_rows(rows: Iterable[Row], path: object, keys: FieldKeys, faults: Faults) -> Iterator[Document]:
    """Turn rows into documents; keys that are not id, text or title become metadata."""
    for _, identity, text, title, rest in _records(rows, path, keys, faults, titled=True):
        yield Document(identity, text, title, plain_values(rest))


def queries_from_rows(rows: Iterable[Row], path: object, keys: FieldKeys, faults: Faults) -> Iterator[Query]:
    """Turn rows into queries; keys that are not id or text become metadata."""
    for line, identity, text, _, rest in _records(rows, path, keys, faults, titled=False):
        if text.strip():
            yield Query(identity, text, rest)
        else:
            faults.found("empty_query", f"query {identity!r} has an empty text", path=path, line=line)


def _records(
    rows: Iterable[Row], path: object, keys: FieldKeys, faults: Faults, *, titled: bool
) -> Iterator[tuple[int, str, str, str, dict[str, Any]]]:
    seen: set[int] = set()
    resolved: tuple[str, str, str] | None = None
    found = 0
    for line, row in rows:
        if resolved is None:
            try:
                resolved = keys.resolve(row, path)
            except DataError as error:
                faults.found("missing_field", str(error), path=path, line=line)
                continue
        id_key, text_key, title_key = resolved
        rest = dict(row)
        raw = rest.pop(id_key, None), rest.pop(text_key, None)
        title = (rest.pop(title_key, None) or "") if titled else ""
        identity = id_of(raw[0])
        wrong = _wrong_field(raw, (id_key, text_key, title_key), identity, title)
        if wrong:
            faults.found(*wrong, path=path, line=line)
        elif identity is not None:
            # Hashes, not ids: a corpus need not fit in memory. The odds of a false alarm among 10 million ids are 3e-6.
            if hash(identity) in seen:
                faults.found("duplicate_id", f"id {identity!r} appears a second time", path=path, line=line)
                continue
            seen.add(hash(identity))
            found += 1
            yield line, identity, str(raw[1]), str(title), rest
    faults.finish(path)
    if not found:
        what = "documents" if titled else "queries"
        left = "; " + "; ".join(faults.report.lines()) if faults.report else ""
        raise DataError(f"has no {what}{left}", path=path)


def _wrong_field(
    raw: tuple[object, object], keys: tuple[str, str, str], identity: str | None, title: object
) -> tuple[str, str] | None:
    for value, key in zip(raw, keys, strict=False):
        if value is None:
            return "missing_field", f"no value for {key!r}"
    if identity is None:
        return "bad_field", f"{keys[0]!r} must be a non-empty string or a whole number, not {shown(raw[0])}"
    for value, key in ((raw[1], keys[1]), (title, keys[2])):
        if not isinstance(value, str):
            return "bad_field", f"{key!r} of record {identity!r} must be a string, not {shown(value)}"
    return None
