"""The loss from coarse to fine, and losses of order at levels: values, masks, and what training by them does."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn.functional import cross_entropy

from hyperseek.errors import HyperseekError
from hyperseek.nn.levels import Refinement, TokenAttentionPooler, at_radius, radii_of_levels
from hyperseek.scoring import LevelScorer, LinearScorer, Space, VectorPoints
from hyperseek.training import LossesConfig, RadiusConfig, ScoredBatch
from hyperseek.training.losses import NO_DOCUMENT, CoarseToFineConfig, CoarseToFineLoss, Objective, RadiusLoss

LEVELS = 3
SPACE = Space("levels", 4, levels=LEVELS)


def batch(
    queries: Tensor, documents: Tensor, items: list[list[int]], coarse: list[int] | None, space: Space = SPACE
) -> ScoredBatch:
    positions = torch.tensor(items)
    return ScoredBatch(
        LevelScorer(space, space.canonical(queries)),
        VectorPoints(space.canonical(documents)),
        torch.arange(len(documents)),
        positions,
        positions[:, :1],
        torch.full(positions.shape, torch.nan),
        coarse=None if coarse is None else torch.tensor(coarse),
    )


def drawn(count: int, seed: int) -> Tensor:
    return torch.randn(count, 4 * LEVELS, generator=torch.Generator().manual_seed(seed))


def expected(made: ScoredBatch, shares: list[float], weights: list[float], temperature: float) -> float:
    """Compute the loss in its plainest form, with every document of the batch."""
    total = 0.0
    for level in range(1, LEVELS + 1):
        logits = made.scorer.at(level=level).score(made.points) / temperature  # type: ignore[attr-defined]
        for query, row in enumerate(logits):
            fine = int(made.items[query, 0])
            coarse = fine if made.coarse is None or made.coarse[query] < 0 else int(made.coarse[query])
            others = [one for one in range(len(row)) if one not in (fine, coarse)]
            for positive, share in ((coarse, 1 - shares[level - 1]), (fine, shares[level - 1])):
                nce = cross_entropy(row[[positive, *others]][None], torch.tensor([0]))
                total += weights[level - 1] * share * float(nce) / len(logits)
    return total


def test_the_loss_is_the_weighted_sum_over_levels_and_positives() -> None:
    made = batch(drawn(2, 0), drawn(5, 1), [[0], [1]], [2, NO_DOCUMENT])
    loss = CoarseToFineLoss(CoarseToFineConfig(temperature=0.5))
    assert loss(made).item() == pytest.approx(expected(made, [0, 0.5, 1], [1 / 6, 1 / 3, 1 / 2], 0.5), rel=1e-5)
    config = CoarseToFineConfig(temperature=2, alpha_segments=(0.2, 0.2, 0.7), w_segments=(1, 0, 3))
    assert CoarseToFineLoss(config)(made).item() == pytest.approx(
        expected(made, [0.2, 0.2, 0.7], [0.25, 0, 0.75], 2), rel=1e-5
    )
    assert CoarseToFineLoss(CoarseToFineConfig(alpha_segments="0.2,0.2,0.7", w_segments="1,0,3", temperature=2))(
        made
    ).item() == pytest.approx(CoarseToFineLoss(config)(made).item())


@pytest.mark.parametrize("name", ["a", "b"])
def test_the_originals_losses_per_segment_and_total(golden: Path, name: str) -> None:
    path = golden / "hyperbolic" / f"hrm_refine_tiny_{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"the recording {path.name} is not here")
    with safe_open(path, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # not a mapping
    levels, size = config["num_segments"], config["d_hrm"]
    pooler = TokenAttentionPooler(config["d_base"], heads=config["pool_heads"], hidden_mult=config["pool_hidden_mult"])
    refinement = Refinement(
        config["d_base"],
        size,
        levels=levels,
        n_cycles=config["n_cycles"],
        t_low=config["t_low"],
        hidden_mult=config["hrm_hidden_mult"],
    )
    weights = {key.removeprefix("param."): value for key, value in tensors.items() if key.startswith("param.")}
    pooled = {key.removeprefix("pooler."): value for key, value in weights.items() if key.startswith("pooler.")}
    pooler.double().load_state_dict(pooled)
    refinement.double().load_state_dict({key: value for key, value in weights.items() if not key.startswith("pooler.")})
    radii = torch.tensor(radii_of_levels(config["s_scales"], levels), dtype=torch.float64)

    def tangents(role: str) -> Tensor:
        ids, mask = (tensors[f"batch.{role}_{part}"] for part in ("input_ids", "attention_mask"))
        states = tensors["token_table"][ids].flatten(0, -3)
        return at_radius(refinement(pooler(states, mask.flatten(0, -2))), radii).flatten(1).detach()

    space = Space("levels", size, levels=levels, radius_squared=1 / config["hyp_c"])
    queries, fine, coarse, negatives = (tangents(role) for role in ("q", "pf", "pc", "n"))
    count, own = len(queries), len(negatives) // len(queries)
    items = [[query, *(2 * count + query * own + one for one in range(own))] for query in range(count)]
    made = batch(queries, torch.cat([fine, coarse, negatives]), items, list(range(count, 2 * count)), space)

    def loss(**options: object) -> float:
        values = {"negatives": "own", "temperature": config["temperature"], **options}
        return CoarseToFineLoss(CoarseToFineConfig.from_mapping(values, source="here"))(made).item()

    assert loss() == pytest.approx(tensors["loss.total"].item(), rel=1e-5)
    for level, recorded in enumerate(tensors["loss.per_segment_coarse_fine"].tolist()):
        chosen = [float(one == level) for one in range(levels)]
        for share, value in enumerate(recorded):
            found = loss(w_segments=chosen, alpha_segments=[float(share)] * levels)
            assert found == pytest.approx(value, rel=1e-4)


def test_own_negatives_alone_ignore_the_rest_of_the_batch() -> None:
    queries, documents = drawn(2, 0), drawn(7, 1)
    items = [[0, 3], [1, 4]]
    loss = CoarseToFineLoss(CoarseToFineConfig(negatives="own"))
    whole = loss(batch(queries, documents, items, [2, 2]))
    documents[5:] = drawn(2, 9)
    assert loss(batch(queries, documents, items, [2, 2])).item() == whole.item()
    padded = loss(batch(queries[:1], documents, [[0, 3, NO_DOCUMENT]], [2]))
    assert padded.item() == pytest.approx(loss(batch(queries[:1], documents, [[0, 3]], [2])).item())
    assert loss(batch(queries, documents, [[0], [1]], [2, 2])).item() == 0


def test_known_and_likely_positives_are_no_negatives() -> None:
    queries, documents = drawn(1, 0), drawn(4, 1)
    made = batch(queries, documents, [[0]], [1])
    spared = replace(made, spared=torch.tensor([[3]]))
    without = batch(queries, documents[:3], [[0]], [1])
    loss = CoarseToFineLoss(CoarseToFineConfig())
    assert loss(spared).item() == pytest.approx(loss(without).item())
    assert loss(made).item() > loss(without).item()
    assert CoarseToFineLoss(CoarseToFineConfig(mask_known=False))(spared).item() == pytest.approx(loss(made).item())
    likely = CoarseToFineLoss(CoarseToFineConfig(false_negative_margin=-1e9))
    assert likely(made).item() == 0


def test_narrow_queries_are_compared_with_documents_of_every_level() -> None:
    made = batch(drawn(2, 0), drawn(5, 1), [[0], [1]], [2, 3])

    def loss(levels: object) -> float:
        config = CoarseToFineConfig.from_mapping({"levels": levels}, source="here")
        return CoarseToFineLoss(config)(made).item()

    pairs = [(level, level) for level in (1, 2, 3)] + [(3, 1), (3, 2)]
    assert loss("documents_coarser") == pytest.approx(loss(pairs))
    # Weights 1, 2 and 3 of the levels of documents, two of them twice.
    each = [loss([pair]) * pair[1] for pair in pairs]
    assert loss(pairs) == pytest.approx(sum(each) / 9, rel=1e-5)
    with pytest.raises(HyperseekError, match="has 3 levels"):
        loss([(4, 1)])


def test_lists_of_another_length_and_models_without_levels_are_refused() -> None:
    made = batch(drawn(1, 0), drawn(2, 1), [[0]], [1])
    with pytest.raises(HyperseekError, match="alpha_segments"):
        CoarseToFineLoss(CoarseToFineConfig(alpha_segments=(0, 1)))(made)
    plain = replace(made, scorer=LinearScorer(SPACE, SPACE.canonical(drawn(1, 0))))
    with pytest.raises(HyperseekError, match="'linear' scorers"):
        CoarseToFineLoss(CoarseToFineConfig())(plain)
    flat = Space("dot", 4)
    one = replace(made, scorer=LinearScorer(flat, torch.eye(4)[:1]), points=VectorPoints(torch.eye(4)[:2]))
    fine_alone = -math.log(math.e**20 / (math.e**20 + 0))
    assert CoarseToFineLoss(CoarseToFineConfig())(one).item() == pytest.approx(fine_alone, abs=1e-6)


def test_level_1_comes_to_rank_the_coarse_first_and_level_3_the_fine() -> None:
    torch.manual_seed(0)
    queries = torch.nn.Parameter(0.5 * drawn(6, 2))
    documents = torch.nn.Parameter(0.5 * drawn(9, 3))
    objective = Objective(
        LossesConfig.from_mapping({"coarse_to_fine": {"temperature": 0.3, "apart": 1.0}}, source="here")
    )
    assert objective.needs_coarse
    items, coarse = [[query] for query in range(6)], [6, 6, 7, 7, 8, 8]
    optimizer = torch.optim.Adam([queries, documents], lr=0.05)
    for _ in range(120):
        optimizer.zero_grad()
        objective(batch(queries, documents, items, coarse))[0].backward()
        optimizer.step()
    made = batch(queries, documents, items, coarse)
    for level, first in ((1, made.coarse), (LEVELS, made.items[:, 0])):
        ranked = made.scorer.at(level=level).score(made.points).argmax(1)  # type: ignore[attr-defined]
        assert first is not None
        assert ranked.tolist() == first.tolist()


def test_radii_are_ordered_at_the_levels_asked_for() -> None:
    queries, documents = torch.zeros(1, 4 * LEVELS), torch.zeros(2, 4 * LEVELS)
    queries[0, [0, 4, 8]] = torch.tensor([0.5, 1.0, 1.5])  # half the radii
    documents[:, [0, 4, 8]] = torch.tensor([[0.6, 0.9, 2.0], [0.7, 0.7, 0.7]])
    made = batch(queries, documents, [[0]], [1])

    def loss(**options: object) -> float:
        config = RadiusConfig.from_mapping({"margin": 0.0, **options}, source="here")
        return RadiusLoss(config)(made).item()

    assert loss(levels=[1]) == pytest.approx(0.2, abs=1e-6)
    assert loss(levels=[2]) == 0
    assert loss() == pytest.approx((0.2 + 0 + 1.0) / 3, abs=1e-6)
    assert loss(general="coarse", levels=[1]) == pytest.approx(0.2, abs=1e-6)
    assert loss(general="coarse", levels=[3]) == 0
    with pytest.raises(HyperseekError, match="the model has 3"):
        loss(levels=[4])
