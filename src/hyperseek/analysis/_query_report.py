"""What tells two systems apart, query by query: the report and its tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hyperseek._display import ShowsTables
from hyperseek.analysis._rankings import FusionBounds, Holes, ScoreReport
from hyperseek.errors import shortened

FEATURES = {
    "length": "words of the query",
    "overlap": "share of the query's words, by idf, in a relevant document",
    "relevant": "relevant documents",
    "documents": "words of a relevant document",
}
"""What may explain a gain, and how it is told."""


@dataclass(frozen=True, slots=True)
class TopDocument:
    """A document in the top ranks of a query.

    Attributes:
        id: Its id.
        title: Its title, or the beginning of its text.
        grade: Its judgement; None where nobody judged it.
        matches: For late interaction, the query's and the document's tokens that contribute most to the score.
    """

    id: str
    title: str
    grade: int | None
    matches: list[tuple[str, str, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class QueryOutcome:
    """How two systems fare on one query.

    Attributes:
        id: Its id.
        text: The query.
        values: The measure by system, the baseline first.
        features: What may explain the difference, by name.
        ranks: Rank of the first relevant document by system; None where none was found.
        tops: The best documents by system; empty for queries that are not shown.
    """

    id: str
    text: str
    values: dict[str, float]
    features: dict[str, float]
    ranks: dict[str, int | None]
    tops: dict[str, list[TopDocument]] = field(default_factory=dict)

    @property
    def gain(self) -> float:
        """The system's value minus the baseline's."""
        before, after = self.values.values()
        return after - before


@dataclass(frozen=True, slots=True)
class GainBy:
    """How a feature of queries goes with the gain.

    Attributes:
        feature: Its name.
        spearman: Rank correlation of feature and gain, in -1 to 1; NaN where one is constant.
        p_value: Two-sided.
        wins: Mean of the feature over queries that the system wins; NaN for none.
        ties: Over those on which both are equal.
        losses: Over those that it loses.
    """

    feature: str
    spearman: float
    p_value: float
    wins: float
    ties: float
    losses: float


@dataclass(frozen=True, slots=True)
class WinsAndLosses:
    """One system beside the baseline.

    Attributes:
        system: Its name.
        outcomes: Every judged query, the largest gain first.
        gains: By feature.
    """

    system: str
    outcomes: list[QueryOutcome]
    gains: list[GainBy]

    def counts(self) -> tuple[int, int, int]:
        """Return how many queries win, tie and lose."""
        signs = [(one.gain > 0) - (one.gain < 0) for one in self.outcomes]
        return signs.count(1), signs.count(0), signs.count(-1)


@dataclass(frozen=True, slots=True)
class QueriesReport(ShowsTables):
    """What tells systems apart, query by query.

    Attributes:
        baseline: The system that others are compared with.
        measure: The measure.
        k: Top ranks that count for overlaps and holes.
        systems: Each other system beside the baseline.
        bounds: Of fusing each with the baseline.
        holes: Of every system.
        scores: Of every system that found relevant and other documents.
        show: How many wins and losses tables show.
        files: What was written.
    """

    baseline: str
    measure: str
    k: int
    systems: list[WinsAndLosses]
    bounds: list[FusionBounds]
    holes: list[Holes]
    scores: list[ScoreReport]
    show: int = 5
    files: list[Path] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; NaN becomes None."""
        values = {**asdict(self), "files": [str(path) for path in self.files]}
        for system in values["systems"]:
            for row in system["gains"]:
                row |= {key: None for key, value in row.items() if isinstance(value, float) and math.isnan(value)}
        return values

    def _shown_tables(self) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
        for system in self.systems:
            yield from self._wins(system)
        for bounds in self.bounds:
            values = [
                ["" if place else self.measure, name, f"{value:.4f}"]
                for place, (name, value) in enumerate(bounds.values.items())
            ]
            recall = [
                ["" if place else f"recall of the top {bounds.k}", name, f"{value:.4f}"]
                for place, (name, value) in enumerate(bounds.recall.items())
            ]
            tau = "unknown" if bounds.correlation is None else f"{bounds.correlation:.3f}"
            yield (
                f"{bounds.system} and {self.baseline} together: {bounds.overlap:.1%} of the top {bounds.k} in common, "
                f"in an order of Kendall's tau {tau}",
                ["", "ranking", "mean"],
                [*values, *recall],
            )
        yield (
            f"judgements of the top {self.k}",
            ["system", f"Judged@{self.k}", "unjudged, found by it alone", self.measure, "of judged documents only"],
            [
                [one.system, f"{one.judged:.3f}", f"{one.own:,}", f"{one.value:.4f}", f"{one.condensed:.4f}"]
                for one in self.holes
            ],
        )
        for score in self.scores:
            looked = "judged documents" if score.judged_only else "documents, of which unjudged ones count as others"
            yield (
                f"scores of {score.system}, {score.documents:,} {looked}: relevant {score.relevant:.4g} on average, "
                f"others {score.others:.4g}; AUROC {number(score.within)} within a query, "
                f"{number(score.across)} across queries",
                ["scores", "documents", "relevant"],
                [[f"{one.low:.4g} to {one.high:.4g}", f"{one.count:,}", f"{one.relevant:.3f}"] for one in score.bins],
            )

    def _wins(self, system: WinsAndLosses) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
        wins, ties, losses = system.counts()
        yield (
            f"{system.system} beside {self.baseline}: {wins} queries win, {ties} tie, {losses} lose by {self.measure}",
            ["", "Spearman with the gain", "p", "mean of wins", "of ties", "of losses"],
            [
                [
                    FEATURES[row.feature],
                    number(row.spearman),
                    number(row.p_value),
                    *map(number, (row.wins, row.ties, row.losses)),
                ]
                for row in system.gains
            ],
        )
        for title, outcomes in (("wins", self.most(system)), ("losses", self.most(system, losses=True))):
            if outcomes:
                yield (
                    f"largest {title} of {system.system}",
                    ["query", "gain", self.baseline, system.system, "first relevant at", "overlap", "text"],
                    [
                        [one.id, f"{one.gain:+.3f}", *(f"{value:.3f}" for value in one.values.values()),
                         " and ".join("none" if rank is None else str(rank) for rank in one.ranks.values()),
                         number(one.features.get("overlap")), shortened(one.text, 90)]
                        for one in outcomes
                    ],
                )  # fmt: skip

    def most(self, system: WinsAndLosses, *, losses: bool = False) -> list[QueryOutcome]:
        """Return the queries that win or lose most, at most `show`."""
        ordered = reversed(system.outcomes) if losses else system.outcomes
        return [one for one in ordered if (one.gain < 0 if losses else one.gain > 0)][: self.show]

    def _shown_remarks(self) -> Iterator[str]:
        sunk = [one.system for one in self.holes if one.judged < max(own.judged for own in self.holes) - 0.05]
        if sunk:
            yield f"fewer documents of {', '.join(sunk)} were judged than of others: their values may be too low"

    def _frame_rows(self) -> Iterator[Mapping[str, Any]]:
        for system in self.systems:
            for one in system.outcomes:
                ranks = {f"first relevant of {name}": rank for name, rank in one.ranks.items()}
                yield {
                    "system": system.system,
                    "query": one.id,
                    "gain": one.gain,
                    **one.values,
                    **one.features,
                    **ranks,
                }


def number(value: float | None) -> str:
    """Return a number as tables show it; nothing for one that is unknown."""
    return "" if value is None or math.isnan(value) else f"{value:.3f}"
