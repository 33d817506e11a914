"""Validation: exhaustive search over dev sets with the current model, and the best checkpoint.

Its scores are those of `evaluate`: the same scan, the same order of ties, the same queries and exclusions.

Shapes: `N` documents of a dev set, `d` dimensions.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hyperseek._files import read_tensors, reading, write_tensors
from hyperseek._relevance import cut_off, excluded_ids, is_relevant, measure, rows_of_themselves
from hyperseek.errors import DataError, InputError
from hyperseek.models import Retriever
from hyperseek.plan import scan
from hyperseek.runs.loop import Clock
from hyperseek.runs.record import Validated
from hyperseek.scoring import Points, Scorer
from hyperseek.training._recipe import ValidationConfig
from hyperseek.training._routes import is_frozen
from hyperseek.types import NO_OPTIONS, Qrels, Query, QueryOptions

if TYPE_CHECKING:
    from hyperseek.training._cache import FeatureCache, SideFeatures

_QUERIES_AT_ONCE = 32
_DOCUMENTS_AT_ONCE = 256

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DevSet:
    """Queries with relevance judgements over a corpus.

    Attributes:
        queries: Texts of the queries that have a relevant document.
        documents: Texts of the documents, in the order of the corpus, which is the order of ties.
        grades: For each query, the grades of its judged documents by their position.
        excluded: For each query the position of the document that is the query itself, -1 for none; empty if no query
            has one.
        left_out: For each query the positions of the documents that its `excluded_ids` name; empty if no query has any.
        options: Options of the model for every query.
        share: Fraction of the judged queries that `queries` are; the others count as 0, as in `evaluate`.
    """

    queries: Sequence[str]
    documents: Sequence[str]
    grades: Sequence[Mapping[int, int]]
    excluded: Sequence[int] = ()
    left_out: Sequence[frozenset[int]] = ()
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
    """Choose the queries and documents to validate on.

    Args:
        documents: Texts by id.
        queries: All queries; those without a relevant document are not searched for.
        qrels: Their judgements; judged documents that are not in `documents` are left out.
        max_queries: Keep at most this many, drawn by seed.
        max_documents: Keep the judged documents of those queries and draw others until there are this many.
        exclude_same_id: Leave out of each ranking the document whose id is the query's.
        options: Options of the model for every query.
        seed: Seed of the draws.

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
    left_out = excluded_ids(kept)
    return DevSet(
        [query.text for query in kept],
        [documents[document] for document in ids],
        [{places[document]: grade for document, grade in judged[query.id].items()} for query in kept],
        rows_of_themselves([query.id for query in kept], ids) if exclude_same_id else (),
        [frozenset(places[one] for one in left_out.get(query.id, ()) if one in places) for query in kept]
        if left_out
        else (),
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
        encode_dtype: Number format that documents are encoded in while their route is being trained.
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
        """Search with the current model.

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
        depth += max(map(len, dev_set.left_out), default=0)
        values: list[float] = []
        for scorer in self._scorers(dev_set):
            part = slice(len(values), len(values) + len(scorer))
            excluded = torch.tensor(dev_set.excluded[part]) if dev_set.excluded else None
            try:
                _, rows = scan(scorer, [points], k=depth, excluded=excluded)
            except InputError as error:
                # Training can diverge; earlier weights are still there to be kept.
                logger.warning("validation on %s counts as 0: %s", name, error)
                return 0.0
            left_out = dev_set.left_out[part] or [frozenset()] * len(scorer)
            for places, judged, out in zip(rows.tolist(), dev_set.grades[part], left_out, strict=True):
                ranked = [judged.get(place, 0) for place in places if place >= 0 and place not in out]
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
        if cache is not None:
            points = Points.concatenate(list(self._through_the_rest(cache, dev_set.documents)))
        else:
            points = self._retriever.encode_documents(dev_set.documents, dtype=self._encode_dtype)
        if all(map(is_frozen, self._retriever.route("document"))):
            self._points[name] = points
        return points

    def _through_the_rest(self, cache: FeatureCache, documents: Sequence[str]) -> Iterator[Points]:
        for start in range(0, len(documents), _DOCUMENTS_AT_ONCE):
            features = cache.features(documents[start : start + _DOCUMENTS_AT_ONCE])
            features = {name: tensor.to(self._retriever.device) for name, tensor in features.items()}
            yield self._retriever.points(self._retriever.forward(features, "document", start=cache.stop))


class KeepBest(TrainerCallback):
    """Validates before, during and after training, keeps the best weights on disk, and stops early.

    Args:
        config: When to validate and stop.
        validator: Measures the current model.
        clock: Paused during validation.
        path: File of the best weights.
        trainable_state: Returns the current weights.

    Attributes:
        history: All validations, in order.
        log: Takes metrics for the trackers.
    """

    def __init__(
        self,
        config: ValidationConfig,
        validator: Validator,
        clock: Clock,
        path: Path,
        trainable_state: Callable[[], dict[str, Tensor]],
    ) -> None:
        self.config = config
        self.validator = validator
        self.clock = clock
        self.path = path
        self.history: list[Validated] = []
        self._trainable_state = trainable_state
        self.log: Callable[[dict[str, float]], None] = logger.debug

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Validate the untrained model, unless this run was resumed."""
        if not any(entry.eligible for entry in self.history):
            self._validate(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Validate when due, and stop when patience has run out."""
        if self.config.every is not None and state.global_step % self.config.every == 0:
            self._validate(state)
            control.should_training_stop |= self._out_of_patience()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Validate the last step if that has not been done."""
        if not any(entry.eligible for entry in self.history) or self.history[-1].step != state.global_step:
            self._validate(state)

    @property
    def best(self) -> Validated:
        """The best validation so far; the earliest among equals."""
        return max((entry for entry in self.history if entry.eligible), key=lambda entry: entry.scores["mean"])

    def best_state(self) -> tuple[int, dict[str, Tensor]]:
        """Return the step of the best weights and the weights."""
        tensors, metadata = read_tensors(self.path, "the best weights so far")
        with reading(self.path, "the best weights so far"):
            return int(metadata["step"]), tensors

    def restore(self, history: Sequence[Validated]) -> None:
        """Resume from the validations of an earlier run; if its best weights are lost, only later ones can be the best.

        Args:
            history: All validations, in order.
        """
        self.history[:] = history
        try:
            self.best_state()
        except DataError as error:
            logger.warning("the best weights so far are lost; the checkpoint's are measured again: %s", error)
            self.history[:] = [entry.model_copy(update={"eligible": False}) for entry in history]

    def _validate(self, state: TrainerState) -> None:
        with self.clock.paused():
            scores = self.validator()
            entry = Validated(
                step=state.global_step, seconds=self.clock.seconds, scores=scores, eligible=self._eligible(scores)
            )
            self.history.append(entry)
            logger.info("step %d: %s %s", entry.step, self.validator.metric, scores)
            self.log({f"validation/{name}/{self.validator.metric}": score for name, score in scores.items()})
            if self.best is entry and state.is_world_process_zero:
                write_tensors(self.path, self._trainable_state(), {"step": str(entry.step)})

    def _eligible(self, scores: dict[str, float]) -> bool:
        # With interpolation, the limit applies to the interpolated weights chosen at the end.
        if self.config.max_drop is None or self.config.interpolate:
            return True
        if not any(entry.eligible for entry in self.history):
            return True
        start = self.history[0].scores
        return all(scores[name] >= value - self.config.max_drop for name, value in start.items())

    def _out_of_patience(self) -> bool:
        if self.config.patience is None:
            return False
        return len(self.history) - 1 - self.history.index(self.best) >= self.config.patience
