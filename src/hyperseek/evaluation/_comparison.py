"""Comparison of systems over the same queries: differences, intervals, paired tests, and tables.

Shapes: `n` queries, `m` measures, `s` systems with the baseline first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from hyperseek._config import LARGEST_SEED, Config
from hyperseek._display import ShowsTables
from hyperseek._files import write_json
from hyperseek.errors import InputError, UnknownNameError, printable
from hyperseek.evaluation._result import SLICES, Evaluation, check_alike, recorded_differences, unlike_keys
from hyperseek.evaluation._significance import RESAMPLES, Floats, bootstrap_intervals, holm, paired_test, settled
from hyperseek.evaluation.query_slices import FEW, QuerySlice

_NOTABLE = 0.05  # p-values below are set in bold
_MEAN_INTERVAL, _COUNTS = 3, -1  # columns hidden on narrow terminals, in this order


class Row(Config):
    """One system by one measure.

    Attributes:
        system: Its name.
        measure: The measure's name.
        mean: Mean over the queries of the section.
        interval: Bootstrap interval of the mean.
        difference: Mean minus the baseline's; None for the baseline itself, like all fields below.
        difference_interval: Bootstrap interval of the mean difference, over queries.
        p_values: Two-sided p-values by name of the test.
        p_corrected: The same after Holm's correction for the number of compared systems.
        wins: Queries on which the system is better than the baseline.
        ties: Queries on which they are equal.
        losses: Queries on which it is worse.
    """

    system: str
    measure: str
    mean: float
    interval: tuple[float, float]
    difference: float | None = None
    difference_interval: tuple[float, float] | None = None
    p_values: dict[str, float] | None = None
    p_corrected: dict[str, float] | None = None
    wins: int | None = None
    ties: int | None = None
    losses: int | None = None


class Section(Config):
    """A comparison over one set of queries.

    Attributes:
        title: Description of the queries.
        queries: Number of queries.
        rows: Measure by measure, the baseline first.
    """

    title: str
    queries: int
    rows: tuple[Row, ...]

    def row(self, system: str, measure: str) -> Row:
        """Return the row of one system and one measure, by its canonical name.

        Args:
            system: The system's name.
            measure: The measure's canonical name.

        Returns:
            The row.

        Raises:
            UnknownNameError: There is no such row.
        """
        found = {f"{row.system} {row.measure}": row for row in self.rows}
        name = f"{system} {measure}"
        if name not in found:
            raise UnknownNameError("row", name, found)
        return found[name]


class Statistics(Config):
    """Statistical settings of a comparison.

    Attributes:
        tests: Names of the paired tests.
        confidence: Confidence of the bootstrap intervals, between 0 and 1.
        resamples: How many samples or sign patterns are drawn.
        seed: Seed of the draws.
    """

    tests: tuple[Literal["permutation", "t", "wilcoxon"], ...] = ("permutation",)
    confidence: float = Field(default=0.95, gt=0, lt=1)
    resamples: int = Field(default=RESAMPLES, ge=1)
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)


class Comparison(ShowsTables, Config):
    """Several systems compared with one of them.

    Attributes:
        baseline: Name of the system the others are compared with.
        systems: Names of all systems, the baseline first.
        measures: Measures that all of them have.
        statistics: Tests, confidence, resamples and seed.
        sections: All queries first, then the slices: by documents relevant in training, and those that were asked for.
        unlike: Keys of the protocol that should be equal but differ; empty unless `allow_unlike`.
        recorded: Other differences between systems: `recorded[key][system]`.
        notes: Remarks for readers of the numbers.
    """

    baseline: str
    systems: tuple[str, ...]
    measures: tuple[str, ...]
    statistics: Statistics
    sections: tuple[Section, ...]
    unlike: tuple[str, ...] = ()
    recorded: dict[str, dict[str, Any]] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the comparison as JSON."""
        write_json(path, self.model_dump(mode="json"))

    def to_markdown(self) -> str:
        """Return one Markdown table per section, and the notes."""
        return markdown(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield one table per section, as wide as the console allows, and the notes, for Rich to print."""
        return rich_tables(self, console, options)

    def _shown_tables(self) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
        for section in self.sections:
            yield _title(section), _headings(self), [_cells(row, self) for row in section.rows]

    def _shown_remarks(self) -> Sequence[str]:
        return _remarks(self)

    def _frame_rows(self) -> Iterator[dict[str, Any]]:
        for section in self.sections:
            for row in section.rows:
                yield {
                    "queries": section.title,
                    "count": section.queries,
                    **row.model_dump(exclude={"p_values", "p_corrected"}),
                    **{f"p_{test}": value for test, value in (row.p_values or {}).items()},
                    **{f"p_{test}_corrected": value for test, value in (row.p_corrected or {}).items()},
                }


def compare(
    evaluations: Sequence[Evaluation],
    *,
    baseline: str | None = None,
    tests: str | Sequence[str] = "permutation",
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    allow_unlike: bool = False,
    slices: Sequence[QuerySlice] = (),
) -> Comparison:
    """Compare results, query by query, with one of them.

    Args:
        evaluations: At least one, with distinct names. For a single one only intervals are computed.
        baseline: Name of the one to compare the others with; None takes the first.
        tests: One or more of `"permutation"`, `"t"` and `"wilcoxon"`.
        confidence: Confidence of the bootstrap intervals, between 0 and 1.
        resamples: How many samples or sign patterns are drawn, at least 1.
        seed: Seed of the draws.
        allow_unlike: Compare results that were not measured alike, over the queries and measures they share; the
            comparison lists the differences.
        slices: Queries to compare over too, as `slice_queries` returns them; p-values are not corrected for their
            number.

    Returns:
        The comparison.

    Raises:
        ProtocolError: The results were not measured alike.
        UnknownNameError: There is no such baseline.
        InputError: Names repeat, the results share no measure or no query, or a test, the
            confidence, the resamples or the seed is invalid.
    """
    systems = named_with_baseline(evaluations, baseline)
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
        raise InputError("these results share no measure; measure them by the same measures")
    sets, slice_notes = _query_sets(systems, slices)
    sections = [compared_section(title, queries, systems, measures, statistics) for title, queries in sets.items()]
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


def named_with_baseline(evaluations: Sequence[Evaluation], baseline: str | None) -> dict[str, Evaluation]:
    """Return results by name, the baseline first; an error if names repeat or there is no such baseline."""
    by_name = {evaluation.name: evaluation for evaluation in evaluations}
    if not by_name:
        raise InputError("there is nothing to compare; give at least one evaluation")
    if len(by_name) < len(evaluations):
        names = [evaluation.name for evaluation in evaluations]
        raise InputError(f"every system needs a distinct name, not {', '.join(names)}")
    if baseline is None:
        return by_name
    if baseline not in by_name:
        raise UnknownNameError("system", baseline, by_name)
    return {baseline: by_name.pop(baseline), **by_name}


def _query_sets(
    systems: Mapping[str, Evaluation], slices: Sequence[QuerySlice]
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """Return all shared queries, then each slice, by title; and notes on slices that are all of them, or few.

    Systems with equal slices share one.
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
    for given in slices:
        queries = tuple(query for query in given.queries if query in shared)
        if len(queries) == len(everything):
            notes.append(f"every query is in the slice {given.title}")
        elif queries:
            sets[given.title] = queries
            few = (
                f"{given.title}: {len(queries)} {'query' if len(queries) == 1 else 'queries'}, too few to conclude from"
            )
            notes += [few] if len(queries) < FEW else []
            notes += [given.note] if given.note else []
    if slices:
        notes.append("p-values are not corrected for the number of slices")
    return sets, list(dict.fromkeys(notes))


def compared_section(
    title: str,
    queries: Sequence[str],
    systems: Mapping[str, Evaluation],
    measures: Sequence[str],
    statistics: Statistics,
) -> Section:
    """Compare systems over some queries with the first of them, whatever their protocols say."""
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
    """Return the fields of `Row` for `(n, m, s - 1)` differences, by measure and system."""
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
    """Return the `(m, s, 2)` intervals of `(n, m, s)` values."""
    ends = bootstrap_intervals(
        values.reshape(len(values), -1),
        confidence=statistics.confidence,
        resamples=statistics.resamples,
        seed=statistics.seed,
    )
    return ends.reshape(*values.shape[1:], 2)


def _notes(systems: Mapping[str, Evaluation]) -> tuple[str, ...]:
    """Return the evaluations' notes, each once, with the names of the systems it applies to."""
    owners: dict[str, list[str]] = {}
    for name, evaluation in systems.items():
        for note in evaluation.notes:
            owners.setdefault(note, []).append(name)
    return tuple(
        note if len(names) == len(systems) else f"{', '.join(names)}: {note}" for note, names in owners.items()
    )


def rich_tables(comparison: Comparison, console: Console, options: ConsoleOptions) -> RenderResult:
    """Yield one table per section, and the remarks below them."""
    for section in comparison.sections:
        for hidden in ((), (_MEAN_INTERVAL,), (_MEAN_INTERVAL, _COUNTS)):
            table = _table(section, comparison, hidden)
            if console.measure(table, options=options.update(max_width=10_000)).maximum <= options.max_width:
                break
        yield Text(printable(_title(section)), style="bold")
        yield table
    for line in _remarks(comparison):
        yield Text(printable(line))


def _table(section: Section, comparison: Comparison, hidden: tuple[int, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    headings = _headings(comparison)
    kept = [place for place in range(len(headings)) if place not in {column % len(headings) for column in hidden}]
    for place in kept:
        table.add_column(headings[place], justify="left" if place < 2 else "right", overflow="fold")
    for row in section.rows:
        cells = _cells(row, comparison)
        # A system's name may have square brackets, which Rich would read as markup.
        table.add_row(
            *(Text(printable(cells[place])) for place in kept), style=_style(row), end_section=_last(row, comparison)
        )
    return table


def markdown(comparison: Comparison) -> str:
    """Return one table per section, and the remarks below them."""
    lines: list[str] = []
    headings = _headings(comparison)
    for section in comparison.sections:
        lines += [f"**{printable(_title(section))}**", ""]
        lines.append("| " + " | ".join(headings) + " |")
        lines.append("| --- | --- |" + " ---: |" * (len(headings) - 2))
        for row in section.rows:
            lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in _cells(row, comparison)) + " |")
        lines.append("")
    lines += [f"- {printable(line)}" for line in _remarks(comparison)]
    return "\n".join(lines).rstrip() + "\n"


def _title(section: Section) -> str:
    return f"{section.title}: {section.queries} {'query' if section.queries == 1 else 'queries'}"


def _headings(comparison: Comparison) -> list[str]:
    percent = f"{100 * comparison.statistics.confidence:g} %"
    headings = ["measure", "system", "mean", percent]
    if len(comparison.systems) > 1:
        corrected = " (Holm)" if len(comparison.systems) > 2 else ""
        tests = [f"p {test}{corrected}" for test in comparison.statistics.tests]
        headings += ["difference", percent, *tests, "win/tie/loss"]
    return headings


def _cells(row: Row, comparison: Comparison) -> list[str]:
    measure = row.measure if row.system == comparison.systems[0] else ""
    cells = [measure, printable(row.system), f"{row.mean:.4f}", _interval(row.interval, "")]
    if len(comparison.systems) == 1:
        return cells
    if row.difference is None or row.difference_interval is None or row.p_corrected is None:
        return cells + [""] * (3 + len(comparison.statistics.tests))
    cells += [f"{row.difference:+.4f}", _interval(row.difference_interval, "+")]
    cells += [_p_value(row.p_corrected[test]) for test in comparison.statistics.tests]
    return [*cells, f"{row.wins}/{row.ties}/{row.losses}"]


def _interval(ends: tuple[float, float], sign: str) -> str:
    return f"{ends[0]:{sign}.3f} to {ends[1]:{sign}.3f}"


def _p_value(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _style(row: Row) -> str | None:
    return "bold" if row.p_corrected and max(row.p_corrected.values()) < _NOTABLE else None


def _last(row: Row, comparison: Comparison) -> bool:
    return len(comparison.systems) > 1 and row.system == comparison.systems[-1]


def _remarks(comparison: Comparison) -> list[str]:
    lines = []
    if comparison.unlike:
        lines.append(f"NOT MEASURED ALIKE: the results differ in {', '.join(comparison.unlike)}")
    if len(comparison.systems) > 1:
        lines.append(f"differences are relative to {comparison.baseline}")
    lines += [f"{key}: {_by_system(values)}" for key, values in comparison.recorded.items()]
    return lines + list(comparison.notes)


def _by_system(values: dict[str, Any]) -> str:
    return ", ".join(f"{value!r} ({system})" for system, value in values.items())
