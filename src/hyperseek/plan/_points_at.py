"""Points by the positions of a graph that was built on an earlier version of the index."""

from __future__ import annotations

from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hyperseek.scoring import Points
from hyperseek.store._snapshot import Snapshot


class _PointsAt:
    """What graph search needs of points, read when it is needed."""

    def __init__(self, snapshot: Snapshot, rows: npt.NDArray[np.int64]) -> None:
        self._snapshot = snapshot
        # A document that is gone is walked through as if it were another one; it is never returned.
        self._rows = torch.from_numpy(np.maximum(rows, 0))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: slice | Tensor) -> Points:
        return self._snapshot.points(self._rows[index])

    @property
    def dimension(self) -> int:
        return self._snapshot.space.width


def points_at(snapshot: Snapshot, rows: npt.NDArray[np.int64]) -> Points:
    """Return points by position.

    Args:
        snapshot: The documents.
        rows: The row of each position; below 0 for documents that are gone.

    Returns:
        Something that has a length and gives points by positions, as `Points` does.
    """
    snapshot.load()
    return cast("Points", _PointsAt(snapshot, rows))
