"""Measures of an answer beside reference answers, without a judge; all are in [0, 1], higher is better.

Exact match and token F1 normalise as SQuAD's script does (arXiv 1606.05250): lower case, no punctuation, no articles.
ROUGE-L is the F-measure of the longest common subsequence of lower-case words of letters and digits, without stemming,
as of the package `rouge-score`. chrF is Popović's (2015, β = 2, characters up to 6-grams), sentence by sentence, as
sacrebleu's `sentence_chrf` divided by 100.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WORD = re.compile(r"[a-z0-9]+")
_ORDERS, _BETA = 6, 2.0

# What models say instead of an answer; at the beginning, since an answer may mention what is not said elsewhere.
_ABSTENTION = re.compile(
    r"(i('m| am)? (do not|don't|cannot|can't|could not|couldn't|not able to|unable to|am unable to|sorry)\b"
    r"|(sorry|unfortunately)\b"
    r"|(the|this|these|based on the|according to the)?\s*(given |provided |following |available )?"
    r"(context|passages?|documents?|information|text)s?( above)? (do(es)? not|don't|doesn't|cannot|can't)\b"
    r"|(there is|there's) (no|not enough|insufficient) (information|context|evidence|mention)\b"
    r"|(no|not enough|insufficient) (information|context|evidence)\b"
    r"|(it is|it's) not (mentioned|stated|specified|possible to)\b"
    r"|(unknown|not (mentioned|stated|specified|available)|unanswerable|n/a|no answer)\W*$)"
)
_FIRST = 200  # characters of an answer in which an abstention begins
_CLAUSE = re.compile(r"(?:^|[.,;:!?]\s+|\n)\s*")


def normal_answer(text: str) -> str:
    """Return an answer as SQuAD's script compares it."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, references: Sequence[str]) -> float:
    """Return 1 if the answer is one of the references after normalisation."""
    return float(any(normal_answer(answer) == normal_answer(one) for one in references))


def token_f1(answer: str, references: Sequence[str]) -> float:
    """Return the best harmonic mean of precision and recall of words after normalisation."""
    return _best(answer, references, _token_f1)


def rouge_l(answer: str, references: Sequence[str]) -> float:
    """Return the best F-measure of the longest common subsequence of words."""
    return _best(answer, references, _rouge_l)


def chrf(answer: str, references: Sequence[str]) -> float:
    """Return the best chrF."""
    return _best(answer, references, _chrf)


def abstains(answer: str) -> bool:
    """Return whether an answer says that it is none, by the usual phrases at its beginning; empty ones do."""
    begin = answer.strip().lower().replace("’", "'")[:_FIRST]  # noqa: RUF001
    return not begin or any(_ABSTENTION.match(begin, place.end()) for place in _CLAUSE.finditer(begin))


def holds_answer(contexts: Sequence[str], references: Sequence[str]) -> float:
    """Return 1 if a context holds one of the references, word for word after normalisation."""
    wanted = [f" {normal_answer(one)} " for one in references if normal_answer(one)]
    return float(any(one in f" {normal_answer(context)} " for context in contexts for one in wanted))


def _best(answer: str, references: Sequence[str], measure: Callable[[str, str], float]) -> float:
    return max((measure(answer, one) for one in references), default=0.0)


def _token_f1(answer: str, reference: str) -> float:
    given, wanted = normal_answer(answer).split(), normal_answer(reference).split()
    if not given or not wanted:
        return float(given == wanted)
    return _harmonic(sum((Counter(given) & Counter(wanted)).values()), len(given), len(wanted))


def _rouge_l(answer: str, reference: str) -> float:
    given, wanted = _WORD.findall(answer.lower()), _WORD.findall(reference.lower())
    return _harmonic(_longest_common(given, wanted), len(given), len(wanted))


def _longest_common(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, by the bits of whole rows (Hyyrö, 2004)."""
    places: dict[str, int] = {}
    for place, word in enumerate(other):
        places[word] = places.get(word, 0) | 1 << place
    whole = row = (1 << len(other)) - 1
    for word in one:
        matched = row & places.get(word, 0)
        row = (row + matched | row - matched) & whole
    return len(other) - row.bit_count()


def _harmonic(shared: int, given: int, wanted: int) -> float:
    return 2 * shared / (given + wanted) if shared else 0.0


def _chrf(answer: str, reference: str) -> float:
    given, wanted = "".join(answer.split()), "".join(reference.split())
    precision = recall = 0.0
    orders = 0
    for size in range(1, _ORDERS + 1):
        left, right = _grams(given, size), _grams(wanted, size)
        if not left or not right:  # one of the texts is shorter: the order does not count
            continue
        shared = sum((left & right).values())
        precision, recall, orders = precision + shared / left.total(), recall + shared / right.total(), orders + 1
    if not orders or not precision + recall:
        return 0.0
    precision, recall = precision / orders, recall / orders
    return (1 + _BETA**2) * precision * recall / (_BETA**2 * precision + recall)


def _grams(text: str, size: int) -> Counter[str]:
    return Counter(text[place : place + size] for place in range(len(text) - size + 1))
