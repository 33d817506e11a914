"""Late interaction built behind a trunk from a recipe's section."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sentence_transformers import MultiVectorEncoder

from hyperseek.errors import ConfigError, InputError, ModelError, StoreError
from hyperseek.index import Index, estimate
from hyperseek.models import LateRetriever, ModelConfig, build, export_colbert, load
from hyperseek.models.loading import set_query_length
from hyperseek.nn.token_pooling import TokenPooling
from hyperseek.scoring import Space
from hyperseek.types import Document

TEXTS = ["the cat and the dog", "a small neural network " * 8, "sea", "what is the name of the song"]
QUERIES = ["who is the author of the book", "neural search"]


def config(trunk: str, late: dict[str, Any] | None = None, **options: Any) -> ModelConfig:
    return ModelConfig.from_mapping({"trunk": trunk, "family": "late", "late": late or {}, **options})


def test_a_map_as_wide_as_the_trunk_starts_with_the_trunks_own_similarities(tiny_encoder: str) -> None:
    mapped = build(config(tiny_encoder, {"dimension": 32}), device="cpu")
    bare = build(config(tiny_encoder, {"dimension": None}), device="cpu")
    points = {name: model.encode_documents(TEXTS, dtype="float32") for name, model in (("m", mapped), ("b", bare))}
    assert not torch.allclose(points["m"].vectors, points["b"].vectors)
    torch.testing.assert_close(
        mapped.compile(QUERIES).score(points["m"]), bare.compile(QUERIES).score(points["b"]), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(points["m"].vectors.norm(dim=1), torch.ones(len(points["m"].vectors)))
    drawn = build(config(tiny_encoder, {"dimension": 32, "start": "normal", "seed": 3}), device="cpu")
    again = build(config(tiny_encoder, {"dimension": 32, "start": "normal", "seed": 3}), device="cpu")
    assert torch.equal(drawn.model[1].linear.weight, again.model[1].linear.weight)


def test_a_built_model_is_saved_and_loaded_here_and_in_sentence_transformers(tiny_encoder: str, tmp_path: Path) -> None:
    expansion = {"length": 12, "attend": True}
    late = {"dimension": 8, "similarity": "meanmaxsim", "query_expansion": expansion, "skipped": ["the"]}
    prompts = {"query": "query ", "document": "text "}
    built = build(config(tiny_encoder, late, document_length=16, prompts=prompts), device="cpu")
    assert isinstance(built, LateRetriever)
    assert built.space == Space("tokens", 8)
    protocol = built.protocol()
    assert protocol["max_length"] == {"query": 12, "document": 16}
    assert protocol["prompts"] == prompts
    built.save(tmp_path)
    loaded, plain = load(tmp_path, device="cpu"), MultiVectorEncoder(str(tmp_path), device="cpu")
    points = built.encode_documents(TEXTS, dtype="float32")
    assert points.lengths[0] == 6  # [CLS] text cat and dog [SEP], without both "the"
    scores = built.compile(QUERIES).score(points)
    torch.testing.assert_close(loaded.compile(QUERIES).score(loaded.encode_documents(TEXTS, dtype="float32")), scores)
    theirs = plain.similarity(plain.encode_query(QUERIES), plain.encode_document(TEXTS))
    torch.testing.assert_close(theirs, scores, atol=1e-5, rtol=1e-5)
    assert loaded.fingerprint == built.fingerprint


def test_punctuation_is_a_short_form(tiny_encoder: str) -> None:
    assert config(tiny_encoder, {"skipped": "punctuation"}).options.skipped[:3] == ("!", '"', "#")


@pytest.mark.parametrize("length", [8, 20])
def test_the_length_of_queries_can_be_set_beyond_their_expansion(tiny_encoder: str, length: int) -> None:
    late = {"dimension": 8, "query_expansion": {"length": 12, "attend": True}}
    changed = build(config(tiny_encoder, late), device="cpu")
    set_query_length(changed, length)
    late["query_expansion"] = {"length": length, "attend": True}
    expected = build(config(tiny_encoder, late), device="cpu")
    assert changed.protocol()["max_length"]["query"] == length
    ids, wanted = (model.preprocess(["cat " * 50, "dog"], "query")["input_ids"] for model in (changed, expected))
    assert ids.shape == (2, length)
    assert ids.equal(wanted)


@pytest.mark.parametrize(
    ("late", "options", "message"),
    [
        ({}, {"document_trunk": "x"}, "leave document_trunk out"),
        ({}, {"pooling": "mean"}, "leave pooling out"),
        ({"query_expansion": {"length": 9}}, {"query_length": 8}, "query_length is 8"),
        ({"query_expansion": {"token": "nonsense"}}, {}, "does not fit the trunk"),
        ({"dimension": 0}, {}, "late.dimension"),
        ({"dimension": None, "residual": True}, {}, "residual"),
        ({"kept": ["nonsense"]}, {}, "'nonsense'"),
        ({"bidirectional": True}, {}, "for decoders"),
        ({"end_token": True}, {}, "end token"),
        ({"dimensions": 8}, {}, "did you mean 'dimension'"),
    ],
)
def test_what_does_not_fit_is_refused(
    tiny_encoder: str, late: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(config(tiny_encoder, late, **options), device="cpu")


def test_pooling_is_built_saved_and_loaded(tiny_encoder: str, tmp_path: Path) -> None:
    plain = build(config(tiny_encoder, {"dimension": 8}), device="cpu")
    pooled = build(config(tiny_encoder, {"dimension": 8, "pooling": {"budget": 4}}), device="cpu")
    lengths = plain.encode_documents(TEXTS, dtype="float32").lengths
    points = pooled.encode_documents(TEXTS, dtype="float32")
    assert points.lengths.tolist() == lengths.clamp_max(4).tolist()
    assert pooled.fingerprint != plain.fingerprint
    pooled.save(tmp_path)
    loaded = load(tmp_path, device="cpu")
    assert loaded.fingerprint == pooled.fingerprint
    assert torch.equal(loaded.encode_documents(TEXTS, dtype="float32").vectors, points.vectors)
    with pytest.raises(ConfigError, match="pool_facter"):
        config(tiny_encoder, {"pooling": {"pool_facter": 2}})


@pytest.fixture(scope="module")
def tiny_decoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random Qwen3 of 2 layers, whose tokenizer has an end token and no padding token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

    folder = str(tmp_path_factory.mktemp("tiny-decoder"))
    words = sorted({word for text in (*TEXTS, *QUERIES) for word in text.split()})
    vocabulary = {word: number for number, word in enumerate(["<unk>", "</s>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
    Qwen3Model(
        Qwen3Config(
            vocab_size=len(vocabulary),
            num_hidden_layers=2,
            intermediate_size=64,
            max_position_embeddings=64,
            **sizes,
        )
    ).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "late",
    [
        {},
        {"end_token": True, "prompt_tokens": True},
        {"end_token": True, "padding_side": "left"},
        {"bidirectional": True},
    ],
)
def test_decoders(late: dict[str, Any], tiny_decoder: str, tmp_path: Path) -> None:
    prompts = {"query": "[Q] ", "document": "[D] "}
    built = build(config(tiny_decoder, {"dimension": 8, **late}, prompts=prompts), device="cpu")
    features = built.preprocess(TEXTS, "document")
    rows = zip(features["input_ids"], features["attention_mask"], strict=True)
    texts = [ids[mask.bool()].tolist() for ids, mask in rows]
    assert len({text[0] for text in texts}) == 1  # the prompt
    assert (len(texts[2]) == 2 + late.get("end_token", False)) == late.get("prompt_tokens", False)
    assert all((text[-1] == 1) == late.get("end_token", False) for text in texts)
    together = built.encode_documents(TEXTS, dtype="float32")
    for row, text in enumerate(TEXTS):
        alone = built.encode_documents([text], dtype="float32")
        torch.testing.assert_close(alone.vectors, together[row : row + 1].vectors, atol=1e-5, rtol=1e-5)
    first = built.encode_documents(["what sea"], dtype="float32").vectors[-2 - late.get("end_token", False)]
    other = built.encode_documents(["what name"], dtype="float32").vectors[-2 - late.get("end_token", False)]
    assert torch.allclose(first, other, atol=1e-5) != late.get("bidirectional", False)  # what stands behind it
    built.save(tmp_path)
    loaded = load(tmp_path, device="cpu")
    again = loaded.encode_documents(TEXTS, dtype="float32")
    assert torch.equal(again.vectors, together.vectors)
    assert torch.equal(loaded.compile(QUERIES).score(again), built.compile(QUERIES).score(together))
    alone = [model.encode_documents(["sea"], dtype="float32").vectors for model in (loaded, built)]
    assert torch.equal(*alone)


@pytest.mark.parametrize(("late", "message"), [({"bidirectional": True}, "later ones"), ({}, "no special token")])
def test_decoders_that_pylate_would_read_otherwise_are_not_written_for_it(
    late: dict[str, Any], message: str, tiny_decoder: str, tmp_path: Path
) -> None:
    prompts = {"query": "[Q] ", "document": "[D] "}
    built = build(config(tiny_decoder, {"prompt_tokens": True, **late}, prompts=prompts), device="cpu")
    with pytest.raises(ModelError, match=message):
        export_colbert(built, tmp_path)


def test_only_kept_words_are_scored(tiny_encoder: str) -> None:
    built = build(config(tiny_encoder, {"dimension": 8, "kept": ["cat", "dog"]}), device="cpu")
    assert built.encode_documents(TEXTS, dtype="float32").lengths.tolist() == [2, 0, 0, 0]


def test_an_index_pools_remembers_it_and_pools_what_is_added(tiny_encoder: str, tmp_path: Path) -> None:
    model = build(config(tiny_encoder, {"dimension": 8}), device="cpu")
    model.save(tmp_path / "model")
    index = Index.build(tmp_path / "index", TEXTS, model, pooling={"budget": 3}, dtype="float32")
    new = "a document of many different words about the sea and the song"
    index.add([Document("4", new)])
    opened = Index.open(tmp_path / "index")
    assert opened.info.pooling == {"tasks": ["document"], "budget": 3}
    expected = TokenPooling(budget=3).pool_points(model.encode_documents([*TEXTS, new], dtype="float32"))
    assert expected.lengths.tolist() == [3] * 5
    scores = model.compile(QUERIES[:1]).score(expected)[0]
    hits = {hit.id: hit.score for hit in opened.search(QUERIES[0], k=5)}
    for row, score in enumerate(scores.tolist()):
        assert hits[str(row)] == pytest.approx(score, abs=1e-4)
    with pytest.raises(StoreError, match="pooling"):
        Index.build(tmp_path / "index", TEXTS, model, dtype="float32")
    dense = build(ModelConfig(trunk=tiny_encoder, pooling="mean", family="dense"), device="cpu")
    with pytest.raises(InputError, match="one vector a document"):
        Index.build(tmp_path / "dense", TEXTS, dense, pooling={"budget": 3})
    documents = [Document(str(number), text) for number, text in enumerate(TEXTS)]
    whole, fewer = (estimate(documents, model, pooling=options) for options in (None, {"budget": 3}))
    assert fewer.vector_bytes == 4 * 8 * 3 * len(TEXTS) < whole.vector_bytes
    with pytest.raises(ConfigError, match="mapping"):
        Index.build(tmp_path / "other", TEXTS, model, pooling=5)  # type: ignore[arg-type]


def test_queries_are_pooled_and_pruned_by_options(tiny_encoder: str) -> None:
    model = build(config(tiny_encoder, {"dimension": 8}), device="cpu")
    points = model.encode_documents(TEXTS, dtype="float32")
    plain = model.compile(QUERIES)
    pooled = model.compile(QUERIES, {"pool_factor": 3})
    assert pooled.mask.sum(1).tolist() == plain.mask.sum(1).tolist()  # a mean weighs as much as its group
    assert pooled.queries.shape[1] < plain.queries.shape[1]
    assert torch.equal(model.compile(QUERIES, {"pool_factor": 1}).score(points), plain.score(points))
    kept = model.compile(QUERIES, {"keep_ratio": 0.5})
    assert (kept.mask > 0).sum(1).tolist() == [1 + (int(n) - 1 + 1) // 2 for n in plain.mask.sum(1)]
    assert dict(kept.options) == {"keep_ratio": 0.5}
    with pytest.raises(InputError, match="pool_factor"):
        model.compile(QUERIES, {"pool_factor": 0.5})


@pytest.mark.parametrize("activation", ["identity", "tanh", "relu", "gelu", "silu"])
def test_residual_layers_start_near_their_residual_and_learn(activation: str, tiny_encoder: str) -> None:
    late = {"dimension": 8, "hidden": [16], "residual": True, "bias": True, "activation": activation}
    built = build(config(tiny_encoder, late), device="cpu")
    layers = [module for module in built.model if hasattr(module, "use_residual")]
    states = torch.randn(4, 3, 32)
    mapped = layers[0]({"token_embeddings": states})["token_embeddings"]
    torch.testing.assert_close(mapped, layers[0].residual(states), atol=0.05, rtol=0)
    layers[1]({"token_embeddings": mapped})["token_embeddings"].sum().backward()
    assert all(layer.linear.weight.grad.abs().max() > 0 for layer in layers)


@pytest.mark.parametrize(
    "late",
    [{"dimension": 10**12}, {"hidden": [10**9]}, {"seed": 2**70}, {"query_expansion": {"length": 10**12}}],
    ids=str,
)
def test_numbers_that_no_machine_holds_are_refused(late: dict[str, Any], tiny_encoder: str) -> None:
    with pytest.raises(ConfigError, match="less than or equal to"):
        config(tiny_encoder, late)
