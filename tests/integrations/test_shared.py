"""What all adapters share: vectors and scores of models of every family, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hyperseek import Index, Retriever
from hyperseek.errors import InputError, ModelError, StoreError, UnknownNameError
from hyperseek.integrations import best_first, compared, loaded, opened, place_of, scores, source_of, vectors
from hyperseek.models import ModelConfig, build

TEXTS = ["the cat and the dog", "sea moon", "a small neural network", "what is the name of the song", "star"]
QUERY = "moon and star"
FAMILIES: dict[str, dict[str, Any]] = {
    "dense": {"pooling": "mean"},
    "lorentz": {"lorentz": {"dimension": 8}},
    "levels": {"pooling": "mean", "levels": {"d_hrm": 32, "num_segments": 3}},
    "qnet": {"qnet": {"depth": 2}},
    "late": {"late": {"dimension": 8}},
}


def make(trunk: str, family: str) -> Retriever:
    torch.manual_seed(0)
    model = build(ModelConfig.from_mapping({"trunk": trunk, "family": family, **FAMILIES[family]}), device="cpu")
    for weight in model.route("query")[-1].parameters():  # as training does
        weight.data += 0.2 * torch.randn_like(weight)
    return model


@pytest.mark.parametrize("family", ["dense", "lorentz", "levels"])
def test_inner_products_of_vectors_rank_as_the_model_does(tiny_encoder: str, family: str) -> None:
    model = make(tiny_encoder, family)
    [query], documents = vectors(model, [QUERY], "query"), vectors(model, TEXTS, "document")
    products = [sum(x * y for x, y in zip(query, own, strict=True)) for own in documents]
    assert best_first(products) == best_first(scores(model, QUERY, TEXTS))
    assert best_first(products, 2) == best_first(products)[:2]
    assert vectors(model, [], "query") == []


@pytest.mark.parametrize(("family", "said"), [("qnet", "functions, not vectors"), ("late", "a vector for each token")])
def test_queries_that_are_no_vectors_are_refused_and_still_score(tiny_encoder: str, family: str, said: str) -> None:
    model = make(tiny_encoder, family)
    with pytest.raises(InputError, match=said):
        vectors(model, [QUERY], "query")
    expected = model.compile([QUERY]).score(model.encode_documents(TEXTS))[0].tolist()
    assert scores(model, QUERY, TEXTS) == pytest.approx(expected)
    assert scores(model, QUERY, []) == []
    with pytest.raises(InputError, match="is blank"):
        scores(model, " ", TEXTS)
    with pytest.raises(UnknownNameError, match="option"):
        scores(model, QUERY, TEXTS, {"level": 7})


def test_what_is_no_index_and_no_model_is_refused(index: Index, encoder: Retriever, tmp_path: Path) -> None:
    assert opened(index) is index
    assert place_of(opened(index.path)) == str(index.path) == place_of(str(index.path))
    assert loaded(encoder) is encoder
    assert source_of(encoder) == encoder.source
    with pytest.raises(StoreError):
        opened(tmp_path / "none")
    with pytest.raises(InputError, match="index must be"):
        opened(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="model must be"):
        loaded(3)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="save it"):
        source_of(Retriever(encoder.model))
    for field, operator, value in (("a", ">", None), ("a", "in", 3), ("a", "==", float("nan")), ("", "==", 1)):
        with pytest.raises(InputError):
            compared(field, operator, value)
    with pytest.raises(UnknownNameError, match="known: !="):
        compared("a", "like", 1)
