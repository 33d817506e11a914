"""Measures by name, computed by ir-measures or registered, and p-MRR for changed instructions.

Names are those of ir-measures: `nDCG@10`, `R@100`, `RR(rel=2)@10`, `AP`. A name in `MEASURE_SETS` stands for a list
of them. `MRR` comes back as `RR`, its name there.

A trap: a measure reads only what the run kept, so `R@1000` of a run cut at 100 is not R@1000 (see `depth`).

The providers behind ir-measures break ties by id, some ascending and some descending, keep scores in float32, write
ids into blank-separated files, and reserve memory for every grade up to the largest. So they are given ranks as
scores, numbers as ids, and grades in a range that they support.

p-MRR is the measure of FollowIR (arXiv 2403.15246). Every query is run twice, with its original and with a changed
instruction, and the relevance of some documents differs between the two. p-MRR compares the ranks of those documents:
100 means that all moved as they should, 0 that nothing moved, -100 that they moved the wrong way. FollowIR's
instructions only narrow, so documents only lose relevance there, and should fall. Here a document that gains relevance
should rise, with the same formula and the opposite sign. Unjudged documents and grades below 0 have relevance 0.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, TypeAlias

from hyperseek._order import best_first
from hyperseek._relevance import MEASURES, cut_off, is_relevant, normalized_gain
from hyperseek._relevance import measure as measured
from hyperseek.errors import InputError, UnknownNameError, brief, require
from hyperseek.types import Qrels, Run

PerQuery: TypeAlias = dict[str, dict[str, float]]
"""`values[measure][query_id]`."""

MEASURE_SETS: Mapping[str, tuple[str, ...]] = {
    "default": ("nDCG@10", "R@100", "RR@10", "AP"),
    "hypencoder": ("nDCG@10", "nDCG@5", "P@10", "P@5", "R@10", "RR", "R@1000", "RR@10"),
    "trec-dl": ("nDCG@10", "RR(rel=2)", "RR(rel=2)@10", "AP(rel=2)", "R(rel=2)@100", "R(rel=2)@1000"),
    "hydra": ("nDCG(dcg='exp-log2')@10", "RR@10", "R@100"),
}
"""Named lists of measures: ours, the Hypencoder repository's defaults, TREC Deep Learning's (relevant is >= 2), and
Hydra's, whose nDCG has exponential gain."""

_NOT_JUDGED = -1  # a grade as trec_eval knows it
_LARGE = 1000  # grades and levels of relevance beyond this are counted, not measured
_EXPONENTIAL = 4  # highest grade for ERR, whose gain is 2 to the power of it
_FULL_DEPTH = 1000  # depth of TREC runs, and so the assumed depth of measures without a cut-off

logger = logging.getLogger(__name__)


def measure_names(names: str | Iterable[str]) -> tuple[str, ...]:
    """Resolve measures and named sets to the canonical names under which values are returned.

    Args:
        names: Measures and names of `MEASURE_SETS`; a single string may hold several, separated by spaces.

    Returns:
        The canonical names, in order, without repetitions.

    Raises:
        UnknownNameError: There is no such measure.
        InputError: A name is malformed, lacks a required parameter, or no installed provider can compute it.
    """
    given = names.split() if isinstance(names, str) else list(names)
    expanded = [name for item in given for name in MEASURE_SETS.get(item, (item,))]
    if not expanded:
        raise InputError("no measure was given; give names such as 'nDCG@10', or the set 'default'")
    return tuple(dict.fromkeys(str(_parse(name)) for name in expanded))


def cutoffs(names: str | Iterable[str]) -> dict[str, int | None]:
    """Return how many documents per query each measure reads; None if it reads all."""
    return {name: _cutoff(_parse(name)) for name in measure_names(names)}


def depth(names: str | Iterable[str]) -> int:
    """Return how many documents per query the measures read: the largest cut-off, 1,000 if one has none."""
    return max(_FULL_DEPTH if cutoff is None else cutoff for cutoff in cutoffs(names).values())


def check_depth(names: str | Iterable[str], k: int) -> None:
    """Raise InputError if a measure's cut-off is larger than the `k` documents per query that a run keeps."""
    for name, cutoff in cutoffs(names).items():
        if cutoff is not None and cutoff > k:
            raise InputError(f"{name} reads {cutoff} documents per query but the run keeps k={k}; raise k or drop it")


def calculate(run: Run, qrels: Qrels, names: str | Iterable[str]) -> PerQuery:
    """Measure a run, query by query.

    Args:
        run: Scores, higher is better; infinite ones are allowed. Equal scores keep the order of the run, which is
            the corpus' for an index or BM25. Queries without judgements are left out of the result.
        qrels: Judgements, whole numbers. A query missing from the run counts as one without results. Grades below 0
            are not relevant, like 0; Bpref, infAP and `judged_only` treat them as unjudged, as
            trec_eval does.
        names: Measures, as in `measure_names`.

    Returns:
        `values[measure][query_id]` for every query of `qrels`, in its order.

    Raises:
        UnknownNameError: There is no such measure.
        InputError: A name is malformed, there are no judgements, no query of the run is judged, a score is not a
            number, a grade is not a whole number, or the measure failed on this data.
    """
    measures = [_parse(name) for name in measure_names(names)]
    _check(run, qrels)
    grades = {query: _whole(query, judged) for query, judged in qrels.items()}
    ranked = {query: best_first(numeric_scores(query, run[query])) for query in qrels if query in run}
    values: PerQuery = {str(measure): dict.fromkeys(qrels, float(measure.DEFAULT)) for measure in measures}
    others = []
    for measure in measures:
        if measure.NAME == "nDCG":
            # Computed here, since its gains depend on the size of grades; pytrec_eval reserves memory for each.
            values[str(measure)] |= {query: _ndcg(measure, ids, grades[query]) for query, ids in ranked.items()}
        elif isinstance(measure, _Registered):
            values[str(measure)] |= {query: measure.value(ids, grades[query]) for query, ids in ranked.items()}
        else:
            others.append(measure)
    for name, query, value in _provided(others, ranked, grades) if others else ():
        values[name][query] = value
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
    if base not in known and base in MEASURES:
        return _Registered(base, name.strip())
    if base not in known:
        raise UnknownNameError("measure", base, [*known, *MEASURES, *MEASURE_SETS])
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
    level = measure.params.get("rel")
    if level is not None and not 1 <= level <= _LARGE:
        raise InputError(f"{name}: rel must be a grade from 1 to {_LARGE:,}, not {level}")
    if measure.NAME != "nDCG" and not ir_measures.DefaultPipeline.supports(measure):
        raise InputError(f"{name} needs a program that is not installed here; see ir-measures' list of providers")
    return measure


class _Registered:
    """A registered measure at a cut-off, with the interface of ir-measures' measures."""

    DEFAULT = 0.0

    def __init__(self, name: str, given: str) -> None:
        try:
            self.NAME, cutoff = cut_off(given)
        except UnknownNameError:
            raise InputError(f"cannot read the measure {given!r}; write it as {name}@CUTOFF, as in {name}@10") from None
        self.params = {"cutoff": cutoff}

    def __str__(self) -> str:
        return f"{self.NAME}@{self.params['cutoff']}"

    def aggregator(self) -> Any:
        return require("ir_measures", extra="eval").MeanAgg()

    def value(self, ranked: Sequence[str], grades: Mapping[str, int]) -> float:
        """Return the value of one query; 0 if nothing is relevant to it."""
        judged = list(grades.values())
        if not any(map(is_relevant, judged)):
            return self.DEFAULT
        return measured(str(self), [grades.get(document, 0) for document in ranked[: self.params["cutoff"]]], judged)


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


def numeric_scores(query: str, ranking: Mapping[str, float]) -> dict[str, float]:
    """Return a query's scores as floats; InputError names the first that is not a number."""
    scores = {}
    for document, score in ranking.items():
        try:
            scores[document] = float(score)
        except (TypeError, ValueError, OverflowError):
            scores[document] = math.nan
        if math.isnan(scores[document]):
            raise InputError(f"query {query!r}: the score of document {document!r} is not a number")
    return scores


def _whole(query: str, judged: Mapping[str, int]) -> dict[str, int]:
    grades = {}
    for document, grade in judged.items():
        try:
            whole = int(grade) == grade
        except (TypeError, ValueError, OverflowError):
            whole = False
        if not whole:
            raise InputError(f"query {query!r}: the grade of document {document!r} must be whole, not {grade!r:.40}")
        grades[document] = int(grade)
    return grades


def _ndcg(measure: Any, ranked: Sequence[str], grades: Mapping[str, int]) -> float:
    gains: Mapping[str, float] = grades
    if "gains" in measure.params:
        gains = {document: measure["gains"].get(grade, grade) for document, grade in grades.items()}
    if measure["judged_only"]:
        ranked = [document for document in ranked if gains.get(document, _NOT_JUDGED) > _NOT_JUDGED]
    if measure["dcg"] == "exp-log2":
        highest = max([0, *gains.values()])
        gains = {document: _exponential(gain, highest) for document, gain in gains.items()}
    found = [gains.get(document, 0) for document in ranked]
    return normalized_gain(found, list(gains.values()), _cutoff(measure))


def _exponential(grade: float, highest: float) -> float:
    """Return 2 to the power of a grade, less 1, as a share of 2 to the power of the highest, so that all are finite."""
    return 2.0 ** max(grade - highest, -_LARGE) - 2.0 ** max(-highest, -_LARGE) if grade > 0 else 0.0


def _provided(
    measures: Sequence[Any], ranked: Mapping[str, Sequence[str]], grades: Mapping[str, Mapping[str, int]]
) -> Iterator[tuple[str, str, float]]:
    """Yield measure, query and value, as ir-measures' providers compute them."""
    highest = max((grade for judged in grades.values() for grade in judged.values()), default=0)
    for measure in measures:
        if measure.NAME == "ERR" and highest > _EXPONENTIAL:
            raise InputError(f"{measure} takes grades up to {_EXPONENTIAL}, but the judgements have {highest}")
    queries, scores, levels = list(grades), {}, {}
    for number, query in enumerate(queries):
        ids = ranked.get(query, ())
        places = {document: str(place) for place, document in enumerate(dict.fromkeys([*ids, *grades[query]]))}
        if ids:
            scores[str(number)] = {places[document]: float(len(ids) - rank) for rank, document in enumerate(ids)}
        small = _small(grades[query].values())
        # A query without judgements would be skipped; a judgement of a document outside the run has no effect.
        levels[str(number)] = {places[own]: small[grade] for own, grade in grades[query].items()} or {"none": 0}
    ir_measures = require("ir_measures", extra="eval")
    try:
        for metric in ir_measures.iter_calc(measures, levels, scores):
            yield str(metric.measure), queries[int(metric.query_id)], float(metric.value)
    except Exception as error:  # its providers raise any exception, some from subprocesses
        raise InputError(
            f"ir-measures could not compute {', '.join(map(str, measures))} on this run: {brief(error)}"
        ) from error


def _small(grades: Iterable[int]) -> dict[int, int]:
    """Map grades to smaller ones in the same order, which providers support.

    Below -1, which is trec_eval's "in the pool, not judged", pytrec_eval writes outside its memory.
    """
    distinct = sorted(set(grades))
    large = [grade for grade in distinct if grade > _LARGE]
    return {grade: max(grade, _NOT_JUDGED) for grade in distinct} | {
        grade: _LARGE + place for place, grade in enumerate(large, start=1)
    }


def p_mrr(per_query: Mapping[str, float]) -> float:
    """Aggregate `p_mrr_per_query` as FollowIR reports it: the mean over queries times 100, in -100 to 100."""
    if not per_query:
        raise InputError("p-MRR needs at least one query with changed judgements in both runs")
    return 100.0 * fmean(per_query.values())


def p_mrr_per_query(
    original_run: Run, changed_run: Run, original_qrels: Qrels, changed_qrels: Qrels
) -> dict[str, float]:
    """Compare the ranks of the documents whose relevance changed with the instruction.

    A document missing from a run ranks just after its last one. Equal scores keep the run's order; documents
    that are equal in both runs keep the original run's order in both, so that nothing moves unless a score
    changes.

    Args:
        original_run: Rankings under the original instructions.
        changed_run: Rankings under the changed ones, by the same query ids.
        original_qrels: Judgements under the original instructions.
        changed_qrels: Judgements under the changed ones.

    Returns:
        For each query with changed documents in both runs, the mean over those documents, in -1 to 1: above 0
        if documents moved as their relevance did.

    Raises:
        InputError: A score is not a number.
    """
    result: dict[str, float] = {}
    for query in dict.fromkeys([*original_qrels, *changed_qrels]):
        changes = _changes(original_qrels.get(query, {}), changed_qrels.get(query, {}))
        if not changes:
            continue
        if query not in original_run or query not in changed_run:
            logger.warning("p-MRR leaves out query %s, which is missing from one of the two runs", query)
            continue
        old, new = _ranks(*(numeric_scores(query, run[query]) for run in (original_run, changed_run)))
        moves = {name: _fall(old.get(name, len(old) + 1), new.get(name, len(new) + 1)) for name in changes}
        result[query] = fmean(-fall if changes[name] > 0 else fall for name, fall in moves.items())
    return result


def _changes(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """Return the gain in relevance of documents whose relevance changed."""
    gains = {name: max(after.get(name, 0), 0) - max(before.get(name, 0), 0) for name in [*before, *after]}
    return {name: gain for name, gain in gains.items() if gain}


def _ranks(original: Mapping[str, float], changed: Mapping[str, float]) -> tuple[dict[str, int], dict[str, int]]:
    """Return the ranks of both runs, from 1."""
    old = {name: rank for rank, name in enumerate(best_first(original), start=1)}
    new = best_first(changed)
    equal: dict[tuple[float, float], list[int]] = {}
    for place, name in enumerate(new):
        if name in original:
            equal.setdefault((original[name], changed[name]), []).append(place)
    ranks = {name: rank for rank, name in enumerate(new, start=1)}
    for places in equal.values():
        names = sorted((new[place] for place in places), key=old.__getitem__)
        ranks.update({name: place + 1 for name, place in zip(names, places, strict=True)})
    return old, ranks


def _fall(old: int, new: int) -> float:
    """Return how far a document fell, in -1 to 1: above 0 if its rank became larger."""
    return new / old - 1 if old >= new else 1 - old / new
