"""Comparison: the result of comparing systems, as plain values that go to JSON, Markdown and the terminal."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from hyperseek._config import Config
from hyperseek._errors import UnknownNameError
from hyperseek._files import write_json
from hyperseek.evaluation._significance import RESAMPLES

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult


class Row(Config):
    """One system by one measure.

    Attributes:
        system: Its name.
        measure: The measure's name.
        mean: Over the queries of the section.
        interval: Bootstrap interval of the mean.
        difference: Mean minus the baseline's; None for the baseline itself, as are all fields below.
        difference_interval: Bootstrap interval of the mean difference, over queries.
        p_values: Two-sided, by the name of the test.
        p_corrected: The same after Holm's correction for the number of systems beside the baseline.
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
        title: Which queries.
        queries: How many.
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
    """How differences are judged.

    Attributes:
        tests: Names of the paired tests.
        confidence: Of the bootstrap intervals, between 0 and 1.
        resamples: How many samples or sign patterns are drawn.
        seed: Of the draws.
    """

    tests: tuple[Literal["permutation", "t", "wilcoxon"], ...] = ("permutation",)
    confidence: float = Field(default=0.95, gt=0, lt=1)
    resamples: int = Field(default=RESAMPLES, ge=1)
    seed: int = Field(default=0, ge=0)


class Comparison(Config):
    """Several systems compared with one of them.

    Attributes:
        baseline: Name of the system the others are compared with.
        systems: Names of all, the baseline first.
        measures: Measures that all of them have.
        statistics: Tests, confidence, resamples and seed.
        sections: All queries first, then the slices by what was relevant in training.
        unlike: Keys of the protocol in which the results differ although they should not; only where it was allowed.
        recorded: What else differs between the systems that have it: `recorded[key][system]`.
        notes: What a reader of the numbers should know.
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
        """Return one Markdown table for each section, and the notes."""
        from hyperseek.evaluation._render import markdown

        return markdown(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield what Rich prints: one table for each section, as wide as there is room, and the notes."""
        from hyperseek.evaluation._render import rich_tables

        return rich_tables(self, console, options)
