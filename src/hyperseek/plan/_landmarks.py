"""Choosing landmarks among an index' documents.

Shapes: `N` documents, `f` features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hyperseek.plan._context import Ground
from hyperseek.plan.engine_search import SCAN
from hyperseek.scoring import Landmarks
from hyperseek.store.snapshot import Snapshot

Choice: TypeAlias = Literal["random", "kmeans", "farthest"]
"""Drawn; the documents next to k-means centres; each the farthest from those chosen before."""

# The last two look at a sample of so many documents for each landmark, which bounds their time.
_SAMPLE = 40


def landmarks_of(
    ground: Ground, count: int, choice: Choice, seed: int, parameters: Mapping[str, Any] | None = None
) -> Landmarks:
    """Return landmarks of an index; the same ones for the same arguments, made once.

    Args:
        ground: The index; it must have documents.
        count: How many, at least 1; all documents where there are fewer.
        choice: How they are chosen.
        seed: Of draws.
        parameters: Of the chart whose features are fitted; None for the defaults.

    Returns:
        The landmarks, ready to be fitted on.
    """
    settings = dict(parameters or {})

    def make() -> Landmarks:
        rows = choose_rows(ground.snapshot, count, choice, seed)
        points = ground.snapshot.points(torch.from_numpy(rows))
        return Landmarks(ground.snapshot.space, points, parameters=settings)

    key = ("landmarks", count, choice, seed, tuple(sorted(settings.items())))
    return ground.keep(key, make, size=lambda landmarks: landmarks.nbytes)


def feature_parameters(ground: Ground, engine: str | None) -> dict[str, Any]:
    """Return the parameters of the features that surrogates must be fitted on for an engine to be asked with them.

    Args:
        ground: The index.
        engine: Its name; None for the newest, or a scan where there is none; `SCAN` for a scan.

    Returns:
        Parameters of the engine's first chart for such functions; the defaults where there is none.
    """
    newest = ground.newest() if engine is None else None
    name = engine if newest is None else newest.name
    if name is None or name == SCAN:
        return {}
    return dict(ground.attached(name).structure.surrogate_parameters or {})


def choose_rows(snapshot: Snapshot, count: int, choice: Choice, seed: int) -> npt.NDArray[np.int64]:
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
