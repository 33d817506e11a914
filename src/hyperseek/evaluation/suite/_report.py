"""The table of a suite in words: Markdown, CSV, where each system loses, and which one to take for which job.

Every sentence is computed from the table.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from hyperseek.errors import printable
from hyperseek.evaluation.suite._table import NOTABLE, SuiteCell, SuiteRow, SuiteTable

NONE = "-"
_TRAINING = ("recipe", "trunk", "steps", "batch_size", "learning_rate", "losses", "examples")


class Part(NamedTuple):
    """One table of the report."""

    title: str
    headings: list[str]
    rows: list[list[str]]
    text: str = ""


def tables(table: SuiteTable) -> Iterator[Part]:
    """Yield the tables of a report, the most important first."""
    first = table.measures[0]
    yield Part(
        f"Quality: {first}",
        ["system", *(column.title for column in table.columns), "mean"],
        [
            [
                row.system,
                *(_marked(table.cell(row.system, column.title)) for column in table.columns),
                _mean(row, first),
            ]
            for row in table.rows
        ],
        f"▲ and ▼: better or worse than {table.baseline} beyond chance (permutation test, p < {NOTABLE:g} after Holm's "
        f"correction for all systems and collections). The mean counts each collection as one"
        f"{_of_common(table)}.",
    )
    yield Part("Cost", _COST, [_costs(table, row) for row in table.rows], _COST_TEXT)
    yield Part(
        f"Where each gains and loses against {table.baseline}, by {first}",
        ["system", "loses on", "gains on", "level on"],
        [_against(table, row) for row in table.rows if row.system != table.baseline],
    )
    yield Part("Which one for which job", ["job", "take", "because"], [list(one) for one in jobs(table)])
    trained = [row for row in table.rows if row.training]
    if trained:
        yield Part(
            "What was trained with what",
            ["system", *(name.replace("_", " ") for name in _TRAINING), "kept", "seeds"],
            [
                [
                    row.system,
                    *(_shown((row.training or {}).get(name)) for name in _TRAINING),
                    _kept(row.training or {}),
                    str(row.seeds),
                ]
                for row in trained
            ],
            "`kept` is how much of what was learned the development sets let stand. Where nothing is kept, the results "
            "are those of the model that training began with.",
        )
    seen = [
        [cell.system, cell.column, name, str(count), f"{mean:.3f}", NONE if base is None else f"{base:.3f}"]
        for cell in table.cells
        if cell.measure == first
        for name, (count, mean, base) in cell.slices.items()
    ]
    if seen:
        yield Part(
            f"Seen and unseen: {first}",
            ["system", "collection", "relevant documents that were relevant in its training", "queries", "mean",
             table.baseline],
            seen,
        )  # fmt: skip
    for measure in table.measures[1:]:
        yield Part(
            measure,
            ["system", *(column.title for column in table.columns), "mean"],
            [
                [row.system, *(_marked(table.cell(row.system, column.title, measure)) for column in table.columns),
                 _mean(row, measure)]
                for row in table.rows
            ],
        )  # fmt: skip
    yield Part(
        f"Intervals and tests: {first}",
        ["collection", "system", "mean", "interval", "difference", "interval", "p", "wins, ties, losses"],
        [_tested(cell) for cell in table.cells if cell.measure == first],
        f"Bootstrap intervals over queries; differences from {table.baseline}; p after correction.",
    )


_COST = [
    "system", "ms a query", "95th percentile", "of it compiling", "bytes a document", "documents a second",
    "training, minutes", "index",
]  # fmt: skip
_COST_TEXT = (
    "Milliseconds of one query at a time, text to best documents, searched exhaustively unless a plan says otherwise. "
    "Bytes are those of the numbers that are searched. A shared index is encoded once for all that share it."
)


def remarks(table: SuiteTable) -> list[str]:
    """Return what is left out, how it was measured, and on what."""
    lines = [f"left out: {name}: {reason}" for name, reason in table.left_out.items()]
    lines += [
        f"{column.title}: split {column.split}, {column.documents:,} documents, {column.queries:,} queries, "
        f"fingerprint {column.data[:12]}"
        for column in table.columns
    ]
    for machine in table.hardware:
        lines.append(f"times are of {machine.get('processor') or machine.get('machine')}, "
                     f"{machine.get('cores')} cores, {machine.get('threads')} threads")  # fmt: skip
    busy = [row for row in table.rows if row.load is not None and row.load > _cores(table)]
    if busy:
        worst = max(row.load or 0 for row in busy)
        lines.append(
            f"the machine was busy with other work (load up to {worst:g} on {_cores(table)} cores) while "
            f"{', '.join(row.system for row in busy)} ran: times of these are too long"
        )
    lines += [f"{name} {version}" for name, version in table.versions.items()]
    return [*lines, *table.notes]


def _cores(table: SuiteTable) -> int:
    return max((int(machine.get("cores") or 1) for machine in table.hardware), default=1)


def jobs(table: SuiteTable) -> list[tuple[str, str, str]]:
    """Return which system to take for which job, from the means, the costs and their fronts."""
    first = table.measures[0]
    ranked = sorted((row for row in table.rows if row.means), key=lambda row: -row.means[first])
    if not ranked:
        return []

    def quality(row: SuiteRow) -> str:
        return f"mean {first} {row.means[first]:.3f}"

    found = [("the best ranking, whatever it costs", ranked[0].system, quality(ranked[0]))]
    for job, rows in (
        ("without training anything", [row for row in ranked if row.training is None and row.training_seconds is None]),
        (f"the index of {table.baseline} stays as it is", [row for row in ranked if row.shares_index]),
    ):
        if rows:
            found.append((job, rows[0].system, quality(rows[0])))
    for cost, unit, job in (
        ("query_ms", "ms", "at most {} a query"),
        ("bytes_per_document", "bytes", "at most {} a document"),
    ):
        for name in table.front(cost):
            row = table.row(name)
            price = f"{getattr(row, cost):,.1f} {unit}" if unit == "ms" else f"{getattr(row, cost):,.0f} {unit}"
            found.append((job.format(price), name, quality(row)))
    for column in table.columns:
        best = max(
            (cell for cell in table.cells if cell.column == column.title and cell.measure == first),
            key=lambda cell: cell.mean,
        )
        against = {1: ", beyond chance", 0: ", within chance", -1: ""}[best.sign]
        gain = "" if best.difference is None else f", {best.difference:+.3f} from {table.baseline}{against}"
        found.append((f"texts like {column.title}", best.system, f"{best.mean:.3f}{gain}"))
    return found


def markdown(table: SuiteTable) -> str:
    """Return the report as Markdown."""
    command = f"hyperseek evaluate --suite {printable(table.suite)}".replace("`", "'")
    lines = [
        f"# Comparison: the suite {_cell(table.suite)}",
        "",
        f"Made by `{command}`, from result files; every number and every sentence below is computed from them. "
        f"The baseline is {_cell(table.baseline)}.",
    ]
    for part in tables(table):
        lines += ["", f"## {_cell(part.title)}", ""]
        if part.text:
            lines += [part.text, ""]
        lines.append("| " + " | ".join(_cell(heading) for heading in part.headings) + " |")
        lines.append("|" + " --- |" * len(part.headings))
        lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in part.rows]
    about = [f"- {_cell(row.system)}: {_cell(row.about)}" for row in table.rows if row.about]
    if about:
        lines += ["", "## The systems", "", *about]
    lines += ["", "## How it was measured", "", *(f"- {_cell(line)}" for line in remarks(table))]
    return "\n".join(lines) + "\n"


def csv_text(table: SuiteTable) -> str:
    """Return one row for each system, collection and measure."""
    rows = list(table._frame_rows())
    for row in rows:
        cost = table.row(row["system"])
        row |= {name: getattr(cost, name) for name in ("query_ms", "bytes_per_document", "training_seconds")}
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _cell(text: str) -> str:
    return printable(text).replace("|", r"\|").replace("<", r"\<")


def _marked(cell: SuiteCell | None) -> str:
    return NONE if cell is None else f"{cell.mean:.3f}" + {1: " ▲", 0: "", -1: " ▼"}[cell.sign]


def _mean(row: SuiteRow, measure: str) -> str:
    if measure not in row.means:
        return NONE
    spread = "" if row.spread is None else f" ± {row.spread[measure]:.3f}"
    return f"{row.means[measure]:.3f}{spread}"


def _of_common(table: SuiteTable) -> str:
    missing = [
        column.title
        for column in table.columns
        if any(table.cell(row.system, column.title) is None for row in table.rows)
    ]
    return f", without {', '.join(missing)}, which not all systems have" if missing else ""


def _costs(table: SuiteTable, row: SuiteRow) -> list[str]:
    def number(value: float | None, form: str) -> str:
        return NONE if value is None else format(value, form)

    minutes = None if row.training_seconds is None else row.training_seconds / 60
    index = "the baseline's" if row.shares_index and row.system != table.baseline else "its own"
    if row.bytes_per_document is None:
        index = NONE
    return [
        row.system,
        number(row.query_ms, ",.1f"),
        number(row.query_ms_95, ",.1f"),
        number(row.compile_ms, ",.1f"),
        number(row.bytes_per_document, ",.0f"),
        number(row.documents_per_second, ",.0f"),
        number(minutes, ",.1f"),
        index,
    ]


def _against(table: SuiteTable, row: SuiteRow) -> list[str]:
    by_sign: dict[int, list[str]] = {-1: [], 1: [], 0: []}
    for column in table.columns:
        cell = table.cell(row.system, column.title)
        if cell is not None and cell.difference is not None:
            difference = f"{column.title} ({cell.difference:+.3f})" if cell.sign else column.title
            by_sign[cell.sign].append(difference)
    return [row.system, *(", ".join(by_sign[sign]) or NONE for sign in (-1, 1, 0))]


def _tested(cell: SuiteCell) -> list[str]:
    low, high = cell.interval
    shown = [cell.column, cell.system, f"{cell.mean:.4f}", f"{low:.4f} to {high:.4f}"]
    if cell.difference is None or cell.difference_interval is None or cell.p is None:
        return [*shown, *[NONE] * 4]
    low, high = cell.difference_interval
    p = "<0.001" if cell.p < 0.001 else f"{cell.p:.3f}"
    counts = f"{cell.wins}, {cell.ties}, {cell.losses}"
    return [*shown, f"{cell.difference:+.4f}", f"{low:+.4f} to {high:+.4f}", p, counts]


def _kept(training: Mapping[str, Any]) -> str:
    if training.get("changed") is False:
        return "nothing"
    share = training.get("share")
    return "all" if share is None else f"{share:g}"


def _shown(value: Any) -> str:
    if value is None:
        return NONE
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
