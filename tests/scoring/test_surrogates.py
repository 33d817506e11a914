"""Surrogates, and the scorers from elsewhere that need them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from hyperseek import HyperseekError
from hyperseek.scoring import (
    FunctionScorer,
    Landmarks,
    LinearScorer,
    MaxSimScorer,
    OnnxScorer,
    Points,
    Scorer,
    Space,
    TokenPoints,
    VectorPoints,
    surrogate,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def manhattan(queries: dict[str, Tensor], documents: Points) -> Tensor:
    return -(queries["vector"][:, None] - documents.vectors).abs().sum(-1)


def nearly_linear(queries: dict[str, Tensor], documents: Points) -> Tensor:
    products = queries["vector"] @ documents.vectors.T
    return products + 0.3 * torch.tanh(products)


def recall(found: Tensor, wanted: Tensor) -> float:
    hits = [len({*a} & {*b}) / len(b) for a, b in zip(found.tolist(), wanted.tolist(), strict=True)]
    return sum(hits) / len(hits)


@pytest.mark.parametrize("kind", ["dot", "cosine", "euclidean"])
def test_a_linear_scorer_is_its_own_surrogate(kind: str) -> None:
    space = Space(kind, 8)
    documents = VectorPoints(space.canonical(normal(200, 8)))
    scorer = LinearScorer(space, normal(3, 8, seed=1))
    linear = surrogate(scorer, documents)
    if kind != "euclidean":  # minus the distance is not linear in the features, minus its square is
        torch.testing.assert_close(linear.score(documents), scorer.score(documents), atol=2e-3, rtol=2e-3)
    assert recall(linear.score(documents).topk(5).indices, scorer.score(documents).topk(5).indices) > 0.6


def test_candidates_of_a_surrogate_hold_the_best() -> None:
    space = Space("dot", 16)
    documents = VectorPoints(normal(2000, 16))
    scorer = FunctionScorer(space, nearly_linear, {"vector": normal(20, 16, seed=2)})
    exact = scorer.score(documents).topk(10).indices
    landmarks = Landmarks(space, documents[:100])
    assert len(landmarks) == 100
    candidates = landmarks.fit(scorer).score(documents).topk(60).indices
    assert recall(candidates, exact) > 0.95


def test_a_refit_is_better_where_the_best_documents_are() -> None:
    space = Space("dot", 8)
    documents = VectorPoints(normal(3000, 8))
    scorer = FunctionScorer(space, manhattan, {"vector": normal(20, 8, seed=3)})
    exact = scorer.score(documents).topk(10).indices
    landmarks = Landmarks(space, documents[:200])
    first = landmarks.fit(scorer).score(documents).topk(100).indices
    again = []
    for place in range(20):
        own = scorer[place : place + 1]
        candidates = documents[first[place]]
        fitted = landmarks.refit(own, candidates, own.score(candidates)[0], weight=10.0)
        again.append(fitted.score(documents)[0].topk(100).indices)
    assert recall(torch.stack(again), exact) > recall(first, exact)


@pytest.mark.parametrize("kind", ["dot", "cosine", "euclidean", "lorentz"])
def test_a_surrogate_lifts_into_every_chart_of_linear_functions(kind: str) -> None:
    space = Space(kind, 4)
    coordinates = normal(60, 4)
    if kind == "lorentz":
        coordinates = torch.cat([(1 + coordinates.square().sum(1, keepdim=True)).sqrt(), coordinates], dim=1)
    documents = VectorPoints(space.canonical(coordinates))
    linear = surrogate(LinearScorer(space, documents.vectors[:3]), documents)
    ranking = linear.score(documents).argsort(dim=1, descending=True)
    for name in ("inner_product", "balanced"):
        chart = space.fit_chart(name, [documents])
        queries = linear.lift(chart)
        assert queries is not None
        lifted = chart.lift_documents(documents)
        if chart.metric == "l2":
            assert torch.equal(torch.cdist(queries.double(), lifted.double()).argsort(dim=1), ranking)
        else:
            assert torch.equal((queries @ lifted.T).argsort(dim=1, descending=True), ranking)
    if kind == "lorentz":
        assert linear.lift(space.chart("poincare")) is None


def test_a_surrogate_is_a_scorer_like_others(tmp_path: Path) -> None:
    from hyperseek.scoring import load_scorer

    space = Space("dot", 5)
    documents = VectorPoints(normal(30, 5))
    linear = surrogate(LinearScorer(space, normal(4, 5, seed=4)), documents)
    linear.save(tmp_path / "scorer.safetensors")
    again = load_scorer(tmp_path / "scorer.safetensors")
    assert torch.equal(again.score(documents), linear.score(documents))
    own = documents.vectors[:8].reshape(4, 2, 5)
    everything = linear.score(documents[:8]).reshape(4, 4, 2)
    torch.testing.assert_close(linear.score_own(own), everything[torch.arange(4), torch.arange(4)])


def cross_scorer(path: Path, size: int) -> Path:
    """An ONNX model: the product of query and documents, plus its hyperbolic tangent."""
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["query"], ["column"], perm=[1, 0]),
            helper.make_node("MatMul", ["documents", "column"], ["product"]),
            helper.make_node("Tanh", ["product"], ["bent"]),
            helper.make_node("Add", ["product", "bent"], ["score"]),
        ],
        "cross",
        [
            helper.make_tensor_value_info("query", TensorProto.FLOAT, [1, size]),
            helper.make_tensor_value_info("documents", TensorProto.FLOAT, ["n", size]),
        ],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["n", 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, str(path))
    return path


def test_an_onnx_model_scores_and_gets_a_surrogate(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    space = Space("dot", 6)
    queries, documents = normal(3, 6), VectorPoints(normal(50, 6, seed=1))
    scorer = OnnxScorer(space, cross_scorer(tmp_path / "cross.onnx", 6), queries)
    products = queries @ documents.vectors.T
    torch.testing.assert_close(scorer.score(documents), products + products.tanh(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(scorer[1:2].score(documents)[0], scorer.score(documents)[1])
    assert scorer.linear() is None
    found = surrogate(scorer, documents).score(documents).topk(10).indices
    assert recall(found, scorer.score(documents).topk(5).indices) > 0.9
    from hyperseek.scoring import load_scorer

    scorer.save(tmp_path / "scorer.safetensors")
    assert torch.equal(load_scorer(tmp_path / "scorer.safetensors").score(documents), scorer.score(documents))


def test_bad_scorers_from_elsewhere_are_refused(tmp_path: Path) -> None:
    space = Space("dot", 2)
    scorer: Scorer = FunctionScorer(space, lambda queries, documents: torch.zeros(1, 1), {"q": torch.zeros(2, 2)})
    with pytest.raises(HyperseekError, match=r"returned the shape \(1, 1\) for 2 queries and 3 documents"):
        scorer.score(VectorPoints(torch.zeros(3, 2)))
    with pytest.raises(HyperseekError, match="must share their first axis"):
        FunctionScorer(space, manhattan, {"a": torch.zeros(2, 2), "b": torch.zeros(3, 2)})
    with pytest.raises(HyperseekError, match="cannot be saved"):
        scorer.save(tmp_path / "x")
    with pytest.raises(HyperseekError, match="at least 1 landmark"):
        Landmarks(space, VectorPoints(torch.zeros(0, 2)))


def test_a_surrogate_lifts_into_charts_of_its_own_features_alone() -> None:
    space = Space("tokens", 4)
    documents = TokenPoints.from_documents(list(normal(30, 3, 4)))
    scorer = MaxSimScorer(space, normal(2, 2, 4, seed=1), torch.ones(2, 2))
    settings = {"repetitions": 2, "bits": 1}
    linear = Landmarks(space, documents, parameters=settings).fit(scorer)
    assert linear.lift(space.chart("inner_product")) is None
    for name in ("inner_product", "balanced"):
        lifted = linear.lift(space.fit_chart(name, [documents], **settings))
        assert lifted is not None
        assert len(lifted) == 2
