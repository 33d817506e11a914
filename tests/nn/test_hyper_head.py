from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hyperseek import HyperseekError
from hyperseek.models.families.qnet import HyperHead

SHAPES = ([(16, 12), (12, 20), (20, 1)], [(12, 1), (20, 1)])


def plain_head(head: HyperHead, states: Tensor, mask: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """The formula of the paper, head by head, as the original computes it."""
    outputs = []
    learned = [*head.weight_query_embeddings, *head.bias_query_embeddings]
    for queries, keys, values in zip(learned, head.key_projections, head.value_projections, strict=True):
        scores = queries[0] @ keys(states).mT / math.sqrt(queries.shape[1])
        attention = scores.masked_fill(mask[:, None] == 0, -torch.inf).softmax(-1)
        context = attention @ values(states)
        outputs.append(F.layer_norm(context.relu(), context.shape[-1:]))
    count = len(head.weight_shapes)
    matrices = [
        (projection(rows) + base).mT
        for rows, projection, base in zip(
            outputs[:count], head.weight_hyper_projection, head.hyper_base_matrices, strict=True
        )
    ]
    vectors = [
        (projection(rows) + base[:, None]).mT
        for rows, projection, base in zip(
            outputs[count:], head.bias_hyper_projection, head.hyper_base_vectors, strict=True
        )
    ]
    return matrices, vectors


def states_and_mask(queries: int = 5) -> tuple[Tensor, Tensor]:
    states = torch.randn(queries, 9, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.ones(queries, 9)
    mask[0, 6:] = 0
    return states, mask


@pytest.mark.parametrize("queries", [1, 5])  # 9 tokens: keys are computed; 45 tokens: they are folded
@pytest.mark.parametrize("initialisation", ["original", "scaled"])
def test_the_cheap_form_equals_the_plain_form(queries: int, initialisation: str) -> None:
    # In double precision equal formulas agree far below any difference that float32 could hide.
    head = HyperHead(24, *SHAPES, initialisation=initialisation).double()  # type: ignore[arg-type]
    states, mask = states_and_mask(queries)
    gradients = []
    for function in (head, lambda *inputs: plain_head(head, *inputs)):
        matrices, vectors = function(states, mask)
        loss = sum((tensor * torch.arange(tensor.numel()).reshape(tensor.shape)).sum() for tensor in matrices + vectors)
        gradients.append([matrices, vectors, torch.autograd.grad(loss, list(head.parameters()), allow_unused=True)])
    for ours, plain in zip(*gradients, strict=True):
        for left, right in zip(ours, plain, strict=True):
            # The gradient of a folded key bias does not exist; unfolded it is zero but for rounding.
            left = torch.zeros_like(right) if left is None else left
            torch.testing.assert_close(left, right, atol=1e-7, rtol=1e-9)


def test_padding_changes_nothing() -> None:
    head = HyperHead(24, *SHAPES, initialisation="scaled").double()
    states, mask = states_and_mask(1)
    padded = head(states, mask)
    cut = head(states[:, :6], mask[:, :6])
    for left, right in zip(padded[0] + padded[1], cut[0] + cut[1], strict=True):
        torch.testing.assert_close(left, right, atol=1e-10, rtol=0)


def test_the_last_matrix_starts_at_zero_and_still_learns() -> None:
    head = HyperHead(24, *SHAPES, initialisation="zero_last").double()
    matrices, _ = head(*states_and_mask())
    assert torch.equal(matrices[-1], torch.zeros_like(matrices[-1]))
    matrices[-1].sum().backward()
    assert head.weight_hyper_projection[-1].weight.grad.abs().sum() > 0


def test_the_original_initialisation_is_the_original() -> None:
    # Standard deviations recorded in the specification: sqrt(2/768), 10 and 1/768^2.
    head = HyperHead(64, [(64, 64), (64, 1)], [(64, 1)], initialisation="original")
    assert head.hyper_base_matrices[0].std().item() == pytest.approx(0.05103, rel=0.05)
    assert head.weight_query_embeddings[0].std().item() == pytest.approx(10, rel=0.05)
    assert head.weight_hyper_projection[0].weight.std().item() == pytest.approx(1.695e-6, rel=0.05)
    assert head.hyper_base_vectors[0].abs().sum() == 0
    assert head.key_projections[0].bias.abs().sum() == 0
    assert head.key_projections[2].bias.abs().sum() > 0


def test_building_a_head_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = HyperHead(8, [(8, 1)], [], seed=3)
    assert torch.equal(torch.rand(3), expected)
    second = HyperHead(8, [(8, 1)], [], seed=3)
    assert torch.equal(first.hyper_base_matrices[0], second.hyper_base_matrices[0])


def test_an_unknown_initialisation_is_refused() -> None:
    with pytest.raises(HyperseekError, match="did you mean 'scaled'"):
        HyperHead(8, [(8, 1)], [], initialisation="scaled_")  # type: ignore[arg-type]
