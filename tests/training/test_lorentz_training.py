"""Hybrid hyperbolic encoders in training: the original's losses, every distance, the curvature, the caches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hyperseek.models import LorentzHead, Retriever, load
from hyperseek.runs.loop import Clock
from hyperseek.runs.recipe import OutputConfig
from hyperseek.scoring import LinearScorer, Space, VectorPoints
from hyperseek.training import ContrastiveConfig, LossesConfig, Recipe, ScoredBatch, train
from hyperseek.training._cache import FeatureCache, SideFeatures
from hyperseek.training._epoch_batches import EpochBatches
from hyperseek.training._recipe import TrainConfig
from hyperseek.training._routes import choose_trainable
from hyperseek.training._trainer import RetrieverTrainer, TrainedStack, TrainingModule, training_arguments
from hyperseek.training._training_set import Collator, TrainingSet
from hyperseek.training._validation import Validator, make_dev_set
from hyperseek.training.losses import NO_DOCUMENT, ContrastiveLoss, Objective

DISTANCES = ["geodesic", "squared_lorentz", "lorentz_inner"]
SPACES = {"geodesic": "geodesic", "squared_lorentz": "squared", "lorentz_inner": "inner"}
MakeRetriever = Callable[..., Retriever]


@pytest.mark.parametrize("radius_squared", [0.1, 1.0])
@pytest.mark.parametrize("distance", [*DISTANCES, "euclidean"])
@pytest.mark.parametrize("negatives", ["inbatch", "hard"])
@pytest.mark.parametrize("scale", [2, 50])
def test_losses_of_the_original(golden: Path, radius_squared: float, distance: str, negatives: str, scale: int) -> None:
    recorded = np.load(golden / f"hyperbolic/contrastive_loss_R2_{radius_squared}.npz")
    name = f"{distance}_{negatives}_scale{scale}"
    queries = torch.from_numpy(recorded["q"])
    documents = torch.from_numpy(recorded["d" if negatives == "inbatch" else "d_with_2_hardnegs"])
    # What the original calls Euclidean is the plain inner product of all coordinates, time included.
    space = (
        Space("dot", 9)
        if distance == "euclidean"
        else Space("lorentz", 8, float(recorded["radius_sq"]), SPACES[distance])  # type: ignore[arg-type]
    )
    numbers = torch.arange(len(documents))
    items = numbers.view(6, -1)
    batch = ScoredBatch(
        scorer=LinearScorer(space, space.canonical(queries)),
        points=VectorPoints(space.canonical(documents)),
        documents=numbers,
        items=items,
        known=items[:, :1],
        labels=torch.full(items.shape, torch.nan),
    )
    logits = batch.in_batch * scale
    expected = torch.from_numpy(recorded[f"logits_{name}"])
    if distance == "squared_lorentz":
        assert (batch.in_batch <= 0).all()
    # Scores are float32, of whatever the points are.
    torch.testing.assert_close(logits, expected.float(), rtol=1e-6, atol=1e-6 * scale)
    loss = ContrastiveLoss(ContrastiveConfig(temperature=1 / scale, across_devices=False))(batch)
    assert loss.item() == pytest.approx(float(recorded[f"loss_{name}"]), rel=2e-5, abs=1e-6)


def lorentz(make_retriever: MakeRetriever, **options: Any) -> Retriever:
    values = {"dimension": 8, "norm_scale": 1.0, "trainable_curvature": True, "seed": 1, **options}
    return make_retriever(family="lorentz", lorentz=values)


LOSSES: list[dict[str, Any]] = [
    {"contrastive": {"temperature": 0.5, "learned_temperature": True, "positives": "log_sum"}},
    {"margin_mse": {}},
    {"kl": {}},
    {"own_cross_entropy": {}},
    {"contrastive": {"temperature": 0.5, "false_negative_margin": 0.2, "guide": "base"}, "anchor": {"weight": 0.1}},
    {"contrastive": {}, "entailment": {}, "radius": {"general": "query"}},
    {
        "contrastive": {"temperature": 0.5},
        "margin_mse": {},
        "matryoshka": {"dimensions": [2, 5], "weights": [1.0, 0.5]},
    },
]


@pytest.mark.parametrize("losses", LOSSES, ids=lambda losses: "+".join(losses))
@pytest.mark.parametrize("distance", DISTANCES)
def test_every_loss_falls_on_every_distance(
    make_retriever: MakeRetriever, toy_set: TrainingSet, tmp_path: Path, losses: dict[str, Any], distance: str
) -> None:
    retriever = lorentz(make_retriever, distance=distance, radius="head")
    objective = Objective(LossesConfig.from_mapping(losses))
    choose_trainable(retriever, TrainConfig(max_steps=1, trunk="frozen", device="cpu"))
    sides = {
        side: SideFeatures(retriever, side, cache, cache)
        for side in ("query", "document")
        for cache in [FeatureCache(tmp_path, retriever, side, stop=3, tokens=False)]  # type: ignore[arg-type]
    }
    sides["query"].ensure(toy_set.queries)
    sides["document"].ensure(toy_set.documents)
    collator = Collator(toy_set, sides["query"], sides["document"])
    module = TrainingModule(TrainedStack(retriever, {"query": 3, "document": 3}), objective).train()
    batch = collator([toy_set[0, place] for place in range(12)])
    optimiser = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=0.02)
    seen = []
    for _ in range(12):
        total, parts = module.loss(module.model, batch)
        optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        assert all(gradient.isfinite().all() for gradient in gradients)
        optimiser.step()
        seen.append(total.item())
    assert seen[-1] < seen[0]
    assert {"radius_squared", "query_radius", "document_radius", "clipped"} <= parts.keys()
    assert retriever.space.radius_squared != 1.0


def test_validation_from_the_cache_scores_as_encoding_does(make_retriever: MakeRetriever, tmp_path: Path) -> None:
    from hyperseek.types import Query

    retriever = lorentz(make_retriever)
    choose_trainable(retriever, TrainConfig(max_steps=1, trunk="frozen", device="cpu"))
    documents = {word: f"cat dog {word} sea" for word in ("bird", "fish", "sun", "moon", "tree")}
    queries = [Query("q0", "bird moon"), Query("q1", "sun")]
    dev_set = make_dev_set(documents, queries, {"q0": {"moon": 1}, "q1": {"sun": 1, "bird": 1}})

    def measured(**options: Any) -> dict[str, float]:
        query, document = (
            SideFeatures(
                retriever, side, FeatureCache(tmp_path, retriever, side, stop=3, tokens=False) if options else None
            )
            for side in ("query", "document")
        )
        validator = Validator({"toy": dev_set}, "nDCG@3", query, document, encode_dtype="float32")
        validator.prepare()
        return validator()

    assert measured(cached=True) == measured()


@pytest.mark.parametrize("distance", ["geodesic", "dot"])
def test_a_recipe_trains_saves_and_loads(
    make_recipe: Callable[..., Recipe], dev: dict[str, Any], tmp_path: Path, distance: str
) -> None:
    recipe = make_recipe(
        model={
            "family": "lorentz",
            "lorentz": {"dimension": 6, "distance": distance, "trainable_curvature": True, "norm_scale": 1.0},
        },
        train={"learning_rate": 0.02, "max_steps": 8, "weight_decay": 0.01},
        validation=dev,
    )
    record = train(recipe, output=tmp_path / "model")
    assert record.status == "finished"
    retriever = load(tmp_path / "model", device="cpu")
    fingerprints = record.document_fingerprint
    assert fingerprints is not None
    assert fingerprints["before"] != fingerprints["after"] == retriever.fingerprint
    head = retriever.route("document")[-1]
    assert isinstance(head, LorentzHead)
    if distance == "geodesic":
        assert retriever.space.radius_squared != 1.0
        assert record.parameters == 32 * 6 + 6 + 1
    else:
        assert record.parameters == 32 * 6 + 6


def test_lifted_tokens_train_from_the_trunks_cache(make_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    lorentz = {
        "dimension": 7,
        "pooling": "hyp_outward_einstein_midpoint",
        "pooling_keep_radius": True,
        "radius": "head",
    }
    lorentz |= {"blocks": 1, "block_heads": 2, "trainable_curvature": True}
    model = {"family": "lorentz", "pooling": None, "normalize": None, "lorentz": lorentz}
    record = train(make_recipe(model=model, train={"max_steps": 3}), output=tmp_path / "cached")
    cache = {**make_recipe().train.cache.model_dump(), "enabled": False}
    train(make_recipe(model=model, train={"max_steps": 3, "cache": cache}), output=tmp_path / "plain")
    cached, plain = (load(tmp_path / name, device="cpu") for name in ("cached", "plain"))
    assert record.seconds["caching"] > 0
    for ours, theirs in zip(cached.model.state_dict().values(), plain.model.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("mini_batch", [None, 3])
def test_bfloat16_and_small_batches_leave_the_geometry_alone(
    make_retriever: MakeRetriever, toy_set: TrainingSet, mini_batch: int | None
) -> None:
    gradients = []
    for autocast in (False, True):
        retriever = lorentz(make_retriever)
        choose_trainable(retriever, TrainConfig(max_steps=1, trunk="full", device="cpu"))
        stack = TrainedStack(retriever, {"query": 0, "document": 0}, mini_batch=mini_batch)
        module = TrainingModule(stack, Objective(LossesConfig.from_mapping({"contrastive": {}}))).eval()
        collator = Collator(toy_set, SideFeatures(retriever, "query"), SideFeatures(retriever, "document"))
        batch = collator([toy_set[0, place] for place in range(8)])
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            rows = stack(batch["query"], batch["document"])
            total, _ = module.loss(stack, batch)
        assert all(row["sentence_embedding"].dtype == torch.float32 for row in rows)
        assert total.dtype == torch.float32
        total.backward()  # type: ignore[no-untyped-call]
        head = retriever.route("document")[-1]
        gradients.append(
            torch.cat([parameter.grad.flatten() for parameter in head.parameters() if parameter.grad is not None])
        )
    assert torch.cosine_similarity(*gradients, dim=0) > 0.98
    assert batch["known"].min() >= NO_DOCUMENT


@pytest.mark.parametrize("distance", [*DISTANCES, "dot", "cosine", "euclidean"])
@pytest.mark.parametrize("radius", ["projection", "head"])
def test_matryoshka_trains_what_a_shortened_model_hands_out(
    make_retriever: MakeRetriever, toy_texts: tuple[list[str], list[str]], distance: str, radius: str
) -> None:
    documents, queries = toy_texts[0][:6], toy_texts[1][:6]
    retriever = lorentz(make_retriever, distance=distance, radius=radius, radius_squared=0.5)
    items = torch.arange(6)[:, None]
    batch = ScoredBatch(
        scorer=retriever.compile(queries),
        points=retriever.encode_documents(documents, dtype="float32"),
        documents=torch.arange(6),
        items=items,
        known=items,
        labels=torch.full((6, 1), torch.nan),
    )
    config = {"contrastive": {"temperature": 0.5}, "matryoshka": {"dimensions": [3]}}
    total, parts = Objective(LossesConfig.from_mapping(config))(batch)
    assert parts.keys() == {"contrastive", "contrastive@3"}
    assert total.item() == pytest.approx(sum(part.item() for part in parts.values()))
    head = retriever.route("document")[-1]
    assert isinstance(head, LorentzHead)
    head.shorten(3)
    assert retriever.space.dimension == 3
    short = retriever.compile(queries).score(retriever.encode_documents(documents, dtype="float32")) / 0.5
    expected = (short.logsumexp(1) - short.diagonal()).mean()
    assert parts["contrastive@3"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_weight_decay_leaves_curvature_and_temperature_alone(
    make_retriever: MakeRetriever, toy_set: TrainingSet, tmp_path: Path
) -> None:
    retriever = lorentz(make_retriever)
    config = TrainConfig(max_steps=1, trunk="frozen", device="cpu", weight_decay=0.5, batch_size=4)
    choose_trainable(retriever, config)
    losses = LossesConfig.from_mapping({"contrastive": {"learned_temperature": True}})
    trainer = RetrieverTrainer(
        TrainingModule(TrainedStack(retriever, {"query": 0, "document": 0}), Objective(losses)),
        training_arguments(config, OutputConfig(report_to=()), tmp_path, batches=1, device=retriever.device),
        training_set=toy_set,
        batches=EpochBatches(toy_set, 4),
        collator=Collator(toy_set, SideFeatures(retriever, "query"), SideFeatures(retriever, "document")),
        config=config,
        clock=Clock("wall"),
    )
    groups = trainer.create_optimizer().param_groups
    decayed = [tuple(p.shape) for group in groups if group["weight_decay"] for p in group["params"]]
    others = sorted(tuple(p.shape) for group in groups if not group["weight_decay"] for p in group["params"])
    assert decayed == [(8, 32)]
    assert others == [(), (), (8,)]
