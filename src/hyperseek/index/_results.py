"""From rows and scores to hits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from hyperseek.records import Document, Hit
from hyperseek.store._store import Store


def collect_hits(store: Store, ids: Any, scores: Tensor, rows: Tensor, *, texts: bool) -> list[list[Hit]]:
    """Turn what a scan found into hits; each document is read once, however many queries found it.

    Args:
        store: Where the documents are.
        ids: All ids, as `Store.ids` returns them.
        scores: `(Q, k)`, best first.
        rows: `(Q, k)`; below 0 where there is nothing.
        texts: Whether the hits carry their documents.

    Returns:
        The hits of each query.
    """
    found = np.unique(rows[rows >= 0].numpy())  # sorted
    names = ids.take(pa.array(found)).to_pylist()
    documents: list[Document | None] = [*store.take(found.tolist())] if texts else [None] * len(names)
    places = np.searchsorted(found, rows.numpy()).tolist()
    return [
        [
            Hit(names[place], score + 0.0, rank, documents[place])  # 0.0, not -0.0
            for rank, (score, place, row) in enumerate(zip(*query, strict=True), 1)
            if row >= 0
        ]
        for query in zip(scores.tolist(), places, rows.tolist(), strict=True)
    ]
