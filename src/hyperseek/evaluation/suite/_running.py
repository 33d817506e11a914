"""Running a suite: what has no result yet is trained, encoded, ranked and written; the rest is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from hyperseek._config import Config
from hyperseek._files import locked, write_json, writing
from hyperseek._long_work import stop_here, stoppable
from hyperseek.errors import DataError, InputError, UnknownNameError, require
from hyperseek.evaluation.suite._columns import Column, open_columns
from hyperseek.evaluation.suite._result_files import SuiteResult, packed, read_result, read_results
from hyperseek.evaluation.suite._suite import Suite, read_suite
from hyperseek.evaluation.suite._systems import Entry, LeftOut, Workshop
from hyperseek.evaluation.suite._table import SuiteTable, suite_table

_SKIPPED = "left_out.json"


def run_suite(
    suite: Suite | str | os.PathLike[str],
    *,
    output: str | os.PathLike[str],
    systems: Sequence[str] = (),
    collections: Sequence[str] = (),
    retime: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> SuiteTable:
    """Measure every system of a suite on every collection, and compare them.

    Whatever has a result of the same key is not measured again; a killed run goes on where it was, also within a
    training or an encoding. Models of one document side share one index of each collection, and recipes of one trunk
    share the cache of its outputs.

    Args:
        suite: The suite, its file, or the name of one of this project.
        output: Folder of results, indexes, models, and of the table: `comparison.md`, `.csv`, `.json` and `.html`.
        systems: Only these, the baseline, and what they are made of; all if empty.
        collections: Only these; all if empty.
        retime: Measure the milliseconds of queries again where there are results, as of a machine that was busy.
        tell: Is told what is being done, a line each.

    Returns:
        The table of the chosen systems and collections.

    Raises:
        ConfigError: The suite is invalid.
        UnknownNameError: There is no such suite, system or collection.
        DataError: No collection is there, or one cannot be read.
        Interrupted: Ctrl-C was pressed.
    """
    chosen = suite if isinstance(suite, Suite) else read_suite(suite)
    for name in collections:
        if name not in chosen.collections:
            raise UnknownNameError("collection", name, chosen.collections)
    wanted = {name: one for name, one in chosen.collections.items() if not collections or name in collections}
    names = chosen.in_order([*systems, chosen.baseline] if systems else None)
    for module in ("ir_measures", *(("bm25s", "Stemmer") if any(chosen.systems[n].bm25 for n in names) else ())):
        require(module, extra="eval")
    place = Path(output)
    with writing(place):
        (place / "results").mkdir(parents=True, exist_ok=True)
    with locked(place / "suite.lock"):
        columns, left_out = open_columns(chosen, wanted)
        for name, reason in left_out.items():
            tell(f"{name} is left out: {reason}")
        run = _Run(chosen, place, tell, retime=retime)
        with stoppable(lambda: f"{run.done} results are in {place}; the same command goes on"):
            results = run.results(names, columns)
    skipped = {**left_out, **run.left_out}
    if not results:
        raise InputError(f"there is nothing to compare: {'; '.join(skipped.values())}")
    write_json(place / _SKIPPED, Skipped(left_out=skipped).model_dump(mode="json"))
    order = [name for name in chosen.systems if name in names]
    table = suite_table(results, baseline=chosen.baseline, systems=order, left_out=skipped, seed=chosen.seed)
    table.save(place)
    return table


def read_table(
    folder: str | os.PathLike[str],
    *,
    systems: Sequence[str] = (),
    collections: Sequence[str] = (),
    baseline: str | None = None,
) -> SuiteTable:
    """Compute the table of a folder of results; nothing is measured.

    Args:
        folder: As `run_suite` or `publish_results` wrote it.
        systems: Only these and the baseline; all if empty.
        collections: Only these; all if empty.
        baseline: The system that others are compared with; None for the suite's.

    Returns:
        The table.

    Raises:
        DataError: There are no results, or a file is damaged.
        InputError: None is of these systems and collections.
        UnknownNameError: No result is of the baseline.
    """
    found = read_results(folder)
    kept = {*systems, baseline or found[0].baseline} if systems else {one.system for one in found}
    results = [one for one in found if one.system in kept and (not collections or one.collection in collections)]
    if not results:
        raise InputError(f"{folder} has no result of these systems and collections")
    file = Path(folder) / _SKIPPED
    left_out = Skipped.from_json(file, "what a suite left out").left_out if file.is_file() else {}
    return suite_table(results, baseline=baseline or results[0].baseline, left_out=left_out)


class Skipped(Config):
    """What a run left out, beside its results: `left_out.json`.

    Attributes:
        left_out: Reasons by name.
    """

    left_out: dict[str, str] = Field(default_factory=dict)


class _Run:
    def __init__(self, suite: Suite, output: Path, tell: Callable[[str], None], *, retime: bool) -> None:
        self.suite, self.output, self.tell, self.retime = suite, output, tell, retime
        self.done = 0
        self.left_out: dict[str, str] = {}
        self.workshop = Workshop(suite, output, tell, self.stored)

    def results(self, names: Sequence[str], columns: Mapping[str, Column]) -> list[SuiteResult]:
        """Return all results, those that are not there once they are made."""
        found = []
        for entry in self.workshop.entries(names):
            for column in columns.values():
                try:
                    found.append(self._result(entry, column))
                except LeftOut as reason:
                    self.left_out[f"{entry.system} on {column.name}"] = str(reason)
                self.done = len(found)
                stop_here()
        return found

    def stored(self, entry: Entry, column: Column) -> SuiteResult:
        """Return the result of an entry that was measured before."""
        found = self._read(entry, column)
        if found is None:
            raise LeftOut(f"{entry.system} has no result on {column.name}")
        return found

    def _file(self, entry: Entry, column: Column) -> Path:
        seed = "" if entry.seed is None else f".{entry.seed}"
        return self.output / "results" / column.name / f"{entry.system}{seed}.json.gz"

    def _read(self, entry: Entry, column: Column) -> SuiteResult | None:
        file = self._file(entry, column)
        if not file.is_file():
            return None
        try:
            result = read_result(file)
        except DataError as error:
            self.tell(f"{error}")
            return None
        return result if result.key == self.workshop.key(entry, column) else None

    def _result(self, entry: Entry, column: Column) -> SuiteResult:
        result = self._read(entry, column)
        if result is None:
            result = self._measured(entry, column)
            result.write(self.output / "results")
            return result
        changes: dict[str, Any] = {}
        missing = [name for name in self.suite.measures if name not in result.values]
        if missing:
            computed = _values(result.measured(column.qrels, missing), result.queries)
            changes["values"] = {**result.values, **computed}
        if self.retime:
            changes["costs"] = self.workshop.time(entry, column, result.costs)
        if changes:
            result = result.model_copy(update=changes)
            result.write(self.output / "results")
        return result.model_copy(update={"values": {name: result.values[name] for name in self.suite.measures}})

    def _measured(self, entry: Entry, column: Column) -> SuiteResult:
        key = self.workshop.key(entry, column)
        made = self.workshop.make(entry, column)
        ranking = made.ranking
        evaluation = ranking.evaluate(column.qrels, measures=self.suite.measures)
        seed = "" if entry.seed is None else f", seed {entry.seed}"
        first = self.suite.measures[0]
        self.tell(f"{entry.system}{seed} on {column.name}: {first} {evaluation.aggregate[first]:.4f}")
        return SuiteResult(
            suite=self.suite.name or "",
            baseline=self.suite.baseline,
            place=(list(self.suite.systems).index(entry.system), list(self.suite.collections).index(column.name)),
            system=entry.system,
            collection=column.name,
            seed=entry.seed,
            key=key,
            column=column.identity,
            about=self.suite.systems[entry.system].about,
            training=made.training,
            protocol=ranking.protocol,
            queries=evaluation.queries,
            values=_values(evaluation.per_query, evaluation.queries),
            slices=evaluation.slices,
            notes=evaluation.notes,
            costs=made.costs,
            **packed(ranking.run, evaluation.queries),
        )


def _values(values: Mapping[str, Mapping[str, float]], queries: Iterable[str]) -> dict[str, Any]:
    asked = list(queries)
    return {measure: tuple(by_query[query] for query in asked) for measure, by_query in values.items()}
