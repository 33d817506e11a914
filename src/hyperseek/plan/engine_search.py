"""Asking a vector engine: lift the queries, unite the charts' candidates, add documents it does not know."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hyperseek._machine import one_core
from hyperseek.engines import Engine as VectorEngine
from hyperseek.errors import InputError
from hyperseek.plan._context import NOTHING, Candidates, Search, union
from hyperseek.plan.rescoring import exact_scores
from hyperseek.scoring import Scorer, SurrogateScorer
from hyperseek.store.attachments import Attached

SCAN = "scan"
"""Name that stands for no engine: score all documents."""


def search_linear(search: Search, scorer: Scorer, *, n: int, engine: str | None, effort: int | None) -> Candidates:
    """Find candidates by a scorer that engines can search by.

    Args:
        search: The search.
        scorer: What to search by; its queries are those of the search.
        n: Candidates of each query.
        engine: Name of an engine; None for the newest, or a scan where there is none or it has no chart for such a
            scorer; `SCAN` for a scan.
        effort: How thoroughly the engine searches; None for what it was built with.

    Returns:
        The candidates.
    """
    if engine is None:
        newest = search.ground.newest("engine")
        usable = newest is not None and can_search(search.ground.attached(newest.name, "engine"), scorer)
        engine = newest.name if newest is not None and usable else SCAN
    if engine == SCAN:
        return search.scan(scorer, k=n)
    return search_engine(search, scorer, n=n, name=engine, effort=effort)


def can_search(attached: Attached, scorer: Scorer) -> bool:
    """Whether an engine has a chart that it can be searched on by these queries."""
    return any(scorer[:1].lift(chart) is not None for chart, _ in attached.engines)


def can_search_linear(attached: Attached) -> bool:
    """Whether an engine has a chart for functions that are linear in the features, as surrogates are."""
    return any(chart.lift_weights is not None for chart, _ in attached.engines)


def search_engine(search: Search, scorer: Scorer, *, n: int, name: str | None, effort: int | None) -> Candidates:
    """Find candidates with an engine of the index.

    Args:
        search: The search.
        scorer: What to search by; its queries are those of the search.
        n: Candidates of each query and chart.
        name: Of the engine; None for the newest.
        effort: How thoroughly it searches; None for what it was built with.

    Returns:
        The united candidates. Charts that bend distances are asked twice: around the queries, and then around the balls
        that hold the best `search.k` so far. Scores are the engine's where it has one chart, was asked once, and knows
        all documents. Else they say who came first and no more, since charts and scans do not share a scale.

    Raises:
        InputError: The index has no engine, or none of the engine's charts can be searched by this scorer.
    """
    attached = search.ground.attached(name, "engine")
    rows, allowed = positions(search, attached)

    def ask(engine: VectorEngine, queries: Tensor) -> Candidates:
        lifted = queries.detach().float().cpu()
        scores, places = engine.search(lifted, k=n, effort=effort, allowed=allowed)
        with one_core():
            return Candidates(rows_at(rows, places), scores)

    with one_core():
        lifts = [(engine, scorer.lift(chart)) for chart, engine in attached.engines]
    parts = [ask(engine, queries) for engine, queries in lifts if queries is not None]
    if not parts:
        raise InputError(f"the engine {attached.record.name!r} cannot be searched {_why_not(scorer)}")
    if scorer.linear() is not None and any(chart.lift_within for chart, _ in attached.engines):
        with one_core():
            least = _score_to_reach(search, scorer, parts, min(search.k, n))
            again = [(engine, scorer.lift_within(chart, least)) for chart, engine in attached.engines]
        parts += [ask(engine, queries) for engine, queries in again if queries is not None]
    if len(unknown := unknown_rows(search, attached)):
        parts.append(search.scan(scorer, k=n, rows=unknown))
    with one_core():
        return parts[0] if len(parts) == 1 else union([_by_rank(part) for part in parts])


def positions(search: Search, attached: Attached) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_] | None]:
    """Return the row of each position of an attachment, and which positions may be found; None for all."""
    rows = attached.rows
    allowed = rows >= 0
    if search.allowed is not None:
        allowed[allowed] = search.allowed[rows[allowed]]
    return rows, None if allowed.all() else allowed


def unknown_rows(search: Search, attached: Attached) -> npt.NDArray[np.int64]:
    """Return the rows, of those that may be found, of documents that an attachment does not know."""
    unknown = attached.unknown
    if search.allowed is not None:
        unknown = unknown[search.allowed[unknown]]
    if len(unknown):
        search.notes[f"unknown to {attached.record.name!r}"] = len(unknown)
    return unknown


def rows_at(rows: npt.NDArray[np.int64], places: Tensor) -> Tensor:
    """Return the rows of `(Q, n)` positions; `NOTHING` stays."""
    if not len(rows):
        return places
    return torch.where(places == NOTHING, NOTHING, torch.from_numpy(rows)[places.clamp_min(0)])


def _score_to_reach(search: Search, scorer: Scorer, parts: list[Candidates], k: int) -> Tensor:
    """Return the score of each query's `k`-th best document so far; better ones lie within the ball that it spans."""
    found = union([_by_rank(part) for part in parts])
    scores = exact_scores(search.snapshot, scorer, found.rows)
    if scores.shape[1] < k:
        return torch.full((len(scores),), -torch.inf)
    return scores.topk(k, dim=1).values[:, -1]


def _why_not(scorer: Scorer) -> str:
    if isinstance(scorer, SurrogateScorer):
        return "by a surrogate on its charts; build one on the 'inner_product' or 'balanced' chart, or name 'scan'"
    return f"by a {scorer.kind!r} scorer, which is not linear; use a surrogate stage"


def _by_rank(part: Candidates) -> Candidates:
    """Replace scores by ones that fall with the rank, so that lists of unlike scales take turns."""
    ranks = torch.arange(part.rows.shape[1], dtype=torch.float32).expand(part.rows.shape)
    return Candidates(part.rows, (-ranks).masked_fill(part.rows == NOTHING, -torch.inf))
