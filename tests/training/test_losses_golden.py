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

from hyperseek.training import LossesConfig, Objective, ScoredBatch

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
