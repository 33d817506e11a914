"""Entailment and radius losses: what they ask for, of whom, and that following them brings it about."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hyperseek import HyperseekError
from hyperseek.scoring import LinearScorer, Space, VectorPoints
from hyperseek.training import EntailmentConfig, LossesConfig, RadiusConfig, ScoredBatch
from hyperseek.training.losses import NO_DOCUMENT, EntailmentLoss, Objective, RadiusLoss

SPACE = Space("lorentz", 2, radius_squared=2.5)


def points(polar: list[tuple[float, float]]) -> Tensor:
    """Return stored points of (distance from the origin, angle)."""
    rows = [
        [math.cosh(rho), math.sinh(rho) * math.cos(angle), math.sinh(rho) * math.sin(angle)] for rho, angle in polar
    ]
    return SPACE.canonical(torch.tensor(rows) * math.sqrt(SPACE.radius_squared))


def batch(queries: Tensor, documents: Tensor, items: Tensor | None = None) -> ScoredBatch:
    items = torch.arange(len(queries))[:, None] if items is None else items
    numbers = torch.arange(len(documents))
    labels = torch.full(items.shape, torch.nan)
    return ScoredBatch(LinearScorer(SPACE, queries), VectorPoints(documents), numbers, items, items, labels)


def test_what_lies_behind_on_the_same_ray_is_entailed() -> None:
    near, far = points([(1.0, 0.3), (2.0, 0.3)]).split(1)
    documents_above, queries_above = (EntailmentLoss(EntailmentConfig(general=side)) for side in ("document", "query"))
    assert documents_above(batch(far, near)).item() == pytest.approx(0, abs=1e-6)
    aperture = math.asin(0.2 / math.sinh(2.0))
    assert queries_above(batch(far, near)).item() == pytest.approx(math.pi - aperture, abs=1e-5)
    narrow = EntailmentLoss(EntailmentConfig(general="query", aperture_scale=0.5))
    assert narrow(batch(far, near)).item() == pytest.approx(math.pi - aperture / 2, abs=1e-5)


def test_the_general_one_must_lie_nearer_the_origin_by_the_margin() -> None:
    one, two = points([(1.0, 0.0)]), points([(1.5, 2.0)])
    loss = RadiusLoss(RadiusConfig(general="document", margin=0.2))
    assert loss(batch(queries=two, documents=one)).item() == 0
    assert loss(batch(queries=one, documents=two)).item() == pytest.approx(0.7, abs=1e-6)


@pytest.mark.parametrize("loss", [EntailmentLoss(EntailmentConfig()), RadiusLoss(RadiusConfig())])
def test_only_queries_with_a_positive_count(loss: Callable[[ScoredBatch], Tensor]) -> None:
    queries, documents = points([(2.0, 0.0), (0.1, 1.0)]), points([(3.0, 2.0)])
    both = loss(batch(queries, documents, torch.tensor([[0], [NO_DOCUMENT]])))
    assert both.item() == pytest.approx(loss(batch(queries[:1], documents)).item())
    assert loss(batch(queries, documents, torch.full((2, 1), NO_DOCUMENT))).item() == 0


def test_flat_spaces_and_other_scorers_are_refused(make_batch: Callable[..., ScoredBatch]) -> None:
    with pytest.raises(HyperseekError, match="need queries that are points of a hyperbolic space"):
        RadiusLoss(RadiusConfig())(make_batch(torch.eye(3)))


def test_following_both_losses_orders_a_hierarchy() -> None:
    generator = torch.Generator().manual_seed(0)
    space = torch.randn(2, 40, 2, generator=generator).requires_grad_()
    objective = Objective(LossesConfig(entailment=EntailmentConfig(), radius=RadiusConfig(margin=0.5, weight=0.5)))
    optimizer = torch.optim.Adam([space], lr=0.05)
    totals = []
    for _ in range(150):
        time = (SPACE.radius_squared + space.square().sum(-1, keepdim=True)).sqrt()
        queries, documents = (SPACE.canonical(part) for part in torch.cat([time, space], -1))
        total, parts = objective(batch(queries, documents))
        optimizer.zero_grad()
        total.backward()
        assert space.grad is not None
        assert space.grad.isfinite().all()
        optimizer.step()
        totals.append(total.item())
    assert set(parts) == {"entailment", "radius"}
    assert totals[-1] < 0.05 * totals[0]
    lengths = torch.linalg.vector_norm(space.detach(), dim=-1)
    assert (lengths[0] > lengths[1]).float().mean() > 0.95
