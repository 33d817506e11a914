"""Whole runs on a tiny model: saved, recorded, resumed after a kill."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hyperseek import HyperseekError
from hyperseek.data import open_dataset
from hyperseek.errors import DataError
from hyperseek.evaluation import trained_on
from hyperseek.models import load
from hyperseek.models.modules import shorter_dimensions
from hyperseek.runs.loop import ShowProgress
from hyperseek.training import Recipe, dry_run, read_record, train
from hyperseek.training._training_data import held_out_set, read_sources
from programs import Programs

MakeRecipe = Callable[..., Recipe]


def test_a_run_saves_a_model_and_its_record(
    make_recipe: MakeRecipe, collection: Path, tmp_path: Path, dev: dict[str, Any]
) -> None:
    recipe = make_recipe(validation={**dev, "interpolate": [0.5]}, losses={"anchor": {"weight": 0.1}})
    record = train(recipe, output=tmp_path / "run")
    assert record == read_record(tmp_path / "run")
    assert (record.status, record.steps, record.seed) == ("finished", 6, 0)
    assert Recipe.from_mapping(record.recipe) == recipe
    assert [entry.step for entry in record.validation] == [0, 2, 4, 6]
    assert record.best_step in (0, 2, 4, 6)
    assert record.seconds["training"] > 0
    assert record.document_fingerprint["before"] == record.document_fingerprint["after"]
    assert set(record.versions) >= {"torch", "hyperseek", "python"}
    dataset = open_dataset(collection)
    assert record.training_data["toy"]["fingerprint"] == dataset.fingerprint()
    assert trained_on(tmp_path / "run", dataset)[0] == {f"d{place}" for place in range(28)}
    retriever = load(tmp_path / "run", device="cpu")
    assert retriever.fingerprint == record.document_fingerprint["after"]
    assert retriever.compile(["cat dog"]).score(retriever.encode_documents(["sea sun"])).shape == (1, 1)


def test_what_is_held_out_is_validated_on_and_not_trained_on(
    make_recipe: MakeRecipe, collection: Path, tmp_path: Path
) -> None:
    recipe = make_recipe(
        data={"sources": {name: {"source": f"{collection}:train"} for name in ("toy", "again")}},
        validation={"holdout": 0.25, "holdout_documents": 20, "every": 3},
    )
    record = train(recipe, output=tmp_path / "run")
    assert [sorted(entry.scores) for entry in record.validation] == [["holdout", "mean"]] * 3
    assert [(use.examples, use.held_out) for use in record.sources.values()] == [(21, 7)] * 2
    assert record.training_data["toy"]["examples"] == 2 * 21
    seen = trained_on(tmp_path / "run", open_dataset(collection))[0]
    assert len(seen) == 21
    read = read_sources(recipe.data, seed=0, holdout=0.25)
    held_out = held_out_set(read, max_documents=20, seed=0)
    assert len(held_out.queries) == 7
    assert len(held_out.documents) == 20
    assert {query.query for query in read.training_set.examples}.isdisjoint(held_out.queries)
    for query, grades in zip(held_out.queries, held_out.grades, strict=True):
        assert {*query.split()} <= {*held_out.documents[next(iter(grades))].split()}
    again = read_sources(recipe.data, seed=1, holdout=0.25)
    assert {example.query for example in again.held_out} != {*held_out.queries}
    with pytest.raises(HyperseekError, match="rename the dev set"):
        make_recipe(validation={"holdout": 0.1, "sets": {"holdout": {"source": f"{collection}:dev"}}})


def test_the_saved_model_is_the_one_that_was_validated(
    make_recipe: MakeRecipe, collection: Path, tmp_path: Path, dev: dict[str, Any]
) -> None:
    recipe = make_recipe(
        validation={**dev, "interpolate": [0.3]}, train={**_train(make_recipe), "max_steps": 20, "learning_rate": 3e-3}
    )
    record = train(recipe, output=tmp_path / "run")
    assert record.best_step != 0
    assert record.share in (0.3, 1.0)
    retriever = load(tmp_path / "run", device="cpu")
    dataset = open_dataset(collection)
    documents = list(dataset.documents())
    points = retriever.encode_documents([document.full_text for document in documents], dtype="float32")
    queries = dataset.queries("dev")
    with torch.inference_mode():
        order = retriever.compile([query.text for query in queries]).score(points).argsort(dim=1, descending=True)
    gains = []
    for query, places in zip(queries, order.tolist(), strict=True):
        rank = [documents[place].id for place in places].index(f"d{query.id[1:]}") + 1
        gains.append(1 / torch.log2(torch.tensor(rank + 1.0)).item() if rank <= 10 else 0.0)
    assert sum(gains) / len(gains) == pytest.approx(record.final_scores["toy"], abs=1e-5)


def _train(make_recipe: MakeRecipe) -> dict[str, Any]:
    return make_recipe().train.model_dump(mode="json")


@pytest.mark.parametrize("trunk", ["full", "lora", "last_layers"])
def test_trained_trunks_are_saved_whole(make_recipe: MakeRecipe, tmp_path: Path, trunk: str) -> None:
    record = train(
        make_recipe(train={**_train(make_recipe), "trunk": trunk}, losses={"anchor": {"weight": 0.1}}),
        output=tmp_path / "run",
    )
    assert record.document_fingerprint["before"] != record.document_fingerprint["after"]
    assert load(tmp_path / "run", device="cpu").fingerprint == record.document_fingerprint["after"]


def test_a_linear_head_keeps_the_document_side(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe()
    model = {**recipe.model.model_dump(), "family": "dense", "linear": {"sides": "query"}}
    losses = {"anchor": {"weight": 0.1}, "matryoshka": {"dimensions": [16, 8]}}
    record = train(make_recipe(model=model, losses=losses), output=tmp_path / "run")
    assert record.document_fingerprint["before"] == record.document_fingerprint["after"]
    assert record.parameters == 32 * 32
    # The saved model says to which dimensions its vectors may be cut.
    saved = load(tmp_path / "run", device="cpu")
    assert [shorter_dimensions(saved.route(side)) for side in ("query", "document")] == [(8, 16), (8, 16)]
    # A head on top of it that is not trained so does not.
    wider = {**model, "trunk": str(tmp_path / "run"), "linear": {"sides": "both", "dimension": 24}}
    train(make_recipe(model=wider, losses={"own_cross_entropy": {}}), output=tmp_path / "wider")
    assert shorter_dimensions(load(tmp_path / "wider", device="cpu").route("document")) == ()


def test_a_finished_run_is_not_repeated_and_another_recipe_is_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    first = train(make_recipe(), output=tmp_path / "run")
    assert train(make_recipe(), output=tmp_path / "run") == first
    other = make_recipe(losses={"contrastive": {"temperature": 0.2}})
    with pytest.raises(HyperseekError, match=r"differ in: losses\.contrastive\."):
        train(other, output=tmp_path / "run")
    assert train(other, output=tmp_path / "run", resume=False).recipe != first.recipe


def test_two_runs_of_a_recipe_are_the_same(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    weights = []
    for name in ("a", "b"):
        train(make_recipe(), output=tmp_path / name)
        weights.append(_head(tmp_path / name))
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_the_untrained_model_wins_when_training_only_harms(
    make_recipe: MakeRecipe, tmp_path: Path, dev: dict[str, Any]
) -> None:
    recipe = make_recipe(
        validation={**dev, "patience": 2}, train={**_train(make_recipe), "max_steps": 50, "learning_rate": 10.0}
    )
    record = train(recipe, output=tmp_path / "run")
    assert record.best_step == 0
    assert record.steps == 4
    assert record.final_scores == record.validation[0].scores


def test_a_checkpoint_that_falls_on_one_set_cannot_be_the_best(
    make_recipe: MakeRecipe, tmp_path: Path, dev: dict[str, Any]
) -> None:
    sets = {**dev["sets"], "few": {**dev["sets"]["toy"], "max_queries": 3, "max_documents": 8}}
    recipe = make_recipe(
        validation={**dev, "sets": sets, "max_drop": 0.0, "every": 1},
        train={**_train(make_recipe), "learning_rate": 0.01, "max_steps": 12, "schedule": "constant", "warmup": 0},
    )
    record = train(recipe, output=tmp_path / "run")
    start = record.validation[0].scores
    for entry in record.validation:
        assert entry.eligible == all(entry.scores[name] >= start[name] for name in start)
    assert not all(entry.eligible for entry in record.validation)
    best = next(entry for entry in record.validation if entry.step == record.best_step)
    assert best.eligible
    assert best.scores["mean"] == max(entry.scores["mean"] for entry in record.validation if entry.eligible)


def test_anchor_only_queries_and_one_source_batches(make_recipe: MakeRecipe, collection: Path, tmp_path: Path) -> None:
    sources = {
        "toy": {"source": f"{collection}:train"},
        "others": {"source": f"{collection}:dev", "anchor_only": True, "repeat": 2},
    }
    record = train(
        make_recipe(data={"sources": sources, "batches": "one_source", "extra_documents": 4}, losses={"anchor": {}}),
        output=tmp_path / "run",
    )
    assert record.training_data["toy"]["relevant_documents"] == 28
    assert record.training_data["toy"]["examples"] == 28


def test_queries_without_any_document_are_refused(make_recipe: MakeRecipe, collection: Path, tmp_path: Path) -> None:
    sources = {"others": {"source": f"{collection}:dev", "anchor_only": True}}
    recipe = make_recipe(data={"sources": sources}, losses={"anchor": {}})
    for begin in (lambda: train(recipe, output=tmp_path / "run"), lambda: dry_run(recipe)):
        with pytest.raises(DataError, match=r"no document to score them with; set data\.extra_documents"):
            begin()


def test_mixed_precision_keeps_weights_in_float32(make_recipe: MakeRecipe, tmp_path: Path, dev: dict[str, Any]) -> None:
    recipe = make_recipe(
        train={**_train(make_recipe), "trunk": "full", "precision": "bfloat16", "mini_batch": 3}, validation=dev
    )
    train(recipe, output=tmp_path / "run")
    assert {value.dtype for value in _weights(tmp_path / "run").values()} == {torch.float32}
    assert not torch.equal(*(_bias(folder) for folder in (tmp_path / "run", Path(recipe.model.trunk))))


def test_ctrl_c_leaves_a_checkpoint_to_resume_from(
    make_recipe: MakeRecipe, tmp_path: Path, dev: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = make_recipe(
        train={**_train(make_recipe), "max_steps": 8, "schedule": "linear", "save_every": 100},
        validation={**dev, "every": 3},
    )
    advance = ShowProgress.on_step_end

    def press(self: ShowProgress, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 5:
            signal.raise_signal(signal.SIGINT)
        advance(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(ShowProgress, "on_step_end", press)
        with pytest.raises(KeyboardInterrupt, match=r"5 steps are stored in .*run the same command again to resume"):
            train(recipe, output=tmp_path / "stopped")
    resumed = train(recipe, output=tmp_path / "stopped")
    whole = train(recipe, output=tmp_path / "whole")
    assert resumed.status == "finished"
    assert [entry.scores for entry in resumed.validation] == [entry.scores for entry in whole.validation]
    left, right = _weights(tmp_path / "stopped"), _weights(tmp_path / "whole")
    assert all(torch.equal(left[name], right[name]) for name in left)


def _bias(folder: Path) -> torch.Tensor:
    return next(value for name, value in _weights(folder).items() if name.endswith("layer.1.output.dense.bias"))


def test_logs_for_tensorboard(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    train(
        make_recipe(output={"report_to": ["tensorboard"]}, train={**_train(make_recipe), "log_every": 2}),
        output=tmp_path / "run",
    )
    assert list((tmp_path / "run" / "logs").glob("events.*"))


_SCRIPT = """
import json, sys
from hyperseek.training import Recipe, train
train(Recipe.from_mapping(json.loads(sys.argv[1])), output=sys.argv[2])
"""


@pytest.mark.parametrize("trunk", ["full"])
def test_a_run_killed_at_any_moment_ends_with_the_same_weights(
    make_recipe: MakeRecipe, tmp_path: Path, dev: dict[str, Any], trunk: str, programs: Programs
) -> None:
    recipe = make_recipe(
        train={**_train(make_recipe), "trunk": trunk, "max_steps": 40, "schedule": "linear", "save_every": 3},
        validation={**dev, "every": 5},
    )
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    checkpoints = tmp_path / "killed" / "checkpoints"
    process = programs.start(
        ["-c", _SCRIPT, json.dumps(recipe.model_dump(mode="json")), str(tmp_path / "killed")], env=environment
    )
    limit = time.monotonic() + 120
    while not list(checkpoints.glob("checkpoint-*")) and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)
    time.sleep(random.Random().uniform(0, 0.3))
    process.kill()
    assert process.wait() == -signal.SIGKILL
    record = read_record(tmp_path / "killed")
    assert record is not None
    assert record.status == "running"
    resumed = train(recipe, output=tmp_path / "killed")
    whole = train(recipe, output=tmp_path / "whole")
    assert [entry.scores for entry in resumed.validation] == [entry.scores for entry in whole.validation]
    left, right = _weights(tmp_path / "killed"), _weights(tmp_path / "whole")
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_an_incomplete_checkpoint_is_passed_over(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    train(make_recipe(), output=tmp_path / "whole")
    partial = make_recipe(train={**_train(make_recipe), "max_steps": 4, "schedule": "constant"})
    constant = make_recipe(train={**_train(make_recipe), "schedule": "constant"})
    train(partial, output=tmp_path / "run")
    _unfinish(tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "checkpoint-9").mkdir()
    (tmp_path / "run" / "checkpoints" / "checkpoint-9" / "trainer_state.json").write_text('{"half')
    resumed = train(constant, output=tmp_path / "run")
    train(constant, output=tmp_path / "whole", resume=False)
    assert resumed.steps == 6
    whole = _head(tmp_path / "whole")
    assert all(torch.equal(value, whole[name]) for name, value in _head(tmp_path / "run").items())


def test_a_run_killed_after_its_last_step_takes_no_further_one(
    make_recipe: MakeRecipe, tmp_path: Path, dev: dict[str, Any]
) -> None:
    recipe = make_recipe(validation=dev)
    first = train(recipe, output=tmp_path / "run")
    before = _head(tmp_path / "run")
    _unfinish(tmp_path / "run")
    again = train(recipe, output=tmp_path / "run")
    assert again.steps == first.steps == 6
    assert [entry.scores for entry in again.validation] == [entry.scores for entry in first.validation]
    assert all(torch.equal(value, before[name]) for name, value in _head(tmp_path / "run").items())


def _unfinish(folder: Path) -> None:
    values = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**values, "status": "running"}))


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(path for path in folder.rglob("*.safetensors") if "checkpoints" not in path.parts)
    return {f"{path.relative_to(folder)}:{name}": value for path in files for name, value in load_file(path).items()}


def _head(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for name, value in _weights(folder).items() if "QNetHead" in name}
