"""Fully hyperbolic encoders in contrastive training: whole, behind the cache, with adapters, in small batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertTokenizer

from hyperseek.models import LorentzEncoder, LorentzEncoderConfig, ModelConfig, Retriever, build, load
from hyperseek.training import LossesConfig, Recipe, train
from hyperseek.training._cache import FeatureCache, SideFeatures
from hyperseek.training._recipe import TrainConfig
from hyperseek.training._routes import choose_trainable
from hyperseek.training._trainer import TrainedStack, TrainingModule
from hyperseek.training._training_set import Collator, TrainingSet
from hyperseek.training.losses import Objective


@pytest.fixture(scope="module")
def trunk(tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    tokenizer = BertTokenizer.from_pretrained(tiny_encoder)
    config = LorentzEncoderConfig.for_tokenizer(
        tokenizer,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        curvature_init=2.0,
        initializer_range=0.3,
        pooling="attentive_mean",
    )
    folder = tmp_path_factory.mktemp("hyte-fh")
    torch.manual_seed(0)
    LorentzEncoder(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def retriever_of(trunk: str, **lorentz: Any) -> Retriever:
    return build(ModelConfig.from_mapping({"trunk": trunk, "family": "lorentz", "lorentz": lorentz}), device="cpu")


@pytest.mark.parametrize("distance", ["geodesic", "lorentz_inner"])
@pytest.mark.parametrize("how", ["full", "lora"])
def test_a_recipe_trains_saves_and_loads(
    trunk: str, make_recipe: Callable[..., Recipe], tmp_path: Path, how: str, distance: str
) -> None:
    recipe = make_recipe(
        model={
            "trunk": trunk,
            "family": "lorentz",
            "pooling": None,
            "normalize": None,
            "lorentz": {"distance": distance, "trainable_curvature": True, "pooling": "hyp_outward_einstein_midpoint"},
        },
        losses={"contrastive": {"temperature": 0.5, "learned_temperature": True}},
        train={"learning_rate": 0.01, "max_steps": 8, "trunk": how},
    )
    record = train(recipe, output=tmp_path / "model")
    assert record.status == "finished"
    loaded = load(tmp_path / "model", device="cpu")
    assert record.document_fingerprint is not None
    assert record.document_fingerprint["after"] == loaded.fingerprint
    assert record.document_fingerprint["before"] != loaded.fingerprint
    assert (loaded.space.radius_squared != pytest.approx(2.0, rel=1e-5)) == (how == "full")
    before = LorentzEncoder.from_pretrained(trunk).layers[0].self_attn.q_proj.linear.weight
    after = loaded.route("document")[0].model.layers[0].self_attn.q_proj.linear.weight
    assert (after - before).abs().max() > 0


def module_of(retriever: Retriever, **options: Any) -> TrainingModule:
    objective = Objective(LossesConfig.from_mapping({"contrastive": {"temperature": 0.5}}))
    return TrainingModule(TrainedStack(retriever, {"query": 0, "document": 0}, **options), objective).train()


def test_small_batches_give_the_gradients_of_large_ones(trunk: str, toy_set: TrainingSet) -> None:
    gradients = []
    for mini_batch in (None, 3):
        retriever = retriever_of(trunk, trainable_curvature=True)
        choose_trainable(retriever, TrainConfig(max_steps=1, trunk="full", device="cpu"))
        module = module_of(retriever, mini_batch=mini_batch)
        collator = Collator(toy_set, SideFeatures(retriever, "query"), SideFeatures(retriever, "document"))
        total, parts = module.loss(module.model, collator([toy_set[0, place] for place in range(8)]))
        total.backward()  # type: ignore[no-untyped-call]
        gradients.append({name: p.grad for name, p in module.named_parameters() if p.grad is not None})
        assert {"radius_squared", "query_radius", "document_radius"} <= parts.keys()
    assert any("curvature" in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-4)


def test_a_frozen_trunk_is_cached_and_its_curvature_with_it(trunk: str, toy_set: TrainingSet, tmp_path: Path) -> None:
    retriever = retriever_of(trunk)
    choose_trainable(retriever, TrainConfig(max_steps=1, trunk="frozen", device="cpu"))
    totals = []
    for start in (0, 1):
        sides = {}
        for side in ("query", "document"):
            cache = FeatureCache(tmp_path, retriever, side, stop=1, tokens=True, dtype="float32") if start else None  # type: ignore[arg-type]
            sides[side] = SideFeatures(retriever, side, cache)  # type: ignore[arg-type]
            sides[side].ensure(toy_set.queries if side == "query" else toy_set.documents)
        collator = Collator(toy_set, sides["query"], sides["document"])
        objective = Objective(LossesConfig.from_mapping({"contrastive": {"temperature": 0.5}}))
        module = TrainingModule(TrainedStack(retriever, {"query": start, "document": start}), objective).train()
        total, _ = module.loss(module.model, collator([toy_set[0, place] for place in range(8)]))
        totals.append(total.item())
    assert totals[1] == pytest.approx(totals[0], rel=2e-2)
