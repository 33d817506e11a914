"""What an index gives for examples, and the settings that choose from it: of mining, filters and preferences.

It gives candidates, scores of their own items, and documents that outrank positives.

Documents known to be relevant to a query, from all examples, are never its negatives. Of these, memory holds ids and
8-byte hashes of texts, never the texts.
"""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, field_validator

from hyperseek._config import LARGEST_SEED, Config, read_yaml
from hyperseek._relevance import Relevance, is_relevant, text_key
from hyperseek.data.examples import ExampleItem, TrainingExample, qualified
from hyperseek.mining._mined_corpus import Corpus
from hyperseek.types import NO_OPTIONS, Document, Qrels, QueryOptions, Run

if TYPE_CHECKING:
    from hyperseek.scoring import Points, Scorer

_READ_AT_ONCE = 1_000


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


@dataclass(frozen=True, slots=True)
class KeyedItem:
    """A document with the key of its text, which is too costly to compute per query.

    Attributes:
        item: The document.
        key: `text_key` of its text.
    """

    item: ExampleItem
    key: int

    @classmethod
    def of(cls, item: ExampleItem) -> Self:
        """Make the key."""
        return cls(item, text_key(item.text))

    def same(self, other: KeyedItem) -> bool:
        """Return whether both have the same id or the same text."""
        return self.item.id == other.item.id or self.key == other.key


@dataclass(slots=True)
class Relevant:
    """The relevant documents of one query.

    Attributes:
        ids: Ids of documents, as `SOURCE/ID`.
        texts: Keys of their texts, as far as known.
        unseen: Those of `ids` that are not positives of the query, and whose texts may not appear in the examples.
    """

    ids: set[str] = field(default_factory=set)
    texts: set[int] = field(default_factory=set)
    unseen: set[str] = field(default_factory=set)

    def has(self, found: KeyedItem) -> bool:
        """Return whether a document is one of these, or has the text of one."""
        return found.item.id in self.ids or found.key in self.texts


class RelevantByQuery:
    """Relevant documents by query: examples whose queries have the same text share theirs.

    Args:
        examples: All of them, read once.
        judged: Additional judgements by name of the collection, with its own ids.
        relevance: Relevant texts of queries without an example among these.
    """

    def __init__(
        self,
        examples: Iterable[TrainingExample],
        judged: Mapping[str, Qrels] | None = None,
        relevance: Relevance | None = None,
    ) -> None:
        self._of_text: defaultdict[int, Relevant] = defaultdict(Relevant)
        self.sources: dict[str, int] = {}
        judged_ids = {
            qualified(name, query_id): [
                qualified(name, document_id) for document_id, grade in own.items() if is_relevant(grade)
            ]
            for name, qrels in (judged or {}).items()
            for query_id, own in qrels.items()
        }
        for example in examples:
            self.sources[example.source] = self.sources.get(example.source, 0) + 1
            relevant = self._of_text[text_key(example.query.text)]
            relevant.unseen.update(example.relevant, judged_ids.get(example.query.id, ()))
            relevant.ids.update(item.id for item in (*example.positives, *example.coarse))
            relevant.texts |= example.relevant_keys()
        for query, keys in relevance or ():
            if query in self._of_text:
                self._of_text[query].texts |= keys
        for relevant in self._of_text.values():
            relevant.unseen -= relevant.ids
            relevant.ids |= relevant.unseen

    def learn(self, read: Callable[[list[str]], Iterable[ExampleItem]]) -> None:
        """Add the texts of documents that are judged relevant but are not positives of any example.

        Args:
            read: Returns the documents it has of given ids.
        """
        owners: defaultdict[str, list[Relevant]] = defaultdict(list)
        for relevant in self._of_text.values():
            for identity in relevant.unseen:
                owners[identity].append(relevant)
        ids = iter(sorted(owners))
        while part := list(islice(ids, _READ_AT_ONCE)):
            for item in read(part):
                for relevant in owners[item.id]:
                    relevant.texts.add(text_key(item.text))

    def of(self, example: TrainingExample) -> Relevant:
        """Return the relevant documents of an example's query."""
        return self._of_text[text_key(example.query.text)]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A search result.

    Attributes:
        found: The document.
        score: The searching model's score; None if no filter reads it.
    """

    found: KeyedItem
    score: float | None


@dataclass(slots=True)
class Found:
    """The result of searching an index for one example.

    Attributes:
        candidates: Candidates for negatives, best first; relevant documents may be among them.
        scores: The searching model's scores of the example's own items, by id, if a filter reads them.
        rivals: For each positive, the number of documents that score higher and are not known to be relevant.
    """

    candidates: list[Candidate] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    rivals: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Pool:
    """Documents that positives are ranked against."""

    ids: list[str]
    points: Points


class CorpusSearch:
    """Searches one corpus for the examples of its sources.

    Args:
        corpus: The index.
        options: Settings of mining and filtering.
    """

    def __init__(self, corpus: Corpus, options: RefineOptions) -> None:
        from hyperseek.plan import Plan

        self._corpus = corpus
        self._mining, self._consistency = options.mining, options.consistency
        self._options = options.options
        plan = self._mining.plan if self._mining else None
        self._plan = None if plan is None else Plan.from_mapping(plan, source="the plan of mining")
        consistency = options.consistency
        self._pool = _draw(corpus, consistency) if consistency is not None and consistency.pool is not None else None

    def find(self, examples: Sequence[TrainingExample], relevant: Sequence[Relevant]) -> Iterator[Found]:
        """Search for a batch of examples.

        Args:
            examples: The queries and their items.
            relevant: The relevant documents of each.

        Yields:
            The result for each example, in order.
        """
        from hyperseek.index.searching import scorer_groups

        done = 0
        texts = [example.query.text for example in examples]
        for scorer in scorer_groups(self._corpus.index.model, texts, self._options):
            part = slice(done, done + len(scorer))
            yield from self._find(scorer, examples[part], relevant[part])
            done += len(scorer)

    def _find(
        self, scorer: Scorer, examples: Sequence[TrainingExample], relevant: Sequence[Relevant]
    ) -> Iterator[Found]:
        ranked = self._candidates(scorer, examples, relevant)
        rivals = self._ranked_for_consistency(scorer, examples, relevant)
        stored = self._corpus.stored(item for example in examples for item in (*example.positives, *example.negatives))
        wanted = [own for run in (ranked, rivals) for found in run for own in found]
        documents = self._corpus.index.get([own for own in wanted if own not in stored]) | stored
        own_scores = self._own_scores(scorer, examples, documents)
        texts = {own: KeyedItem.of(self._corpus.item(document)) for own, document in documents.items()}
        for example, line, found, rival, scores in zip(examples, relevant, ranked, rivals, own_scores, strict=True):
            yield Found(
                [Candidate(texts[own], score) for own, score in found.items()],
                scores,
                self._count_rivals(example, line, {texts[own]: score for own, score in rival.items()}, scores),
            )

    def _candidates(
        self, scorer: Scorer, examples: Sequence[TrainingExample], relevant: Sequence[Relevant]
    ) -> list[dict[str, float | None]]:
        mining = self._mining
        if mining is None:
            return [{} for _ in examples]
        k = mining.depth + mining.skip_top + max(len(line.ids) for line in relevant) + 1
        run = self._corpus.index.run(
            _numbered(examples), k=k, scorer=scorer, engine=mining.engine, plan=self._plan
        ).values()
        if not mining.reads_scores:
            return [dict.fromkeys(found) for found in run]
        if self._plan is None:
            return [dict(found) for found in run]
        # A plan may rank by other scores; filters compare with the positives, so the model must score both.
        chosen = [list(found) for found in run]
        scores = self._corpus.index.score(scorer, chosen)
        return [dict(zip(ids, line, strict=True)) for ids, line in zip(chosen, scores, strict=True)]

    def _ranked_for_consistency(
        self, scorer: Scorer, examples: Sequence[TrainingExample], relevant: Sequence[Relevant]
    ) -> list[dict[str, float]]:
        consistency = self._consistency
        if consistency is None:
            return [{} for _ in examples]
        # Relevant documents and the query itself do not count, so search deep enough to skip them.
        k = consistency.top + max(len(line.ids) for line in relevant) + 1
        if self._pool is None:
            run: Run = self._corpus.index.run(_numbered(examples), k=k, scorer=scorer, engine=consistency.engine)
            return list(run.values())
        from hyperseek.plan import scan

        scores, rows = scan(scorer, [self._pool.points], k=k)
        ids = self._pool.ids
        return [
            {ids[row]: score for row, score in zip(line, own, strict=True)}
            for line, own in zip(rows.tolist(), scores.tolist(), strict=True)
        ]

    def _own_scores(
        self, scorer: Scorer, examples: Sequence[TrainingExample], documents: Mapping[str, Document]
    ) -> list[dict[str, float]]:
        mining = self._mining
        if self._consistency is None and not (mining and mining.reads_scores):
            return [{} for _ in examples]
        filtered = mining is not None and mining.reads_scores and mining.keep_negatives
        items = [(*example.positives, *(example.negatives if filtered else ())) for example in examples]
        stored = [[item for item in own if self._corpus.own_id(item.id) in documents] for own in items]
        chosen = [[str(self._corpus.own_id(item.id)) for item in own] for own in stored]
        scores = [
            {item.id: score for item, score in zip(own, line, strict=True)}
            for own, line in zip(stored, self._corpus.index.score(scorer, chosen), strict=True)
        ]
        self._score_others(scorer, items, scores)
        return scores

    def _score_others(
        self, scorer: Scorer, items: Sequence[Sequence[ExampleItem]], scores: Sequence[dict[str, float]]
    ) -> None:
        """Encode the items that are not in the index, and add their scores."""
        import torch

        others = [[item for item in own if item.id not in known] for own, known in zip(items, scores, strict=True)]
        texts = list(dict.fromkeys(item.text for own in others for item in own))
        if not texts:
            return
        places = {text: place for place, text in enumerate(texts)}
        points = self._corpus.index.model.encode_documents(texts)
        for query, own in enumerate(others):
            if own:
                part = points[torch.tensor([places[item.text] for item in own])].to(scorer.device)
                with torch.inference_mode():
                    values = scorer[query : query + 1].score(part)[0].tolist()
                scores[query].update({item.id: value for item, value in zip(own, values, strict=True)})

    def _count_rivals(
        self,
        example: TrainingExample,
        relevant: Relevant,
        ranked: Mapping[KeyedItem, float],
        scores: Mapping[str, float],
    ) -> dict[str, int]:
        if self._consistency is None:
            return {}
        query = query_item(example)
        above = [score for found, score in ranked.items() if not (relevant.has(found) or found.same(query))]
        return {item.id: sum(score > scores[item.id] for score in above) for item in example.positives}


def query_item(example: TrainingExample) -> KeyedItem:
    """Return a query as a document: in some collections documents are queries, which find themselves."""
    return KeyedItem.of(ExampleItem(example.query.id, example.query.text))


def _numbered(examples: Sequence[TrainingExample]) -> dict[str, str]:
    return {str(number): example.query.text for number, example in enumerate(examples)}


def _draw(corpus: Corpus, options: ConsistencyOptions) -> _Pool:
    import torch

    count = len(corpus.index)
    drawn = set(random.Random(options.seed).sample(range(count), min(options.pool or count, count)))
    ids: list[str] = []
    parts: list[Points] = []
    row = 0
    for names, points in corpus.index.points():
        places = [place for place in range(len(names)) if row + place in drawn]
        ids += [names[place] for place in places]
        parts.append(points[torch.tensor(places, dtype=torch.int64)])
        row += len(names)
    return _Pool(ids, type(parts[0]).concatenate(parts))
