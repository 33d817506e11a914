"""Settings of mining, of filtering, and of preferences."""

from __future__ import annotations

import os
from typing import Any, Literal

from pydantic import Field, field_validator

from hyperseek._config import LARGEST_SEED, Config, read_yaml
from hyperseek.types import NO_OPTIONS, QueryOptions


class MiningOptions(Config):
    """How hard negatives are mined.

    A candidate is a search result that is not known to be relevant to the query, does not have the
    text of a relevant document, and is not the query itself. All scores are those of the searching model.

    A margin is relative to the lowest score of the query's positives: for a positive at 0.8, 0.95 drops
    candidates above 0.76. For negative scores, such as distances, the same share of the absolute value is
    subtracted: for a positive at -2, 0.95 drops candidates above -2.1.

    Attributes:
        negatives: How many to mine per query, in addition to those it has.
        depth: How many candidates to consider.
        skip_top: How many of the first candidates to skip.
        margin: Candidates above this share of the positive's score are considered relevant and dropped; None keeps all.
        max_score: Candidates that score higher are dropped.
        min_score: Candidates that score lower are dropped, as too easy.
        sampling: `top` takes the best remaining candidates, `random` draws from them.
        seed: Seed of the draw.
        keep_negatives: Whether to keep the examples' own negatives. Unjudged ones must pass `margin` and
            `max_score` too.
        engine: `auto`, `exact` or the name of an engine of the index.
        plan: Stages that find the candidates instead, in the form of `Plan`: full text, fusions, cascades; or the path
            of a YAML file with them.
    """

    negatives: int = Field(default=7, ge=1)
    depth: int = Field(default=100, ge=1)
    skip_top: int = Field(default=0, ge=0)
    margin: float | None = Field(default=0.95, gt=0)
    max_score: float | None = None
    min_score: float | None = None
    sampling: Literal["top", "random"] = "top"
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)
    keep_negatives: bool = True
    engine: str = "auto"
    plan: dict[str, Any] | None = None

    @field_validator("plan", mode="before")
    @classmethod
    def _read_plan(cls, given: object) -> object:
        return read_yaml(given) if isinstance(given, str | os.PathLike) else given

    @property
    def reads_scores(self) -> bool:
        """Whether a filter reads the searching model's scores."""
        return any(limit is not None for limit in (self.margin, self.max_score, self.min_score))


class ConsistencyOptions(Config):
    """Filtering of inconsistent pairs: a positive must rank near the top for its query.

    Attributes:
        top: A positive is kept if fewer than `top` documents score higher; other relevant documents of the query do
            not count.
        pool: Rank against `pool` documents, drawn once from the corpus, instead of against all.
        seed: Seed of the draw.
        engine: `auto`, `exact` or the name of an engine of the index.
    """

    top: int = Field(default=2, ge=1)
    pool: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)
    engine: str = "auto"


class TeacherOptions(Config):
    """Filtering of negatives that a teacher considers relevant. Negatives with a human judgement are always kept.

    Attributes:
        margin: Negatives above this share of the lowest positive's score are dropped, as in `MiningOptions`.
        max_score: Negatives that score higher are dropped.
    """

    margin: float | None = Field(default=0.95, gt=0)
    max_score: float | None = None


class RefineOptions(Config):
    """Steps of refining prepared examples, in this order; None leaves a step out.

    Attributes:
        consistency: Drop positives that their query does not find.
        mining: Add hard negatives.
        teacher: Drop negatives that a teacher considers relevant.
        options: Options of the searching model for every query, as in `{level: 2}`.
    """

    consistency: ConsistencyOptions | None = None
    mining: MiningOptions | None = None
    teacher: TeacherOptions | None = None
    options: QueryOptions = NO_OPTIONS


class PreferenceOptions(Config):
    """How preferences are made.

    Attributes:
        bm25: Candidates from BM25 for each query.
        dense: Candidates from the index.
        candidates: Candidates in all: those of both, those judged relevant, and as many at random as are missing.
        weights: One per teacher; None weighs all alike.
        fusion: `zscore`, the weighted mean of standardised scores; `minmax`, of scores moved to [0, 1]; `rrf`, the sum
            of weight / (`rrf_k` + rank), ranks from 1, which the original uses.
        rrf_k: Larger values flatten the differences between first ranks.
        form: `pairs`, an example for each pair; `lists`, one for each query, whose items have the fused scores.
        sampling: `confident` draws different pairs and drops those of too little confidence; `hydra` draws as the
            original does, with repetition, by differences of fused scores, which are then the weights, at least 0.1.
        pairs: Pairs of each query.
        positives: The best candidates are positives, of queries without a relevant one; in lists, at most so many.
        skip: Candidates after the positives that are neither: they may be relevant.
        hard: Candidates after these that hard negatives are drawn from; easy ones come from the worse half of all.
        hard_ratio: Share of hard negatives.
        negatives: Negatives of each list.
        least_confidence: Pairs and lists need more.
        judged: Whether documents judged relevant are the positives of their query.
        exclude_same_id: Whether documents are queries, so that the one with a query's id is no candidate.
        options: Options of the index's model for every query, as in `{level: 2}`.
        task: Name of the task card of all examples, or None.
        seed: Of all draws.
    """

    bm25: int = Field(default=50, ge=0)
    dense: int = Field(default=50, ge=0)
    candidates: int = Field(default=100, ge=2)
    weights: tuple[float, ...] | None = None
    fusion: Literal["zscore", "minmax", "rrf"] = "zscore"
    rrf_k: int = Field(default=60, ge=0)
    form: Literal["pairs", "lists"] = "pairs"
    sampling: Literal["confident", "hydra"] = "confident"
    pairs: int = Field(default=16, ge=1)
    positives: int = Field(default=3, ge=1)
    skip: int = Field(default=2, ge=0)
    hard: int = Field(default=15, ge=1)
    hard_ratio: float = Field(default=0.5, ge=0, le=1)
    negatives: int = Field(default=15, ge=1)
    least_confidence: float = Field(default=0.0, ge=0, lt=1)
    judged: bool = True
    exclude_same_id: bool = False
    options: QueryOptions = NO_OPTIONS
    task: str | None = None
    seed: int = Field(default=42, ge=0, le=LARGEST_SEED)
