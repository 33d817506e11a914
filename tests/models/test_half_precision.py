"""Every family encodes and trains in half precision, which is what is chosen only where a processor computes in it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hyperseek.models import ModelConfig, Retriever, build
from hyperseek.nn.token_pruning import PruningTransformer

TEXTS = ["the cat and the dog", "a small neural network " * 30, "sea"]
QUERIES = ["who is the author of the book", "neural search"]


def late(**settings: Any) -> dict[str, Any]:
    return {"family": "late", "late": {"dimension": 8, **settings}}


def levels(**settings: Any) -> dict[str, Any]:
    return {"family": "levels", "levels": {"d_hrm": 32, "num_segments": 2, **settings}}


FAMILIES: dict[str, dict[str, Any]] = {
    "dense": {},
    "dense, linear": {"family": "dense", "linear": {"sides": "both"}},
    "qnet": {"family": "qnet"},
    "card": {"family": "card"},
    "lorentz": {"family": "lorentz", "lorentz": {"radius": "head", "trainable_curvature": True}},
    "levels, hrm": levels(pooling="attention", radius="head"),
    "levels, mlp": levels(refinement="mlp", radius="norm", trainable_curvature=True),
    "levels, linear": levels(refinement="linear"),
    "late": late(query_expansion={"length": 12, "attend": True}, hidden=[16], activation="relu"),
    **{f"late, {method}": late(pooling={"method": method}) for method in ("hierarchical", "k_means", "attention")},
    "late, ward": late(pooling={"linkage": "ward", "distance": "euclidean"}),
    **{
        f"late, {importance}": late(pruning={"importance": importance, "min_tokens": 2})
        for importance in ("idf", "first_layer", "gate")
    },
}


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES)
def model(request: pytest.FixtureRequest, tiny_encoder: str) -> Retriever:
    made = build(ModelConfig.from_mapping({"trunk": tiny_encoder, **request.param}), device="cpu")
    for module in made.model.modules():
        if isinstance(module, PruningTransformer):
            module.fit_importance(TEXTS)
    return made


def test_documents_of_half_precision_score_about_the_same(model: Retriever) -> None:
    scorer = model.compile(QUERIES)
    exact = scorer.score(model.encode_documents(TEXTS, dtype="float32"))
    for number, tolerance in (("bfloat16", 0.03), ("float16", 0.01)):
        torch.testing.assert_close(
            scorer.score(model.encode_documents(TEXTS, dtype=number)), exact, atol=tolerance, rtol=tolerance
        )


def test_gradients_in_mixed_precision(model: Retriever) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        found = model.forward(model.preprocess(TEXTS, "document"), "document")
    total = sum(
        value.float().square().sum()
        for value in found.values()
        if isinstance(value, torch.Tensor) and value.requires_grad
    )
    assert isinstance(total, torch.Tensor)
    total.backward()
    gradients = [one.grad for one in model.model.parameters() if one.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
