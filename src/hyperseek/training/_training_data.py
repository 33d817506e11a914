"""Reading the data section of a recipe, and accounting for its examples."""

from __future__ import annotations

import logging
import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hyperseek._files import atomic_write
from hyperseek._fingerprint import fingerprint_json
from hyperseek._relevance import Relevance, text_key
from hyperseek.data import (
    Dataset,
    ErrorReport,
    TrainingExample,
    examples_from_qrels,
    open_dataset,
    read_prepared,
)
from hyperseek.data.lengths import automatic_lengths, every_nth
from hyperseek.data.open import parse_source
from hyperseek.data.preparing import examples_from_table
from hyperseek.data.tables import rows_fingerprint
from hyperseek.errors import ConfigError
from hyperseek.models import Retriever
from hyperseek.models.loading import set_length
from hyperseek.models.retriever import SIDES, Side
from hyperseek.runs.recipe import expanded, is_first_process
from hyperseek.runs.record import SourceUse
from hyperseek.training._epoch_batches import EpochBatches
from hyperseek.training._recipe import DataConfig, DevSetConfig, SourceConfig
from hyperseek.training._training_set import Example, TrainingSet, check_not_empty
from hyperseek.training._validation import DevSet, make_dev_set
from hyperseek.training.losses import NO_DOCUMENT, Objective
from hyperseek.types import NO_OPTIONS, Query, QueryOptions

_DOCUMENTS = "training_documents"

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Trained:
    """A collection's contribution to training.

    Attributes:
        splits: Names of its splits.
        fingerprint: Fingerprint of its content, if it has one.
        relevant: Ids of documents that are positives of a training query, and their numbers in the training set.
        examples: Positions of its examples.
    """

    splits: set[str] = field(default_factory=set)
    fingerprint: str | None = None
    relevant: dict[str, int] = field(default_factory=dict)
    examples: list[int] = field(default_factory=list)

    def restricted(self, used: Used) -> Trained:
        """Return the part of it that was in a batch."""
        relevant = {identity: number for identity, number in self.relevant.items() if number in used.positives}
        examples = [position for position in self.examples if position in used.examples]
        return replace(self, relevant=relevant, examples=examples)


@dataclass(frozen=True, slots=True)
class ReadSources:
    """The data read from a recipe's sources.

    Attributes:
        training_set: The examples.
        trained: For each collection, the part that is trained on.
        uses: For each source, how its examples have been used so far.
        held_out: Examples that are not in the training set, although their documents are.
    """

    training_set: TrainingSet
    trained: dict[str, Trained]
    uses: dict[str, SourceUse]
    held_out: Sequence[Example] = ()


@dataclass(frozen=True, slots=True)
class _Opened:
    """A source, ready to be read.

    Attributes:
        examples: Its examples.
        pool: The texts of its corpus.
        records: Its entries for the run's record.
        relevance: Relevant documents of queries without an example; complete when all examples are read.
        report: Records left out; complete when all examples are read.
    """

    examples: Iterator[TrainingExample]
    pool: Iterable[str]
    records: dict[str, Trained]
    relevance: Relevance = field(default_factory=Relevance)
    report: ErrorReport = field(default_factory=ErrorReport)


def read_sources(config: DataConfig, *, seed: int, holdout: float = 0.0) -> ReadSources:
    """Read all sources into memory.

    Args:
        config: The sources, and how examples are drawn.
        seed: Seed of draws, limits and the holdout.
        holdout: Fraction of the queries that are left out of the training set.

    Returns:
        The training set, the contribution of each collection, and the examples left out or held out.

    Raises:
        DataError: A source has a bad record or no example.
        ConfigError: A source names no split, or draws are by hops and no positive has any.
    """
    training_set = TrainingSet(
        positives=config.positives, negatives=config.negatives, seed=seed, hops=config.hop_weights
    )
    records: dict[str, Trained] = {}
    uses: dict[str, SourceUse] = {}
    read: list[tuple[str, int, TrainingExample]] = []
    for name, source in config.sources.items():
        opened = _open(source)
        for collection, record in opened.records.items():
            _merge(records, collection, record)
        wants_corpus = config.extra_documents > 0 and config.extra_from == "corpus"
        position = training_set.add_source(name, opened.pool if wants_corpus else ())
        examples = list(opened.examples)
        opened.report.log(source.source)
        training_set.add_relevant(opened.relevance)
        # Documents relevant to an example that is not trained on, or only anchored, are still relevant.
        for example in examples:
            training_set.add_relevant(Relevance({text_key(example.query.text): example.relevant_keys()}))
        over_limit = 0 if source.limit is None else max(0, len(examples) - source.limit)
        if over_limit:
            examples = random.Random(f"{seed}-{name}").sample(examples, len(examples) - over_limit)
        read += [(name, position, example) for example in examples]
        uses[name] = SourceUse(examples=len(examples), over_limit=over_limit, left_out=dict(opened.report.counts))
    judged = [example for name, _, example in read if not config.sources[name].anchor_only]
    kept_out = _kept_out(judged, holdout, seed)
    held_out: list[Example] = []
    for name, position, example in read:
        anchor_only = config.sources[name].anchor_only
        numbered = _numbered(training_set, example, position, anchor_only=anchor_only)
        if text_key(example.query.text) in kept_out:
            held_out.append(numbered)
            use = uses[name]
            uses[name] = use.model_copy(update={"examples": use.examples - 1, "held_out": use.held_out + 1})
            continue
        training_set.add(numbered)
        if not anchor_only:
            _record(records, training_set, example)
    check_not_empty(training_set)
    if config.hops is not None and not any(example.hops for example in training_set.examples):
        raise ConfigError(
            "data.hops draws by hops, and no positive has any; set options.qrels.hierarchy of a source, train on what "
            "`hyperseek prepare hierarchy` wrote, or leave hops out"
        )
    records = {name: record for name, record in records.items() if record.examples}
    return ReadSources(training_set, records, uses, held_out)


def _kept_out(examples: Sequence[TrainingExample], share: float, seed: int) -> set[int]:
    """Draw the queries that are held out, as keys of their texts."""
    queries = list(dict.fromkeys(text_key(example.query.text) for example in examples))
    if not share or not queries:
        return set()
    return set(random.Random(f"{seed}-held out").sample(queries, max(1, round(share * len(queries)))))


def held_out_set(
    read: ReadSources, *, max_documents: int | None, seed: int, options: QueryOptions = NO_OPTIONS
) -> DevSet:
    """Make a dev set of the examples that `read_sources` held out.

    Args:
        read: Sources with at least one example held out.
        max_documents: How many of the training set's documents are searched; None for all.
        seed: Seed of the draw.
        options: Options of the model for every query.

    Returns:
        The dev set; the positives of all of a query's examples are relevant to it.
    """
    relevant: dict[str, dict[str, int]] = {}
    for example in read.held_out:
        relevant.setdefault(example.query, {}).update({str(number): 1 for number in example.positives})
    return make_dev_set(
        {str(number): text for number, text in enumerate(read.training_set.documents)},
        [Query(query, query) for query in relevant],
        relevant,
        max_documents=max_documents,
        options=options,
        seed=seed,
    )


def set_lengths(
    retriever: Retriever, training_set: TrainingSet, config: DataConfig, *, most: Mapping[Side, int | None]
) -> None:
    """Choose the lengths of queries and documents, in tokens, if `auto_lengths` is set.

    Args:
        retriever: Changed in place.
        training_set: The texts to measure.
        config: The fraction of texts to keep whole, and the size of the sample.
        most: Upper bound for each side; None for the model's own.
    """
    if config.length_percentile is None or config.length_sample is None:
        return
    # Sampled before their texts are gathered.
    rows = [
        (example.query, [training_set.documents[number] for number in (*example.positives, *example.negatives)])
        for example in every_nth(training_set.examples, config.length_sample)
    ]
    chosen = automatic_lengths(retriever, rows, share=config.length_percentile, sample=len(rows))
    for side, length in zip(SIDES, chosen, strict=True):
        limit = most[side]
        set_length(retriever, side, length if limit is None else min(length, limit))


def read_dev_set(config: DevSetConfig, *, seed: int, options: QueryOptions | None = None) -> DevSet:
    """Read a dev set.

    Args:
        config: The collection and its split.
        seed: Seed of the draws.
        options: Options of the model for every query; None for those of `config`.

    Returns:
        The dev set.

    Raises:
        ConfigError: The source is not a collection with a split.
    """
    parsed = parse_source(expanded(config.source))
    if parsed.kind != "qrels" or parsed.split is None:
        raise ConfigError(f"validation needs a collection and its split, as in 'pydocs:dev', not {config.source!r}")
    dataset = open_dataset(parsed.place)
    return make_dev_set(
        {document.id: document.full_text for document in dataset.documents()},
        dataset.queries(parsed.split),
        dataset.qrels(parsed.split),
        max_queries=config.max_queries,
        max_documents=config.max_documents,
        exclude_same_id=config.exclude_same_id,
        options=config.options if options is None else options,
        seed=seed,
    )


def data_fingerprint(training_set: TrainingSet) -> str:
    """Return a fingerprint of a training set: queries, documents, and which belong together."""
    examples: list[Any] = [
        # Without empty parts, for the fingerprints of runs before there were coarse positives and hops.
        (
            *(example.query, example.positives, example.negatives, sorted(example.scores.items())),
            *([example.coarse, sorted(example.hops.items())] if example.coarse or example.hops else []),
            *([example.weight] if example.weight != 1 else []),
        )
        for example in training_set.examples
    ]
    return fingerprint_json([training_set.documents, examples])


def _open(source: SourceConfig) -> _Opened:
    place = expanded(source.source)
    if (Path(place) / "prepared.json").is_file():
        source.check_options("prepared")
        prepared = read_prepared(place)
        records = {
            info.name: Trained({info.split} if info.split else set(), info.fingerprint)
            for info in prepared.info.sources
        }
        pool = (document.full_text for document in prepared.documents())
        return _Opened(prepared.examples(), pool, records, prepared.relevance())
    parsed = parse_source(place)
    source.check_options(parsed.kind)
    if parsed.kind == "qrels":
        if parsed.split is None:
            raise ConfigError(f"the source {source.source!r} names no split; write PLACE:SPLIT, as in 'pydocs:train'")
        dataset = open_dataset(parsed.place, name=parsed.name)
        record = Trained({parsed.split}, dataset.fingerprint())
        relevance, report = Relevance(), ErrorReport()
        examples = examples_from_qrels(
            dataset,
            parsed.split,
            options=source.options.qrels,
            coarse=source.options.coarse,
            report=report,
            relevance=relevance,
        )
        return _Opened(examples, _full_texts(dataset), {dataset.name: record}, relevance, report)
    report = ErrorReport()
    examples = examples_from_table(parsed, source.options, name=parsed.name, report=report)
    fingerprint = rows_fingerprint(parsed.place) if Path(parsed.place).exists() else None
    named_records = {} if parsed.name is None else {parsed.name: Trained(fingerprint=fingerprint)}
    return _Opened(examples, (), named_records, report=report)


def _full_texts(dataset: Dataset) -> Iterator[str]:
    return (document.full_text for document in dataset.documents())


def _numbered(training_set: TrainingSet, example: TrainingExample, source: int, *, anchor_only: bool) -> Example:
    if anchor_only:
        return Example(example.query.text, (), (), {}, source)
    positives = tuple(training_set.number(item.text) for item in example.positives)
    negatives = tuple(training_set.number(item.text) for item in example.negatives)
    items = list(zip((*positives, *negatives), (*example.positives, *example.negatives), strict=True))
    scores = {number: item.score for number, item in items if item.score is not None}
    coarse = tuple(dict.fromkeys(training_set.number(item.text) for item in example.coarse))
    hops = {number: item.hops for number, item in items[: len(positives)] if item.hops is not None}
    return Example(example.query.text, positives, negatives, scores, source, coarse, hops, example.weight)


def _record(records: dict[str, Trained], training_set: TrainingSet, example: TrainingExample) -> None:
    for item in (*example.positives, *example.coarse):
        collection, _, identity = item.id.partition("/")
        records.setdefault(collection, Trained()).relevant[identity] = training_set.number(item.text)
    records.setdefault(example.source, Trained()).examples.append(len(training_set) - 1)


def _merge(records: dict[str, Trained], name: str, record: Trained) -> None:
    known = records.setdefault(name, record)
    known.splits |= record.splits
    known.fingerprint = known.fingerprint or record.fingerprint


def write_training_data(folder: Path, records: Mapping[str, Trained]) -> dict[str, dict[str, Any]]:
    """Return the training data's entries in `run.json`; the first process also writes the lists of documents.

    Args:
        folder: The folder of `run.json`.
        records: Contributions by name of the collection.

    Returns:
        For each collection its `splits`, `fingerprint`, `examples` and `relevant_documents_file`.
    """
    entries = {}
    for name, record in sorted(records.items()):
        place = f"{_DOCUMENTS}/{name}.txt"
        if is_first_process():
            with atomic_write(folder / place) as file:
                file.writelines(f"{identity}\n" for identity in sorted(record.relevant))
        entries[name] = {
            "splits": sorted(record.splits),
            "fingerprint": record.fingerprint,
            "examples": len(record.examples),
            "relevant_documents": len(record.relevant),
            "relevant_documents_file": place,
        }
    return entries


@dataclass(frozen=True, slots=True)
class Used:
    """Examples and documents that were in the batches of a run.

    Attributes:
        examples: Positions of examples.
        positives: Numbers of the documents that were a positive of some query.
    """

    examples: frozenset[int]
    positives: frozenset[int]


def checked(
    uses: Mapping[str, SourceUse],
    training_set: TrainingSet,
    batches: EpochBatches,
    objective: Objective,
    *,
    extra_documents: int,
) -> dict[str, SourceUse]:
    """Count which examples, and which of their negatives, can have no effect, and warn about them.

    Args:
        uses: Uses so far, by name of the source.
        training_set: All examples.
        batches: Their batches.
        objective: The losses.
        extra_documents: Additional documents of every batch.

    Returns:
        The same with `without_effect`, `negatives_left_out` and `negatives_not_drawn`.
    """
    smallest = batches.smallest()
    without, left_out, not_drawn = (dict.fromkeys(training_set.sources, 0) for _ in range(3))
    for position, example in enumerate(training_set.examples):
        name = training_set.sources[example.source]
        material = training_set.material(example, others=smallest[position] > 1 or extra_documents > 0)
        without[name] += not objective.learns_from(material)
        usable = len(training_set.negatives(example))
        left_out[name] += len(example.negatives) - usable
        not_drawn[name] += 0 if training_set.draws_negatives else usable
    for name, count in without.items():
        if count:
            logger.warning(
                "%d of %d examples of %s have no effect: no loss of the recipe (%s) can learn from them without "
                "negatives, teacher scores or other examples in their batch",
                count,
                uses[name].examples,
                name,
                ", ".join(objective.weights),
            )
    for name, count in not_drawn.items():
        if count:
            logger.warning(
                "the examples of %s have %d negatives of their own, but none is drawn; set data.negatives to the "
                "number to draw per example",
                name,
                count,
            )
    return {
        name: use.model_copy(
            update={
                "without_effect": without[name],
                "negatives_left_out": left_out[name],
                "negatives_not_drawn": not_drawn[name],
            }
        )
        for name, use in uses.items()
    }


def used(training_set: TrainingSet, batches: EpochBatches, *, epochs: int, more: int, coarse: bool = False) -> Used:
    """Repeat the draws of a run.

    Args:
        training_set: All examples.
        batches: Their batches.
        epochs: How many epochs were completed.
        more: Batches of the unfinished epoch.
        coarse: Whether losses read coarse positives.

    Returns:
        The examples and documents that were in a batch.
    """
    everything = range(len(training_set))
    examples: set[int] = set()
    positives: set[int] = set()
    drawn = list(everything)
    for epoch in range(epochs):
        examples.update(everything)
        # An example with one positive has used it after one epoch, others after several.
        drawn = [
            position
            for position in drawn
            if not positives.issuperset(training_set.can_ask_for(position, coarse=coarse))
        ]
        for position in drawn:
            positives.update(training_set.asks_for((epoch, position), coarse=coarse))
    if more:
        batches.set_epoch(epochs)
        for batch, _ in zip(batches, range(more), strict=False):
            examples.update(position for _, position in batch)
            for index in batch:
                positives.update(training_set.asks_for(index, coarse=coarse))
    examples |= {training_set.copies[position] for position in examples if position in training_set.copies}
    return Used(frozenset(examples), frozenset(positives - {NO_DOCUMENT}))


def ended(uses: Mapping[str, SourceUse], training_set: TrainingSet, examples: Collection[int]) -> dict[str, SourceUse]:
    """Count which examples were in no batch, and warn about them.

    Args:
        uses: Uses so far, by name of the source.
        training_set: All examples.
        examples: Positions of those that were in a batch.

    Returns:
        The same with `unused`.
    """
    unused = dict.fromkeys(training_set.sources, 0)
    for position, example in enumerate(training_set.examples):
        unused[training_set.sources[example.source]] += position not in examples
    for name, count in unused.items():
        if count:
            logger.warning(
                "%d of %d examples of %s were in no batch, as training ended first; their documents do not count as "
                "seen",
                count,
                uses[name].examples,
                name,
            )
    return {name: use.model_copy(update={"unused": unused[name]}) for name, use in uses.items()}
