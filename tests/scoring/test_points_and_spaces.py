from __future__ import annotations

import pytest
import torch

from hyperseek import HyperseekError
from hyperseek.scoring import LinearScorer, Points, Space, VectorPoints


def oracle(kind: str, query: list[float], document: list[float]) -> float:
    dot = sum(a * b for a, b in zip(query, document, strict=True))
    if kind == "dot":
        return dot
    if kind == "cosine":
        norms = sum(a * a for a in query) ** 0.5 * sum(b * b for b in document) ** 0.5
        return dot / norms if norms else 0.0
    return -(sum((a - b) ** 2 for a, b in zip(query, document, strict=True)) ** 0.5)


@pytest.mark.parametrize("kind", ["dot", "cosine", "euclidean"])
def test_scores_equal_the_plain_formula(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(3, 5, generator=generator)
    documents = torch.randn(7, 5, generator=generator)
    documents[2] = 0
    scores = Space(kind, 5).score(queries, VectorPoints(documents))
    expected = [[oracle(kind, q, d) for d in documents.tolist()] for q in queries.tolist()]
    torch.testing.assert_close(scores, torch.tensor(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["dot", "cosine", "euclidean"])
def test_every_chart_ranks_as_the_space_does(kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    space = Space(kind, 6)
    queries, documents = torch.randn(4, 6, generator=generator), torch.randn(50, 6, generator=generator)
    exact = space.score(queries, VectorPoints(documents)).argsort(dim=1, descending=True)
    for name in {space.flat_chart, *space.graph_charts, "inner_product", "balanced"}:
        chart = space.fit_chart(name, [VectorPoints(documents)])
        lifted_queries, lifted = chart.lift_queries(queries), chart.lift_documents(VectorPoints(documents))
        if chart.metric == "inner_product":
            order = (lifted_queries @ lifted.T).argsort(dim=1, descending=True)
        else:
            order = torch.cdist(lifted_queries, lifted).argsort(dim=1)
        assert torch.equal(order, exact)


def test_near_ties_survive_the_distance() -> None:
    query = torch.full((1, 4), 1000.0)
    documents = query + torch.tensor([[1e-3, 0, 0, 0], [2e-3, 0, 0, 0]])
    scores = Space("euclidean", 4).score(query, VectorPoints(documents))
    assert scores[0, 0] > scores[0, 1]


def test_half_precision_points_are_scored_in_float32() -> None:
    points = VectorPoints(torch.ones(2, 3, dtype=torch.float16))
    assert Space("dot", 3).score(torch.ones(1, 3), points).dtype == torch.float32


def test_a_space_goes_to_json_and_back() -> None:
    space = Space("cosine", 7)
    assert Space.from_json(space.to_json()) == space


def test_bad_spaces_and_points_are_refused() -> None:
    with pytest.raises(HyperseekError, match="did you mean 'cosine'"):
        Space("cosin", 3)
    with pytest.raises(HyperseekError, match="at least 1 dimension"):
        Space("dot", 0)
    for dimension in ("2", None, 2.5, True, float("nan")):
        with pytest.raises(HyperseekError, match="dimension of a space is a whole number"):
            Space("cosine", dimension)  # type: ignore[arg-type]
    for radius_squared in ("a", None, 0, -1, float("nan"), float("inf"), 10**400):
        with pytest.raises(HyperseekError, match="radius_squared must be positive and finite"):
            Space("lorentz", 2, radius_squared)  # type: ignore[arg-type]
    with pytest.raises(HyperseekError, match="unknown space None; known"):
        Space(None, 2)  # type: ignore[arg-type]
    with pytest.raises(HyperseekError, match="shape \\(3,\\)"):
        VectorPoints(torch.zeros(3))
    with pytest.raises(HyperseekError, match="int64"):
        VectorPoints(torch.zeros(3, 3, dtype=torch.int64))
    with pytest.raises(HyperseekError, match="3 dimensions but the vectors have 4"):
        Space("dot", 3).score(torch.zeros(1, 3), VectorPoints(torch.zeros(2, 4)))


def test_points_slice_and_join() -> None:
    points = VectorPoints(torch.arange(12.0).reshape(4, 3))
    assert torch.equal(Points.concatenate([points[:1], points[1:]]).vectors, points.vectors)
    with pytest.raises(HyperseekError, match="dimensions \\[2, 3\\]"):
        Points.concatenate([points, VectorPoints(torch.zeros(1, 2))])


def test_own_scores_are_the_diagonal_of_all_scores() -> None:
    generator = torch.Generator().manual_seed(2)
    queries, own = torch.randn(3, 4, generator=generator), torch.randn(3, 2, 4, generator=generator)
    scorer = LinearScorer(Space("cosine", 4), queries)
    everything = scorer.score(VectorPoints(own.reshape(6, 4))).reshape(3, 3, 2)
    torch.testing.assert_close(scorer.score_own(own), everything[torch.arange(3), torch.arange(3)])
