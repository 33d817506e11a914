"""Means of systems over several sets of queries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from hyperseek._config import Config
from hyperseek._display import ShowsTables
from hyperseek.errors import InputError, printable
from hyperseek.evaluation._result import Evaluation

_ALL = "all sets"


class SetMeans(ShowsTables, Config):
    """Values of systems on sets, and their means; each set counts as one, however many queries it has.

    Attributes:
        systems: Names of the systems.
        values: `values[measure][set][system]`.
        groups: Sets by the name of their group; a set may be in several groups or in none.
    """

    systems: tuple[str, ...]
    values: dict[str, dict[str, dict[str, float]]]
    groups: dict[str, tuple[str, ...]]

    def means(self, measure: str) -> dict[str, dict[str, float]]:
        """Average over the sets of each group, and over all sets.

        Args:
            measure: The measure's canonical name.

        Returns:
            `means[group][system]`, the last group being `all sets`.
        """
        by_set = self.values[measure]
        return {
            group: {system: sum(by_set[name][system] for name in sets) / len(sets) for system in self.systems}
            for group, sets in {**self.groups, _ALL: tuple(by_set)}.items()
        }

    def to_markdown(self) -> str:
        """Return one Markdown table per measure."""
        lines = []
        for measure in self.values:
            lines += [f"| {measure} | " + " | ".join(map(printable, self.systems)) + " |"]
            lines += ["| --- |" + " ---: |" * len(self.systems)]
            for values in self._rows(measure):
                lines += [
                    f"| {'**' * mean}{printable(name)}{'**' * mean} | " + " | ".join(cells) + " |"
                    for name, cells, mean in values
                ]
            lines.append("")
        return "\n".join(lines).rstrip() + "\n"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield one table per measure, for Rich to print."""
        for measure in self.values:
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
            table.add_column(measure)
            for system in self.systems:
                table.add_column(Text(printable(system)), justify="right", overflow="fold")
            for rows in self._rows(measure):
                for name, cells, mean in rows:
                    table.add_row(Text(printable(name)), *cells, style="bold" if mean else None)
                table.add_section()
            yield table

    def _shown_tables(self) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
        for measure in self.values:
            rows = [[name, *cells] for part in self._rows(measure) for name, cells, _ in part]
            yield "", [measure, *self.systems], rows

    def _frame_rows(self) -> Iterator[dict[str, Any]]:
        for measure, by_set in self.values.items():
            for name, values in by_set.items():
                yield {"measure": measure, "set": name, **values}

    def _rows(self, measure: str) -> list[list[tuple[str, list[str], bool]]]:
        """Return the sets' rows, then the means' rows: name, one cell per system, and whether it is a mean."""
        return [
            [(name, [f"{values[system]:.4f}" for system in self.systems], mean) for name, values in part.items()]
            for part, mean in ((self.values[measure], False), (self.means(measure), True))
        ]


def set_means(
    evaluations: Mapping[str, Sequence[Evaluation]], groups: Mapping[str, Sequence[str]] | None = None
) -> SetMeans:
    """Put the results of the same systems on several sets into one table.

    Args:
        evaluations: By set, at least one; each system has the same name and measures on all sets.
        groups: Names of sets by the name of their group.

    Returns:
        The table.

    Raises:
        InputError: There is no set, the sets differ in their systems or measures, or a group names an unknown set.
    """
    given = {name: {one.name: one for one in results} for name, results in evaluations.items()}
    if not given or not all(given.values()):
        raise InputError("there is nothing to average; give at least one set, and for each set one evaluation")
    first, *others = given
    for name in others:
        if given[name].keys() != given[first].keys():
            raise InputError(
                f"the set {name} has results of {', '.join(given[name])} and the set {first} of "
                f"{', '.join(given[first])}; measure the same systems on all sets"
            )
    measures = next(iter(given[first].values())).measures
    if any(one.measures != measures for one in chain.from_iterable(results.values() for results in given.values())):
        raise InputError("these results do not have the same measures; measure all sets by the same ones")
    chosen = {group: tuple(sets) for group, sets in (groups or {}).items()}
    for group, sets in chosen.items():
        unknown = [name for name in sets if name not in given]
        if unknown or not sets:
            raise InputError(f"the group {group} must name some of the sets {', '.join(given)}, not {unknown}")
    return SetMeans(
        systems=tuple(given[first]),
        values={
            measure: {
                name: {system: one.aggregate[measure] for system, one in results.items()}
                for name, results in given.items()
            }
            for measure in measures
        },
        groups=chosen,
    )
