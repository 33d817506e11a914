"""The losses of the original system, recorded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hyperseek.models import Retriever, import_hypencoder
from hyperseek.training import LossesConfig, ScoredBatch
from hyperseek.training._trainer import TrainedStack, TrainingModule
from hyperseek.training._training_set import Batch
from hyperseek.training.losses import Objective

GOLDEN = Path(os.environ.get("HYPERSEEK_GOLDEN", Path(__file__).parents[3] / "shared" / "golden")) / "hypencoder"
CASES = [path.parent.name for path in sorted(GOLDEN.glob("q*/golden.json"))]
pytestmark = pytest.mark.skipif(not CASES, reason=f"no golden files at {GOLDEN}; set HYPERSEEK_GOLDEN")

TOTAL = {"margin_mse": {}, "contrastive": {"only_first_item": True}}
LOSSES: dict[str, dict[str, Any]] = {
    "ce_inbatch_all": {"contrastive": {}},
    "ce_inbatch_first": {"contrastive": {"only_first_item": True}},
    "ce_own": {"own_cross_entropy": {}},
    "margin_mse": {"margin_mse": {}},
    "total": TOTAL,
}


def _case(name: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    arrays = np.load(GOLDEN / name / "golden.npz")
    return json.loads((GOLDEN / name / "golden.json").read_text()), {
        key: torch.from_numpy(arrays[key]) for key in arrays
    }


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_values(make_batch: Callable[..., ScoredBatch], case: str, loss: str) -> None:
    golden, arrays = _case(case)
    batch = make_batch(arrays["scores_all"], labels=arrays["labels_3q2i"])
    total, _ = Objective(LossesConfig.from_mapping(LOSSES[loss]))(batch)
    assert total.item() == pytest.approx(golden["losses"][loss], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_margin_mse_of_two_queries_with_three_items(make_batch: Callable[..., ScoredBatch], case: str) -> None:
    golden, arrays = _case(case)
    batch = make_batch(arrays["scores_all"][:2], labels=arrays["labels_2q3i"])
    total, _ = Objective(LossesConfig.from_mapping({"margin_mse": {}}))(batch)
    assert total.item() == pytest.approx(golden["losses"]["margin_mse_2q3i"], rel=1e-5)


def _parameters(retriever: Retriever) -> dict[str, torch.nn.Parameter]:
    """Name parameters as the original does."""
    query, document = retriever.route("query"), retriever.route("document")
    named = {f"query_encoder.transformer.{name}": p for name, p in query[0].model.named_parameters()}
    if document[0] is not query[0]:
        named |= {f"passage_encoder.transformer.{name}": p for name, p in document[0].model.named_parameters()}
    return named | {f"query_encoder.{name}": p for name, p in query[-1].head.named_parameters()}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mini_batch", [None, 2])
def test_gradients_of_the_imported_model(case: str, mini_batch: int | None) -> None:
    golden, arrays = _case(case)
    retriever = import_hypencoder(GOLDEN / case, legacy_padded_mean="mean" in case)
    stack = TrainedStack(retriever, {"query": 0, "document": 0}, mini_batch=mini_batch)
    module = TrainingModule(stack, Objective(LossesConfig.from_mapping(TOTAL)))
    features = {
        side: {"input_ids": arrays[f"{name}_input_ids"], "attention_mask": arrays[f"{name}_attention_mask"]}
        for side, name in (("query", "query"), ("document", "passage"))
    }
    batch: Batch = {
        **features,
        "numbers": torch.arange(6),
        "items": torch.arange(6).view(3, 2),
        "known": torch.tensor([[0], [2], [4]]),
        "spared": torch.tensor([[0], [2], [4]]),
        "scores": arrays["labels_3q2i"],
        "coarse": None,
        "weights": torch.ones(3),
        "cards": None,
        "base_query": None,
        "base_document": None,
    }
    retriever.model.eval()
    total, parts = module.loss(stack, batch)
    total.backward()
    assert total.item() == pytest.approx(golden["losses"]["total"], rel=1e-5)
    assert parts["margin_mse"].item() == pytest.approx(golden["losses"]["margin_mse"], rel=1e-5)
    parameters = _parameters(retriever)
    assert parameters.keys() == golden["grad_norms"].keys()
    for name, norm in golden["grad_norms"].items():
        gradient = parameters[name].grad
        found = 0.0 if gradient is None else gradient.norm().item()
        # Key biases cancel in the softmax: their recorded gradients are rounding errors.
        assert found == pytest.approx(norm or 0.0, rel=1e-4, abs=1e-5), name
