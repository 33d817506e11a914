"""Sources: where candidates come from.

Shapes: `Q` queries, `N` documents.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field

from hyperseek.graph import GRAPH_PRESETS, GraphSearchConfig
from hyperseek.plan._context import NOTHING, Candidates, Search
from hyperseek.plan._landmarks import Choice, feature_parameters, landmarks_of
from hyperseek.plan._stage import Source
from hyperseek.plan.engine_search import search_linear, search_structure
from hyperseek.plan.rescoring import exact_scores
from hyperseek.scoring import Landmarks, SurrogateScorer
from hyperseek.types import NO_OPTIONS, QueryOptions


class Scan(Source):
    """Every document, scored by the queries' own scorer: the exact answer.

    Attributes:
        n: Candidates of each query; None for as many as the search wants.
        options: Of the queries for this stage, as in `{level: 1}`; None for those of the search.
    """

    kind: Literal["scan"] = "scan"
    n: int | None = Field(default=None, ge=1)  # type: ignore[assignment]  # the search's k
    options: QueryOptions | None = None

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

    def find(self, search: Search) -> Candidates:
        """Choose a plan and run it."""
        from hyperseek.plan.choice import choose_plan

        asked = search.with_options(self.options)
        own = replace(asked, k=search.at_most(self.n), notes={}, found=[])
        found = choose_plan(search.ground, own.scorer, self.engine, own.k)[0].run(own)
        search.notes.update(own.notes)
        if asked is search and own.k >= search.at_most(search.k):
            search.found[:] = own.found or search.found
        return found


class Engine(Source):
    """What a vector engine of the index finds, for scorers that are linear in the features of their space.

    Attributes:
        n: Candidates of each query, and of each of the engine's charts.
        name: Of the engine; None for the newest.
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
        search = search.with_options(self.options)
        return search_structure(search, search.scorer, n=search.at_most(self.n), name=self.name, effort=self.effort)


class Surrogate(Source):
    """What an engine, or a scan, finds with a linear surrogate of a scorer that no engine can search by.

    Attributes:
        n: Candidates of each query.
        landmarks: Documents that the surrogate is fitted on.
        choice: How they are chosen: drawn, those next to k-means centres, or each the farthest from those before.
        seed: Of the choice.
        refits: Rounds in which the candidates found so far are scored and the surrogate is fitted again.
        refit_n: Candidates of such a round; None for `n`.
        weight: What a candidate counts beside a landmark in such a round.
        engine: Name of the engine; None for the newest, or a scan where the index has none; `"scan"` for a scan.
        effort: How thoroughly the engine searches; None for what it was built with.
        options: Of the queries for this stage, as in `{level: 1}`; None for those of the search.
    """

    kind: Literal["surrogate"] = "surrogate"
    n: int = Field(default=300, ge=1)
    landmarks: int = Field(default=512, ge=1)
    choice: Choice = "random"
    seed: int = Field(default=0, ge=0)
    refits: int = Field(default=0, ge=0)
    refit_n: int | None = Field(default=None, ge=1)
    weight: float = Field(default=1.0, gt=0)
    engine: str | None = None
    effort: int | None = Field(default=None, ge=1)
    options: QueryOptions | None = None

    def find(self, search: Search) -> Candidates:
        """Fit, ask the engine, and fit again as often as wanted."""
        search = search.with_options(self.options)
        if not len(search.snapshot):
            return search.scan(search.scorer, k=1)
        parameters = feature_parameters(search.ground, self.engine)
        fixed = landmarks_of(search.ground, search.at_most(self.landmarks), self.choice, self.seed, parameters)
        linear = fixed.fit(search.scorer)
        for _ in range(self.refits):
            linear = self._refit(search, fixed, linear)
        return self._find(search, linear, self.n)

    def _refit(self, search: Search, fixed: Landmarks, linear: SurrogateScorer) -> SurrogateScorer:
        found = self._find(search, linear, self.refit_n or self.n)
        fitted = []
        for query, row in enumerate(found.rows):
            rows = row[row != NOTHING]
            if len(rows):
                own = search.scorer[query : query + 1]
                points = search.snapshot.points(rows)
                scores = own.score(points.to(own.device))[0]
                fitted.append(fixed.refit(own, points, scores, weight=self.weight))
            else:
                fitted.append(linear[query : query + 1])
        return SurrogateScorer.concatenate(fitted)

    def _find(self, search: Search, linear: SurrogateScorer, n: int) -> Candidates:
        return search_linear(search, linear, n=search.at_most(n), engine=self.engine, effort=self.effort)


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

    def find(self, search: Search) -> Candidates:
        """Walk, and score documents that are newer than the graph."""
        search = search.with_options(self.options)
        k = search.at_most(self.n or search.k)
        walk = GRAPH_PRESETS[self.preset] if self.preset else self.walk
        found = search_structure(search, search.scorer, n=k, name=self.name, kind="graph", walk=walk)
        # The walk scores documents by the dozen: what it finds is scored again, all together, as other ways do.
        return Candidates.ranked(found.rows, exact_scores(search.snapshot, search.scorer, found.rows), k=k)


class BM25(Source):
    """What the full-text index of titles and texts finds.

    Attributes:
        n: Candidates of each query.
    """

    kind: Literal["bm25"] = "bm25"
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
        engine: Name of the engine; None for the newest, or a scan where the index has none; `"scan"` for a scan.
        effort: How thoroughly the engine searches; None for what it was built with.
        options: Of the queries for this model, as in `{level: 1}`; those of the search are for its own model.
    """

    kind: Literal["dense"] = "dense"
    n: int = Field(default=100, ge=1)
    model: str | None = None
    engine: str | None = None
    effort: int | None = Field(default=None, ge=1)
    options: QueryOptions = NO_OPTIONS

    def find(self, search: Search) -> Candidates:
        """Compile the queries with the model, and search by it."""
        scorer = search.ground.compile(self.model, search.asked(), self.options)
        return search_linear(search, scorer, n=search.at_most(self.n), engine=self.engine, effort=self.effort)
