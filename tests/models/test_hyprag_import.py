"""Checkpoints of the original's fully hyperbolic encoder."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertTokenizer

from hyperseek import HyperseekError
from hyperseek.cli._convert import convert
from hyperseek.models import (
    LorentzEncoder,
    LorentzForMaskedLM,
    import_hyprag,
    load,
    read_hyprag,
)
from hyperseek.models.importers.hyprag import is_hyprag

CLOSE = {"rtol": 2e-5, "atol": 2e-5}
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def recorded(golden: Path) -> tuple[Tensors, dict[str, Any]]:
    path = golden / "hyperbolic" / "hyte_fh_tiny_rms_norm.safetensors"
    with safe_open(path, "pt") as file:
        options = json.loads(file.metadata()["config"])
    return load_file(path), options


def as_trunk(weights: Tensors) -> Tensors:
    """As contrastive training saves it, with the manifold of every module repeated."""
    encoder = {name: tensor for name, tensor in weights.items() if not name.startswith(("head.", "decoder."))}
    repeated = {f"trunk.{place}.{name}": torch.tensor(1.0) for place in MANIFOLDS for name in ("k", "c")}
    return {**{f"trunk.{name}": tensor for name, tensor in encoder.items()}, **repeated}


def as_masked_lm(weights: Tensors) -> Tensors:
    """As pre-training saves it, with the decoder weight that is said to be tied."""
    named = {name if name.startswith(("head.", "decoder.")) else f"model.{name}": t for name, t in weights.items()}
    return {
        **named,
        "decoder.weight": weights["embeddings.word_embeddings.weight"],
        "manifold.k": torch.tensor(1.0),
        "model.layers.1.self_attn.layer_idx.c": torch.tensor(1.0),
    }


MANIFOLDS = ("manifold", "layers.0.self_attn.layer_idx", "layers.1.residual_add.manifold", "final_norm.manifold")


@pytest.fixture
def checkpoint(recorded: Any, tmp_path: Path) -> Callable[..., Path]:
    """Write a checkpoint in one of the original's layouts."""

    def write(
        layout: Callable[[Tensors], Tensors], *, change: Callable[[Tensors], Any] | None = None, **config: Any
    ) -> Path:
        values, options = recorded
        weights = layout({name: tensor for name, tensor in values.items() if not name.startswith("io.")})
        if change is not None:
            change(weights)
        folder = tmp_path / "step_10" / "model"
        folder.mkdir(parents=True)
        # The original's constructor loses the number of layers and writes 12, whatever there are.
        saved = {**options, "model_type": "Albert", "num_hidden_layers": 12, "intermediate_size": 3072, **config}
        (folder / "config.json").write_text(json.dumps(saved))
        torch.save(weights, folder / "pytorch_model.bin")
        return tmp_path / "step_10"

    return write


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(35))]
    made = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    made.save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


@pytest.mark.parametrize(
    ("layout", "kind"),
    [
        (as_trunk, LorentzEncoder),
        (lambda weights: {name.removeprefix("trunk."): t for name, t in as_trunk(weights).items()}, LorentzEncoder),
        (lambda weights: {f"module._orig_mod.{name}": t for name, t in as_trunk(weights).items()}, LorentzEncoder),
        (as_masked_lm, LorentzForMaskedLM),
    ],
    ids=["contrastive", "trunk alone", "wrapped", "masked tokens"],
)
@torch.no_grad()
def test_all_layouts_give_the_recorded_states(
    recorded: Any, checkpoint: Any, layout: Any, kind: type, caplog: pytest.LogCaptureFixture
) -> None:
    values, _ = recorded
    with caplog.at_level(logging.WARNING):
        model = read_hyprag(checkpoint(layout))
    assert "has 2 layers, not 12" in caplog.text
    assert type(model) is kind
    real = values["io.attention_mask"].bool()
    ids, mask = values["io.input_ids"], values["io.attention_mask"]
    if isinstance(model, LorentzForMaskedLM):
        expected = values["io.masked.mlm_logits"][real].float()
        torch.testing.assert_close(model(ids, mask).logits[real], expected, **CLOSE)
        model = model.model
    found = model(ids, mask).last_hidden_state
    torch.testing.assert_close(found[real], values["io.masked.last_hidden_state"][real].float(), **CLOSE)
    unmasked = model(ids).last_hidden_state
    torch.testing.assert_close(unmasked, values["io.seed_unmasked.last_hidden_state"].float(), **CLOSE)


def test_a_retriever_of_it_pools_prompts_saves_and_loads(
    recorded: Any, checkpoint: Any, tokenizer: str, tmp_path: Path
) -> None:
    values, _ = recorded
    path = checkpoint(as_trunk, pooling="outward_einstein_midpoint", seq_len=20)
    assert is_hyprag(path)
    retriever = import_hyprag(path, tokenizer=tokenizer)
    assert retriever.protocol()["prompts"] == {"query": "search_query: ", "document": "search_document: "}
    assert retriever.protocol()["max_length"] == {"query": 20, "document": 20}
    features = {"input_ids": values["io.input_ids"], "attention_mask": values["io.attention_mask"]}
    with torch.no_grad():
        pooled = retriever.forward(dict(features), "document")["sentence_embedding"]
    torch.testing.assert_close(pooled, values["io.masked.pooled.outward_einstein_midpoint"].float(), **CLOSE)
    convert(path, tmp_path / "out", tokenizer=tokenizer, pooling="mean")
    loaded = load(tmp_path / "out", device="cpu")
    assert loaded.route("document")[1].pooling == "mean"
    assert not is_hyprag(tmp_path / "out")
    assert loaded.route("document")[0].model.config.rotary_style == "original"


def test_the_curvature_is_kept_and_there_is_one(checkpoint: Any) -> None:
    def curved(weights: Tensors) -> None:
        weights.update({name: torch.tensor(2.5) for name in weights if name.endswith((".k", ".c"))})

    model = read_hyprag(checkpoint(as_trunk, change=curved, trainable_curvature=True))
    assert isinstance(model, LorentzEncoder)
    assert model.curvature.radius_squared == pytest.approx(2.5)
    assert model.curvature.trainable


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("trunk.layers.1.mlp.w3.linear.bias"), r"layers\.1\.mlp\.w3"),
        (lambda tensors: tensors.update({"trunk.proj.weight": torch.ones(2)}), r"proj\.weight"),
        (lambda tensors: tensors.update({"trunk.final_proj.linear.bias": torch.ones(3)}), r"final_proj\.linear\.bias"),
        (lambda tensors: tensors.update({"trunk.final_norm.manifold.k": torch.tensor(3.0)}), "several curvatures"),
        (lambda tensors: tensors.update({"final_norm.weight": torch.ones(15)}), "more than one model"),
        (lambda tensors: tensors.update({"trunk.base_encoder.x": torch.ones(1)}), "hybrid encoder"),
        (lambda tensors: tensors.update({"trunk.final_norm.manifold.k": torch.tensor(-1.0)}), "one positive number"),
        (lambda tensors: tensors.update({"trunk.final_norm.manifold.k": torch.ones(3)}), "one positive number"),
        (lambda tensors: tensors.update(step=3), "'step' is not a tensor"),
    ],
)
def test_every_tensor_is_accounted_for(checkpoint: Any, change: Any, message: str) -> None:
    with pytest.raises(HyperseekError, match=message):
        read_hyprag(checkpoint(as_trunk, change=change))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"attn_heads_concat": False}, "attn_heads_concat"),
        ({"use_rotary_embeddings": False, "pad_token_id": 1}, "position embeddings"),
        ({"norm_layer": "layer_norm"}, "do not fit its config.json"),
        ({"pooling": "attentive_mean"}, r"pooler\.q_proj"),
        ({"pooling": "max"}, "does not validate"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(checkpoint: Any, config: Any, message: str) -> None:
    with pytest.raises(HyperseekError, match=message):
        read_hyprag(checkpoint(as_trunk, **config))


def test_a_new_pooling_needs_no_weights_of_the_checkpoint(checkpoint: Any, tokenizer: str) -> None:
    path = checkpoint(as_masked_lm, pooling="attentive_mean")
    assert import_hyprag(path, tokenizer=tokenizer).route("query")[1].pooling == "attentive_mean"


def test_tokenizers_are_found_and_checked(checkpoint: Any, tokenizer: str, tiny_encoder: str, tmp_path: Path) -> None:
    path = checkpoint(as_trunk)
    with pytest.raises(HyperseekError, match="has no tokenizer"):
        import_hyprag(path)
    with pytest.raises(HyperseekError, match="knows only 40"):
        import_hyprag(path, tokenizer=tiny_encoder)
    BertTokenizer.from_pretrained(tokenizer).save_pretrained(path / "model")
    assert import_hyprag(path).space.dimension == 15


def test_other_folders_and_options_are_refused(checkpoint: Any, tokenizer: str, tmp_path: Path) -> None:
    with pytest.raises(HyperseekError, match=r"no config\.json"):
        read_hyprag(tmp_path / "nothing")
    path = checkpoint(as_trunk)
    with pytest.raises(HyperseekError, match="--trunk is not for this kind"):
        convert(path, tmp_path / "out", trunk="bert", tokenizer=tokenizer)
    (path / "model" / "pytorch_model.bin").write_bytes(b"torn")
    with pytest.raises(HyperseekError, match="is damaged, or is not a file of tensors"):
        read_hyprag(path)
    (path / "model" / "pytorch_model.bin").unlink()
    save_file({"trunk.x": torch.ones(1)}, path / "model" / "other.safetensors")
    with pytest.raises(HyperseekError, match="no weights"):
        read_hyprag(path)
    with pytest.raises(HyperseekError, match="do not fit"):
        read_hyprag(path, weights=path / "model" / "other.safetensors")
    (path / "model" / "config.json").write_text("{")
    with pytest.raises(HyperseekError, match="is damaged, or is not the configuration of a checkpoint"):
        read_hyprag(path)
