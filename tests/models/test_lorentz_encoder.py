"""The fully hyperbolic encoder as a model of transformers: recorded numbers, padding, saving, loading, training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoModelForMaskedLM, BertTokenizer

from hyperseek import HyperseekError
from hyperseek.models import LorentzEncoder, LorentzEncoderConfig, LorentzForMaskedLM

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def config(**options: Any) -> LorentzEncoderConfig:
    sizes = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LorentzEncoderConfig(**{**sizes, **options})


def encoder(seed: int = 0, **options: Any) -> LorentzEncoder:
    torch.manual_seed(seed)
    return LorentzEncoder(config(initializer_range=0.3, **options)).eval()


def masked_lm(seed: int = 0, **options: Any) -> LorentzForMaskedLM:
    torch.manual_seed(seed)
    return LorentzForMaskedLM(config(initializer_range=0.3, **options)).eval()


@pytest.fixture
def batch() -> dict[str, Tensor]:
    torch.manual_seed(1)
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[0, 4:] = 0
    return {"input_ids": torch.randint(5, 30, (3, 7)), "attention_mask": mask}


@pytest.fixture(scope="module")
def recorded(golden: Path) -> tuple[dict[str, Tensor], LorentzForMaskedLM]:
    path = golden / "hyperbolic" / "hyte_fh_tiny_rms_norm.safetensors"
    values = load_file(path)
    with safe_open(path, "pt") as file:
        options = json.loads(file.metadata()["config"])
    model = LorentzForMaskedLM(LorentzEncoderConfig(**options, rotary_style="original")).double().eval()
    own = model.state_dict()
    found = {}
    for name, tensor in own.items():
        recorded_name = name.removeprefix("model.")
        found[name] = values[recorded_name].reshape(tensor.shape) if recorded_name in values else tensor
    model.load_state_dict(found)
    return values, model


@torch.no_grad()
def test_it_computes_what_was_recorded_with_padding_masked(recorded: Any) -> None:
    values, model = recorded
    ids, mask = values["io.input_ids"], values["io.attention_mask"]
    real = mask.bool()
    torch.testing.assert_close(model(ids, mask).logits[real], values["io.masked.mlm_logits"][real], **EXACT)
    for pooling in ("cls", "outward_einstein_midpoint"):
        # Without a mask it computes what the original really did: padding takes part in everything.
        for name, given, rows in (("masked", mask, real), ("seed_unmasked", None, torch.ones_like(real))):
            states = values[f"io.{name}.last_hidden_state"]
            found = pooled_by(model, pooling)(ids, given)
            torch.testing.assert_close(found.last_hidden_state[rows], states[rows], **EXACT)
            # The recorded pooled.cls has the first two tokens of the first text, not the first of each: a strided view
            # was written as if it were contiguous.
            expected = states[:, 0] if pooling == "cls" else values[f"io.{name}.pooled.{pooling}"]
            torch.testing.assert_close(found.pooler_output, expected, **EXACT)


def pooled_by(model: LorentzForMaskedLM, pooling: str) -> LorentzEncoder:
    options = {**model.config.to_dict(), "pooling": pooling}
    pooled = LorentzEncoder(LorentzEncoderConfig(**options)).double().eval()
    pooled.load_state_dict(model.model.state_dict())
    return pooled


@torch.no_grad()
def test_the_standard_rotary_table_is_another_one(recorded: Any) -> None:
    values, model = recorded
    other = LorentzEncoder(LorentzEncoderConfig(**{**model.config.to_dict(), "rotary_style": "standard"})).double()
    other.load_state_dict(model.model.state_dict())
    found = other.eval()(values["io.input_ids"]).last_hidden_state
    assert (found - values["io.seed_unmasked.last_hidden_state"]).abs().max() > 0.01


@pytest.mark.parametrize("pooling", ["cls", "mean", "outward_einstein_midpoint", "attentive_mean"])
@pytest.mark.parametrize("scores", ["lorentz_inner", "distance"])
@torch.no_grad()
def test_a_text_does_not_depend_on_what_it_is_batched_with(batch: Any, pooling: str, scores: str) -> None:
    model = encoder(pooling=pooling, attention_scores=scores, curvature_init=2.0, radius_factor=True)
    together = model(**batch).pooler_output
    ids = batch["input_ids"][:1, :4]
    alone = model(ids, torch.ones(1, 4)).pooler_output
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-5)
    left = model(torch.cat([batch["input_ids"][:1, 4:], ids], 1), batch["attention_mask"][:1].flip(1)).pooler_output
    torch.testing.assert_close(left, alone, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_positions_matter_and_packed_texts_do_not_see_each_other() -> None:
    for rotary in (True, False):
        model = encoder(use_rotary_embeddings=rotary, max_position_embeddings=16, pooling=None)
        ids = torch.tensor([[5, 6, 7, 8, 9]])
        states = model(ids).last_hidden_state
        assert (states[:, -1] - model(ids[:, [1, 0, 2, 3, 4]]).last_hidden_state[:, -1]).abs().max() > 1e-4
        allowed = torch.block_diag(torch.ones(2, 2), torch.ones(3, 3))[None]
        positions = torch.tensor([[0, 1, 0, 1, 2]])
        packed = model(ids, allowed, position_ids=positions).last_hidden_state
        parts = [model(part).last_hidden_state for part in (ids[:, :2], ids[:, 2:])]
        torch.testing.assert_close(packed, torch.cat(parts, 1), rtol=1e-4, atol=1e-5)
    with pytest.raises(HyperseekError, match="positions for 16"):
        model(torch.ones(1, 17, dtype=torch.long))
    with pytest.raises(HyperseekError, match="cannot be pooled"):
        encoder()(ids, allowed)


def test_depth_is_what_the_configuration_says_and_shared_layers_are_one() -> None:
    assert len(encoder(num_hidden_layers=3).layers) == 3
    shared = encoder(num_hidden_layers=3, share_layers=True)
    assert len(shared.layers) == 1
    ids = torch.tensor([[5, 6, 7]])
    states = shared(ids, output_hidden_states=True).hidden_states
    assert len(states) == 4
    block = shared.layers[0]
    torch.testing.assert_close(
        block(states[2], shared.curvature(), None, shared._rotary(torch.arange(3)[None])), states[3]
    )
    assert sum(p.numel() for p in shared.layers.parameters()) * 3 == sum(
        p.numel() for p in encoder(num_hidden_layers=3).layers.parameters()
    )


@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm", "dyt_norm"])
def test_saved_models_come_back_whole(tmp_path: Path, batch: Any, norm: str) -> None:
    options = {"pooling": "attentive_mean", "trainable_curvature": True, "curvature_init": 2.0, "type_vocab_size": 2}
    model = encoder(norm_layer=norm, radius_factor=True, share_layers=norm == "rms_norm", **options)
    with torch.no_grad():
        model.curvature.log_radius_squared.add_(0.1)
    model.save_pretrained(tmp_path)
    assert set(load_file(tmp_path / "model.safetensors")) == set(model.state_dict())
    for loaded in (LorentzEncoder.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)):
        assert loaded.curvature.radius_squared == pytest.approx(2.0 * 1.10517, rel=1e-5)
        assert loaded.curvature.trainable
        torch.testing.assert_close(loaded.eval()(**batch).pooler_output, model(**batch).pooler_output, rtol=0, atol=0)


def test_what_pretraining_saves_loads_into_an_encoder(tmp_path: Path, batch: Any) -> None:
    model = masked_lm(curvature_init=3.0, pooling="attentive_mean")
    model.save_pretrained(tmp_path)
    loaded = LorentzEncoder.from_pretrained(tmp_path)
    for name, tensor in model.model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)
    assert loaded.pooler is not None
    again, info = AutoModelForMaskedLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    torch.testing.assert_close(again.eval()(**batch).logits, model(**batch).logits, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("layers.1.residual_add.w_y"), "lacks layers.1.residual_add.w_y"),
        (lambda tensors: tensors.pop("curvature.log_radius_squared"), "lacks curvature.log_radius_squared"),
        (lambda tensors: tensors.update(stray=torch.ones(2)), "unexpected tensors: stray"),
        (lambda tensors: tensors.update({"final_norm.layer.weight": torch.ones(3)}), "does not fit its config.json"),
    ],
)
def test_checkpoints_that_lack_or_have_too_much_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    encoder().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(HyperseekError, match=message):
        LorentzEncoder.from_pretrained(tmp_path)


def test_an_encoder_alone_is_no_model_of_masked_tokens(tmp_path: Path) -> None:
    encoder().save_pretrained(tmp_path)
    with pytest.raises(HyperseekError, match="lacks decoder"):
        LorentzForMaskedLM.from_pretrained(tmp_path)


def test_half_precision_leaves_the_curvature_alone(tmp_path: Path, batch: Any) -> None:
    model = encoder(curvature_init=2.345, pooling="mean")
    reference = model(**batch).pooler_output
    model.save_pretrained(tmp_path)
    for half in (LorentzEncoder.from_pretrained(tmp_path, dtype=torch.bfloat16), model.to(torch.bfloat16)):
        assert half.layers[0].mlp.w1.linear.weight.dtype == torch.bfloat16
        assert half.curvature.radius_squared == pytest.approx(2.345, rel=1e-6)
        found = half.eval()(**batch).pooler_output
        assert found.dtype == torch.float32
        cosine = torch.nn.functional.cosine_similarity(found[:, 1:], reference[:, 1:])
        assert cosine.min() > 0.99


def test_autocast_keeps_points_on_the_hyperboloid(batch: Any) -> None:
    model = masked_lm(curvature_init=0.5).train()
    with torch.autocast("cpu", torch.bfloat16):
        found = model(**batch, labels=batch["input_ids"], output_hidden_states=True)
    found.loss.backward()
    assert found.loss.dtype == found.logits.dtype == torch.float32
    for states in found.hidden_states:
        products = states[..., 0].square() - states[..., 1:].square().sum(-1)
        torch.testing.assert_close(products, torch.full_like(products, 0.5), rtol=0.05, atol=0.05)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_the_loss_is_that_of_labelled_tokens(batch: Any) -> None:
    labels = torch.where(torch.arange(7) % 3 == 0, batch["input_ids"], -100)
    dense, sparse = masked_lm(), masked_lm(sparse_prediction=True)
    full, few = dense(**batch, labels=labels), sparse(**batch, labels=labels)
    assert full.logits.shape == (3, 7, 30)
    assert few.logits.shape == (int((labels != -100).sum()), 30)
    torch.testing.assert_close(full.loss, few.loss)
    torch.testing.assert_close(
        full.loss, torch.nn.functional.cross_entropy(full.logits[labels != -100], labels[labels != -100])
    )
    torch.testing.assert_close(dense(**batch, labels=labels, num_items_in_batch=18).loss, full.loss / 2)
    nothing = sparse(**batch, labels=torch.full_like(labels, -100)).loss
    assert nothing == 0
    nothing.backward()


def test_tied_embeddings_are_one_tensor_after_loading_too(tmp_path: Path) -> None:
    model = masked_lm(tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    for tied in (model, LorentzForMaskedLM.from_pretrained(tmp_path)):
        assert tied.decoder.z is tied.model.embeddings.word_embeddings.weight
    untied = masked_lm()
    assert untied.decoder.z is not untied.model.embeddings.word_embeddings.weight


def test_training_lowers_the_loss_and_moves_the_one_curvature(batch: Any) -> None:
    model = masked_lm(trainable_curvature=True, curvature_init=1.0, curvature_max=1.05, share_layers=True).train()
    assert sum("curvature" in name for name in model.state_dict()) == 1
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-2)
    losses = []
    for _ in range(25):
        loss = model(**batch, labels=batch["input_ids"]).loss
        optimiser.zero_grad()
        loss.backward()
        assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] * 0.7
    curvature = model.model.curvature
    assert curvature.radius_squared != 1.0
    with torch.no_grad():
        curvature.log_radius_squared.fill_(5.0)
    model(**batch)
    assert curvature.radius_squared == pytest.approx(1.05)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
def test_gradient_checkpointing_changes_no_gradient(batch: Any) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = masked_lm(trainable_curvature=True).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(**batch, labels=batch["input_ids"]).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_a_configuration_fits_any_tokenizer(tiny_encoder: str) -> None:
    tokenizer = BertTokenizer.from_pretrained(tiny_encoder)
    made = LorentzEncoderConfig.for_tokenizer(tokenizer, hidden_size=16, num_attention_heads=2)
    assert (made.vocab_size, made.pad_token_id) == (len(tokenizer), tokenizer.pad_token_id)
    tokenizer.pad_token = None
    with pytest.raises(HyperseekError, match="no padding token"):
        LorentzEncoderConfig.for_tokenizer(tokenizer)
    with pytest.raises(HyperseekError, match="unknown pooling 'max'"):
        LorentzEncoder(config(pooling="max"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"vocab_size": 0},
        {"hidden_size": 0},
        {"num_hidden_layers": -1},
        {"num_attention_heads": 0},
        {"intermediate_size": 1},
        {"max_position_embeddings": 0},
        {"type_vocab_size": -1},
        {"pad_token_id": 30},
        {"rope_theta": 0.0},
        {"residual_scale": float("nan")},
        {"initializer_range": -0.1},
        {"pooling": "outward_einstein_midpoint", "pooling_saturation": -1.0},
    ],
    ids=str,
)
def test_numbers_out_of_range_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(HyperseekError, match=list(wrong)[-1].removeprefix("pooling_")):
        LorentzEncoder(config(**wrong))
