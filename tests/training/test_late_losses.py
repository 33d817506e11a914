"""Losses of late interaction on the road of training, against PyLate's values and gradients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hyperseek
from hyperseek import HyperseekError
from hyperseek.models.families.late import LateRetriever
from hyperseek.training import train
from hyperseek.training._trainer import TrainedStack, TrainingModule
from hyperseek.training.losses import NO_DOCUMENT, LossesConfig, Objective


@pytest.fixture(scope="module")
def recorded(golden: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    folder = golden / "colbert"
    with np.load(folder / "golden.npz") as arrays:
        return json.loads((folder / "golden.json").read_text()), dict(arrays)


@pytest.fixture
def retriever(golden: Path) -> LateRetriever:
    found = hyperseek.load(golden / "colbert" / "checkpoint", device="cpu")
    assert isinstance(found, LateRetriever)
    found.masking = "pylate"
    return found


def step(
    retriever: LateRetriever,
    losses: dict[str, Any],
    texts: dict[str, list[str]],
    *,
    items: list[list[int]],
    documents: list[int],
    known: list[list[int]] | None = None,
    labels: Any = None,
    mini_batch: int | None = None,
) -> tuple[float, torch.Tensor]:
    """Return the loss of a batch of all recorded queries, and the gradient of the projection."""
    module = TrainingModule(
        TrainedStack(retriever, {"query": 0, "document": 0}, mini_batch=mini_batch),
        Objective(LossesConfig.from_mapping(losses)),
    )
    texts_of = [texts["documents"][number] for number in documents]
    batch: Any = {
        "query": retriever.tokenize(texts["queries"], "query"),
        "document": retriever.tokenize(texts_of, "document"),
        "numbers": torch.arange(len(documents)),
        "items": torch.tensor(items),
        "known": torch.tensor(known or [row[:1] for row in items]),
        "spared": torch.full((len(items), 1), NO_DOCUMENT),
        "scores": torch.full((len(items), len(items[0])), torch.nan) if labels is None else torch.tensor(labels),
        "coarse": None,
        "weights": torch.ones(len(items)),
        "cards": None,
        "base_query": None,
        "base_document": None,
    }
    total, _ = module.loss(module.model, batch)
    total.backward()
    weight: Any = dict(retriever.route("document")[1].named_parameters())["linear.weight"]
    return total.item(), weight.grad


@pytest.mark.parametrize("mini_batch", [None, 2])
@pytest.mark.parametrize("temperature", [1.0, 0.05])
def test_contrastive_among_positives_and_negatives_of_the_batch(
    retriever: LateRetriever, recorded: tuple[Any, Any], temperature: float, mini_batch: int | None
) -> None:
    """The columns are PyLate's: all positives, then all negatives; a document that comes twice counts twice.

    In mini-batches the gradient is that of the whole batch. What was recorded of PyLate's own cached loss is exactly
    three times as much, at the same value of the loss: once for each of its columns.
    """
    values, arrays = recorded
    loss, gradient = step(
        retriever,
        {"contrastive": {"temperature": temperature}},
        values["texts"],
        documents=[0, 1, 2, 3, 0, 1],
        items=[[0, 3], [1, 4], [2, 5]],
        mini_batch=mini_batch,
    )
    kind = "contrastive" if mini_batch is None else "cached"
    # A temperature of 0.05 multiplies what float32 rounds, otherwise on each processor, by 20.
    assert loss == pytest.approx(values["losses"][f"{kind}_T{temperature}"], rel=5e-6, abs=2e-5)
    np.testing.assert_allclose(gradient.numpy(), arrays[f"loss/contrastive_T{temperature}_grad_dense"], atol=1e-4)
    np.testing.assert_allclose(3 * gradient.numpy(), arrays[f"loss/cached_T{temperature}_grad_dense"], atol=3e-4)


@pytest.mark.parametrize("mini_batch", [None, 2])
@pytest.mark.parametrize("normalised", [True, False])
def test_distillation(
    retriever: LateRetriever, recorded: tuple[Any, Any], normalised: bool, mini_batch: int | None
) -> None:
    values, arrays = recorded
    loss, gradient = step(
        retriever,
        {"kl": {"normalize_scores": normalised}},
        values["texts"],
        documents=[0, 1, 2, 3],
        items=[[0, 1, 2], [1, 2, 3], [2, 0, 3]],
        labels=arrays["loss/distillation_labels"],
        mini_batch=mini_batch,
    )
    assert loss == pytest.approx(values["losses"][f"distillation_norm{normalised}"], abs=1e-5)
    recorded_gradient = arrays[f"loss/distillation_norm{normalised}_grad_dense"]
    np.testing.assert_allclose(gradient.numpy(), recorded_gradient, atol=1e-4)


def test_xtr_scores_in_training(
    retriever: LateRetriever, recorded: tuple[Any, Any], make_recipe: Any, tmp_path: Path
) -> None:
    """A query token that sees all document tokens gives the mean of MaxSim; one that sees few leaves documents out."""
    texts = recorded[0]["texts"]
    how: dict[str, Any] = {"documents": [0, 1, 2, 3], "items": [[0, 3], [1, 3], [2, 3]]}
    tokens = retriever.compile(texts["queries"]).tensors()["mask"].sum(1)
    assert tokens.eq(tokens[0]).all()  # all of them expanded
    mean = step(retriever, {"contrastive": {"temperature": float(tokens[0])}}, texts, **how)
    retriever.model.zero_grad()
    retriever.masking = "exact"
    every = step(retriever, {"contrastive": {}, "xtr": {"top_k": 10**6}}, texts, **how)
    assert every[0] == pytest.approx(mean[0], abs=1e-5)
    torch.testing.assert_close(every[1], mean[1], atol=1e-4, rtol=1e-3)
    few = step(retriever, {"contrastive": {}, "xtr": {"top_k": 3}}, texts, **how)
    assert few[0] != pytest.approx(mean[0], abs=1e-3)
    with pytest.raises(HyperseekError, match="xtr is for models of token vectors"):
        train(make_recipe(losses={"xtr": {}}), output=tmp_path / "run")


def test_normalised_scores_without_a_teacher_have_no_gradient(make_batch: Any) -> None:
    """And no NaN either: such a query does not count."""
    scores = torch.tensor([[3.0, 1.0, 0.0, 0.0], [2.0, 1.0, 0.0, 1.0]], requires_grad=True)
    labels = torch.tensor([[1.0, 0.0], [torch.nan, torch.nan]])
    total, _ = Objective(LossesConfig.from_mapping({"kl": {"normalize_scores": True}}))(
        make_batch(scores, labels=labels)
    )
    total.backward()
    assert scores.grad is not None
    assert scores.grad[0].abs().sum() == pytest.approx(0, abs=1e-5)  # two scores are 0 and 1, however far apart
    assert scores.grad[1].eq(0).all()


def test_mini_batches_hold_texts_of_similar_length_and_no_needless_padding(
    retriever: LateRetriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["a", "cat dog bird fish sea sun moon star tree leaf", "moon", "the sea and the sun and the moon"]
    features = retriever.tokenize(texts, "document")
    whole = TrainedStack(retriever, {"query": 0, "document": 0})(retriever.tokenize(texts, "query"), features)
    seen: list[tuple[str, tuple[int, ...]]] = []
    run = TrainedStack._run

    def watched(stack: TrainedStack, part: dict[str, Any], side: Any) -> dict[str, torch.Tensor]:
        seen.append((side, tuple(part["input_ids"].shape)))
        return run(stack, part, side)

    monkeypatch.setattr(TrainedStack, "_run", watched)
    stack = TrainedStack(retriever, {"query": 0, "document": 0}, mini_batch=2)
    parts = stack(retriever.tokenize(texts, "query"), retriever.tokenize(texts, "document"))
    lengths = sorted(features["attention_mask"].sum(1).tolist())
    assert [shape for side, shape in seen if side == "document"] == [(2, lengths[1]), (2, lengths[3])]
    assert {shape for side, shape in seen if side == "query"} == {(2, 16)}  # expanded: no token of them is padding
    for ours, theirs in zip(parts, whole, strict=True):
        for name in ours:
            mask = theirs["attention_mask"].bool()
            torch.testing.assert_close(ours[name][mask], theirs[name][mask], atol=1e-5, rtol=1e-5)


def test_lengths_by_the_data(make_recipe: Any, tmp_path: Path) -> None:
    """The percentile of the examples, never below 32 tokens of a query and 128 of a document, nor above the model's."""
    model = {"family": "late", "pooling": None, "normalize": None, "late": {"query_expansion": {"length": 40}}}
    for given, lengths in (
        ({}, {"query": 32, "document": 64}),
        ({"document_length": 10}, {"query": 32, "document": 10}),
    ):
        recipe = make_recipe(
            model={**model, **given}, data={"auto_lengths": True}, train={"max_steps": 1, "trunk": "full"}
        )
        train(recipe, output=tmp_path / str(len(given)))
        saved = hyperseek.load(tmp_path / str(len(given)), device="cpu")
        assert saved.protocol()["max_length"] == lengths
        assert saved.compile(["cat"]).tensors()["queries"].shape[1] == 32  # its expansion is shortened too
    with pytest.raises(HyperseekError, match="length_sample has an effect only where auto_lengths is true"):
        make_recipe(data={"length_sample": 5})
