"""Ranking: a run with its protocol, and the way from there to an Evaluation."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from hyperseek._errors import InputError
from hyperseek._fingerprint import fingerprint_json
from hyperseek.evaluation._measures import aggregate, calculate, check_depth, cutoffs, depth, measure_names
from hyperseek.evaluation._protocol import Protocol
from hyperseek.evaluation._result import Evaluation
from hyperseek.evaluation._seen import Slices, slice_by_training
from hyperseek.records import Qrels, Run

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ranking:
    """A run, and how it was made.

    Attributes:
        name: The system's name in tables.
        run: Scores by query and document.
        protocol: What was asked, and what answered.
        trained: Documents of this collection that were relevant in the system's training; None if unknown.
        notes: What a reader of its numbers should know.
    """

    name: str
    run: Run
    protocol: Protocol
    trained: frozenset[str] | None = None
    notes: tuple[str, ...] = ()

    def evaluate(self, qrels: Qrels, *, measures: str | Iterable[str] = "default") -> Evaluation:
        """Measure the ranking.

        Args:
            qrels: The judgements whose fingerprint is `protocol.qrels`.
            measures: Names of measures and of named sets.

        Returns:
            Values by query, aggregates, and slices where the training is known.

        Raises:
            InputError: These are other judgements, or a measure reads deeper than the ranking goes or cannot be
                computed.
        """
        if fingerprint_json(qrels) != self.protocol.qrels:
            raise InputError(f"the ranking {self.name} was made for other judgements; make it for these")
        names = measure_names(measures)
        shallow = []
        if self.protocol.k is None:
            shallow = _depth_notes(self.run, names)
        else:
            check_depth(names, self.protocol.k)
        values = calculate(self.run, qrels, names)
        slices = None if self.trained is None else slice_by_training(qrels, self.trained)
        return Evaluation(
            name=self.name,
            per_query=values,
            aggregate=aggregate(values),
            protocol=self.protocol,
            slices=slices,
            notes=(*self.notes, *_coverage_notes(self.run, qrels), *shallow, *_slice_notes(slices)),
        )


def choose_k(measures: str | Iterable[str], k: int | None) -> int:
    """Return `k`, or what the measures read if it is None; raise InputError if a measure reads deeper than `k`."""
    names = measure_names(measures)
    if k is None:
        k = depth(names)
        _logger.info("k=%d documents a query, which is what %s read", k, ", ".join(names))
    check_depth(names, k)
    return k


def _depth_notes(run: Run, names: Iterable[str]) -> list[str]:
    """Of a run whose depth nobody knows."""
    deepest = max((len(ranking) for ranking in run.values()), default=0)
    return [
        f"{name} reads {cutoff} documents a query and this run has at most {deepest}"
        for name, cutoff in cutoffs(names).items()
        if cutoff is not None and cutoff > deepest
    ]


def _coverage_notes(run: Run, qrels: Qrels) -> list[str]:
    absent = sum(not run.get(query) for query in qrels)
    return [f"{absent} of {len(qrels)} judged queries have no ranking and count as 0"] if absent else []


def _slice_notes(slices: Slices | None) -> list[str]:
    if slices is None:
        return []
    return [f"no query has {name} of its relevant documents relevant in training" for name in slices.empty()]
