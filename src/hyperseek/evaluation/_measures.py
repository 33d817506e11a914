"""Measures by name, computed by ir-measures.

Names are those of ir-measures: `nDCG@10`, `R@100`, `RR(rel=2)@10`, `AP`. A name in `MEASURE_SETS` stands for a list
of them. `MRR` comes back as `RR`, its name there.

Two traps. A measure reads only what the run kept: `R@1000` of a run cut at 100 is no R@1000 (see `depth`). And among
equal scores trec_eval puts the larger document id first whereas `RR@k`, which follows MS MARCO's own script, puts the
smaller one first; a run without ties has one value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from hyperseek._errors import InputError, UnknownNameError, require
from hyperseek.records import Qrels, Run

PerQuery: TypeAlias = dict[str, dict[str, float]]
"""`values[measure][query_id]`."""

MEASURE_SETS: Mapping[str, tuple[str, ...]] = {
    "default": ("nDCG@10", "R@100", "RR@10", "AP"),
    "hypencoder": ("nDCG@10", "nDCG@5", "P@10", "P@5", "R@10", "RR", "R@1000", "RR@10"),
    "trec-dl": ("nDCG@10", "RR(rel=2)", "RR(rel=2)@10", "AP(rel=2)", "R(rel=2)@100", "R(rel=2)@1000"),
}
"""Named lists of measures: ours, the Hypencoder repository's defaults, and TREC Deep Learning's (relevant is >= 2)."""

_FULL_DEPTH = 1000  # how deep TREC runs go, and so what a measure without a cut-off is understood to have read


def measure_names(names: str | Iterable[str]) -> tuple[str, ...]:
    """Resolve measures and named sets to the canonical names under which values are returned.

    Args:
        names: Measures and names of `MEASURE_SETS`; a single string may hold several, parted by spaces.

    Returns:
        The canonical names, in order, without repetitions.

    Raises:
        UnknownNameError: There is no such measure.
        InputError: A name is malformed, lacks what its measure requires, or nothing here can compute it.
    """
    given = names.split() if isinstance(names, str) else list(names)
    expanded = [name for item in given for name in MEASURE_SETS.get(item, (item,))]
    if not expanded:
        raise InputError("no measure was given; give names such as 'nDCG@10', or the set 'default'")
    return tuple(dict.fromkeys(str(_parse(name)) for name in expanded))


def cutoffs(names: str | Iterable[str]) -> dict[str, int | None]:
    """Return how many documents a query each measure reads; None where it reads all there are."""
    return {name: _cutoff(_parse(name)) for name in measure_names(names)}


def depth(names: str | Iterable[str]) -> int:
    """Return how many documents a query the measures read: the largest cut-off, 1,000 if one has none."""
    return max(_FULL_DEPTH if cutoff is None else cutoff for cutoff in cutoffs(names).values())


def check_depth(names: str | Iterable[str], k: int) -> None:
    """Raise InputError if a measure's cut-off is larger than the `k` documents a query that a run keeps."""
    for name, cutoff in cutoffs(names).items():
        if cutoff is not None and cutoff > k:
            raise InputError(f"{name} reads {cutoff} documents a query but the run keeps k={k}; raise k or drop it")


def calculate(run: Run, qrels: Qrels, names: str | Iterable[str]) -> PerQuery:
    """Measure a run, query by query.

    Args:
        run: Scores, higher is better. Queries without judgements are left out of the result.
        qrels: Judgements. A query that the run lacks counts as one that found nothing.
        names: Measures, as for `measure_names`.

    Returns:
        `values[measure][query_id]` for every query of `qrels`, in its order.

    Raises:
        UnknownNameError: There is no such measure.
        InputError: A name is malformed, there are no judgements, no query of the run is judged, a score is not a
            number, or the measure failed on this data.
    """
    measures = [_parse(name) for name in measure_names(names)]
    _check(run, qrels)
    values: PerQuery = {str(measure): dict.fromkeys(qrels, float(measure.DEFAULT)) for measure in measures}
    judged = {query: _plain(ranking) for query, ranking in run.items() if query in qrels and ranking}
    ir_measures = require("ir_measures", extra="eval")
    try:
        for metric in ir_measures.iter_calc(measures, qrels, judged):
            values[str(metric.measure)][metric.query_id] = float(metric.value)
    except Exception as error:  # its providers raise anything, some from programs they start
        raise InputError(f"ir-measures could not compute {', '.join(values)} on this run: {error}") from error
    return values


def aggregate(values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Reduce per-query values as each measure defines it: the mean over queries, the sum for counts.

    Args:
        values: `values[measure][query_id]`, at least one query.

    Returns:
        One number for each measure.

    Raises:
        InputError: A measure has no queries.
    """
    result: dict[str, float] = {}
    for name, by_query in values.items():
        if not by_query:
            raise InputError(f"cannot aggregate {name} over no queries")
        aggregator = _parse(name).aggregator()
        for value in by_query.values():
            aggregator.add(value)
        result[name] = float(aggregator.result())
    return result


def _parse(name: str) -> Any:
    ir_measures = require("ir_measures", extra="eval")
    known = ir_measures.measures.registry
    base = name.split("@")[0].split("(")[0].strip()
    if base not in known:
        raise UnknownNameError("measure", base, [*known, *MEASURE_SETS])
    try:
        measure = ir_measures.parse_measure(name.strip())
        measure.validate_params()
    except (ValueError, KeyError, NameError, AssertionError, TypeError, SyntaxError) as error:
        raise InputError(
            f"cannot read the measure {name!r} ({error}); write it as NAME, NAME@CUTOFF or NAME(rel=2)@CUTOFF; "
            f"{base} takes: {_parameters(known[base])}"
        ) from None
    cutoff = _cutoff(measure)
    if cutoff is not None and cutoff < 1:
        raise InputError(f"{name}: the cut-off must be at least 1, not {cutoff}")
    if not ir_measures.DefaultPipeline.supports(measure):
        raise InputError(f"{name} needs a program that is not installed here; see ir-measures' list of providers")
    return measure


def _parameters(measure: Any) -> str:
    described = (f"{key} (required)" if info.required else key for key, info in measure.SUPPORTED_PARAMS.items())
    return ", ".join(described) or "nothing"


def _cutoff(measure: Any) -> int | None:
    cutoff = measure.params.get("cutoff")
    return None if cutoff is None else int(cutoff)


def _check(run: Run, qrels: Qrels) -> None:
    if not qrels:
        raise InputError("there are no judgements to measure against; is the split empty?")
    if not any(query in qrels for query in run):
        raise InputError(
            f"none of the run's {len(run)} queries is judged; the first ids are {_first(run)} in the run and "
            f"{_first(qrels)} in the judgements"
        )


def _first(ids: Mapping[str, Any]) -> Sequence[str]:
    return list(ids)[:3]


def _plain(ranking: Mapping[str, float]) -> dict[str, float]:
    scores = {document: float(score) for document, score in ranking.items()}
    for document, score in scores.items():
        if math.isnan(score):
            raise InputError(f"the score of document {document!r} is not a number")
    return scores
