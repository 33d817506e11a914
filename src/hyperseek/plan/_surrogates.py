"""The source that searches with linear surrogates, and the landmarks among an index' documents that they are fitted on.

Shapes: `N` documents, `f` features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from hyperseek._config import LARGEST_SEED
from hyperseek._order import NOTHING
from hyperseek.engines.structure import EXHAUSTIVE
from hyperseek.plan._engine_search import EngineName, search_linear
from hyperseek.plan._open_index import Candidates, OpenIndex, Search
from hyperseek.plan._plan import Source
from hyperseek.scoring import Landmarks, SurrogateScorer
from hyperseek.store.snapshot import Snapshot
from hyperseek.types import QueryOptions

Choice: TypeAlias = Literal["random", "kmeans", "farthest"]
"""Drawn; the documents next to k-means centres; each the farthest from those chosen before."""

# Documents for each landmark that `kmeans` and `farthest` choose among, which bounds their time.
_SAMPLE = 40


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
        engine: Name of the engine; None for the newest, or a scan where the index has none; `"exhaustive"` for a scan.
        effort: How thoroughly the engine searches; None for what it was built with.
        options: Of the queries for this stage, as in `{level: 1}`; None for those of the search.
    """

    kind: Literal["surrogate"] = "surrogate"
    n: int = Field(default=300, ge=1)
    landmarks: int = Field(default=512, ge=1)
    choice: Choice = "random"
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)
    refits: int = Field(default=0, ge=0)
    refit_n: int | None = Field(default=None, ge=1)
    weight: float = Field(default=1.0, gt=0)
    engine: EngineName = None
    effort: int | None = Field(default=None, ge=1)
    options: QueryOptions | None = None

    def find(self, search: Search) -> Candidates:
        """Fit, ask the engine, and fit again as often as wanted."""
        search = search.with_options(self.options)
        if not len(search.snapshot):
            return search.scan(search.scorer, k=1)
        parameters = _feature_parameters(search.index, self.engine)
        fixed = landmarks_of(search.index, search.at_most(self.landmarks), self.choice, self.seed, parameters)
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


def landmarks_of(
    index: OpenIndex, count: int, choice: Choice, seed: int, parameters: Mapping[str, Any] | None = None
) -> Landmarks:
    """Return landmarks of an index; the same ones for the same arguments, made once.

    Args:
        index: The index; it must have documents.
        count: How many, at least 1; all documents where there are fewer.
        choice: How they are chosen.
        seed: Of draws.
        parameters: Of the chart whose features are fitted; None for the defaults.

    Returns:
        The landmarks, ready to be fitted on.
    """
    settings = dict(parameters or {})

    def make() -> Landmarks:
        rows = _choose_rows(index.snapshot, count, choice, seed)
        points = index.snapshot.points(torch.from_numpy(rows))
        return Landmarks(index.snapshot.space, points, parameters=settings)

    key = ("landmarks", count, choice, seed, tuple(sorted(settings.items())))
    return index.keep(key, make, size=lambda landmarks: landmarks.nbytes)


def _feature_parameters(index: OpenIndex, engine: str | None) -> dict[str, Any]:
    """Return the parameters of the features that surrogates must be fitted on for an engine to be asked with them.

    Args:
        index: The index.
        engine: Its name; None for the newest, or a scan where there is none; `EXHAUSTIVE` for a scan.

    Returns:
        Parameters of the engine's first chart for such functions; the defaults where there is none.
    """
    newest = index.newest() if engine is None else None
    name = engine if newest is None else newest.name
    if name is None or name == EXHAUSTIVE:
        return {}
    return dict(index.attached(name).structure.surrogate_parameters or {})


def _choose_rows(snapshot: Snapshot, count: int, choice: Choice, seed: int) -> npt.NDArray[np.int64]:
    """Return the sorted rows of landmarks; arguments as for `landmarks_of`."""
    generator = np.random.default_rng(seed)
    count = min(count, len(snapshot))
    if choice == "random" or count == len(snapshot):
        return np.sort(generator.choice(len(snapshot), count, replace=False))
    sample = np.sort(generator.choice(len(snapshot), min(len(snapshot), count * _SAMPLE), replace=False))
    chart = snapshot.space.chart("inner_product")
    features = chart.lift_documents(snapshot.points(torch.from_numpy(sample))).float()
    places = _kmeans(features, count, seed) if choice == "kmeans" else _farthest(features, count)
    return np.sort(sample[places])


def _kmeans(features: Tensor, count: int, seed: int) -> npt.NDArray[np.int64]:
    from sklearn.cluster import MiniBatchKMeans

    means = MiniBatchKMeans(count, batch_size=4096, n_init=1, random_state=seed).fit(features.numpy())
    distances = torch.cdist(torch.from_numpy(means.cluster_centers_).float(), features)
    # Two centres may have one nearest document: each then takes the nearest that is free.
    chosen: dict[int, None] = {}
    for order in distances.argsort(dim=1)[:, :count].tolist():
        chosen[next(place for place in order if place not in chosen)] = None
    return np.array(list(chosen), dtype=np.int64)


def _farthest(features: Tensor, count: int) -> npt.NDArray[np.int64]:
    places = [int(torch.linalg.vector_norm(features - features.mean(dim=0), dim=1).argmax())]
    nearest = torch.linalg.vector_norm(features - features[places[0]], dim=1)
    while len(places) < count:
        nearest[places[-1]] = -1
        places.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, torch.linalg.vector_norm(features - features[places[-1]], dim=1))
    return np.array(places, dtype=np.int64)
