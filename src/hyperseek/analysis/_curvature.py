"""Measures of curvature: how tree-like the distances of points are, and how their neighbourhoods branch.

Gromov's delta. Of four points, take the three sums of opposite distances; delta is half the difference of the two
largest. It is 0 in a tree, at most ln 2 in the hyperbolic plane of curvature -1, and as much as the diameter allows in
a flat space. So what is compared is 2 delta / diameter, in 0 to 1: it is small where distances are those of a tree.

Ollivier-Ricci curvature of the edges of a graph ("Ricci curvature of Markov chains on metric spaces", 2009). A walker
at `x` stays with the probability `alpha`, or else moves to any neighbour. The curvature of an edge is
1 - W(m_x, m_y), where W is the least work that turns the walk from `x` into the one from `y`, with distances in edges.
Edges that join clusters and those of trees are negative, those within a clique positive.

Shapes: `n` points or nodes, `E` edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperseek._long_work import progress
from hyperseek.analysis._radii import distances
from hyperseek.errors import InputError, require
from hyperseek.geometry.euclidean import unit_vectors
from hyperseek.graph.building import nearest
from hyperseek.scoring import Space

Floats = NDArray[np.float64]
Pairs = NDArray[np.int64]

_CHUNK = 1 << 18  # quadruples at a time: some 20 MiB
_BLOCK = 512  # points whose distances to all others are held at a time
_FAR = 3  # edges between neighbours of two neighbours, at most


@dataclass(frozen=True, slots=True)
class DeltaEstimate:
    """Delta-hyperbolicity of a sample; the greatest is a lower bound of that of all points.

    Attributes:
        points: Points of the sample.
        diameter: Their greatest distance.
        bases: Points whose quadruples were all examined.
        greatest: Greatest delta of those quadruples.
        relative: Twice that, divided by the diameter; in 0 to 1.
        quadruples: Random quadruples that the mean is over.
        mean: Mean delta.
        mean_relative: Twice that, divided by the diameter.
        seed: Of both samples.
    """

    points: int
    diameter: float
    bases: int
    greatest: float
    relative: float
    quadruples: int
    mean: float
    mean_relative: float
    seed: int


def delta_hyperbolicity(
    distances: Floats, *, bases: int = 10, quadruples: int = 1_000_000, seed: int = 0
) -> DeltaEstimate:
    """Estimate Gromov's delta by the four-point condition.

    Args:
        distances: `(n, n)`, symmetric, with a zero diagonal; `n` in the hundreds.
        bases: Points whose quadruples are all examined, which takes `n³` operations each.
        quadruples: Random quadruples for the mean.
        seed: Of the choice of both.

    Returns:
        Greatest and mean delta.

    Raises:
        InputError: There are fewer than four points, or they all coincide.
    """
    count = len(distances)
    diameter = float(distances.max()) if count else 0.0
    if count < 4 or diameter == 0:
        raise InputError(f"delta needs at least 4 points that do not all coincide; the sample has {count}")
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(count)[:bases]
    greatest = max(0.0, *(_delta_at(distances, int(base)) for base in chosen))
    total = 0.0
    for start in range(0, quadruples, _CHUNK):
        total += float(_deltas(distances, _quadruples(count, min(_CHUNK, quadruples - start), generator)).sum())
    mean = total / quadruples
    return DeltaEstimate(
        points=count,
        diameter=diameter,
        bases=len(chosen),
        greatest=greatest,
        relative=2 * greatest / diameter,
        quadruples=quadruples,
        mean=mean,
        mean_relative=2 * mean / diameter,
        seed=seed,
    )


def _delta_at(distances: Floats, base: int) -> float:
    """Return the greatest delta of all quadruples that hold a point: max over x, y, z of min((x,z), (z,y)) - (x,y)."""
    products = (distances[base][:, None] + distances[base][None] - distances) / 2
    worst, least = 0.0, np.empty_like(products)
    for row in products:
        np.minimum(products, row, out=least)
        worst = max(worst, float((least.max(axis=1) - row).max()))
    return worst


def _quadruples(count: int, number: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Draw `(4, number)` points, distinct within each column: each is shifted past those drawn before it."""
    drawn = np.stack([generator.integers(0, count - taken, number) for taken in range(4)])
    for place in range(1, 4):
        for earlier in np.sort(drawn[:place], axis=0):
            drawn[place] += drawn[place] >= earlier
    return drawn


def _deltas(distances: Floats, quadruples: NDArray[np.int64]) -> Floats:
    a, b, c, d = quadruples
    sums = np.stack(
        [distances[a, b] + distances[c, d], distances[a, c] + distances[b, d], distances[a, d] + distances[b, c]]
    )
    sums.sort(axis=0)
    deltas: Floats = (sums[2] - sums[1]) / 2
    return deltas


@dataclass(frozen=True, slots=True)
class CurvatureEstimate:
    """Ollivier-Ricci curvature of sampled edges of a graph of nearest neighbours.

    Attributes:
        points: Points of the graph, a sample of the index.
        neighbours: Nearest points of the sample that each point is joined with.
        graph_edges: Edges of the graph.
        edges: Edges sampled of these.
        alpha: Probability that a walker stays.
        mean: Mean curvature, at most 1.
        deviation: Standard deviation over edges.
        negative: Share of edges below 0, in 0 to 1.
        quantiles: Curvature at the 5th, 25th, 50th, 75th and 95th percentile.
        seed: Of the choice of points and edges.
    """

    points: int
    neighbours: int
    graph_edges: int
    edges: int
    alpha: float
    mean: float
    deviation: float
    negative: float
    quantiles: list[float]
    seed: int


def estimate_curvature(
    space: Space, vectors: Tensor, *, neighbours: int = 10, edges: int = 1000, alpha: float = 0.5, seed: int = 0
) -> tuple[CurvatureEstimate, Floats]:
    """Measure the curvature of a graph of nearest neighbours.

    Args:
        space: Where the points lie.
        vectors: `(n, w)` stored points.
        neighbours: Nearest neighbours of each, fewer than `n`.
        edges: Most edges to measure.
        alpha: Probability that a walker stays, in 0 to 1.
        seed: Of the choice of edges.

    Returns:
        The summary, and the curvature of each measured edge.

    Raises:
        InputError: There are too few points, or `alpha` is not a probability.
        MissingExtraError: POT or scipy is not installed.
    """
    graph = neighbour_graph(space, vectors, neighbours)
    pairs = _edges_of(graph)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(pairs))[:edges])
    values = ollivier_ricci(graph, pairs[chosen], alpha=alpha)
    estimate = CurvatureEstimate(
        points=len(vectors),
        neighbours=neighbours,
        graph_edges=len(pairs),
        edges=len(values),
        alpha=alpha,
        mean=float(values.mean()),
        deviation=float(values.std()),
        negative=float((values < -1e-9).mean()),
        quantiles=[float(value) for value in np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])],
        seed=seed,
    )
    return estimate, values


def neighbour_graph(space: Space, vectors: Tensor, neighbours: int) -> Any:
    """Connect every point with its nearest neighbours.

    Args:
        space: Where the points lie.
        vectors: `(n, w)` stored points.
        neighbours: Of each point, fewer than `n`.

    Returns:
        `(n, n)` symmetric sparse matrix in CSR form, 1 where either of two points is a neighbour of the other.

    Raises:
        InputError: There are too few points.
        MissingExtraError: scipy is not installed.
    """
    count = len(vectors)
    if not 0 < neighbours < count:
        raise InputError(f"each point needs 1 to {count - 1} neighbours among {count} points, not {neighbours}")
    sparse = require("scipy.sparse", extra="plot")
    starts = range(0, count, _BLOCK)
    blocks = [torch.arange(start, min(start + _BLOCK, count)) for start in starts]
    found = torch.cat([_nearest(space, vectors, rows, neighbours) for rows in blocks])
    rows = np.repeat(np.arange(count), neighbours)
    graph = sparse.csr_matrix((np.ones(len(rows), np.int8), (rows, found.numpy().ravel())), shape=(count, count))
    return graph.maximum(graph.T).tocsr()


def ollivier_ricci(graph: Any, edges: Pairs, *, alpha: float = 0.5) -> Floats:
    """Return the Ollivier-Ricci curvature of some edges, each by an exact optimal transport.

    Args:
        graph: `(n, n)` symmetric sparse matrix in CSR form without a diagonal; every entry is an edge of length 1.
        edges: `(E, 2)` nodes that are joined.
        alpha: Probability that a walker stays, in 0 to 1.

    Returns:
        `(E,)`, at most 1.

    Raises:
        InputError: `alpha` is not a probability.
        MissingExtraError: POT is not installed.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha is the probability that a walker stays, in 0 to 1, not {alpha}")
    require("ot", extra="plot")
    values = np.empty(len(edges))
    with progress("curvature", len(edges), unit="edges") as bar:
        for place, (x, y) in enumerate(edges):
            values[place] = 1 - _work(graph, int(x), int(y), alpha)
            bar.advance()
    return values


def _edges_of(graph: Any) -> Pairs:
    rows, columns = graph.nonzero()
    pairs: Pairs = np.stack([rows, columns], axis=1)[rows < columns].astype(np.int64)
    return pairs


def _nearest(space: Space, vectors: Tensor, rows: Tensor, neighbours: int) -> Tensor:
    if space.hyperbolic:
        apart = distances(space, vectors[rows], vectors)
        apart[torch.arange(len(rows)), rows] = torch.inf
        return apart.topk(neighbours, largest=False).indices
    flat = unit_vectors(vectors) if space.unit_norm else vectors - vectors.mean(dim=0)
    everyone = [(torch.arange(len(vectors)), flat)]
    return nearest(flat[rows], rows, everyone, degree=neighbours, metric="l2")


def _work(graph: Any, x: int, y: int, alpha: float) -> float:
    """Return the least work that turns the walk from x into the one from y."""
    nodes, surplus = _difference(_walk(graph, x, alpha), _walk(graph, y, alpha))
    give, take = nodes[surplus > 0], nodes[surplus < 0]
    if not len(give):
        return 0.0
    work, log = require("ot", extra="plot").emd2(
        surplus[surplus > 0], -surplus[surplus < 0], _hops(graph, give, take), log=True
    )
    if log["warning"] is not None:
        raise InputError(f"the optimal transport of an edge could not be found: {log['warning']}")
    return float(work)


def _walk(graph: Any, node: int, alpha: float) -> tuple[Pairs, Floats]:
    around = graph.indices[graph.indptr[node] : graph.indptr[node + 1]]
    mass = np.full(len(around) + 1, (1 - alpha) / max(len(around), 1))
    mass[-1] = alpha
    return np.append(around, node).astype(np.int64), mass


def _difference(first: tuple[Pairs, Floats], second: tuple[Pairs, Floats]) -> tuple[Pairs, Floats]:
    """Return nodes and the surplus of the first walk over the second; mass that both have need not be moved."""
    nodes, places = np.unique(np.concatenate([first[0], second[0]]), return_inverse=True)
    surplus: Floats = np.bincount(places, np.concatenate([first[1], -second[1]]), len(nodes)).astype(np.float64)
    surplus[np.abs(surplus) < 1e-12] = 0
    return nodes, surplus


def _hops(graph: Any, first: Pairs, second: Pairs) -> Floats:
    """Return distances in edges between nodes around the ends of an edge, which are 0 to 3 from each other."""
    hops = np.full((len(first), len(second)), float(_FAR))
    near = graph[first]
    hops[(near.astype(np.int32) @ graph[second].T.astype(np.int32)).toarray() > 0] = 2
    hops[near[:, second].toarray() > 0] = 1
    hops[first[:, None] == second[None]] = 0
    return hops
