"""Parameters of no dimension, kept otherwise where DeepSpeed trains."""

from __future__ import annotations

import torch
from transformers import AutoModelForMaskedLM

from hyperseek.models import LorentzEncoderConfig
from hyperseek.pretraining._run import keep_scalars_as_vectors, with_scalars


def test_the_model_stays_the_same_and_trains() -> None:
    config = LorentzEncoderConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, trainable_curvature=True
    )
    model = AutoModelForMaskedLM.from_config(config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ids = torch.arange(10)[None]
    labels = torch.where(ids % 3 == 0, ids, -100)
    wanted = model(ids, labels=labels).loss
    wanted.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert any(parameter.ndim == 0 for parameter in model.parameters())

    model.zero_grad()
    keep_scalars_as_vectors(model)
    assert all(parameter.ndim for parameter in model.parameters())
    found = model(ids, labels=labels).loss
    assert torch.equal(found, wanted)
    found.backward()
    ours = with_scalars({name: parameter.grad for name, parameter in model.named_parameters()})
    assert ours.keys() == gradients.keys()
    assert all(torch.equal(ours[name], gradients[name]) for name in gradients)
    after = with_scalars(model.state_dict())
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_curvature_that_left_its_bounds_is_put_back() -> None:
    config = LorentzEncoderConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, trainable_curvature=True
    )
    model = AutoModelForMaskedLM.from_config(config).train()
    keep_scalars_as_vectors(model)
    curvature = model.model.curvature
    with torch.no_grad():
        next(curvature.parameters()).fill_(9.0)
    assert curvature.trainable
    radius_squared = curvature()
    torch.testing.assert_close(radius_squared, torch.tensor(config.curvature_max))
    radius_squared.backward()
    assert next(curvature.parameters()).grad.item() > 0
