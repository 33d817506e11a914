"""`hyperseek evaluate --mteb`, in mteb's runner, on a collection of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hyperseek.cli import app
from hyperseek.data import Dataset, write_beir
from hyperseek.types import Document, Query

pytest.importorskip("mteb")
pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning:mteb"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    words = ["cat", "dog", "bird", "fish", "sea", "sun", "moon", "star"]
    documents = [Document(f"d{word}", f"the {word} and the {word}") for word in words]
    queries = [Query(word, f"a {word}") for word in words]
    dataset = Dataset.from_records(
        "words", documents, queries=queries, qrels={"test": {word: {f"d{word}": 1} for word in words}}
    )
    write_beir(dataset, tmp_path / "words")
    return tmp_path / "words"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", "--mteb", *map(str, arguments)])


def test_a_summary_is_printed_and_kept(tiny_encoder: str, place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    result = run(tiny_encoder, place, "--output", folder, "--name", "ours/tiny", "--predictions", "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary == json.loads((folder / "aggregate_summary.json").read_text())
    assert (summary["num_tasks"], summary["per_task"][0]["task"]) == (1, "local-words")
    assert len(list(folder.glob("results/ours__tiny/*/local-words.json"))) == 1
    assert list((folder / "predictions").rglob("*.json"))
    assert "mean of tasks" in result.stderr


def test_a_task_that_fails_is_named_and_the_others_are_measured(tiny_encoder: str, place: Path, tmp_path: Path) -> None:
    result = run(tiny_encoder, "SciFact", f"local:{place}", "--output", tmp_path / "out")
    assert isinstance(result.exception, Exception)
    assert "1 of 2 tasks failed" in str(result.exception)
    assert "SciFact: ConnectionError" in str(result.exception)
    summary = json.loads((tmp_path / "out/aggregate_summary.json").read_text())
    assert (summary["num_tasks"], list(summary["failed"])) == (1, ["SciFact"])


def test_candidates_belong_to_one_collection(tiny_encoder: str, place: Path, tmp_path: Path) -> None:
    lists = tmp_path / "lists.jsonl"
    rows = [{"query-id": query, "corpus-ids": ["dcat", "ddog"]} for query in ("cat", "dog")]
    lists.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run(tiny_encoder, place, "--candidates", lists, "--output", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["per_task"][0]["task_type"] == "Reranking"
    refused = run(tiny_encoder, "SciFact", "--candidates", lists, "--output", tmp_path / "other")
    assert "candidates belong to one collection, and 0 are named" in str(refused.exception)
