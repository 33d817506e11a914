"""The sources and steps of plans, and the plan that an index chooses by itself.

`Feedback` is pseudo-relevance feedback on vectors ("Pseudo Relevance Feedback with Deep Language Models and Dense
Retrievers", arXiv 2108.11044), for every kind of queries that can be moved: see `Scorer.moved_towards`.

Shapes: `Q` queries, `N` documents.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from pydantic import Field, SerializeAsAny, model_validator
from torch import Tensor

from hyperseek._machine import one_core
from hyperseek._order import NOTHING
from hyperseek.engines.structure import EXHAUSTIVE
from hyperseek.errors import StoreError
from hyperseek.graph import GRAPH_PRESETS, GraphSearchConfig
from hyperseek.plan._engine_search import ENOUGH, EngineName, Surrogate, search_linear, search_structure
from hyperseek.plan._open_index import HEAVIEST, Candidates, Method, OpenIndex, Search, fuse, union
from hyperseek.plan._plan import Combination, Plan, Source, Stage, Step, as_plan, found_by
from hyperseek.plan.exhaustive import exact_scores
from hyperseek.scoring import Scorer
from hyperseek.store.attachments import Attachment, TunedPlan
from hyperseek.types import NO_OPTIONS, QueryOptions

logger = logging.getLogger(__name__)

EXACT = "exact"
"""Name that asks for the exhaustive search."""

AUTO = "auto"
"""Name that leaves the choice to the index."""

# A scan of fewer documents takes less time than an engine and the rescoring of its candidates.
_FEW = 20_000
# One that has grown by more than this factor is no longer the one that was measured.
_GROWTH = 2
# Candidates of an engine for each document that is wanted, and at least.
_CANDIDATES = 10
_LEAST_CANDIDATES = 300


class Exhaustive(Source):
    """Every document, scored by the queries' own scorer: the exact answer.

    Attributes:
        n: Candidates of each query; None for as many as the search wants.
        options: Of the queries for this stage, as in `{level: 1}`; None for those of the search.
    """

    kind: Literal["exhaustive"] = "exhaustive"
    n: int | None = Field(default=None, ge=1)  # type: ignore[assignment]  # the search's k
    options: QueryOptions | None = None

    @property
    def exact(self) -> bool:
        """Whether it asks with the options of the search."""
        return self.options is None

    def find(self, search: Search) -> Candidates:
        """Score all documents."""
        search = search.with_options(self.options)
        return search.scan(search.scorer, k=search.at_most(self.n or search.k))


class Auto(Source):
    """What the index finds by its own choice, as `engine="auto"` does, scored by the queries' own scorer.

    Attributes:
        n: Candidates of each query.
        engine: `"auto"`, `"exact"`, or the name of an engine.
        options: Of the queries for this stage, as in `{level: 1}`; None for those of the search.
    """

    kind: Literal["auto"] = "auto"
    n: int = Field(default=100, ge=1)
    engine: str = "auto"
    options: QueryOptions | None = None

    @property
    def exact(self) -> bool:
        """Whether it asks with the options of the search."""
        return self.options is None

    def find(self, search: Search) -> Candidates:
        """Choose a plan and run it."""
        asked = search.with_options(self.options)
        own = replace(asked, k=search.at_most(self.n), notes={}, found=[])
        found = choose_plan(search.index, own.scorer, self.engine, own.k)[0].run(own)
        search.notes.update(own.notes)
        if asked is search and own.k >= search.at_most(search.k):
            search.found[:] = own.found or search.found
        return found


def plan_key(kind: str, options: QueryOptions) -> str:
    """Return the key of a tuned plan: the kind of scorer, and the options of its queries where it has some."""
    return f"{kind} ({options})" if options else kind


def choose_plan(index: OpenIndex, scorer: Scorer, engine: str, k: int) -> tuple[Plan, str]:
    """Return the plan that searches an index, and why it is this one.

    Args:
        index: The index.
        scorer: Compiled queries, or some of them.
        engine: `AUTO`, `EXACT`, or the name of an engine.
        k: Documents of each query.

    Returns:
        The plan and a reason for people.

    Raises:
        UnknownNameError: The index has no engine of this name.
    """
    if engine == EXACT:
        return Plan(stages=(Exhaustive(),)), "every document is scored, as was asked"
    if engine == AUTO:
        key = plan_key(scorer.kind, scorer.options)
        tuned = index.attachments.plans.get(key)
        if tuned is not None and k <= tuned.k and _can_run(index, tuned):
            return _tuned_plan(index, tuned), (
                f"the plan tuned on this index for {key} scorers: recall@{tuned.k} {tuned.recall:.4f} "
                f"on {tuned.queries} queries"
            )
        if index.newest() is None:
            return Plan(stages=(Exhaustive(),)), "every document is scored, since the index has no engine"
        if len(index.snapshot) < _FEW:
            return Plan(stages=(Exhaustive(),)), f"every document is scored, which is fast for fewer than {_FEW:,}"
        suitable = list(index.suitable(scorer))
        if not suitable and not scorer.surrogates:
            return Plan(stages=(Exhaustive(),)), "every document is scored, since no engine can search by these queries"
        usable = suitable or list(index.automatic())
        enough = next((item for item in usable if _doubt(item) is None), None)
        if enough is None:
            return Plan(stages=(Exhaustive(),)), (
                f"every document is scored, since {_doubt(usable[0])}; tune it: index.engines.tune(queries)"
            )
        engine = enough.name
    attached = index.attached(engine)
    structure = attached.structure
    n = max(_LEAST_CANDIDATES, _CANDIDATES * k)
    nonlinear = f"a {scorer.kind!r} scorer is not linear"
    if structure.can_search(scorer):
        reason = f"candidates from {engine!r}, which can search by this scorer; scored exactly"
        if attached.record.recall is not None:
            reason += f"; {attached.record.recall} when it was built"
        return as_plan(structure.stages(engine, n)), reason
    if structure.surrogate_parameters is not None:
        source = Surrogate(n=n, engine=engine)
        reason = f"candidates from {engine!r} by a linear surrogate, since {nonlinear}"
    else:
        source = Surrogate(n=n, engine=EXHAUSTIVE)
        reason = (
            f"candidates from a scan by a linear surrogate, since {nonlinear} and {engine!r} has no chart for those"
        )
    return source >> Rescore(), f"{reason}; scored exactly"


def _doubt(item: Attachment) -> str | None:
    """Say why an engine is not chosen without being asked for; None if nothing speaks against it."""
    recall = item.recall
    if recall is None:
        return f"what {item.name!r} finds of the best was not measured when it was built"
    if recall.share < ENOUGH:
        return f"{item.name!r} found only {recall.share:.3f} of the best when it was built"
    if item.count > _GROWTH * recall.documents:
        return (
            f"what {item.name!r} finds of the best was measured when it had {recall.documents:,} documents, and now it "
            f"has {item.count:,}"
        )
    return None


def _can_run(index: OpenIndex, tuned: TunedPlan) -> bool:
    """Whether the engines of a tuned plan can be opened; warns where a package is not installed."""
    missing = index.attachments.missing_kind(tuned.plan)
    if missing is not None:
        logger.warning(
            "the plan tuned on %s is not used: it searches an engine of the kind %r, whose package is not installed",
            index.folder,
            missing,
        )
    return missing is None


def _tuned_plan(index: OpenIndex, tuned: TunedPlan) -> Plan:
    """Return the plan that an index names; StoreError if it is not a plan, or would load a model."""
    # An index may come from a stranger, and tuning never writes a plan that names a model.
    if _names_a_model(tuned.plan):
        raise StoreError(
            f"the plan tuned on {index.folder} names a model, which tuning never writes; tune the index again, or "
            f"search with a plan of your own"
        )
    return Plan.from_mapping(tuned.plan, source=f"the plan tuned on {index.folder}", error=StoreError)


def _names_a_model(plan: Any) -> bool:
    if isinstance(plan, dict):
        return plan.get("model") is not None or any(map(_names_a_model, plan.values()))
    return isinstance(plan, list | tuple) and any(map(_names_a_model, plan))


def _asked_with(search: Search, options: QueryOptions | None, n: int) -> Search:
    """Return a search with a stage's options; with others than the search's, all that the stage finds are wanted."""
    asked = search.with_options(options)
    return asked if asked is search else replace(asked, k=asked.at_most(n))


class Engine(Source):
    """What a vector engine of the index finds, for scorers that are linear in the features of their space.

    Attributes:
        n: Candidates of each query, and of each of the engine's charts.
        name: Of the engine; None for the newest that can search by these queries.
        effort: How thoroughly it searches; None for what it was built with.
        options: Of the queries for this stage, as in `{level: 1}`; None for those of the search.
    """

    kind: Literal["engine"] = "engine"
    n: int = Field(default=100, ge=1)
    name: str | None = None
    effort: int | None = Field(default=None, ge=1)
    options: QueryOptions | None = None

    def find(self, search: Search) -> Candidates:
        """Ask the engine."""
        search, name = _asked_with(search, self.options, self.n), self.name
        if name is None and (suitable := next(search.index.suitable(search.scorer), None)) is not None:
            name = suitable.name
        return search_structure(search, search.scorer, n=search.at_most(self.n), name=name, effort=self.effort)


class Nearest(Source):
    """What the newest engine that can search by these queries finds, or a scan where there is none.

    An engine that was measured to find too little when it was built is used only if it is named.

    Attributes:
        n: Candidates of each query, and of each of the engine's charts.
        engine: Name of the engine; None for the newest, `"exhaustive"` for a scan.
        effort: How thoroughly the engine searches; None for what it was built with.
        options: Of the queries for this stage, as in `{level: 1}`; None for those of the search.
    """

    kind: Literal["nearest"] = "nearest"
    n: int = Field(default=100, ge=1)
    engine: EngineName = None
    effort: int | None = Field(default=None, ge=1)
    options: QueryOptions | None = None

    def find(self, search: Search) -> Candidates:
        """Ask the engine, or score all documents."""
        search = _asked_with(search, self.options, self.n)
        n = search.at_most(self.n)
        return search_linear(search, search.scorer, n=n, engine=self.engine, effort=self.effort)


class Graph(Source):
    """What a walk over the neighbour graph of the index finds, scored by the queries' own scorer.

    Attributes:
        n: Candidates of each query; None for as many as the search wants.
        name: Of the graph; None for the newest.
        preset: `efficient_1` or `efficient_2` of the Hypencoder paper, instead of `walk`.
        walk: How far it goes.
        options: Of the queries for this stage, as in `{level: 1}`; None for those of the search.
    """

    kind: Literal["graph"] = "graph"
    n: int | None = Field(default=None, ge=1)  # type: ignore[assignment]  # the search's k
    name: str | None = None
    preset: Literal["efficient_1", "efficient_2"] | None = None
    walk: GraphSearchConfig = GraphSearchConfig()
    options: QueryOptions | None = None

    @property
    def exact(self) -> bool:
        """Whether it asks with the options of the search."""
        return self.options is None

    def find(self, search: Search) -> Candidates:
        """Walk, and score documents that are newer than the graph."""
        search = search.with_options(self.options)
        k = search.at_most(self.n or search.k)
        walk = GRAPH_PRESETS[self.preset] if self.preset else self.walk
        found = search_structure(search, search.scorer, n=k, name=self.name, kind="graph", walk=walk)
        # The walk scores documents by the dozen: what it finds is scored again, all together, as other ways do.
        return Candidates.ranked(found.rows, exact_scores(search.snapshot, search.scorer, found.rows), k=k)


class FullText(Source):
    """What the full-text index of titles and texts finds.

    Attributes:
        n: Candidates of each query.
    """

    kind: Literal["full_text"] = "full_text"
    n: int = Field(default=100, ge=1)

    def find(self, search: Search) -> Candidates:
        """Ask the full-text index."""
        rows, scores = [], []
        among = None if search.allowed is None else search.snapshot.keys[search.allowed]
        for text in search.asked():
            keys, own = search.snapshot.store.search_texts(text, k=search.at_most(self.n), among=among)
            rows.append(torch.from_numpy(search.snapshot.rows_of_keys(keys)))
            scores.append(torch.from_numpy(np.array(own, dtype=np.float32)))
        return Candidates.of_lists(rows, scores)


class Dense(Source):
    """What another model of the index' documents finds: often the plain encoder under a trained head.

    Attributes:
        n: Candidates of each query.
        model: Folder or name of the model; None for the one that made the index.
        engine: Name of the engine; None for the newest, or a scan where the index has none; `"exhaustive"` for a scan.
        effort: How thoroughly the engine searches; None for what it was built with.
        options: Of the queries for this model, as in `{level: 1}`; those of the search are for its own model.
    """

    kind: Literal["dense"] = "dense"
    n: int = Field(default=100, ge=1)
    model: str | None = None
    engine: EngineName = None
    effort: int | None = Field(default=None, ge=1)
    options: QueryOptions = NO_OPTIONS

    def find(self, search: Search) -> Candidates:
        """Compile the queries with the model, and search by it."""
        scorer = search.index.compile(self.model, search.asked(), self.options)
        return search_linear(search, scorer, n=search.at_most(self.n), engine=self.engine, effort=self.effort)


class Fusion(Combination):
    """One ranking from those of several sources; see `fuse`.

    Attributes:
        n: Candidates of each query; None for all.
        sources: At least one.
        method: How scores are made comparable.
        weights: One per source; None for equal ones.
        rrf_k: For `rrf`: larger values flatten the differences between first ranks.
    """

    kind: Literal["fusion"] = "fusion"
    n: int | None = Field(default=None, ge=1)  # type: ignore[assignment]  # all
    sources: tuple[SerializeAsAny[Source], ...] = Field(min_length=1)
    method: Method = "rrf"
    weights: tuple[float, ...] | None = None
    rrf_k: int = Field(default=60, ge=0)

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if self.weights is not None and len(self.weights) != len(self.sources):
            raise ValueError(
                f"fusion: {len(self.weights)} weights were given for {len(self.sources)} sources; give one each"
            )
        if not all(abs(weight) <= HEAVIEST for weight in self.weights or ()):
            raise ValueError(f"fusion: weights must be finite, up to {HEAVIEST:g}, not {list(self.weights or ())}")
        return self

    def find(self, search: Search) -> Candidates:
        """Ask all sources."""
        found = [found_by(source, search) for source in self.sources]
        ranked = fuse(found, method=self.method, weights=self.weights, rrf_k=self.rrf_k)
        return ranked.first(self.n) if self.n else ranked


class Rescore(Step):
    """Exact scores of the candidates.

    Attributes:
        n: How many of the best candidates are scored and kept; None for all.
        model: Folder or name of the model that scores; None for the one that searches.
        options: Of the queries for this stage, as in `{level: 1}`; None for those of the search, or for none where
            another model scores.
    """

    kind: Literal["rescore"] = "rescore"
    n: int | None = Field(default=None, ge=1)
    model: str | None = None
    options: QueryOptions | None = None

    @property
    def exact(self) -> bool:
        """Whether the model that searches scores, with the options of the search."""
        return self.model is None and self.options is None

    def apply(self, search: Search, candidates: Candidates) -> Candidates:
        """Score the candidates."""
        if self.model is None:
            scorer = search.with_options(self.options).scorer
        else:
            scorer = search.index.compile(self.model, search.asked(), self.options or NO_OPTIONS)
        rows = candidates.rows[:, : self.n] if self.n else candidates.rows
        scores = exact_scores(search.snapshot, scorer, rows)
        with one_core():
            return Candidates.ranked(rows, scores)


class Feedback(Step):
    """The stages before, asked again with each query moved towards its own best documents.

    Later stages continue with the moved queries. Documents that a search leaves out are no feedback.

    Attributes:
        n: How many of the best documents.
        weight: How far, as a share of the way to their mean.
        softmax: None counts the documents alike; else their weights are those of the softmax of score / `softmax`.
    """

    kind: Literal["feedback"] = "feedback"
    n: int = Field(default=1, ge=1)
    weight: float = Field(default=0.2, gt=0, lt=1)
    softmax: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    def apply(self, search: Search, candidates: Candidates) -> Candidates:
        """Score the candidates by the moved queries."""
        return self.follow(search, candidates, ())[1]

    def follow(self, search: Search, candidates: Candidates, before: Sequence[Stage]) -> tuple[Search, Candidates]:
        """Move the queries and ask the stages before again; what these found with the first queries is kept in mind."""
        moved = self._moved(search, candidates)
        if not before:
            return moved, _scored(moved, candidates.rows)
        source, *steps = before
        found = found_by(cast("Source", source), moved)
        for step in cast("list[Step]", steps):
            found = step.follow(moved, found, ())[1]
        if not before[-1].exact:
            return moved, found
        # An engine may have missed with the moved queries what it found with the first ones.
        again = (candidates.rows[:, :, None] == found.rows[:, None]).any(dim=2)
        missed = candidates.rows.masked_fill(again, NOTHING)
        if (missed == NOTHING).all():
            return moved, found
        width = max(candidates.rows.shape[1], found.rows.shape[1])
        return moved, union([found, _scored(moved, missed)]).first(width)

    def _moved(self, search: Search, candidates: Candidates) -> Search:
        """Return the search with moved queries."""
        known = candidates if search.unwanted is None else candidates.without(search.unwanted)
        best = known.first(self.n)
        weights = self._weights(best)
        if not weights.any():
            return replace(search, notes={}, found=[])
        documents = search.snapshot.points(best.rows.clamp_min(0).flatten())
        device = search.scorer.device
        scorer = search.scorer.moved_towards(documents.to(device), weights.to(device))
        return replace(search, scorer=scorer, notes={}, found=[])

    def _weights(self, best: Candidates) -> Tensor:
        """Return the `(Q, n)` weights of the best documents; 0 where there is none."""
        present = (best.rows != NOTHING) & best.scores.isfinite()
        shares = present.float()
        if self.softmax is not None and shares.shape[1]:
            scores = (best.scores.double() / self.softmax).masked_fill(~present, -torch.inf)
            shares = scores.softmax(dim=1).nan_to_num().float()
        return self.weight * shares / shares.sum(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)


def _scored(search: Search, rows: Tensor) -> Candidates:
    return Candidates.ranked(rows, exact_scores(search.snapshot, search.scorer, rows))
