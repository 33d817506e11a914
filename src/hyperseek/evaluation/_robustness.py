"""Robustness: how much of a system's quality is left when its queries are perturbed.

The relative drop is (original - perturbed) / original, of means over all queries, those that the perturbation left as
they are included: the reproduction study of Hypencoder (arXiv 2604.27037) reports this. Its interval is a percentile
bootstrap of the ratio over queries, and the test is paired: original against perturbed, query by query.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from hyperseek._config import Config
from hyperseek._display import ShowsTables
from hyperseek.data import Dataset
from hyperseek.errors import InputError
from hyperseek.evaluation._comparison import Statistics, named_with_baseline
from hyperseek.evaluation._perturbations import perturb
from hyperseek.evaluation._result import Evaluation
from hyperseek.evaluation._significance import Floats, holm, paired_test, percentiles, resampled, settled

_EXAMPLES = 3


class PerturbedQueries(Config):
    """What a perturbation did to the queries of a split.

    Attributes:
        queries: How many there are.
        changed: How many have another text.
        examples: Texts before and after, of the first that changed.
    """

    queries: int
    changed: int
    examples: tuple[tuple[str, str], ...] = ()


class Drop(Config):
    """How one system fares on queries perturbed in one way, by one measure.

    Attributes:
        perturbation: Its kind.
        measure: The measure's name.
        system: The system's.
        original: Mean over the original queries.
        perturbed: Mean over the perturbed ones.
        drop: The relative drop: 0.25 if a quarter is lost, below 0 for a gain; None if the original is 0.
        interval: Bootstrap interval of it.
        p_values: Two-sided p-values of original against perturbed, by name of the test.
        p_corrected: The same after Holm's correction for the number of systems.
        more: The drop minus the baseline's; None for the baseline itself.
        more_interval: Bootstrap interval of that, over the same draws of queries.
    """

    perturbation: str
    measure: str
    system: str
    original: float
    perturbed: float
    drop: float | None
    interval: tuple[float, float] | None
    p_values: dict[str, float]
    p_corrected: dict[str, float]
    more: float | None = None
    more_interval: tuple[float, float] | None = None


class Robustness(ShowsTables, Config):
    """What perturbed queries cost each system.

    Attributes:
        baseline: Name of the system that the others' drops are compared with.
        statistics: Tests, confidence, resamples and seed.
        perturbed: What each perturbation did to the queries.
        drops: Perturbation by perturbation and measure by measure, the baseline first.
        notes: Remarks for readers of the numbers.
    """

    baseline: str
    statistics: Statistics
    perturbed: dict[str, PerturbedQueries]
    drops: tuple[Drop, ...]
    notes: tuple[str, ...] = Field(default=())

    def _shown_tables(self) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
        percent = f"{100 * self.statistics.confidence:g} %"
        several = len({drop.system for drop in self.drops}) > 1
        corrected = " (Holm)" if several else ""
        headings = ["measure", "system", "original", "perturbed", "drop", percent]
        headings += [f"p {test}{corrected}" for test in self.statistics.tests]
        headings += ["drop beside baseline", percent] if several else []
        for kind, done in self.perturbed.items():
            rows = []
            for row in (drop for drop in self.drops if drop.perturbation == kind):
                cells = [row.measure if row.system == self.baseline else "", row.system, f"{row.original:.4f}"]
                cells += [f"{row.perturbed:.4f}", _share(row.drop), _ends(row.interval)]
                cells += [_p_value(row.p_corrected[test]) for test in self.statistics.tests]
                rows.append(cells + ([_points(row.more), _point_ends(row.more_interval)] if several else []))
            yield f"{kind}: {done.changed:,} of {done.queries:,} queries changed", headings, rows

    def _shown_remarks(self) -> Iterator[str]:
        for kind, done in self.perturbed.items():
            for before, after in done.examples[:1]:
                yield f"{kind}: {before!r} became {after!r}"
        yield from self.notes

    def _frame_rows(self) -> Iterator[dict[str, Any]]:
        for drop in self.drops:
            yield {
                **drop.model_dump(exclude={"p_values", "p_corrected"}),
                **{f"p_{test}": value for test, value in drop.p_values.items()},
                **{f"p_{test}_corrected": value for test, value in drop.p_corrected.items()},
            }


def perturbed_dataset(
    dataset: Dataset, kind: str, *, split: str = "test", seed: int = 0
) -> tuple[Dataset, PerturbedQueries]:
    """Return a collection whose queries are perturbed, with the same documents and judgements.

    Args:
        dataset: The collection.
        kind: As for `perturb`.
        split: The split of the judgements; others are left out.
        seed: Of the draws.

    Returns:
        The collection, and what was done to its queries.

    Raises:
        UnknownNameError: There is no such split or kind.
        InputError: The kind needs a file or a number that is not given, or changes no query.
    """
    queries = dataset.queries(split)
    changed = perturb(queries, kind, seed=seed)
    pairs = [(old.text, new.text) for old, new in zip(queries, changed, strict=True) if old.text != new.text]
    if not pairs:
        raise InputError(f"the perturbation {kind} changes none of the {len(queries)} queries of {dataset.name}")
    done = PerturbedQueries(queries=len(queries), changed=len(pairs), examples=tuple(pairs[:_EXAMPLES]))
    qrels = dataset.qrels(split)
    made = Dataset.from_records(dataset.name, dataset.documents, queries=changed, qrels={split: qrels})
    return made.reopened(check=False), done


def measure_robustness(
    originals: Sequence[Evaluation],
    perturbed: Mapping[str, Sequence[Evaluation]],
    queries: Mapping[str, PerturbedQueries],
    *,
    baseline: str | None = None,
    **statistics: Any,
) -> Robustness:
    """Compare systems on perturbed queries with themselves on the original ones, and their drops with a baseline's.

    Args:
        originals: Results on the original queries, with distinct names.
        perturbed: Results of the same systems on perturbed ones, by the perturbation's kind.
        queries: What each perturbation did, by the same kinds.
        baseline: Name of the system to compare drops with; None takes the first.
        **statistics: `tests`, `confidence`, `resamples` and `seed`, as for `compare`.

    Returns:
        The drops.

    Raises:
        InputError: The results of a perturbation are not of the same systems, queries and measures.
        UnknownNameError: There is no such baseline.
    """
    systems = named_with_baseline(originals, baseline)
    settings = Statistics.from_mapping(statistics, source="measure_robustness()")
    drops: list[Drop] = []
    for kind, evaluations in perturbed.items():
        others = {evaluation.name: evaluation for evaluation in evaluations}
        if others.keys() != systems.keys():
            raise InputError(f"the results for {kind} are of {sorted(others)}, the original ones of {sorted(systems)}")
        for measure in next(iter(systems.values())).measures:
            drops += _drops(kind, measure, [(own, others[name]) for name, own in systems.items()], settings)
    return Robustness(
        baseline=next(iter(systems)),
        statistics=settings,
        perturbed={kind: queries[kind] for kind in perturbed},
        drops=tuple(drops),
    )


def _drops(
    kind: str, measure: str, pairs: Sequence[tuple[Evaluation, Evaluation]], settings: Statistics
) -> Iterator[Drop]:
    """Yield one measure's drops, the baseline's first."""
    names = pairs[0][0].queries
    try:
        before, after = (
            np.array([[one[side].per_query[measure][query] for one in pairs] for query in names]) for side in (0, 1)
        )  # (n, s) each
    except KeyError as error:
        raise InputError(f"the results for {kind} lack the measure or query {error.args[0]!r}") from None
    samples = _resampled_drops(before, after, settings)
    differences = settled(before - after)
    p_values = {
        test: paired_test(test, differences, resamples=settings.resamples, seed=settings.seed).tolist()
        for test in settings.tests
    }
    corrected = {test: holm(values) for test, values in p_values.items()}
    means = np.stack([before.mean(axis=0), after.mean(axis=0)])
    drops = [float(1 - new / old) if old else None for old, new in means.T]
    for place, (own, _) in enumerate(pairs):
        drop, first = drops[place], drops[0]
        beside = None if place == 0 or drop is None or first is None else drop - first
        yield Drop(
            perturbation=kind,
            measure=measure,
            system=own.name,
            original=float(means[0, place]),
            perturbed=float(means[1, place]),
            drop=drop,
            interval=None if drop is None else _interval(samples[:, place], settings),
            p_values={test: values[place] for test, values in p_values.items()},
            p_corrected={test: values[place] for test, values in corrected.items()},
            more=beside,
            more_interval=None if beside is None else _interval(samples[:, place] - samples[:, 0], settings),
        )


def _resampled_drops(before: Floats, after: Floats, settings: Statistics) -> Floats:
    """Return `(resamples, s)` relative drops of bootstrap samples; NaN where the original is 0."""
    parts = []
    for times in resampled(len(before), resamples=settings.resamples, seed=settings.seed):
        old, new = times @ before, times @ after
        parts.append(1 - np.divide(new, old, out=np.full_like(new, np.nan), where=old != 0))
    return np.concatenate(parts)


def _interval(samples: Floats, settings: Statistics) -> tuple[float, float] | None:
    known = samples[np.isfinite(samples)]
    if not len(known):
        return None
    low, high = percentiles(known[:, None], settings.confidence)[0].tolist()
    return low, high


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _ends(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"


def _points(value: float | None) -> str:
    return "" if value is None else f"{100 * value:+.1f}"


def _point_ends(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{100 * interval[0]:+.1f} to {100 * interval[1]:+.1f}"


def _p_value(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"
