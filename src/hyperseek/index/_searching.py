"""One search from queries to hits: choosing a plan, running it group by group, leaving out what is excluded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from hyperseek._errors import InputError
from hyperseek._progress import progress
from hyperseek.index._results import collect_hits
from hyperseek.plan import Candidates, Engine, Ground, Plan, Rescore, Scan, Search, StageReport, Surrogate
from hyperseek.plan._engine import SCAN, can_search, can_search_linear
from hyperseek.records import Hit
from hyperseek.scoring import Scorer

EXACT = "exact"
"""Name that asks for the exhaustive search."""

AUTO = "auto"
"""Name that leaves the choice to the index."""

# A scan of fewer documents takes less time than an engine and the rescoring of its candidates.
_FEW = 20_000
# Candidates of an engine for each document that is wanted, and at least.
_CANDIDATES = 10
_LEAST_CANDIDATES = 300

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Explanation:
    """What a search did, for people.

    Attributes:
        plan: What was run.
        reason: Why.
        stages: What each stage did, over all queries.
        documents: In the index.
    """

    plan: Plan
    reason: str
    documents: int
    stages: list[StageReport] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Return a line a stage: milliseconds and candidates a query, and recall where it was measured."""
        yield f"{self.documents:,} documents; {self.reason}"
        for stage in self.stages:
            queries = max(1, stage.queries)
            line = (
                f"{stage.title}: {1000 * stage.seconds / queries:.2f} ms, {stage.candidates / queries:.0f} candidates"
            )
            if stage.recall is not None:
                line += f", recall {stage.recall:.4f}"
            notes = ", ".join(f"{name} {value:,.0f}" for name, value in stage.notes.items())
            yield f"{line} ({notes})" if notes else line


@dataclass(frozen=True)
class Request:
    """What to search for.

    Attributes:
        queries: Texts, or compiled queries.
        k: Documents of each.
        texts: Of compiled queries, for stages that read them.
        exclude: For each query the id of a document to leave out, or None.
        engine: `AUTO`, `EXACT`, or the name of an engine.
        plan: What to run instead.
        where: SQL that documents must meet.
        measure: Whether to search exhaustively too, and report each stage's recall.
    """

    queries: Sequence[str] | Scorer
    k: int
    texts: Sequence[str] | None = None
    exclude: Sequence[str | None] | None = None
    engine: str = AUTO
    plan: Plan | None = None
    where: str | None = None
    measure: bool = False

    def check(self) -> None:
        """Raise InputError where the parts do not fit together."""
        if self.k < 1:
            raise InputError(f"k must be at least 1, not {self.k}")
        for name, given in (("exclusions", self.exclude), ("texts", self.texts)):
            if given is not None and len(given) != len(self.queries):
                raise InputError(f"there are {len(self.queries)} queries and {len(given)} {name}; give one each")


def find(
    ground: Ground,
    request: Request,
    groups: Callable[[Sequence[str]], Iterable[Scorer]],
    *,
    explanation: list[Explanation] | None = None,
) -> Iterator[Candidates]:
    """Search, a group of queries at a time.

    Args:
        ground: The index.
        request: What to search for.
        groups: Compiles texts to scorers of successive queries.
        explanation: An empty list, to which what was done is added.

    Yields:
        The best documents of successive queries.
    """
    request.check()
    unwanted = None if request.exclude is None else torch.from_numpy(ground.snapshot.rows_of_ids(request.exclude))
    k = request.k if unwanted is None else request.k + 1
    scorers: Iterable[Scorer] = (
        ([request.queries] if len(request.queries) else [])
        if isinstance(request.queries, Scorer)
        else groups(request.queries)
    )
    asked = request.texts if isinstance(request.queries, Scorer) else request.queries
    done = 0
    told: Explanation | None = None
    with progress("searching", len(request.queries), unit="queries") as bar:
        for scorer in scorers:
            check_scorer(ground, scorer)
            if told is None:
                plan, reason = choose_plan(ground, scorer, request, k)
                told = Explanation(plan, reason, len(ground.snapshot))
                if explanation is not None:
                    explanation.append(told)
            texts = None if asked is None else asked[done : done + len(scorer)]
            search = Search(ground, scorer, texts, request.where, k)
            ground.snapshot.load()
            truth = search.scan(scorer, k=k) if request.measure else None
            reports = None if explanation is None else told.stages
            found = told.plan.run(search, reports=reports, truth=truth)
            if unwanted is not None:
                found = found.without(unwanted[done : done + len(scorer)]).first(request.k)
            yield found
            done += len(scorer)
            bar.advance(len(scorer))


def choose_plan(ground: Ground, scorer: Scorer, request: Request, k: int) -> tuple[Plan, str]:
    """Return the plan of a search, and why it is this one.

    Args:
        ground: The index.
        scorer: Its queries, or some of them.
        request: What to search for.
        k: Documents of each query.

    Returns:
        The plan and a reason for people.

    Raises:
        UnknownNameError: The request names an engine that the index has not.
    """
    if request.plan is not None:
        return request.plan, "the plan that was given"
    if request.engine == EXACT:
        return Plan(stages=(Scan(),)), "every document is scored, as was asked"
    count, newest = len(ground.snapshot), ground.newest("engine")
    if request.engine == AUTO:
        tuned = ground.attachments.plans.get(scorer.kind)
        if tuned is not None and k <= tuned["k"]:
            return Plan.from_mapping(tuned["plan"]), (
                f"the plan tuned on this index for {scorer.kind} scorers: recall@{tuned['k']} {tuned['recall']:.4f} "
                f"on {tuned['queries']} queries"
            )
        if newest is None:
            return Plan(stages=(Scan(),)), "every document is scored, since the index has no engine"
        if count < _FEW:
            return Plan(stages=(Scan(),)), f"every document is scored, which is fast for fewer than {_FEW:,}"
    name = newest.name if request.engine == AUTO and newest is not None else request.engine
    attached = ground.attached(name, "engine")
    n = max(_LEAST_CANDIDATES, _CANDIDATES * k)
    nonlinear = f"a {scorer.kind!r} scorer is not linear"
    source: Engine | Surrogate
    if can_search(attached, scorer):
        source, reason = Engine(n=n, name=name), f"candidates from {name!r}, which can search by this scorer"
    elif can_search_linear(attached):
        source = Surrogate(n=n, engine=name)
        reason = f"candidates from {name!r} by a linear surrogate, since {nonlinear}"
    else:
        source = Surrogate(n=n, engine=SCAN)
        reason = f"candidates from a scan by a linear surrogate, since {nonlinear} and {name!r} has no chart for those"
    return source >> Rescore(), f"{reason}; scored exactly"


def hits_of(ground: Ground, found: Iterable[Candidates], *, texts: bool) -> Iterator[list[Hit]]:
    """Turn candidates into hits."""
    for part in found:
        yield from collect_hits(ground.snapshot.store, ground.snapshot.ids, part.scores, part.rows, texts=texts)


def check_scorer(ground: Ground, scorer: Scorer) -> None:
    """Raise InputError where a scorer is for points of another width than the index has."""
    space = ground.snapshot.space
    if scorer.space.width != space.width:
        raise InputError(
            f"the queries are for points of {scorer.space.dimension} dimensions and the index has {space.dimension}; "
            f"use the model of the index"
        )
