"""Scans of curved spaces by matrix products: these rule out nearly all documents, and exact scores decide on the rest.

A product of float32 features loses the order of near documents, most of all far from the origin. But its rounding error
has a proven bound, so that products bound scores from above; where the bounds do not tell enough documents apart, every
document is scored.

Shapes: `Q` queries, `N` documents, `f` features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hyperseek._machine import run_on_cores
from hyperseek._order import best_columns, best_positions
from hyperseek.plan.exhaustive import ROUNDING, exact_scores
from hyperseek.scoring import Chart, Scorer, VectorPoints, vectors_of
from hyperseek.store.snapshot import Snapshot

# Queries of a group, and bounds that are computed at a time: they stay in a core's cache.
_QUERIES = 32
_BOUNDS = 1 << 20
# How many more than k are scored exactly at first.
_SPARE = 16
# Documents whose features are computed at a time.
_LIFTED = 8192
# Norms of features up to which products are finite, and bounds of any use.
_LONGEST = 1e15
# Roundings of a feature, in units of the last place: its radius, of at most 35, and the functions of it.
_OPERATIONS = 64
# Relative rounding of exact scores, with room.
_EXACT = 2.0**-16


def product_scan(
    snapshot: Snapshot, scorer: Scorer, *, k: int, otherwise: Callable[[Scorer], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor] | None:
    """Find the best `k` documents of every query.

    Args:
        snapshot: The documents, in memory.
        scorer: `Q` compiled queries, `Q` at least 1.
        k: At least 1.
        otherwise: Does the same by scoring every document.

    Returns:
        Scores and rows `(Q, min(k, N))` as `wide_scan` returns them; None where products do not tell scores, or there
        is no room in memory for features.
    """
    geometry, kept = scorer.space.geometry, k + max(_SPARE, k // 8)
    if not scorer.points or scorer.device.type != "cpu" or kept >= len(snapshot):
        return None
    if geometry.product_of(torch.zeros(1, dtype=torch.float64)) is None:
        return None
    chart = scorer.space.chart("inner_product", **scorer.chart_parameters)
    if (lifted := scorer.lift(chart)) is None:
        return None
    count, width = len(snapshot), lifted.shape[1] + 1
    key = ("features", chart.name, tuple(chart.parameters.items()))
    with torch.inference_mode():
        features = snapshot.beside(key, lambda: _features(snapshot, chart, width), size=4 * width * count)
        if features is None or not len(features) or not (_norms(lifted) <= _LONGEST).all():
            return None
        # The bound of a product's rounding is an additional feature. Any order of summing f products of rounded numbers
        # errs by less than this times both norms (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1),
        # and features have errors of their own, which grow with the radius.
        unit = (width + _OPERATIONS) * 2.0**-24 + 2 * ROUNDING[torch.get_float32_matmul_precision()]
        queries = torch.cat([lifted, unit * _norms(lifted)[:, None]], dim=1)
        least, rows = _highest(queries, features, kept)
        best, found = best_positions(exact_scores(snapshot, scorer, rows), rows, k)
        reached = best[:, -1].double()
        products = geometry.product_of(reached - _EXACT * (1 + reached.abs()))
        assert products is not None
        # Unchosen documents have at most the bound of the last chosen one.
        unsure = (~(least.double() < products)).nonzero()[:, 0]
    best, found = best.clone(), found.clone()
    if len(unsure):
        best[unsure], found[unsure] = otherwise(scorer[unsure])
    return best, found


def _features(snapshot: Snapshot, chart: Chart, width: int) -> Tensor:
    """Return the features of all documents, each followed by its norm; none at all if a document is too far out."""
    features = torch.empty(len(snapshot), width)
    start = 0
    for chunk in snapshot.chunks(_LIFTED):
        lifted = chart.lift_documents(VectorPoints(vectors_of(chunk).double()))
        norms = _norms(lifted)
        if not (norms <= _LONGEST).all():
            return features[:0].clone()
        part = features[start : start + len(lifted)]
        part[:, :-1], part[:, -1] = lifted, norms
        start += len(lifted)
    return features


def _norms(features: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(features, dim=1)
    return norms


def _highest(queries: Tensor, features: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """Return each query's `kept` highest bounds: the lowest of them `(Q,)`, and their rows `(Q, kept)`."""
    least, rows = torch.empty(len(queries)), torch.empty(len(queries), kept, dtype=torch.int64)
    groups = [slice(start, start + _QUERIES) for start in range(0, len(queries), _QUERIES)]
    pending = iter(groups)

    def work() -> None:
        for group in pending:
            own = queries[group]
            bounds, places = torch.empty(len(own), 0), torch.empty(len(own), 0, dtype=torch.int64)
            size = max(kept, _BOUNDS // len(own))
            for start in range(0, len(features), size):
                part = features[start : start + size]
                top, columns = best_columns(own @ part.T if len(own) > 1 else (part @ own[0])[None], kept)
                joined, both = torch.cat([bounds, top], dim=1), torch.cat([places, columns + start], dim=1)
                bounds, order = best_columns(joined, kept)
                places = both.gather(1, order)
            least[group], rows[group] = bounds[:, -1], places

    run_on_cores(work, at_most=len(groups))
    return least, rows
