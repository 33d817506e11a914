"""Plans: searches of several stages, as values, and what a stage is.

A stage may be written as itself, as its class, as its name (`"full_text"`), or as a mapping of its kind and options, as
in a file. Errors name the stage, the option and what is allowed.

```python
plan = (FullText(n=300) | Dense(n=300)) >> Rescore()      # scored by the model that searches
hits = index.search("how are weak references made?", plan=plan)
```
"""

from __future__ import annotations

import contextlib
import os
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypeAlias, TypeVar, cast

from pydantic import Field, SerializeAsAny, model_validator

from hyperseek._config import read_yaml_value
from hyperseek._order import NOTHING
from hyperseek._registry import Registry
from hyperseek.errors import ConfigError, InputError, shown, suggestion
from hyperseek.plan._described import Described, option_names
from hyperseek.plan._open_index import Candidates, Search, fuse

StageT = TypeVar("StageT", bound="Stage")


class Stage(Described):
    """A stage of a plan. Its class has a field `kind` and is registered under the value; see `register_stage`."""

    @classmethod
    def _title(cls) -> str:
        kind = cls.model_fields.get("kind")
        return cls.__name__.lower() if kind is None else str(kind.default)

    @property
    def title(self) -> str:
        """Name of the stage in messages."""
        return self._title()

    @property
    def label(self) -> str:
        """Name of the stage in explanations, with the options that its queries are asked with."""
        options = getattr(self, "options", None)
        return f"{self.title} ({options})" if options else self.title

    @property
    def exact(self) -> bool:
        """Whether the scores that it hands on are those of the queries as they are asked."""
        return False


class Source(Stage):
    """A stage that finds candidates. `a | b` is the union of two, `a >> stage` a plan.

    Attributes:
        n: Candidates of each query.
    """

    n: int

    @abstractmethod
    def find(self, search: Search) -> Candidates:
        """Find candidates for the queries of a search."""

    def __or__(self, other: object) -> Union:
        parts = [*(self.sources if isinstance(self, Union) else [self]), other]
        return Union(sources=parts)  # type: ignore[arg-type]  # it makes the tuple of known stages

    def __rshift__(self, other: object) -> Plan:
        return Plan(stages=[self, *as_list(other)])  # type: ignore[arg-type]  # it makes the tuple of stages


class Step(Stage):
    """A stage that turns candidates into other candidates."""

    @abstractmethod
    def apply(self, search: Search, candidates: Candidates) -> Candidates:
        """Turn candidates into others."""

    def follow(self, search: Search, candidates: Candidates, before: Sequence[Stage]) -> tuple[Search, Candidates]:
        """Follow other stages of a plan.

        Args:
            search: The search.
            candidates: What the stages before found.
            before: Those stages, without those that changed the queries.

        Returns:
            The search that later stages continue, itself unless the stage changes its queries; and the candidates.
        """
        return search, _checked(self, self.apply(search, candidates))


class Combination(Source):
    """A source that asks others."""

    @classmethod
    def _prepared(cls, options: dict[str, Any]) -> dict[str, Any]:
        if "sources" not in options:
            return options
        return {**options, "sources": tuple(as_stages(options["sources"], Source, "source"))}


class Union(Combination):
    """What any of several sources finds, in turns; scores say no more than who came first.

    Attributes:
        n: Candidates of each query; None for all.
        sources: At least one.
    """

    kind: Literal["union"] = "union"
    n: int | None = Field(default=None, ge=1)  # type: ignore[assignment]  # all
    sources: tuple[SerializeAsAny[Source], ...] = Field(min_length=1)

    def find(self, search: Search) -> Candidates:
        """Ask all sources."""
        ranked = fuse([found_by(source, search) for source in self.sources])
        return ranked.first(self.n) if self.n else ranked

    def __repr__(self) -> str:
        return super().__repr__() if self.n else f"({' | '.join(map(repr, self.sources))})"


def found_by(source: Source, search: Search) -> Candidates:
    """Ask a source; InputError where it returns anything but candidates."""
    return _checked(source, source.find(search))


def _checked(stage: Stage, found: object) -> Candidates:
    if isinstance(found, Candidates):
        return found
    place = f"{type(stage).__module__}.{type(stage).__qualname__}"
    raise InputError(
        f"the stage {stage.title} ({place}) must return Candidates, as Candidates.of_lists makes them, not "
        f"{shown(found)}"
    )


def _check_stage(name: str, value: Any) -> None:
    if not isinstance(value, type) or not issubclass(value, Source | Step):
        raise InputError(f"a stage is a class that extends Source or Step, and {shown(value)} is not")
    kind = value.model_fields.get("kind")
    if kind is None or kind.default != name:
        raise InputError(
            f"{value.__name__} is registered as {name!r}, so it needs the field `kind: Literal[{name!r}] = {name!r}`"
        )


STAGES: Registry[type[Stage]] = Registry(
    "plan stage",
    "hyperseek.stages",
    {
        "auto": "hyperseek.plan.stages:Auto",
        "dense": "hyperseek.plan.stages:Dense",
        "engine": "hyperseek.plan.stages:Engine",
        "exhaustive": "hyperseek.plan.stages:Exhaustive",
        "feedback": "hyperseek.plan.stages:Feedback",
        "full_text": "hyperseek.plan.stages:FullText",
        "fusion": "hyperseek.plan.stages:Fusion",
        "graph": "hyperseek.plan.stages:Graph",
        "nearest": "hyperseek.plan.stages:Nearest",
        "rescore": "hyperseek.plan.stages:Rescore",
        "surrogate": "hyperseek.plan._engine_search:Surrogate",
        "union": "hyperseek.plan._plan:Union",
    },
    check=_check_stage,
)
"""The stages by their kind; `register_stage` adds one, and so do entry points of `hyperseek.stages`."""

# In plans that were saved or written before.
_FORMER_NAMES = {"scan": "exhaustive", "bm25": "full_text"}


def register_stage(kind: str, stage: type[Stage] | None = None) -> Any:
    """Register a source or step of yours, so that plans can name it in Python, in files and on the command line.

    Args:
        kind: Its name, the value of its field `kind`.
        stage: The class, which extends `Source` or `Step`; None to use the result as a decorator.

    Returns:
        The class, or a decorator.

    Raises:
        InputError: The name is taken, or the class is not a stage of this kind.
    """
    return STAGES.register(kind, stage)


def as_list(value: object) -> list[object]:
    """Return the stages that a value stands for: itself, or the items of a list or tuple."""
    return list(value) if isinstance(value, list | tuple) else [value]


def as_stages(value: object, kind: type[StageT], word: str) -> list[StageT]:
    """Return the stages that plain values stand for.

    Args:
        value: One, or a list of some.
        kind: What all must be.
        word: What one is called in messages, which count them from 1.

    Returns:
        The stages.

    Raises:
        ConfigError: There are none, or one is not such a stage.
    """
    given = as_list(value)
    if not given:
        raise ConfigError(f"there is no {word}; give at least 1, as in [{{kind: engine, n: 100}}]")
    stages = []
    for number, item in enumerate(given, 1):
        try:
            stages.append(_as_stage(item, kind))
        except ConfigError as error:
            raise ConfigError(f"{word} {number}: {error}" if len(given) > 1 else str(error)) from None
    return stages


def _as_stage(value: object, kind: type[StageT]) -> StageT:
    if isinstance(value, type) and issubclass(value, Stage) and "kind" in value.model_fields:
        return _as_stage(value(), kind)
    if isinstance(value, str):
        value = {"kind": value}
    if isinstance(value, Mapping):
        value = _from_values(value, kind)
    if isinstance(value, kind):
        return value
    if isinstance(value, Stage):
        raise ConfigError(f"{value.title} is a step, which follows sources; {_listed(kind)}")
    what = "a plan" if isinstance(value, Described) else shown(value)
    raise ConfigError(
        f"{what} cannot stand here; give a stage, as Engine(n=100) or {{kind: engine, n: 100}}; {_listed(kind)}"
    )


def _from_values(values: Mapping[Any, Any], kind: type[Stage]) -> Stage:
    options = dict(values)
    given = options.pop("kind", None)
    if given is None:
        raise ConfigError(f"{shown(dict(values))} says no kind; write {{kind: engine, ...}}; {_listed(kind)}")
    name = _FORMER_NAMES.get(given, given) if isinstance(given, str) else ""
    if name not in STAGES:
        hint = suggestion(str(given), _names(kind))
        raise ConfigError(f"there is no stage of the kind {shown(given)}{hint}; {_listed(kind)}")
    stage = STAGES[name]
    odd = next((key for key in options if not isinstance(key, str)), None)
    if odd is not None:
        raise ConfigError(f"{name} has no option {shown(odd)}; options: {', '.join(option_names(stage))}")
    return stage(**options)


def _names(kind: type[Stage]) -> list[str]:
    """Return the names of stages of a kind; another package's stage that cannot be loaded is passed over."""
    names = []
    for name in STAGES:
        with contextlib.suppress(InputError):
            if issubclass(STAGES[name], kind):
                names.append(name)
    return names


def _listed(kind: type[Stage]) -> str:
    return f"{'sources' if kind is Source else 'stages'}: {', '.join(_names(kind))}"


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
        notes: What the stage reports, averaged over all queries.
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

    stages: tuple[SerializeAsAny[Stage], ...] = Field(min_length=1)

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
                f"FullText() | Dense()"
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
            reports: One per stage, to which this search is added; an empty list is filled.
            measure: Whether reports tell each stage's recall.

        Returns:
            The best `search.k` documents of each query.
        """
        found: Candidates | None = None
        before: list[Stage] = []
        did: list[tuple[Candidates, float, dict[str, float], Search]] = []
        for stage in self.stages:
            start, asked = time.perf_counter(), search
            search.notes.clear()
            if isinstance(stage, Step):
                assert found is not None
                search, found = stage.follow(search, found, before)
            else:
                found = found_by(cast("Source", stage), search)
            if search is asked:
                before.append(stage)
            did.append((found, time.perf_counter() - start, dict(search.notes), search))
        assert found is not None
        if reports is not None:
            reports += [StageReport(stage.label) for stage in self.stages[len(reports) :]]
            for report, (part, seconds, notes, after) in zip(reports, did, strict=True):
                _add(report, part, seconds, notes, after.truth() if measure else None)
        return found.first(search.k)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Plan:
        """Read a plan from a YAML or JSON file: `stages:` and a list, the list alone, or one source.

        Args:
            path: The file.

        Returns:
            The plan.

        Raises:
            ConfigError: The file is missing, is not YAML, or does not contain a plan; the message names the stage.
        """
        try:
            return as_plan(read_yaml_value(path))
        except ConfigError as error:
            raise ConfigError(str(error) if str(path) in str(error) else f"{path}: {error}") from None


PlanLike: TypeAlias = Plan | Source | Sequence[Source | Step] | Mapping[str, Any]
"""What can be given for a plan: a plan, a source, a list of stages, or the plain values of a file."""


def as_plan(value: object) -> Plan:
    """Make a plan from anything that stands for one.

    Args:
        value: A plan, a source, a list of stages, plain values as those of a file, `"hybrid"` or `"broad_to_narrow"`.

    Returns:
        The plan.

    Raises:
        ConfigError: It is none of these, or something is wrong with it; the message names the stage.
    """
    if isinstance(value, Plan):
        return value
    if isinstance(value, str) and value in _NAMED:
        return _NAMED[value]()
    if value is Plan or value is None:
        raise ConfigError("there is no stage; give a source, as Engine(n=100), or a list of stages")
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
    sources = [{"kind": "full_text", "n": n}, {"kind": "auto", "n": n, "engine": engine}]
    return Plan(stages=[{"kind": "fusion", "sources": sources}])  # type: ignore[arg-type]  # it makes the stages


def broad_to_narrow(
    n: int = 3000, *, through: Sequence[int] = (1,), engine: str | None = None, effort: int | None = None
) -> Plan:
    """Return the plan that finds the neighbourhood at a broad level and decides within it at the level of the search.

    For models with levels. An engine of the first level makes it fast; without one, documents are scanned.

    Args:
        n: Documents of the neighbourhood, at least 1. Each further level keeps a third as many as the one before.
        through: Levels before that of the search, broad ones first; at least one.
        engine: Name of the engine of the first level; None for the newest, `"exhaustive"` for a scan.
        effort: How thoroughly the engine searches; None for what it was built with.

    Returns:
        The plan; its scores are those of the search's own level.

    Raises:
        ConfigError: `n` is below 1, or there is no level, or levels do not rise.
    """
    if not through:
        raise ConfigError("a search from broad to narrow goes through at least one level, as in through=[1]")
    # Levels that are no numbers have an error of their own, where the search knows how many there are.
    if all(isinstance(level, int) for level in through) and sorted(set(through)) != list(through):
        raise ConfigError(f"a search from broad to narrow rises from level to level, not through={shown(through)}")
    first, *rest = ({"level": level} for level in through)
    steps = [
        {"kind": "rescore", "n": max(1, n // 3**place), "options": level} for place, level in enumerate(rest, start=1)
    ]
    source = {"kind": "nearest", "n": n, "engine": engine, "effort": effort, "options": first}
    return Plan(stages=[source, *steps, {"kind": "rescore"}])  # type: ignore[arg-type]  # it makes the stages


_NAMED: dict[str, Callable[[], Plan]] = {"hybrid": hybrid, "broad_to_narrow": broad_to_narrow}


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
