"""`hyperseek inspect queries`, `health` and `pool`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hyperseek.cli import app
from hyperseek.data import Dataset, write_beir, write_run
from hyperseek.index import Index
from hyperseek.models import load
from hyperseek.types import Document, Query


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture(scope="module")
def place(tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a collection `toys`, an index `index`, and a run `other.trec`."""
    folder = tmp_path_factory.mktemp("diagnose")
    texts = [
        "the cat and the dog",
        "a bird by the sea",
        "the moon and the sun",
        "a river in the city",
        "the moon and the sun",
    ]
    queries = [Query("q1", "cat dog"), Query("q2", "sea bird"), Query("q3", "moon sun")]
    qrels = {"q1": {"d0": 1}, "q2": {"d1": 2}, "q3": {"d2": 1, "d3": 0}}
    dataset = Dataset.from_records(
        "toys", [Document(f"d{n}", text) for n, text in enumerate(texts)], queries=queries, qrels={"test": qrels}
    )
    write_beir(dataset, folder / "toys")
    Index.build(folder / "index", dataset.documents(), load(tiny_encoder))
    write_run({"q1": {"d3": 2.0, "d0": 1.0}, "q2": {"d1": 1.0}, "q3": {"d4": 1.0}}, folder / "other.trec")
    return folder


def test_queries_of_an_index_a_run_and_bm25(place, tmp_path):
    given = ("inspect", "queries", place / "toys", "--index", place / "index", "--runs", place / "other.trec", "--bm25")
    result = run(*given, "--baseline", "BM25", "-m", "RR@10", "-k", 3, "--output", tmp_path)
    assert result.exit_code == 0, result.output
    assert "other.trec beside BM25: 0 queries win, 1 tie, 2 lose by RR@10" in result.stdout
    assert "Judged@3" in result.stdout
    assert str(tmp_path / "queries.html") in result.stderr
    told = run(*given, "--json")
    assert [system["system"] for system in json.loads(told.stdout)["systems"]] == ["other.trec", "BM25"]


def test_health_of_an_index(place):
    result = run("inspect", "health", place / "index", "--dataset", place / "toys", "-k", 5, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["duplicates"]["groups"] == [["d2", "d4"]]
    assert found["duplicates"]["queries"] >= 1
    assert [hubs["of"] for hubs in found["hubness"]] == ["documents", "queries"]
    assert "1 of 5 documents repeat another" in run("inspect", "health", place / "index").stdout


def test_a_pool_is_written_judged_and_merged(place, tmp_path):
    file = tmp_path / "pool.jsonl"
    result = run(
        "evaluate", place / "index", place / "toys", "--bm25", "-m", "RR@10", "--pool", file, "--pool-depth", 2
    )
    assert result.exit_code == 0, result.output
    assert f"wrote {file}: " in result.stderr
    items = [json.loads(line) for line in file.read_text().splitlines()]
    assert {item["grade"] for item in items} == {None}
    for name, grade in (("a.jsonl", 2), ("b.jsonl", 1)):
        (tmp_path / name).write_text("".join(json.dumps(item | {"grade": grade}) + "\n" for item in items))
    merged = run(
        "inspect",
        "pool",
        tmp_path / "a.jsonl",
        tmp_path / "b.jsonl",
        "--conflicts",
        "highest",
        "-o",
        tmp_path / "new.tsv",
    )
    assert merged.exit_code == 0, merged.output
    assert "documents with different grades: the highest grade" in merged.stdout
    assert (tmp_path / "new.tsv").read_text().splitlines()[1].endswith("\t2")
    assert "leave-out, lowest" in str(run("inspect", "pool", tmp_path / "a.jsonl", "--conflicts", "mean").exception)
    assert "a pool is of one set" in str(
        run("evaluate", place / "{set}", place / "{set}", "--sets", "toys", "--pool", file).exception
    )
