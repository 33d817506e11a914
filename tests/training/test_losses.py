"""Each loss against a slow, plain computation, and at its borders."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hyperseek import HyperseekError
from hyperseek.training import (
    AnchorConfig,
    ContrastiveConfig,
    KLConfig,
    LossesConfig,
    MarginMSEConfig,
    OwnCrossEntropyConfig,
    ScoredBatch,
)
from hyperseek.training.losses import AnchorLoss, ContrastiveLoss, KLLoss, MarginMSELoss, Objective, OwnCrossEntropyLoss

MakeBatch = Callable[..., ScoredBatch]
SCORES = torch.tensor(
    [[2.0, 1.0, 0.5, -1.0, 0.0, 3.0], [0.3, 0.2, 1.5, 1.0, -2.0, 0.7], [1.0, -1.0, 0.1, 0.4, 0.9, 0.8]]
)


def plain_cross_entropy(scores: Tensor, positive: int, negatives: list[int], temperature: float = 1.0) -> float:
    exponentials = {column: math.exp(scores[column].item() / temperature) for column in [positive, *negatives]}
    return -math.log(exponentials[positive] / sum(exponentials.values()))


def test_contrastive_tells_the_own_positive_from_every_other_document(make_batch: MakeBatch) -> None:
    batch = make_batch(SCORES)
    wanted = [plain_cross_entropy(SCORES[q], 2 * q, [d for d in range(6) if d != 2 * q], 0.5) for q in range(3)]
    loss = ContrastiveLoss(ContrastiveConfig(temperature=0.5))(batch)
    assert loss.item() == pytest.approx(sum(wanted) / 3, rel=1e-6)


def test_contrastive_with_first_items_only(make_batch: MakeBatch) -> None:
    wanted = [plain_cross_entropy(SCORES[q], 2 * q, [d for d in (0, 2, 4) if d != 2 * q]) for q in range(3)]
    loss = ContrastiveLoss(ContrastiveConfig(only_first_item=True))(make_batch(SCORES))
    assert loss.item() == pytest.approx(sum(wanted) / 3, rel=1e-6)


# Query 0 has documents 0 and 3 as known positives; the others one each.
KNOWN = torch.tensor([[100, 103], [102, -1], [104, -1]])


@pytest.mark.parametrize(
    ("positives", "mask_known", "wanted"),
    [
        ("own", True, plain_cross_entropy(SCORES[0], 0, [1, 2, 4, 5])),
        ("own", False, plain_cross_entropy(SCORES[0], 0, [1, 2, 3, 4, 5])),
        (
            "mean",
            True,
            (plain_cross_entropy(SCORES[0], 0, [1, 2, 4, 5]) + plain_cross_entropy(SCORES[0], 3, [1, 2, 4, 5])) / 2,
        ),
        ("log_sum", True, -math.log((math.exp(2) + math.exp(-1)) / SCORES[0].exp().sum().item())),
    ],
)
def test_contrastive_with_several_positives(
    make_batch: MakeBatch, positives: str, mask_known: bool, wanted: float
) -> None:
    others = sum(plain_cross_entropy(SCORES[q], 2 * q, [d for d in range(6) if d != 2 * q]) for q in (1, 2))
    config = ContrastiveConfig.from_mapping({"positives": positives, "mask_known": mask_known})
    loss = ContrastiveLoss(config)(make_batch(SCORES, known=KNOWN))
    assert loss.item() == pytest.approx((wanted + others) / 3, rel=1e-6)


@pytest.mark.parametrize("guide", ["self", "base"])
def test_contrastive_leaves_out_negatives_far_above_the_positive(make_batch: MakeBatch, guide: str) -> None:
    # Document 5 beats query 0's positive by 1.0 and nothing else is over the margin of 0.5 there.
    config = ContrastiveConfig.from_mapping({"false_negative_margin": 0.5, "guide": guide})
    loss = ContrastiveLoss(config)(make_batch(SCORES[:1], items=torch.tensor([[0, 1]]), base=SCORES[:1]))
    assert loss.item() == pytest.approx(plain_cross_entropy(SCORES[0], 0, [1, 2, 3, 4]), rel=1e-6)


def test_contrastive_guide_needs_base_scores(make_batch: MakeBatch) -> None:
    loss = ContrastiveLoss(ContrastiveConfig(false_negative_margin=0.1, guide="base"))
    assert loss.needs_base
    with pytest.raises(HyperseekError, match="before training"):
        loss(make_batch(SCORES))


def test_learned_temperature_gets_a_gradient(make_batch: MakeBatch) -> None:
    loss = ContrastiveLoss(ContrastiveConfig(temperature=0.5, learned_temperature=True))
    loss(make_batch(SCORES)).backward()
    (parameter,) = loss.parameters()
    assert parameter.grad is not None
    assert parameter.grad.abs() > 0
    assert not list(ContrastiveLoss(ContrastiveConfig()).parameters())


def test_a_learned_temperature_has_an_end_and_comes_back(make_batch: MakeBatch) -> None:
    loss = ContrastiveLoss(ContrastiveConfig(temperature=0.5, learned_temperature=True, lowest_temperature=0.1))
    (parameter,) = loss.parameters()
    optimizer = torch.optim.SGD([parameter], lr=100.0)

    def step(scores: Tensor) -> float:
        optimizer.zero_grad()
        loss(make_batch(scores)).backward()
        optimizer.step()
        loss(make_batch(scores))
        return parameter.exp().item()

    certain = torch.full_like(SCORES, -1.0)
    certain[torch.arange(3), torch.tensor([0, 2, 4])] = 1.0
    assert step(certain) == pytest.approx(0.1)
    assert step(-certain) > 1
    with pytest.raises(HyperseekError, match=r"cannot start at 0\.05, below lowest_temperature 0\.1"):
        ContrastiveConfig.from_mapping(
            {"temperature": 0.05, "learned_temperature": True, "lowest_temperature": 0.1}, source="losses"
        )
    assert ContrastiveLoss(ContrastiveConfig(temperature=1e-3))(make_batch(SCORES)).isfinite()


def test_queries_without_a_positive_do_not_count(make_batch: MakeBatch) -> None:
    items = torch.tensor([[0, 1], [-1, -1], [4, 5]])
    batch = make_batch(SCORES, items=items)
    wanted = [plain_cross_entropy(SCORES[q], 2 * q, [d for d in range(6) if d != 2 * q]) for q in (0, 2)]
    assert ContrastiveLoss(ContrastiveConfig())(batch).item() == pytest.approx(sum(wanted) / 2, rel=1e-6)
    wanted = [plain_cross_entropy(SCORES[q], 2 * q, [2 * q + 1]) for q in (0, 2)]
    assert OwnCrossEntropyLoss(OwnCrossEntropyConfig())(batch).item() == pytest.approx(sum(wanted) / 2, rel=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        ContrastiveLoss(ContrastiveConfig()),
        ContrastiveLoss(ContrastiveConfig(positives="mean")),
        OwnCrossEntropyLoss(OwnCrossEntropyConfig()),
        MarginMSELoss(MarginMSEConfig()),
        KLLoss(KLConfig()),
    ],
)
def test_a_batch_with_nothing_to_learn_costs_nothing_and_has_finite_gradients(
    make_batch: MakeBatch, loss: torch.nn.Module
) -> None:
    scores = SCORES.clone().requires_grad_()
    value = loss(make_batch(scores, items=torch.full((3, 2), -1)))
    value.backward()
    assert value.item() == 0
    assert scores.grad is not None
    assert scores.grad.eq(0).all()


def test_a_batch_of_one_positive_and_no_negatives_has_finite_gradients(make_batch: MakeBatch) -> None:
    scores = torch.tensor([[0.7]], requires_grad=True)
    value = ContrastiveLoss(ContrastiveConfig(positives="mean"))(make_batch(scores))
    value.backward()
    assert value.item() == 0
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


def test_own_items_cross_entropy_reads_existing_items_only(make_batch: MakeBatch) -> None:
    items = torch.tensor([[0, 1, 2], [2, -1, 5], [4, 3, -1]])
    wanted = [
        plain_cross_entropy(SCORES[0], 0, [1, 2], 0.5),
        plain_cross_entropy(SCORES[1], 2, [5], 0.5),
        plain_cross_entropy(SCORES[2], 4, [3], 0.5),
    ]
    loss = OwnCrossEntropyLoss(OwnCrossEntropyConfig(temperature=0.5))
    assert loss(make_batch(SCORES, items=items)).item() == pytest.approx(sum(wanted) / 3, rel=1e-6)


def test_margin_mse_is_the_mean_over_pairs_that_have_teacher_scores(make_batch: MakeBatch) -> None:
    labels = torch.tensor([[5.0, 1.0, 2.0], [4.0, math.nan, 0.0]])
    scores = SCORES[:2]
    errors = [
        (scores[0, 0] - scores[0, 1]) - 4.0,
        (scores[0, 0] - scores[0, 2]) - 3.0,
        (scores[1, 3] - scores[1, 5]) - 4.0,
    ]
    wanted = sum(error.item() ** 2 for error in errors) / 3
    assert MarginMSELoss(MarginMSEConfig())(make_batch(scores, labels=labels)).item() == pytest.approx(wanted, rel=1e-6)


def test_kl_matches_torch_and_is_zero_for_the_teacher_itself(make_batch: MakeBatch) -> None:
    labels = torch.tensor([[3.0, 1.0, 2.0], [0.0, 1.0, -1.0]])
    scores = SCORES[:2]
    own = torch.stack([scores[0, :3], scores[1, 3:]])
    wanted = (
        torch.nn.functional.kl_div((own / 2).log_softmax(1), (labels / 2).softmax(1), reduction="batchmean").item()
        * 2**2
    )
    loss = KLLoss(KLConfig(temperature=2))
    assert loss(make_batch(scores, labels=labels)).item() == pytest.approx(wanted, rel=1e-5)
    assert loss(make_batch(scores, labels=own)).item() == pytest.approx(0, abs=1e-7)


def test_kl_ignores_items_without_a_teacher_score(make_batch: MakeBatch) -> None:
    labels = torch.tensor([[3.0, math.nan, 2.0]])
    short = KLLoss(KLConfig())(make_batch(SCORES[:1], items=torch.tensor([[0, 2]]), labels=torch.tensor([[3.0, 2.0]])))
    full = KLLoss(KLConfig())(make_batch(SCORES[:1], items=torch.tensor([[0, 1, 2]]), labels=labels))
    assert full.item() == pytest.approx(short.item(), rel=1e-6)


def test_anchor_is_zero_at_the_warm_start_and_grows_away_from_it(make_batch: MakeBatch) -> None:
    loss = AnchorLoss(AnchorConfig(temperature=0.5, deviation=1))
    assert loss(make_batch(SCORES, base=SCORES)).item() == pytest.approx(0, abs=1e-6)
    assert loss(make_batch(SCORES + 3, base=SCORES)).item() == pytest.approx(0, abs=1e-6)
    near, far = SCORES.clone(), SCORES.clone()
    near[:, 1] += 0.1
    far[:, 1] += 1.0
    assert 0 < loss(make_batch(near, base=SCORES)) < loss(make_batch(far, base=SCORES))


def test_anchor_can_leave_known_positives_free(make_batch: MakeBatch) -> None:
    moved = SCORES.clone()
    moved[0, 0] += 5
    kept = AnchorLoss(AnchorConfig(temperature=0.5, skip_positives=True))(make_batch(moved, base=SCORES))
    assert kept.item() == pytest.approx(0, abs=1e-6)
    assert AnchorLoss(AnchorConfig(temperature=0.5))(make_batch(moved, base=SCORES)) > 0.1


def test_anchor_needs_base_scores(make_batch: MakeBatch) -> None:
    with pytest.raises(HyperseekError, match="before training"):
        AnchorLoss(AnchorConfig())(make_batch(SCORES))


def test_objective_is_the_weighted_sum(make_batch: MakeBatch) -> None:
    config = LossesConfig.from_mapping(
        {"contrastive": {"weight": 0.5}, "margin_mse": {"weight": 2}, "anchor": {"weight": 3}}
    )
    objective = Objective(config)
    labels = torch.arange(6.0).view(3, 2)
    total, parts = objective(make_batch(SCORES, labels=labels, base=SCORES * 1.1))
    assert objective.needs_base
    assert list(parts) == ["contrastive", "margin_mse", "anchor"]
    wanted = 0.5 * parts["contrastive"] + 2 * parts["margin_mse"] + 3 * parts["anchor"]
    assert total.item() == pytest.approx(wanted.item(), rel=1e-6)


def test_own_scores_are_the_same_whether_or_not_in_batch_scores_exist(make_batch: MakeBatch) -> None:
    alone, together = make_batch(SCORES), make_batch(SCORES)
    _ = together.in_batch
    assert torch.equal(alone.own, together.own)


def test_an_unknown_loss_names_the_closest() -> None:
    with pytest.raises(HyperseekError, match="did you mean 'contrastive'"):
        LossesConfig.from_mapping({"contrastiv": {}})
    with pytest.raises(HyperseekError, match="at least one"):
        Objective(LossesConfig())


@pytest.mark.parametrize(
    "values", [{"weight": math.inf}, {"temperature": math.inf}, {"false_negative_margin": math.nan}]
)
def test_numbers_that_are_none_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(HyperseekError, match=f"{next(iter(values))}.*finite number"):
        ContrastiveConfig.from_mapping(values)
