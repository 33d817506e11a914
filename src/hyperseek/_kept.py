"""A least-recently-used cache: values are computed once for many threads, and it is safe across a fork."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

T = TypeVar("T")

_all: weakref.WeakSet[Kept] = weakref.WeakSet()


@dataclass(eq=False, slots=True)
class _Entry:
    lock: threading.RLock = field(default_factory=threading.RLock)
    made: bool = False
    value: Any = None
    bytes: int = 0


class Kept:
    """Values by key, each computed by the first caller while other callers wait.

    Args:
        most_bytes: Limit on all values together, beyond which the least recently used are dropped; None for no limit.
        least: Number of most recently used values that are kept whatever their size.
    """

    def __init__(self, *, most_bytes: int | None = None, least: int = 1) -> None:
        self._most_bytes = most_bytes
        self._least = least
        self._entries: dict[Hashable, _Entry] = {}
        self._lock = threading.Lock()
        _all.add(self)

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable, make: Callable[[], T], *, size: Callable[[T], int] | None = None) -> T:
        """Return the value of a key, making it if it is not there.

        Args:
            key: Any hashable value.
            make: Makes the value; if it raises, the error is passed on and nothing is kept.
            size: Returns the bytes of a value; None counts 0.

        Returns:
            The value.
        """
        with self._lock:
            entry = self._entries.pop(key, None) or _Entry()
            self._entries[key] = entry  # the last one is the one used last
        with entry.lock:  # held for long only while the value is being made
            if not entry.made:
                try:
                    entry.value = make()
                except BaseException:
                    self._drop(key, entry)
                    raise
                entry.bytes = 0 if size is None else size(entry.value)
                entry.made = True
                self._shrink()
        return cast("T", entry.value)

    def forget(self, unwanted: Callable[[Any], bool]) -> None:
        """Drop the values of all keys for which a function is true."""
        with self._lock:
            self._entries = {key: entry for key, entry in self._entries.items() if not unwanted(key)}

    def _drop(self, key: Hashable, entry: _Entry) -> None:
        with self._lock:
            if self._entries.get(key) is entry:
                del self._entries[key]

    def _shrink(self) -> None:
        if self._most_bytes is None:
            return
        with self._lock:
            total = sum(entry.bytes for entry in self._entries.values())
            for key in list(self._entries)[: -self._least]:
                if total <= self._most_bytes:
                    break
                total -= self._entries.pop(key).bytes

    def _after_fork(self) -> None:
        """Replace the locks in a forked child: those held by other threads of the parent are never released here."""
        self._lock = threading.Lock()
        self._entries = {key: entry for key, entry in self._entries.items() if entry.made}
        for entry in self._entries.values():
            entry.lock = threading.RLock()


def _renew_all() -> None:
    for kept in list(_all):
        kept._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
