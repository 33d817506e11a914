"""Fully hyperbolic layers, against the recorded numbers and their own promises."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from hyperseek import HyperseekError
from hyperseek.geometry import lorentz_from_space, lorentz_inner
from hyperseek.nn.lorentz import (
    NORMS,
    POOLINGS,
    LorentzAttention,
    LorentzBlock,
    LorentzDynamicTanh,
    LorentzEmbeddings,
    LorentzFeedForward,
    LorentzLayerNorm,
    LorentzLinear,
    LorentzMLR,
    LorentzMultiHeadLinear,
    LorentzPooler,
    LorentzPredictionHead,
    LorentzRadiusFactor,
    LorentzResidual,
    LorentzRMSNorm,
    rotary_table,
    rotate,
)

EXACT = {"rtol": 1e-9, "atol": 1e-9}
RADII = [0.1, 1.0, 2.5]


@pytest.fixture(scope="module")
def values(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "hyperbolic" / "lorentz_layers_R2_1.safetensors")


def with_weights(layer: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    layer = layer.double()
    layer.load_state_dict({name: weights[name].reshape(own.shape) for name, own in layer.state_dict().items()})
    return layer


def under(values: dict[str, Tensor], prefix: str, **renamed: str) -> dict[str, Tensor]:
    found = {name.removeprefix(prefix): tensor for name, tensor in values.items() if name.startswith(prefix)}
    return {**found, **{ours.replace("__", "."): found[theirs] for ours, theirs in renamed.items()}}


def points(*shape: int, radius_squared: float = 1.0, scale: float = 1.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return lorentz_from_space(torch.randn(*shape[:-1], shape[-1] - 1, generator=generator) * scale, radius_squared)


def on_hyperboloid(found: Tensor, radius_squared: float) -> None:
    expected = torch.linalg.vector_norm(found[..., 1:], dim=-1).hypot(torch.tensor(radius_squared).sqrt())
    torch.testing.assert_close(found[..., 0], expected.to(found.dtype), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "prefix", "renamed"),
    [
        (LorentzLinear(16, 12), "linear.", {"linear__weight": "weight", "linear__bias": "bias"}),
        (LorentzRMSNorm(16), "rms.", {}),
        (LorentzLayerNorm(16), "ln.", {"layer__weight": "weight", "layer__bias": "bias"}),
        (LorentzDynamicTanh(16), "dyt.", {}),
        (LorentzFeedForward(16, 24), "ff.", {}),
    ],
    ids=["linear", "rms_norm", "layer_norm", "dyt_norm", "feed-forward"],
)
def test_layers_reproduce_the_recorded_numbers(
    values: dict[str, Tensor], layer: nn.Module, prefix: str, renamed: dict[str, str]
) -> None:
    layer = with_weights(layer, under(values, prefix, **renamed))
    torch.testing.assert_close(layer(values["x"]), values[f"{prefix}out"], **EXACT)


def test_residuals_classifier_and_pooling_reproduce_the_recorded_numbers(values: dict[str, Tensor]) -> None:
    for name, scale in (("res", 1.0), ("res_scaled", 16.0)):
        residual = with_weights(LorentzResidual(scale=scale), under(values, "res."))
        torch.testing.assert_close(residual(values["x"], values["y"]), values[f"{name}.out"], **EXACT)
    classifier = with_weights(LorentzMLR(16, 9), under(values, "mlr."))
    torch.testing.assert_close(classifier(values["x"]), values["mlr.logits"], **EXACT)
    renamed = {
        f"{name}__linear__{part}": f"{name}.{part}" for name in ("q_proj", "kv_proj") for part in ("weight", "bias")
    }
    pooler = with_weights(LorentzPooler("attentive_mean", 16), under(values, "attnpool.", **renamed))
    torch.testing.assert_close(pooler(values["x"], values["attnpool.mask"]), values["attnpool.out"], **EXACT)


@pytest.mark.parametrize("radius_squared", RADII)
def test_all_layers_end_on_the_hyperboloid_they_were_told(radius_squared: float) -> None:
    torch.manual_seed(0)
    x, y = (points(2, 5, 16, radius_squared=radius_squared, seed=seed) for seed in (0, 1))
    rotary = rotary_table(torch.arange(5)[None], 7)
    ends = [LorentzLinear(16, 9)(x, radius_squared), LorentzResidual(scale=3.0)(x, y, radius_squared)]
    ends += [LorentzMultiHeadLinear(16, 8, 2)(x, radius_squared, rotary)]
    ends += [make(16)(x, radius_squared) for make in NORMS.values()]
    ends += [LorentzFeedForward(16, 24)(x, radius_squared), LorentzPredictionHead(16)(x, radius_squared)]
    ends += [LorentzEmbeddings(16, 9, positions=9, types=2)(*torch.ones(2, 2, 5).long(), None, radius_squared)]
    ends += [LorentzRadiusFactor(16)(x, radius_squared)]
    for scores in ("lorentz_inner", "distance"):
        ends += [LorentzBlock(16, 2, attention_scores=scores)(x, radius_squared, rotary=rotary)]
    ends += [LorentzPooler(pooling, 16)(x, torch.ones(2, 5), radius_squared) for pooling in POOLINGS]
    for found in ends:
        on_hyperboloid(found, radius_squared)


def test_rotations_depend_on_differences_of_positions_alone() -> None:
    q, k = (torch.randn(1, 2, 6, 7, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    products = []
    for start in (0, 100):
        table = rotary_table(torch.arange(start, start + 6)[None], 7)
        products.append(rotate(q, table) @ rotate(k, table).mT)
    torch.testing.assert_close(*products, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(rotate(q, table).norm(dim=-1), q.norm(dim=-1))


def test_every_pair_turns_at_its_own_speed_unless_the_originals_table_is_wanted() -> None:
    position = torch.tensor([[1]])
    speeds = {style: rotary_table(position, 8, style=style).sines[0, 0].asin() for style in ("standard", "original")}
    assert len(set(speeds["standard"].tolist())) == 4
    assert len(set(speeds["original"].tolist())) == 2
    with pytest.raises(HyperseekError, match="rotary style"):
        rotary_table(position, 8, style="interleaved")  # type: ignore[arg-type]


@pytest.mark.parametrize("scores", ["lorentz_inner", "distance"])
@pytest.mark.parametrize("radius_squared", RADII)
def test_attention_is_the_centroid_by_the_scores_it_names(scores: str, radius_squared: float) -> None:
    torch.manual_seed(0)
    attention = LorentzAttention(12, 2, scores=scores, query_key_norm=True).double()  # type: ignore[arg-type]
    x = points(2, 4, 12, radius_squared=radius_squared).double()
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]).bool()[:, None, None]
    found = attention(x, radius_squared, mask=mask)
    rows = []
    for text, allowed in zip(x, mask[:, 0, 0], strict=True):
        heads = []
        for head in range(2):
            q, k, v = (
                (text @ layer.linear.weight.T + layer.linear.bias).reshape(4, 2, 5)[:, head]
                for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            q, k = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
            q, k, v = (lorentz_from_space(part, radius_squared) for part in (q, k, v))
            inner = lorentz_inner(q[:, None], k[None])
            if scores == "distance":
                inner = -radius_squared * torch.acosh(-inner / radius_squared).square()
            average = (inner / 6**0.5).masked_fill(~allowed, -torch.inf).softmax(-1) @ v
            heads.append(average * (radius_squared / -lorentz_inner(average, average)).sqrt()[:, None])
        rows.append(torch.cat(heads, dim=-1) @ attention.concat_proj.weight.T + attention.concat_proj.bias)
    torch.testing.assert_close(found[..., 1:], torch.stack(rows), rtol=1e-9, atol=1e-9)


def test_masked_tokens_are_not_looked_at() -> None:
    torch.manual_seed(0)
    block = LorentzBlock(16, 2)
    x = points(1, 6, 16)
    mask = torch.tensor([1, 1, 1, 1, 0, 0]).bool()[None, None, None]
    changed = torch.cat([x[:, :4], points(1, 2, 16, seed=5, scale=9.0)], dim=1)
    torch.testing.assert_close(block(x, mask=mask)[:, :4], block(changed, mask=mask)[:, :4])
    torch.testing.assert_close(block(x, mask=mask)[:, :4], block(x[:, :4]), rtol=1e-4, atol=1e-5)


def test_values_far_out_are_averaged_onto_the_hyperboloid_in_half_precision() -> None:
    torch.manual_seed(0)
    attention = LorentzAttention(16, 2).bfloat16()
    x = points(4, 64, 16, scale=300.0)
    found = attention(x)
    on_hyperboloid(found, 1.0)
    # A centroid lies no farther out than the farthest value; what is mapped from it then is of the same size.
    values = attention.v_proj(x)[..., 0].max()
    assert found[..., 0].max() < 10 * values


@pytest.mark.parametrize("power", [0.0, 1.0, 3.0])
def test_poolings_ignore_padding(power: float) -> None:
    torch.manual_seed(0)
    x = points(2, 6, 8)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]])
    for pooling in POOLINGS:
        options = {"power": power} if pooling == "outward_einstein_midpoint" else {}
        pooler = LorentzPooler(pooling, 8, **options)
        torch.testing.assert_close(pooler(x, mask)[0], pooler(x[:1, :3])[0], rtol=1e-5, atol=1e-5)
        left = torch.cat([points(1, 3, 8, seed=3), x[:1, :3]], dim=1)
        torch.testing.assert_close(pooler(left, 1 - mask[:1])[0], pooler(x[:1, :3])[0], rtol=1e-5, atol=1e-5)
        assert pooler(x, torch.zeros(2, 6)).isfinite().all()


def test_a_new_radius_factor_changes_nothing_and_a_trained_one_moves_along_the_ray() -> None:
    x = points(5, 8)
    factor = LorentzRadiusFactor(8)
    torch.testing.assert_close(factor(x), x)
    nn.init.constant_(factor.linear.bias, 1.0)
    moved = factor(x)
    assert (moved[:, 0] > x[:, 0]).all()
    torch.testing.assert_close(nn.functional.normalize(moved[:, 1:]), nn.functional.normalize(x[:, 1:]))


def test_gradients_are_finite_at_the_origin_far_out_and_for_a_trained_curvature() -> None:
    torch.manual_seed(0)
    for scale in (0.0, 1e-20, 1.0, 1e4):
        for scores in ("lorentz_inner", "distance"):
            radius_squared = torch.tensor(0.7, requires_grad=True)
            block = LorentzBlock(12, 2, attention_scores=scores, norm="rms_norm")  # type: ignore[arg-type]
            head, classifier = LorentzPredictionHead(12), LorentzMLR(12, 5)
            pooler = LorentzPooler("attentive_mean", 12)
            space = (torch.randn(2, 4, 11) * scale).requires_grad_()
            out = block(lorentz_from_space(space, radius_squared), radius_squared)
            loss = classifier(head(out, radius_squared), radius_squared).square().mean()
            (loss + pooler(out, torch.ones(2, 4), radius_squared).sum()).backward()
            for parameter in (space, radius_squared, *block.parameters(), *classifier.parameters()):
                assert parameter.grad is not None
                assert parameter.grad.isfinite().all(), (scale, scores)


def test_a_class_without_a_normal_has_logit_zero() -> None:
    classifier = LorentzMLR(8, 3)
    nn.init.zeros_(classifier.z)
    logits = classifier(points(4, 8))
    assert logits.abs().max() < 1e-6
    logits.sum().backward()
    assert classifier.z.grad is not None
    assert classifier.z.grad.isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LorentzAttention(16, 3), "multiple of the 3 heads"),
        (lambda: LorentzAttention(8, 8), "at least double"),
        (lambda: LorentzAttention(16, 2, scores="dot"), "attention_scores 'dot'"),
        (lambda: LorentzBlock(16, 2, norm="layernorm"), "did you mean 'layer_norm'"),
        (lambda: LorentzPooler("max", 8), "unknown pooling 'max'"),
        (lambda: LorentzPooler("cls", 8, power=2.0), "belong to the pooling outward_einstein_midpoint"),
        (lambda: LorentzPredictionHead(8, activation="gulu"), "did you mean 'gelu'"),
    ],
)
def test_wrong_arguments_are_explained(make: object, message: str) -> None:
    with pytest.raises(HyperseekError, match=message):
        make()  # type: ignore[operator]


def test_a_hundred_thousand_points_of_any_size_give_finite_values_and_gradients() -> None:
    torch.manual_seed(0)
    for trial in range(98):
        norm = list(NORMS)[trial % 3]
        radius_squared = torch.empty(()).uniform_(-2.3, 2.3).exp().requires_grad_()
        space = (torch.randn(64, 16, 15) * 10 ** torch.empty(64, 1, 1).uniform_(-12, 4.5)).requires_grad_()
        scores = ("lorentz_inner", "distance")[trial % 2]
        block = LorentzBlock(16, 2, norm=norm, attention_scores=scores, query_key_norm=trial % 5 == 0)  # type: ignore[arg-type]
        for residual in (block.residual_add, block.post_mlp_residual_add):
            nn.init.normal_(residual.w_y)
        factor, head, classifier = LorentzRadiusFactor(16), LorentzPredictionHead(16, norm=norm), LorentzMLR(16, 40)
        nn.init.normal_(factor.linear.weight)
        mask = torch.rand(64, 16) < 0.7
        allowed = (mask | ~mask.any(-1, keepdim=True))[:, None, None]
        with torch.autocast("cpu", torch.bfloat16, enabled=trial % 4 == 3):
            x = lorentz_from_space(space, radius_squared)
            out = factor(block(x, radius_squared, allowed, rotary_table(torch.arange(16)[None], 7)), radius_squared)
            ends = [classifier(head(out, radius_squared), radius_squared)]
            ends += [LorentzPooler(name, 16)(part, mask, radius_squared) for name in POOLINGS for part in (x, out)]
        torch.stack([end.float().mean() for end in ends]).sum().backward()
        parameters = [space, radius_squared, *block.parameters(), *factor.parameters(), *classifier.parameters()]
        assert all(end.isfinite().all() for end in ends), trial
        assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters), trial
