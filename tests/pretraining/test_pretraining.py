"""Whole runs on a tiny model: learned, saved, resumed after a kill, shared by two processes, trained further."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hyperseek import HyperseekError
from hyperseek._machine import one_core
from hyperseek.data import Dataset, write_beir
from hyperseek.models import load
from hyperseek.pretraining import PretrainRecipe, pretrain
from hyperseek.training import Recipe, read_record, train
from hyperseek.types import Document, Query
from programs import Programs

MakeRecipe = Callable[..., PretrainRecipe]

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def model_section(make_recipe: MakeRecipe, **changes: Any) -> dict[str, Any]:
    values = make_recipe().model.model_dump()
    return {**values, "config": {**values["config"], **changes}}


def train_section(make_recipe: MakeRecipe, **changes: Any) -> dict[str, Any]:
    return {**make_recipe().train.model_dump(mode="json"), **changes}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "mlm" / "model.safetensors")


def assert_same(left: Path, right: Path) -> None:
    ours, theirs = weights(left), weights(right)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_pretraining_lowers_its_loss_and_saves_what_it_learned(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    learn = train_section(make_recipe, max_steps=300, learning_rate=3e-3, save_every=None, batch_size=16)
    model = model_section(make_recipe, **NO_DROPOUT)
    record = pretrain(make_recipe(model=model, train=learn, validation={"every": 150}), output=tmp_path / "run")
    assert record == read_record(tmp_path / "run")
    assert (record.status, record.steps, record.metric) == ("finished", 300, "loss")
    assert [entry.step for entry in record.validation] == [0, 150, 300]
    before, after = record.validation[0].scores, record.validation[-1].scores
    # Without the context, guessing one of 13 equally frequent words costs ln 13 = 2.56 nats.
    assert after["loss"] < 2.3 < 5 < before["loss"]
    assert after["accuracy"] > 0.2 > before["accuracy"]
    assert after["perplexity"] == pytest.approx(math.exp(after["loss"]))
    retriever = load(tmp_path / "run", device="cpu")
    assert retriever.fingerprint == record.document_fingerprint["after"]
    assert retriever.protocol()["max_length"] == {"query": 16, "document": 16}
    saved = {f"bert.{name}": tensor for name, tensor in load_file(tmp_path / "run" / "model.safetensors").items()}
    learned = weights(tmp_path / "run")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in learned.items() if name.startswith("bert."))


def test_two_runs_are_the_same_and_another_seed_is_not(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    for name in ("a", "b"):
        pretrain(make_recipe(), output=tmp_path / name)
    assert_same(tmp_path / "a", tmp_path / "b")
    pretrain(make_recipe(train=train_section(make_recipe, seed=1)), output=tmp_path / "c")
    with pytest.raises(AssertionError):
        assert_same(tmp_path / "a", tmp_path / "c")


def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Dropout included, over the end of an epoch, and with accumulated batches."""
    values = {"max_steps": 8, "batch_size": 32, "gradient_accumulation": 2, "save_every": 2}
    recipe = make_recipe(train=train_section(make_recipe, **values), validation={"every": 3})
    whole = pretrain(recipe, output=tmp_path / "whole")
    assert whole.validation[-1].step == 8
    # A constant schedule would not show where a run stopped short has another end.
    pretrain(recipe, output=tmp_path / "cut")
    for number in (6, 8):
        for file in (tmp_path / "cut" / "checkpoints").glob(f"checkpoint-{number}"):
            if number == 8:
                (file / "trainer_state.json").unlink()
    record = json.loads((tmp_path / "cut" / "run.json").read_text())
    (tmp_path / "cut" / "run.json").write_text(json.dumps({**record, "status": "running"}))
    (tmp_path / "cut" / "mlm" / "model.safetensors").unlink()
    again = pretrain(recipe, output=tmp_path / "cut")
    assert_same(tmp_path / "whole", tmp_path / "cut")
    assert [entry.scores for entry in again.validation] == [entry.scores for entry in whole.validation]


_KILLED = """
import json, sys
from hyperseek.pretraining import PretrainRecipe, pretrain
pretrain(PretrainRecipe.from_mapping(json.loads(sys.argv[1])), output=sys.argv[2])
"""


@pytest.mark.parametrize(("steps", "kills"), [(40, (3,)), pytest.param(120, (3, 30), marks=pytest.mark.slow)])
def test_a_killed_run_ends_like_an_uninterrupted_one(
    make_recipe: MakeRecipe, tmp_path: Path, steps: int, kills: tuple[int, ...], programs: Programs
) -> None:
    """On one core in both processes: sums over several threads round otherwise."""
    recipe = make_recipe(train=train_section(make_recipe, max_steps=steps, save_every=3))
    with one_core():
        pretrain(recipe, output=tmp_path / "whole")
    command = ["-c", _KILLED, json.dumps(recipe.model_dump(mode="json")), str(tmp_path / "cut")]
    for wanted in kills:
        process = programs.start(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        deadline = time.monotonic() + 100
        while process.poll() is None and time.monotonic() < deadline:
            saved = [
                int(path.name.rpartition("-")[2]) for path in (tmp_path / "cut" / "checkpoints").glob("checkpoint-*")
            ]
            if max(saved, default=0) >= wanted:
                break
            time.sleep(0.02)
        process.kill()
        assert process.wait() == -signal.SIGKILL, "the run was over before it could be killed"
    with one_core():
        pretrain(recipe, output=tmp_path / "cut")
    assert_same(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.slow  # the fast suite trains with two processes in tests/training/test_gather.py
def test_two_processes_learn_what_one_does(make_recipe: MakeRecipe, tmp_path: Path, programs: Programs) -> None:
    def recipe(batch_size: int) -> PretrainRecipe:
        return make_recipe(
            model=model_section(make_recipe, **NO_DROPOUT),
            train=train_section(make_recipe, batch_size=batch_size, gradient_accumulation=2, seed=7),
            validation={"every": 3, "batch_size": 5},
        )

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    values = json.dumps(recipe(4).model_dump(mode="json"))
    environment = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        programs.start(
            ["-c", _KILLED, values, str(tmp_path / "two")],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
        )
        for rank in (0, 1)
    ]
    assert [process.wait(200) for process in processes] == [0, 0]
    one, two = pretrain(recipe(8), output=tmp_path / "one"), read_record(tmp_path / "two")
    assert two is not None
    assert two.status == "finished"
    for left, right in zip(two.validation, one.validation, strict=True):
        assert left.scores == pytest.approx(right.scores, rel=1e-5)
    theirs = weights(tmp_path / "two")
    for name, tensor in weights(tmp_path / "one").items():
        torch.testing.assert_close(theirs[name], tensor, rtol=1e-3, atol=2e-6)


def test_an_accumulated_step_counts_every_hidden_token_once(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Batches of 4 with different numbers of hidden tokens, two to a step, learn what batches of 8 do."""
    found = []
    for size, accumulation in ((8, 1), (4, 2)):
        recipe = make_recipe(
            model=model_section(make_recipe, **NO_DROPOUT),
            train=train_section(make_recipe, max_steps=3, batch_size=size, gradient_accumulation=accumulation),
        )
        folder = tmp_path / str(size)
        pretrain(recipe, output=folder)
        found.append(weights(folder))
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-3, atol=2e-6)


@pytest.mark.parametrize(("architecture", "layer"), [("bert", "BertSelfAttention"), ("hyte_fh", "LorentzAttention")])
def test_recomputed_activations_change_nothing(
    make_recipe: MakeRecipe, tmp_path: Path, architecture: str, layer: str
) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    without = NO_DROPOUT if architecture == "bert" else {}
    model = {**model_section(make_recipe), "architecture": architecture, "config": {**sizes, **without}}
    for again in (False, True):
        calls: list[torch.nn.Module] = []

        def watch(module: torch.nn.Module, *_: Any, calls: list[torch.nn.Module] = calls) -> None:
            if type(module).__name__ == layer and module.training:
                calls.append(module)

        learn = train_section(make_recipe, max_steps=3, gradient_checkpointing=again)
        with torch.nn.modules.module.register_module_forward_pre_hook(watch):
            pretrain(make_recipe(model=model, train=learn), output=tmp_path / str(again))
        assert len(calls) == (6 if again else 3)
    assert_same(tmp_path / "False", tmp_path / "True")


def test_half_precision_learns_the_same_to_its_precision(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    losses = []
    for precision in ("float32", "bfloat16"):
        recipe = make_recipe(
            model=model_section(make_recipe, **NO_DROPOUT),
            train=train_section(make_recipe, precision=precision, learning_rate=3e-3, max_steps=20),
        )
        record = pretrain(recipe, output=tmp_path / precision)
        losses.append(record.validation[-1].scores["loss"])
        assert {tensor.dtype for tensor in weights(tmp_path / precision).values()} == {torch.float32}
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "hyte_fh"])
def test_the_encoder_starts_contrastive_training(make_recipe: MakeRecipe, tmp_path: Path, architecture: str) -> None:
    model = model_section(make_recipe)
    model["architecture"] = architecture
    if architecture == "hyte_fh":
        model["config"] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "pooling": "mean"}
    pretrain(make_recipe(model=model), output=tmp_path / "encoder")
    dataset = Dataset.from_records(
        "toy",
        [Document(f"d{place}", text) for place, text in enumerate(("cat dog", "sea sun", "net page", "moon tree"))],
        queries=[Query(f"q{place}", text) for place, text in enumerate(("dog", "sun", "page", "tree"))],
        qrels={"train": {f"q{place}": {f"d{place}": 1} for place in range(4)}},
    )
    write_beir(dataset, tmp_path / "toy")
    recipe = Recipe.from_mapping(
        {
            "model": {"trunk": str(tmp_path / "encoder")},
            "data": {"sources": {"toy": {"source": f"{tmp_path / 'toy'}:train"}}},
            "losses": {"contrastive": {}},
            "train": {"trunk": "full", "max_steps": 2, "batch_size": 4, "device": "cpu", "cache": {"enabled": False}},
            "output": {"report_to": []},
        }
    )
    record = train(recipe, output=tmp_path / "run")
    encoder = read_record(tmp_path / "encoder")
    assert encoder is not None
    assert record.document_fingerprint["before"] == encoder.document_fingerprint["after"]
    assert record.document_fingerprint["after"] != record.document_fingerprint["before"]


def test_pretraining_goes_on_from_an_earlier_model(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    first = pretrain(make_recipe(), output=tmp_path / "first")
    more = make_recipe(model={"start": str(tmp_path / "first"), "architecture": None, "config": {}, "tokenizer": None})
    second = pretrain(more, output=tmp_path / "second")
    assert second.validation[0].scores == first.validation[-1].scores


def test_a_finished_run_is_not_repeated_and_another_recipe_is_refused(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    first = pretrain(make_recipe(), output=tmp_path / "run")
    assert pretrain(make_recipe(), output=tmp_path / "run") == first
    other = make_recipe(masking={"train": 0.2})
    with pytest.raises(HyperseekError, match="differ in: masking"):
        pretrain(other, output=tmp_path / "run")
    assert pretrain(other, output=tmp_path / "run", resume=False).recipe != first.recipe


def test_changed_texts_are_noticed(make_recipe: MakeRecipe, text_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.jsonl"
    copy.write_text(text_file.read_text())
    data = make_recipe().data.model_dump()
    data["sources"]["toy"]["source"] = str(copy)
    pretrain(make_recipe(data=data), output=tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps({**record, "status": "running"}))
    copy.write_text(text_file.read_text() + '{"body_text": "one more"}\n')
    with pytest.raises(HyperseekError, match="texts or the tokenizer have changed"):
        pretrain(make_recipe(data=data), output=tmp_path / "run")
