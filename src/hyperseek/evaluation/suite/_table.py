"""The table of a suite: systems by collections, compared with one of them, beside what each costs.

It is computed from result files alone. P-values are corrected by Holm's method for all systems and collections at once,
within each measure.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from hyperseek._config import Config
from hyperseek._display import ShowsTables
from hyperseek._files import atomic_write, write_json
from hyperseek._fingerprint import fingerprint_json
from hyperseek.errors import InputError, UnknownNameError
from hyperseek.evaluation._comparison import Row, Statistics, compared_section
from hyperseek.evaluation._measures import aggregate
from hyperseek.evaluation._result import SLICES, Evaluation
from hyperseek.evaluation._significance import holm
from hyperseek.evaluation.suite._result_files import SuiteResult

NOTABLE = 0.05
"""Corrected p-values below count as a difference."""


class SuiteColumn(Config):
    """A column of the table.

    Attributes:
        title: The collection's name, with a part of its fingerprint where two of one name differ.
        documents: How many are searched.
        queries: How many are measured.
        split: The split of the judgements.
        data: Fingerprint of documents and queries.
    """

    title: str
    documents: int
    queries: int
    split: str
    data: str


class SuiteCell(Row):
    """One system on one collection by one measure. `p_corrected` counts all systems and collections.

    Attributes:
        column: The column's title.
        slices: Means over the queries all, some or none of whose relevant documents were relevant in the system's
            training: how many queries, the mean, and the baseline's mean.
    """

    column: str
    slices: dict[str, tuple[int, float, float | None]] = Field(default_factory=dict)

    @property
    def p(self) -> float | None:
        """The corrected p-value; None for the baseline."""
        return None if self.p_corrected is None else next(iter(self.p_corrected.values()))

    @property
    def sign(self) -> int:
        """1 if it is better than the baseline beyond chance, -1 if worse, else 0."""
        if self.p is None or self.difference is None or self.p >= NOTABLE:
            return 0
        return 1 if self.difference > 0 else -1


class SuiteRow(Config):
    """A system, and what it costs over all columns.

    Attributes:
        system: Its name.
        about: What it is.
        training: What it was trained with; None for a system that was not.
        seeds: How often it was trained.
        means: By measure the mean over the columns that all systems have, in which each column counts as one.
        spread: By measure the standard deviation of that mean over seeds; None for a single one.
        query_ms: Median milliseconds of a query, text to documents; the mean over columns.
        query_ms_95: The 95th percentile likewise.
        compile_ms: The part from text to scorer; None where it is not timed apart.
        bytes_per_document: Of the numbers that are searched.
        encoding_seconds: Of all columns; None if unknown for one.
        documents_per_second: In encoding.
        training_seconds: Of one training, with caching and validation.
        shares_index: Whether it searches the baseline's index as it is.
        load: Highest load of the machine while it was timed.
    """

    system: str
    about: str = ""
    training: dict[str, Any] | None = None
    seeds: int = 1
    means: dict[str, float] = Field(default_factory=dict)
    spread: dict[str, float] | None = None
    query_ms: float | None = None
    query_ms_95: float | None = None
    compile_ms: float | None = None
    bytes_per_document: float | None = None
    encoding_seconds: float | None = None
    documents_per_second: float | None = None
    training_seconds: float | None = None
    shares_index: bool = False
    load: float | None = None


class SuiteTable(ShowsTables, Config):
    """The table of a suite, as `suite_table` computes it.

    Attributes:
        suite: The suite's name.
        baseline: The system that others are compared with.
        measures: Names; the first is the one that is read first.
        columns: The collections.
        rows: The systems.
        cells: Systems by columns by measures.
        left_out: Collections and results that are missing, and why.
        hardware: The machines that times are of.
        versions: Versions of packages.
        notes: Remarks for readers of the numbers.
    """

    suite: str
    baseline: str
    measures: tuple[str, ...]
    columns: tuple[SuiteColumn, ...]
    rows: tuple[SuiteRow, ...]
    cells: tuple[SuiteCell, ...]
    left_out: dict[str, str] = Field(default_factory=dict)
    hardware: tuple[dict[str, Any], ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def cell(self, system: str, column: str, measure: str | None = None) -> SuiteCell | None:
        """Return a cell; None if the system has no result there.

        Args:
            system: The system's name.
            column: The column's title.
            measure: The measure's name; None for the first.

        Returns:
            The cell.
        """
        wanted = (system, column, measure or self.measures[0])
        return next((cell for cell in self.cells if (cell.system, cell.column, cell.measure) == wanted), None)

    def row(self, system: str) -> SuiteRow:
        """Return the row of a system; UnknownNameError if there is none."""
        found = {row.system: row for row in self.rows}
        if system not in found:
            raise UnknownNameError("system", system, found)
        return found[system]

    def front(self, cost: str) -> list[str]:
        """Return the systems that no other beats both in the mean of the first measure and in a cost.

        Args:
            cost: Name of a field of `SuiteRow`, as in `query_ms` or `bytes_per_document`.

        Returns:
            Their names, the cheapest first.
        """
        priced = [(float(getattr(row, cost)), -row.means[self.measures[0]], row.system)
                  for row in self.rows if getattr(row, cost) is not None and row.means]  # fmt: skip
        best, front = -np.inf, []
        for _, quality, name in sorted(priced):
            if -quality > best:
                best = -quality
                front.append(name)
        return front

    def jobs(self) -> list[tuple[str, str, str]]:
        """Return which system to take for which job: the job, the system, and the numbers that say so."""
        from hyperseek.evaluation.suite._report import jobs

        return jobs(self)

    def to_markdown(self) -> str:
        """Return the table, costs, gains and losses, and how it was measured as Markdown."""
        from hyperseek.evaluation.suite._report import markdown

        return markdown(self)

    def to_html(self) -> str:
        """Return one HTML page, with pictures and without anything from elsewhere."""
        from hyperseek.evaluation.suite._page import page

        return page(self)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `comparison.json`, `comparison.md`, `comparison.csv` and `comparison.html`."""
        from hyperseek.evaluation.suite._report import csv_text

        place = Path(folder)
        write_json(place / "comparison.json", self.model_dump(mode="json"))
        for name, text in (
            ("comparison.md", self.to_markdown()),
            ("comparison.csv", csv_text(self)),
            ("comparison.html", self.to_html()),
        ):
            with atomic_write(place / name) as file:
                file.write(text)

    def _shown_tables(self) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
        from hyperseek.evaluation.suite._report import tables

        for table in tables(self):
            yield table.title, table.headings, table.rows

    def _shown_remarks(self) -> Sequence[str]:
        from hyperseek.evaluation.suite._report import remarks

        return remarks(self)

    def _frame_rows(self) -> Iterator[dict[str, Any]]:
        for cell in self.cells:
            flat = cell.model_dump(exclude={"p_values", "p_corrected", "slices"})
            yield {"column": cell.column, **flat, "p_corrected": cell.p}


def suite_table(
    results: Sequence[SuiteResult],
    *,
    baseline: str,
    systems: Sequence[str] = (),
    left_out: Mapping[str, str] | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> SuiteTable:
    """Compute the table of results.

    Args:
        results: As `read_results` returns them. Collections of one name but of other data, another split or another
            selection are columns of their own.
        baseline: The system that others are compared with.
        systems: The order of rows; those that it does not name come after them. Empty for the order of the results.
        left_out: What is missing and why, to be stated.
        confidence: Confidence of the bootstrap intervals, between 0 and 1.
        resamples: Resamples of the intervals and of the permutation test.
        seed: Seed of both.

    Returns:
        The table.

    Raises:
        InputError: There are no results, or they share no measure.
        UnknownNameError: No result is of the baseline.
    """
    if not results:
        raise InputError("there are no results; run `hyperseek evaluate --suite` first")
    given = list(dict.fromkeys([*(name for name in systems), *(result.system for result in results)]))
    order = [name for name in given if any(result.system == name for result in results)]
    if baseline not in order:
        raise UnknownNameError("system", baseline, order)
    measures = [name for name in results[0].values if all(name in result.values for result in results)]
    if not measures:
        raise InputError("these results share no measure; run the suite again, which computes those that it names")
    settings = Statistics(confidence=confidence, resamples=resamples, seed=seed)
    titled = _columns(results)
    cells: list[SuiteCell] = []
    for title, own in titled.items():
        found = {name: [one for one in own if one.system == name] for name in [baseline, *order]}
        cells += _cells(title, {name: parts for name, parts in found.items() if parts}, baseline, measures, settings)
    cells = _corrected(cells)
    common = [
        title
        for title in titled
        if all(any(cell.system == name and cell.column == title for cell in cells) for name in order)
    ]
    rows = [_row(name, titled, common, measures, cells, baseline) for name in order]
    position = {name: place for place, name in enumerate(order)}
    columns = {title: place for place, title in enumerate(titled)}
    machines = {fingerprint_json(one.costs.hardware): one.costs.hardware for one in results if one.costs.hardware}
    return SuiteTable(
        suite=results[0].suite,
        baseline=baseline,
        measures=tuple(measures),
        columns=tuple(_column(title, own) for title, own in titled.items()),
        rows=tuple(rows),
        cells=tuple(sorted(cells, key=lambda cell: (columns[cell.column], measures.index(cell.measure),
                                                    position[cell.system]))),
        left_out=dict(left_out or {}),
        hardware=tuple(machines.values()),
        versions=dict(results[0].protocol.versions),
        notes=_notes(results),
    )  # fmt: skip


def _columns(results: Sequence[SuiteResult]) -> dict[str, list[SuiteResult]]:
    """Group results by what makes a column, under the titles of columns."""
    groups: dict[tuple[str, str], list[SuiteResult]] = {}
    for result in results:
        groups.setdefault((result.collection, fingerprint_json(result.column)), []).append(result)
    names = [name for name, _ in groups]
    return {
        name if names.count(name) == 1 else f"{name} ({identity[:6]})": own for (name, identity), own in groups.items()
    }


def _column(title: str, own: Sequence[SuiteResult]) -> SuiteColumn:
    first = own[0]
    return SuiteColumn(
        title=title,
        documents=first.costs.documents,
        queries=len(first.queries),
        split=str(first.column.get("split", "")),
        data=str(first.column.get("data", "")),
    )


def _cells(
    title: str,
    found: Mapping[str, Sequence[SuiteResult]],
    baseline: str,
    measures: Sequence[str],
    settings: Statistics,
) -> Iterator[SuiteCell]:
    """Yield the cells of a column, not corrected yet; without the baseline nothing is compared."""
    evaluations = {name: _mean_of_seeds(parts) for name, parts in found.items()}
    first = next(iter(evaluations.values()))
    for part in (one for parts in found.values() for one in parts):
        if set(part.queries) != set(first.queries):
            raise InputError(
                f"{part.file_name} has other queries than the other results of {title}; delete it, and run the suite "
                f"again"
            )
    if baseline in evaluations:
        rows = compared_section(title, first.queries, evaluations, measures, settings).rows
    else:
        each = [
            compared_section(title, first.queries, {name: one}, measures, settings) for name, one in evaluations.items()
        ]
        rows = tuple(row for section in each for row in section.rows)
    base = evaluations.get(baseline)
    for row in rows:
        yield SuiteCell(**dict(row), column=title, slices=_slices(evaluations[row.system], base, row.measure))


def _mean_of_seeds(parts: Sequence[SuiteResult]) -> Evaluation:
    """Return the mean values of queries over seeds."""
    evaluation = parts[0].evaluation()
    if len(parts) == 1:
        return evaluation
    all_values = [part.evaluation().per_query for part in parts]
    values = {
        measure: {query: float(np.mean([each[measure][query] for each in all_values])) for query in own}
        for measure, own in evaluation.per_query.items()
        if all(measure in each for each in all_values)
    }
    return evaluation.model_copy(update={"per_query": values, "aggregate": aggregate(values)})


def _slices(
    evaluation: Evaluation, base: Evaluation | None, measure: str
) -> dict[str, tuple[int, float, float | None]]:
    if evaluation.slices is None:
        return {}
    found = {}
    for name in SLICES:
        queries = evaluation.slices.queries(name)
        if queries:
            theirs = None if base is None else base.over(queries)[measure]
            found[name] = (len(queries), evaluation.over(queries)[measure], theirs)
    return found


def _corrected(cells: Sequence[SuiteCell]) -> list[SuiteCell]:
    """Correct p-values for all systems and columns at once, within each measure."""
    result = list(cells)
    for measure in dict.fromkeys(cell.measure for cell in cells):
        places = [place for place, cell in enumerate(cells) if cell.measure == measure and cell.p_values]
        values = [next(iter((cells[place].p_values or {}).values())) for place in places]
        for place, value in zip(places, holm(values), strict=True):
            test = next(iter(cells[place].p_values or {}))
            result[place] = cells[place].model_copy(update={"p_corrected": {test: value}})
    return result


def _row(
    name: str,
    titled: Mapping[str, Sequence[SuiteResult]],
    common: Sequence[str],
    measures: Sequence[str],
    cells: Sequence[SuiteCell],
    baseline: str,
) -> SuiteRow:
    own = [one for results in titled.values() for one in results if one.system == name]
    seeds = sorted({one.seed for one in own if one.seed is not None})
    means, spread = {}, {}
    for measure in measures if common else ():
        parts = [
            cell.mean for cell in cells if (cell.system, cell.measure) == (name, measure) and cell.column in common
        ]
        means[measure] = statistics.fmean(parts)
        each = [
            statistics.fmean(
                statistics.fmean(one.values[measure])
                for title in common
                for one in titled[title]
                if one.system == name and one.seed == seed
            )
            for seed in seeds
        ]
        if len(each) > 1:
            spread[measure] = statistics.stdev(each)
    costs = [one.costs for one in own]
    # One result of each column: seeds search indexes of one size.
    of_columns = [[one.costs for one in results if one.system == name] for results in titled.values()]
    first = [one[0] for one in of_columns if one]
    seconds = _total([cost.encoding_seconds for cost in first])
    documents = sum(cost.documents for cost in first)
    sizes = _total([cost.point_bytes for cost in first])
    times = [cost.query_ms for cost in costs if cost.query_ms]
    compiling = [cost.compile_ms for cost in costs if cost.compile_ms]
    trainings = [sum(cost.training_seconds.values()) for cost in costs if cost.training_seconds]
    loads = [cost.load for cost in costs if cost.load is not None]
    bases = {
        (title, one.costs.index) for title, results in titled.items() for one in results
        if one.system == baseline and one.costs.index is not None
    }  # fmt: skip
    indexes = {(title, one.costs.index) for title, results in titled.items() for one in results if one.system == name}
    return SuiteRow(
        system=name,
        about=own[0].about,
        training=own[0].training,
        seeds=max(1, len(seeds)),
        means=means,
        spread=spread or None,
        query_ms=statistics.fmean(statistics.median(each) for each in times) if times else None,
        query_ms_95=statistics.fmean(float(np.quantile(each, 0.95)) for each in times) if times else None,
        compile_ms=statistics.fmean(statistics.median(each) for each in compiling) if compiling else None,
        bytes_per_document=sizes / documents if sizes is not None and documents else None,
        encoding_seconds=seconds,
        documents_per_second=documents / seconds if seconds else None,
        training_seconds=statistics.fmean(trainings) if trainings else None,
        shares_index=bool(indexes) and indexes <= bases,
        load=max(loads, default=None),
    )


def _total(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _notes(results: Sequence[SuiteResult]) -> tuple[str, ...]:
    """Return the notes of results, each once, with the results it is of."""
    owners: dict[str, list[str]] = {}
    for result in results:
        for note in result.notes:
            owners.setdefault(note, []).append(f"{result.system} on {result.collection}")
    return tuple(f"{note} ({len(names)} results, as {names[0]})" for note, names in owners.items())
