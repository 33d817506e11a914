"""Reading what a recipe's data section names."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hyperseek._errors import ConfigError
from hyperseek._fingerprint import fingerprint_file, fingerprint_json
from hyperseek.data import (
    Dataset,
    TrainingExample,
    examples_from_columns,
    examples_from_hypencoder,
    examples_from_qrels,
    open_dataset,
    parse_source,
    read_prepared,
)
from hyperseek.training._recipe import DataConfig, DevSetConfig, SourceConfig
from hyperseek.training._training_set import Example, TrainingSet, check_not_empty
from hyperseek.training._validation import DevSet, make_dev_set

_UNSET = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_MEANING = {"HYPERSEEK_DATA": "the folder that holds the collections, each a folder in BEIR form"}


@dataclass(slots=True)
class Trained:
    """What a collection contributed to training.

    Attributes:
        splits: Which of its splits.
        fingerprint: Of its content; None where there is none to name.
        relevant: Ids of documents that are relevant to a training query.
        examples: Number of examples.
    """

    splits: set[str] = field(default_factory=set)
    fingerprint: str | None = None
    relevant: set[str] = field(default_factory=set)
    examples: int = 0


@dataclass(frozen=True, slots=True)
class _Opened:
    """A source, ready to be read: its examples, the texts of its corpus, and what to record of it."""

    examples: Iterator[TrainingExample]
    pool: Iterable[str]
    records: dict[str, Trained]


def read_sources(config: DataConfig, *, seed: int) -> tuple[TrainingSet, dict[str, Trained]]:
    """Read all sources into memory.

    Args:
        config: The sources, and how examples are drawn.
        seed: Decides draws and limits.

    Returns:
        The training set, and by name of the collection what of it was trained on.

    Raises:
        DataError: A source has a bad record or gives no example.
        ConfigError: A source names no split.
    """
    training_set = TrainingSet(positives=config.positives, negatives=config.negatives, seed=seed)
    records: dict[str, Trained] = {}
    for name, source in config.sources.items():
        opened = _open(source)
        for collection, record in opened.records.items():
            _merge(records, collection, record)
        wants_corpus = config.extra_documents > 0 and config.extra_from == "corpus"
        position = training_set.add_source(name, opened.pool if wants_corpus else ())
        examples = list(opened.examples)
        if source.limit is not None and source.limit < len(examples):
            examples = random.Random(f"{seed}-{name}").sample(examples, source.limit)
        for example in examples:
            training_set.add(_numbered(training_set, example, position, anchor_only=source.anchor_only))
            if not source.anchor_only:
                _record(records, example)
    check_not_empty(training_set)
    return training_set, {name: record for name, record in records.items() if record.examples}


def read_dev_set(config: DevSetConfig, *, seed: int) -> DevSet:
    """Read a dev set.

    Args:
        config: The collection and its split.
        seed: Decides draws.

    Returns:
        The dev set.

    Raises:
        ConfigError: The source is no collection with a split.
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
        seed=seed,
    )


def expanded(source: str) -> str:
    """Fill in environment variables.

    Args:
        source: A source, as a recipe names it.

    Returns:
        The source without variables.

    Raises:
        ConfigError: A variable is not set; the message says what to set.
    """
    filled = os.path.expandvars(source)
    unset = _UNSET.search(filled)
    if unset is None or _exists(filled):
        return filled
    name = unset[1] or unset[2]
    meaning = _MEANING.get(name, "the part of the path that it stands for")
    raise ConfigError(
        f"the source {source!r} needs the environment variable {name}, which is not set; set it to {meaning}, as in "
        f"`export {name}=/path/to/data`, or name another source"
    )


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def data_fingerprint(training_set: TrainingSet) -> str:
    """Name the content of a training set: queries, documents, and which belong together."""
    examples: list[Any] = [
        (example.query, example.positives, example.negatives, sorted(example.scores.items()))
        for example in training_set.examples
    ]
    return fingerprint_json([training_set.documents, examples])


def _open(source: SourceConfig) -> _Opened:
    place = expanded(source.source)
    if (Path(place) / "prepared.json").is_file():
        prepared = read_prepared(place)
        records = {
            info.name: Trained({info.split} if info.split else set(), info.fingerprint)
            for info in prepared.info.sources
        }
        return _Opened(prepared.examples(), (document.full_text for document in prepared.documents()), records)
    parsed = parse_source(place)
    if parsed.kind == "qrels":
        if parsed.split is None:
            raise ConfigError(f"the source {source.source!r} names no split; write PLACE:SPLIT, as in 'pydocs:train'")
        dataset = open_dataset(parsed.place, name=parsed.name)
        examples = examples_from_qrels(dataset, parsed.split, options=source.options.qrels)
        record = Trained({parsed.split}, dataset.fingerprint())
        return _Opened(examples, _full_texts(dataset), {dataset.name: record})
    named: dict[str, Any] = {"name": parsed.name, "split": parsed.split or "train"}
    if parsed.kind == "hypencoder":
        examples = examples_from_hypencoder(parsed.place, options=source.options.hypencoder, **named)
    else:
        examples = examples_from_columns(parsed.place, options=source.options.columns, **named)
    fingerprint = fingerprint_file(parsed.place) if Path(parsed.place).is_file() else None
    return _Opened(examples, (), {} if parsed.name is None else {parsed.name: Trained(fingerprint=fingerprint)})


def _full_texts(dataset: Dataset) -> Iterator[str]:
    return (document.full_text for document in dataset.documents())


def _numbered(training_set: TrainingSet, example: TrainingExample, source: int, *, anchor_only: bool) -> Example:
    if anchor_only:
        return Example(example.query.text, (), (), {}, source)
    positives = tuple(training_set.number(item.text) for item in example.positives)
    negatives = tuple(training_set.number(item.text) for item in example.negatives)
    items = zip((*positives, *negatives), (*example.positives, *example.negatives), strict=True)
    scores = {number: item.score for number, item in items if item.score is not None}
    return Example(example.query.text, positives, negatives, scores, source)


def _record(records: dict[str, Trained], example: TrainingExample) -> None:
    for item in example.positives:
        collection, _, identity = item.id.partition("/")
        records.setdefault(collection, Trained()).relevant.add(identity)
    records.setdefault(example.source, Trained()).examples += 1


def _merge(records: dict[str, Trained], name: str, record: Trained) -> None:
    known = records.setdefault(name, record)
    known.splits |= record.splits
    known.fingerprint = known.fingerprint or record.fingerprint
