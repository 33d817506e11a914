"""A teacher's say on negatives: what it scores near the positive is relevant, whatever nobody judged."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Protocol

from hyperseek._errors import InputError
from hyperseek.data._examples import ExampleItem, TrainingExample
from hyperseek.data._filters import Draft, score_bound
from hyperseek.data._refine_options import TeacherOptions
from hyperseek.data._report import ErrorReport


class Teacher(Protocol):
    """Something that scores pairs of texts; `hyperseek.teachers` has some.

    One that has an attribute `fingerprint`, a string that changes with its scores, is told from another one of its
    name where work that was stopped is resumed.
    """

    @property
    def name(self) -> str:
        """What it is called in records."""
        ...

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> Sequence[float]:
        """Score pairs of a query and a document; higher is better, any real number."""
        ...


def choose(
    drafts: Sequence[Draft], wanted: int, *, teacher: Teacher | None, options: TeacherOptions, report: ErrorReport
) -> None:
    """Take negatives from the candidates of each draft, and let the teacher score and filter all of them.

    The teacher sees no more candidates than are needed: as many as are missing, until none is missing or left.

    Args:
        drafts: Changed in place.
        wanted: Negatives to take for each.
        teacher: None takes the first candidates.
        options: When the teacher's score drops a negative.
        report: Where drops are counted.
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
    """Score the examples' own items, filter their negatives, and return the margin's and the absolute bound of each."""
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
