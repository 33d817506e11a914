"""Results of long work that are kept as JSON lines, so that a run goes on where it was stopped."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hyperseek._files import writing
from hyperseek.data.reading import ErrorReport, Faults, json_lines

logger = logging.getLogger(__name__)


class Kept:
    """A table of results by key; each is on disk as soon as it is put.

    A line that a kill has torn, or that is not what it should be, is left out, and so is made again.

    Args:
        path: The file; None keeps results in memory only.
        check: Whether a line can be used.
    """

    def __init__(self, path: Path | None, check: Callable[[Mapping[str, Any]], bool]) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._lines: dict[str, dict[str, Any]] = {}
        if path is None:
            return
        if path.exists():
            report = ErrorReport()
            unusable = 0
            for _, line in json_lines(path, Faults("skip", report)):
                if isinstance(line.get("key"), str) and check(line):
                    self._lines[line["key"]] = dict(line)
                else:
                    unusable += 1
            if unusable + report.total:
                lines = unusable + report.total
                logger.warning("%s has %d damaged line%s; asking again", path, lines, "s" * (lines > 1))
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and _is_torn(path):
                with path.open("ab") as file:
                    file.write(b"\n")

    def __len__(self) -> int:
        return len(self._lines)

    def get(self, key: str) -> Mapping[str, Any] | None:
        """Return what was put under a key, or None."""
        return self._lines.get(key)

    def put(self, key: str, values: Mapping[str, Any]) -> None:
        """Keep plain values under a key."""
        line = {"key": key, **values}
        with self._lock:
            self._lines[key] = line
            if self._path is not None:
                with writing(self._path), self._path.open("ab") as file:
                    file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


def _is_torn(path: Path) -> bool:
    with path.open("rb") as file:
        if not file.seek(0, 2):
            return False
        file.seek(-1, 2)
        return file.read() != b"\n"
