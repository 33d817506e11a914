from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hyperseek import HyperseekError
from hyperseek.nn.tangent_projection import Curvature, TangentProjection


@pytest.mark.parametrize("clip", ["10.0", "2.0", "0.5"])
def test_tangent_vectors_of_the_original(golden: Path, clip: str) -> None:
    recorded = np.load(golden / f"hyperbolic/hybrid_projection_clip_{clip}.npz")
    values = {name: torch.from_numpy(np.asarray(recorded[name])) for name in recorded}
    module = TangentProjection(12, 8, norm_clip=float(clip), radius_start=0.1).double()
    torch.testing.assert_close(module.norm_scaler, values["norm_scaler"], rtol=1e-7, atol=0)
    module.load_state_dict(
        {"projection.weight": values["W"], "projection.bias": values["b"], "norm_scaler": values["norm_scaler"]}
    )
    tangent = module(values["h"])
    torch.testing.assert_close(tangent, values["tangent"], rtol=1e-9, atol=1e-9)
    before = torch.linalg.vector_norm((values["h"] @ values["W"].T + values["b"]) * values["norm_scaler"], dim=-1)
    assert module.clipped is not None
    assert torch.equal(module.clipped, before > float(clip))


def test_a_radius_head_alone_decides_on_the_radius() -> None:
    module = TangentProjection(6, 4, radius="head", radius_start=1.5)
    states = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(module(states).norm(dim=-1), torch.full((5,), 1.5))
    torch.nn.init.ones_(module.radius_head.weight)  # type: ignore[union-attr]
    radii = module(states).norm(dim=-1)
    assert torch.equal(radii.argsort(), states.sum(1).argsort())
    # Nothing is trained that gets no gradient.
    unscaled = TangentProjection(6, 4, radius="head", trainable_norm_scale=True)
    unscaled(states).sum().backward()
    assert all(parameter.grad is not None for parameter in unscaled.parameters() if parameter.requires_grad)


def test_de_layer_norm_gives_back_lengths() -> None:
    module = TangentProjection(6, 6, de_layer_norm=True, norm_scale=1.0, norm_clip=50.0)
    states = torch.nn.functional.layer_norm(torch.randn(5, 6, generator=torch.Generator().manual_seed(0)), (6,))
    torch.nn.init.ones_(module.delayer_norm.learnable_norm_scaler.weight)  # type: ignore[union-attr]
    torch.nn.init.constant_(module.delayer_norm.layer_norm.bias, 0.0)  # type: ignore[union-attr]
    states = states + torch.arange(5.0)[:, None] / 6
    expected = torch.nn.functional.layer_norm(states, (6,)).norm(dim=-1) * (1 + states.sum(1))
    torch.testing.assert_close(module(states).norm(dim=-1), expected, rtol=1e-4, atol=1e-5)


def test_the_same_seed_draws_the_same_and_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    first, second = TangentProjection(6, 4, projection="mlp", seed=3), TangentProjection(6, 4, projection="mlp", seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])


def test_curvature_is_put_back_into_its_bounds_in_training() -> None:
    curvature = Curvature(1.0, trainable=True, least=0.5, most=2.0)
    with torch.no_grad():
        curvature.log_radius_squared.fill_(3.0)
    value = curvature.train()()
    assert value.item() == pytest.approx(2.0)
    value.backward()
    assert curvature.log_radius_squared.grad == pytest.approx(2.0)


def test_a_fixed_curvature_is_saved_and_not_trained() -> None:
    curvature = Curvature(0.25)
    assert not curvature.trainable
    assert not list(curvature.parameters())
    assert curvature.state_dict().keys() == {"log_radius_squared"}
    assert curvature.radius_squared == pytest.approx(0.25)


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(HyperseekError, match="radius_squared"):
        Curvature(11.0)
    with pytest.raises(HyperseekError, match="radius_start"):
        TangentProjection(4, 4, norm_clip=1.0, radius_start=2.0)
    with pytest.raises(HyperseekError, match="projection"):
        TangentProjection(4, 4, projection="quadratic")  # type: ignore[arg-type]
