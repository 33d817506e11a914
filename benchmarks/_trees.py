"""Trees as points of hyperbolic space: where they come from, and a construction of their embedding.

Sarkar's construction ("Low distortion Delaunay embedding of trees in hyperbolic plane", 2011), from the plane to `d`
dimensions: a node's children stand around it, away from its parent, in directions as far from each other as can be.
The edges to `n` children are `step + ln(n) / (d - 1)` long: far enough that siblings do not crowd. Everything is
float64. Shapes: `N` nodes, `d` dimensions.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from hyperseek.types import Document

Array = NDArray[np.float64]
Parents = NDArray[np.int64]
"""`(N,)`: the position of each node's parent, -1 for the root."""

DATA = Path(os.environ.get("HYPERSEEK_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))

_POOL = 20_000  # directions of which well-spread ones are chosen


@dataclass(frozen=True)
class Tree:
    """A named tree, whose nodes are documents."""

    name: str
    documents: list[Document]
    parents: Parents


def wordnet() -> Tree:
    """Return the nouns of WordNet, each below its first hypernym."""
    folder = DATA / "wordnet-nouns"
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    documents = [Document(line["_id"], line["text"], line["title"]) for line in lines]
    places = {document.id: place for place, document in enumerate(documents)}
    parents = np.full(len(documents), -1)
    with gzip.open(folder / "edges.tsv.gz", "rt", encoding="utf-8") as file:
        for edge in csv.DictReader(file, delimiter="\t"):
            child = places[edge["child"]]
            if parents[child] < 0:
                parents[child] = places[edge["parent"]]
    return Tree("WordNet nouns", documents, parents)


def balanced_tree(branches: int, size: int) -> Tree:
    """Return the complete tree in which each node has so many children."""
    return _numbered(f"{branches}-ary tree", (np.arange(size) - 1) // branches)


def random_tree(size: int, seed: int = 0) -> Tree:
    """Return a random recursive tree: each node's parent is any of those before it."""
    drawn = np.random.default_rng(seed).random(size)
    return _numbered("random tree", np.floor(drawn * np.arange(size)).astype(np.int64) - (np.arange(size) == 0))


def _numbered(name: str, parents: Parents) -> Tree:
    return Tree(name, [Document(f"n{place}", f"node {place}") for place in range(len(parents))], parents)


def embed(parents: Parents, dimension: int, radius: float, seed: int = 0) -> Array:
    """Embed a tree, with its farthest node about so far from the root, which is the origin.

    Args:
        parents: Of each node; there is one root.
        dimension: `d`, at least 2.
        radius: Of the farthest node, in units of the curvature radius.
        seed: Of how families are turned.

    Returns:
        `(N, d + 1)` points of the hyperboloid, time first.
    """
    step, previous, change = 0.0, 0.0, 0.0
    for attempt in range(10):
        points = _place(parents, dimension, step, seed)
        reached = float(np.arccosh(points[:, 0].max()))
        if abs(reached - radius) < 0.05:
            break
        # The radius grows nearly evenly with the step; the first guess is that a path of 40 edges is the longest.
        slope = (reached - previous) / change if attempt else 40.0
        change, previous = (radius - reached) / slope, reached
        step += change
    return points


def _place(parents: Parents, dimension: int, step: float, seed: int) -> Array:
    generator = np.random.default_rng(seed)
    degree = np.bincount(parents[parents >= 0], minlength=len(parents))
    directions = _spread(int(degree.max()), dimension)
    points = np.zeros((len(parents), dimension + 1))
    points[parents < 0, 0] = 1
    level = np.flatnonzero(parents < 0)
    while len(level):
        children = np.flatnonzero(np.isin(parents, level))
        children = children[np.argsort(parents[children], kind="stable")]
        own = parents[children]
        families, first = np.unique(own, return_index=True)
        rank = np.arange(len(own)) - first[np.searchsorted(families, own)]
        outward = _turned(directions[rank], own, parents, points, generator)
        # A tangent vector at the origin, moved to the parent along the line that joins them.
        start = points[own]
        along = (start[:, 1:] * outward).sum(1, keepdims=True)
        tangent = np.hstack([along, outward + along / (1 + start[:, :1]) * start[:, 1:]])
        length = (step + np.log(degree[own]) / (dimension - 1))[:, None]
        points[children] = np.cosh(length) * start + np.sinh(length) * tangent
        points[children, 0] = np.sqrt(1 + np.square(points[children, 1:]).sum(1))
        level = children
    return points


def _turned(directions: Array, own: Parents, parents: Parents, points: Array, generator: np.random.Generator) -> Array:
    """Turn each family's directions, which lie around the first axis, at random, and then away from the grandparent."""
    dimension = directions.shape[1]
    for _ in range(2):
        mirror = generator.standard_normal((len(points), dimension))
        mirror[:, 0] = 0
        directions = _reflected(directions, mirror[own])
    above = np.where(parents[own] < 0, own, parents[own])
    start, end = points[own], points[above]
    # The grandparent as it is seen from the parent, moved to the origin.
    inner = (start[:, 1:] * end[:, 1:]).sum(1, keepdims=True)
    seen = end[:, 1:] + (inner / (1 + start[:, :1]) - end[:, :1]) * start[:, 1:]
    length = np.linalg.norm(seen, axis=1, keepdims=True)
    back = np.divide(seen, length, out=np.eye(1, dimension).repeat(len(own), 0) * -1, where=length > 1e-12)
    axis = np.eye(1, dimension)
    mirror = axis + back
    mirror = np.where(np.linalg.norm(mirror, axis=1, keepdims=True) > 1e-9, mirror, np.eye(1, dimension, 1))
    return _reflected(directions, mirror)


def _reflected(vectors: Array, mirrors: Array) -> Array:
    along: Array = (vectors * mirrors).sum(1, keepdims=True) / np.square(mirrors).sum(1, keepdims=True)
    return vectors - 2 * along * mirrors


def _spread(count: int, dimension: int) -> Array:
    """Return unit vectors with positive first coordinate, each the farthest of a pool from all before it."""
    pool = np.random.default_rng(0).standard_normal((_POOL, dimension))
    pool[:, 0] = np.abs(pool[:, 0])
    pool /= np.linalg.norm(pool, axis=1, keepdims=True)
    chosen, nearest = [int(pool[:, 0].argmax())], np.full(_POOL, np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, np.square(pool - pool[chosen[-1]]).sum(1))
        chosen.append(int(nearest.argmax()))
    return pool[chosen]


def half_chords(queries: Array, points: Array) -> Array:
    """Return sinh²(distance / 2) of all pairs of hyperboloid points, by way of the Poincaré ball.

    Args:
        queries: `(Q, d + 1)`.
        points: `(N, d + 1)`.

    Returns:
        `(Q, N)`; smaller is nearer. Not the library's formula, so that both can be compared.
    """
    ball = [part[:, 1:] / (1 + part[:, :1]) for part in (queries, points)]
    chords: Array = cdist(*ball, "sqeuclidean")
    return chords * (1 + queries[:, :1]) * (1 + points[:, 0]) / 4


def average_precision(points: Array, parents: Parents, sample: int = 500, seed: int = 0) -> float:
    """Return how well distances tell a node's parent and children from all other nodes: MAP over some nodes."""
    nodes = np.random.default_rng(seed).choice(len(parents), sample, replace=False)
    order = np.argsort(half_chords(points[nodes], points), axis=1)
    values = []
    for node, ranked in zip(nodes, order, strict=True):
        ranked = ranked[ranked != node]
        relevant = (parents[ranked] == node) | (ranked == parents[node])
        places = np.flatnonzero(relevant)
        values.append(np.mean(np.arange(1, len(places) + 1) / (places + 1)))
    return float(np.mean(values))


def queries_near(points: Array, count: int, step: float = 0.5, seed: int = 1) -> Array:
    """Return nodes moved by tangent steps, of lengths up to `step`, in random directions."""
    generator = np.random.default_rng(seed)
    start = points[generator.choice(len(points), count, replace=False)]
    direction = generator.standard_normal((count, points.shape[1] - 1))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    along = (start[:, 1:] * direction).sum(1, keepdims=True)
    tangent = np.hstack([along, direction + along / (1 + start[:, :1]) * start[:, 1:]])
    length = generator.uniform(0, step, (count, 1))
    return _on_hyperboloid((np.cosh(length) * start + np.sinh(length) * tangent)[:, 1:])


def queries_far(points: Array, count: int, seed: int = 2) -> Array:
    """Return points where no nodes are: a third in any direction, a third of them beyond all nodes, a third midway."""
    generator = np.random.default_rng(seed)
    part = count // 3
    direction = generator.standard_normal((2 * part, points.shape[1] - 1))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    largest = np.arccosh(points[:, 0].max())
    radius = np.concatenate([generator.uniform(0, largest, part), generator.uniform(largest, largest + 2, part)])
    pairs = generator.choice(len(points), (count - 2 * part, 2))
    middle = points[pairs[:, 0]] + points[pairs[:, 1]]
    middle /= np.sqrt(np.square(middle[:, :1]) - np.square(middle[:, 1:]).sum(1, keepdims=True))
    return np.vstack([_on_hyperboloid(np.sinh(radius)[:, None] * direction), _on_hyperboloid(middle[:, 1:])])


def _on_hyperboloid(space: Array) -> Array:
    return np.hstack([np.sqrt(1 + np.square(space).sum(1, keepdims=True)), space])
