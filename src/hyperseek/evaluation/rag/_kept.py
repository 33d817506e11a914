"""Results of long work that are kept as JSON lines, so that a run goes on where it was stopped."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperseek._files import writing
from hyperseek.data.reading import ErrorReport, Faults, json_lines


class Kept:
    """A table of results by key; each is on disk as soon as it is put.

    A line that a kill has torn is left out, and so is made again.

    Args:
        path: The file; None keeps results in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._lines: dict[str, dict[str, Any]] = {}
        if path is None:
            return
        if path.exists():
            for _, line in json_lines(path, Faults("skip", ErrorReport())):
                if isinstance(line.get("key"), str):
                    self._lines[line["key"]] = dict(line)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size:
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
