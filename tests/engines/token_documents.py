"""Documents of token vectors as structures of an index see them, and what structures are asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from hyperseek.engines import CandidateRequest
from hyperseek.scoring import Points, Space, TokenPoints


@dataclass
class Collection:
    """Documents of an index; reading is interrupted after `stop_after` chunks."""

    points: TokenPoints
    space: Space = None  # type: ignore[assignment]  # that of the points
    chunk_rows: int = 16
    stop_after: int | None = None

    def __post_init__(self) -> None:
        self.space = self.space or Space("tokens", self.points.dimension)

    def __len__(self) -> int:
        return len(self.points)

    @property
    def ids(self) -> Any:
        return pa.array([f"d{place}" for place in range(len(self))])

    def chunks(self, rows: int) -> Iterator[Points]:
        step = min(rows, self.chunk_rows)
        for number, start in enumerate(range(0, len(self), step)):
            if number == self.stop_after:
                raise KeyboardInterrupt
            yield self.points[start : start + step]

    def texts(self) -> Iterator[str]:
        yield from ()


def request(scorer: Any, points: TokenPoints, n: int, allowed: Any = None) -> CandidateRequest:
    """Return a request for `n` candidates of each query."""
    return CandidateRequest("tokens", scorer, n, 3, allowed, points, lambda places: places.float())
