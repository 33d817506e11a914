"""Between the warm start and the trained model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hyperseek.models import Retriever
from hyperseek.training import LossesConfig
from hyperseek.training._recipe import TrainConfig
from hyperseek.training._routes import choose_trainable
from hyperseek.training._run import Interpolation, choose_share
from hyperseek.training._trainer import TrainedStack, TrainingModule
from hyperseek.training.losses import Objective

MakeRetriever = Callable[..., Retriever]
TEXTS = ["cat dog", "the sea and the moon", "net query document"]


def trained_module(retriever: Retriever, trunk: str) -> tuple[TrainingModule, dict[str, torch.Tensor]]:
    """Return a module whose trained parameters were moved at random, and their values before."""
    choose_trainable(retriever, TrainConfig.from_mapping({"max_steps": 1, "trunk": trunk}))
    objective = Objective(LossesConfig.from_mapping({"contrastive": {}}))
    module = TrainingModule(TrainedStack(retriever, {"query": 0, "document": 0}), objective)
    start = {name: value.clone() for name, value in module.trainable_state().items()}
    generator = torch.Generator().manual_seed(0)
    moved = {name: value + 0.05 * torch.randn(value.shape, generator=generator) for name, value in start.items()}
    module.load_trainable_state(moved)
    retriever.model.eval()
    return module, start


def scores(retriever: Retriever) -> torch.Tensor:
    with torch.inference_mode():
        return retriever.compile(TEXTS).score(retriever.encode_documents(TEXTS, dtype="float32"))


@pytest.mark.parametrize(
    ("options", "trunk"),
    [({}, "frozen"), ({}, "lora"), ({"family": "dense", "linear": {}}, "frozen"), ({"family": "dense"}, "full")],
)
def test_its_ends_are_the_start_and_the_trained_model(
    make_retriever: MakeRetriever, options: dict[str, Any], trunk: str
) -> None:
    before = scores(make_retriever(**options))
    retriever = make_retriever(**options)
    module, start = trained_module(retriever, trunk)
    after = scores(retriever)
    interpolation = Interpolation(module, start)
    found = {}
    for share in (0.5, 0.0, 1.0):
        interpolation.set(share)
        found[share] = scores(retriever)
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(found[0.0], before, rtol=0, atol=1e-5)
    assert torch.equal(found[1.0], after)
    assert (found[0.5] - before).abs().max() > 1e-4
    assert (found[0.5] - after).abs().max() > 1e-4


def test_a_q_net_is_scaled_exactly(make_retriever: MakeRetriever) -> None:
    retriever = make_retriever()
    before = scores(retriever)
    module, start = trained_module(retriever, "frozen")
    after = scores(retriever)
    Interpolation(module, start).set(0.25)
    torch.testing.assert_close(scores(retriever), before + 0.25 * (after - before), rtol=1e-4, atol=1e-4)


class FakeValidator:
    """Likes a share of 0.4 best, on one set; the other falls with the share."""

    def __init__(self, retriever: Retriever) -> None:
        self.head = retriever.route("query")[-1]
        self.whole = self.head.gate

    def __call__(self) -> dict[str, float]:
        share = self.head.gate / self.whole
        liked, falling = 1 - abs(share - 0.4), 1 - share / 10
        return {"liked": liked, "falling": falling, "mean": (liked + falling) / 2}


@pytest.mark.parametrize(("floor", "wanted"), [({}, 0.4), ({"falling": 0.985}, 0.1), ({"falling": 1.1}, 0.4)])
def test_the_best_share_above_the_floor_is_kept(
    make_retriever: MakeRetriever, floor: dict[str, float], wanted: float
) -> None:
    retriever = make_retriever()
    module, start = trained_module(retriever, "frozen")
    validator: Any = FakeValidator(retriever)
    share, tried = choose_share(
        Interpolation(module, start), (0.1, 0.4, 0.8), validator, trained=validator(), floor=floor
    )
    assert share == wanted
    assert retriever.route("query")[-1].gate == pytest.approx(wanted * validator.whole)
    assert set(tried) == {"0.1", "0.4", "0.8", "1.0"}
