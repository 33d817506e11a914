"""Measures of contexts and answers that need no judge."""

from __future__ import annotations

import pytest

from hyperseek.evaluation import RagSample, SentenceLabels, free_measures, trace_scores
from hyperseek.evaluation.rag._text_measures import abstains, chrf, exact_match, holds_answer, rouge_l, token_f1

# Recorded from rouge-score 0.1.2 (rougeL, no stemmer) and sacrebleu 2.6.0 (sentence_chrf / 100).
RECORDED = [
    ("The cat sat on the mat.", "the cat is on the mat", 0.833333, 0.573805),
    ("Press the Home button, then Settings", "Go to Settings and press Home", 0.333333, 0.399293),
    ("a", "abc", 0.0, 0.384615),
    ("6,650 km long", "The Nile is 6650 km long.", 0.4, 0.416535),
    ("", "x y", 0.0, 0.0),
    ("Ünïcode naïve text", "naive unicode text", 0.25, 0.347291),
    ("completely different", "nothing shared zzz", 0.0, 0.080965),
]


@pytest.mark.parametrize(("answer", "reference", "rouge", "characters"), RECORDED)
def test_rouge_and_chrf_are_those_of_the_packages(answer, reference, rouge, characters):
    assert rouge_l(answer, [reference]) == pytest.approx(rouge, abs=1e-6)
    assert chrf(answer, [reference]) == pytest.approx(characters, abs=1e-6)


def test_answers_are_compared_as_in_squad():
    assert exact_match("The Nile!", ["a river", "nile"]) == 1
    assert exact_match("the Nile river", ["nile"]) == 0
    assert token_f1("the Nile river", ["nile"]) == pytest.approx(2 / 3)
    assert token_f1("the", ["an"]) == 1  # both are empty after normalisation, as in SQuAD's script
    assert holds_answer(["It is the Nile, of course."], ["The nile"]) == 1
    assert holds_answer(["It is the senile one"], ["nile"]) == 0


@pytest.mark.parametrize(
    ("answer", "says_nothing"),
    [
        ("", True),
        ("I don’t know.", True),  # noqa: RUF001
        ("I'm sorry, but the context does not mention it.", True),
        ("The provided context doesn't say where the notifications are.", True),
        ("Based on the given context, there is no information about that.", True),
        ("Unanswerable", True),
        ("Press Home. If you do not see it, restart.", False),
        ("Unknown sources can be allowed in Settings.", False),
        ("The passage does lead to the sea.", False),
    ],
)
def test_answers_that_are_none(answer, says_nothing):
    assert abstains(answer) is says_nothing


def sample(**fields):
    return RagSample(id="q", user_input="what lives in the sea", **fields)


def test_evidence_by_document():
    found = free_measures(
        sample(retrieved_contexts=("x y", "z"), retrieved_context_ids=("b", "a"), reference_context_ids=("a", "c"))
    )
    assert found == {
        "evidence_recall": 0.5,
        "evidence_precision": 0.5,
        "evidence_ndcg": pytest.approx(0.63093 / 1.63093, abs=1e-5),
        "context_words": 3,
    }
    short = sample(retrieved_contexts=("x",), retrieved_context_ids=("a",), reference_context_ids=("a", "c"))
    assert free_measures(short)["evidence_ndcg"] == 1
    assert free_measures(short, k=2)["evidence_ndcg"] == pytest.approx(1 / 1.63093, abs=1e-5)
    assert "evidence_recall" not in free_measures(sample(reference_context_ids=()))


LABELS = SentenceLabels(
    documents=("d0", "d1"),
    sentences=((("0a", "Fish live."), ("0b", "They swim."), ("0c", "It rains.")), (("1a", "Whales live."),)),
    relevant=("0a", "0b", "1a"),
    utilized=("0a", "0c"),
    adherence=False,
)


def test_trace_is_that_of_ragbench():
    """R = 3, U = 2, R and U = 1 of 4 sentences."""
    assert trace_scores(LABELS) == {"relevance": 3 / 4, "utilization": 2 / 4, "completeness": 1 / 3, "adherence": 0.0}
    nothing = LABELS.model_copy(update={"relevant": ()})
    assert trace_scores(nothing) == {"relevance": 0, "utilization": 2 / 4, "adherence": 0.0}


def test_sentences_that_retrieval_found():
    """Passage of d0 with its first two sentences, and another document of two sentences, of which none is labelled."""
    given = sample(
        retrieved_contexts=("fish  live. They swim.", "A star. A moon."),
        retrieved_context_ids=("d0", "other"),
        labels=(LABELS,),
    )
    found = free_measures(given)
    assert found["sentence_recall"] == pytest.approx(2 / 3)
    assert found["sentence_relevance"] == pytest.approx(2 / 4)
    assert found["sentence_utilization"] == pytest.approx(1 / 4)
    assert found["sentence_completeness"] == pytest.approx(1 / 3)


def test_answers_are_measured_where_there_are_references():
    found = free_measures(sample(response="Fish", references=("fish", "whales"), retrieved_contexts=("a fish",)))
    assert found["exact_match"] == found["token_f1"] == found["answer_in_contexts"] == 1
    assert found["abstention"] == 0
    assert set(free_measures(sample(response="Fish"))) == {"abstention", "context_words"}
