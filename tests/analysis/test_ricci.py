"""Ollivier-Ricci curvature beside closed forms and a transport over all nodes of the graph."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from scipy.sparse.csgraph import shortest_path

from hyperseek import HyperseekError
from hyperseek.analysis import ollivier_ricci
from hyperseek.analysis._curvature import estimate_curvature, neighbour_graph
from hyperseek.scoring import Space, VectorPoints


def matrix(graph: nx.Graph) -> object:
    return nx.to_scipy_sparse_array(graph, format="csr", dtype=np.int8)


def slowly(graph: nx.Graph, x: int, y: int, alpha: float) -> float:
    """Curvature by one linear program over all pairs of nodes, with shortest paths as costs."""
    adjacency = nx.to_numpy_array(graph)
    costs = shortest_path(adjacency, unweighted=True)
    walks = (1 - alpha) * adjacency / adjacency.sum(1, keepdims=True) + alpha * np.eye(len(adjacency))
    count = len(adjacency)
    leaving, arriving = np.kron(np.eye(count), np.ones(count)), np.kron(np.ones(count), np.eye(count))
    found = linprog(costs.ravel(), A_eq=np.vstack([leaving, arriving])[:-1], b_eq=np.append(walks[x], walks[y])[:-1])
    return float(1 - found.fun)


@pytest.mark.parametrize("size", [3, 5, 9])
def test_cliques_are_positive(size: int) -> None:
    [value] = ollivier_ricci(matrix(nx.complete_graph(size)), np.array([[0, 1]]))
    assert value == pytest.approx(size / (2 * (size - 1)))


def test_trees_are_negative_within_and_paths_are_flat() -> None:
    tree = nx.balanced_tree(3, 3)
    edges = np.array(tree.edges)
    degrees = np.array([tree.degree(node) for node in range(len(tree))])
    # 1/d_x + 1/d_y - 1 for trees when the walker stays half of the time: above 0 only at leaves.
    expected = (1 / degrees[edges]).sum(1) - 1
    values = ollivier_ricci(matrix(tree), edges)
    np.testing.assert_allclose(values, expected, atol=1e-9)
    assert (values[(degrees[edges] > 1).all(1)] < 0).all()
    assert ollivier_ricci(matrix(nx.cycle_graph(8)), np.array([[0, 1]])) == pytest.approx(0)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5])
def test_random_graphs_as_a_program_over_all_nodes(alpha: float) -> None:
    graph = nx.connected_watts_strogatz_graph(24, 5, 0.4, seed=3)
    graph.add_edges_from((0, other) for other in range(4, 20))  # a hub
    edges = np.array(graph.edges)[::7]
    expected = [slowly(graph, int(x), int(y), alpha) for x, y in edges]
    np.testing.assert_allclose(ollivier_ricci(matrix(graph), edges, alpha=alpha), expected, atol=1e-8)


def test_a_hub_with_many_leaves_is_quick_and_exact() -> None:
    graph = nx.Graph([("x", "y"), *(("x", f"a{one}") for one in range(600)), *(("y", f"b{one}") for one in range(500))])
    names = list(graph)
    [value] = ollivier_ricci(matrix(graph), np.array([[names.index("x"), names.index("y")]]))
    assert value == pytest.approx(1 / 601 + 1 / 501 - 1)


@pytest.mark.parametrize(("kind", "width"), [("euclidean", 3), ("dot", 3), ("cosine", 3), ("lorentz", 5)])
def test_the_graph_joins_each_point_with_its_nearest(kind: str, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    space = Space(kind, 3)
    coordinates = torch.randn(60, 3, generator=generator)
    if kind == "lorentz":
        coordinates = torch.cat([(1 + coordinates.square().sum(dim=1, keepdim=True)).sqrt(), coordinates], dim=1)
    vectors = space.canonical(coordinates)
    assert vectors.shape[1] == width
    comparable = Space("euclidean", 3) if kind == "dot" else space
    scores = comparable.score(vectors.double(), VectorPoints(vectors.double()))
    scores.fill_diagonal_(-torch.inf)
    expected = torch.zeros(60, 60, dtype=torch.bool).scatter(1, scores.topk(4).indices, True)
    graph = neighbour_graph(space, vectors, 4).toarray().astype(bool)
    np.testing.assert_array_equal(graph, (expected | expected.T).numpy())


def test_two_far_clusters_are_two_cliques() -> None:
    vectors = torch.cat([torch.zeros(5, 2), torch.full((5, 2), 100.0)]) + torch.randn(10, 2) * 0.1
    estimate, values = estimate_curvature(Space("euclidean", 2), vectors, neighbours=4)
    assert (estimate.points, estimate.graph_edges, estimate.edges, estimate.negative) == (10, 20, 20, 0.0)
    np.testing.assert_allclose(values, 5 / 8)
    assert estimate.mean == pytest.approx(5 / 8)


def test_edges_are_sampled_by_the_seed() -> None:
    vectors = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    space = Space("euclidean", 2)
    first, values = estimate_curvature(space, vectors, neighbours=3, edges=9, seed=1)
    assert first.edges == len(values) == 9
    assert first == estimate_curvature(space, vectors, neighbours=3, edges=9, seed=1)[0]
    assert first != estimate_curvature(space, vectors, neighbours=3, edges=9, seed=2)[0]


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(HyperseekError, match="in 0 to 1, not 2"):
        ollivier_ricci(matrix(nx.path_graph(3)), np.array([[0, 1]]), alpha=2)
    with pytest.raises(HyperseekError, match="1 to 2 neighbours among 3 points, not 3"):
        neighbour_graph(Space("euclidean", 2), torch.zeros(3, 2), 3)
