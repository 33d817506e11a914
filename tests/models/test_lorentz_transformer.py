"""Fully hyperbolic retrievers: as modules of sentence-transformers, saved, searched, built from recipes, trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import BertTokenizer

from hyperseek import HyperseekError
from hyperseek.geometry import lorentz_distance_matrix
from hyperseek.models import (
    LorentzEncoder,
    LorentzEncoderConfig,
    LorentzForMaskedLM,
    LorentzPoints,
    LorentzPooling,
    LorentzTransformer,
    ModelConfig,
    Retriever,
    build,
    load,
)

DOCUMENTS = ["cat dog", "sun moon star tree leaf", "river", "table music song", "cat sun river book"]
QUERIES = ["dog", "moon tree music"]


def encoder(tokenizer: BertTokenizer, **options: Any) -> LorentzEncoder:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LorentzEncoderConfig.for_tokenizer(
        tokenizer, **sizes, initializer_range=0.3, curvature_init=2.0, **options
    )
    return LorentzEncoder(config).eval()


@pytest.fixture(scope="module")
def tokenizer(tiny_encoder: str) -> BertTokenizer:
    made: BertTokenizer = BertTokenizer.from_pretrained(tiny_encoder)
    return made


@pytest.fixture(scope="module")
def folder(tokenizer: BertTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder and its tokenizer, as pre-training leaves them."""
    path = tmp_path_factory.mktemp("hyte-fh")
    encoder(tokenizer, pooling="attentive_mean", trainable_curvature=True).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@torch.no_grad()
def distances(folder: Path, tokenizer: BertTokenizer) -> torch.Tensor:
    model = LorentzEncoder.from_pretrained(folder).eval()
    queries, documents = (
        model(**tokenizer(texts, padding=True, return_tensors="pt")).pooler_output for texts in (QUERIES, DOCUMENTS)
    )
    return lorentz_distance_matrix(queries, documents, model.curvature.radius_squared)


def test_scores_are_distances_of_pooled_points(folder: Path, tokenizer: BertTokenizer) -> None:
    retriever = load(folder, device="cpu")
    assert retriever.space.to_json() == pytest.approx(
        {"kind": "lorentz", "dimension": 15, "radius_squared": 2.0, "similarity": "geodesic"}
    )
    points = retriever.encode_documents(DOCUMENTS, dtype="float32")
    expected = -distances(folder, tokenizer)
    torch.testing.assert_close(retriever.compile(QUERIES).score(points), expected, atol=1e-4, rtol=1e-4)
    half = retriever.encode_documents(DOCUMENTS, dtype="bfloat16")
    torch.testing.assert_close(retriever.compile(QUERIES).score(half), expected, atol=0.1, rtol=0.1)


def test_saved_models_load_here_and_rank_the_same_in_plain_sentence_transformers(
    folder: Path, tokenizer: BertTokenizer, tmp_path: Path
) -> None:
    retriever = load(folder, device="cpu")
    retriever.model.prompts.update(query="leaf ")
    retriever.save(tmp_path)
    loaded = load(tmp_path, device="cpu")
    assert loaded.fingerprint == retriever.fingerprint
    points = loaded.encode_documents(DOCUMENTS, dtype="float32")
    scores = loaded.compile(QUERIES).score(points)
    with pytest.raises(HyperseekError, match="truncate_dim=4 would cut points off"):
        SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu", truncate_dim=4)
    plain = SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")
    products = torch.from_numpy(plain.encode_query(QUERIES) @ plain.encode_document(DOCUMENTS).T)
    torch.testing.assert_close(-(2.0**0.5) * torch.acosh(-products / 2.0), scores, atol=1e-3, rtol=1e-3)
    assert products.argsort().tolist() == scores.argsort().tolist()
    assert plain.encode(QUERIES).shape == (2, 15)
    torch.testing.assert_close(
        torch.from_numpy(plain.encode(DOCUMENTS)).norm(dim=1), loaded.encode_features(DOCUMENTS).norm(dim=1)
    )
    # The one curvature belongs to the trunk; the module of points keeps no copy.
    assert not LorentzPoints(16).state_dict()
    assert sum("log_radius" in name for name in load_file(tmp_path / "model.safetensors")) == 1


def test_a_model_of_masked_tokens_is_a_trunk_too(tokenizer: BertTokenizer, tmp_path: Path) -> None:
    config = encoder(tokenizer, pooling="mean").config
    model = LorentzForMaskedLM(config)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    retriever = load(tmp_path, device="cpu")
    trunk, pooling, _ = retriever.route("document")
    assert isinstance(trunk, LorentzTransformer)
    assert isinstance(pooling, LorentzPooling)
    assert pooling.pooling == "mean"
    for name, tensor in model.model.state_dict().items():
        torch.testing.assert_close(trunk.model.state_dict()[name], tensor)


def test_recipes_choose_distance_pooling_and_a_trained_curvature(folder: Path) -> None:
    lorentz = {
        "distance": "lorentz_inner",
        "pooling": "hyp_outward_einstein_midpoint",
        "pooling_power": 2.0,
        "trainable_curvature": True,
    }
    built = build(
        ModelConfig.from_mapping({"trunk": str(folder), "family": "lorentz", "lorentz": lorentz}), device="cpu"
    )
    trunk, pooling, points = built.route("query")
    assert (pooling.pooling, pooling.power) == ("outward_einstein_midpoint", 2.0)
    assert built.space.similarity == "inner"
    assert points.curvature is trunk.model.curvature
    assert trunk.model.curvature.trainable
    # Gradients of a score reach the curvature and the embeddings.
    features = built.forward(built.preprocess(DOCUMENTS, "document"), "document")
    scores = built.scorer(built.forward(built.preprocess(QUERIES, "query"), "query")).score(built.points(features))
    scores.sum().backward()
    for parameter in (trunk.model.curvature.log_radius_squared, trunk.model.embeddings.word_embeddings.weight):
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().sum() > 0
    kept = build(ModelConfig.from_mapping({"trunk": str(folder), "family": "lorentz"}), device="cpu")
    assert kept.route("query")[1].pooling == "attentive_mean"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "dense"}, "take family: lorentz, not dense"),
        ({"family": "qnet"}, "take family: lorentz, not qnet"),
        ({"family": "lorentz", "lorentz": {"norm_clip": 2.0}}, "norm_clip has no effect"),
        ({"family": "lorentz", "lorentz": {"distance": "cosine"}}, "distance cosine"),
        ({"family": "lorentz", "lorentz": {"pooling": "euc_mean"}}, "pooling euc_mean"),
        ({"family": "lorentz", "pooling": "mean"}, "lorentz.pooling"),
    ],
)
def test_options_without_meaning_are_refused(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(HyperseekError, match=message):
        build(ModelConfig.from_mapping({"trunk": str(folder), **options}), device="cpu")


def test_the_gradient_of_the_curvature_is_that_of_the_distances(folder: Path, tokenizer: BertTokenizer) -> None:
    retriever = load(folder, device="cpu")
    trunk = retriever.route("query")[0]
    assert isinstance(trunk, LorentzTransformer)
    parameter = trunk.model.curvature.log_radius_squared

    def score() -> torch.Tensor:
        features = retriever.forward(retriever.preprocess(DOCUMENTS, "document"), "document")
        scorer = retriever.scorer(retriever.forward(retriever.preprocess(QUERIES, "query"), "query"))
        return scorer.score(retriever.points(features)).sum()

    score().backward()
    gradient = parameter.grad.item()
    step = 1e-2
    with torch.no_grad():
        values = []
        for change in (step, -2 * step):
            parameter.add_(change)
            values.append(score().item())
        parameter.add_(step)
    assert gradient == pytest.approx((values[0] - values[1]) / (2 * step), rel=0.03)


def test_shortened_models_hand_out_points_of_fewer_dimensions(folder: Path, tmp_path: Path) -> None:
    retriever = load(folder, device="cpu")
    whole = retriever.encode_documents(DOCUMENTS, dtype="float32").vectors
    points = retriever.route("document")[-1]
    assert isinstance(points, LorentzPoints)
    points.shorten(4)
    retriever.save(tmp_path)
    loaded = load(tmp_path, device="cpu")
    assert loaded.space.dimension == 4
    short = loaded.encode_documents(DOCUMENTS, dtype="float32").vectors
    directions = torch.nn.functional.normalize(whole[:, :4])
    torch.testing.assert_close(short[:, :4], directions, atol=1e-5, rtol=1e-5)
    assert loaded.encode_features(DOCUMENTS).shape == (len(DOCUMENTS), 4)
    lorentz = {"trunk": str(folder), "family": "lorentz", "lorentz": {"output_dimension": 4}}
    assert build(ModelConfig.from_mapping(lorentz), device="cpu").space.dimension == 4
    with pytest.raises(HyperseekError, match="must be 1 to 15"):
        points.shorten(16)


def test_modules_alone_say_what_they_need() -> None:
    with pytest.raises(HyperseekError, match="not part of a model whose trunk"):
        _ = LorentzPoints(16).space
    with pytest.raises(HyperseekError, match="distance of points 'cosine'"):
        LorentzPoints(16, "cosine")
    with pytest.raises(HyperseekError, match="this model has 0"):
        SentenceTransformer(modules=[LorentzPoints(16)], device="cpu")


def test_other_encoders_are_not_taken_for_hyperbolic_ones(tiny_encoder: str) -> None:
    with pytest.raises(HyperseekError, match="is a BertModel"):
        LorentzTransformer(tiny_encoder)
    assert isinstance(load(tiny_encoder, device="cpu"), Retriever)
