"""What task cards are worth: a table of systems over one frozen index per task, with 0 and more judged pairs.

A card helps only if it beats what needs no card (feedback, BM25, fusion, adapters of the same pairs), and only as far
as the wrong card, a random text and one generic card do not. So all of these are rows of one table, on the same queries
of the same index, and every comparison is paired by query.

Pairs come from a split of their own, or from a drawn half of the judged queries, and no query of theirs is measured.
Draws are nested: 5 pairs are the first of the 20 of the same seed. A row that is drawn several times has for each query
the mean over its draws.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from hyperseek._config import Config
from hyperseek._display import ShowsTables
from hyperseek._files import atomic_write, write_json
from hyperseek._fingerprint import fingerprint_json
from hyperseek._long_work import progress, stop_here, stoppable
from hyperseek.errors import UnknownNameError, printable
from hyperseek.evaluation._card_rows import ROWS, CardStudy, Draw, Session
from hyperseek.evaluation._measures import calculate, measure_names
from hyperseek.evaluation._significance import Floats, bootstrap_intervals, holm, paired_test, settled
from hyperseek.index import Index
from hyperseek.models import Retriever, load

_LARGEST = 1 << 28  # bytes of the stored values of one row
_NOTABLE = 0.05


class CardResult(Config):
    """A row of the table.

    Attributes:
        row: One of `card_rows()`.
        pairs: Judged pairs that it was given.
        regime: Of rows of a model with cards: whether the model was `trained` on the task or it was `left out`.
        means: By task and measure: mean over the queries, and over the draws.
        spread: By measure, the standard deviation of the mean over tasks between draws; 0 for a single one.
        seconds: That fitting to a task, or compiling its queries under its card, took on average.
    """

    row: str
    pairs: int
    regime: str
    means: dict[str, dict[str, float]]
    spread: dict[str, float]
    seconds: float

    @property
    def label(self) -> str:
        """Its name with what tells it from others of the same row."""
        said = [f"{self.pairs} pairs"] if self.pairs else []
        said += [self.regime] if self.regime else []
        return f"{self.row} ({', '.join(said)})" if said else self.row

    def mean(self, measure: str) -> float:
        """Return the mean over tasks, in which each counts as one."""
        return float(np.mean([means[measure] for means in self.means.values()]))


class CardContrast(Config):
    """Two rows on the queries that both have.

    Attributes:
        row: Label of the first.
        against: Label of the second.
        measure: The measure.
        queries: How many, over all tasks.
        difference: Mean over all queries of first minus second.
        interval: 95 % bootstrap interval of it.
        p_value: Two-sided, of a paired permutation test over all queries.
        p_corrected: After Holm's correction for the rows that were compared with the second.
        by_task: Mean difference of each task.
        gained: Tasks whose difference is above 0.
        lost: Tasks whose difference is below 0 with an uncorrected p-value below 0.05.
    """

    row: str
    against: str
    measure: str
    queries: int
    difference: float
    interval: tuple[float, float]
    p_value: float
    p_corrected: float
    by_task: dict[str, float]
    gained: tuple[str, ...]
    lost: tuple[str, ...]


class CardTable(ShowsTables, Config):
    """What `evaluate_cards` measured.

    Attributes:
        tasks: Number of measured queries by task.
        measures: Names of the measures.
        results: The rows.
        contrasts: Comparisons of rows, the first with `frozen`.
        left_out: Why rows are missing.
        notes: Where pairs came from.
    """

    tasks: dict[str, int]
    measures: tuple[str, ...]
    results: tuple[CardResult, ...]
    contrasts: tuple[CardContrast, ...]
    left_out: dict[str, str]
    notes: tuple[str, ...] = ()

    def result(self, row: str, *, pairs: int = 0, regime: str = "") -> CardResult:
        """Return a row; UnknownNameError for one that was not measured."""
        for result in self.results:
            if (result.row, result.pairs, result.regime) == (row, pairs, regime):
                return result
        raise UnknownNameError("row", f"{row} {pairs} {regime}", [result.label for result in self.results])

    def contrast(self, row: str, against: str, measure: str | None = None) -> CardContrast:
        """Return a comparison by the labels of its rows; by the first measure unless another is named."""
        wanted = (row, against, measure or self.measures[0])
        for one in self.contrasts:
            if (one.row, one.against, one.measure) == wanted:
                return one
        known = [f"{one.row} against {one.against}" for one in self.contrasts]
        raise UnknownNameError("comparison", f"{row} against {against}", known)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `cards.json` and `cards.md` into a folder."""
        write_json(Path(folder) / "cards.json", self.model_dump(mode="json"))
        with atomic_write(Path(folder) / "cards.md") as file:
            file.write(self.to_markdown())

    def _shown_tables(self) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
        """Yield title, headings and rows of each table."""
        for measure in self.measures:
            beside = {one.row: one for one in self.contrasts if one.against == "frozen" and one.measure == measure}
            lines = []
            for result in self.results:
                one = beside.get(result.label)
                cells = [""] * 4 if one is None else [*_compared(one), f"{len(one.gained)} of {len(one.by_task)}"]
                lines.append([result.label, f"{result.mean(measure):.4f}", *cells, f"{result.seconds:.3g}"])
            headings = ["row", "mean of tasks", "to frozen", "95 %", "p (Holm)", "tasks gained", "seconds"]
            yield f"{measure}, {len(self.tasks)} tasks, {sum(self.tasks.values()):,} queries", headings, lines
        others = [one for one in self.contrasts if one.against != "frozen" and one.measure == self.measures[0]]
        if others:
            rows = [
                [one.row, one.against, *_compared(one), f"{len(one.gained)} of {len(one.by_task)}"] for one in others
            ]
            yield self.measures[0], ["row", "against", "difference", "95 %", "p (Holm)", "tasks gained"], rows
        first = self.measures[0]
        own = [
            [one.label, *(f"{one.means[task][first]:.4f}" if task in one.means else "" for task in self.tasks)]
            for one in self.results
        ]
        yield f"{first} by task", ["row", *self.tasks], own

    def _frame_rows(self) -> Iterator[dict[str, Any]]:
        for result in self.results:
            for task, means in result.means.items():
                row = {"row": result.row, "pairs": result.pairs, "regime": result.regime, "task": task}
                yield {**row, **means, "seconds": result.seconds}

    def _shown_remarks(self) -> Sequence[str]:
        return [*(f"left out: {name}: {reason}" for name, reason in self.left_out.items()), *self.notes]

    def to_markdown(self) -> str:
        """Return the tables in Markdown."""
        lines: list[str] = []
        for title, headings, rows in self._shown_tables():
            lines += [f"**{printable(title)}**", "", "| " + " | ".join(headings) + " |"]
            lines.append("| --- |" + " ---: |" * (len(headings) - 1))
            lines += ["| " + " | ".join(printable(cell).replace("|", r"\|") for cell in row) + " |" for row in rows]
            lines.append("")
        return "\n".join([*lines, *(f"- {printable(remark)}" for remark in self._shown_remarks())]).rstrip() + "\n"


def _compared(one: CardContrast) -> list[str]:
    low, high = one.interval
    return [f"{one.difference:+.4f}", f"{low:+.4f} to {high:+.4f}", f"{one.p_corrected:.3f}"]


_Cell: TypeAlias = tuple[int, int]
"""How many pairs, and the seed."""


class _Values(Config):
    """Seconds, and by measure the values of all queries in order."""

    seconds: float
    values: dict[str, list[float]]


class _Stored(Config):
    """The file of a row: what it depends on, and its rankings by pairs and seed."""

    key: str
    rankings: dict[str, _Values]


class _Place(NamedTuple):
    """A row of a task under one kind of model: the file of its values."""

    session: Session
    name: str
    regime: str

    @property
    def model(self) -> str | None:
        """The model with cards."""
        return self.session.task.left_out if self.regime == "left out" else self.session.study.model

    def counts(self) -> list[int]:
        """Return the numbers of pairs that are asked for."""
        asked = list(self.session.study.pairs)
        return {True: asked, False: [0], None: [0, *asked]}[ROWS[self.name].pairs]

    def cells(self) -> list[_Cell]:
        """Return numbers of pairs, as many as there are, and seeds."""
        seeds = range(self.session.study.seeds if ROWS[self.name].drawn else 1)
        return [(count, seed) for count in self.counts() if count <= self.session.available for seed in seeds]

    def missing(self) -> str | None:
        """Return why the row is left out, None if it is not."""
        row, session = ROWS[self.name], self.session
        if row.card and self.model is None:
            return "no model with cards was given (model)"
        if self.name == "another task's card" and not session.others:
            return "there is one task only"
        if row.fits and not session.index.space.plain_product:
            return f"nothing is fitted to points of a {session.index.space.kind!r} space"
        if "BM25" in self.name and not all(map(importlib.util.find_spec, ("bm25s", "Stemmer"))):
            return "bm25s and PyStemmer are not installed: pip install 'hyperseek[eval]'"
        return None


def evaluate_cards(study: CardStudy | Mapping[str, Any], *, output: str | os.PathLike[str] | None = None) -> CardTable:
    """Measure what cards are worth on several tasks, beside all that does without.

    Args:
        study: Tasks, models and draws.
        output: Folder that keeps the values of each row as they come, and from which an interrupted run goes on;
            `cards.json` and `cards.md` are written there. None keeps nothing.

    Returns:
        The table.

    Raises:
        UnknownNameError: A row, a split or a measure is unknown.
        StoreError: An index cannot be opened.
        DataError: A collection cannot be read, or no query of it is left to measure.
        FingerprintError: A model does not share its document side with an index.
        Interrupted: Ctrl-C was pressed.
    """
    chosen = study if isinstance(study, CardStudy) else CardStudy.from_mapping(study, source="evaluate_cards()")
    names = list(chosen.rows) if chosen.rows is not None else [name for name, row in ROWS.items() if not row.slow]
    for name in names:
        if name not in ROWS:
            raise UnknownNameError("row", name, ROWS)
    names = list(dict.fromkeys(["frozen", *names]))  # which all are compared with
    measures = measure_names(chosen.measures)
    sessions = [Session(name, task, chosen, measures) for name, task in chosen.tasks.items()]
    for session in sessions:
        session.others = [other for other in sessions if other is not session]
    left_out = {} if chosen.rows is not None else {"lora": "it is slow; name it in rows"}
    places = [place for session in sessions for place in _places(session, names, left_out)]
    last = {place.session: place for place in places}
    total = sum(len(place.cells()) for place in places)
    kept = "nothing is kept; give output=FOLDER" if output is None else f"they are in {output}"
    done, models = 0, dict[str, Retriever]()
    measured: dict[tuple[str, str], dict[str, dict[_Cell, _Values]]] = {}
    with (
        progress("evaluating cards", total, unit="rankings") as bar,
        stoppable(lambda: f"{done} of {total} rankings are measured; {kept}, and the same command goes on"),
    ):
        for place in places:
            file = None if output is None else _file(Path(output), place)
            own = measured.setdefault((place.name, place.regime), {}).setdefault(place.session.name, {})
            for cell, values in _measured(place, file, models):
                own[cell] = values
                done += 1
                bar.advance()
                stop_here()
            if place is last[place.session]:
                place.session.release()
    results, columns = _results(measured, names)
    table = CardTable(
        tasks={session.name: len(session.queries) for session in sessions},
        measures=measures,
        results=tuple(results),
        contrasts=tuple(_contrasts(columns)),
        left_out=left_out,
        notes=tuple(_note(session) for session in sessions),
    )
    if output is not None:
        table.save(output)
    return table


def _note(session: Session) -> str:
    where = f"the split {session.task.pairs!r}" if session.task.pairs else f"half of the split {session.task.split!r}"
    return f"{session.name}: {len(session.queries):,} queries are measured; pairs are drawn from {where}"


def _places(session: Session, names: Sequence[str], left_out: dict[str, str]) -> Iterator[_Place]:
    """Yield the rows of a task, those of one model together, and say which are left out."""
    given = {"trained": session.study.model, "left out": session.task.left_out}
    models = [regime for regime, model in given.items() if model is not None] or ["trained"]
    for regime in ("", *models):
        for name in names:
            if ROWS[name].card != bool(regime):
                continue
            place = _Place(session, name, regime)
            if (reason := place.missing()) is not None:
                left_out[f"{name} ({session.name})"] = reason
                continue
            for count in place.counts():
                if count > session.available:
                    few = f"there are {session.available} judged pairs to draw from"
                    left_out[f"{name} with {count} pairs ({session.name})"] = few
            if place.cells():
                yield place


def _file(output: Path, place: _Place) -> Path:
    stem = "-".join(part for part in (*place.name.replace("'", "").replace("+", "and").split(), place.regime) if part)
    return output / "rows" / place.session.name / f"{stem.replace(' ', '-')}.json"


def _measured(place: _Place, file: Path | None, models: dict[str, Retriever]) -> Iterator[tuple[_Cell, _Values]]:
    """Yield what is stored of a row, and rank what is not."""
    session, row = place.session, ROWS[place.name]
    model = _model(place, models) if row.card else None
    key = fingerprint_json([session.fingerprint, place.name, session.study.seed, _content(place, model)])
    stored = _stored(file, key)
    for count, seed in place.cells():
        name = f"{count} {seed}"
        if name not in stored:
            draw = Draw(session.drawn(count, seed), seed, model)
            values = calculate(row.rank(session, draw), session.qrels, session.measures)
            own = {measure: [values[measure][query] for query in session.qrels] for measure in values}
            stored[name] = _Values(seconds=draw.seconds, values=own)
            if file is not None:
                write_json(file, _Stored(key=key, rankings=stored).model_dump(mode="json"))
        yield (count, seed), stored[name]


def _content(place: _Place, model: Retriever | None) -> list[Any]:
    """Return what a row with cards depends on besides the task."""
    if model is None:
        return []
    others = [other.fingerprint for other in place.session.others] if ROWS[place.name].drawn else []
    return [model.protocol()["query_fingerprint"], others]


def _model(place: _Place, models: dict[str, Retriever]) -> Retriever:
    """Load a model with cards, and compare its document side with the index's."""
    name = str(place.model)
    if name not in models:
        if len(models) > 1:
            models.popitem()  # the latest: the first serves all tasks
        models[name] = load(name)
    return Index.open(place.session.task.index, model=models[name]).model


def _stored(file: Path | None, key: str) -> dict[str, _Values]:
    """Return the rankings that a file holds; none if it is of other data or another model."""
    if file is None or not file.is_file():
        return {}
    found = _Stored.from_json(file, "the values of a row", remedy="delete the file", largest=_LARGEST)
    return dict(found.rankings) if found.key == key else {}


def _results(
    measured: Mapping[tuple[str, str], Mapping[str, Mapping[_Cell, _Values]]], names: Sequence[str]
) -> tuple[list[CardResult], dict[str, _Column]]:
    """Return the rows in order, and for each the values of queries, as means over draws."""
    results, columns = [], {}
    for name, regime in sorted(measured, key=lambda place: names.index(place[0])):
        by_task = measured[name, regime]
        for count in dict.fromkeys(cell[0] for cells in by_task.values() for cell in cells):
            own = {
                task: [values for (pairs, _), values in cells.items() if pairs == count]
                for task, cells in by_task.items()
                if any(pairs == count for pairs, _ in cells)
            }
            # (draws, queries)
            drawn = {
                task: {measure: np.array([one.values[measure] for one in draws]) for measure in draws[0].values}
                for task, draws in own.items()
            }
            of_draws = [
                {measure: values.mean(axis=1) for measure, values in by_measure.items()}
                for by_measure in drawn.values()
            ]
            result = CardResult(
                row=name,
                pairs=count,
                regime=regime,
                means={
                    task: {measure: float(values.mean()) for measure, values in by_measure.items()}
                    for task, by_measure in drawn.items()
                },
                spread={
                    measure: float(np.mean([means[measure] for means in of_draws], axis=0).std())
                    for measure in of_draws[0]
                },
                seconds=float(np.mean([one.seconds for draws in own.values() for one in draws])),
            )
            results.append(result)
            columns[result.label] = _Column(
                result,
                {task: {measure: values.mean(axis=0) for measure, values in by.items()} for task, by in drawn.items()},
            )
    return results, columns


class _Column(NamedTuple):
    """A row, and by task and measure its values of all queries."""

    result: CardResult
    values: dict[str, dict[str, Floats]]


_OF_CARDS = ("feedback", "description + query", "generic card", "random text", "another task's card")
_OF_PAIRS = ("feedback", "Rocchio", "linear adapter", "lora", "generic card", "random text", "another task's card")
_RIVALS: Mapping[str, Sequence[str]] = {"card": _OF_CARDS, "card with pairs": _OF_PAIRS, "adapt": _OF_PAIRS[:4]}
"""What rows are compared with besides `frozen`: of the same pairs, and the same kind of model."""


def _contrasts(columns: Mapping[str, _Column]) -> Iterator[CardContrast]:
    """Compare rows with the frozen one, and rows with cards with their rivals."""
    for rival in columns.values():
        if rival.result.row == "frozen":
            rows = [column for column in columns.values() if column is not rival]
        else:
            rows = [column for column in columns.values() if _are_rivals(column.result, rival.result)]
        # Rows of the same tasks are compared at once: drawing samples of thousands of queries takes seconds.
        by_tasks: dict[tuple[str, ...], list[_Column]] = {}
        for row in rows:
            by_tasks.setdefault(tuple(task for task in row.values if task in rival.values), []).append(row)
        compared = [one for tasks, own in by_tasks.items() if tasks for one in _compare(own, rival, tasks)]
        for measure in dict.fromkeys(one.measure for one in compared):
            own = [one for one in compared if one.measure == measure]
            corrected = holm([one.p_value for one in own])
            yield from (
                one.model_copy(update={"p_corrected": value}) for one, value in zip(own, corrected, strict=True)
            )


def _are_rivals(row: CardResult, rival: CardResult) -> bool:
    return (
        rival.row in _RIVALS.get(row.row, ())
        and rival.regime in ("", row.regime)
        # A rival that takes pairs gets as many.
        and rival.pairs == (row.pairs if ROWS[rival.row].pairs is not False else 0)
    )


def _compare(rows: Sequence[_Column], rival: _Column, tasks: Sequence[str]) -> Iterator[CardContrast]:
    """Yield the comparisons of rows with one, by row and measure."""
    named = [(row, measure) for row in rows for measure in row.values[tasks[0]]]
    each = {
        task: settled(np.stack([row.values[task][name] - rival.values[task][name] for row, name in named], axis=1))
        for task in tasks
    }
    everything = np.concatenate(list(each.values()))
    intervals, p_values = bootstrap_intervals(everything), paired_test("permutation", everything)
    of_tasks = {task: paired_test("permutation", differences) for task, differences in each.items()}
    for place, (row, measure) in enumerate(named):
        means = {task: float(differences[:, place].mean()) for task, differences in each.items()}
        yield CardContrast(
            row=row.result.label,
            against=rival.result.label,
            measure=measure,
            queries=len(everything),
            difference=float(everything[:, place].mean()),
            interval=(float(intervals[place, 0]), float(intervals[place, 1])),
            p_value=float(p_values[place]),
            p_corrected=float(p_values[place]),
            by_task=means,
            gained=tuple(task for task, mean in means.items() if mean > 0),
            lost=tuple(task for task, mean in means.items() if mean < 0 and of_tasks[task][place] < _NOTABLE),
        )
