"""A setting that nothing would read is an error, and null takes back what a base says."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hyperseek import HyperseekError
from hyperseek.pretraining import PretrainRecipe
from hyperseek.pretraining._recipe import VocabularyConfig
from hyperseek.runs.record import check_same
from hyperseek.training import Recipe, RunRecord, list_recipes, read_recipe
from hyperseek.training._recipe import LoraConfig, SourceConfig

SMALL: dict[str, Any] = {
    "model": {"trunk": "minilm"},
    "data": {"sources": {"a": {"source": "a:train"}}},
    "losses": {"contrastive": {}},
    "train": {"max_steps": 1},
}
MASKED: dict[str, Any] = {
    "model": {"architecture": "bert", "tokenizer": "somewhere"},
    "data": {"sources": {"a": {"source": "a.txt"}}},
    "train": {"max_steps": 1},
}


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return {
        key: merged(values.get(key, {}), changes[key]) if isinstance(changes.get(key), dict) else changes.get(key, old)
        for key, old in {**changes, **values}.items()
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"lora": {"rank": 4}}}, "lora has an effect only with trunk: lora, not frozen.*'lora: null'"),
        ({"train": {"lora": {}, "trunk": "full"}}, "lora has an effect only with trunk: lora, not full"),
        ({"train": {"last_layers": 1}}, "last_layers has an effect only with trunk: last_layers, not frozen"),
        ({"train": {"last_layers": 2, "trunk": "lora"}}, "last_layers has an effect only"),
        ({"train": {"gradient_checkpointing": True}}, "gradient_checkpointing has an effect only where the trunk"),
        ({"train": {"sides": "query"}}, "sides: query .* trunk: frozen trains none"),
        ({"train": {"cache": {"indexes": ["a"], "enabled": False}}}, "cache.indexes has an effect only"),
        ({"data": {"extra_from": "corpus"}}, "extra_from: corpus"),
        ({"data": {"sources": {"a": {"source": "a", "anchor_only": True}}}}, "'a' is anchor_only, and nothing"),
        ({"validation": {"patience": 2, "sets": {"a": {"source": "a:dev"}}}}, "patience has an effect only"),
        ({"model": {"pooling": "mean"}}, "pooling has an effect only with a family"),
        ({"model": {"document_trunk": "minilm"}}, "document_trunk has an effect only with a family"),
        ({"model": {"normalize": False}}, "normalize has an effect only with a family"),
    ],
)
def test_training(changes: dict[str, Any], message: str) -> None:
    Recipe.from_mapping(SMALL)
    with pytest.raises(HyperseekError, match=message):
        Recipe.from_mapping(merged(SMALL, changes))


@pytest.mark.parametrize("kind", ["qrels", "columns", "prepared"])
@pytest.mark.parametrize("options", [{"hypencoder": {"score_key": None}}, {"task": "t"}, {"instruction": "i"}])
def test_options_of_other_sources(kind: str, options: dict[str, Any]) -> None:
    with pytest.raises(HyperseekError, match=r"options\.(hypencoder|task|instruction) means nothing"):
        SourceConfig.from_mapping({"source": "a:train", "options": options}).check_options(kind)
    SourceConfig.from_mapping({"source": "a", "options": {"qrels": {"minimum_grade": 2}}}).check_options("qrels")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"vocabulary": {"size": 100}}}, "vocabulary has an effect only with tokenizer: train"),
        ({"data": {"validation_share": 0}, "validation": {"every": 2}}, "data.validation_share is 0; raise it"),
    ],
)
def test_pretraining(changes: dict[str, Any], message: str) -> None:
    PretrainRecipe.from_mapping(MASKED)
    with pytest.raises(HyperseekError, match=message):
        PretrainRecipe.from_mapping(merged(MASKED, changes))


def test_null_takes_back_and_names_are_bases(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: dense-minilm-lora\ntrain: {trunk: full, lora: null}\n")
    recipe = read_recipe(tmp_path / "mine.yaml")
    assert (recipe.train.trunk, recipe.train.lora) == ("full", None)
    assert recipe.data == read_recipe("dense-minilm-lora").data
    assert Recipe.from_mapping(recipe.model_dump(mode="json")) == recipe
    # A file beside the recipe goes before a name.
    (tmp_path / "dense-minilm-lora").write_text("base: nowhere\n")
    with pytest.raises(
        HyperseekError, match=r"base: there is no file .*nowhere, and unknown recipe 'nowhere'.*known: "
    ):
        read_recipe(tmp_path / "mine.yaml")
    for number in range(30):
        (tmp_path / f"{number}.yaml").write_text(f"base: {number + 1}.yaml\n")
    with pytest.raises(HyperseekError, match="more than 20 recipes"):
        read_recipe(tmp_path / "0.yaml")


def test_recipes_are_listed_with_what_they_are() -> None:
    found = list_recipes()
    assert list(found) == sorted(found)
    assert found["qnet-minilm-pydocs"].endswith(".")
    assert all(found.values())


def test_a_run_that_changed_nothing_says_so(
    make_recipe: Callable[..., Recipe], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from hyperseek.training import train

    record = train(
        make_recipe(train={"learning_rate": 1e-60, "max_steps": 1, "save_every": None}), output=tmp_path / "a"
    )
    assert not record.changed
    assert "changed nothing" in caplog.text
    caplog.clear()
    before = os.umask(0o027)
    try:
        assert train(make_recipe(train={"max_steps": 1, "save_every": 1}), output=tmp_path / "b").changed
    finally:
        os.umask(before)
    # Other libraries write through temporary files that only their owner may read.
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "b").rglob("*") if path.is_file()}
    assert any(path.name == "optimizer.pt" for path in modes)
    assert {path.name: oct(mode) for path, mode in modes.items() if mode != 0o640} == {}
    assert "changed nothing" not in caplog.text


def test_runs_that_earlier_versions_began_are_resumed(tmp_path: Path) -> None:
    """They recorded the defaults of settings that nothing read, and let them be given."""
    every = {"last_layers": 1, "lora": LoraConfig().model_dump(mode="json")}
    trunks: list[dict[str, Any]] = [{}, {"trunk": "full"}, {"trunk": "lora"}, {"trunk": "last_layers"}]
    for train in trunks:
        recipe = Recipe.from_mapping(merged(SMALL, {"train": train}))
        recorded = merged(SMALL, {"train": {**train, **every}})
        check_same(RunRecord(status="running", recipe=recorded, seed=0), recipe, tmp_path)
    given = merged(SMALL, {"train": {"lora": {"rank": 99}}})
    check_same(RunRecord(status="running", recipe=given, seed=0), Recipe.from_mapping(SMALL), tmp_path)
    used = RunRecord(status="running", recipe=merged(given, {"train": {"trunk": "lora"}}), seed=0)
    with pytest.raises(HyperseekError, match=r"they differ in: train\.lora\.rank\)"):
        check_same(used, Recipe.from_mapping(merged(SMALL, {"train": {"trunk": "lora"}})), tmp_path)
    vocabulary = {"vocabulary": VocabularyConfig().model_dump(mode="json")}
    for model in ({"tokenizer": "somewhere"}, {"tokenizer": "train"}):
        masked = merged({**MASKED, "model": {"architecture": "bert"}}, {"model": model})
        record = RunRecord(status="running", recipe=merged(masked, {"model": vocabulary}), seed=0)
        check_same(record, PretrainRecipe.from_mapping(masked), tmp_path)
