"""Searching an index for examples: candidates, scores of their own items, and documents that outrank positives."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hyperseek.data.examples import ExampleItem, TrainingExample
from hyperseek.mining._mined_corpus import Corpus
from hyperseek.mining._options import ConsistencyOptions, RefineOptions
from hyperseek.mining._relevant_documents import KeyedItem, Relevant
from hyperseek.types import Document, Run

if TYPE_CHECKING:
    from hyperseek.scoring import Points, Scorer


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
