"""Plans: searches of several stages, as values.

```python
plan = (BM25(n=300) | Dense(n=300)) >> Rescore()      # scored by the model that searches
hits = index.search("how are weak references made?", plan=plan)
```
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Self

from pydantic import Field, model_validator

from hyperseek._config import Config
from hyperseek.plan._candidates import NOTHING, Candidates
from hyperseek.plan._combine import AnySource, Rescore
from hyperseek.plan._context import Search
from hyperseek.plan._stage import Step


@dataclass(slots=True)
class StageReport:
    """What one stage of a search did.

    Attributes:
        title: Of the stage.
        seconds: It took, for all queries.
        queries: How many there were.
        candidates: It handed on, for all queries.
        found: How many of the true best documents were among them; None where the truth was not asked for.
        wanted: How many true best documents there are.
        notes: What the stage says of itself.
    """

    title: str
    seconds: float = 0.0
    queries: int = 0
    candidates: int = 0
    found: int | None = None
    wanted: int = 0
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def recall(self) -> float | None:
        """Share of the true best documents among the candidates, in [0, 1]; None where the truth is not known."""
        return None if self.found is None else self.found / self.wanted if self.wanted else 1.0


class Plan(Config):
    """A search of several stages: a source of candidates, then steps.

    Attributes:
        stages: The first finds candidates, the others turn them into others; the last one's scores are the result's.
    """

    stages: tuple[AnySource | Rescore, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if isinstance(self.stages[0], Step):
            raise ValueError("a plan begins with a source of candidates, as scan, engine or bm25")
        wrong = [stage.title for stage in self.stages[1:] if not isinstance(stage, Step)]
        if wrong:
            raise ValueError(f"only the first stage may be a source, and {', '.join(wrong)} came later; use a union")
        return self

    def __rshift__(self, step: Step) -> Plan:
        return Plan(stages=(*self.stages, step))  # type: ignore[arg-type]  # pydantic checks the kind

    def run(
        self, search: Search, *, reports: list[StageReport] | None = None, truth: Candidates | None = None
    ) -> Candidates:
        """Search.

        Args:
            search: The queries, the documents and what is allowed.
            reports: One a stage, to which this search is added; an empty list is filled.
            truth: The true best documents, for each stage's recall.

        Returns:
            The best `search.k` documents of each query.
        """
        found: Candidates | None = None
        for number, stage in enumerate(self.stages):
            start = time.perf_counter()
            search.notes.clear()
            if isinstance(stage, Step):
                assert found is not None
                found = stage.apply(search, found)
            else:
                found = stage.find(search)
            if reports is not None:
                if len(reports) == number:
                    reports.append(StageReport(stage.title))
                _add(reports[number], found, time.perf_counter() - start, search.notes, truth)
        assert found is not None
        return found.first(search.k)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a plan from a YAML file; ConfigError names what is wrong with it."""
        return cls.from_yaml(path)


def _add(
    report: StageReport, found: Candidates, seconds: float, notes: dict[str, Any], truth: Candidates | None
) -> None:
    report.seconds += seconds
    report.queries += len(found)
    report.candidates += int(found.counts.sum())
    report.notes |= notes
    if truth is not None:
        report.found = (report.found or 0) + sum(
            len(wanted & present) for wanted, present in zip(_sets(truth), _sets(found), strict=True)
        )
        report.wanted += int(truth.counts.sum())


def _sets(candidates: Candidates) -> Iterable[set[int]]:
    return ({row for row in rows if row != NOTHING} for rows in candidates.rows.tolist())
