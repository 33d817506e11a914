"""The fast scan of documents equals the plain, differentiable q-net."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from hyperseek._machine import run_on_cores
from hyperseek.scoring import QNetScorer, Space, VectorPoints, _qnet, build_converter

ACTIVATIONS = ["relu", "tanh", "sigmoid", "gelu", "leaky_relu"]


def make(kwargs: dict[str, Any], *, queries: int = 3, scale: float = 1.0, base: bool = False) -> QNetScorer:
    converter = build_converter("repeated_dense_block", kwargs)
    generator = torch.Generator().manual_seed(7)

    def draw(shape: tuple[int, ...]) -> Tensor:
        return scale / shape[0] ** 0.5 * torch.randn(queries, *shape, generator=generator)

    size = kwargs["vector_dimensions"][0]
    return QNetScorer(
        Space("dot", size),
        [draw(shape) for shape in converter.weight_shapes],
        [draw(shape) for shape in converter.bias_shapes],
        converter_kwargs=kwargs,
        base=draw((size,)) if base else None,
    )


def draw_documents(count: int, size: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(count, size, generator=torch.Generator().manual_seed(3))


def compare(scorer: QNetScorer, documents: Tensor) -> None:
    before = documents.clone()
    plain = scorer.score(VectorPoints(documents))  # gradients are on: the differentiable path
    with torch.no_grad():
        fast = scorer.score(VectorPoints(documents))
    assert fast.shape == (len(scorer), len(documents))
    assert torch.equal(documents, before)
    torch.testing.assert_close(fast, plain, rtol=2e-5, atol=2e-5)


OPTIONS = [
    {"do_layer_norm": norm, "layer_norm_before_residual": order, "do_residual": residual, "do_residual_on_last": last}
    for norm, order, residual, last in product([True, False], repeat=4)
    if residual or not last
]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few documents, the last one shorter."""
    monkeypatch.setattr(_qnet, "_SCAN_ELEMENTS", 100)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "".join(str(int(value)) for value in options.values()))
def test_every_option(activation: str, options: dict[str, bool]) -> None:
    for depth in (1, 2, 3):
        sizes = [12] * (depth + 1) + [1]
        compare(make({"vector_dimensions": sizes, "activation_type": activation, **options}), draw_documents(21, 12))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("sizes", [[12, 1], [12, 5, 1], [12, 5, 9, 1], [4, 200, 3, 1], [12, 1, 1]])
def test_unequal_sizes(activation: str, norm: bool, sizes: list[int]) -> None:
    kwargs = {
        "vector_dimensions": sizes,
        "activation_type": activation,
        "do_layer_norm": norm,
        "do_residual": False,
    }
    compare(make(kwargs), draw_documents(21, sizes[0]))


@pytest.fixture
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("small_blocks", "three_threads")
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_every_core_takes_blocks(mode: type[torch.no_grad]) -> None:
    scorer, documents = make({"vector_dimensions": [12, 12, 12, 1]}, base=True), draw_documents(500, 12)
    plain = scorer.score(VectorPoints(documents)).detach()
    with mode():
        fast = scorer.score(VectorPoints(documents))
    torch.testing.assert_close(fast.clone(), plain, rtol=2e-5, atol=2e-5)
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_an_error_in_a_thread_is_not_lost() -> None:
    def fail() -> None:
        assert torch.get_num_threads() == 1
        raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        run_on_cores(fail, at_most=2)
    assert torch.get_num_threads() == 3
    with ThreadPoolExecutor(1) as pool:  # threads that come later have all cores again
        assert pool.submit(lambda: (torch.ones(1), torch.get_num_threads())[1]).result() == 3


@pytest.mark.parametrize("count", [0, 1, 100])
def test_few_documents_and_a_base(count: int) -> None:
    compare(make({"vector_dimensions": [12, 12, 1]}, base=True), draw_documents(count, 12))


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 30.0])
def test_layer_norm_at_small_and_large_magnitudes(scale: float) -> None:
    # At 1e-4 the variance is below the epsilon that keeps the division finite.
    compare(make({"vector_dimensions": [12, 12, 12, 1]}, scale=scale), draw_documents(21, 12, scale))


def test_states_without_variance_stay_finite() -> None:
    scorer = make({"vector_dimensions": [4, 4, 1]})
    for vector in scorer.vectors:
        vector.fill_(-1e3)  # relu leaves nothing: all states are equal
    compare(scorer, draw_documents(5, 4))


def test_a_large_mean_costs_no_digits() -> None:
    # One-pass variances cancel here: the mean is ten thousand times the deviation.
    scorer = make({"vector_dimensions": [16, 16, 1], "do_residual": False})
    for vector in scorer.vectors:
        vector.add_(1e4)
    documents = draw_documents(9, 16)
    matrices, vectors = ([tensor.double() for tensor in part] for part in (scorer.matrices, scorer.vectors))
    exact = build_converter("repeated_dense_block", scorer.converter_kwargs)(matrices, vectors, False)
    truth = exact(documents.double().expand(3, -1, -1))[..., 0]
    with torch.no_grad():
        fast = scorer.score(VectorPoints(documents))
    # float32 keeps seven digits of a state of 10,000: three of its deviation of 1.
    torch.testing.assert_close(fast.double(), truth, rtol=5e-3, atol=5e-3)


def test_converters_without_a_scan_go_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = make({"vector_dimensions": [12, 12, 1]}, base=True)
    monkeypatch.setattr(_qnet, "_BLOCK_ELEMENTS", 100)
    monkeypatch.setattr(type(scorer._converter), "scan", None)
    compare(scorer, draw_documents(21, 12))
    compare(scorer, draw_documents(0, 12))
