"""Late models written as PyLate's and Stanford's checkpoints, and folders whose projection contradicts its weights."""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from hyperseek.cli import app
from hyperseek.errors import ModelError, UnknownNameError, WriteError
from hyperseek.models import LateRetriever, ModelConfig, build, export_colbert, load
from hyperseek.models.model_files import ModelFiles

TEXTS = ["the cat and the dog .", "a small neural network " * 8, "sea", "what is the name of the song"]
QUERIES = ["who is the author of the book", "neural search"]
COLBERT = {
    "dimension": 8,
    "query_expansion": {"length": 12},
    "skipped": "punctuation",
    "prompt_tokens": True,
}
PROMPTS = {"query": "[Q] ", "document": "[D] "}


def make(trunk: str, prompts: dict[str, str] | None = PROMPTS, **late: Any) -> LateRetriever:
    values = {"trunk": trunk, "family": "late", "late": late, "document_length": 16, "prompts": prompts or {}}
    model = build(ModelConfig.from_mapping(values), device="cpu")
    assert isinstance(model, LateRetriever)
    return model


def assert_same(left: LateRetriever, right: Any) -> None:
    one, two = (model.encode_documents(TEXTS, dtype="float32") for model in (left, right))
    assert torch.equal(one.vectors, two.vectors)
    assert torch.equal(one.offsets, two.offsets)
    assert torch.equal(left.compile(QUERIES).score(one), right.compile(QUERIES).score(two))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"query_expansion": {"length": 12, "attend": True}, "skipped": []},
        {"query_expansion": None},
        {"hidden": [16, 16], "residual": True, "activation": "tanh", "bias": True},
    ],
    ids=["colbert", "attends", "unexpanded", "residual"],
)
def test_a_pylate_folder_scores_as_the_model(changes: dict[str, Any], tiny_encoder: str, tmp_path: Path) -> None:
    model = make(tiny_encoder, **{**COLBERT, **changes})
    for layer in list(model.model)[1:-2]:  # away from their start, where residual layers pass on what they are given
        torch.nn.init.normal_(layer.linear.weight, std=0.3)
    export_colbert(model, tmp_path)
    entries = json.loads((tmp_path / "modules.json").read_text())
    assert [entry["type"].rpartition(".")[2] for entry in entries][:2] == ["Transformer", "Dense"]
    settings = json.loads((tmp_path / "config_sentence_transformers.json").read_text())
    assert (settings["query_prefix"], settings["document_prefix"]) == ("[Q] ", "[D] ")
    assert settings["do_query_expansion"] == (model.protocol()["query_expansion"] is not None)
    assert_same(model, load(tmp_path, device="cpu"))


def test_prompts_of_words_stay_prompts(tiny_encoder: str, tmp_path: Path) -> None:
    model = make(tiny_encoder, {"query": "what ", "document": "text name "}, dimension=8)
    export_colbert(model, tmp_path)
    assert json.loads((tmp_path / "config_sentence_transformers.json").read_text())["query_prefix"] == ""
    assert_same(model, load(tmp_path, device="cpu"))


@pytest.mark.parametrize("attend", [False, True])
def test_a_stanford_folder_scores_as_the_model(attend: bool, tiny_encoder: str, tmp_path: Path) -> None:
    model = make(tiny_encoder, **{**COLBERT, "query_expansion": {"length": 12, "attend": attend}})
    model.save(tmp_path / "own")
    result = CliRunner().invoke(app, ["convert", str(tmp_path / "own"), str(tmp_path / "out"), "--to", "stanford"])
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == ["HF_ColBERT"]
    assert_same(model, load(tmp_path / "out", device="cpu"))


@pytest.mark.parametrize(
    ("form", "late", "message"),
    [
        ("pylate", {"kept": ["cat"]}, "late.kept"),
        ("pylate", {"query_expansion": {"length": 12, "strategy": "min"}}, "strategy 'min'"),
        ("pylate", {"dimension": None}, "Transformer → Dense"),
        ("stanford", {"bias": True}, "without bias"),
        ("stanford", {"query_expansion": None}, "does not expand"),
        ("stanford", {"prompt_tokens": False}, "not a token"),
        ("stanford", {"skipped": ["cat"]}, "words other than punctuation"),
    ],
)
def test_what_a_form_cannot_say_is_refused(
    form: str, late: dict[str, Any], message: str, tiny_encoder: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=message):
        export_colbert(make(tiny_encoder, **{**COLBERT, **late}), tmp_path / "new" / "out", form=form)
    assert not [*tmp_path.iterdir()]


def test_other_models_and_forms_are_refused(tiny_encoder: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="late interaction"):
        export_colbert(load(tiny_encoder, device="cpu"), tmp_path)
    with pytest.raises(UnknownNameError, match="pylate"):
        export_colbert(make(tiny_encoder, **COLBERT), tmp_path, form="plait")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_residual": False}, "use_residual is False, but the weights say True"),
        ({"in_features": 16, "out_features": 32}, r"is \(32, 16\), but the weights say \(8, 32\)"),
        ({"bias": True}, "bias is True, but the weights say False"),
    ],
)
def test_a_projection_that_contradicts_its_weights_is_refused(
    changes: dict[str, Any], message: str, tiny_encoder: str, tmp_path: Path
) -> None:
    model = make(tiny_encoder, **COLBERT, residual=True)
    for write in (lambda: export_colbert(model, tmp_path / "theirs"), lambda: model.save(tmp_path / "own")):
        write()
    for folder in tmp_path.iterdir():
        [file] = list(folder.glob("1_*/config.json"))
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
        with pytest.raises(ModelError, match=message):
            load(folder, device="cpu")


def test_a_linear_layer_of_another_package_is_left_to_it(tmp_path: Path) -> None:
    entry = {"idx": 0, "name": "0", "path": "0_Dense", "type": "elsewhere.layers.Dense"}
    (tmp_path / "modules.json").write_text(json.dumps([entry]))
    (tmp_path / "0_Dense").mkdir()
    (tmp_path / "0_Dense" / "config.json").write_text(json.dumps({"units": 3}))
    ModelFiles(str(tmp_path)).check()
    (tmp_path / "modules.json").write_text(json.dumps([{**entry, "type": "pylate.models.Dense.Dense"}]))
    with pytest.raises(ModelError, match="in_features"):
        ModelFiles(str(tmp_path)).check()


def write(folder: Path, name: str, **changes: Any) -> None:
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def twice(folder: Path) -> None:
    file = folder / "modules.json"
    file.write_text(json.dumps(json.loads(file.read_text()) * 2))


def halved(folder: Path) -> None:
    """Drop weights of the trunk, which transformers would draw anew."""
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if ".layer.1." not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def pipe(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


SETTINGS, DENSE = "config_sentence_transformers.json", "1_Dense/config.json"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no words"),
        (lambda folder: write(folder, SETTINGS, query_length=10**12), "query_length"),  # aborted in the tokenizer
        (lambda folder: write(folder, SETTINGS, query_length=0), "query_length"),
        (lambda folder: write(folder, SETTINGS, document_length="16"), "document_length"),
        (lambda folder: write(folder, SETTINGS, document_length=[1]), "document_length"),
        (lambda folder: write(folder, SETTINGS, skiplist_words="abc"), "skiplist_words"),
        (lambda folder: write(folder, SETTINGS, skiplist_words=[1, None]), "skiplist_words"),
        (lambda folder: write(folder, SETTINGS, query_prefix=5), "query_prefix"),
        (lambda folder: write(folder, SETTINGS, do_query_expansion="maybe"), "do_query_expansion"),
        (lambda folder: (folder / SETTINGS).write_text("[]"), "mapping"),
        (lambda folder: write(folder, DENSE, out_features="8"), "out_features"),
        (lambda folder: write(folder, DENSE, bias="no"), "bias"),
        (lambda folder: write(folder, DENSE, activation_function=None), "activation_function"),
        (lambda folder: write(folder, DENSE, activation_function="os.system"), "is not one of torch"),
        (lambda folder: write(folder, DENSE, activation_function="torch.nn.Nothing"), "is not one of torch"),
        (lambda folder: write(folder, "config.json", num_hidden_layers=-3), "num_hidden_layers: -3"),
        (twice, "a name of its own"),
        (halved, "would be random"),
        (pipe, "a pipe or a device"),
    ],
)
def test_a_damaged_folder_is_refused(change: Any, message: str, tiny_encoder: str, tmp_path: Path) -> None:
    """None of these is another library's error, waits, or is a model that scores otherwise."""
    export_colbert(make(tiny_encoder, **COLBERT), tmp_path)
    change(tmp_path)
    with pytest.raises(ModelError, match=message):
        load(tmp_path, device="cpu")


@pytest.mark.parametrize("largest", [100, 20_000])
def test_a_full_disk_is_an_error_of_ours(largest: int, tiny_encoder: str, tmp_path: Path) -> None:
    model = make(tiny_encoder, **COLBERT)
    before, former = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for write_to in (model.save, lambda folder: export_colbert(model, folder)):
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
            try:
                with pytest.raises(WriteError, match="ulimit"):
                    write_to(tmp_path)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
    finally:
        signal.signal(signal.SIGXFSZ, former)
    assert not [*tmp_path.iterdir()]
