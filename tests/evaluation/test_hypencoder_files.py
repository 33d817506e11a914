from __future__ import annotations

import json

import pytest

from hyperseek.evaluation import Evaluation, Protocol, aggregate, calculate
from hyperseek.evaluation._export import write_hypencoder_files


@pytest.fixture
def evaluation(retrieval_golden, metrics_golden) -> Evaluation:
    values = calculate(retrieval_golden["run"], metrics_golden["qrels"], "hypencoder")
    return Evaluation(name="x", per_query=values, aggregate=aggregate(values), protocol=Protocol(qrels="f"))


def test_files_equal_the_originals(evaluation, retrieval_golden, metrics_golden, golden, tmp_path):
    run = {query: dict(list(ranking.items())[:5]) for query, ranking in retrieval_golden["run"].items()}
    queries = {row["id"]: row["text"] for row in retrieval_golden["queries"]}
    documents = {row["id"]: row["text"] for row in retrieval_golden["docs"]}
    write_hypencoder_files(tmp_path, evaluation, run, queries=queries, documents=documents)

    sample = (golden / "hypencoder/retrieval/retrieved_items.sample.jsonl").read_text()
    assert (tmp_path / "retrieved_items.jsonl").read_text().splitlines()[0] == sample.splitlines()[0]
    readable = (tmp_path / "retrieved_items.txt").read_text()
    first = "Query: neural and the weights is (q0)\n\t1. small search concussion are (d298) - 4.426910400390625\n\t2. "
    assert readable.startswith(first)
    assert readable.count(f"\n\n{'-' * 80}\n\n") == 6
    assert json.loads((tmp_path / "metrics/aggregated_metrics.json").read_text()) == pytest.approx(
        metrics_golden["aggregated"], abs=1e-9
    )
    by_query = json.loads((tmp_path / "metrics/per_query_metrics.json").read_text())
    assert by_query == {query: pytest.approx(row, abs=1e-9) for query, row in metrics_golden["per_query"].items()}
    assert (tmp_path / "metrics/aggregated_metrics.txt").read_text() == (
        "nDCG@10,nDCG@5,P@10,P@5,R@10,RR,R@1000,RR@10,\n23.23,14.35,15.71,14.29,35.24,45.24,65.71,45.24,\n"
    )


def test_without_texts(evaluation, tmp_path):
    run = {"q0": {"d1": 0.5, "d2": 0.75}}
    write_hypencoder_files(tmp_path, evaluation, run, queries={"q0": "é"}, kind="bm25")
    line = '{"query": {"content": "\\u00e9", "id": "q0"}, "items": [{"id": "d2", "score": 0.75, "type": "bm25"}, '
    assert (tmp_path / "retrieved_items.jsonl").read_text().startswith(line)
