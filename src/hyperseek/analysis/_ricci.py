"""Ollivier-Ricci curvature of the edges of a graph ("Ricci curvature of Markov chains on metric spaces", 2009).

A walker at `x` stays with the probability `alpha`, else it goes to any neighbour. The curvature of an edge is
1 - W(m_x, m_y): W is the least work that turns the walk from `x` into the one from `y`, with distances in edges.
Edges that join clusters and those of trees are negative, those within a clique positive. Shapes: `n` nodes, `E` edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyperseek import geometry
from hyperseek._long_work import progress
from hyperseek.analysis._radii import HYPERBOLIC, distances
from hyperseek.errors import InputError, require
from hyperseek.graph.neighbours import nearest
from hyperseek.scoring import Space

Floats = NDArray[np.float64]
Pairs = NDArray[np.int64]

_BLOCK = 512  # points whose distances to all others are held at a time
_FAR = 3  # edges between neighbours of two neighbours, at most


@dataclass(frozen=True, slots=True)
class CurvatureEstimate:
    """Ollivier-Ricci curvature of sampled edges of a graph of nearest neighbours.

    Attributes:
        points: Points of the graph, a sample of the index.
        neighbours: Each point is joined with so many nearest of the sample.
        graph_edges: Edges of the graph.
        edges: Edges sampled of these.
        alpha: Probability that a walker stays.
        mean: Mean curvature, at most 1.
        deviation: Standard deviation over edges.
        negative: Share of edges below 0, in 0 to 1.
        quantiles: Curvature at 5, 25, 50, 75 and 95 per cent of the edges.
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
        edges: Most edges to look at.
        alpha: Probability that a walker stays, in 0 to 1.
        seed: Of the choice of edges.

    Returns:
        The summary, and the curvature of each edge that was looked at.

    Raises:
        InputError: There are too few points, or `alpha` is no probability.
        MissingExtraError: scipy is not installed.
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
    """Join every point with its nearest ones.

    Args:
        space: Where the points lie.
        vectors: `(n, w)` stored points.
        neighbours: Of each, fewer than `n`.

    Returns:
        `(n, n)` symmetric sparse matrix in CSR form, 1 where either of two points is a neighbour of the other.

    Raises:
        InputError: There are too few points.
        MissingExtraError: scipy is not installed.
    """
    count = len(vectors)
    if not 0 < neighbours < count:
        raise InputError(f"each point needs 1 to {count - 1} neighbours among {count} points, not {neighbours}")
    sparse = require("scipy.sparse", extra="eval")
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
        InputError: `alpha` is no probability.
        MissingExtraError: scipy is not installed.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha is the probability that a walker stays, in 0 to 1, not {alpha}")
    require("scipy.optimize", extra="eval")
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
    if space.kind in HYPERBOLIC:
        apart = distances(space, vectors[rows], vectors)
        apart[torch.arange(len(rows)), rows] = torch.inf
        return apart.topk(neighbours, largest=False).indices
    flat = geometry.unit_vectors(vectors) if space.kind == "cosine" else vectors - vectors.mean(dim=0)
    everyone = [(torch.arange(len(vectors)), flat)]
    return nearest(flat[rows], rows, everyone, degree=neighbours, metric="l2")


def _work(graph: Any, x: int, y: int, alpha: float) -> float:
    """Return the least work that turns the walk from x into the one from y."""
    nodes, surplus = _difference(_walk(graph, x, alpha), _walk(graph, y, alpha))
    give, take = nodes[surplus > 0], nodes[surplus < 0]
    if not len(give):
        return 0.0
    costs, supply, demand = _hops(graph, give, take), surplus[surplus > 0], -surplus[surplus < 0]
    # Nodes that are as far from all others may be taken together; hubs with many leaves would take long without.
    costs, supply = _merged(costs, supply)
    turned, demand = _merged(costs.T, demand)
    return _transport(turned.T, supply, demand)


def _walk(graph: Any, node: int, alpha: float) -> tuple[Pairs, Floats]:
    around = graph.indices[graph.indptr[node] : graph.indptr[node + 1]]
    mass = np.full(len(around) + 1, (1 - alpha) / max(len(around), 1))
    mass[-1] = alpha
    return np.append(around, node).astype(np.int64), mass


def _difference(first: tuple[Pairs, Floats], second: tuple[Pairs, Floats]) -> tuple[Pairs, Floats]:
    """Return nodes and what the first has more than the second; mass that both have need not be moved."""
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


def _merged(costs: Floats, masses: Floats) -> tuple[Floats, Floats]:
    rows, group = np.unique(costs, axis=0, return_inverse=True)
    together: Floats = np.bincount(group.ravel(), masses, len(rows)).astype(np.float64)
    return rows, together


def _transport(costs: Floats, supply: Floats, demand: Floats) -> float:
    from scipy.optimize import linprog
    from scipy.sparse import csr_matrix

    rows, columns = costs.shape
    if min(rows, columns) == 1:
        return float((supply[:, None] * demand[None] / supply.sum() * costs).sum())
    leaving, arriving = np.indices(costs.shape).reshape(2, -1)
    ways = np.tile(np.arange(costs.size), 2)
    equations = csr_matrix((np.ones(2 * costs.size), (np.concatenate([leaving, rows + arriving]), ways)))
    # One equation follows from the others; without it rounding cannot make them contradict each other.
    equations = equations[:-1]
    found = linprog(costs.ravel(), A_eq=equations, b_eq=np.concatenate([supply, demand])[:-1], method="highs")
    if not found.success:
        raise InputError(f"the optimal transport of an edge could not be found: {found.message}")
    return float(found.fun)
