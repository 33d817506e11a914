from __future__ import annotations

import pytest

from hyperseek.errors import ConfigError
from hyperseek.models import ModelConfig, build
from hyperseek.training._recipe import TrainConfig
from hyperseek.training._routes import choose_trainable


@pytest.mark.parametrize("trunk", ["full", "last_layers", "lora"])
def test_the_query_side_alone_is_trained(tiny_encoder: str, trunk: str) -> None:
    model = ModelConfig(trunk=tiny_encoder, document_trunk=tiny_encoder, family="dense")
    retriever = build(model, device="cpu")
    before = retriever.fingerprint
    choose_trainable(retriever, TrainConfig(trunk=trunk, sides="query", max_steps=1))  # type: ignore[arg-type]
    trained = {
        side: any(parameter.requires_grad for parameter in retriever.route(side)[0].parameters())
        for side in ("query", "document")
    }
    assert trained == {"query": True, "document": False}
    assert build(model, device="cpu").fingerprint == before


def test_one_shared_trunk_has_no_side(tiny_encoder: str) -> None:
    retriever = build(ModelConfig(trunk=tiny_encoder, family="dense"), device="cpu")
    with pytest.raises(ConfigError, match=r"set model\.document_trunk"):
        choose_trainable(retriever, TrainConfig(trunk="full", sides="query", max_steps=1))
