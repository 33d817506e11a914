"""Documents that the caller chooses by id, instead of searching for them.

Shapes: `Q` queries, `n` documents of a query at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from hyperseek._errors import InputError
from hyperseek.index._searching import check_scorer
from hyperseek.plan import NOTHING, Ground
from hyperseek.plan._scores import exact_scores
from hyperseek.records import Document
from hyperseek.scoring import Scorer
from hyperseek.store._snapshot import Snapshot


def documents_by_id(snapshot: Snapshot, ids: Sequence[str]) -> dict[str, Document]:
    """Return stored documents by id; those that are not stored are missing."""
    distinct = list(dict.fromkeys(ids))
    rows = snapshot.rows_of_ids(distinct)
    wanted, places = np.unique(rows[rows >= 0], return_inverse=True)
    documents = snapshot.store.take(wanted.tolist())
    stored = [identity for identity, row in zip(distinct, rows, strict=True) if row >= 0]
    return {identity: documents[place] for identity, place in zip(stored, places, strict=True)}


def score_chosen(ground: Ground, scorers: Iterable[Scorer], ids: Sequence[Sequence[str]]) -> list[list[float]]:
    """Score documents, each by the query it is listed for.

    Args:
        ground: The index.
        scorers: Compiled queries, in successive groups.
        ids: For each query the ids of its documents.

    Returns:
        For each query its documents' scores.

    Raises:
        InputError: An id is not stored, or a scorer is for points of another width.
    """
    snapshot = ground.snapshot
    snapshot.load()
    flat = [identity for own in ids for identity in own]
    found = snapshot.rows_of_ids(flat)
    if (found < 0).any():
        raise InputError(f"the index {ground.folder} holds no document {flat[int((found < 0).argmax())]!r}")
    scores: list[list[float]] = []
    used = 0
    for scorer in scorers:
        check_scorer(ground, scorer)
        lists = ids[len(scores) : len(scores) + len(scorer)]
        rows = torch.full((len(lists), max(1, *map(len, lists))), NOTHING)
        for line, own in zip(rows, lists, strict=True):
            line[: len(own)] = torch.from_numpy(found[used : used + len(own)])
            used += len(own)
        part = exact_scores(snapshot, scorer, rows).tolist()
        scores += [line[: len(own)] for line, own in zip(part, lists, strict=True)]
    return scores
