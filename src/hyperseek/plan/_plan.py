"""Plans: searches of several stages, as values.

```python
plan = (BM25(n=300) | Dense(n=300)) >> Rescore()      # scored by the model that searches
hits = index.search("how are weak references made?", plan=plan)
```
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

from pydantic import Field, model_validator

from hyperseek._config import read_yaml_value
from hyperseek.errors import ConfigError, shown, suggestion
from hyperseek.plan._context import NOTHING, Candidates, Search
from hyperseek.plan._fusion import AnySource, Fusion, Rescore
from hyperseek.plan._sources import BM25, Auto
from hyperseek.plan._stage import Described, Source, Stage, Step, as_list, as_stages


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
        notes: What the stage says of itself, averaged over all queries.
    """

    title: str
    seconds: float = 0.0
    queries: int = 0
    candidates: int = 0
    found: int | None = None
    wanted: int = 0
    notes: dict[str, float] = field(default_factory=dict)

    @property
    def recall(self) -> float | None:
        """Share of the true best documents among the candidates, in [0, 1]; None where the truth is not known."""
        return None if self.found is None else self.found / self.wanted if self.wanted else 1.0


class Plan(Described):
    """A search of several stages: a source of candidates, then steps.

    Attributes:
        stages: The first finds candidates, the others turn them into others; the last one's scores are the result's.
    """

    stages: tuple[AnySource | Rescore, ...] = Field(min_length=1)

    @classmethod
    def _prepared(cls, options: dict[str, Any]) -> dict[str, Any]:
        if "stages" not in options:
            return options
        return {**options, "stages": tuple(as_stages(options["stages"], Stage, "stage"))}

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        first, *others = self.stages
        if isinstance(first, Step):
            raise ConfigError(
                f"a plan begins with a source of candidates, and {first.title} is a step; put a source before it, as "
                f"in Auto() >> Rescore()"
            )
        wrong = [stage.title for stage in others if not isinstance(stage, Step)]
        if wrong:
            raise ConfigError(
                f"only the first stage may be a source, and {', '.join(wrong)} came later; unite sources with |, as in "
                f"BM25() | Dense()"
            )
        return self

    def __rshift__(self, step: object) -> Plan:
        return Plan(stages=[*self.stages, *as_list(step)])  # type: ignore[arg-type]  # it makes the stages

    def __or__(self, other: object) -> Plan:
        raise ConfigError(f"sources are united, and {self} is a plan; write its source | the other one, then its steps")

    def __repr__(self) -> str:
        stages = [repr(stage) for stage in self.stages]
        return " >> ".join(stages) if len(stages) > 1 else f"Plan(stages=[{stages[0]}])"

    def run(self, search: Search, *, reports: list[StageReport] | None = None, measure: bool = False) -> Candidates:
        """Search.

        Args:
            search: The queries, the documents and what is allowed.
            reports: One a stage, to which this search is added; an empty list is filled.
            measure: Whether reports tell each stage's recall.

        Returns:
            The best `search.k` documents of each query.
        """
        found: Candidates | None = None
        did: list[tuple[Candidates, float, dict[str, float]]] = []
        for stage in self.stages:
            start = time.perf_counter()
            search.notes.clear()
            if isinstance(stage, Step):
                assert found is not None
                found = stage.apply(search, found)
            else:
                found = stage.find(search)
            did.append((found, time.perf_counter() - start, dict(search.notes)))
        assert found is not None
        if reports is not None:
            truth = search.truth() if measure else None
            reports += [StageReport(stage.title) for stage in self.stages[len(reports) :]]
            for report, (part, seconds, notes) in zip(reports, did, strict=True):
                _add(report, part, seconds, notes, truth)
        return found.first(search.k)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan from a YAML or JSON file: `stages:` and a list, the list alone, or one source.

        Args:
            path: The file.

        Returns:
            The plan.

        Raises:
            ConfigError: The file is missing, is no YAML, or holds no plan; the message names the stage.
        """
        try:
            return as_plan(read_yaml_value(path))
        except ConfigError as error:
            raise ConfigError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


PlanLike: TypeAlias = Plan | Source | Sequence[Source | Step] | Mapping[str, Any]
"""What can be given for a plan: a plan, a source, a list of stages, or the plain values of a file."""


def as_plan(value: object) -> Plan:
    """Make a plan of whatever a plan can begin with.

    Args:
        value: A plan, a source, a list of stages, plain values as those of a file, or `"hybrid"`.

    Returns:
        The plan.

    Raises:
        ConfigError: It is none of these, or something is wrong with it; the message names the stage.
    """
    if isinstance(value, Plan):
        return value
    if isinstance(value, str) and value == "hybrid":
        return hybrid()
    if value is Plan or value is None:
        raise ConfigError("there is no stage; give a source, as BM25(n=100), or a list of stages")
    if isinstance(value, Mapping) and "kind" not in value:
        odd = [key for key in value if key != "stages"]
        if odd:
            hint = suggestion(str(odd[0]), ["stages", "kind"])
            raise ConfigError(f"a plan has no {shown(odd[0])}{hint}; it has stages: a list of them, or one kind: NAME")
        return Plan(**value)
    if isinstance(value, str | os.PathLike) and os.path.splitext(value)[1] in (".yaml", ".yml", ".json"):
        raise ConfigError(f"{shown(os.fspath(value))} names a file; give Plan.load({os.fspath(value)!r})")
    return Plan(stages=value)  # type: ignore[arg-type]  # it makes the stages


def hybrid(n: int = 100, *, engine: str = "auto") -> Plan:
    """Return the plan that fuses full-text search with the search of the queries' own model, by reciprocal rank.

    Args:
        n: Candidates of each query from each of the two, at least 1; up to twice as many documents are found.
        engine: For the model's own search: `"auto"`, `"exact"`, or the name of an engine.

    Returns:
        The plan; its scores are fused ranks.

    Raises:
        ConfigError: `n` is below 1.
    """
    return Plan(stages=(Fusion(sources=(BM25(n=n), Auto(n=n, engine=engine))),))


def _add(
    report: StageReport, found: Candidates, seconds: float, notes: dict[str, float], truth: Candidates | None
) -> None:
    before = report.queries
    report.seconds += seconds
    report.queries += len(found)
    report.candidates += int(found.counts.sum())
    for name in report.notes | notes:
        total = report.notes.get(name, 0.0) * before + notes.get(name, 0.0) * len(found)
        report.notes[name] = total / max(1, report.queries)
    if truth is not None:
        report.found = (report.found or 0) + sum(
            len(wanted & present) for wanted, present in zip(_sets(truth), _sets(found), strict=True)
        )
        report.wanted += int(truth.counts.sum())


def _sets(candidates: Candidates) -> Iterable[set[int]]:
    return ({row for row in rows if row != NOTHING} for rows in candidates.rows.tolist())
