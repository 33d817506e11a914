"""Validation: exhaustive search over dev sets with the model as it is at the moment.

It measures what `evaluate` measures: the same scan, the same order of ties, the same queries and exclusions.

Shapes: `N` documents of a dev set, `d` dimensions.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from hyperseek._relevance import cut_off, is_relevant, measure, rows_of_themselves
from hyperseek.errors import DataError, InputError
from hyperseek.models import Retriever
from hyperseek.plan import scan
from hyperseek.scoring import Points, Scorer
from hyperseek.types import NO_OPTIONS, Qrels, Query, QueryOptions

if TYPE_CHECKING:
    from hyperseek.training._cache import FeatureCache
    from hyperseek.training._collate import SideFeatures

_QUERIES_AT_ONCE = 32
_DOCUMENTS_AT_ONCE = 256

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DevSet:
    """Queries with judgements over a corpus.

    Attributes:
        queries: Texts of the queries that have a relevant document.
        documents: Texts of the documents, in the order of the corpus, which is the order of ties.
        grades: For each query, the grades of its judged documents by their position.
        excluded: For each query the position of the document that is the query itself, -1 for none; empty for none
            at all.
        options: What is asked of the model with every query.
        share: Which share of the judged queries `queries` are; the others count as 0, as in `evaluate`.
    """

    queries: Sequence[str]
    documents: Sequence[str]
    grades: Sequence[Mapping[int, int]]
    excluded: Sequence[int] = ()
    share: float = 1.0
    options: QueryOptions = NO_OPTIONS


def make_dev_set(
    documents: Mapping[str, str],
    queries: Sequence[Query],
    qrels: Qrels,
    *,
    max_queries: int | None = None,
    max_documents: int | None = None,
    exclude_same_id: bool = False,
    options: QueryOptions = NO_OPTIONS,
    seed: int = 0,
) -> DevSet:
    """Choose what is validated on.

    Args:
        documents: Texts by id.
        queries: All queries; those without a relevant document are not searched for.
        qrels: Their judgements; judged documents that are not in `documents` are left out.
        max_queries: Keep only this many, drawn by seed.
        max_documents: Keep the judged documents of those queries and draw others until there are this many.
        exclude_same_id: Leave out of each ranking the document whose id is the query's.
        options: What is asked of the model with every query.
        seed: Decides the draws.

    Returns:
        The dev set.

    Raises:
        DataError: No query has a relevant document.
    """
    draw = random.Random(seed)
    judged = {query.id: {d: g for d, g in qrels.get(query.id, {}).items() if d in documents} for query in queries}
    kept = [query for query in queries if any(map(is_relevant, judged[query.id].values()))]
    if not kept:
        raise DataError("no query of this dev set has a relevant document in its corpus")
    share = len(kept) / sum(query.id in qrels for query in queries)
    if max_queries is not None and len(kept) > max_queries:
        kept = draw.sample(kept, max_queries)
    needed = dict.fromkeys(document for query in kept for document in judged[query.id])
    others = [document for document in documents if document not in needed]
    if max_documents is not None:
        others = draw.sample(others, max(0, min(len(others), max_documents - len(needed))))
    chosen = {*needed, *others}
    ids = [document for document in documents if document in chosen]  # the corpus' order, which is that of ties
    places = {document: place for place, document in enumerate(ids)}
    return DevSet(
        [query.text for query in kept],
        [documents[document] for document in ids],
        [{places[document]: grade for document, grade in judged[query.id].items()} for query in kept],
        rows_of_themselves([query.id for query in kept], ids) if exclude_same_id else (),
        share,
        options,
    )


class Validator:
    """Scores a model on dev sets.

    Args:
        sets: At least one, by name.
        metric: See `measure`.
        query: How queries become features.
        document: How documents do; vectors of a frozen route are computed once.
        encode_dtype: What documents are encoded in while their route is being trained.
    """

    def __init__(
        self,
        sets: Mapping[str, DevSet],
        metric: str,
        query: SideFeatures,
        document: SideFeatures,
        *,
        encode_dtype: str = "auto",
    ) -> None:
        cut_off(metric)
        self.metric = metric
        self._sets = dict(sets)
        self._query = query
        self._document = document
        self._encode_dtype = encode_dtype
        self._points: dict[str, Points] = {}

    def prepare(self) -> None:
        """Fill the caches of frozen routes."""
        for dev_set in self._sets.values():
            if self._query.cache is not None:
                self._query.cache.ensure(dev_set.queries)
            if self._document.cache is not None:
                self._document.cache.ensure(dev_set.documents)

    @torch.inference_mode()
    def __call__(self) -> dict[str, float]:
        """Search with the model as it is now.

        Returns:
            The metric for each set, and `mean`, their mean.
        """
        modes = {module: module.training for module in self._retriever.model.modules()}
        self._retriever.model.eval()
        try:
            scores = {name: self._measure(name, dev_set) for name, dev_set in self._sets.items()}
        finally:
            for module, mode in modes.items():
                module.training = mode
        return {**scores, "mean": sum(scores.values()) / len(scores)}

    @property
    def _retriever(self) -> Retriever:
        return self._query.retriever

    def _measure(self, name: str, dev_set: DevSet) -> float:
        points = self._document_points(name, dev_set).to(self._retriever.device)
        _, depth = cut_off(self.metric)
        values: list[float] = []
        for scorer in self._scorers(dev_set):
            part = slice(len(values), len(values) + len(scorer))
            excluded = torch.tensor(dev_set.excluded[part]) if dev_set.excluded else None
            try:
                _, rows = scan(scorer, [points], k=depth, excluded=excluded)
            except InputError as error:
                # Training can go astray; the weights of before are still there to be kept.
                logger.warning("validation on %s counts as 0: %s", name, error)
                return 0.0
            for places, judged in zip(rows.tolist(), dev_set.grades[part], strict=True):
                ranked = [judged.get(place, 0) for place in places if place >= 0]
                values.append(measure(self.metric, ranked, list(judged.values())))
        return math.fsum(values) / len(values) * dev_set.share

    def _scorers(self, dev_set: DevSet) -> Iterator[Scorer]:
        cache, queries = self._query.cache, dev_set.queries
        if cache is None:
            yield from self._retriever.compile_batches(queries, dev_set.options)
            return
        device = self._retriever.device
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            features = cache.features(queries[start : start + _QUERIES_AT_ONCE])
            features = {name: tensor.to(device) for name, tensor in features.items()}
            features = self._retriever.forward(features, "query", start=cache.stop)
            yield self._retriever.scorer(features, dev_set.options)

    def _document_points(self, name: str, dev_set: DevSet) -> Points:
        if name in self._points:
            return self._points[name]
        cache = self._document.cache
        modules = self._retriever.route("document")
        if cache is not None:
            points = Points.concatenate(list(self._through_the_rest(cache, dev_set.documents)))
        else:
            points = self._retriever.encode_documents(dev_set.documents, dtype=self._encode_dtype)
        if not any(parameter.requires_grad for module in modules for parameter in module.parameters()):
            self._points[name] = points
        return points

    def _through_the_rest(self, cache: FeatureCache, documents: Sequence[str]) -> Iterator[Points]:
        for start in range(0, len(documents), _DOCUMENTS_AT_ONCE):
            features = cache.features(documents[start : start + _DOCUMENTS_AT_ONCE])
            features = {name: tensor.to(self._retriever.device) for name, tensor in features.items()}
            yield self._retriever.points(self._retriever.forward(features, "document", start=cache.stop))
