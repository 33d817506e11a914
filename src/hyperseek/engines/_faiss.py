"""What the engines that stand on faiss share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperseek._errors import require
from hyperseek._threads import one_core
from hyperseek.scoring._geometries import Metric


def load_faiss() -> Any:
    """Import faiss, and let it use as many threads as torch does."""
    faiss = require("faiss", extra="faiss")
    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss


def faiss_metric(faiss: Any, metric: Metric) -> int:
    """Return faiss's number of a metric."""
    return int(faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT)


def selector(faiss: Any, allowed: NDArray[np.bool_]) -> Any:
    """Return faiss's form of a mask, which it asks during the search."""
    return faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))


def results(scores: NDArray[np.float32], positions: NDArray[np.int64], metric: Metric) -> tuple[Tensor, Tensor]:
    """Return faiss's results as scores, of which higher ones are better, and positions."""
    values = torch.from_numpy(scores)
    if metric == "l2":
        with one_core():
            values = values.clamp_min(0).sqrt().neg()  # faiss gives squares
    return values, torch.from_numpy(positions)
