from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import SentenceTransformer

from hyperseek import HyperseekError
from hyperseek.models import LorentzHead, ModelConfig, Retriever, build, load
from hyperseek.models.retriever import Side
from hyperseek.scoring import Space

TEXTS = ["the cat and the dog", "a small neural network " * 8, "sea", "what is the name of the song"]
QUERIES = ["who is the author of the book", "neural search"]
SIDES: tuple[Side, Side] = ("query", "document")
DISTANCES = ["geodesic", "squared_lorentz", "lorentz_inner"]


def make(tiny_encoder: str, normalize: bool | None = True, **lorentz: Any) -> Retriever:
    values = {"trunk": tiny_encoder, "family": "lorentz", "normalize": normalize}
    values["pooling"] = None if "pooling" in lorentz else "mean"
    values["prompts"] = {"query": "what is ", "document": "text "}
    values |= {"query_length": 12, "document_length": 20, "lorentz": lorentz}
    return build(ModelConfig.from_mapping(values), device="cpu")


def head_of(retriever: Retriever) -> LorentzHead:
    head = retriever.route("document")[-1]
    assert isinstance(head, LorentzHead)
    return head


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("radius_squared", [0.1, 1.0, 10.0])
def test_plain_sentence_transformers_ranks_by_the_distance(
    tiny_encoder: str, tmp_path: Path, distance: str, radius_squared: float
) -> None:
    retriever = make(
        tiny_encoder, normalize=False, dimension=6, distance=distance, radius_squared=radius_squared, radius="head"
    )
    torch.nn.init.normal_(head_of(retriever).tangent.radius_head.weight, std=0.02)  # type: ignore[union-attr]
    retriever.save(tmp_path)
    plain = SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=True)
    queries = torch.from_numpy(plain.encode_query(QUERIES)).double()
    documents = torch.from_numpy(plain.encode_document(TEXTS)).double()
    inner = queries @ documents.T
    on_sheet = -documents[:, 0].square() + documents[:, 1:].square().sum(1)
    torch.testing.assert_close(on_sheet, torch.full_like(on_sheet, -radius_squared), atol=1e-3, rtol=1e-4)
    truth = {
        "lorentz_inner": inner,
        "squared_lorentz": 2 * radius_squared + 2 * inner,
        "geodesic": -(radius_squared**0.5) * torch.acosh(-inner / radius_squared),
    }[distance]
    ours = retriever.compile(QUERIES).score(retriever.encode_documents(TEXTS, dtype="float32"))
    torch.testing.assert_close(ours.double(), truth, atol=2e-4, rtol=1e-3)
    assert torch.equal(ours.argsort(dim=1), inner.argsort(dim=1))


def test_a_new_head_on_normalised_vectors_ranks_as_the_trunk(tiny_encoder: str) -> None:
    cosines = build(ModelConfig(trunk=tiny_encoder, family="dense", pooling="mean", normalize=True), device="cpu")
    retriever = make(tiny_encoder, norm_scale=1.0)
    retriever.model.prompts.update(query="", document="")
    expected = cosines.compile(QUERIES).score(cosines.encode_documents(TEXTS, dtype="float32"))
    scores = retriever.compile(QUERIES).score(retriever.encode_documents(TEXTS, dtype="float32"))
    assert torch.equal(scores.argsort(dim=1), expected.argsort(dim=1))


def test_saved_with_prompts_lengths_and_curvature(tiny_encoder: str, tmp_path: Path) -> None:
    retriever = make(
        tiny_encoder,
        dimension=5,
        trainable_curvature=True,
        radius="head",
        de_layer_norm=True,
        projection="mlp",
        trainable_norm_scale=True,
    )
    with torch.no_grad():
        head_of(retriever).curvature.log_radius_squared.fill_(0.5)
    retriever.save(tmp_path)
    again = load(tmp_path, device="cpu")
    assert again.space == retriever.space == Space("lorentz", 5, retriever.space.radius_squared)
    assert again.space.radius_squared == pytest.approx(1.6487, abs=1e-4)
    assert again.fingerprint == retriever.fingerprint
    assert again.protocol()["prompts"] == {"query": "what is ", "document": "text "}
    assert again.protocol()["max_length"] == {"query": 12, "document": 20}
    points = retriever.encode_documents(TEXTS, dtype="float32")
    torch.testing.assert_close(again.encode_documents(TEXTS, dtype="float32").vectors, points.vectors)


def test_the_fingerprint_knows_the_curvature(tiny_encoder: str) -> None:
    names = {make(tiny_encoder, radius_squared=value).fingerprint for value in (1.0, 1.001)}
    assert len(names) == 2


def test_the_fingerprint_follows_a_model_that_is_shortened_or_trained(tiny_encoder: str, tmp_path: Path) -> None:
    retriever = make(tiny_encoder, dimension=6, trainable_curvature=True)
    names = [retriever.fingerprint]
    head_of(retriever).shorten(4)
    names.append(retriever.fingerprint)
    with torch.no_grad():
        head_of(retriever).curvature.log_radius_squared.add_(0.1)
    names.append(retriever.fingerprint)
    assert len(set(names)) == 3
    retriever.save(tmp_path)
    assert load(tmp_path, device="cpu").fingerprint == names[-1]


def test_plain_encode_and_encode_features_give_the_logarithmic_map(tiny_encoder: str) -> None:
    retriever = make(tiny_encoder, radius_squared=2.0, dimension=7)
    features = retriever.encode_features(TEXTS)
    points = retriever.encode_documents(TEXTS, dtype="float32").vectors
    direction, rho = points[:, :-2], points[:, -2:].sum(1, keepdim=True)
    torch.testing.assert_close(features, direction * rho * 2**0.5, atol=1e-5, rtol=1e-5)
    short = [0, 2, 3]  # plain `encode` knows no length of documents
    prompted = retriever.model.encode([TEXTS[place] for place in short], prompt="text ", convert_to_tensor=True)
    torch.testing.assert_close(prompted, features[short], atol=1e-5, rtol=1e-5)


def test_points_are_not_truncated(tiny_encoder: str, tmp_path: Path) -> None:
    make(tiny_encoder, dimension=6).save(tmp_path / "curved")
    with pytest.raises(HyperseekError, match="truncate_dim=4 would cut points off"):
        SentenceTransformer(str(tmp_path / "curved"), device="cpu", trust_remote_code=True, truncate_dim=4)
    make(tiny_encoder, dimension=6, distance="cosine").save(tmp_path / "flat")
    flat = SentenceTransformer(str(tmp_path / "flat"), device="cpu", trust_remote_code=True, truncate_dim=4)
    assert flat.encode_query(QUERIES).shape == (len(QUERIES), 4)


@pytest.mark.parametrize("distance", ["dot", "cosine", "euclidean"])
def test_a_flat_twin_has_as_many_parameters_and_no_curvature(tiny_encoder: str, tmp_path: Path, distance: str) -> None:
    twin, curved = make(tiny_encoder, dimension=6, distance=distance), make(tiny_encoder, dimension=6)
    count = [sum(parameter.numel() for parameter in model.model.parameters()) for model in (twin, curved)]
    assert count[0] == count[1]
    assert twin.space == Space(distance, 6)
    twin.save(tmp_path)
    plain = SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=True)
    expected = plain.similarity(plain.encode_query(QUERIES), plain.encode_document(TEXTS))
    scores = twin.compile(QUERIES).score(twin.encode_documents(TEXTS, dtype="float32"))
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_geometry_stays_float32(tiny_encoder: str, dtype: str) -> None:
    retriever = make(tiny_encoder, radius_squared=0.3, dimension=6)
    exact = retriever.encode_documents(TEXTS, dtype="float32").vectors
    rough = retriever.encode_documents(TEXTS, dtype=dtype).vectors
    assert not torch.equal(exact, rough)
    torch.testing.assert_close(rough, exact, atol=0.1, rtol=0.1)
    space = retriever.space
    retriever.model.to(getattr(torch, dtype))
    assert retriever.space == space
    assert {parameter.dtype for parameter in head_of(retriever).parameters()} == {torch.float32}
    states = torch.randn(3, 32, dtype=getattr(torch, dtype))
    with torch.autocast("cpu", torch.bfloat16):
        points = head_of(retriever)({"sentence_embedding": states}, task="document")["sentence_embedding"]
    assert points.dtype == torch.float32


@pytest.mark.parametrize("distance", DISTANCES)
def test_scores_know_the_gradient_of_the_curvature(tiny_encoder: str, distance: str) -> None:
    retriever = make(tiny_encoder, normalize=False, dimension=4, distance=distance, trainable_curvature=True)
    curvature = head_of(retriever).curvature.log_radius_squared

    def total() -> torch.Tensor:
        features = {side: retriever.forward(retriever.preprocess(TEXTS, side), side) for side in SIDES}
        scores = retriever.scorer(features["query"]).score(retriever.points(features["document"]))
        return (scores * torch.arange(16.0).view(4, 4)).sum()

    total().backward()
    step = 0.05
    with torch.no_grad():
        curvature += step
        above = total()
        curvature -= 2 * step
        below = total()
    assert curvature.grad is not None
    assert curvature.grad.item() == pytest.approx((above - below).item() / (2 * step), rel=0.02)


@pytest.mark.parametrize("distance", DISTANCES)
def test_gradients_are_finite_for_equal_texts_and_at_the_origin(tiny_encoder: str, distance: str) -> None:
    head = LorentzHead(4, 3, distance=distance, trainable_curvature=True)  # type: ignore[arg-type]
    vectors = torch.tensor([[0.0] * 4, [1.0, 2, 3, 4], [1.0, 2, 3, 4], [1e-20] * 4, [1e4] * 4], requires_grad=True)
    queries, documents = (head({"sentence_embedding": vectors}, task=task) for task in ("query", "document"))
    scores = head.scorer(queries["sentence_embedding"]).score(head.points(documents["sentence_embedding"]))
    scores.sum().backward()
    for tensor in (vectors, *head.parameters()):
        assert tensor.grad is None or tensor.grad.isfinite().all()
    assert vectors.grad is not None


def test_what_cannot_be_is_refused(tiny_encoder: str) -> None:
    with pytest.raises(HyperseekError, match="overflow float32"):
        make(tiny_encoder, radius_squared_min=0.001)
    with pytest.raises(HyperseekError, match="outside of its bounds"):
        make(tiny_encoder, radius_squared=20)
    with pytest.raises(HyperseekError, match="distance"):
        make(tiny_encoder, distance="manhattan")
    with pytest.raises(HyperseekError, match="norm_clip"):
        make(tiny_encoder, radius="head", radius_start=11)


POOLINGS: list[dict[str, Any]] = [
    {"pooling": "hyp_cls"},
    {"pooling": "hyp_mean", "radius": "head"},
    {"pooling": "hyp_outward_einstein_midpoint", "pooling_power": 2.0, "pooling_keep_radius": True},
    {"pooling": "hyp_attentive_mean", "trainable_curvature": True},
    {"pooling": "hyp_mean", "blocks": 2, "block_heads": 2, "trainable_curvature": True},
]


@pytest.mark.parametrize("options", POOLINGS, ids=lambda options: "-".join(map(str, options.values())))
def test_lifted_tokens_do_not_see_padding_and_come_back_from_disk(
    tiny_encoder: str, tmp_path: Path, options: dict[str, Any]
) -> None:
    retriever = make(tiny_encoder, normalize=None, dimension=7, radius_squared=0.7, **options)
    together = retriever.encode_documents(TEXTS, dtype="float32").vectors
    alone = retriever.encode_documents(TEXTS, dtype="float32", batch_tokens=1).vectors
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    retriever.save(tmp_path)
    again = load(tmp_path, device="cpu")
    assert again.fingerprint == retriever.fingerprint
    torch.testing.assert_close(again.encode_documents(TEXTS, dtype="float32").vectors, together)
    radius = together[:, -2:].sum(1, keepdim=True) * 0.7**0.5
    torch.testing.assert_close(retriever.encode_features(TEXTS), together[:, :-2] * radius, atol=1e-4, rtol=1e-4)


def test_gradients_reach_everything_behind_lifted_tokens(tiny_encoder: str) -> None:
    retriever = make(tiny_encoder, normalize=None, dimension=7, **POOLINGS[-1], de_layer_norm=True, radius="head")
    features = {side: retriever.forward(retriever.preprocess(TEXTS, side), side) for side in SIDES}
    scores = retriever.scorer(features["query"]).score(retriever.points(features["document"]))
    (scores * torch.arange(16.0).view(4, 4)).sum().backward()
    trained = {name: p.grad for name, p in head_of(retriever).named_parameters() if p.requires_grad}
    assert [name for name, gradient in trained.items() if gradient is None or not gradient.any()] == []
    assert 0 <= head_of(retriever).diagnostics()["clipped"] <= 1


@pytest.mark.parametrize("options", POOLINGS, ids=lambda options: "-".join(map(str, options.values())))
def test_what_a_trunk_leaves_in_the_padding_does_not_matter(options: dict[str, Any]) -> None:
    head = LorentzHead(6, 7, **options)
    states = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    alone = head({"token_embeddings": states, "attention_mask": torch.ones(2, 3)}, task="document")
    spoilt = torch.cat([torch.full((2, 2, 6), torch.nan), states, torch.full((2, 1, 6), torch.inf)], dim=1)
    mask = torch.tensor([[0, 0, 1, 1, 1, 0]]).expand(2, 6)
    found = head({"token_embeddings": spoilt, "attention_mask": mask}, task="document")["sentence_embedding"]
    torch.testing.assert_close(found, alone["sentence_embedding"], rtol=1e-4, atol=1e-5)
    found.sum().backward()
    assert all(p.grad.isfinite().all() for p in head.parameters() if p.grad is not None)


def test_pooling_before_the_lift_keeps_norms(tiny_encoder: str) -> None:
    mean = make(tiny_encoder, normalize=None, dimension=7, pooling="euc_mean")
    assert [type(module).__name__ for module in mean.route("document")] == ["Transformer", "Pooling", "LorentzHead"]
    radii = mean.encode_documents(TEXTS, dtype="float32").vectors[:, -2:].sum(1)
    assert radii.std() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "hyp_mean", "distance": "dot"}, "does not lift"),
        ({"pooling": "euc_mean", "blocks": 1}, "use a hyp_ pooling"),
        ({"pooling": "hyp_mean", "blocks": 1, "block_heads": 5}, "multiple of the 5 heads"),
        ({"pooling": "hyp_mean", "pooling_power": 2.0}, "outward_einstein_midpoint"),
        ({"pooling": "euc_mean", "pooling_keep_radius": True}, "belong to pooling hyp_outward_einstein_midpoint"),
        ({"pooling": "hyp_outward_einstein_midpoint", "pooling_power": float("nan")}, "pooling_power"),
        ({"pooling": "mean"}, "pooling"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tiny_encoder: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(HyperseekError, match=message):
        make(tiny_encoder, normalize=None, dimension=7, **options)
