"""What `prepare` can be asked for, as configuration that a recipe can hold."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from hyperseek._config import Config


class QrelsOptions(Config):
    """How judgements become training examples.

    Attributes:
        minimum_grade: The lowest grade of a positive; at least 1.
        maximum_positives: Positives kept for a query, highest grades first; None keeps all.
        judged_negatives: Whether documents judged 0 or less become negatives.
        drop_documents: Documents that must not appear, as `ID` in any collection or `SOURCE/ID` in one.
        exclude_same_id: Whether documents are queries, as in ArguAna: the one with the query's own id is then neither
            its positive nor its negative.
    """

    minimum_grade: int = Field(default=1, ge=1)
    maximum_positives: int | None = Field(default=None, ge=1)
    judged_negatives: bool = True
    drop_documents: frozenset[str] = frozenset()
    exclude_same_id: bool = False


class HypencoderOptions(Config):
    """How Hypencoder's lines become training examples.

    Attributes:
        positive_filter: `first`: the first item is the positive; `type`: items of `positive_type` are;
            `score_above`: items whose score is above `score_threshold` are. All others are negatives.
        positive_type: The type of positives, for `type`.
        score_threshold: For `score_above`.
        score_key: Key of the teacher's score in an item; None reads none.
    """

    positive_filter: Literal["first", "type", "score_above"] = "first"
    positive_type: str | None = None
    score_threshold: float = 0.0
    score_key: str | None = "score"

    @model_validator(mode="after")
    def _complete(self) -> HypencoderOptions:
        if self.positive_filter == "type" and self.positive_type is None:
            raise ValueError("positive_filter 'type' needs positive_type, the type that positives have")
        if self.positive_filter == "score_above" and self.score_key is None:
            raise ValueError("positive_filter 'score_above' needs score_key")
        return self


class ColumnsOptions(Config):
    """Which columns of a table hold what; None finds the usual names in the first row.

    Attributes:
        query: Column of the query.
        positive: Column of one positive text or a list of them.
        negatives: Columns of negatives, each one text or a list; empty finds `negative`, `neg`, `negative_1`, ...
        score: Column of teacher scores: a list with one for every positive, then every negative; or one number, which
            with one positive and one negative is the margin between them, and with no negatives is the positive's.
        positive_scores: Column with a score for every positive, or None.
        negative_scores: Column with a score for every negative, or None.
    """

    query: str | None = None
    positive: str | None = None
    negatives: tuple[str, ...] = ()
    score: str | None = None
    positive_scores: str | None = None
    negative_scores: str | None = None


class PrepareOptions(Config):
    """All options of `prepare`.

    Attributes:
        qrels: For collections.
        hypencoder: For Hypencoder's JSON lines.
        columns: For tables of queries and positives.
        task: The task of examples that name none themselves.
        instruction: The instruction of examples that have none themselves.
    """

    qrels: QrelsOptions = QrelsOptions()
    hypencoder: HypencoderOptions = HypencoderOptions()
    columns: ColumnsOptions = ColumnsOptions()
    task: str | None = None
    instruction: str | None = None
