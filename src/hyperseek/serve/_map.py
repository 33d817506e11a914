"""The map of a corpus: a place for each document, on the Poincaré disk for hyperbolic spaces and else on a plane.

On the disk, radii are those of the space and angles those of the plane that holds most of the tangent variance. On the
plane, near documents are near: a t-SNE of a sample, in which every other document stands between its nearest ones. A
document of several vectors, of tokens or of passages, stands at their mean.

Shapes: `N` documents, `n` of a sample, `w` numbers of a point, `c` principal components.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from fastapi import APIRouter
from numpy.typing import NDArray
from torch import Tensor

from hyperseek.analysis.disk import best_scale, plane_of, to_disk
from hyperseek.errors import InputError
from hyperseek.geometry.polar import split_polar
from hyperseek.index import Index
from hyperseek.scoring import Points, Space
from hyperseek.serve._limits import routes
from hyperseek.serve._search import Body, TheShelf
from hyperseek.serve._served import Served
from hyperseek.store.rows import document_id_of

Floats = NDArray[np.float64]

router = APIRouter(route_class=routes())

_SHOWN = 1_000  # documents that are drawn: as many as a t-SNE takes two seconds of one core for
_MOST = 2_000_000  # documents, each of which has a place
_COMPONENTS = 50
_FEWEST = 50  # documents, below which a t-SNE says nothing
_PERPLEXITY = 30
_NEIGHBOURS = 3  # documents of the sample that another one stands between
_CHUNK = 8_192


# The maps of each index in its newest version, by version and level; those that are being made are waited for.
_maps: WeakKeyDictionary[Served, dict[tuple[int, int | None], asyncio.Task[CorpusMap]]] = WeakKeyDictionary()


class PlacesBody(Body):
    """Documents whose places are wanted."""

    index: str | None = None
    ids: list[str]
    level: int | None = None


@router.get("/map")
async def get_map(shelf: TheShelf, index: str | None = None, level: int | None = None) -> dict[str, Any]:
    """Return the map of an index, and some of its documents on it."""
    found = await _map_of(shelf.index(index), level)
    return await asyncio.to_thread(found.to_json)


@router.post("/map")
async def get_places(body: PlacesBody, shelf: TheShelf) -> dict[str, Any]:
    """Return the places of documents on the map, those that are stored."""
    found = await _map_of(shelf.index(body.index), body.level)
    return {"places": await asyncio.to_thread(found.find, body.ids)}


async def _map_of(served: Served, level: int | None) -> CorpusMap:
    maps, key = _maps.setdefault(served, {}), (served.index.version, level)
    if key not in maps:
        for old in [other for other in maps if other[0] != key[0]]:
            del maps[old]
        maps[key] = asyncio.create_task(asyncio.to_thread(_draw, served.index.path, level))
    making = maps[key]
    try:
        return await asyncio.shield(making)  # a client that goes leaves the map to the others
    finally:
        if making.done() and (making.cancelled() or making.exception() is not None) and maps.get(key) is making:
            del maps[key]


def _draw(path: Path, level: int | None) -> CorpusMap:
    # Opened once more, so that all is read of one version while the server goes on to newer ones.
    return map_corpus(Index.open(path, cache_bytes=0), level=level)


@dataclass(frozen=True)
class CorpusMap:
    """Places of all documents.

    Attributes:
        kind: `"disk"` or `"plane"`.
        note: What was lost, for people.
        ids: `N` ids.
        places: `(N, 2)`: on the unit disk, or in the square from -1 to 1.
        shown: `(n,)` rows of the documents that are drawn, ascending.
        titles: Their `n` titles.
    """

    kind: str
    note: str
    ids: list[str]
    places: Floats
    shown: NDArray[np.int64]
    titles: list[str]

    def to_json(self) -> dict[str, Any]:
        """Return the documents that are drawn, as plain values."""
        drawn = self.places[self.shown].round(4).tolist()
        ids = [self.ids[row] for row in self.shown]
        return {
            "kind": self.kind,
            "note": self.note,
            "documents": len(self.ids),
            "shown": [
                {"id": name, "title": title, "at": place}
                for name, title, place in zip(ids, self.titles, drawn, strict=True)
            ],
        }

    def find(self, ids: list[str]) -> dict[str, list[float]]:
        """Return the places of documents by their ids; those of other ids are missing."""
        rows = {name: row for name in ids if (row := self._rows.get(name)) is not None}
        return {name: self.places[row].round(4).tolist() for name, row in rows.items()}

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.ids)}


def map_corpus(index: Index, *, level: int | None = None, seed: int = 0) -> CorpusMap:
    """Find a place for each document; reads all points twice.

    Args:
        index: The documents.
        level: Level of the points, 1 to M; None for the narrowest.
        seed: Of the sample and of the t-SNE.

    Returns:
        The map.

    Raises:
        InputError: The space has no such level, or there are too many documents.
    """
    if len(index) > _MOST:
        raise InputError(f"a map is drawn of at most {_MOST:,} documents, and this index has {len(index):,}")
    index.space.at_level(torch.zeros(index.space.width), level)  # of flat spaces, too, which have but one
    ids = index.ids
    shown = np.sort(np.random.default_rng(seed).permutation(len(ids))[:_SHOWN])
    sample = _chosen(index, level, shown)
    if index.space.hyperbolic:
        axes, share = plane_of(sample)
        scale = best_scale(np.linalg.norm(sample, axis=1))
        places = _joined(_on_disk(part, axes, scale) for part in _features(index, level))
        note = f"Radii are those of the space, angles those of a plane that holds {share:.0%} of the variance."
    else:
        middle, components = _components(sample)
        known = (sample - middle) @ components
        around, note = _around(known, seed)
        # Not the sample itself, which stands where it was put.
        places = _joined(_between((part - middle) @ components, known, around) for part in _features(index, level))
        places[shown] = around
    names = [ids[row] for row in shown]
    documents = index.get(names)
    titles = [documents[name].title or name if name in documents else name for name in names]
    kind = "disk" if index.space.hyperbolic else "plane"
    return CorpusMap(kind, note, ids, places, shown, titles)


def _joined(parts: Iterator[Floats]) -> Floats:
    found = list(parts)
    return np.concatenate(found) if found else np.zeros((0, 2))


def _features(index: Index, level: int | None) -> Iterator[Floats]:
    """Yield the coordinates `(m, w)` of successive documents that can be averaged, each once."""
    last, total, count = None, np.zeros(0), 0
    for ids, points in index.points(rows=_CHUNK, passages=True):
        vectors = _vectors(index.space, points, level)
        if index.passages is None:
            yield vectors
            continue
        owners = [document_id_of(name) for name in ids]
        starts = [0, *(place for place in range(1, len(owners)) if owners[place] != owners[place - 1])]
        sums = np.add.reduceat(vectors, starts, axis=0)
        counts = np.diff([*starts, len(owners)])
        done = []
        for start, own, number in zip(starts, sums, counts, strict=True):
            if owners[start] == last:  # the document goes on in this chunk
                total, count = total + own, count + int(number)
                continue
            if last is not None:
                done.append(total / count)
            last, total, count = owners[start], own, int(number)
        if done:
            yield np.stack(done)
    if last is not None:
        yield (total / count)[None]


def _vectors(space: Space, points: Points, level: int | None) -> Floats:
    """Return a vector of each row `(m, w)`: tangents at the origin in hyperbolic spaces, and means of token vectors."""
    rows = points.rows.double()
    if space.hyperbolic:
        directions, rho = split_polar(space.at_level(rows, level))
        rows = directions * rho
    if not space.ragged:
        return _numpy(rows)
    lengths = points.lengths
    sums = torch.zeros(len(points), rows.shape[1], dtype=rows.dtype)
    sums.index_add_(0, torch.repeat_interleave(torch.arange(len(points)), lengths), rows)
    return _numpy(sums / lengths.clamp(min=1)[:, None])


def _numpy(values: Tensor) -> Floats:
    return np.asarray(values.cpu().numpy(), np.float64)


def _chosen(index: Index, level: int | None, rows: NDArray[np.int64]) -> Floats:
    """Return the coordinates of some documents, `(n, w)`."""
    kept, first = [], 0
    for part in _features(index, level):
        here = rows[(rows >= first) & (rows < first + len(part))] - first
        kept.append(part[here])
        first += len(part)
    return np.concatenate(kept) if kept else np.zeros((0, index.space.width))


def _on_disk(tangents: Floats, axes: Floats, scale: float) -> Floats:
    flat = np.zeros((len(tangents), 2))
    flat[:, : axes.shape[1]] = tangents @ axes
    rho = np.linalg.norm(tangents, axis=1)
    # Points far out would otherwise round to the rim, where the page could not move them.
    points = to_disk(np.arctan2(flat[:, 1], flat[:, 0]), rho, scale)
    points *= np.minimum(1, 0.9995 / np.maximum(np.abs(points), 1e-12))
    return np.stack([points.real, points.imag], axis=1)


def _components(sample: Floats) -> tuple[Floats, Floats]:
    """Return the mean `(w,)` and the principal components `(w, c)` of a sample."""
    if not len(sample):
        return np.zeros(sample.shape[1]), np.zeros((sample.shape[1], 2))
    middle = sample.mean(axis=0)
    _, axes = np.linalg.eigh((sample - middle).T @ (sample - middle))
    components = axes[:, ::-1][:, :_COMPONENTS]
    # Of either direction; the one whose largest number is positive, so that maps do not flip.
    signs = np.sign(components[np.abs(components).argmax(axis=0), np.arange(components.shape[1])])
    return middle, components * np.where(signs == 0, 1, signs)


def _around(known: Floats, seed: int) -> tuple[Floats, str]:
    """Return the places of a sample `(n, 2)` by its components `(n, c)`, and what they mean."""
    if len(known) < _FEWEST:
        flat = np.zeros((len(known), 2))
        flat[:, : min(2, known.shape[1])] = known[:, :2]
        return _square(flat), "Documents stand by the two directions in which they differ most."
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(_PERPLEXITY, (len(known) - 1) / 4)
    # Its threads wait for each other in circles, and take minutes where searches run beside them.
    with threadpool_limits(1):
        found = TSNE(init="pca", random_state=seed, perplexity=perplexity, max_iter=500).fit_transform(known)
    return _square(np.asarray(found, np.float64)), "Documents that say similar things are near each other (t-SNE)."


def _square(places: Floats) -> Floats:
    """Scale places into the square from -1 to 1, with a margin."""
    if not len(places):
        return places
    middle = (places.max(axis=0) + places.min(axis=0)) / 2
    reach = float(np.abs(places - middle).max())
    scaled: Floats = (places - middle) * (0.95 / reach if reach > 0 and math.isfinite(reach) else 0)
    return scaled


def _between(others: Floats, known: Floats, around: Floats) -> Floats:
    """Return places `(m, 2)` of documents, each between its nearest ones of the sample, the nearer the closer."""
    apart = (others**2).sum(axis=1)[:, None] - 2 * others @ known.T + (known**2).sum(axis=1)
    nearest = np.argsort(apart, axis=1)[:, :_NEIGHBOURS]
    distances = np.sqrt(np.take_along_axis(apart, nearest, axis=1).clip(min=0))
    weights = 1 / (distances + 1e-6)
    mixed: Floats = (weights[..., None] * around[nearest]).sum(axis=1) / weights.sum(axis=1, keepdims=True)
    return mixed
