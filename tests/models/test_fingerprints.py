"""Weights are hashed once for each state that they are in, and every other state is noticed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hyperseek import _fingerprint
from hyperseek.models import ModelConfig, Retriever, build


@pytest.fixture
def model(tiny_encoder: str) -> Retriever:
    return build(ModelConfig(trunk=tiny_encoder, family="qnet", qnet={"depth": 1}), device="cpu")


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes that were hashed, one entry a module."""
    sizes: list[int] = []
    plain = _fingerprint.fingerprint_tensors

    def counted(tensors: Any) -> str:
        pairs = list(tensors)
        sizes.append(sum(tensor.nbytes for _, tensor in pairs))
        return plain(pairs)

    monkeypatch.setattr(_fingerprint, "fingerprint_tensors", counted)
    return sizes


def test_every_weight_is_hashed_once(model: Retriever, hashed: list[int]) -> None:
    first = model.protocol()
    once = sum(hashed)
    tensors = {tensor.data_ptr(): tensor for tensor in model.model.state_dict().values()}
    assert once == sum(tensor.nbytes for tensor in tensors.values())  # the trunk that both sides share once, too
    assert model.protocol() == first
    assert Retriever(model.model).protocol()["query_fingerprint"] == first["query_fingerprint"]
    assert model.fingerprint == first["fingerprint"]
    assert sum(hashed) == once


def test_a_trained_head_alone_is_hashed_again(model: Retriever, hashed: list[int]) -> None:
    first = model.protocol()
    hashed.clear()
    head = list(model.route("query")[-1].parameters())
    optimizer = torch.optim.AdamW(head)
    for parameter in head:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    second = model.protocol()
    assert second["fingerprint"] == first["fingerprint"]
    assert second["query_fingerprint"] != first["query_fingerprint"]
    assert sum(hashed) == sum(tensor.nbytes for tensor in model.route("query")[-1].state_dict().values())


def in_place(weight: torch.nn.Parameter) -> None:
    with torch.no_grad():
        weight.add_(1)


def uncounted(weight: torch.nn.Parameter) -> None:
    weight.data.add_(1)


def in_numpy(weight: torch.nn.Parameter) -> None:
    weight.detach().numpy()[0] += 1


def exchanged(weight: torch.nn.Parameter) -> None:
    weight.data.copy_(weight.data.flip(-1))


def signs(weight: torch.nn.Parameter) -> None:
    weight.data.neg_()


def replaced(weight: torch.nn.Parameter) -> None:
    weight.data = weight.data + 1


def half(weight: torch.nn.Parameter) -> None:
    weight.data = weight.data.half()


@pytest.mark.parametrize("change", [in_place, uncounted, in_numpy, exchanged, signs, replaced, half])
def test_every_way_to_change_a_weight_is_noticed(
    model: Retriever, change: Callable[[torch.nn.Parameter], None]
) -> None:
    modules = [model.route("document")[0], model.route("query")[-1]]
    for module in modules:
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter)
    before, first = [_fingerprint.fingerprint_weights(module) for module in modules], model.protocol()
    for module in modules:
        change(max(module.parameters(), key=torch.Tensor.numel))
    for module, name in zip(modules, before, strict=True):
        named = _fingerprint.fingerprint_weights(module)
        assert named == _fingerprint.fingerprint_tensors(module.state_dict().items()) != name
    second = model.protocol()
    assert second["fingerprint"] != first["fingerprint"]
    assert second["query_fingerprint"] != first["query_fingerprint"]


def test_odd_tensors_have_names_too() -> None:
    tensors = [
        torch.zeros(0),
        torch.tensor(1.0),
        torch.ones(3, dtype=torch.bfloat16),
        torch.ones(2, dtype=torch.complex64),
        torch.ones(3, dtype=torch.bool),
        torch.ones(9, 9)[:, 1],
        torch.ones(9)[1:],
        torch.arange(70_001, dtype=torch.int16),
    ]
    for tensor in tensors:
        module = torch.nn.Module()
        module.register_buffer("odd", tensor)
        name = _fingerprint.fingerprint_weights(module)
        assert name == _fingerprint.fingerprint_weights(module)
        if len(tensor.reshape(-1)):
            tensor.data[(-1,) * tensor.dim()] = 0
            assert _fingerprint.fingerprint_weights(module) != name
