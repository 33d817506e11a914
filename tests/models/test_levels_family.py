"""Models with levels: built, saved, loaded, asked at their levels, and used in plain sentence-transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer

from hyperseek.errors import ConfigError, HyperseekError, InputError, ModelError
from hyperseek.models import LevelsHead, ModelConfig, Retriever, build, load
from hyperseek.scoring import LevelScorer, Space, vectors_of

TEXTS = ["the cat and the dog", "a small neural network " * 8, "sea", "what is the name of the song"]
QUERIES = ["who is the author of the book", "neural search"]
SMALL = {"d_hrm": 32, "num_segments": 3}


def make(trunk: str, **levels: Any) -> Retriever:
    pooling = None if levels.get("pooling") == "attention" else "mean"
    values = {"trunk": trunk, "family": "levels", "pooling": pooling, "levels": {**SMALL, **levels}}
    return build(ModelConfig.from_mapping(values), device="cpu")


def head_of(retriever: Retriever) -> LevelsHead:
    head = retriever.route("document")[-1]
    assert isinstance(head, LevelsHead)
    return head


def scores(retriever: Retriever, **options: Any) -> torch.Tensor:
    return retriever.compile(QUERIES, options).score(retriever.encode_documents(TEXTS, dtype="float32"))


def shake(retriever: Retriever) -> Retriever:
    """Change every weight of the head, as training does."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in head_of(retriever).parameters():
            if weight.ndim:
                weight.add_(0.1 * torch.randn_like(weight))
    return retriever


@pytest.mark.parametrize("refinement", ["hrm", "linear", "mlp"])
def test_a_new_model_ranks_as_its_trunk_at_every_level(tiny_encoder: str, refinement: str) -> None:
    cosines = build(ModelConfig(trunk=tiny_encoder, family="dense", pooling="mean", normalize=True), device="cpu")
    expected = scores(cosines)
    retriever = make(tiny_encoder, refinement=refinement)
    for level in (1, 2, 3):
        assert torch.equal(scores(retriever, level=level).argsort(dim=1), expected.argsort(dim=1))


@pytest.mark.parametrize("refinement", ["hrm", "linear", "mlp"])
def test_free_norms_start_at_the_schedule_and_may_leave_it(tiny_encoder: str, refinement: str) -> None:
    retriever = make(tiny_encoder, refinement=refinement, radius="norm")

    def radii() -> torch.Tensor:
        points = vectors_of(retriever.encode_documents(TEXTS, dtype="float32"))
        return torch.stack([retriever.space.geometry.at_level(points, level)[:, -2:].sum(1) / 2 for level in (1, 2, 3)])

    torch.testing.assert_close(radii(), torch.tensor([1.0, 2.0, 3.0])[:, None].expand(3, len(TEXTS)))
    shake(retriever)
    assert radii().std(dim=1).min() > 0.01
    with torch.no_grad():
        for weight in head_of(retriever).parameters():
            weight.mul_(1e3)
    assert radii().max() <= head_of(retriever).config.longest * (1 + 1e-5)


def test_attention_starts_as_the_mean_of_tokens(tiny_encoder: str) -> None:
    torch.testing.assert_close(
        scores(make(tiny_encoder, pooling="attention")), scores(make(tiny_encoder)), rtol=1e-4, atol=1e-4
    )


def test_points_lie_at_the_schedule(tiny_encoder: str) -> None:
    retriever = shake(make(tiny_encoder, s_scales="1,2,7", hyp_c=2.5))
    assert retriever.space == Space("levels", 32, 3, retriever.space.radius_squared)
    assert retriever.space.radius_squared == pytest.approx(0.4)
    points = vectors_of(retriever.encode_documents(TEXTS, dtype="float32"))
    radii = [retriever.space.at_level(points, level)[:, -2:].sum(1) * 0.4**0.5 for level in (1, 2, 3)]
    torch.testing.assert_close(torch.stack(radii, 1), torch.tensor([2.0, 4.0, 14.0]).expand(4, 3), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "levels",
    [
        {"trainable_curvature": True, "radius": "head", "hyp_c": 2.0},
        {"refinement": "mlp", "dimension": 5},
        {"refinement": "linear", "dimension": 5, "s_scales": [1, 2.5, 3]},
        {"pooling": "attention", "pool_heads": 2, "start": "original", "hrm_grad_window": 1},
    ],
)
def test_saved_models_give_the_same_scores_bit_for_bit(
    tiny_encoder: str, tmp_path: Path, levels: dict[str, Any]
) -> None:
    retriever = shake(make(tiny_encoder, **levels))
    retriever.save(tmp_path)
    again = load(tmp_path, device="cpu")
    assert again.fingerprint == retriever.fingerprint
    assert again.space == retriever.space
    for options in ({}, {"level": 1, "document_level": 3}, {"broaden": 0.7}, {"relation": "is_a", "level": 2}):
        assert torch.equal(scores(again, **options), scores(retriever, **options))


def test_plain_sentence_transformers_ranks_as_the_last_level_does(tiny_encoder: str, tmp_path: Path) -> None:
    retriever = shake(make(tiny_encoder))
    retriever.save(tmp_path)
    plain = SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=True)
    documents = torch.from_numpy(plain.encode(TEXTS))
    assert documents.shape == (4, 32)
    cosines = plain.similarity(torch.from_numpy(plain.encode(QUERIES)), documents)
    assert torch.equal(cosines.argsort(dim=1), scores(retriever).argsort(dim=1))
    assert plain.encode_document(TEXTS).shape == (4, 96)
    torch.testing.assert_close(retriever.encode_features(TEXTS), documents)


def test_truncation_is_refused(tiny_encoder: str, tmp_path: Path) -> None:
    make(tiny_encoder).save(tmp_path)
    with pytest.raises(ModelError, match="through the levels"):
        SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=True, truncate_dim=8)


def test_queries_understand_levels_and_nothing_else(tiny_encoder: str) -> None:
    retriever = shake(make(tiny_encoder))
    scorer = retriever.compile(QUERIES, {"level": 1, "document_level": 2})
    assert isinstance(scorer, LevelScorer)
    documents = retriever.encode_documents(TEXTS, dtype="float32")
    again = retriever.compile(QUERIES).at(level=1, document_level=2)  # type: ignore[attr-defined]
    assert torch.equal(scorer.score(documents), again.score(documents))
    for wrong in ({"level": 4}, {"level": 0}, {"broaden": 1.5}, {"level": 1, "broaden": 0.5}, {"depth": 1}):
        with pytest.raises(InputError):
            retriever.compile(QUERIES, wrong)


def test_gradients_reach_every_weight_and_the_curvature(tiny_encoder: str) -> None:
    retriever = make(tiny_encoder, pooling="attention", trainable_curvature=True, radius="head", start="original")
    retriever.model.train()
    documents = retriever.points(retriever.forward(retriever.preprocess(TEXTS, "document"), "document"))
    scorer = retriever.scorer(retriever.forward(retriever.preprocess(QUERIES, "query"), "query"))
    assert isinstance(scorer, LevelScorer)
    sum(scorer.at(level=level).score(documents).square().sum() for level in (1, 2, 3)).backward()  # type: ignore[union-attr]
    for name, weight in head_of(retriever).named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
    assert head_of(retriever).curvature.log_radius_squared.grad.abs() > 0  # type: ignore[union-attr]
    measured = head_of(retriever).diagnostics()
    assert measured.keys() == {"hyp_c", "levels_alike", "radius_spread"}
    assert -1 <= measured["levels_alike"] <= 1


def test_the_curvatures_gradient_is_that_of_the_distance(tiny_encoder: str) -> None:
    def total(c: float) -> tuple[torch.Tensor, Retriever]:
        retriever = make(tiny_encoder, trainable_curvature=True, hyp_c=c)
        documents = retriever.points(retriever.forward(retriever.preprocess(TEXTS, "document"), "document"))
        features = retriever.forward(retriever.preprocess(QUERIES, "query"), "query")
        return retriever.scorer(features).score(documents).sum(), retriever

    value, retriever = total(1.0)
    value.backward()
    slope = head_of(retriever).curvature.log_radius_squared.grad
    step = 1e-2
    numeric = (total(torch.tensor(-step).exp().item())[0] - total(torch.tensor(step).exp().item())[0]) / (2 * step)
    torch.testing.assert_close(slope, numeric.detach(), rtol=1e-3, atol=1e-3)


def test_the_head_stays_in_full_precision(tiny_encoder: str) -> None:
    retriever = shake(make(tiny_encoder, trainable_curvature=True))
    exact = scores(retriever)
    retriever.model.half()
    assert all(weight.dtype == torch.float32 for weight in head_of(retriever).parameters())
    vectors = torch.randn(2, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows = head_of(retriever)({"sentence_embedding": vectors}, task="query")["sentence_embedding"]
    assert torch.equal(rows, head_of(retriever)({"sentence_embedding": vectors}, task="query")["sentence_embedding"])
    retriever.model.float()
    torch.testing.assert_close(scores(retriever), exact, rtol=0.02, atol=0.02)  # of a trunk that was rounded


def test_head_from_copies_the_head_of_a_model_of_the_same_sizes(tiny_encoder: str, tmp_path: Path) -> None:
    trained = shake(make(tiny_encoder, radius="head"))
    trained.save(tmp_path)
    values = {"trunk": tiny_encoder, "family": "levels", "pooling": "mean", "head_from": str(tmp_path)}
    again = build(ModelConfig.from_mapping({**values, "levels": {**SMALL, "radius": "head"}}), device="cpu")
    assert torch.equal(scores(again), scores(trained))
    with pytest.raises(ConfigError, match="num_segments 3 instead of 2"):
        build(ModelConfig.from_mapping({**values, "levels": {"d_hrm": 32, "num_segments": 2}}), device="cpu")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"levels": {"num_segments": 2, "s_scales": [1, 2, 3]}}, "for each of the 2 levels"),
        ({"levels": {"s_scales": "1,1,2,3"}}, "rise"),
        ({"levels": {"s_scales": 3}}, "list of numbers"),
        ({"levels": {"pool_heads": 2}}, "pooling: attention"),
        ({"levels": {"refinement": "linear", "n_cycles": 3}}, "refinement: hrm or mlp"),
        ({"levels": {"refinement": "mlp", "hrm_grad_window": 3}}, "refinement: hrm"),
        ({"levels": {"radius_band": 0.5}}, "radius: head"),
        ({"levels": {"hyp_c": 20}}, "outside of its bounds"),
        ({"levels": {"n_cycles": 256, "t_low": 256}}, "263,168 steps for each text"),
        ({"levels": {"s_scales": "1,2,3,40000"}}, "can be stored up to"),
        ({"levels": {"pooling": "attention"}, "pooling": "mean"}, "no effect"),
        ({"document_trunk": "minilm"}, "one trunk"),
    ],
)
def test_options_that_do_not_fit_are_refused(model: dict[str, Any], said: str) -> None:
    with pytest.raises(HyperseekError, match=said):
        ModelConfig.from_mapping({"trunk": "minilm", "family": "levels", **model})


@pytest.mark.parametrize(
    ("size", "options", "said"),
    [
        (0, {}, "token_size must be"),
        (10**9, {}, "token_size must be"),
        ("384", {}, "token_size must be"),
        (True, {}, "token_size must be"),
        (1 << 16, {"pooling": "attention", "pool_hidden_mult": 256}, "parameters"),
        (384, {"d_hrm": 1 << 16}, "parameters"),
        (1 << 16, {"refinement": "linear", "num_segments": 64}, "parameters"),
    ],
)
def test_sizes_from_strangers_are_bounded_before_anything_is_built(
    size: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        LevelsHead(size, **options)


@pytest.mark.parametrize("radius", ["schedule", "head"])
@pytest.mark.parametrize("pooling", ["trunk", "attention"])
@pytest.mark.parametrize("refinement", ["hrm", "linear", "mlp"])
def test_the_bound_counts_the_parameters(refinement: str, pooling: str, radius: str) -> None:
    head = LevelsHead(96, d_hrm=128, refinement=refinement, pooling=pooling, radius=radius)
    assert head.config.parameters(96) == pytest.approx(sum(weight.numel() for weight in head.parameters()), rel=0.1)
