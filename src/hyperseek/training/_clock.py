"""How much time training has used."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal


class Clock:
    """A stopwatch that can be paused and goes on from an earlier run's reading.

    Args:
        kind: `wall` time, or `cpu` time of this process over all its threads.
    """

    def __init__(self, kind: Literal["wall", "cpu"] = "wall") -> None:
        self._now = time.perf_counter if kind == "wall" else time.process_time
        self._before = 0.0
        self._start: float | None = None

    @property
    def seconds(self) -> float:
        """Time used so far, in seconds, pauses left out."""
        return self._before + (0.0 if self._start is None else self._now() - self._start)

    def set(self, seconds: float) -> None:
        """Stop at a given reading, that of an earlier run."""
        self._before, self._start = seconds, None

    def start(self) -> None:
        """Go on from the present reading."""
        self._before, self._start = self.seconds, self._now()

    def stop(self) -> None:
        """Stop at the present reading."""
        self.set(self.seconds)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of the block out."""
        running = self._start is not None
        self.stop()
        try:
            yield
        finally:
            if running:
                self.start()
