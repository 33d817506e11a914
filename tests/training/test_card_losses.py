"""Preferences, wrong cards and contrast of cards: values by hand and of the original."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hyperseek.errors import ConfigError
from hyperseek.scoring import LinearScorer, Space, VectorPoints
from hyperseek.training import LossesConfig, ScoredBatch
from hyperseek.training.losses import (
    CardContrastConfig,
    CardContrastLoss,
    ContrastiveConfig,
    ContrastiveLoss,
    Material,
    PreferenceConfig,
    PreferenceLoss,
    WrongCardConfig,
    WrongCardLoss,
)

MakeBatch = Callable[..., ScoredBatch]


@pytest.mark.parametrize(
    ("recorded", "options"),
    [
        ("pairwise_nomargin", {"temperature": 0.05}),
        ("pairwise_margin", {"temperature": 0.05, "weights": "differences", "least_difference": 0.1}),
        ("pairwise_T1", {"temperature": 1.0, "weights": "differences", "least_difference": 0.1}),
    ],
)
def test_values_of_the_original(golden: Path, recorded: str, options: dict[str, Any]) -> None:
    batch = _recorded(golden)
    wanted = json.loads((golden / "hydra" / "golden.json").read_text())["loss"][recorded]
    assert PreferenceLoss(PreferenceConfig(**options))(batch).item() == pytest.approx(wanted, rel=1e-5)


def test_the_contrastive_loss_is_that_of_the_original(golden: Path) -> None:
    batch = _recorded(golden)
    wanted = json.loads((golden / "hydra" / "golden.json").read_text())["loss"]["infonce"]
    loss = ContrastiveLoss(ContrastiveConfig(temperature=0.05, only_first_item=True))
    assert loss(batch).item() == pytest.approx(wanted, rel=1e-5)


def _recorded(golden: Path) -> ScoredBatch:
    arrays = np.load(golden / "hydra" / "golden.npz")
    query, positive, negative, margins = (
        torch.from_numpy(arrays[f"loss/{name}"]).float() for name in ("q", "pos", "neg", "margins")
    )
    count = len(query)
    return ScoredBatch(
        scorer=LinearScorer(Space("dot", query.shape[1]), query),
        points=VectorPoints(torch.cat([positive, negative])),
        documents=torch.arange(2 * count),
        items=torch.arange(2 * count).view(2, count).T.contiguous(),
        known=torch.arange(count)[:, None],
        labels=torch.stack([margins, torch.zeros(count)], dim=1),
    )


def test_examples_and_pairs_count_by_their_weights(make_batch: MakeBatch) -> None:
    scores = torch.tensor([[0.3, 0.1, 0.0, 0.0, 0.0], [0.0, 0.0, 0.2, 0.3, 0.5]])
    items = torch.tensor([[0, 1, -1], [2, 3, 4]])
    nan = math.nan
    labels = torch.tensor([[3.0, 1.0, nan], [2.0, nan, 1.0]])
    batch = make_batch(scores, items=items, labels=labels)
    each = [0.8, 1.1, 1.3]  # 1 less the differences of the pairs, which are 0.2, -0.1 and -0.3
    hinge = {"form": "margin", "temperature": 1.0}

    def loss(given: ScoredBatch, **options: Any) -> float:
        return PreferenceLoss(PreferenceConfig(**hinge, **options))(given).item()

    assert loss(batch) == pytest.approx(sum(each) / 3)
    weighted = replace(batch, weights=torch.tensor([3.0, 0.5]))
    assert loss(weighted) == pytest.approx((3 * 0.8 + 0.5 * 1.1 + 0.5 * 1.3) / 4)
    assert loss(weighted, weights="equal") == pytest.approx(sum(each) / 3)
    assert loss(weighted, weights="differences") == pytest.approx((2 * 0.8 + 1 * 1.3) / 3)
    assert loss(weighted, margin=0.15) == pytest.approx((0 + 0.5 * 0.25 + 0.5 * 0.45) / 4)
    alone = make_batch(scores, items=items[:, :1])
    assert loss(alone) == 0


def test_preferences_want_negatives_and_scores_where_these_count() -> None:
    plain, own, taught = Material(True, others=True), Material(True, negatives=1), Material(True, 1, True, 1)
    for weights, wanted in (("examples", [False, True, True]), ("differences", [False, False, True])):
        loss = PreferenceLoss(PreferenceConfig.from_mapping({"weights": weights}))
        assert [loss.learns_from(material) for material in (plain, own, taught)] == wanted
    for options, word in (({"margin": 1.0}, "form: margin"), ({"least_difference": 0.1}, "weights: differences")):
        with pytest.raises(ConfigError, match=word):
            LossesConfig.from_mapping({"preference": options})


def test_the_own_card_is_to_score_positives_higher_than_a_wrong_one(make_batch: MakeBatch) -> None:
    right = torch.tensor([[0.5, 0.1, 0.2], [0.1, 0.3, 0.2]], requires_grad=True)
    wrong = torch.tensor([[0.4, 0.1, 0.1], [0.3, 0.5, 0.4]], requires_grad=True)
    items = torch.tensor([[0], [1]])
    batch = make_batch(right, items=items)
    loss = WrongCardLoss(WrongCardConfig(margin=0.15))
    assert loss(batch).item() == 0  # no wrong card was drawn
    both = replace(batch, wrong_scorer=make_batch(wrong, items=items).scorer)
    value = loss(both)
    assert value.item() == pytest.approx(((0.15 - 0.1) + (0.15 + 0.2)) / 2)
    value.backward()  # type: ignore[no-untyped-call]
    assert right.grad is not None
    assert wrong.grad is not None
    assert right.grad[0, 0] < 0 < wrong.grad[0, 0]
    # The second query scores all documents 0.2 higher with the wrong card, which ranks them alike: no lead is lost.
    lead = WrongCardLoss(WrongCardConfig(margin=0.15, compare="lead"))
    leads = (0.5 - 0.15) - (0.4 - 0.1), (0.3 - 0.15) - (0.5 - 0.35)
    assert lead(both).item() == pytest.approx(sum(0.15 - gained for gained in leads) / 2)


def test_views_of_a_task_are_told_from_those_of_others(make_batch: MakeBatch) -> None:
    batch = make_batch(torch.zeros(2, 4))
    loss = CardContrastLoss(CardContrastConfig(temperature=0.5))
    assert loss(batch).item() == 0
    views = torch.eye(3)[:, None].repeat(1, 2, 1) * torch.tensor([1.0, 7.0, 2.0])[:, None, None]
    apart = math.log(math.exp(2) + 2) - 2
    assert loss(replace(batch, views=views)).item() == pytest.approx(apart)
    collapsed = torch.ones(3, 2, 3)
    assert loss(replace(batch, views=collapsed)).item() == pytest.approx(math.log(3))
    assert loss(replace(batch, views=views[:1])).item() == 0
