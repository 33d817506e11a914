"""From questions to contexts, answers, judgements and files: resumed after stops, with nothing missing in silence."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hyperseek.cli import app
from hyperseek.errors import DataError, InputError, MissingExtraError, ModelError, ProtocolError, UnknownNameError
from hyperseek.evaluation import (
    EndpointGenerator,
    GenerationOptions,
    RagSample,
    evaluate_rag,
    load_generator,
    read_samples,
    retrieve_contexts,
)


def test_contexts_are_of_the_index(index, questions):
    samples = retrieve_contexts(index, questions, k=2)
    assert [sample.id for sample in samples] == ["q0", "q1", "q2"]
    found = index.search("fish in the sea", k=2)
    assert samples[1].retrieved_context_ids == tuple(hit.id for hit in found)
    assert samples[1].retrieved_contexts == tuple(hit.text for hit in found)
    assert samples[1].reference_context_ids == ("d1", "d3")
    assert [sample.references for sample in samples] == [("the cat and the dog",), ("fish",), ()]
    assert len(retrieve_contexts(index, questions, questions=1)) == 1
    for wrong in ({"questions": 0}, {"context": "page"}, {"k": 0}, {"split": "dev"}):
        with pytest.raises(InputError):
            retrieve_contexts(index, questions, **wrong)


def test_contexts_of_passages_are_passages_or_whole_documents(questions, tiny_encoder, tmp_path):
    from hyperseek import Index, load
    from hyperseek.types import Document

    text = " ".join(["the cat and the dog"] * 40 + ["fish in the sea"] * 40)
    passages = Index.build(tmp_path / "p", [Document("d1", text)], load(tiny_encoder), passages=True)
    assert passages.passages > 1
    part = retrieve_contexts(passages, questions, k=1)[1].retrieved_contexts[0]
    whole = retrieve_contexts(passages, questions, k=1, context="document")[1].retrieved_contexts[0]
    assert whole == text
    assert part in text
    assert len(part) < len(text)


def test_answers_are_generated_once_and_counted(index, questions, server, tmp_path):
    generator = EndpointGenerator("small", url=server.url, key="secret")
    systems = {"a": retrieve_contexts(index, questions, k=2), "b": retrieve_contexts(index, questions, k=2)}
    report = evaluate_rag(systems, generator=generator, prices=(1.0, 2.0), output=tmp_path / "out")
    assert len(server.requests) == 3  # the two systems have the same prompts
    headers, body = server.requests[0]
    assert headers["Authorization"] == "Bearer secret"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("small", 0, 512)
    assert body["messages"][0]["content"].startswith("Based on the following context, answer the question.")
    result = report.result("a")
    assert result.usage.model_dump(exclude={"seconds"}) == {
        "answers": 3, "prompt_tokens": 30, "completion_tokens": 12, "cost": pytest.approx(54e-6)
    }  # fmt: skip
    assert result.values["token_f1"] == {"q0": 0.0, "q1": 0.5}
    assert result.values["abstention"] == dict.fromkeys(("q0", "q1", "q2"), 0.0)
    # Measures of the same questions are compared together; those of answers have fewer.
    assert [section.queries for one in report.comparisons for section in one.sections] == [3, 2]
    assert all(row.difference in (None, 0) for one in report.comparisons for row in one.sections[0].rows)
    # Another run asks nothing; another prompt asks anew.
    kept = (tmp_path / "out/answers.jsonl").read_text()
    assert "secret" not in kept
    evaluate_rag(systems, generator=generator, output=tmp_path / "out")
    assert len(server.requests) == 3
    other = GenerationOptions(prompt="{question} {contexts}", temperature=0.5, top_p=0.9)
    evaluate_rag(systems, generator=EndpointGenerator("small", url=server.url, options=other), output=tmp_path / "out")
    assert len(server.requests) == 6
    assert server.requests[-1][1]["top_p"] == 0.9


def test_a_stopped_run_goes_on_where_it_was(index, questions, server, tmp_path):
    samples = {"a": retrieve_contexts(index, questions, k=1)}
    generator = EndpointGenerator("small", url=server.url, at_once=1, retries=0)
    server.statuses = [200, 500, 500]
    with pytest.raises(ModelError, match="answers 500"):
        evaluate_rag(samples, generator=generator, output=tmp_path)
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 1
    with (tmp_path / "answers.jsonl").open("a") as file:
        file.write('{"key": "torn')  # by a kill
    server.statuses, before = [], len(server.requests)
    evaluate_rag(samples, generator=generator, output=tmp_path)
    assert len(server.requests) == before + 2
    evaluate_rag(samples, generator=generator, output=tmp_path)
    assert len(server.requests) == before + 2


def test_questions_that_are_refused_are_shown(index, questions, server):
    server.statuses = [400]
    generator = EndpointGenerator("small", url=server.url, at_once=1)
    report = evaluate_rag({"a": retrieve_contexts(index, questions, k=1)}, generator=generator)
    result = report.result("a")
    assert "answers 400" in result.failed["response"]["q0"]
    assert result.samples[0].response is None
    assert set(result.values["abstention"]) == {"q1", "q2"}
    assert "a: response failed for 1 questions, such as q0" in report.to_markdown()


class RecordedJudge:
    """Says what was recorded: numbers, NaN, or an exception; and counts what it is asked."""

    name, fingerprint, at_once = "recorded", "r", 2
    measures = ("faithfulness", "context_recall")

    def __init__(self, answers):
        self.answers, self.asked = answers, 0

    async def judge(self, measure, fields):
        self.asked += 1
        answer = self.answers[measure, fields["user_input"]]
        if isinstance(answer, Exception):
            raise answer
        return answer


RECORDED = {
    ("faithfulness", "the cat"): 0.25,
    ("faithfulness", "fish in the sea"): math.nan,
    ("faithfulness", "a star"): ValueError("the answer is no JSON"),
    ("context_recall", "the cat"): 1.0,
    ("context_recall", "fish in the sea"): 0.0,
}


def test_what_a_judge_does_not_say_is_counted_and_shown(index, questions, tmp_path):
    samples = [one.model_copy(update={"response": "fish"}) for one in retrieve_contexts(index, questions, k=1)]
    judge = RecordedJudge(RECORDED)
    report = evaluate_rag({"a": samples}, judge=judge, output=tmp_path)
    assert judge.asked == 5  # the third question has no reference
    summary = report.result("a").summary()
    assert summary["faithfulness"] == {"mean": 0.25, "questions": 1, "nan": 1, "failed": 1}
    assert summary["context_recall"] == {"mean": 0.5, "questions": 2, "nan": 0, "failed": 0}
    shown = report.to_markdown()
    assert "| faithfulness | 0.2500 (1 NaN, 1 failed) | 1 |" in shown
    assert "such as q2: ValueError: the answer is no JSON" in shown
    assert "context_recall was not asked for 1 of 3 questions" in shown
    rows = [json.loads(line) for line in (tmp_path / "a/ragas_scores.jsonl").read_text().splitlines()]
    assert [row["faithfulness"] for row in rows] == [0.25, None, None]
    assert rows[2]["reasons"] == {"faithfulness": "ValueError: the answer is no JSON"}
    means = json.loads((tmp_path / "a/ragas_metrics_summary.json").read_text())
    assert means["faithfulness"] == 0.25
    assert means["counts"]["faithfulness"] == {"questions": 1, "nan": 1, "failed": 1}
    assert json.loads((tmp_path / "rag.json").read_text())["systems"]["a"]["nan"]["faithfulness"].keys() == {"q1"}
    assert report.to_pandas().shape[0] == 3
    # Everything is kept, failures too, until they are asked for again.
    again = RecordedJudge({**RECORDED, ("faithfulness", "a star"): 0.75})
    evaluate_rag({"a": samples}, judge=again, output=tmp_path)
    assert again.asked == 0
    report = evaluate_rag({"a": samples}, judge=again, again=True, output=tmp_path)
    assert again.asked == 2
    assert report.result("a").values["faithfulness"] == {"q0": 0.25, "q2": 0.75}


def test_no_number_at_all_is_no_mean(index, questions):
    samples = [one.model_copy(update={"response": "fish"}) for one in retrieve_contexts(index, questions, k=1)]
    report = evaluate_rag({"a": samples}, judge=RecordedJudge(dict.fromkeys(RECORDED, math.nan)))
    assert report.result("a").summary()["faithfulness"] == {"mean": None, "questions": 0, "nan": 3, "failed": 0}
    assert "| faithfulness | none (3 NaN) | 0 |" in report.to_markdown()


def test_judged_measures_are_compared_over_questions_that_both_have(index, questions):
    samples = [one.model_copy(update={"response": "fish"}) for one in retrieve_contexts(index, questions, k=1)]

    class ByContext(RecordedJudge):
        async def judge(self, measure, fields):
            return math.nan if fields["retrieved_contexts"] == ["other"] else 0.5

    others = [one.model_copy(update={"retrieved_contexts": ("other",)} if not place else {})
              for place, one in enumerate(samples)]  # fmt: skip
    report = evaluate_rag({"a": samples, "b": others}, judge=ByContext({}))
    compared = next(one for one in report.comparisons if "faithfulness" in one.measures)
    assert compared.sections[0].queries == 2
    assert "a composite" not in report.to_markdown()


def test_systems_must_have_the_same_questions(index, questions):
    samples = retrieve_contexts(index, questions, k=1)
    with pytest.raises(ProtocolError, match="--allow-unlike"):
        evaluate_rag({"a": samples, "b": samples[:2]})
    assert evaluate_rag({"a": samples, "b": samples[:2]}, allow_unlike=True).comparisons[0].sections[0].queries == 2
    for wrong in ({}, {"a": []}, {"a": [samples[0], samples[0]]}):
        with pytest.raises(InputError):
            evaluate_rag(wrong)


def test_samples_of_a_table(write_lines):
    path = write_lines(
        "answers.jsonl",
        [
            {"user_input": "who", "response": "a cat", "retrieved_contexts": ["A cat."], "reference": "the cat"},
            {"user_input": "where", "retrieved_contexts": ["x", "y"], "retrieved_context_ids": ["1", "2"],
             "reference_context_ids": ["2"]},
        ],
    )  # fmt: skip
    first, second = read_samples(path)
    assert (first.id, first.response, first.references) == ("1", "a cat", ("the cat",))
    assert len(first.retrieved_context_ids) == 1
    assert second.reference_context_ids == ("2",)
    values = evaluate_rag({"file": [first, second]}).result("file").values
    assert values["exact_match"] == {"1": 1.0}
    assert values["evidence_recall"] == {"2": 1.0}
    with pytest.raises(DataError, match="retrieved_context_ids"):
        read_samples(write_lines("bad.jsonl", [{"user_input": "who", "retrieved_contexts": ["x"],
                                                "retrieved_context_ids": ["1", "2"]}]))  # fmt: skip


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"prompt": "{question}"}, "{contexts}"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 3}, "max_new_tokens"),
    ],
)
def test_options_of_generation_are_checked(given, error):
    with pytest.raises(InputError, match=error):
        GenerationOptions.from_mapping(given)


def test_a_context_may_hold_the_names_of_places():
    assert (
        GenerationOptions(prompt="{contexts}|{question}").filled("q", ["{question}", "b"])
        == "[1] {question}\n\n[2] b|q"
    )


def test_generators_are_found(tmp_path, tiny_encoder, monkeypatch):
    for name in ("no/such/model", "nothing", str(tmp_path), __file__):
        with pytest.raises(ModelError):
            load_generator(name)
    (tmp_path / "package").mkdir()
    (tmp_path / "package/__init__.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "package/small.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    found = load_generator("package")
    assert found._folder == str(tmp_path / "package")
    with pytest.raises((ModelError, MissingExtraError), match=r"the generator 'package'|gguf"):
        found.generate("x")
    with pytest.raises(InputError, match="unencrypted"):
        EndpointGenerator("m", url="http://example.com/v1", key="secret")
    with pytest.raises(InputError, match="at_once"):
        EndpointGenerator("m", url="http://localhost/v1", at_once=0)


def run(*arguments: object):
    return CliRunner().invoke(app, ["evaluate", "--rag", *map(str, arguments)])


def test_the_command(index, questions, server, tmp_path, write_lines, monkeypatch):
    monkeypatch.setenv("HYPERSEEK_GENERATOR_KEY", "secret")
    plan = tmp_path / "words.yaml"
    plan.write_text("stages:\n- {kind: full_text, n: 3}\n")
    shown = run(
        tmp_path / "sea.index", tmp_path / "sea", "-k", 2, "--plan", plan, "--generator", "small",
        "--generator-url", server.url, "--output", tmp_path / "out",
    )  # fmt: skip
    assert shown.exit_code == 0, shown.output
    for part in ("evidence_recall", "token_f1", "words", "3 answers, 30 tokens of prompts", "p permutation"):
        assert part in shown.output
    assert server.requests[0][0]["Authorization"] == "Bearer secret"
    assert (tmp_path / "out/rag.md").is_file()
    scores = tmp_path / "out/words/ragas_scores.jsonl"
    # What was written is measured again as it is.
    again = run("--answers", scores, "--json")
    assert again.exit_code == 0, again.output
    measured = json.loads(again.stdout)["systems"]["ragas_scores.jsonl"]["metrics"]
    before = json.loads((tmp_path / "out/rag.json").read_text())["systems"]["words"]["metrics"]
    assert measured["evidence_recall"] == before["evidence_recall"]
    assert measured["rouge_l"] == before["rouge_l"]


def test_ragbench_is_encoded_in_passages_and_measured_by_its_sentences(write_lines, tiny_encoder, tmp_path):
    sea = " ".join(["the cat and the dog with a bird."] * 10)
    rows = [
        {"id": "1", "question": "fish", "documents": [sea + " fish in the sea.", "the moon."],
         "documents_sentences": [[["0a", sea], ["0b", "fish in the sea."]], [["1a", "the moon."]]],
         "all_relevant_sentence_keys": ["0b"], "all_utilized_sentence_keys": ["0b"], "response": "fish"},
        {"id": "2", "question": "moon", "documents": ["the moon.", "a star."],
         "documents_sentences": [[["0a", "the moon."]], [["1a", "a star."]]],
         "all_relevant_sentence_keys": [], "all_utilized_sentence_keys": [], "response": "none"},
    ]  # fmt: skip
    write_lines("bench/emanual/test.jsonl", rows)
    place, index = f"ragbench:{tmp_path}/bench#emanual", tmp_path / "bench.index"
    made = CliRunner().invoke(app, ["encode", tiny_encoder, place, "--index", str(index), "--passages", "30"])
    assert made.exit_code == 0, made.output
    shown = run(index, place, "-k", 3, "--context", "document", "--json")
    assert shown.exit_code == 0, shown.output
    measured = json.loads(shown.stdout)["systems"][Path(tiny_encoder).name]
    # All three documents of two questions, of which one has evidence: 1 of 4 sentences, and 0 of 4.
    means = {name: own["mean"] for name, own in measured["metrics"].items()}
    assert means["evidence_recall"] == means["sentence_recall"] == means["sentence_completeness"] == 1
    assert measured["per_question"]["evidence_precision"] == {"1": pytest.approx(1 / 3)}
    assert measured["per_question"]["sentence_relevance"] == {"1": 0.25, "2": 0.0}
    assert "1 of 2 questions have no evidence, and no measure of it" in measured["notes"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give INDEX and DATASET"),
        (["--answers", "x", "--recorded", "y"], "give INDEX and DATASET"),
        (["--answers", "x", "--plan", "p.yaml"], "--plan: only for searches"),
        (["--answers", "x", "--price-in", "1"], "both --price-in and --price-out"),
        (["--answers", "x", "--generator-url", "http://localhost/v1"], "give --generator MODEL too"),
        (["--answers", "x", "--judge", "m"], "both --judge MODEL and --judge-url URL"),
        (["--answers", "x", "--temperature", "5"], "temperature"),
        (["--answers", "x", "--test", "z"], "tests"),
        (["--answers", "/no/such/file.jsonl"], "no such file"),
    ],
)
def test_mistakes_of_the_command(arguments, said):
    result = run(*arguments)
    assert result.exit_code != 0
    assert said in str(result.exception)


def test_unknown_contexts_have_no_evidence():
    one = RagSample(id="1", user_input="who", retrieved_contexts=("x",), retrieved_context_ids=("1",))
    assert set(evaluate_rag({"a": [one]}).result("a").values) == {"context_words"}


def test_judges_of_unknown_measures():
    from hyperseek.evaluation.rag._judging import check_judged

    with pytest.raises(UnknownNameError, match="faithfulness"):
        check_judged(["faithfullness"])
