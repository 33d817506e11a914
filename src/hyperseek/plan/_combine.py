"""Stages that combine sources, and the one that scores candidates exactly."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from hyperseek._threads import one_core
from hyperseek.plan._candidates import Candidates
from hyperseek.plan._context import Search
from hyperseek.plan._fusion import HEAVIEST, Method, fuse
from hyperseek.plan._scores import exact_scores
from hyperseek.plan._sources import BM25, Auto, Dense, Engine, Graph, Scan, Surrogate
from hyperseek.plan._stage import Source, Step, as_stages


class _Combination(Source):
    """A source that asks others."""

    @classmethod
    def _prepared(cls, options: dict[str, Any]) -> dict[str, Any]:
        if "sources" not in options:
            return options
        return {**options, "sources": tuple(as_stages(options["sources"], Source, "source"))}


class Union(_Combination):
    """What any of several sources finds, in turns; scores say no more than who came first.

    Attributes:
        n: Candidates of each query; None for all.
        sources: At least one.
    """

    kind: Literal["union"] = "union"
    n: int | None = Field(default=None, ge=1)  # type: ignore[assignment]  # all
    sources: tuple[AnySource, ...] = Field(min_length=1)

    def find(self, search: Search) -> Candidates:
        """Ask all sources."""
        ranked = fuse([source.find(search) for source in self.sources], method="rrf")
        return ranked.first(self.n) if self.n else ranked

    def __repr__(self) -> str:
        return super().__repr__() if self.n else f"({' | '.join(map(repr, self.sources))})"


class Fusion(_Combination):
    """One ranking from those of several sources; see `fuse`.

    Attributes:
        n: Candidates of each query; None for all.
        sources: At least one.
        method: How scores are made comparable.
        weights: One a source; None for equal ones.
        rrf_k: For `rrf`: larger values flatten the differences between first ranks.
    """

    kind: Literal["fusion"] = "fusion"
    n: int | None = Field(default=None, ge=1)  # type: ignore[assignment]  # all
    sources: tuple[AnySource, ...] = Field(min_length=1)
    method: Method = "rrf"
    weights: tuple[float, ...] | None = None
    rrf_k: int = Field(default=60, ge=0)

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if self.weights is not None and len(self.weights) != len(self.sources):
            raise ValueError(
                f"fusion: {len(self.weights)} weights were given for {len(self.sources)} sources; give one each"
            )
        if not all(abs(weight) <= HEAVIEST for weight in self.weights or ()):
            raise ValueError(f"fusion: weights must be finite, up to {HEAVIEST:g}, not {list(self.weights or ())}")
        return self

    def find(self, search: Search) -> Candidates:
        """Ask all sources."""
        found = [source.find(search) for source in self.sources]
        ranked = fuse(found, method=self.method, weights=self.weights, rrf_k=self.rrf_k)
        return ranked.first(self.n) if self.n else ranked


class Rescore(Step):
    """Exact scores of the candidates.

    Attributes:
        n: How many of the best candidates are scored and kept; None for all.
        model: Folder or name of the model that scores; None for the one that searches.
    """

    kind: Literal["rescore"] = "rescore"
    n: int | None = Field(default=None, ge=1)
    model: str | None = None

    def apply(self, search: Search, candidates: Candidates) -> Candidates:
        """Score the candidates."""
        scorer = search.scorer if self.model is None else search.ground.compile(self.model, search.asked())
        rows = candidates.rows[:, : self.n] if self.n else candidates.rows
        scores = exact_scores(search.snapshot, scorer, rows)
        with one_core():
            return Candidates.ranked(rows, scores)


AnySource: TypeAlias = Annotated[
    Auto | BM25 | Dense | Engine | Fusion | Graph | Scan | Surrogate | Union, Field(discriminator="kind")
]
"""Every source, told apart by `kind`."""

Union.model_rebuild()
Fusion.model_rebuild()
