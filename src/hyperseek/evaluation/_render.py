"""A comparison as text: Rich tables for people at a terminal, Markdown for notebooks and reports."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from hyperseek._terminal import printable
from hyperseek.evaluation._comparison import Comparison, Row, Section

_NOTABLE = 0.05  # p-values below are set in bold
_MEAN_INTERVAL, _COUNTS = 3, -1  # columns a narrow terminal does without, in this order


def rich_tables(comparison: Comparison, console: Console, options: ConsoleOptions) -> RenderResult:
    """Yield one table for each section, and below them what a reader should know."""
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
        # A system's name may hold square brackets, which Rich would read as markup.
        table.add_row(
            *(Text(printable(cells[place])) for place in kept), style=_style(row), end_section=_last(row, comparison)
        )
    return table


def markdown(comparison: Comparison) -> str:
    """Return one table for each section, and below them what a reader should know."""
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
        lines.append(f"differences are to {comparison.baseline}")
    lines += [f"{key}: {_by_system(values)}" for key, values in comparison.recorded.items()]
    return lines + list(comparison.notes)


def _by_system(values: dict[str, Any]) -> str:
    return ", ".join(f"{value!r} ({system})" for system, value in values.items())
