"""Maps, distances and poolings against recorded float64 values, at the tolerances that were recorded with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hyperseek import geometry
from hyperseek.geometry._midpoints import einstein_midpoint, outward_weights

LORENTZ = ["R2_0.1", "R2_1.0", "curv_0.1", "curv_1.0"]
POWERS = [0.0, 0.5, 1.0, 2.0, 4.0]


def recorded(golden: Path, name: str, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    path = golden / "hyperbolic" / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return {key: torch.tensor(value, dtype=dtype) for key, value in np.load(path).items()}


def close(found: Tensor, wanted: Tensor, *, rtol: float = 1e-9, atol: float = 1e-9) -> None:
    torch.testing.assert_close(found, wanted.to(found.dtype), rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", LORENTZ)
def test_lorentz_maps(golden: Path, name: str) -> None:
    r = recorded(golden, f"lorentz_{name}")
    r2 = float(r["radius_sq"])
    x = geometry.lorentz_expmap0(r["u"], r2)
    close(x, r["x"])
    close(x[0], r["x"][0], atol=1e-12)
    close(geometry.lorentz_logmap0(r["x"], r2), r["log0_x"])
    close(geometry.lorentz_logmap0(r["y"], r2), r["log0_y"])
    close(geometry.lorentz_logmap0(x, r2)[:2], r["u"][:2], atol=1e-12)
    close(geometry.lorentz_from_space(r["u"], r2), r["add_time_u"])
    close(geometry.lorentz_project(r["add_time_u"] * torch.tensor([2.0] + [1.0] * 8), r2), r["add_time_u"])
    origin = torch.zeros_like(r["x"])
    origin[:, 0] = r2**0.5
    close(geometry.lorentz_transport(origin, r["x"], r["w_tan"], r2), r["ptransp_o_to_x"])
    close(geometry.lorentz_distance(origin, r["x"], r2), r["dist0_x"])
    # Farther out the recorded points themselves do not hold what the recorded logarithm says.
    near = (r["u"].norm(dim=1) <= 4 * r2**0.5) & (r["v"].norm(dim=1) <= 4 * r2**0.5)
    assert near.sum() >= 4
    close(geometry.lorentz_logmap(r["y"], r["x"], r2)[near], r["log_y_x"][near], rtol=1e-8, atol=1e-8)
    close(geometry.lorentz_expmap(r["y"], r["log_y_x"], r2)[near], r["x"][near], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", LORENTZ)
def test_lorentz_products_and_distances(golden: Path, name: str) -> None:
    r = recorded(golden, f"lorentz_{name}")
    r2 = float(r["radius_sq"])
    close(geometry.lorentz_distance_matrix(r["x"], r["y"], r2), r["pairwise_dist"])
    close(geometry.lorentz_distance(r["x"], r["y"], r2), r["dist_xy"])
    close(geometry.lorentz_squared_distance_matrix(r["x"], r["y"], r2), r["pairwise_sq_lorentz"])
    # A product of coordinates cannot be better than their own rounding.
    size = r["x"].norm(dim=1)[:, None] * r["y"].norm(dim=1)
    inner = geometry.lorentz_inner_matrix(r["x"], r["y"])
    assert ((inner - r["pairwise_inner"]).abs() <= 1e-9 + 1e-15 * size).all()
    close(geometry.lorentz_inner(r["x"], r["y"]), inner.diagonal(), rtol=1e-9, atol=1e-15 * float(size.max()))


@pytest.mark.parametrize("name", LORENTZ)
def test_charts(golden: Path, name: str) -> None:
    r = recorded(golden, f"lorentz_{name}")
    r2 = float(r["radius_sq"])
    close(geometry.lorentz_to_poincare(r["x"], r2), r["poincare_x"])
    close(geometry.lorentz_to_poincare(r["y"], r2), r["poincare_y"])
    close(geometry.lorentz_to_poincare(r["x"], r2) / r2**0.5, r["poincare_unit_x"])
    close(geometry.lorentz_to_klein(r["x"], r2), r["klein_x"])
    # A ball's coordinates hold a far point to 1e-16 cosh² of its distance only.
    slack = 1e-15 * (r["x"][:, :1] / r2**0.5).square().clamp_min(1)
    for found in (
        geometry.poincare_to_lorentz(r["poincare_x"], r2),
        geometry.klein_to_lorentz(r["klein_x"], r2),
    ):
        assert ((found - r["back_from_poincare_x"]).abs() <= 1e-9 + slack * r["x"][:, :1]).all()


@pytest.mark.parametrize("name", LORENTZ)
def test_lorentz_in_float32(golden: Path, name: str) -> None:
    r = recorded(golden, f"lorentz_{name}")
    r2 = float(r["radius_sq"])
    near_u, near_v = (r[key].norm(dim=1) <= 5 * r2**0.5 for key in ("u", "v"))
    x = geometry.lorentz_expmap0(r["u"].float(), r2)
    assert x.dtype == torch.float32
    y = geometry.lorentz_expmap0(r["v"].float(), r2)
    close(x[near_u], r["x"][near_u], rtol=2e-5, atol=1e-6)
    distance = geometry.lorentz_distance_matrix(x, y, r2)[near_u][:, near_v]
    close(distance, r["pairwise_dist"][near_u][:, near_v], rtol=2e-5, atol=1e-6)
    close(geometry.lorentz_logmap0(x, r2)[near_u], r["u"][near_u], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["0.1", "1.0"])
def test_poincare(golden: Path, name: str) -> None:
    r = recorded(golden, f"poincare_c_{name}")
    c = float(name)
    close(geometry.poincare_expmap0(r["u"], c), r["a"])
    close(geometry.poincare_logmap0(r["a"], c), r["log0_a"], atol=1e-8)
    close(geometry.poincare_conformal_factor(r["a"], c), r["conformal_factor_a"], rtol=1e-8)
    close(geometry.poincare_distance_matrix(r["a"], r["b"], c), r["pairwise_dist_from_float64_points"])
    close(geometry.poincare_distance(r["a"], torch.zeros_like(r["a"]), c), r["dist0_a"], atol=1e-8)
    close(geometry.mobius_add(r["a"], r["b"], c), r["mobius_add_ab"])
    close(geometry.lorentz_expmap0(2 * r["u"], 1 / c), r["lorentz_a"])
    close(geometry.lorentz_to_poincare(r["lorentz_b"], 1 / c), r["b"])
    # Poincaré's distance is the hyperboloid's.
    close(geometry.lorentz_distance_matrix(r["lorentz_a"], r["lorentz_b"], 1 / c), r["pairwise_dist"])
    near = (r["u"].norm(dim=1) <= 2.5 / c**0.5) & (r["v"].norm(dim=1) <= 2.5 / c**0.5)
    single = geometry.poincare_distance(r["a"].float(), r["b"].float(), c)
    close(single[near], r["pairwise_dist"].diagonal()[near], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("name", ["0.1", "1.0"])
def test_midpoints(golden: Path, name: str, power: float, dtype: torch.dtype) -> None:
    r = recorded(golden, f"pooling_R2_{name}")
    x, mask = r["x"].to(dtype), r["mask"] > 0
    options: dict[str, Any] = {"power": power, "radius_squared": float(r["radius_sq"])}
    slack = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 2e-5, "atol": 2e-6}
    pooled = geometry.outward_einstein_midpoint(x, mask, **options)
    close(pooled, r[f"oem_klein_p{power}"], **slack)
    close(einstein_midpoint(x, mask, **options), pooled, rtol=0, atol=0)
    close(geometry.outward_einstein_midpoint(x, **options), r[f"oem_klein_nomask_p{power}"], **slack)
    klein = outward_weights(x, mask, **options | {"power": power + 1})
    close(klein, r[f"oem_klein_weights_p{power}"], **slack)
    # What the paper calls p is our power - 1.
    paper = geometry.outward_einstein_midpoint(x, mask, **options | {"power": power + 1})
    close(paper, r[f"oem_ambient_paper_p{power}"], **slack)


@pytest.mark.parametrize("name", ["0.1", "1.0"])
def test_other_poolings(golden: Path, name: str) -> None:
    r = recorded(golden, f"pooling_R2_{name}")
    x, mask, r2 = r["x"], r["mask"], float(r["radius_sq"])
    saturated = geometry.outward_einstein_midpoint(x, mask, power=2.0, saturation=0.5, radius_squared=r2)
    close(saturated, r["oem_klein_p2.0_beta0.5"])
    close(geometry.lorentz_centroid(x, None, mask, r2), r["lorentz_centroid_uniform"])
    close(geometry.lorentz_centroid(x, 7 * mask, None, r2), r["lorentz_centroid_uniform"])
    close(einstein_midpoint(x, mask, radius_squared=r2), r["lorentz_centroid_uniform"])
    share = (mask / mask.sum(1, keepdim=True))[..., None]
    close(geometry.lorentz_from_space((share * x[..., 1:]).sum(1), r2), r["space_mean_relift"])
    tangents = (share * geometry.lorentz_logmap0(x, r2)).sum(1)
    close(geometry.lorentz_expmap0(tangents, r2), r["tangent_mean"])
    weights = outward_weights(x, mask, power=0, radius_squared=r2)
    close((weights * x[..., 0]).sum(1), r["mean_radius_x0"])
    kept = geometry.outward_einstein_midpoint(x, mask, power=0, keep_radius=True, radius_squared=r2)
    close(kept[:, 0], r["mean_radius_x0"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_larger_power_is_not_always_outward_but_is_where_the_radius_is_kept(golden: Path, dtype: torch.dtype) -> None:
    r = recorded(golden, "oem_outward_counterexample")
    x = r["x"].to(dtype)
    times, kept = [], []
    for power in (0.0, 1.0, 2.0, 4.0):
        pooled = geometry.outward_einstein_midpoint(x, power=power)
        close(pooled, r[f"oem_klein_p{power}"], rtol=1e-9 if dtype == torch.float64 else 2e-5, atol=1e-9)
        times.append(float(geometry.lorentz_logmap0(pooled).norm()))
        kept.append(float(geometry.outward_einstein_midpoint(x, power=power, keep_radius=True)[0]))
    assert times == sorted(times, reverse=True)
    assert times[0] > 1.5 * times[1]
    assert kept == sorted(kept)
    assert kept[0] >= float(r["mean_x0"]) * (1 - 1e-6)
