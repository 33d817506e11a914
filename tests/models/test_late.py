"""Late interaction: sentence-transformers' multi-vector models as retrievers, and PyLate's recorded numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hyperseek
from hyperseek.errors import InputError, ModelError, UnknownNameError
from hyperseek.models import LateRetriever, Retriever
from hyperseek.scoring import MaxSimScorer, TokenPoints, load_scorer
from hyperseek.types import Document

VARIANTS = ("default", "attend_expansion", "no_expansion", "no_prefix", "no_skiplist")
TEXTS = ["the cat sat on the stone tree", "a dog", "deep neural network weights search a large vector index", "moon"]
WORDS = ("cat", "dog", "bird", "fish", "sun", "moon", "star", "tree", "leaf", "stone")
QUERIES = ["where is the cat", "what network", "sea and sun and moon and star"]


@pytest.fixture(scope="module")
def recorded(golden: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    folder = golden / "colbert"
    with np.load(folder / "golden.npz") as arrays:
        return json.loads((folder / "golden.json").read_text()), dict(arrays)


@pytest.fixture(scope="module")
def checkpoint(golden: Path) -> Path:
    return golden / "colbert" / "checkpoint"


def load_variant(checkpoint: Path, folder: Path, kwargs: dict[str, Any]) -> LateRetriever:
    """Load the checkpoint with the settings of a variant in its configuration file, as PyLate writes them."""
    shutil.copytree(checkpoint, folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    file = folder / "config_sentence_transformers.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **kwargs}))
    retriever = hyperseek.load(folder, device="cpu")
    assert isinstance(retriever, LateRetriever)
    return retriever


@pytest.mark.parametrize("variant", VARIANTS)
def test_pylate_checkpoints_give_pylates_numbers(
    variant: str, checkpoint: Path, recorded: tuple[dict[str, Any], dict[str, np.ndarray]], tmp_path: Path
) -> None:
    values, arrays = recorded
    own = {name.removeprefix(f"{variant}/"): array for name, array in arrays.items() if name.startswith(f"{variant}/")}
    retriever = load_variant(checkpoint, tmp_path / "model", values[variant]["kwargs"])
    documents = retriever.encode_documents(values["texts"]["documents"], dtype="float32")
    scorer = retriever.compile(values["texts"]["queries"])
    assert isinstance(scorer, MaxSimScorer)
    for row in range(4):
        np.testing.assert_allclose(documents[row : row + 1].vectors.numpy(), own[f"d{row}"], atol=1e-5)
    for row in range(3):
        np.testing.assert_allclose(scorer.queries[row][scorer.mask[row] > 0].numpy(), own[f"q{row}"], atol=1e-5)
    exact = scorer.score(documents)
    np.testing.assert_allclose(exact.numpy(), own["maxsim"], atol=1e-5)
    retriever.masking = "pylate"
    zeroed = retriever.compile(values["texts"]["queries"]).score(documents)
    if "maxsim_zero_padded" in own:
        np.testing.assert_allclose(zeroed.numpy(), own["maxsim_zero_padded"], atol=1e-5)
    for query, hits in enumerate(values[variant]["rerank"]):
        order = zeroed[query].argsort(descending=True)
        assert [f"d{row}" for row in order] == [hit["id"] for hit in hits]
        np.testing.assert_allclose(zeroed[query][order].numpy(), [hit["score"] for hit in hits], atol=1e-5)


def test_tokens_and_states_before_the_mask_are_pylates(
    checkpoint: Path, recorded: tuple[dict[str, Any], dict[str, np.ndarray]]
) -> None:
    values, arrays = recorded
    retriever = hyperseek.load(checkpoint, device="cpu")
    for side, name in (("query", "tok_q"), ("document", "tok_d")):
        texts = values["texts"]["queries" if side == "query" else "documents"]
        features = retriever.preprocess(texts, side)  # type: ignore[arg-type]
        for key in ("input_ids", "attention_mask"):
            np.testing.assert_array_equal(features[key].numpy(), arrays[f"default/{name}_{key}"])
    with torch.no_grad():
        states = retriever.forward(features, "document", stop=2)["token_embeddings"]
    np.testing.assert_allclose(states.numpy(), arrays["default/raw_doc_token_embeddings_unnormalised"], atol=1e-5)


def test_zero_masking_only_lifts_scores(
    checkpoint: Path, recorded: tuple[dict[str, Any], dict[str, np.ndarray]]
) -> None:
    """The recorded similarities are all positive; here some are not, beside zero padding written out."""
    retriever = hyperseek.load(checkpoint, device="cpu")
    assert isinstance(retriever, LateRetriever)
    documents = retriever.encode_documents(recorded[0]["texts"]["documents"], dtype="float32")
    opposite = TokenPoints(-documents.vectors, documents.offsets)
    exact = retriever.compile(["late interaction"])
    retriever.masking = "pylate"
    zeroed = retriever.compile(["late interaction"])
    tokens = zeroed.tensors()["queries"][0]
    padded = torch.nn.functional.pad(opposite.padded()[0], (0, 0, 0, 1))
    expected = (padded @ tokens.T).amax(1).sum(1)
    torch.testing.assert_close(zeroed.score(opposite)[0], expected, atol=1e-5, rtol=1e-5)
    assert (zeroed.score(opposite) > exact.score(opposite) + 0.1).any()


def make_model(tiny_encoder: str, **settings: Any) -> Any:
    """A ColBERT of 8 numbers a token, made of sentence-transformers' modules."""
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    torch.manual_seed(0)
    trunk = Transformer(tiny_encoder, document_length=12, **settings)
    dense = Dense(32, 8, bias=False, activation_function=torch.nn.Identity(), module_input_name="token_embeddings")
    modules = [trunk, dense, MultiVectorMask(skiplist_words=["the"]), Normalize(module_input_name="token_embeddings")]
    return MultiVectorEncoder(modules=modules, device="cpu")


def test_any_multi_vector_model_encodes_and_scores_as_in_sentence_transformers(tiny_encoder: str) -> None:
    model = make_model(tiny_encoder)
    retriever = LateRetriever(model)
    documents = retriever.encode_documents(TEXTS, dtype="float32", batch_tokens=16)
    expected = model.encode_document(TEXTS)
    assert documents.lengths.tolist() == [len(tokens) for tokens in expected]
    torch.testing.assert_close(documents.vectors, torch.cat(expected), atol=1e-5, rtol=1e-5)
    assert not documents.vectors.is_inference()
    scores = retriever.compile(QUERIES).score(documents)
    torch.testing.assert_close(scores, model.similarity(model.encode_query(QUERIES), expected), atol=1e-5, rtol=1e-5)
    assert retriever.space == hyperseek.Space("tokens", 8)


def test_mean_maxsim_divides_by_the_tokens_of_the_query(tiny_encoder: str) -> None:
    model = make_model(tiny_encoder)
    model.similarity_fn_name = "meanmaxsim"
    retriever = LateRetriever(model)
    documents = retriever.encode_documents(TEXTS, dtype="float32")
    scores = retriever.compile(QUERIES).score(documents)
    expected = model.similarity(model.encode_query(QUERIES), model.encode_document(TEXTS))
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)


def test_queries_compile_in_batches_of_their_own_lengths(
    tiny_encoder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    retriever = LateRetriever(make_model(tiny_encoder))
    documents = retriever.encode_documents(TEXTS, dtype="float32")
    together = retriever.compile(QUERIES)
    monkeypatch.setattr("hyperseek.models.retriever._LARGEST_QUERY_BATCH", 1)
    apart = retriever.compile(QUERIES)
    torch.testing.assert_close(apart.score(documents), together.score(documents), atol=1e-5, rtol=1e-5)
    apart.save(tmp_path / "queries.safetensors")
    again = load_scorer(tmp_path / "queries.safetensors")
    assert torch.equal(again.score(documents), apart.score(documents))


def test_a_saved_model_loads_as_itself_with_the_same_fingerprint(tiny_encoder: str, tmp_path: Path) -> None:
    expansion = {"strategy": "fixed", "attend": False, "length": 9}
    retriever = LateRetriever(make_model(tiny_encoder, query_expansion=expansion))
    retriever.save(tmp_path / "model")
    again = hyperseek.load(tmp_path / "model", device="cpu")
    assert isinstance(again, LateRetriever)
    assert (again.fingerprint, again.source) == (retriever.fingerprint, str(tmp_path / "model"))
    protocol = again.protocol()
    assert protocol["max_length"] == {"query": 9, "document": 12}
    assert (protocol["similarity"], protocol["masking"]) == ("maxsim", "exact")
    assert protocol["query_expansion"]["length"] == 9
    assert json.loads(json.dumps(protocol)) == protocol
    documents = again.encode_documents(TEXTS, dtype="float32")
    expected = retriever.compile(QUERIES).score(documents)
    torch.testing.assert_close(again.compile(QUERIES).score(documents), expected)


def test_fingerprints_name_what_changes_each_side(tiny_encoder: str) -> None:
    first = LateRetriever(make_model(tiny_encoder))
    longer = LateRetriever(make_model(tiny_encoder, query_expansion={"strategy": "fixed", "length": 9}))
    assert longer.fingerprint == first.fingerprint
    assert longer.protocol()["query_fingerprint"] != first.protocol()["query_fingerprint"]
    other = make_model(tiny_encoder)
    other[2].skiplist_words = ["cat"]
    assert LateRetriever(other).fingerprint != first.fingerprint


def test_half_precision_keeps_unit_norms(tiny_encoder: str) -> None:
    retriever = LateRetriever(make_model(tiny_encoder))
    documents = retriever.encode_documents(TEXTS, dtype="bfloat16")
    exact = retriever.encode_documents(TEXTS, dtype="float32")
    assert documents.vectors.dtype == torch.float32
    torch.testing.assert_close(documents.vectors.norm(dim=1), torch.ones(len(documents.vectors)), atol=1e-6, rtol=0)
    torch.testing.assert_close(documents.vectors, exact.vectors, atol=0.1, rtol=0)


def test_no_documents_and_no_queries(tiny_encoder: str) -> None:
    retriever = LateRetriever(make_model(tiny_encoder))
    assert len(retriever.encode_documents([])) == 0
    with pytest.raises(InputError, match="no queries"):
        retriever.compile([])
    with pytest.raises(UnknownNameError, match="'level'; known: keep_ratio, pool_factor"):
        retriever.compile(["cat"], {"level": 1})


def test_gradients_reach_the_model_from_scores(tiny_encoder: str) -> None:
    retriever = LateRetriever(make_model(tiny_encoder))
    query = retriever.forward(retriever.preprocess(["cat"], "query"), "query")
    document = retriever.forward(retriever.preprocess(["the dog and bird"], "document"), "document")
    retriever.scorer(query).score(retriever.points(document)).sum().backward()
    gradient = retriever.model[1].linear.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


def test_models_of_one_vector_are_no_late_ones(tiny_encoder: str, tmp_path: Path) -> None:
    assert type(hyperseek.load(tiny_encoder, device="cpu")) is Retriever
    (tmp_path / "config_sentence_transformers.json").write_text('{"model_type": "ColBERT"}')
    with pytest.raises(ModelError, match=r"but no modules\.json"):
        hyperseek.load(tmp_path, device="cpu")


def test_stanford_checkpoints_load(tiny_encoder: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "stanford"
    shutil.copytree(tiny_encoder, folder)
    weights = {f"bert.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    weights["linear.weight"] = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["HF_ColBERT"]}))
    (folder / "artifact.metadata").write_text(json.dumps({"query_maxlen": 10, "doc_maxlen": 12}))
    retriever = hyperseek.load(folder, device="cpu")
    assert isinstance(retriever, LateRetriever)
    assert retriever.protocol()["max_length"] == {"query": 10, "document": 12}
    scorer = retriever.compile(["cat"])
    assert scorer.tensors()["queries"].shape == (1, 10, 8)
    assert torch.equal(retriever.model[1].linear.weight, weights["linear.weight"])


@pytest.mark.parametrize("engine", ["scan", "hnsw"])
def test_an_index_of_tokens_is_searched_exactly_and_through_engines(
    tiny_encoder: str, tmp_path: Path, engine: str
) -> None:
    if engine == "hnsw":
        pytest.importorskip("faiss")
    retriever = LateRetriever(make_model(tiny_encoder))
    retriever.save(tmp_path / "model")
    texts = [f"{first} {second} {third}" for first in WORDS for second in WORDS for third in ("music", "deep sea")]
    documents = [Document(str(row), text) for row, text in enumerate(texts)]
    index = hyperseek.Index.build(tmp_path / "index", documents, retriever, dtype="float32")
    exact = index.search(QUERIES, k=5, engine="exact")
    scores = retriever.compile(QUERIES).score(retriever.encode_documents(texts, dtype="float32"))
    best = torch.tensor([[hit.score for hit in hits] for hits in exact])
    torch.testing.assert_close(best, scores.topk(5, dim=1).values, atol=1e-4, rtol=1e-4)
    index.build_engine(engine)
    found = hyperseek.Index.open(tmp_path / "index").search(QUERIES, k=5, engine=engine)
    first = torch.tensor([hits[0].score for hits in found])
    torch.testing.assert_close(first, best[:, 0], atol=1e-4, rtol=1e-4)
