"""A checkpoint that lacks weights is refused, however quietly transformers would draw new ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, BertModel

from hyperseek import HyperseekError
from hyperseek.models import ModelConfig, build, load

Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def changed(folder: Path, copy: Path, change: Change) -> Path:
    shutil.copytree(folder, copy)
    for file in copy.rglob("model.safetensors"):
        if "QNetHead" not in file.parent.name:
            save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return copy


def without(name: str) -> Change:
    return lambda tensors: {key: value for key, value in tensors.items() if name not in key}


def renamed(prefix: str) -> Change:
    return lambda tensors: {prefix + key: value for key, value in tensors.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            without("layer.1.attention.self.query.weight"),
            r"lacks 1 of \d+ tensors of its BertModel \(encoder\.",
        ),
        (renamed("trunk."), r"lacks \d+ of \d+ tensors"),
        (lambda tensors: {**tensors, "strange": torch.zeros(2)}, r"has 1 tensors \(strange"),
    ],
)
@pytest.mark.parametrize("kind", ["transformers", "sentence-transformers", "q-net"])
def test_missing_and_strange_tensors_are_errors(
    tiny_encoder: str, tmp_path: Path, kind: str, change: Change, message: str
) -> None:
    folder = Path(tiny_encoder)
    if kind != "transformers":
        folder = tmp_path / "whole"
        config = {"trunk": tiny_encoder, **({"family": "qnet"} if kind == "q-net" else {})}
        build(ModelConfig.from_mapping(config), device="cpu").save(folder)
        load(folder, device="cpu")
    with pytest.raises(HyperseekError, match=message):
        load(changed(folder, tmp_path / "changed", change), device="cpu")


def test_heads_and_unread_poolers_are_no_fault(tiny_encoder: str, tmp_path: Path) -> None:
    config = BertConfig.from_pretrained(tiny_encoder)
    folder = tmp_path / "model"
    shutil.copytree(tiny_encoder, folder)
    masked = BertForMaskedLM(config)
    masked.save_pretrained(folder)
    loaded = load(folder, device="cpu").route("document")[0].model.state_dict()
    assert torch.equal(loaded["embeddings.word_embeddings.weight"], masked.bert.embeddings.word_embeddings.weight)
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    load(folder, device="cpu")


def test_old_weight_files_are_looked_at_too(tiny_encoder: str, tmp_path: Path) -> None:
    folder = changed(Path(tiny_encoder), tmp_path / "old", lambda tensors: tensors)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    load(folder, device="cpu")
    torch.save(renamed("trunk.")(tensors), folder / "pytorch_model.bin")
    with pytest.raises(HyperseekError, match="lacks"):
        load(folder, device="cpu")
