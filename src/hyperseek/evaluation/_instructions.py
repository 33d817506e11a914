"""Whether a system follows instructions: the same queries with an instruction and with a changed one (FollowIR).

The changed instruction makes documents irrelevant. p-MRR (arXiv 2403.15246) is 100 if all of them fall from first to
last, 0 if nothing moves, and below 0 if they rise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from hyperseek._config import Config
from hyperseek._display import ShowsTables
from hyperseek.errors import InputError
from hyperseek.evaluation._measures import aggregate, calculate, check_depth, measure_names, p_mrr, p_mrr_per_query
from hyperseek.evaluation._ranking import Ranking
from hyperseek.evaluation._result import Protocol
from hyperseek.evaluation._significance import bootstrap_intervals
from hyperseek.types import Qrels

ENDINGS = ("-og", "-changed")
"""What tells the two versions of a query apart, at the end of its id."""
_T = TypeVar("_T")


class InstructionResult(ShowsTables, Config):
    """One system's result.

    Attributes:
        name: The system's name.
        original: Means by measure, of queries with the original instructions.
        changed: The same with the changed ones, by their own judgements.
        p_mrr: p-MRR, in -100 to 100.
        p_mrr_interval: Its bootstrap interval over queries.
        per_query: p-MRR of each query, in -1 to 1.
        protocol: The data, the candidates and the system.
        notes: Remarks for readers of the numbers.
    """

    name: str
    original: dict[str, float]
    changed: dict[str, float]
    p_mrr: float
    p_mrr_interval: tuple[float, float]
    per_query: dict[str, float]
    protocol: Protocol
    notes: tuple[str, ...] = ()

    def _shown_tables(self) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
        rows = [
            [name, f"{value:.4f}", f"{self.changed[name]:.4f}", f"{self.changed[name] - value:+.4f}"]
            for name, value in self.original.items()
        ]
        lower, upper = self.p_mrr_interval
        rows.append(["p-MRR", "", "", f"{self.p_mrr:+.2f} ({lower:+.2f} to {upper:+.2f})"])
        title = f"{self.name}: {len(self.per_query)} queries"
        yield title, ["measure", "original", "changed", "difference"], rows

    def _shown_remarks(self) -> Sequence[str]:
        return self.notes

    def _frame_rows(self) -> list[dict[str, Any]]:
        return [{"query": query, "p-MRR": value} for query, value in self.per_query.items()]


def measure_instructions(
    ranking: Ranking,
    qrels: Qrels,
    *,
    measures: str | Iterable[str] = ("AP@1000", "nDCG@5"),
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> InstructionResult:
    """Compare rankings of the two versions of each query.

    Args:
        ranking: Of queries `NAME-og` and `NAME-changed`, as `followir:SET` has them.
        qrels: Judgements of both.
        measures: Names of measures, reported for each version. FollowIR's own are AP@1000 for Robust04 and Core17, and
            nDCG@5 for News21.
        confidence: Of the interval.
        resamples: Resamples of the interval.
        seed: Seed of the interval.

    Returns:
        The result.

    Raises:
        InputError: The queries have no two versions, no judgement changed, or a measure reads deeper than the ranking.
    """
    names = measure_names(measures)
    if ranking.protocol.k is not None:
        check_depth(names, ranking.protocol.k)
    judged = [_version(qrels, ending) for ending in ENDINGS]
    runs = [_version(ranking.run, ending) for ending in ENDINGS]
    missing = [ending for ending, own in zip(ENDINGS, judged, strict=True) if not own]
    if missing:
        raise InputError(
            f"no query's id ends in {' or '.join(missing)}; instructions are measured on queries in two versions, as "
            "those of followir:core17"
        )
    original, changed = (aggregate(calculate(run, own, names)) for run, own in zip(runs, judged, strict=True))
    per_query = p_mrr_per_query(runs[0], runs[1], judged[0], judged[1])
    total = p_mrr(per_query)
    interval = (
        100 * bootstrap_intervals(list(per_query.values()), confidence=confidence, resamples=resamples, seed=seed)[0]
    )
    absent = sum(not run.get(query) for run, own in zip(runs, judged, strict=True) for query in own)
    notes = [f"{absent} judged queries have no ranking"] if absent else []
    return InstructionResult(
        name=ranking.name,
        original=original,
        changed=changed,
        p_mrr=total,
        p_mrr_interval=(float(interval[0]), float(interval[1])),
        per_query=per_query,
        protocol=ranking.protocol,
        notes=(*ranking.notes, *notes),
    )


def _version(values: Mapping[str, _T], ending: str) -> dict[str, _T]:
    return {name.removesuffix(ending): value for name, value in values.items() if name.endswith(ending)}
