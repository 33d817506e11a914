"""The structures of an index: built, listed, estimated, tuned and dropped. `index.engines` is one of these."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, Unpack

import torch

from hyperseek._long_work import progress, stop_here, stoppable
from hyperseek.engines import STRUCTURES, ChartRecord, StructureConfig, StructureEstimate, choose_engine
from hyperseek.engines.charts import widest_chart
from hyperseek.engines.structure import (
    RECALL_K,
    RECALL_QUERIES,
    Structure,
    parse_structure,
    recall_queries,
    recall_tokens,
)
from hyperseek.errors import HyperseekError, InputError
from hyperseek.index._arguments import (
    HABITS,
    NAMED,
    check_count,
    check_engine,
    check_options,
    check_queries,
    check_share,
    meant,
)
from hyperseek.index.reader import IndexReader
from hyperseek.plan import Candidates, Exhaustive, OpenIndex, Plan, Search, StageReport, as_plan
from hyperseek.plan.exhaustive import wide_scan
from hyperseek.plan.stages import choose_plan, plan_key
from hyperseek.scoring import MaxSimScorer, Points, Scorer, Space, TokenPoints, point_scorer
from hyperseek.store.attachments import Attachment, Attachments, Recall, TunedPlan, attach
from hyperseek.store.lance import writer_lock
from hyperseek.store.snapshot import Snapshot
from hyperseek.types import NO_OPTIONS, NamedOptions, QueryOptions

logger = logging.getLogger(__name__)

_QUERIES_TIMED_ALONE = 20

ChartLike: TypeAlias = ChartRecord | str | Mapping[str, Any]
"""A chart of an engine: its name, or its name and its parameters."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Recall and latency of one plan.

    Attributes:
        plan: The plan.
        recall: Fraction of the true best `k` documents that it found, in [0, 1].
        milliseconds: Time per query, with all queries together.
        single_milliseconds: Time per query searched alone: the median over some queries.
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
    """All measured plans, and the chosen one.

    Attributes:
        kind: Kind of the scorer.
        k: Documents per query.
        wanted: Requested recall.
        queries: Number of queries.
        measured: All plans, the exhaustive one first.
        chosen: The cheapest plan that reaches the recall: the exhaustive one if no other does.
        options: Options that the queries were compiled with.
    """

    kind: str
    k: int
    wanted: float
    queries: int
    measured: tuple[Measured, ...]
    chosen: Measured
    options: QueryOptions = NO_OPTIONS

    def save(self, folder: Path) -> None:
        """Write the chosen plan into an index: from then on `engine="auto"` uses it for such scorers."""
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


def _measured_recall(opened: OpenIndex, name: str) -> Recall | None:
    """Measure what a structure finds by the plan that searches it by default, with documents as queries.

    Args:
        opened: The index. All its points are read once, a chunk at a time.
        name: Of the structure.

    Returns:
        The recall; None where no document can serve as a query for others.
    """
    snapshot, structure = opened.snapshot, opened.attached(name).structure
    count = len(snapshot)
    if (own := structure.recall) is not None:
        return Recall(share=own, k=RECALL_K, queries=min(RECALL_QUERIES, count), documents=count)
    rows = recall_queries(count)
    points = snapshot.points(rows)
    usable = points.lengths.nonzero()[:, 0]  # a document without tokens is no query
    rows, points = rows[usable], points[usable]
    if count < 2 or not len(rows):
        return None
    scorer, k = _as_queries(snapshot.space, points, structure), min(RECALL_K, count - 1)

    def chunks() -> Iterator[Points]:
        with progress("measuring recall", count, unit="documents") as bar:
            for chunk in snapshot.chunks(snapshot.chunk_rows):
                stop_here()
                yield chunk
                bar.advance(len(chunk))

    # One more is wanted of each search than counts, since a document finds itself.
    scores, best = wide_scan(scorer, chunks(), k=k + 1)
    truth = Candidates(best, scores).without(rows[:, None]).first(k)
    plan, _ = choose_plan(opened, scorer, name, k)
    found = plan.run(Search(opened, scorer, None, None, k + 1)).without(rows[:, None])
    hits = (truth.rows[:, :, None] == found.rows[:, None]).any(dim=2)
    return Recall(share=float(hits.float().mean()), k=k, queries=len(rows), documents=count)


def _as_queries(space: Space, documents: Points, structure: Structure) -> Scorer:
    """Return documents as queries that a structure can search by: points, or some tokens of each."""
    if not space.ragged:
        points = point_scorer(space, documents.rows)
        asked = (points.asked_with(QueryOptions(level=level)) for level in range(space.levels, 0, -1))
        return next((one for one in asked if one is not None and structure.can_search(one)), points)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.split(documents.rows, documents.lengths.tolist())
    queries, mask = TokenPoints.from_documents([recall_tokens(own, generator) for own in tokens]).padded()
    return MaxSimScorer(space, queries, mask.float())


def _measured_plans(
    opened: OpenIndex,
    scorers: Sequence[Scorer],
    texts: Sequence[str] | None,
    *,
    k: int,
    recall: float,
    engine: str | None = None,
) -> Tuning:
    """Measure the engines and graphs of an index on some queries.

    Args:
        opened: The index.
        scorers: Compiled queries, in groups of one kind, at least one.
        texts: Their texts; None leaves out plans that read them.
        k: Documents per query, at least 1.
        recall: Recall that the chosen plan must reach, in (0, 1].
        engine: Try only this engine or graph; None for all.

    Returns:
        The measurements.

    Raises:
        InputError: The index has nothing to try.
        UnknownNameError: There is no such engine.
    """
    items = [opened.attachments.get(engine)] if engine else opened.attachments.items
    if not items:
        raise InputError(f"the index {opened.folder} has no engine to tune; build one: index.engines.build()")
    opened.snapshot.load()
    searches = list(_searches(opened, scorers, texts, k))
    measured = [_measure(Plan(stages=(Exhaustive(),)), searches)]
    with progress("measuring", None, unit="plans") as bar:
        for item in items:
            structure = opened.attached(item.name).structure
            for family in structure.trials(item.name, scorers[0], k=k, count=item.count):
                for stages in family:
                    measured.append(_measure(as_plan(stages), searches))
                    bar.advance(1)
                    if measured[-1].recall >= recall:
                        break  # more candidates of the same structure cost more and find no less
    enough = [one for one in measured if one.recall >= recall]
    chosen = min(enough, key=lambda one: one.milliseconds)
    queries, options = sum(map(len, scorers)), scorers[0].options
    return Tuning(scorers[0].kind, k, recall, queries, tuple(measured), chosen, options)


def _searches(opened: OpenIndex, scorers: Iterable[Scorer], texts: Sequence[str] | None, k: int) -> Iterator[Search]:
    done = 0
    for scorer in scorers:
        own = None if texts is None else texts[done : done + len(scorer)]
        yield Search(opened, scorer, own, None, k)
        done += len(scorer)


def _measure(plan: Plan, searches: Sequence[Search]) -> Measured:
    plan.run(searches[0])  # one-time work, such as landmarks, is not a query's cost
    for search in searches:
        search.truth()  # nor is the ground truth
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


class Engines:
    """The candidate structures of an index: engines and neighbour graphs, in the order in which they were built.

    Args:
        index: The index of the documents.
    """

    def __init__(self, index: IndexReader) -> None:
        self._index = index

    def __iter__(self) -> Iterator[Attachment]:
        return iter(self._index._opened.attachments.items)

    def __len__(self) -> int:
        return len(self._index._opened.attachments.items)

    def __getitem__(self, name: str) -> Attachment:
        return self._index._opened.attachments.get(name)

    def __repr__(self) -> str:
        return f"Engines({', '.join(f'{item.name}: {item.kind}' for item in self)})"

    @property
    def names(self) -> list[str]:
        """Names for `engine=` in searches."""
        return [item.name for item in self]

    @property
    def plans(self) -> dict[str, dict[str, Any]]:
        """Plans tuned on this index, by the kind of scorer and the options, as plain values."""
        tuned = self._index._opened.attachments.plans
        return {kind: plan.model_dump(mode="json") for kind, plan in tuned.items()}

    def choose(self, *, max_bytes: int | None = None) -> tuple[StructureConfig, str]:
        """Return the configuration that `build("auto")` builds, and the reason.

        Args:
            max_bytes: Memory that building may take; None for no limit.

        Returns:
            The configuration, and the reason in one sentence.

        Raises:
            InputError: No engine can be built in so little memory.
        """
        width = widest_chart(self._index.space)
        return choose_engine(count=len(self._index), dimension=width, metric="l2", max_bytes=max_bytes)

    def estimate(
        self, engine: Any = "auto", *, charts: Sequence[ChartLike] | None = None, level: int | None = None
    ) -> StructureEstimate:
        """Estimate the cost of `build`, without building anything.

        Args:
            engine: As in `build`.
            charts: As in `build`. Each chart gets its own engine.
            level: As in `build`.

        Returns:
            Bytes of memory and disk, and seconds, of all charts together.

        Raises:
            UnknownNameError: There is no such kind of engine, or no such chart.
        """
        config = self._config(engine, charts=charts, level=level)
        return STRUCTURES[config.kind].estimate(self._index.space, config, count=len(self._index))

    def build(
        self,
        engine: str | Mapping[str, Any] | StructureConfig = "auto",
        *,
        name: str | None = None,
        charts: Sequence[ChartLike] | None = None,
        level: int | None = None,
        max_bytes: int | None = None,
    ) -> Attachment:
        """Build a structure for all documents.

        Args:
            engine: `"auto"` to choose by size, a kind with its defaults (`"hnsw"`, `"ivf"`, `"flat"`, `"lance"`,
                `"qdrant"` or `"graph"`), plain values, such as `{"kind": "hnsw", "m": 16}`, or a configuration.
            name: Its name in searches; None takes the kind, and the level. A structure of that name is replaced at the
                end.
            charts: Charts that vector engines are built on, as `["poincare"]` or `[{"name": "poincare", "level": 1}]`,
                or `["learned"]` for a learned encoding of tokens; None for those that suit the space and the kind.
            level: Level of the points that it finds, in a space of levels; None for the narrowest.
            max_bytes: Memory that building may take; None for no limit.

        Returns:
            Its entry in the list.

        Raises:
            InputError: It would take more memory than `max_bytes` (the message says what would fit), or a document's
                vector is too long (the message says which).
            UnknownNameError: There is no such kind of engine.
            StoreError: Another writer is active.
        """
        with writer_lock(self._index.path):
            self._index.refresh()
            config = self._config(engine, max_bytes, charts, level)
            if name is None and level is not None:
                name = f"{config.kind}-level-{level}"
            record = attach(self._index.path, self._index._opened.snapshot, config, name=name, max_bytes=max_bytes)
            if record.is_automatic:
                record = self._with_recall(record)
        self._index.refresh()
        return record

    def _with_recall(self, record: Attachment) -> Attachment:
        """Measure what a new structure finds, and note it in the list."""
        opened = self._index._opened
        # A build keeps no points in memory, and so does the measurement that ends it.
        snapshot = Snapshot(opened.snapshot.store, self._index.space, cache_bytes=0)
        fresh = OpenIndex(opened.folder, snapshot, opened.compile, opened.recompile)

        def stored() -> str:
            missing = "" if record.recall else "; what it finds was not measured"
            return f"the engine {record.name!r} is built{missing}"

        with stoppable(stored):
            try:
                record = record.model_copy(update={"recall": _measured_recall(fresh, record.name)})
            except HyperseekError as error:
                logger.warning("what the engine %r finds could not be measured: %s", record.name, error)
            else:
                Attachments.read(opened.folder).with_changed(record).write(opened.folder)
        return record

    def drop(self, name: str) -> None:
        """Delete a structure; UnknownNameError if there is none with that name."""
        with writer_lock(self._index.path):
            Attachments.read(self._index.path).without(name).write(self._index.path)
        self._index.refresh()

    def _config(
        self,
        engine: Any,
        max_bytes: int | None = None,
        charts: Sequence[ChartLike] | None = None,
        level: int | None = None,
    ) -> StructureConfig:
        if engine == "auto":
            engine, reason = self.choose(max_bytes=max_bytes)
            logger.info("the engine is %s", reason)
        config = parse_structure(engine, **({} if charts is None else {"charts": tuple(charts)}))
        return config if level is None else config.of_level(self._index.space, level)

    @meant(*NAMED, **HABITS)
    def tune(
        self,
        queries: Sequence[str] | Scorer,
        *,
        k: int = 10,
        recall: float = 0.99,
        engine: str | None = None,
        options: Mapping[str, Any] | None = None,
        save: bool = True,
        **named: Unpack[NamedOptions],
    ) -> Tuning:
        """Measure recall and latency of engine settings against exhaustive search, and keep the cheapest good one.

        Args:
            queries: Several texts, or compiled queries, representative of future ones.
            k: Documents per query, at least 1.
            recall: Recall of the exhaustive top `k` that the chosen plan must reach, in (0, 1].
            engine: Measure only this structure; None for all.
            options: As in `search`; the chosen plan applies only to searches with these options.
            save: Whether `engine="auto"` uses the chosen plan from then on.
            **named: Options of the model, by name.

        Returns:
            The measurements.

        Raises:
            InputError: There are no queries, `recall` is out of range, or the index has no engines.
            UnknownNameError: There is no such engine.
            StoreError: Another writer is active.
        """
        asked, count, wanted = check_queries(queries), check_count(k), check_share(recall)
        if engine is not None:
            check_engine(engine)
        if not len(asked):
            raise InputError("there are no queries to tune with; give some that represent future ones")
        texts = None if isinstance(asked, Scorer) else asked
        asked, checked = check_options(options, asked, named)
        scorers = [asked] if isinstance(asked, Scorer) else list(self._index._groups(asked, checked))
        opened = self._index._opened
        tuning = _measured_plans(opened, scorers, texts, k=count, recall=wanted, engine=engine)
        if save:
            tuning.save(opened.folder)
            opened.reread()
        return tuning


class IndexWithEngines(IndexReader):
    """An index, its engines, and short forms of their methods."""

    @property
    def engines(self) -> Engines:
        """Engines and neighbour graphs: `index.engines.build("hnsw")`, `.tune(queries)`, `.drop(name)` and more."""
        return Engines(self)

    @property
    def attachments(self) -> tuple[Attachment, ...]:
        """Engines and graphs of this index, in the order in which they were built."""
        return tuple(self.engines)

    def build_engine(self, engine: str | Mapping[str, Any] | StructureConfig = "auto", **settings: Any) -> Attachment:
        """Build an engine for all documents; see `Engines.build`."""
        return self.engines.build(engine, **settings)

    def build_graph(self, *, name: str | None = None, **settings: Any) -> Attachment:
        """Build the neighbour graph of all documents, or import one; `settings` are those of `GraphConfig`."""
        return self.engines.build({"kind": "graph", **settings}, name=name)

    def drop(self, name: str) -> None:
        """Delete an engine or a graph of this index; see `Engines.drop`."""
        self.engines.drop(name)
