"""Compare systems over the same queries: differences, intervals, paired tests, corrected for their number.

Shapes: `n` queries, `m` measures, `s` systems with the baseline first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hyperseek.errors import InputError, UnknownNameError
from hyperseek.evaluation._comparison import Comparison, Row, Section, Statistics
from hyperseek.evaluation._protocol import check_alike, recorded_differences, unlike_keys
from hyperseek.evaluation._result import Evaluation
from hyperseek.evaluation._seen import SLICES
from hyperseek.evaluation._significance import RESAMPLES, Floats, bootstrap_intervals, holm, paired_test, settled


def compare(
    evaluations: Sequence[Evaluation],
    *,
    baseline: str | None = None,
    tests: str | Sequence[str] = "permutation",
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    allow_unlike: bool = False,
) -> Comparison:
    """Compare results, query by query, with one of them.

    Args:
        evaluations: At least one, of different names. One alone gives its intervals.
        baseline: Name of the one to compare the others with; None takes the first.
        tests: One or more of `"permutation"`, `"t"` and `"wilcoxon"`.
        confidence: Of the bootstrap intervals, between 0 and 1.
        resamples: How many samples or sign patterns are drawn, at least 1.
        seed: Of the draws.
        allow_unlike: Compare results that were not measured alike, over the queries and measures they share; the
            comparison lists in what they differ.

    Returns:
        The comparison.

    Raises:
        ProtocolError: The results were not measured alike.
        UnknownNameError: There is no such baseline.
        InputError: Names repeat, the results share no measure or no query, or there is no such test, confidence,
            number of resamples or seed.
    """
    systems = _named(evaluations, baseline)
    statistics = Statistics.from_mapping(
        {
            "tests": (tests,) if isinstance(tests, str) else tuple(tests),
            "confidence": confidence,
            "resamples": resamples,
            "seed": seed,
        },
        source="compare()",
    )
    protocols = {name: evaluation.protocol for name, evaluation in systems.items()}
    if not allow_unlike:
        check_alike(protocols)
    first = next(iter(systems.values()))
    measures = [name for name in first.measures if all(name in other.per_query for other in systems.values())]
    if not measures:
        raise InputError("these results share no measure; measure them by the same names")
    sets, slice_notes = _query_sets(systems)
    sections = [_section(title, queries, systems, measures, statistics) for title, queries in sets.items()]
    return Comparison(
        baseline=first.name,
        systems=tuple(systems),
        measures=tuple(measures),
        statistics=statistics,
        sections=tuple(sections),
        unlike=unlike_keys(list(protocols.values())),
        recorded=recorded_differences(protocols),
        notes=(*slice_notes, *_notes(systems)),
    )


def _named(evaluations: Sequence[Evaluation], baseline: str | None) -> dict[str, Evaluation]:
    by_name = {evaluation.name: evaluation for evaluation in evaluations}
    if not by_name:
        raise InputError("there is nothing to compare; give at least one evaluation")
    if len(by_name) < len(evaluations):
        names = [evaluation.name for evaluation in evaluations]
        raise InputError(f"every system needs a name of its own, not {', '.join(names)}")
    if baseline is None:
        return by_name
    if baseline not in by_name:
        raise UnknownNameError("system", baseline, by_name)
    return {baseline: by_name.pop(baseline), **by_name}


def _query_sets(systems: Mapping[str, Evaluation]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """All shared queries, then each slice, by title; and a note for each slice that is all of them.

    Systems whose slices hold the same queries share one.
    """
    shared = set.intersection(*(set(evaluation.queries) for evaluation in systems.values()))
    first = next(iter(systems.values()))
    everything = tuple(query for query in first.queries if query in shared)
    if not everything:
        raise InputError("these results share no query; were they measured on the same data set?")
    owners: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name, evaluation in systems.items():
        if evaluation.slices is None:
            continue
        for part in SLICES:
            queries = tuple(query for query in evaluation.slices.queries(part) if query in shared)
            if queries:
                owners.setdefault((part, queries), []).append(name)
    sets, notes = {"all queries": everything}, []
    for (part, queries), names in owners.items():
        title = f"{part} of the relevant documents were relevant in training ({', '.join(names)})"
        if len(queries) == len(everything):
            notes.append(f"for every query, {title}")
        else:
            sets[title] = queries
    return sets, notes


def _section(
    title: str,
    queries: Sequence[str],
    systems: Mapping[str, Evaluation],
    measures: Sequence[str],
    statistics: Statistics,
) -> Section:
    columns = [[[by.per_query[name][query] for by in systems.values()] for name in measures] for query in queries]
    values = np.array(columns, dtype=np.float64)  # (n, m, s)
    intervals = _intervals(values, statistics)
    beside = _beside_baseline(values[:, :, 1:] - values[:, :, :1], statistics)
    rows = []
    for place, measure in enumerate(measures):
        for system, name in enumerate(systems):
            mean, ends = float(values[:, place, system].mean()), tuple(intervals[place, system].tolist())
            fields = beside[place][system - 1] if system else {}
            rows.append(Row(system=name, measure=measure, mean=mean, interval=ends, **fields))
    return Section(title=title, queries=len(queries), rows=tuple(rows))


def _beside_baseline(raw: Floats, statistics: Statistics) -> list[list[dict[str, Any]]]:
    """The fields of `Row` for `(n, m, s - 1)` differences, by measure and system."""
    if not raw.shape[2]:
        return []
    flat = settled(raw.reshape(len(raw), -1))
    differences: Floats = flat.reshape(raw.shape)
    intervals = _intervals(differences, statistics)
    p_values = {
        test: paired_test(test, flat, resamples=statistics.resamples, seed=statistics.seed).reshape(
            differences.shape[1:]
        )
        for test in statistics.tests
    }
    result = []
    for place in range(differences.shape[1]):
        corrected = {test: holm(values[place].tolist()) for test, values in p_values.items()}
        row = []
        for system in range(differences.shape[2]):
            column = differences[:, place, system]
            wins, losses = int((column > 0).sum()), int((column < 0).sum())
            row.append(
                {
                    "difference": float(column.mean()),
                    "difference_interval": tuple(intervals[place, system].tolist()),
                    "p_values": {test: float(values[place, system]) for test, values in p_values.items()},
                    "p_corrected": {test: values[system] for test, values in corrected.items()},
                    "wins": wins,
                    "ties": len(column) - wins - losses,
                    "losses": losses,
                }
            )
        result.append(row)
    return result


def _intervals(values: Floats, statistics: Statistics) -> Floats:
    """`(n, m, s)` to `(m, s, 2)`."""
    ends = bootstrap_intervals(
        values.reshape(len(values), -1),
        confidence=statistics.confidence,
        resamples=statistics.resamples,
        seed=statistics.seed,
    )
    return ends.reshape(*values.shape[1:], 2)


def _notes(systems: Mapping[str, Evaluation]) -> tuple[str, ...]:
    """The evaluations' own notes, each once, with the names of those it belongs to."""
    owners: dict[str, list[str]] = {}
    for name, evaluation in systems.items():
        for note in evaluation.notes:
            owners.setdefault(note, []).append(name)
    return tuple(
        note if len(names) == len(systems) else f"{', '.join(names)}: {note}" for note, names in owners.items()
    )
