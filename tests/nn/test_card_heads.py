"""Heads that cards generate: starts, gradients, Hydra's recordings, and cards that stay apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from hyperseek.nn.card_encoder import CardCompiler, CardFeatures, HydraCompiler, Whitening, distances, repeated
from hyperseek.nn.heads import HYDRA_RANK, GeneratedHead, HydraHead, HydraProjectionHead, build_head

DIMENSION = 12
HEADS = ("shift", "film", "low_rank", "full", "householder")
ENCODERS = ("attention", "statistics", "description", "text")


def units(*shape: int, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def features(seed: int, queries: int = 4, documents: int = 3) -> CardFeatures:
    return CardFeatures(
        units(DIMENSION, seed=seed), *(units(n, DIMENSION, seed=seed + n) for n in (queries, documents))
    )


def compiler_for(head: GeneratedHead, kind: str = "attention", *, gate: bool = True) -> CardCompiler:
    made = CardCompiler(DIMENSION, head.start(), width=16, kind=kind, gate=gate, whiten=True, seed=2)
    made.fit([features(seed) for seed in range(5)])
    return made


def asked(head: GeneratedHead, numbers: Tensor, x: Tensor) -> Tensor:
    return x + numbers[-1] * head.change(x, numbers[:-1])


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("name", HEADS)
def test_a_new_head_is_the_identity_and_all_of_it_can_learn(name: str, kind: str) -> None:
    head = build_head(name, DIMENSION, rank=3, seed=1)
    compiler = compiler_for(head, kind)
    x = units(5, DIMENSION)
    assert torch.equal(head(x, head.start()), x)
    result = asked(head, compiler(features(9), torch.tensor(0.3)), x)
    assert torch.equal(result, x)  # bit by bit, for every card
    (result * torch.randn(5, DIMENSION, generator=torch.Generator().manual_seed(3))).sum().backward()
    learned = dict(head.named_parameters(prefix="head")) | dict(compiler.named_parameters(prefix="compiler"))
    # Confidence scales a change, which is 0 at first: it is no part of the head, and learns once there is one.
    confidence = "compiler.encoder.confidence.level"
    assert {name for name, value in learned.items() if value.grad is None or not value.grad.any()} == {confidence}
    shifted = torch.randn(5, DIMENSION, generator=torch.Generator().manual_seed(3))
    torch.nn.init.normal_(compiler.last.weight)
    (asked(head, compiler(features(9), torch.tensor(0.3)), x) * shifted).sum().backward()
    assert learned[confidence].grad != 0


@pytest.mark.parametrize("name", HEADS)
def test_an_affine_head_is_its_matrix(name: str) -> None:
    head = build_head(name, DIMENSION, rank=3, seed=1)
    numbers = torch.randn(head.count, generator=torch.Generator().manual_seed(4))
    x = units(5, DIMENSION)
    matrix, bias = head.affine(numbers) or pytest.fail("affine")
    torch.testing.assert_close(x @ matrix + bias, head(x, numbers))
    assert not torch.allclose(head(x, numbers), x, atol=0.1)
    eye, zero = head.affine(head.start()) or pytest.fail("affine")
    assert torch.equal(eye, torch.eye(DIMENSION))
    assert not zero.any()


def test_a_rotation_keeps_lengths_and_angles() -> None:
    head = build_head("householder", DIMENSION, rank=3, seed=1)
    x = torch.randn(5, DIMENSION, dtype=torch.float64)
    numbers = torch.randn(head.count, dtype=torch.float64)
    turned = head.double()(x, numbers)
    torch.testing.assert_close(turned @ turned.T, x @ x.T)


def test_no_confidence_is_the_identity() -> None:
    head = build_head("low_rank", DIMENSION, rank=3, seed=1)
    compiler = compiler_for(head)
    torch.nn.init.normal_(compiler.last.weight)
    x = units(5, DIMENSION)
    assert not torch.allclose(asked(head, compiler(features(9), torch.tensor(0.0)), x), x)
    torch.testing.assert_close(asked(head, compiler(features(9), torch.tensor(100.0)), x), x)
    assert compiler_for(head, gate=False)(features(9), torch.tensor(0.3))[-1] == 1


def test_confidence_falls_with_the_distance_and_can_be_learned_alone() -> None:
    head = build_head("low_rank", DIMENSION, rank=3, seed=1)
    compiler = compiler_for(head)
    torch.nn.init.normal_(compiler.last.weight)
    found = [compiler(features(9), torch.tensor(distance))[-1] for distance in (0.0, 0.1, 0.3, 2.0)]
    assert found[0] == 1
    assert found == sorted(found, reverse=True)
    assert found[-1] > 0
    numbers = compiler(features(9), torch.tensor(0.3), confidence_alone=True)
    assert torch.equal(numbers, compiler(features(9), torch.tensor(0.3)))
    asked(head, numbers, units(5, DIMENSION)).sum().backward()
    with_gradient = {name for name, value in compiler.named_parameters() if value.grad is not None and value.grad.any()}
    assert with_gradient == {"encoder.confidence.level"}


def steps(head: GeneratedHead, compiler: torch.nn.Module, count: int) -> Tensor:
    """Train, and return the numbers of a card without its confidence."""
    card, x, goal = features(9), units(20, DIMENSION, seed=5), units(20, DIMENSION, seed=6)
    optimiser = torch.optim.AdamW([*head.parameters(), *compiler.parameters()], lr=0.01)
    for _ in range(count):
        optimiser.zero_grad()
        numbers = compiler(card, torch.tensor(0.0))
        torch.nn.functional.mse_loss(asked(head, numbers, x), goal).backward()
        optimiser.step()
    return compiler(card, torch.tensor(0.0))[:-1].detach()


def test_the_original_rests_on_a_saddle_and_ours_does_not(golden: Path) -> None:
    recorded = json.loads((golden / "hydra" / "golden.json").read_text())
    size = DIMENSION * HYDRA_RANK
    original = HydraHead(DIMENSION)
    numbers = steps(original, HydraCompiler(DIMENSION, original.count, width=16, hidden=16), 30)
    left, right, shift, alpha = original.parts(numbers)
    assert left.abs().max() == recorded["after_200_steps"]["A_absmax"] == 0
    assert right.abs().max() == recorded["after_200_steps"]["B_absmax"] == 0
    assert shift.abs().max() > 0.01  # all that it learns is a shift
    assert alpha != 0.5
    ours = build_head("low_rank", DIMENSION, rank=3, seed=1)
    left, right, shift = torch.split(steps(ours, compiler_for(ours), 30), [3 * DIMENSION, 3 * DIMENSION, DIMENSION])
    assert size == original.count // 2 - DIMENSION // 2
    assert min(part.abs().max() for part in (left, right, shift)) > 0.01


def test_hydras_generator_and_head_are_as_recorded(golden: Path) -> None:
    recorded = np.load(golden / "hydra" / "golden.npz")
    head = HydraHead(12)
    compiler = HydraCompiler(12, head.count, width=8, hidden=16)
    weights = load_file(golden / "hydra" / "head_gen_tiny.safetensors")
    compiler.param_gen.load_state_dict({name.removeprefix("param_gen."): value for name, value in weights.items()})
    x = torch.tensor(recorded["tiny/x"])
    with torch.no_grad():
        numbers = compiler.param_gen(torch.tensor(recorded["tiny/cond"]))[0]
        left, right, shift, alpha = head.parts(numbers)
        y = torch.nn.functional.normalize(head(x, numbers), dim=-1)
        matrix, bias = head.affine(numbers) or pytest.fail("affine")
        batch = compiler.param_gen(torch.tensor(recorded["tiny/cond_batch"]))
        each = torch.cat([head(row[None], own) for row, own in zip(x, batch, strict=True)])
    for name, value in (("A", left), ("B", right), ("bias", shift), ("alpha", alpha[None])):
        torch.testing.assert_close(value[None], torch.tensor(recorded[f"tiny/{name}"]), atol=1e-5, rtol=0)
    torch.testing.assert_close(y, torch.tensor(recorded["tiny/y"]), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.nn.functional.normalize(x @ matrix + bias, dim=-1), y, atol=1e-5, rtol=0)
    each = torch.nn.functional.normalize(each, dim=-1)
    torch.testing.assert_close(each, torch.tensor(recorded["tiny/y_batch"]), atol=1e-5, rtol=0)


def test_hydras_older_head_has_its_size_and_its_form() -> None:
    head = HydraProjectionHead(384)
    assert head.count == 99_072
    numbers = torch.randn(head.count, generator=torch.Generator().manual_seed(1))
    x = units(2, 384)
    matrix, bias, scale, shift = head.parts(numbers)
    z = x @ matrix + bias
    z = (z - z.mean(dim=1, keepdim=True)) / (z.var(dim=1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(head(x, numbers), z * (1 + scale) + shift, atol=1e-4, rtol=1e-4)
    assert head.affine(numbers) is None


def mean_cosine(vectors: Tensor) -> float:
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    count = len(unit)
    return float(((unit @ unit.T).sum() - count) / (count * (count - 1)))


def test_cards_stay_apart_where_hydras_projection_collapses_them(golden: Path) -> None:
    recorded = np.load(golden / "hydra" / "golden.npz")
    cards = torch.tensor(recorded["minilm/card_base_embeddings"])
    torch.testing.assert_close(cards @ cards.T, torch.tensor(recorded["minilm/card_cosine"]), atol=1e-5, rtol=0)
    original = HydraCompiler(384, HydraHead(384).count)
    weights = load_file(golden / "hydra" / "task_projection_minilm.safetensors")
    original.projection.load_state_dict({name.removeprefix("projection."): value for name, value in weights.items()})
    none = torch.empty(0, 384)
    given = [CardFeatures(card, none, none) for card in cards]
    ours = CardCompiler(384, torch.zeros(8), width=256, kind="text", gate=True, whiten=True, seed=0)
    with torch.no_grad():
        theirs = torch.stack([original.vector(card) for card in given])
        torch.testing.assert_close(theirs, torch.tensor(recorded["minilm/cond_untrained"]), atol=1e-5, rtol=0)
        before = mean_cosine(cards)
        plain = mean_cosine(torch.stack([ours.vector(card) for card in given]))
        ours.fit(given)
        whitened = mean_cosine(torch.stack([ours.vector(card) for card in given]))
    assert mean_cosine(theirs) == pytest.approx(0.974, abs=1e-3)
    assert before == pytest.approx(0.52, abs=1e-2)
    assert plain == pytest.approx(before, abs=0.05)  # our projection has no constant part
    assert whitened < 0


def test_whitening_centres_few_vectors_and_evens_out_many() -> None:
    stretched = (
        torch.randn(2000, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 1, 1, 1, 1, 0.5]) + 3
    )
    whitening = Whitening(6)
    assert torch.equal(whitening(stretched), stretched)
    whitening.fit(stretched)
    spread = torch.cov(whitening(stretched).T)
    torch.testing.assert_close(spread / spread.diagonal().mean(), torch.eye(6), atol=0.35, rtol=0)
    few = Whitening(6)
    few.fit(stretched[:1])
    assert torch.equal(few(stretched), stretched)
    few.fit(stretched[:2])
    assert few(stretched[:2]).mean(dim=0).abs().max() < 1e-5
    assert few.matrix.isfinite().all()


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_card_without_examples_is_encoded(kind: str) -> None:
    compiler = compiler_for(build_head("film", DIMENSION, rank=3, seed=1), kind)
    empty = CardFeatures(units(DIMENSION), torch.empty(0, DIMENSION), torch.empty(0, DIMENSION))
    vector = compiler.vector(empty).detach()
    assert float(vector.square().mean()) == pytest.approx(1, abs=1e-5)
    reads_sets = kind in ("attention", "statistics")
    other = CardFeatures(empty.description, units(2, DIMENSION), empty.documents)
    assert torch.allclose(compiler.vector(other), vector) != reads_sets


def test_distances_compare_what_two_cards_have() -> None:
    zero = torch.zeros(DIMENSION)
    one = [units(DIMENSION, seed=seed) for seed in range(3)]
    others = [one, [one[0], zero, zero], [-one[0], zero, one[2]], [-part for part in one]]
    found = distances(one, torch.stack([torch.stack(other) for other in others]))
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 1.0, 2.0]), atol=1e-6, rtol=0)
    assert len(distances(one, torch.empty(0, 3, DIMENSION))) == 0


def test_repeated_states_differ_in_their_signs() -> None:
    rows = repeated(torch.ones(16), 16 * 8).view(8, 16)
    assert len({tuple(row.tolist()) for row in rows}) > 2
    assert set(rows.flatten().tolist()) == {-1.0, 1.0}
