"""Every folder of our own making, damaged in many ways: our errors only, at once, and in little memory."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hyperseek.data import ExampleItem, TrainingExample, read_prepared, trained_documents, write_examples
from hyperseek.evaluation import Evaluation, Protocol
from hyperseek.models import ModelConfig, build, import_hypencoder, load
from hyperseek.pretraining._recipe import TextSourceConfig, VocabularyConfig
from hyperseek.pretraining._texts import make_tokenizer, open_texts
from hyperseek.pretraining._token_rows import token_cache
from hyperseek.runs.loop import Reached, finish_checkpoint, last_checkpoint
from hyperseek.runs.record import RunRecord, Validated, read_record
from hyperseek.scoring import QNetScorer, Space, VectorPoints, load_scorer
from hyperseek.training._cache import Shard, ShardStore, content_key
from hyperseek.types import Query

sys.path.append(str(Path(__file__).parent))  # for `damaging`
from damaging import check_survives

Action = Callable[[], object]


def q_net(folder: Path, encoder: str) -> Action:
    build(ModelConfig.from_mapping({"trunk": encoder, "family": "qnet"}), device="cpu").save(folder)
    return lambda: load(folder, device="cpu").encode_documents(["a cat", "", "dog " * 200])


def encoder_alone(folder: Path, encoder: str) -> Action:
    shutil.copytree(encoder, folder)
    return lambda: load(folder, device="cpu").compile(["a cat"])


def original(folder: Path, encoder: str) -> Action:
    shutil.copytree(encoder, folder)
    tensors = {
        f"query_encoder.transformer.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()
    }
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    side = {"model_name_or_path": encoder, "pooling_type": "cls"}
    (folder / "config.json").write_text(
        json.dumps({"query_encoder_kwargs": side, "passage_encoder_kwargs": side, "shared_encoder": True})
    )
    return lambda: import_hypencoder(folder)


def prepared(folder: Path, encoder: str) -> Action:
    examples = [
        TrainingExample(
            Query(f"a/q{number}", "what is it", {"level": 1}),
            (ExampleItem(f"a/d{number}", f"text {number}", 1.5, 2),),
            (ExampleItem("a/d0", "text 0"),) if number else (),
            "a",
            "task",
        )
        for number in range(5)
    ]
    write_examples(examples, folder)

    def read() -> None:
        found = read_prepared(folder)
        list(found.examples())
        list(found.documents())
        found.info.dropped.lines()
        trained_documents(folder)

    return read


def record(folder: Path, encoder: str) -> Action:
    folder.mkdir()
    scores = {"dev": 0.5, "mean": 0.5}
    RunRecord(
        status="finished",
        recipe={"model": {"trunk": "minilm"}},
        seed=1,
        validation=(Validated(step=0, seconds=0.0, scores=scores), Validated(step=3, seconds=1.0, scores=scores)),
        best_step=3,
        interpolation={"0.5": scores},
        share=0.5,
    ).write(folder)
    Reached(seconds=1.0, history=(Validated(step=0, seconds=0.0, scores=scores),)).write(folder)

    def read() -> None:
        found = read_record(folder)
        assert found is None or found.final_scores.keys() >= set()
        Reached.read(folder)

    return read


def evaluation(folder: Path, encoder: str) -> Action:
    values = {"RR": {"q1": 1.0, "q2": 0.5}}
    protocol = Protocol(qrels="f", system={"prompts": {}}, k=3)
    Evaluation(name="x", per_query=values, aggregate={"RR": 0.75}, protocol=protocol).save(folder / "evaluation.json")

    def read() -> None:
        found = Evaluation.load(folder / "evaluation.json")
        found.over(found.queries)
        found.by_slice()

    return read


def scorer(folder: Path, encoder: str) -> Action:
    kwargs = {"vector_dimensions": [4, 4, 1]}
    matrices = [torch.randn(2, 4, 4), torch.randn(2, 4, 1)]
    QNetScorer(
        Space("dot", 4), matrices, [torch.randn(2, 4, 1)], converter="repeated_dense_block", converter_kwargs=kwargs
    ).save(folder / "x.scorer")
    return lambda: load_scorer(folder / "x.scorer").score(VectorPoints(torch.eye(4)))


def feature_cache(folder: Path, encoder: str) -> Action:
    keys = [content_key(str(number)) for number in range(20)]
    store = ShardStore(folder)
    for part in (keys[:10], keys[10:]):
        vectors = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
        parts = {"sentence_embedding": vectors, "token_embeddings": np.zeros((30, 2), np.float16)}
        store.add(Shard(part, parts, np.arange(0, 31, 3)))

    def read() -> None:
        known = [key for key in keys if key in (found := ShardStore(folder))]
        if known:
            assert found.rows("sentence_embedding", known).shape[0] == len(known)
            assert len(found.ragged("token_embeddings", known)) == len(known)

    return read


def tokens(folder: Path, encoder: str) -> Action:
    texts = [f"the cat {number} and the dog" for number in range(60)]
    file = folder.parent / "texts.txt"
    file.write_text("\n\n".join(texts))
    tokenizer = make_tokenizer(iter(texts), VocabularyConfig(size=300))
    source = open_texts("a", TextSourceConfig(source=str(file)))

    def read() -> None:
        found = token_cache([source], tokenizer, length=16, validation_share=0.2, folder=folder, part_tokens=200)
        for rows in (found.train, found.validation):
            assert all(len(rows[row]) == 16 for row in range(len(rows)))

    read()
    return read


def checkpoints(folder: Path, encoder: str) -> Action:
    for step in (2, 10):
        place = folder / f"checkpoint-{step}"
        place.mkdir(parents=True)
        for name in ("trainer_state.json", "optimizer.pt", "trainable.safetensors"):
            (place / name).write_bytes(bytes(range(100)))
        finish_checkpoint(place)

    def read() -> None:
        found = last_checkpoint(folder)
        assert found is not None
        assert sorted(path.name for path in found.iterdir())[0] == "files.json"

    return read


CHEAP = [prepared, record, evaluation, scorer, feature_cache, tokens, checkpoints]
MODELS = [q_net, encoder_alone, original]


@pytest.mark.parametrize("kind", CHEAP)
def test_damage_ends_in_errors_of_ours(kind: Callable[[Path, str], Action], tiny_encoder: str, tmp_path: Path) -> None:
    check_survives(tmp_path / "folder", kind(tmp_path / "folder", tiny_encoder), times=100)


@pytest.mark.parametrize("kind", MODELS)
def test_damaged_models_end_in_errors_of_ours(
    kind: Callable[[Path, str], Action], tiny_encoder: str, tmp_path: Path
) -> None:
    check_survives(tmp_path / "folder", kind(tmp_path / "folder", tiny_encoder), times=34)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", [*CHEAP, *MODELS])
def test_much_damage(kind: Callable[[Path, str], Action], tiny_encoder: str, tmp_path: Path) -> None:
    check_survives(tmp_path / "folder", kind(tmp_path / "folder", tiny_encoder), times=2000, seed=1)


def test_the_newest_whole_checkpoint_is_taken(
    tiny_encoder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints(tmp_path / "all", tiny_encoder)
    newest = tmp_path / "all" / "checkpoint-10"
    assert last_checkpoint(tmp_path / "all") == newest
    (newest / "optimizer.pt").write_bytes((newest / "optimizer.pt").read_bytes()[:50])
    (tmp_path / "all" / "checkpoint-x").mkdir()
    assert last_checkpoint(tmp_path / "all") == tmp_path / "all" / "checkpoint-2"
    assert "deleting the unusable checkpoint" in caplog.text
    assert "its file optimizer.pt is damaged" in caplog.text
    assert not newest.exists()


def test_checkpoints_of_earlier_versions_are_resumed_from(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They have no list of their files; what a kill or a full disk cut short is passed over all the same."""
    for step in (1, 2, 3, 4, 5):
        place = tmp_path / f"checkpoint-{step}"
        place.mkdir()
        torch.save({"a": torch.ones(100)}, place / "optimizer.pt")
        save_file({"a": torch.ones(100)}, place / "trainable.safetensors")
        (place / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    (tmp_path / "checkpoint-5" / "trainer_state.json").unlink()
    (tmp_path / "checkpoint-4" / "trainer_state.json").write_text('{"global')
    for number, name in ((3, "optimizer.pt"), (2, "trainable.safetensors")):
        file = tmp_path / f"checkpoint-{number}" / name
        file.write_bytes(file.read_bytes()[:-50])
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-1"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert "checkpoint-1, of an earlier version, has no checksums" in caplog.text


def test_changed_weights_are_not_loaded_in_silence(tiny_encoder: str, tmp_path: Path) -> None:
    q_net(tmp_path / "model", tiny_encoder)
    for file in (tmp_path / "model").rglob("*.safetensors"):
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(Exception, match="is damaged: its content is not what was written, by its checksum"):
            load(tmp_path / "model", device="cpu")
        file.write_bytes(whole)
    load(tmp_path / "model", device="cpu")
