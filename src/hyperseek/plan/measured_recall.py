"""What a structure of an index finds of the exact best, measured with documents as queries."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from hyperseek._long_work import progress
from hyperseek.engines.recall import RECALL_K, RECALL_QUERIES, Recall, as_queries, draw_documents
from hyperseek.plan._open_index import Candidates, OpenIndex, Search
from hyperseek.plan.exhaustive import wide_scan
from hyperseek.plan.stages import choose_plan
from hyperseek.scoring import Points


def measured_recall(opened: OpenIndex, name: str) -> Recall | None:
    """Measure what a structure finds by the plan that searches it unless told otherwise.

    Args:
        opened: The index. All its points are read once, a chunk at a time.
        name: Of the structure.

    Returns:
        The recall; None where fewer than two documents can serve as queries.
    """
    attached = opened.attached(name)
    count = len(opened.snapshot)
    if (own := attached.structure.recall) is not None:
        return Recall(share=own, k=RECALL_K, queries=min(RECALL_QUERIES, count), documents=count)
    rows = draw_documents(count)
    points = opened.snapshot.points(rows)
    usable = points.lengths.nonzero()[:, 0]  # a document without tokens is no query
    rows, points = rows[usable], points[usable]
    if count < 2 or not len(rows):
        return None
    scorer = as_queries(opened.snapshot.space, points)
    k = min(RECALL_K, count - 1) + 1
    scores, best = wide_scan(scorer, _reported(opened), k=k)
    truth = Candidates(best, scores).without(rows).first(k - 1)
    # The plan is that of a search that wants as many.
    search = Search(opened, scorer, None, None, k)
    found = choose_plan(opened, scorer, name, k - 1)[0].run(search).without(rows)
    hits = (truth.rows[:, :, None] == found.rows[:, None]).any(dim=2) & (truth.rows >= 0)
    return Recall(share=float(hits.sum() / (truth.rows >= 0).sum()), k=k - 1, queries=len(rows), documents=count)


def _reported(opened: OpenIndex) -> Iterator[Points]:
    snapshot = opened.snapshot
    with progress("measuring recall", len(snapshot), unit="documents") as bar, torch.no_grad():
        for chunk in snapshot.chunks(snapshot.chunk_rows):
            yield chunk
            bar.advance(len(chunk))
