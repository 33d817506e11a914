"""What was saved before the source tree was restructured opens, and gives the numbers that were recorded then.

`fixtures/saved/make.py` says how the files came about. Only public names are used here, and the command line.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import hyperseek
from hyperseek.cli import app
from hyperseek.data import read_examples, read_prepared
from hyperseek.plan import as_plan
from hyperseek.scoring import load_scorer
from hyperseek.training import read_record

SAVED = Path(__file__).parent / "fixtures" / "saved"
EXPECTED = json.loads((SAVED / "expected.json").read_text(encoding="utf-8"))
QUERIES = EXPECTED["queries"]
TEXTS = [EXPECTED["text"], *QUERIES]
# What reads an engine of the kind, where that is an extra.
EXTRAS = {"hnsw": "faiss", "ivf": "faiss", "qdrant": "qdrant_client"}


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of everything, as the working directory: paths in the files are relative to it."""
    folder = tmp_path / "saved"
    shutil.copytree(SAVED, folder, copy_function=shutil.copyfile)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HYPERSEEK_CACHE", str(tmp_path / "cache"))
    return folder


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["--quiet", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def check_outputs(path: str, expected: dict[str, Any]) -> hyperseek.Retriever:
    """Load a model and compare what it says with what was recorded."""
    model = hyperseek.load(path, device="cpu")
    assert type(model).__name__ == expected["type"]
    assert model.space == hyperseek.Space.from_json(expected["space"])
    points = model.encode_documents(TEXTS, dtype="float32")
    close(points[:1].vectors, expected["embedding"])
    close(model.compile(QUERIES).score(points), expected["scores"])
    return model


def close(found: torch.Tensor, expected: list[list[float]]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-4)


def check_hits(found: list[list[tuple[str, float]]], expected: list[list[list[Any]]]) -> None:
    assert [[identity for identity, _ in hits] for hits in found] == [[hit[0] for hit in hits] for hits in expected]
    for hits, recorded in zip(found, expected, strict=True):
        assert [score for _, score in hits] == pytest.approx([hit[1] for hit in recorded], abs=1e-5, rel=1e-4)


@pytest.mark.parametrize("name", EXPECTED["models"])
def test_models_and_compiled_queries(saved: Path, name: str) -> None:
    expected = EXPECTED["models"][name]
    model = check_outputs(f"models/{name}", expected)
    points = model.encode_documents(TEXTS, dtype="float32")
    close(load_scorer(f"scorers/{name}.safetensors").score(points), expected["scores"])
    model.save("again")  # and it is saved as what it is
    check_outputs("again", expected)


@pytest.mark.parametrize("name", EXPECTED["indexes"])
def test_indexes_with_engines_graphs_and_plans(saved: Path, name: str) -> None:
    expected = EXPECTED["indexes"][name]
    index = hyperseek.Index.open(f"indexes/{name}", device="cpu", verify=True)
    queries = QUERIES if expected["vectors"] is None else torch.tensor(expected["vectors"])
    assert len(index) == len(list(index)) == expected["count"]
    k = len(expected["searches"][0]["hits"][0])
    for search in expected["searches"]:
        options = search["options"]
        if (extra := EXTRAS.get(options.get("engine"))) and importlib.util.find_spec(extra) is None:
            continue
        hits = index.search(queries, k=k, **options)
        check_hits([[(hit.id, hit.score) for hit in own] for own in hits], search["hits"])
    if expected["tuned"] is not None:
        assert index.explain(queries, k=k).plan == as_plan(expected["tuned"])


@pytest.mark.parametrize("name", [name for name, index in EXPECTED["indexes"].items() if index["vectors"] is None])
def test_an_index_of_whole_documents_is_what_it_was_before_passages(saved: Path, name: str) -> None:
    before = hyperseek.Index.open(f"indexes/{name}", device="cpu")
    index = hyperseek.Index.build("again", list(before), before.model, dtype="float32", passages=None)
    assert (index.passages, index.info.passages, before.passages) == (None, None, None)
    assert list(index) == list(before)
    for (ids, points), (old_ids, old_points) in zip(index.points(), before.points(), strict=True):
        assert ids == old_ids
        torch.testing.assert_close(points.rows, old_points.rows, atol=1e-5, rtol=1e-4)
    [exact, *_] = EXPECTED["indexes"][name]["searches"]
    assert exact["options"] == {"engine": "exact"}
    hits = index.search(QUERIES, k=len(exact["hits"][0]))
    check_hits([[(hit.id, hit.score) for hit in own] for own in hits], exact["hits"])
    assert all(hit.passages == () and hit.text == before[hit.id].text for own in hits for hit in own)


def test_an_index_is_searched_and_changed_from_the_command_line(saved: Path) -> None:
    [exact, *_] = EXPECTED["indexes"]["qnet"]["searches"]
    found = json.loads(run("search", "indexes/qnet", QUERIES[0], "-k", "4", "-f", "json", "--engine", "exact"))
    check_hits([[(hit["id"], hit["score"]) for hit in found[0]["hits"]]], exact["hits"][:1])
    Path("more.jsonl").write_text('{"_id": "more", "text": "cat sea"}\n', encoding="utf-8")
    run("update", "indexes/qnet", "--add", "more.jsonl", "--delete", "d2", "--compact", "--engine", "scan")
    index = hyperseek.Index.open("indexes/qnet", device="cpu")
    assert index["more"].text == "cat sea"
    assert "d2" not in index
    through, alone = (index.search(QUERIES[0], k=16, engine=engine) for engine in ("scan", "exact"))
    assert [hit.id for hit in through] == [hit.id for hit in alone]


def test_prepared_folders(saved: Path) -> None:
    for name, expected in EXPECTED["prepared"].items():
        assert len(read_prepared(name)) == len(expected)
        found = [
            {
                "query": example.query.text,
                "positives": [item.text for item in example.positives],
                "negatives": [item.text for item in example.negatives],
            }
            for example in read_examples(name)
        ]
        assert found == expected
    run("train", "train.yaml", 'data.sources={"own": {"source": "mined"}}', "train.max_steps=1", "--output", "new")
    assert read_record(Path("new")).steps == 1  # type: ignore[union-attr]


def test_runs(saved: Path) -> None:
    for name, expected in EXPECTED["runs"].items():
        check_outputs(name, expected)
    before = Path("trained/run.json").read_bytes()
    run("train", "train.yaml", "--output", "trained")  # which is finished
    assert Path("trained/run.json").read_bytes() == before
    run("train", "train.yaml", "--output", "stopped")
    check_outputs("stopped", EXPECTED["runs"]["trained"])
    stopped, whole = read_record(Path("stopped")), read_record(Path("trained"))
    assert stopped is not None
    assert whole is not None
    assert (stopped.status, stopped.steps, stopped.best_step) == ("finished", whole.steps, whole.best_step)
    assert stopped.training_data == whole.training_data


def test_a_pretraining_run_is_resumed(saved: Path) -> None:
    record = Path("pretrained/run.json")
    values = json.loads(record.read_text(encoding="utf-8"))
    record.write_text(json.dumps({**values, "status": "running"}), encoding="utf-8")
    run("pretrain", "pretrain.yaml", "train.max_steps=5", "--output", "pretrained")
    after = json.loads(record.read_text(encoding="utf-8"))
    assert (after["status"], after["steps"]) == ("finished", 5)
    assert after["validation"][0] == values["validation"][0]  # measured before, in that many seconds
