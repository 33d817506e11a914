"""Recipes of pre-training: ours are valid, and what cannot work is refused with a reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from hyperseek import HyperseekError
from hyperseek.errors import MissingExtraError
from hyperseek.pretraining import PretrainRecipe, pretrain, read_pretrain_recipe
from hyperseek.pretraining._masked_lm import build_masked_lm

MakeRecipe = Callable[..., PretrainRecipe]

RECIPES = sorted(path for path in (Path(__file__).parents[2] / "recipes").glob("*.yaml") if "mlm" in path.stem)
KNOWN = {"albert_mlm", "albert_mlm_modernbert", "mlm-tiny-lorentz", "mlm-tiny-pydocs"}


def test_all_known_recipes_are_there() -> None:
    assert {path.stem for path in RECIPES} == KNOWN


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_valid_and_its_model_can_be_built(path: Path, tiny_encoder: str) -> None:
    recipe = read_pretrain_recipe(path, ["model.config.num_hidden_layers=1"])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_encoder)
    model = build_masked_lm(recipe.model, tokenizer, length=recipe.data.sequence_length)
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)
    assert model.config.pad_token_id == tokenizer.pad_token_id


def test_the_original_recipes_say_what_the_original_says() -> None:
    recipe = read_pretrain_recipe("albert_mlm_modernbert")
    train = recipe.train
    assert (train.learning_rate, train.adam_betas, train.adam_epsilon) == (4e-4, (0.9, 0.98), 1e-6)
    assert (train.weight_decay, train.max_grad_norm, train.schedule, train.warmup) == (0.01, 0.0, "cosine", 500)
    assert (train.batch_size * 8, train.gradient_accumulation, train.epochs) == (96, 21, 160)
    assert (recipe.masking.train, recipe.masking.validation, recipe.data.validation_share) == (0.3, 0.15, 0.01)
    small = read_pretrain_recipe("albert_mlm", ["train.precision=bfloat16"])
    assert (small.model.config["hidden_size"], small.train.batch_size * 8) == (256, 24)
    assert small.train.precision == "bfloat16"


def fields(make_recipe: MakeRecipe) -> dict[str, Any]:
    return make_recipe().model_dump(mode="json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"start": "somewhere"}}, "either start .* or architecture"),
        ({"model": {"architecture": None}}, "either start .* or architecture"),
        ({"model": {"architecture": None, "start": "x"}}, "a model given by start has its own"),
        ({"model": {"tokenizer": None}}, "a new model needs a tokenizer"),
        ({"model": {"architecture": None, "start": "x", "config": {}}}, "tokenizer cannot be replaced"),
        ({"masking": {"masked": 0.8, "random": 0.3}}, r"0\.8 \+ 0\.3 does"),
        ({"train": {"max_steps": None}}, "training never ends"),
        ({"train": {"adam_betas": [0.9, 1.0]}}, r"must be in \[0, 1\)"),
        ({"train": {"learnin_rate": 1}}, "did you mean 'learning_rate'"),
        ({"data": {"sources": {}}}, "at least 1"),
        ({"data": {"validation_share": 1}}, "less than 1"),
    ],
)
def test_recipes_that_make_no_sense(make_recipe: MakeRecipe, changes: dict[str, Any], message: str) -> None:
    values = fields(make_recipe)
    for section, change in changes.items():
        values[section] = {**values.get(section, {}), **change}
    with pytest.raises(HyperseekError, match=message):
        PretrainRecipe.from_mapping(values)


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("model", {"architecture": "brt"}, "unknown architecture 'brt'; did you mean 'bert'"),
        ("model", {"config": {"hiden_size": 8}}, "no such field; did you mean 'hidden_size'"),
        ("model", {"config": {"hidden_size": 30, "num_attention_heads": 4}}, "does not describe a bert model"),
        (
            "model",
            {"config": {"max_position_embeddings": 8}},
            "is 16, but the model has positions for 8 tokens",
        ),
        ("model", {"config": {"vocab_size": 7}}, "the model has 7 tokens"),
        ("model", {"tokenizer": "./nowhere", "vocabulary": None}, "no model folder"),
        ("train", {"precision": "float16"}, "float16 needs a GPU"),
        ("train", {"batch_size": 100_000}, "fewer than a batch of 100000"),
        ("train", {"deepspeed": "nowhere.json"}, r"nowhere\.json: no such file"),
        ("data", {"validation_share": 1e-9}, "none of 300 texts"),
    ],
)
def test_runs_that_cannot_work(
    make_recipe: MakeRecipe, tmp_path: Path, section: str, change: dict[str, Any], message: str
) -> None:
    values = fields(make_recipe)
    values[section] = {**values[section], **change}
    with pytest.raises(HyperseekError, match=message):
        pretrain(PretrainRecipe.from_mapping(values), output=tmp_path / "run")
    assert not (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("content", "message"), [("[1]", "must hold an object"), ("{", "is damaged, or is not a DeepSpeed configuration")]
)
def test_bad_deepspeed_files(make_recipe: MakeRecipe, tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "deepspeed.json"
    path.write_text(content)
    recipe = make_recipe(train={**make_recipe().train.model_dump(), "deepspeed": str(path)})
    with pytest.raises(HyperseekError, match=message):
        pretrain(recipe, output=tmp_path / "run")


def test_deepspeed_needs_its_package(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    try:
        import deepspeed  # noqa: F401
    except ImportError:
        path = tmp_path / "deepspeed.json"
        path.write_text(json.dumps({"zero_optimization": {"stage": 2}}))
        recipe = make_recipe(train={**make_recipe().train.model_dump(), "deepspeed": str(path)})
        with pytest.raises(MissingExtraError, match=r"hyperseek\[deepspeed\]"):
            pretrain(recipe, output=tmp_path / "run")
    else:
        pytest.skip("deepspeed is installed")


def test_a_tokenizer_of_another_model_is_refused(tiny_encoder: str, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    small = tmp_path / "small"
    config = BertConfig.from_pretrained(tiny_encoder, vocab_size=50)
    BertForMaskedLM(config).save_pretrained(small)
    model = {"architecture": None, "config": {}, "start": str(small), "tokenizer": tiny_encoder}
    with pytest.raises(HyperseekError, match="the tokenizer is another model's"):
        pretrain(make_recipe(model=model), output=tmp_path / "run")


def test_a_tokenizer_without_a_mask_is_refused(make_recipe: MakeRecipe, tiny_encoder: str, tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_encoder)
    tokenizer.mask_token = None
    tokenizer.save_pretrained(tmp_path / "unmasked")
    with pytest.raises(HyperseekError, match="has no mask_token"):
        pretrain(make_recipe(model={"tokenizer": str(tmp_path / "unmasked")}), output=tmp_path / "run")


def test_a_start_without_its_tensors_is_refused(tiny_encoder: str, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "start"
    PreTrainedTokenizerFast.from_pretrained(tiny_encoder).save_pretrained(folder)
    BertForMaskedLM(BertConfig.from_pretrained(tiny_encoder)).save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["bert.encoder.layer.0.output.dense.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = {"architecture": None, "config": {}, "start": str(folder), "tokenizer": None}
    with pytest.raises(HyperseekError, match=r"lacks 1 tensors .*layer\.0\.output\.dense\.weight"):
        pretrain(make_recipe(model=model), output=tmp_path / "run")
