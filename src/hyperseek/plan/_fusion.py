"""Combining sources: their union, and one ranking from several whose scores cannot be compared as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator

from hyperseek._machine import one_core
from hyperseek._order import without_rounding
from hyperseek.errors import InputError
from hyperseek.plan._context import NOTHING, Candidates, Search
from hyperseek.plan._sources import BM25, Auto, Dense, Engine, Graph, Scan, Surrogate
from hyperseek.plan._stage import Source, Step, as_stages
from hyperseek.plan.rescoring import exact_scores
from hyperseek.scoring._maxsim import EMPTY_SCORE
from hyperseek.types import NO_OPTIONS, QueryOptions

Method: TypeAlias = Literal["rrf", "weighted", "minmax"]
"""How scores are made comparable: by rank; not at all; by moving each query's scores to [0, 1]."""

HEAVIEST = 1e100
"""Largest weight of a ranking: products of heavier ones and scores would overflow."""

_Scores: TypeAlias = npt.NDArray[np.float64]


def fuse(
    parts: Sequence[Candidates], *, method: Method = "rrf", weights: Sequence[float] | None = None, rrf_k: int = 60
) -> Candidates:
    """Fuse rankings of the same queries.

    * `rrf`: the sum of weight / (`rrf_k` + rank), ranks from 1 (Cormack, Clarke and Büttcher, SIGIR 2009).
    * `weighted`: the weighted sum of scores; a ranking that lacks a document adds its own lowest score.
    * `minmax`: the weighted sum of scores after each ranking's own of a query were moved to [0, 1]; a ranking that
      lacks a document adds 0.

    Lowest and highest are those of real, finite scores. A document without tokens, which late interaction gives a
    filler for a score, counts as one that the ranking lacks; plus infinity counts as the highest, minus infinity as the
    lowest.

    Args:
        parts: At least one ranking.
        method: See above.
        weights: One a ranking, finite and at most `HEAVIEST`; None for equal ones.
        rrf_k: Larger values flatten the differences between first ranks; at least 0.

    Returns:
        Each query's distinct rows by fused score, float64; equal sums by row.

    Raises:
        InputError: There are no rankings, the number of weights is not theirs, a weight is out of range, `rrf_k` is
            below 0, or a score is not a number.
    """
    chosen = [1.0] * len(parts) if weights is None else [float(weight) for weight in weights]
    if not parts or len(chosen) != len(parts):
        raise InputError(f"{len(parts)} rankings and {len(chosen)} weights cannot be fused; give one weight a ranking")
    if not all(abs(weight) <= HEAVIEST for weight in chosen):
        raise InputError(f"weights must be finite numbers up to {HEAVIEST:g}, not {chosen}")
    if rrf_k < 0:
        raise InputError(f"rrf_k must be at least 0, not {rrf_k}; 60 is usual")
    scale = {"rrf": lambda scores: _by_rank(scores, rrf_k), "weighted": _as_they_are, "minmax": _to_unit}[method]
    rows, fused = [], []
    for query in range(len(parts[0])):
        present = [part.rows[query] != NOTHING for part in parts]
        own = [part.rows[query][there].numpy() for part, there in zip(parts, present, strict=True)]
        distinct, places = np.unique(np.concatenate(own), return_inverse=True)
        contributions = np.empty((len(parts), len(distinct)))
        start = 0
        for number, (part, there) in enumerate(zip(parts, present, strict=True)):
            scores = part.scores[query][there].double().numpy()
            if np.isnan(scores).any():
                raise InputError(f"ranking {number} (from 0) has scores that are not numbers for query {query}")
            values, lacking = scale(scores)
            contributions[number] = chosen[number] * lacking
            contributions[number, places[start : start + len(scores)]] = chosen[number] * values
            start += len(scores)
        rows.append(torch.from_numpy(distinct))
        fused.append(torch.from_numpy(_sums(contributions)))
    return Candidates.of_lists(rows, fused)


def _sums(contributions: _Scores) -> _Scores:
    """Sum `(parts, n)` over the parts; equal sums of unlike parts come out equal."""
    largest = float(np.abs(contributions).sum(axis=0).max(initial=0.0))
    return without_rounding(np.sort(contributions, axis=0).sum(axis=0), scale=largest)


def _by_rank(scores: _Scores, rrf_k: int) -> tuple[_Scores, float]:
    return 1 / (rrf_k + np.arange(1, len(scores) + 1, dtype=np.float64)), 0.0


def _as_they_are(scores: _Scores) -> tuple[_Scores, float]:
    low, high = _range(scores)
    return np.where(scores == EMPTY_SCORE, low, scores.clip(low, high)), low


def _to_unit(scores: _Scores) -> tuple[_Scores, float]:
    low, high = _range(scores)
    # A ranking of one document, or of equal ones, says that they are all good.
    unit = (scores.clip(low, high) - low) / (high - low) if high > low else np.where(scores >= low, 1.0, 0.0)
    return np.where(scores == EMPTY_SCORE, 0.0, unit), 0.0


def _range(scores: _Scores) -> tuple[float, float]:
    """Return the lowest and the highest real score; 0 and 1 where none is finite, which parts infinite ones."""
    real = scores[np.isfinite(scores) & (scores != EMPTY_SCORE)]
    return (float(real.min()), float(real.max())) if len(real) else (0.0, 1.0 if np.isinf(scores).any() else 0.0)


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
        options: Of the queries for this stage, as in `{level: 1}`; None for those of the search, or for none where
            another model scores.
    """

    kind: Literal["rescore"] = "rescore"
    n: int | None = Field(default=None, ge=1)
    model: str | None = None
    options: QueryOptions | None = None

    def apply(self, search: Search, candidates: Candidates) -> Candidates:
        """Score the candidates."""
        if self.model is None:
            scorer = search.with_options(self.options).scorer
        else:
            scorer = search.ground.compile(self.model, search.asked(), self.options or NO_OPTIONS)
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
