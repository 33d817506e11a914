"""Measuring what engine settings cost and find, and keeping the cheapest that finds enough."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hyperseek._long_work import progress
from hyperseek.errors import InputError
from hyperseek.plan import Exhaustive, OpenIndex, Plan, Search, StageReport, as_plan
from hyperseek.plan.stages import plan_key
from hyperseek.scoring import Scorer
from hyperseek.store.attachments import Attachments, TunedPlan
from hyperseek.store.lance import writer_lock
from hyperseek.types import NO_OPTIONS, QueryOptions

_QUERIES_TIMED_ALONE = 20


@dataclass(frozen=True, slots=True)
class Measured:
    """What one plan cost and found.

    Attributes:
        plan: The plan.
        recall: Share of the true best `k` documents that it found, in [0, 1].
        milliseconds: A query, all queries together.
        single_milliseconds: A query, searched alone: the median of some.
    """

    plan: Plan
    recall: float
    milliseconds: float
    single_milliseconds: float

    @property
    def title(self) -> str:
        """The plan in a few words."""
        words = []
        for stage in self.plan.stages:
            values = stage.model_dump(mode="json", exclude_defaults=True, exclude={"kind"})
            details = ", ".join(f"{name}={_short(value)}" for name, value in values.items())
            words.append(f"{stage.title}({details})")
        return " > ".join(words)


@dataclass(frozen=True, slots=True)
class Tuning:
    """All plans that were measured, and the one that was chosen.

    Attributes:
        kind: Of the scorer.
        k: Documents a query.
        wanted: Recall that was asked for.
        queries: How many there were.
        measured: All plans, the exhaustive one first.
        chosen: The cheapest that meets the recall: the exhaustive one if no other does.
        options: That the queries were compiled with.
    """

    kind: str
    k: int
    wanted: float
    queries: int
    measured: tuple[Measured, ...]
    chosen: Measured
    options: QueryOptions = NO_OPTIONS

    def save(self, folder: Path) -> None:
        """Write the chosen plan into an index: from now on `engine="auto"` searches by it with such scorers."""
        kept = TunedPlan(
            plan=self.chosen.plan.model_dump(mode="json", exclude_defaults=False),
            k=self.k,
            recall=self.chosen.recall,
            queries=self.queries,
            milliseconds=self.chosen.milliseconds,
        )
        with writer_lock(folder):
            attachments = Attachments.read(folder)
            plans = {**attachments.plans, plan_key(self.kind, self.options): kept}
            attachments.model_copy(update={"plans": plans}).write(folder)


def tune(
    ground: OpenIndex,
    scorers: Sequence[Scorer],
    texts: Sequence[str] | None,
    *,
    k: int,
    recall: float,
    engine: str | None = None,
) -> Tuning:
    """Measure the engines and graphs of an index on some queries.

    Args:
        ground: The index.
        scorers: Compiled queries, in groups of one kind, at least one.
        texts: Their texts; None leaves out what reads them.
        k: Documents a query, at least 1.
        recall: What the chosen plan must reach, in (0, 1].
        engine: Try this engine or graph alone; None for all.

    Returns:
        What was measured.

    Raises:
        InputError: The index has nothing to try.
        UnknownNameError: There is no such engine.
    """
    items = [ground.attachments.get(engine)] if engine else ground.attachments.items
    if not items:
        raise InputError(f"the index {ground.folder} has no engine to tune; build one: index.engines.build()")
    ground.snapshot.load()
    searches = list(_searches(ground, scorers, texts, k))
    measured = [_measure(Plan(stages=(Exhaustive(),)), searches)]
    with progress("measuring", None, unit="plans") as bar:
        for item in items:
            structure = ground.attached(item.name).structure
            for family in structure.trials(item.name, scorers[0], k=k, count=item.count):
                for stages in family:
                    measured.append(_measure(as_plan(stages), searches))
                    bar.advance(1)
                    if measured[-1].recall >= recall:
                        break  # more candidates of the same cost more and find no less
    enough = [one for one in measured if one.recall >= recall]
    chosen = min(enough, key=lambda one: one.milliseconds)
    queries, options = sum(map(len, scorers)), scorers[0].options
    return Tuning(scorers[0].kind, k, recall, queries, tuple(measured), chosen, options)


def _searches(ground: OpenIndex, scorers: Iterable[Scorer], texts: Sequence[str] | None, k: int) -> Iterator[Search]:
    done = 0
    for scorer in scorers:
        own = None if texts is None else texts[done : done + len(scorer)]
        yield Search(ground, scorer, own, None, k)
        done += len(scorer)


def _measure(plan: Plan, searches: Sequence[Search]) -> Measured:
    plan.run(searches[0])  # what is made once, as landmarks, is not a query's cost
    for search in searches:
        search.truth()  # nor is what it is measured by
    reports: list[StageReport] = []
    start = time.perf_counter()
    for search in searches:
        plan.run(search, reports=reports, measure=True)
    total = time.perf_counter() - start
    queries = sum(len(search.scorer) for search in searches)
    return Measured(plan, reports[-1].recall or 0.0, 1000 * total / queries, _single(plan, searches))


def _single(plan: Plan, searches: Sequence[Search]) -> float:
    times: list[float] = []
    for search in searches:
        for query in range(len(search.scorer)):
            if len(times) == _QUERIES_TIMED_ALONE:
                break
            own = None if search.texts is None else search.texts[query : query + 1]
            alone = Search(search.index, search.scorer[query : query + 1], own, None, search.k)
            start = time.perf_counter()
            plan.run(alone)
            times.append(time.perf_counter() - start)
    return 1000 * float(torch.tensor(times).median())


def _short(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}={_short(part)}" for name, part in value.items() if name != "kind") + "}"
    return str(value)
