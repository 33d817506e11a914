"""Searching structures of the index, by the scorer or by a linear surrogate that is fitted on landmarks.

Rankings of a structure are united, and documents that it does not know are added. Landmarks are documents of the index.

Shapes: `N` documents, `f` features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from hyperseek._config import LARGEST_SEED
from hyperseek._machine import one_core
from hyperseek._order import NOTHING
from hyperseek.engines import CandidateRequest
from hyperseek.engines.structure import EXHAUSTIVE
from hyperseek.plan._open_index import Candidates, OpenIndex, Search, union
from hyperseek.plan._plan import Source
from hyperseek.plan.exhaustive import exact_scores
from hyperseek.scoring import Landmarks, Points, Scorer, SurrogateScorer
from hyperseek.store.attachments import Attached
from hyperseek.store.snapshot import Snapshot
from hyperseek.types import QueryOptions

ENOUGH = 0.95
"""Engines that were measured to find a smaller share of the best are not chosen without being asked for."""

# Plans that were written before say "scan" for it.
EngineName: TypeAlias = Annotated[str | None, AfterValidator(lambda name: EXHAUSTIVE if name == "scan" else name)]
"""Name of an engine in a stage's options; None for the newest, `EXHAUSTIVE` for none."""


def search_linear(search: Search, scorer: Scorer, *, n: int, engine: str | None, effort: int | None) -> Candidates:
    """Find candidates by a scorer that engines can search by.

    Args:
        search: The search.
        scorer: What to search by; its queries are those of the search.
        n: Candidates of each query.
        engine: Name of an engine; None for the newest with a chart for such a scorer that was not measured to
            find too little, or a scan where there is none; `EXHAUSTIVE` for a scan.
        effort: How thoroughly the engine searches; None for what it was built with.

    Returns:
        The candidates.
    """
    if engine is None:
        found = search.index.suitable(scorer)
        good = next((item for item in found if item.recall is None or item.recall.share >= ENOUGH), None)
        engine = EXHAUSTIVE if good is None else good.name
    if engine == EXHAUSTIVE:
        return search.scan(scorer, k=n)
    return search_structure(search, scorer, n=n, name=engine, effort=effort)


def search_structure(
    search: Search,
    scorer: Scorer,
    *,
    n: int,
    name: str | None = None,
    kind: str | None = None,
    **settings: Any,
) -> Candidates:
    """Find candidates with a structure of the index.

    Args:
        search: The search.
        scorer: What to search by; its queries are those of the search.
        n: Candidates of each query.
        name: Of the structure; None for the newest.
        kind: Of the structure; None for any.
        **settings: Of its search, as `effort`.

    Returns:
        The united candidates. Scores are the structure's where it returns one ranking and knows all documents. Else
        they say who came first and no more, since rankings and scans do not share a scale.

    Raises:
        InputError: The index has no such structure, or it cannot search by this scorer.
    """
    attached = search.index.attached(name, kind)
    rows, allowed = _positions(search, attached)
    request = CandidateRequest(
        name=attached.record.name,
        scorer=scorer,
        n=n,
        k=search.k,
        allowed=allowed,
        points=_points_at(search.snapshot, rows),
        exact=lambda places: exact_scores(search.snapshot, scorer, _rows_at(rows, places)),
        texts=search.texts,
        notes=search.notes,
    )
    found = attached.structure.search(request, **settings)
    with one_core():
        parts = [Candidates(_rows_at(rows, places), scores) for scores, places in found]
    if len(unknown := _unknown_rows(search, attached)):
        parts.append(search.scan(scorer, k=n, rows=unknown))
    with one_core():
        return parts[0] if len(parts) == 1 else union([_by_rank(part) for part in parts])


def _positions(search: Search, attached: Attached) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_] | None]:
    """Return the row of each position of an attachment, and which positions may be found; None for all."""
    rows = attached.rows
    allowed = rows >= 0
    if search.allowed is not None:
        allowed[allowed] = search.allowed[rows[allowed]]
    return rows, None if allowed.all() else allowed


def _unknown_rows(search: Search, attached: Attached) -> npt.NDArray[np.int64]:
    """Return the rows, of those that may be found, of documents that an attachment does not know."""
    unknown = attached.unknown
    if search.allowed is not None:
        unknown = unknown[search.allowed[unknown]]
    if len(unknown):
        search.notes[f"unknown to {attached.record.name!r}"] = len(unknown)
    return unknown


def _rows_at(rows: npt.NDArray[np.int64], places: Tensor) -> Tensor:
    """Return the rows of `(Q, n)` positions; `NOTHING` stays."""
    if not len(rows):
        return places
    return torch.where(places == NOTHING, NOTHING, torch.from_numpy(rows)[places.clamp_min(0)])


def _by_rank(part: Candidates) -> Candidates:
    """Replace scores by ones that fall with the rank, so that lists of unlike scales take turns."""
    ranks = torch.arange(part.rows.shape[1], dtype=torch.float32).expand(part.rows.shape)
    return Candidates(part.rows, (-ranks).masked_fill(part.rows == NOTHING, -torch.inf))


class _PointsAt:
    """The part of `Points` that graph search reads, fetched as it is read."""

    def __init__(self, snapshot: Snapshot, rows: npt.NDArray[np.int64]) -> None:
        self._snapshot = snapshot
        # A document that is gone is walked through as if it were another one; it is never returned.
        self._rows = torch.from_numpy(np.maximum(rows, 0))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: slice | Tensor) -> Points:
        self._snapshot.load()  # who reads points walks over many
        return self._snapshot.points(self._rows[index])

    @property
    def dimension(self) -> int:
        return self._snapshot.space.width


def _points_at(snapshot: Snapshot, rows: npt.NDArray[np.int64]) -> Points:
    """Return points by position.

    Args:
        snapshot: The documents.
        rows: The row of each position; below 0 for documents that are gone.

    Returns:
        Something that has a length and gives points by positions, as `Points` does.
    """
    snapshot.load(scan=False)
    return cast("Points", _PointsAt(snapshot, rows))


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
