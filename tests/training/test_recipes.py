"""Recipes: every shipped file is valid, bases and overrides work, mistakes are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hyperseek import HyperseekError
from hyperseek._relevance import cut_off
from hyperseek.data.open import parse_source
from hyperseek.errors import ConfigError
from hyperseek.models import LorentzConfig
from hyperseek.pretraining import read_pretrain_recipe
from hyperseek.runs.recipe import expanded
from hyperseek.training import Recipe, find_recipe, read_recipe
from hyperseek.training.losses import Objective

# Recipes of pre-training are of another form; tests/pretraining reads them.
RECIPES = sorted(path for path in (Path(__file__).parents[2] / "recipes").glob("*.yaml") if "mlm" not in path.stem)
KNOWN = {
    *(f"hypencoder.{depth}_layer" for depth in (2, 4, 6, 8)),
    "contrastive_learning",
    "contrastive_learning_hard_negative",
    "knowledge_distillation",
    *(f"{trunk}_{how}_encoder" for trunk in ("contriever", "retro", "tasb") for how in ("freeze", "nofreeze")),
    *(f"{model}_{task}_finetune" for model in ("hypencoder", "bebase") for task in ("instruction", "tot")),
    "qnet-minilm-pydocs",
    "qnet-minilm-union",
    "dense-minilm-linear",
    "dense-minilm-lora",
    "dense-minilm-query-lora",
    "lorentz-minilm",
    "lorentz-minilm-hierarchy",
    "levels-minilm-hierarchy",
    "card-minilm",
    "hydra",
    "contrastive_finetune_elbert",
    "contrastive_pretrain_albert",
    "contrastive_pretrain_elbert",
    "contrastive_pretrain_hybrid_bert",
    "hrm_hyperbolic",
    "late-minilm",
    "levels-minilm",
    "reasoning_colbert",
}
MINIMAL: dict[str, Any] = {
    "model": {"trunk": "minilm"},
    "data": {"sources": {"a": {"source": "pydocs:train"}}},
    "losses": {"contrastive": {}},
    "train": {"max_steps": 1},
}


def test_all_known_recipes_are_there() -> None:
    assert {path.stem for path in RECIPES} == KNOWN


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_valid_and_its_names_resolve(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERSEEK_DATA", "elsewhere/data")  # which need not be there
    recipe = read_recipe(path)
    objective = Objective(recipe.losses)
    assert list(objective.weights) == list(recipe.losses.chosen)
    for source in recipe.data.sources.values():
        parsed = parse_source(expanded(source.source))
        assert "$" not in parsed.place
        # CoSQA has no test split in the folder of collections, and no train split either.
        prepared = parsed.place.startswith("data/prepared_") or parsed.place.endswith("cosqa-dev")
        assert parsed.kind in ("hypencoder", "columns", "kalm") or parsed.split == "train" or prepared
    for dev_set in recipe.validation.sets.values():
        parsed = parse_source(expanded(dev_set.source))
        assert (parsed.kind, bool(parsed.split)) == ("qrels", True)
    cut_off(recipe.validation.metric)
    assert Recipe.from_mapping(recipe.model_dump(mode="json")) == recipe


def test_reason_trains_recipe_has_its_defaults() -> None:
    recipe = read_recipe("reasoning_colbert")
    train = recipe.train
    assert (train.epochs, train.learning_rate, train.batch_size, train.mini_batch) == (3, 1e-5, 256, 32)
    assert (train.precision, train.gradient_accumulation, train.gradient_checkpointing) == ("bfloat16", 1, False)
    assert (train.save_every, train.log_every, train.workers, train.seed) == (500, 1, 8, 42)
    assert (recipe.model.query_length, recipe.model.document_length, recipe.validation.holdout) == (128, 8192, 0.01)
    assert recipe.losses.contrastive.temperature == 1
    assert recipe.losses.contrastive.across_devices
    lora = read_recipe("reasoning_colbert", ["train.trunk=lora", "train.lora={alpha: 16, dropout: 0.05}"]).train.lora
    assert lora is not None
    assert (lora.rank, lora.alpha, lora.dropout) == (16, 16, 0.05)


@pytest.mark.parametrize(("depth", "sizes"), [(2, 3), (4, 5), (6, 7), (8, 9)])
def test_the_originals_recipes_have_its_values(depth: int, sizes: int) -> None:
    recipe = read_recipe(f"hypencoder.{depth}_layer")
    assert recipe.model.qnet.depth == depth == sizes - 1
    train = recipe.train
    assert (train.batch_size, train.learning_rate, train.warmup, train.max_steps) == (64, 2e-5, 6000, 1_000_000)
    assert (train.schedule, train.weight_decay, train.trunk) == ("constant", 0, "full")
    assert list(recipe.losses.chosen) == ["contrastive", "margin_mse"]
    assert recipe.losses.contrastive is not None
    assert recipe.losses.contrastive.only_first_item
    assert (recipe.data.positives, recipe.data.negatives) == ("first", 7)


@pytest.mark.parametrize(
    ("name", "trunk", "rate", "batch", "epochs"),
    [
        ("contriever_freeze_encoder", "frozen", 1e-3, (64, 1), 3),
        ("contriever_nofreeze_encoder", "full", 1e-5, (32, 2), 3),
        ("retro_freeze_encoder", "frozen", 1e-3, (64, 1), 3),
        ("retro_nofreeze_encoder", "full", 1e-5, (32, 2), 3),
        ("tasb_freeze_encoder", "frozen", 1e-4, (64, 1), 1),
        ("tasb_nofreeze_encoder", "full", 1e-5, (64, 1), 1),
        ("hypencoder_instruction_finetune", "full", 8e-6, (48, 1), 1),
        ("hypencoder_tot_finetune", "full", 8e-6, (48, 1), 25),
        ("bebase_instruction_finetune", "full", 8e-6, (48, 1), 1),
        ("bebase_tot_finetune", "full", 8e-6, (48, 1), 25),
    ],
)
def test_the_reproductions_recipes_have_its_values(
    name: str, trunk: str, rate: float, batch: tuple[int, int], epochs: int
) -> None:
    train = read_recipe(name).train
    assert (train.trunk, train.learning_rate, train.epochs, train.max_steps) == (trunk, rate, epochs, None)
    assert (train.batch_size, train.gradient_accumulation) == batch
    assert (train.schedule, train.warmup) == ("linear", 0.1)


def test_a_base_is_merged_section_by_section_and_null_takes_back(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "model: {trunk: minilm}\n"
        "data: {sources: {a: {source: 'pydocs:train'}, b: {source: 'pydocs:dev'}}, negatives: 3}\n"
        "losses: {contrastive: {temperature: 0.5}, margin_mse: {}}\n"
        "train: {max_steps: 5}\n"
    )
    (tmp_path / "child.yaml").write_text(
        "base: base.yaml\n"
        "data: {sources: {a: null}}\n"
        "losses: {margin_mse: null, contrastive: {weight: 2.0}}\n"
        "train: {max_steps: null, epochs: 1}\n"
    )
    recipe = read_recipe(tmp_path / "child.yaml", ["train.learning_rate=3e-4", "losses.anchor.weight=0.5"])
    assert list(recipe.data.sources) == ["b"]
    assert recipe.data.negatives == 3
    assert list(recipe.losses.chosen) == ["contrastive", "anchor"]
    assert recipe.losses.contrastive is not None
    assert (recipe.losses.contrastive.temperature, recipe.losses.contrastive.weight) == (0.5, 2.0)
    assert (recipe.train.max_steps, recipe.train.epochs, recipe.train.learning_rate) == (None, 1, 3e-4)


def test_null_takes_all_entries_back_on_the_command_line() -> None:
    recipe = read_recipe("lorentz-minilm", ["validation.sets=null", "data.sources={mine: {source: 'pydocs:train'}}"])
    assert (dict(recipe.validation.sets), list(recipe.data.sources)) == ({}, ["mine"])


def test_recipes_of_the_other_verb_name_it() -> None:
    with pytest.raises(HyperseekError, match="run it with `hyperseek pretrain`"):
        read_recipe("mlm-tiny-pydocs")
    with pytest.raises(HyperseekError, match="run it with `hyperseek train`"):
        read_pretrain_recipe("lorentz-minilm")


def test_the_originals_names_of_fields_are_explained() -> None:
    with pytest.raises(HyperseekError, match="the original's curvature_init is called radius_squared here"):
        read_recipe("lorentz-minilm", ["model.lorentz.curvature_init=2.0"])


def test_bases_in_a_circle_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(HyperseekError, match="circle"):
        read_recipe(tmp_path / "a.yaml")


def test_an_unknown_recipe_names_the_closest() -> None:
    with pytest.raises(HyperseekError, match="did you mean 'qnet-minilm-pydocs'"):
        find_recipe("qnet-minilm-pydoc")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": {"max_steps": 1, "learning_rat": 1}}, "did you mean 'learning_rate'"),
        ({"losses": {"contrastive": {"temprature": 1}}}, "did you mean 'temperature'"),
        ({"train": {}}, "one of epochs, max_steps and max_seconds"),
        ({"data": {"sources": {}}}, "sources"),
        ({"validation": {"interpolate": [0.5]}}, "dev sets"),
        ({"validation": {"metric": "nDCG"}}, "metric"),
        ({"validation": {"sets": {"a": {"source": "pydocs:dev"}}, "interpolate": [2]}}, r"shares in \[0, 1\]"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(HyperseekError, match=message):
        Recipe.from_mapping({**MINIMAL, **change})


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERSEEK_CACHE", "/somewhere")
    recipe = Recipe.from_mapping(MINIMAL)
    assert recipe.train.cache.resolved_folder() == Path("/somewhere")
    monkeypatch.delenv("HYPERSEEK_CACHE")
    assert recipe.train.cache.resolved_folder() == Path.home() / ".cache" / "hyperseek"


def test_the_originals_hybrid_recipes_have_its_values() -> None:
    recipe = read_recipe("contrastive_pretrain_hybrid_bert")
    lorentz = recipe.model.lorentz
    assert (lorentz.pooling, lorentz.blocks, lorentz.dimension, lorentz.norm_clip) == ("hyp_cls", 3, 767, 10)
    assert (recipe.train.batch_size, recipe.train.warmup, recipe.train.weight_decay) == (16384, 700, 0.2)
    tuned = read_recipe("contrastive_finetune_elbert", ["losses.matryoshka.dimensions=[256]"])
    assert (tuned.model.lorentz.distance, tuned.model.lorentz.norm_clip) == ("geodesic", 2.0)
    assert (list(tuned.data.sources), tuned.data.negatives) == (["supervised"], 7)
    assert tuned.losses.matryoshka is not None
    assert tuned.losses.matryoshka.weighted == {256: 1.0}


def test_the_fully_hyperbolic_recipe_says_nothing_of_a_lift() -> None:
    recipe = read_recipe("contrastive_pretrain_albert")
    lorentz, default = recipe.model.lorentz, LorentzConfig()
    said = {name for name in LorentzConfig.model_fields if getattr(lorentz, name) != getattr(default, name)}
    assert said == {"distance", "pooling"}
    assert (recipe.train.batch_size, recipe.train.mini_batch, recipe.train.learning_rate) == (16384, 128, 5e-4)
    assert recipe.losses.contrastive is not None
    assert recipe.losses.contrastive.temperature == 0.02


def test_the_hyperbolic_recipe_and_its_flat_twin_differ_in_one_field() -> None:
    curved = read_recipe("lorentz-minilm").model.lorentz
    flat = read_recipe("lorentz-minilm", ["model.lorentz.distance=cosine"]).model.lorentz
    assert flat == curved.model_copy(update={"distance": "cosine"})
    assert (curved.curved, flat.curved) == (True, False)


def test_a_variable_that_is_not_set_is_an_error_that_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERSEEK_DATA", "/any/where")
    assert expanded("$HYPERSEEK_DATA/medquad:train") == expanded("${HYPERSEEK_DATA}/medquad:train")
    assert expanded("$HYPERSEEK_DATA/medquad:train") == "/any/where/medquad:train"
    monkeypatch.delenv("HYPERSEEK_DATA")
    monkeypatch.delenv("OTHER_PLACE", raising=False)
    for source in ("$HYPERSEEK_DATA/medquad:train", "${HYPERSEEK_DATA}/x", "columns:$HYPERSEEK_DATA/x.jsonl"):
        with pytest.raises(ConfigError, match="HYPERSEEK_DATA, which is not set; set it to the folder that holds"):
            expanded(source)
    with pytest.raises(ConfigError, match="OTHER_PLACE, which is not set"):
        expanded("$OTHER_PLACE/x")
    assert expanded("pydocs:train") == "pydocs:train"
