"""What to do with a bad record: stop at it, or count it and go on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from hyperseek.errors import DataError, InputError

OnError: TypeAlias = Literal["raise", "skip"]
"""`"raise"` stops at the first bad record; `"skip"` leaves bad records out and counts them."""

_EXAMPLES_KEPT = 3
_LONGEST_MESSAGE = 1_000  # characters; what a record holds may be longer than anybody reads

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class ErrorReport:
    """What was left out, and why.

    Attributes:
        counts: For every reason how many records it cost.
        examples: For every reason the first messages, with file and line where they are known.
    """

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Records left out for any reason."""
        return sum(self.counts.values())

    def __bool__(self) -> bool:
        return bool(self.counts)

    def add(self, reason: str, message: str, *, count: int = 1) -> None:
        """Count `count` records that were left out.

        Args:
            reason: A short stable name, as in `"duplicate_id"`.
            message: What exactly was wrong; the first three of a reason are kept.
            count: How many records the message stands for.
        """
        self.counts[reason] = self.counts.get(reason, 0) + count
        kept = self.examples.setdefault(reason, [])
        if len(kept) < _EXAMPLES_KEPT:
            kept.append(message)

    def merge(self, other: ErrorReport) -> None:
        """Add everything in `other` to this report."""
        for reason, count in other.counts.items():
            self.counts[reason] = self.counts.get(reason, 0) + count
            kept = self.examples.setdefault(reason, [])
            kept.extend(other.examples[reason][: _EXAMPLES_KEPT - len(kept)])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: `{"counts": ..., "examples": ...}`."""
        return {"counts": dict(self.counts), "examples": {reason: list(kept) for reason, kept in self.examples.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ErrorReport:
        """Read back what `to_dict` gave."""
        return cls(dict(values["counts"]), {reason: list(kept) for reason, kept in values["examples"].items()})

    def lines(self) -> list[str]:
        """Return the report for a person, one line a reason, most frequent first."""
        ranked = sorted(self.counts.items(), key=lambda pair: (-pair[1], pair[0]))
        return [f"{count:,} {reason} (first: {self.examples[reason][0]})" for reason, count in ranked]

    def log(self, what: str, *, level: int = logging.WARNING) -> None:
        """Log the report as one message, if it holds anything."""
        if self:
            logger.log(
                level,
                "%s: left out %s records:\n  %s",
                what,
                f"{self.total:,}",
                "\n  ".join(self.lines()),
            )


class Faults:
    """Raises or counts, as the caller of a reader asked.

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
        """Log the counts of a finished reading; a report that the caller passed in is the caller's to log."""
        if self._owned:
            self.report.log(str(what))
