"""Measures that need no judge: of contexts by evidence and by RAGBench's sentence labels, and of answers.

RAGBench (arXiv 2407.11005, section 4) counts lengths of sentences that are relevant, R, and that the response used, U,
in the contexts, C: relevance |R| / |C|, utilization |U| / |C|, completeness |R ∩ U| / |R|. Here a length is a number of
sentences. For contexts that were retrieved anew, only the labelled sentences that they hold count in R and U, but all
of R below the line of completeness; sentences of documents without labels for the question count as not relevant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from hyperseek._relevance import is_relevant, normal_text, normalized_gain
from hyperseek.evaluation.rag._samples import RagSample, SentenceLabels
from hyperseek.evaluation.rag._text_measures import (
    abstains,
    chrf,
    exact_match,
    holds_answer,
    rouge_l,
    token_f1,
)

_END_OF_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")

EVIDENCE = ("evidence_recall", "evidence_precision", "evidence_ndcg")
SENTENCES = ("sentence_recall", "sentence_relevance", "sentence_utilization", "sentence_completeness")
ANSWERS = ("exact_match", "token_f1", "rouge_l", "chrf")
OTHERS = ("answer_in_contexts", "abstention", "context_words", "context_tokens")
FREE_MEASURES = (*EVIDENCE, *SENTENCES, *ANSWERS, *OTHERS)
"""Names of all measures that need no judge."""


def free_measures(
    sample: RagSample, *, k: int | None = None, count_tokens: Callable[[Sequence[str]], Sequence[int]] | None = None
) -> dict[str, float]:
    """Measure a sample by everything that needs no judge.

    Args:
        sample: A question with contexts, and perhaps a response.
        k: How many contexts were asked for, the depth of nDCG; None for as many as there are.
        count_tokens: Returns the number of tokens of each text; None leaves `context_tokens` out.

    Returns:
        Values by the names in `FREE_MEASURES` that apply: evidence where there is any, sentences where they are
        labelled, answers where there are a response and a reference. All are in [0, 1] but `context_words` and
        `context_tokens`, which are counts.
    """
    values = _evidence(sample, k)
    found = [one for one in (_sentences(sample, labels) for labels in sample.labels) if one]
    for name in SENTENCES:
        own = [one[name] for one in found if name in one]
        if own:
            values[name] = sum(own) / len(own)
    if sample.references:
        values["answer_in_contexts"] = holds_answer(sample.retrieved_contexts, sample.references)
    if sample.response is not None:
        if sample.references:
            values |= {name: measure(sample.response, sample.references) for name, measure in _OF_ANSWERS.items()}
        values["abstention"] = float(abstains(sample.response))
    values["context_words"] = float(sum(len(text.split()) for text in sample.retrieved_contexts))
    if count_tokens is not None:
        values["context_tokens"] = float(sum(count_tokens(sample.retrieved_contexts)))
    return {name: values[name] for name in FREE_MEASURES if name in values}


_OF_ANSWERS: Mapping[str, Callable[..., float]] = {
    "exact_match": exact_match,
    "token_f1": token_f1,
    "rouge_l": rouge_l,
    "chrf": chrf,
}


def trace_scores(labels: SentenceLabels) -> dict[str, float]:
    """Return RAGBench's TRACe scores of a recorded response, from its labels.

    Args:
        labels: Labels of the response and of the documents that it was made from.

    Returns:
        `relevance`, `utilization`, `completeness` and `adherence`, those that the labels determine; completeness has
        no value without relevant sentences.
    """
    given = RagSample(
        id="",
        user_input="",
        retrieved_contexts=tuple(" ".join(text for _, text in own) for own in labels.sentences),
        retrieved_context_ids=labels.documents,
    )
    found = {name.removeprefix("sentence_"): value for name, value in _sentences(given, labels).items()}
    found.pop("recall", None)
    if labels.adherence is not None:
        found["adherence"] = float(labels.adherence)
    return found


def _evidence(sample: RagSample, k: int | None) -> dict[str, float]:
    evidence = frozenset(sample.reference_context_ids or ())
    if not evidence:
        return {}
    found = list(dict.fromkeys(sample.retrieved_context_ids))
    grades = dict.fromkeys(evidence, 1) | sample.grades
    hits = sum(document in evidence for document in found)
    ranked = [grades.get(document, 0) for document in found]
    judged = [grade for grade in grades.values() if is_relevant(grade)]
    return {
        "evidence_recall": hits / len(evidence),
        "evidence_precision": hits / len(found) if found else 0.0,
        "evidence_ndcg": normalized_gain(ranked, judged, max(1, len(found), k or 0)),
    }


def _sentences(sample: RagSample, labels: SentenceLabels) -> dict[str, float]:
    """Return the measures of sentences by one record of labels; empty where it has none."""
    if labels.relevant is None or not any(labels.sentences):
        return {}
    relevant, used = frozenset(labels.relevant), frozenset(labels.utilized or ())
    texts: dict[str, str] = {}
    for identity, text in zip(sample.retrieved_context_ids, sample.retrieved_contexts, strict=True):
        texts[identity] = f"{texts.get(identity, '')} {normal_text(text)}"
    held: set[str] = set()
    total = 0
    for identity, own in zip(labels.documents, labels.sentences, strict=True):
        text = texts.pop(identity, "")
        if text:
            inside = {key for key, sentence in own if normal_text(sentence) in text}
            held |= inside
            total += len(inside)
    total += sum(len([part for part in _END_OF_SENTENCE.split(text) if part.strip()]) for text in texts.values())
    values = {"sentence_relevance": len(relevant & held) / total if total else 0.0}
    if relevant:
        values["sentence_recall"] = len(relevant & held) / len(relevant)
    if labels.utilized is not None:
        values["sentence_utilization"] = len(used & held) / total if total else 0.0
        if relevant:
            values["sentence_completeness"] = len(relevant & used & held) / len(relevant)
    return values
