"""Names, devices and folders that `load` cannot use end in one plain error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertModel

from hyperseek import HyperseekError
from hyperseek._machine import check_device
from hyperseek.errors import InputError, ModelError
from hyperseek.models import ModelConfig, build, import_hypencoder, load
from hyperseek.scoring import LinearScorer, Space, load_scorer

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")


@pytest.mark.parametrize(
    "device", ["foo", "cpu:x", "", " ", "cuda:-1", "cuda:99", "meta", "cuda:" + "9" * 50, "x" * 10**5]
)
def test_devices_that_are_not_there(device: str, tiny_encoder: str, tmp_path: Path) -> None:
    LinearScorer(Space("dot", 2), torch.zeros(1, 2)).save(tmp_path / "scorer")
    for action in (
        lambda: load(tiny_encoder, device=device),
        lambda: build(ModelConfig(trunk=tiny_encoder), device=device),
        lambda: load_scorer(tmp_path / "scorer", device=device),
    ):
        with pytest.raises(InputError, match="device") as raised:
            action()
        assert len(str(raised.value)) < 400


@WITHOUT_GPU
def test_a_gpu_that_is_not_there_is_no_traceback(tiny_encoder: str) -> None:
    for device in ("cuda", "cuda:0"):
        with pytest.raises(InputError, match=r"'cuda(:0)?' does not exist: torch finds no usable GPU.*give cpu"):
            load(tiny_encoder, device=device)


def test_devices_that_are_there() -> None:
    assert check_device(None) is None
    assert check_device("cpu") == check_device(torch.device("cpu")) == "cpu"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("minilmm", "no folder here, so a name on the Hub; did you mean 'minilm'"),
        ("MiniLM", "did you mean 'minilm'"),
        ("somebody/nothing-of-the-kind", "no folder here, so a name on the Hub"),
        ("./nowhere", "there is no model folder './nowhere'"),
        ("", "name is empty"),
        (" ", "name is empty"),
        ("a\0b", "cannot load a model"),
        ("x" * 5000, "cannot load a model"),
        (None, "not as a NoneType"),
        (3, "not as a int"),
    ],
)
def test_names_of_no_model(name: str, message: str) -> None:
    with pytest.raises(HyperseekError, match=message) as raised:
        load(name, device="cpu")
    assert len(str(raised.value)) < 2000


def test_folders_and_files_that_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="is a file; give the folder"):
        load(tmp_path / "file")
    with pytest.raises(ModelError, match="cannot load a model"):
        load(tmp_path, device="cpu")


def test_modules_outside_of_the_folder_are_not_looked_at(tiny_encoder: str, tmp_path: Path) -> None:
    build(ModelConfig.from_mapping({"trunk": tiny_encoder, "family": "qnet"}), device="cpu").save(tmp_path / "model")
    modules = tmp_path / "model" / "modules.json"
    whole = modules.read_text()
    for path in ("../elsewhere", "/etc", "a/../../b"):
        modules.write_text(whole.replace('"path": ""', f'"path": "{path}"', 1))
        assert modules.read_text() != whole
        with pytest.raises(ModelError, match="outside of the model"):
            load(tmp_path / "model", device="cpu")


@pytest.mark.parametrize("family", ["late", "qnet", None])
def test_files_of_a_model_that_are_damaged_are_named(family: str | None, tiny_encoder: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    build(ModelConfig.from_mapping({"trunk": tiny_encoder, "family": family}), device="cpu").save(model)
    files = sorted(file for file in model.rglob("*.json") if file.name != "vocab.json")
    assert len(files) >= 6
    for file in files:
        whole = file.read_bytes()
        for damaged in (b"", whole[: len(whole) // 2], b"\xff\x00", b"null", b"[]", b"[" * 10_000, b'"text"'):
            file.write_bytes(damaged)
            with pytest.raises(ModelError, match=file.name):
                load(model, device="cpu")
        file.write_bytes(whole)
    load(model, device="cpu")


def test_large_tokenizers_are_read(tiny_encoder: str, tmp_path: Path) -> None:
    """Those of multilingual models have more than the 16 MiB of other JSON files."""
    model = tmp_path / "model"
    build(ModelConfig(trunk=tiny_encoder), device="cpu").save(model)
    tokenizer = model / "tokenizer.json"
    tokenizer.write_text(" " * (1 << 24) + tokenizer.read_text())
    load(model, device="cpu")
    (model / "config.json").write_text('{"model_type": "none"}')
    with pytest.raises(ModelError, match=r"model_type|none") as raised:
        load(model, device="cpu")
    assert "bytes" not in str(raised.value)


@pytest.mark.parametrize(
    "missing",
    ["modules.json", "config_sentence_transformers.json", "1_Dense/config.json", "2_MultiVectorMask/config.json"],
)
def test_files_without_which_a_model_would_score_otherwise_are_missed(
    missing: str, tiny_encoder: str, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    build(ModelConfig.from_mapping({"trunk": tiny_encoder, "family": "late"}), device="cpu").save(model)
    (model / missing).unlink()
    with pytest.raises(ModelError, match=rf"no {Path(missing).name}; save or download the model again"):
        load(model, device="cpu")


def test_an_index_is_not_taken_for_a_model(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(ModelError, match=r"is an index, not a model; open it with hyperseek\.Index\.open"):
        load(tmp_path)


@pytest.mark.parametrize("length", [0, -20])
def test_a_model_that_keeps_no_token_is_refused(tiny_encoder: str, tmp_path: Path, length: int) -> None:
    # A negative length once cut texts for ever.
    retriever = build(ModelConfig(trunk=tiny_encoder), device="cpu")
    retriever.route("query")[0].max_seq_length = length
    retriever.save(tmp_path / "model")
    with pytest.raises(ModelError, match=f"keeps {length} tokens of a query; a model keeps at least 1"):
        load(tmp_path / "model", device="cpu")


def test_a_length_beyond_the_encoder_is_an_error_of_ours(tiny_encoder: str) -> None:
    retriever = build(ModelConfig(trunk=tiny_encoder), device="cpu")
    retriever.route("document")[0].max_seq_length = 10_000
    with pytest.raises(ModelError, match=r"Transformer failed on a batch of size \(1, 2\d\d\) .*maximum length"):
        retriever.encode_documents(["dog " * 200])


def test_a_token_far_beyond_the_embeddings_is_refused_before_the_tokenizer_is_saved(
    tiny_encoder: str, tmp_path: Path
) -> None:
    # Saving a tokenizer counts up to the number of its last token.
    shutil.copytree(tiny_encoder, tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save(
        {f"query_encoder.transformer.{name}": tensor for name, tensor in tensors.items()},
        tmp_path / "model" / "pytorch_model.bin",
    )
    side = {"model_name_or_path": tiny_encoder, "pooling_type": "cls"}
    config = {"query_encoder_kwargs": side, "passage_encoder_kwargs": side, "shared_encoder": True}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((tmp_path / "model" / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["[SEP]"] = 10**9
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match="has a token 1000000000, but its encoder knows"):
        import_hypencoder(tmp_path / "model")


def test_a_model_prints_as_what_it_is(tiny_encoder: str) -> None:
    shown = repr(build(ModelConfig.from_mapping({"trunk": tiny_encoder, "family": "qnet"}), device="cpu"))
    assert shown.startswith(f"Retriever({tiny_encoder!r}, Space(kind='dot', dimension=32), ")
    routes = "query: Transformer → Pooling → Normalize → QNetHead; document: Transformer → Pooling → Normalize)"
    assert shown.endswith(f" parameters on cpu, {routes}")
    assert "\n" not in shown


def test_weights_are_read_once_where_only_a_buffer_is_more(
    tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older releases of transformers saved the numbers of positions, which are no weights."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_encoder, folder)
    tensors = load_file(folder / "model.safetensors")
    position = {"embeddings.position_ids": torch.arange(64)[None]}
    reads: list[str] = []
    read = BertModel.from_pretrained.__func__  # type: ignore[attr-defined]

    def counting(cls: type[BertModel], *args: Any, **kwargs: Any) -> Any:
        reads.append(str(args[0]))
        return read(cls, *args, **kwargs)

    monkeypatch.setattr(BertModel, "from_pretrained", classmethod(counting))
    save_file({**tensors, **position}, folder / "model.safetensors", {"format": "pt"})
    load(folder, device="cpu")
    assert len(reads) == 1
    save_file({**tensors, "stray": torch.ones(2)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"has 1 tensors \(stray"):
        load(folder, device="cpu")
