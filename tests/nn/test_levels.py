"""Pooling, refinement, radii and schedules of models with levels, against recordings of the original."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from hyperseek.errors import InputError, UnknownNameError
from hyperseek.geometry import poincare_expmap0
from hyperseek.geometry.polar import polar_distance_own
from hyperseek.nn.levels import (
    LinearLevels,
    MLPLevels,
    RadiusHead,
    Refinement,
    TokenAttentionPooler,
    at_radius,
    build_levels,
    fine_shares,
    radii_of_levels,
    weights_of_levels,
)

ROLES = ("q", "pc", "pf", "n")


class Recording:
    """A recording of the original, and our modules with its weights, in float64."""

    def __init__(self, path: Path, grad_window: int = 0) -> None:
        with safe_open(path, framework="pt") as file:
            self.config: dict[str, Any] = json.loads(file.metadata()["config"])
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        config, size = self.config, self.config["d_base"]
        self.pooler = TokenAttentionPooler(
            size, heads=config["pool_heads"], hidden_mult=config["pool_hidden_mult"]
        ).double()
        self.refinement = Refinement(
            size,
            config["d_hrm"],
            levels=config["num_segments"],
            n_cycles=config["n_cycles"],
            t_low=config["t_low"],
            hidden_mult=config["hrm_hidden_mult"],
            grad_window=grad_window,
        ).double()
        weights = {k.removeprefix("param."): tensor for k, tensor in self.tensors.items() if k.startswith("param.")}
        self.pooler.load_state_dict(
            {k.removeprefix("pooler."): tensor for k, tensor in weights.items() if k.startswith("pooler.")}
        )
        self.refinement.load_state_dict({k: v for k, v in weights.items() if not k.startswith("pooler.")})
        self.radii = torch.tensor(radii_of_levels(config["s_scales"], config["num_segments"]), dtype=torch.float64)

    def states(self, role: str) -> tuple[Tensor, Tensor]:
        ids, mask = (self.tensors[f"batch.{role}_{part}"] for part in ("input_ids", "attention_mask"))
        return self.tensors["token_table"][ids].flatten(0, -3), mask.flatten(0, -2)

    def tangents(self, role: str) -> Tensor:
        return at_radius(self.refinement(self.pooler(*self.states(role))), self.radii)

    def distances(self, level: int, positives: str) -> Tensor:
        """Return (Q, 1 + K) distances from queries to one positive and the negatives."""
        queries, chosen, negatives = (self.tangents(role)[:, level] for role in ("q", positives, "n"))
        documents = torch.cat([chosen[:, None], negatives.unflatten(0, (len(queries), -1))], dim=1)
        return polar_distance_own(polar(queries), polar(documents))

    def loss(self) -> Tensor:
        config, total = self.config, torch.zeros((), dtype=torch.float64)
        levels = config["num_segments"]
        shares, weights = fine_shares(config["alpha"], levels), weights_of_levels(config["w_segments"], levels)
        for level in range(levels):
            for positives, share in (("pc", 1 - shares[level]), ("pf", shares[level])):
                logits = -self.distances(level, positives) / config["temperature"]
                first = torch.zeros(len(logits), dtype=torch.long)
                total = total + weights[level] * share * nn.functional.cross_entropy(logits, first)
        return total


def polar(tangents: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(tangents, dim=-1, keepdim=True)
    return torch.cat([tangents / norms, 2 * norms, 0 * norms], dim=-1)


@pytest.fixture(params=["a", "b"])
def recording(golden: Path, request: pytest.FixtureRequest) -> Path:
    path = golden / "hyperbolic" / f"hrm_refine_tiny_{request.param}.safetensors"
    if not path.is_file():
        pytest.skip(f"the recording {path.name} is not here")
    return path


def close(ours: Tensor, theirs: Tensor, rtol: float = 1e-9) -> None:
    torch.testing.assert_close(ours.detach(), theirs, rtol=rtol, atol=1e-9, check_dtype=False)


def test_pooling_and_refinement_give_the_originals_numbers(recording: Path) -> None:
    made = Recording(recording)
    states, mask = made.states("q")
    pooled = made.pooler(states, mask)
    close(made.pooler.attention(states, mask), made.tensors["q.pool_attention"])
    close(pooled, made.tensors["q.pooled"])
    close(made.refinement.in_proj(pooled), made.tensors["q.u0"])
    raw = made.refinement(pooled)
    tangents = at_radius(raw, made.radii)
    for level in range(made.config["num_segments"]):
        close(raw[:, level], made.tensors[f"q.tangent.{level + 1}"])
        close(poincare_expmap0(tangents[:, level], made.config["hyp_c"]), made.tensors[f"q.point.{level + 1}"])


def test_distances_and_loss_give_the_originals_numbers(recording: Path) -> None:
    made = Recording(recording)
    for level in range(made.config["num_segments"]):
        for kind, role in (("coarse", "pc"), ("fine", "pf")):
            close(made.distances(level, role), made.tensors[f"dist.seg{level + 1}.{kind}"])
    close(made.loss()[None], made.tensors["loss.total"])


@pytest.mark.parametrize(("window", "name"), [(0, "full"), (1, "window1")])
def test_gradients_have_the_originals_norms(recording: Path, window: int, name: str) -> None:
    made = Recording(recording, grad_window=window)
    made.loss().backward()
    ours = {f"pooler.{key}": weight.grad for key, weight in made.pooler.named_parameters()}
    ours |= {key: weight.grad for key, weight in made.refinement.named_parameters()}
    prefix = f"seed.gradnorm.{name}."
    for key in [key for key in made.tensors if key.startswith(prefix)]:
        gradient = ours[key.removeprefix(prefix)]
        norm = torch.zeros(()) if gradient is None else gradient.norm()
        # The recorded ones are those of distances in float32.
        close(norm.reshape(1), made.tensors[key], rtol=1e-4)


def test_schedules_default_as_the_original_does(golden: Path) -> None:
    recorded = json.loads((golden / "hyperbolic" / "hrm_misc.json").read_text())["defaults"]
    for ours, theirs in ((radii_of_levels, "s_scales"), (weights_of_levels, "w_segments"), (fine_shares, "alpha")):
        for levels, values in recorded[theirs].items():
            assert ours("", int(levels)) == ours(None, int(levels)) == pytest.approx(values)


def test_schedules_are_read_from_lists_and_from_the_originals_texts() -> None:
    assert radii_of_levels("1, 2,4,7", 4) == radii_of_levels([1, 2, 4, 7], 4) == (1, 2, 4, 7)
    assert weights_of_levels("1,1,2", 3) == (0.25, 0.25, 0.5)
    assert fine_shares([0, 0.5], 2) == (0, 0.5)


@pytest.mark.parametrize(
    ("schedule", "given", "said"),
    [
        (radii_of_levels, [1, 2], "for each of the 3 levels, not 2"),
        (radii_of_levels, [1, 3, 2], "rise"),
        (radii_of_levels, [0, 1, 2], "positive"),
        (radii_of_levels, "1,2,inf", "finite"),
        (radii_of_levels, "1,two,3", "must be numbers"),
        (radii_of_levels, [1, 2, 10**400], "must be numbers"),
        (radii_of_levels, {1, 2, 3}, "must be numbers"),
        (radii_of_levels, b"1,2", "must be numbers"),
        (radii_of_levels, torch.ones(3), "must be numbers"),
        (weights_of_levels, [True, 2, 3], "must be numbers"),
        (weights_of_levels, [0, 0, 0], "not all of them 0"),
        (weights_of_levels, [1, -1, 1], "at least 0"),
        (weights_of_levels, [1, float("nan"), 1], "finite"),
        (fine_shares, [0, 0.5, 1.5], "shares in"),
    ],
)
def test_wrong_schedules_are_refused_in_words(schedule: Any, given: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        schedule(given, 3)


@pytest.mark.parametrize("refinement", ["hrm", "linear", "mlp"])
@pytest.mark.parametrize("dimension", [None, 6])
def test_all_refinements_start_at_their_input(refinement: Any, dimension: int | None) -> None:
    made = build_levels(refinement, 8, 12, dimension, levels=3, start="trunk")
    vectors = torch.randn(5, 8)
    tangents = made(vectors)
    assert tangents.shape == (5, 3, dimension or 12)
    torch.testing.assert_close(tangents[:, 0], tangents[:, 2])
    if dimension is None:  # an isometry: angles are those of the trunk
        torch.testing.assert_close(tangents[:, 1] @ tangents[:, 1].T, vectors @ vectors.T, rtol=1e-4, atol=1e-4)


def test_segments_are_trained_apart() -> None:
    made = build_levels("hrm", 4, 6, levels=3, seed=1)
    assert isinstance(made, Refinement)
    made(torch.randn(3, 4))[:, 1].sum().backward()
    assert made.z0_H.grad is not None
    assert not made.z0_H.grad.any()
    assert made.low_mlp[1].weight.grad.any()


@pytest.mark.parametrize(("levels", "n_cycles", "t_low"), [(4, 2, 2), (2, 3, 1), (6, 1, 2)])
def test_the_mlp_is_as_large_as_the_recurrence(levels: int, n_cycles: int, t_low: int) -> None:
    kinds = ("hrm", "mlp")
    sizes = [
        sum(
            weight.numel()
            for weight in build_levels(kind, 32, 64, levels=levels, n_cycles=n_cycles, t_low=t_low).parameters()  # type: ignore[arg-type]
        )
        for kind in kinds
    ]
    assert abs(sizes[1] / sizes[0] - 1) < 0.02


def test_the_mlp_trains_every_block_through_its_last_level() -> None:
    made = build_levels("mlp", 4, 6, levels=2)
    assert isinstance(made, MLPLevels)
    made(torch.randn(3, 4))[:, 1].sum().backward()
    assert all(weight.grad is not None for weight in made.parameters())


def test_linear_levels_learn_different_maps() -> None:
    made = LinearLevels(4, 4, levels=2, start="trunk")
    made(torch.randn(3, 4))[:, 1].sum().backward()
    first, second = (level.weight.grad for level in made.maps)
    assert not first.any()  # type: ignore[union-attr]
    assert second.any()  # type: ignore[union-attr]


def test_an_unknown_refinement_is_named() -> None:
    with pytest.raises(UnknownNameError, match="hrm"):
        build_levels("gru", 4, 4)  # type: ignore[arg-type]


def test_the_radius_starts_at_the_schedule_and_keeps_to_its_band() -> None:
    radii = (1.0, 2.0, 5.0)
    head = RadiusHead(4, radii)
    vectors = 100 * torch.randn(1000, 4)
    torch.testing.assert_close(head(vectors), torch.tensor(radii).expand(1000, 3))
    nn.init.normal_(head.net[-1].weight, std=100)  # type: ignore[arg-type]
    found = head(vectors)
    assert found.amin(0).tolist() == pytest.approx([0.5, 1.5, 3.5])
    assert found.amax(0).tolist() == pytest.approx([1.5, 3.5, 6.5])


@pytest.mark.parametrize("band", [0, 2, float("nan")])
def test_a_band_that_reaches_the_origin_is_refused(band: float) -> None:
    with pytest.raises(InputError, match="above 0 and below 2"):
        RadiusHead(4, (1.0, 2.0), band=band)


def test_zero_tangents_stay_zero_with_finite_gradients() -> None:
    tangents = torch.zeros(2, 3, 4, requires_grad=True)
    at_radius(tangents, torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert tangents.grad is not None
    assert tangents.grad.isfinite().all()


def test_pooling_starts_as_a_mean_and_sees_no_padding() -> None:
    pooler = TokenAttentionPooler(8, heads=2, start="trunk")
    states, mask = torch.randn(2, 5, 8), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    torch.testing.assert_close(pooler(states, mask)[0], states[0, :3].mean(0))
    trained = TokenAttentionPooler(8, heads=2)
    torch.testing.assert_close(trained(states, mask)[:1], trained(states[:1, :3], mask[:1, :3]))
