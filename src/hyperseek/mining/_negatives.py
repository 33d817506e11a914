"""Filters of positives and negatives, with or without a teacher."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from hyperseek._relevance import text_key
from hyperseek.data.examples import ExampleItem, TrainingExample, source_and_id
from hyperseek.data.reading import ErrorReport
from hyperseek.errors import InputError
from hyperseek.mining._candidates import (
    Candidate,
    ConsistencyOptions,
    Found,
    MiningOptions,
    RefineOptions,
    Relevant,
    TeacherOptions,
    query_item,
)


@dataclass(slots=True)
class Draft:
    """An unfinished example.

    Attributes:
        example: The example, with the items of its own that are kept.
        candidates: Possible negatives, in the order in which they are taken.
        mined: Candidates taken as negatives.
    """

    example: TrainingExample
    candidates: list[ExampleItem] = field(default_factory=list)
    mined: list[ExampleItem] = field(default_factory=list)

    def finished(self) -> TrainingExample:
        """Return the example with its mined negatives."""
        return dataclasses.replace(self.example, negatives=(*self.example.negatives, *self.mined))


def score_bound(positives: Iterable[float], margin: float | None) -> float:
    """Return the score above which a document counts as relevant.

    Args:
        positives: Scores of the relevant documents, at least one; of either sign.
        margin: Share of the lowest score; None for no bound.

    Returns:
        The bound; infinity without a margin. It falls with the margin for scores of either sign.
    """
    if margin is None:
        return float("inf")
    lowest = min(positives)
    return lowest - (1 - margin) * abs(lowest)


def draft(
    example: TrainingExample,
    found: Found,
    relevant: Relevant,
    *,
    options: RefineOptions,
    listed: frozenset[str],
    report: ErrorReport,
) -> Draft | None:
    """Apply every filter that needs no teacher.

    Args:
        example: The prepared example.
        found: The result of searching the index for it.
        relevant: The relevant documents of its query.
        options: Settings of mining and filtering.
        listed: Documents that must not appear, as `ID` or `SOURCE/ID`.
        report: Counts drops.

    Returns:
        The draft, or None if no positive is left.
    """
    if options.consistency is not None:
        kept = _consistent(example, found, options.consistency, report)
        if kept is None:
            return None
        example = kept
    mining = options.mining
    example = dataclasses.replace(example, negatives=tuple(_own_negatives(example, found, relevant, mining, report)))
    if mining is None:
        return Draft(example)
    candidates = list(_candidates(example, found.candidates, relevant, mining, listed, report))
    bound = _bound(example, found, mining)
    passed = [
        one.found.item
        for one in candidates
        if _passes(one.found.item, one.score, bound=bound, mining=mining, example=example, report=report)
    ]
    if mining.sampling == "random":
        random.Random(f"{mining.seed}-{example.query.id}").shuffle(passed)
    return Draft(example, passed)


def _consistent(
    example: TrainingExample, found: Found, options: ConsistencyOptions, report: ErrorReport
) -> TrainingExample | None:
    kept = []
    for item in example.positives:
        if found.rivals[item.id] < options.top:
            kept.append(item)
        else:
            report.add(
                "inconsistent_positive",
                f"query {example.query.id}: {item.id} is not among the first {options.top}",
            )
    if not kept:
        report.add("no_consistent_positive", f"query {example.query.id}")
        return None
    left = [item for item in example.positives if item not in kept]
    return dataclasses.replace(
        example,
        positives=tuple(kept),
        relevant=(*example.relevant, *(item.id for item in left)),
        relevant_texts=tuple(dict.fromkeys([*example.relevant_texts, *(text_key(item.text) for item in left)])),
    )


def _own_negatives(
    example: TrainingExample, found: Found, relevant: Relevant, mining: MiningOptions | None, report: ErrorReport
) -> Iterator[ExampleItem]:
    bound = _bound(example, found, mining) if mining is not None and mining.keep_negatives else float("inf")
    # Given negatives may be easy: `min_score` is for candidates.
    limits = None if mining is None else mining.model_copy(update={"min_score": None})
    query = text_key(example.query.text)
    for item in example.negatives:
        place = f"query {example.query.id}: {item.id}"
        if mining is not None and not mining.keep_negatives:
            report.add("replaced_negative", place)
        elif item.id in relevant.ids:
            report.add("relevant_document", place)
        elif (key := text_key(item.text)) in relevant.texts:
            report.add("text_of_positive", place)
        elif key == query:
            report.add("query_itself", place)
        elif (
            item.grade is not None
            or limits is None
            or _passes(item, found.scores.get(item.id), bound=bound, mining=limits, example=example, report=report)
        ):
            yield item


def _candidates(
    example: TrainingExample,
    candidates: Iterable[Candidate],
    relevant: Relevant,
    mining: MiningOptions,
    listed: frozenset[str],
    report: ErrorReport,
) -> Iterator[Candidate]:
    """Leave out candidates that cannot be negatives, whatever their score, and take the wanted depth of the rest."""
    seen_ids = {item.id for item in example.negatives}
    seen_texts = {text_key(item.text) for item in example.negatives}
    query, rank = query_item(example), 0
    for candidate in candidates:
        item, key = candidate.found.item, candidate.found.key
        reason = None
        if item.id in relevant.ids:
            reason = "relevant_document"
        elif key in relevant.texts:
            reason = "text_of_positive"
        elif candidate.found.same(query):
            reason = "query_itself"
        elif item.id in listed or source_and_id(item.id)[1] in listed:
            reason = "listed_document"
        elif not item.text.strip():
            reason = "empty_text"
        elif item.id in seen_ids or key in seen_texts:
            reason = "negative_twice"
        else:
            rank += 1
            seen_texts.add(key)
            if rank > mining.skip_top + mining.depth:
                return
            reason = "skipped_top" if rank <= mining.skip_top else None
        if reason is None:
            yield candidate
        else:
            report.add(reason, f"query {example.query.id}: {item.id}")


def _bound(example: TrainingExample, found: Found, mining: MiningOptions | None) -> float:
    if mining is None or mining.margin is None:
        return float("inf")
    return score_bound((found.scores[item.id] for item in example.positives), mining.margin)


def _passes(
    item: ExampleItem,
    score: float | None,
    *,
    bound: float,
    mining: MiningOptions,
    example: TrainingExample,
    report: ErrorReport,
) -> bool:
    if score is None:
        return True
    reason = None
    if score > bound:
        reason, limit = "above_margin", bound
    elif mining.max_score is not None and score > mining.max_score:
        reason, limit = "above_maximum", mining.max_score
    elif mining.min_score is not None and score < mining.min_score:
        reason, limit = "below_minimum", mining.min_score
    if reason is None:
        return True
    report.add(reason, f"query {example.query.id}: {item.id} scores {score:.4g}, the limit is {limit:.4g}")
    return False


class Teacher(Protocol):
    """A scorer of pairs of texts; see `load_teacher`.

    An optional attribute `fingerprint`, a string that changes with the teacher's scores, distinguishes teachers of the
    same name when work is resumed.
    """

    @property
    def name(self) -> str:
        """Its name in records."""
        ...

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> Sequence[float]:
        """Score pairs of a query and a document; higher is better, any real number."""
        ...


def choose(
    drafts: Sequence[Draft], wanted: int, *, teacher: Teacher | None, options: TeacherOptions, report: ErrorReport
) -> None:
    """Take negatives from the candidates of each draft, and let the teacher score and filter all of them.

    The teacher sees only as many candidates as are missing, until none is missing or left.

    Args:
        drafts: Changed in place.
        wanted: Negatives to take for each.
        teacher: None takes the first candidates.
        options: Thresholds of the teacher's scores.
        report: Counts drops.
    """
    if teacher is None:
        for draft in drafts:
            draft.mined = draft.candidates[:wanted]
        return
    bounds = _score_own(drafts, teacher, options, report)
    left = [iter(draft.candidates) for draft in drafts]
    while True:
        asked = [
            list(islice(candidates, wanted - len(draft.mined))) for draft, candidates in zip(drafts, left, strict=True)
        ]
        if not any(asked):
            return
        for draft, bound, items in zip(drafts, bounds, _scored(teacher, drafts, asked), strict=True):
            draft.mined += _kept(items, bound, draft.example, report)


def _score_own(
    drafts: Sequence[Draft], teacher: Teacher, options: TeacherOptions, report: ErrorReport
) -> list[tuple[float, float]]:
    """Score the examples' own items, filter their negatives, and return each one's bounds: by margin, and absolute."""
    positives = _scored(teacher, drafts, [draft.example.positives for draft in drafts])
    negatives = _scored(teacher, drafts, [draft.example.negatives for draft in drafts])
    highest = math.inf if options.max_score is None else options.max_score
    bounds = []
    for draft, good, bad in zip(drafts, positives, negatives, strict=True):
        bound = score_bound((item.score or 0.0 for item in good), options.margin), highest
        bounds.append(bound)
        kept = _kept(bad, bound, draft.example, report)
        draft.example = dataclasses.replace(draft.example, positives=tuple(good), negatives=tuple(kept))
    return bounds


def _scored(
    teacher: Teacher, drafts: Sequence[Draft], items: Sequence[Iterable[ExampleItem]]
) -> list[list[ExampleItem]]:
    lists = [list(own) for own in items]
    pairs = [(draft.example.query.text, item.text) for draft, own in zip(drafts, lists, strict=True) for item in own]
    scores = [float(score) for score in teacher.score_pairs(pairs)] if pairs else []
    if len(scores) != len(pairs):
        raise InputError(f"the teacher {teacher.name} scored {len(scores)} of {len(pairs)} pairs; it must score each")
    for (query, text), score in zip(pairs, scores, strict=True):
        if not math.isfinite(score):
            raise InputError(f"the teacher {teacher.name} gave {score} for the query {query!r} and {text[:80]!r}")
    own_scores = iter(scores)
    return [[dataclasses.replace(item, score=next(own_scores)) for item in own] for own in lists]


def _kept(
    items: Iterable[ExampleItem], bounds: tuple[float, float], example: TrainingExample, report: ErrorReport
) -> list[ExampleItem]:
    kept = []
    for item in items:
        score = item.score or 0.0
        place = f"query {example.query.id}: {item.id} scores {score:.4g}"
        if item.grade is not None:
            kept.append(item)
        elif score > bounds[0]:
            report.add("teacher_above_margin", f"{place}, the limit is {bounds[0]:.4g}")
        elif score > bounds[1]:
            report.add("teacher_above_maximum", f"{place}, the limit is {bounds[1]:.4g}")
        else:
            kept.append(item)
    return kept
