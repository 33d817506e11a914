"""Adapting an index: from judged pairs, a card, or nothing but its documents, to a model that searches it better."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import yaml
from pydantic import Field

from hyperseek._bounded import PathLike
from hyperseek._config import Config
from hyperseek._files import atomic_write, write_json
from hyperseek._relevance import text_key
from hyperseek.adapting._choosing import (
    NOTHING,
    Choice,
    Fits,
    Gain,
    checked_kinds,
    choose,
    gain_of,
    gains,
    kinds_for,
    towards,
)
from hyperseek.adapting._fitting import Map, Material
from hyperseek.cards import Card
from hyperseek.data import open_dataset, read_prepared
from hyperseek.data.examples import source_and_id
from hyperseek.data.open import parse_source
from hyperseek.data.prepared import INFO
from hyperseek.data.reading import Faults
from hyperseek.data.tables import file_rows, is_table
from hyperseek.errors import DataError, InputError, shown
from hyperseek.index import Index
from hyperseek.models import Retriever
from hyperseek.models.families.dense import query_map
from hyperseek.plan import Auto, Feedback, Plan
from hyperseek.scoring import Points
from hyperseek.types import Document

logger = logging.getLogger(__name__)

Judged = Mapping[str, Mapping[str, float]]
"""For each query's text the grades of documents, by id."""

RECORD, PLAN = "adapt.json", "plan.yaml"

# Documents whose titles or first sentences stand for queries.
_PSEUDO = 500
_SENTENCE = re.compile(r"(?<=[.!?])\s")
_SHORTEST, _LONGEST = 12, 300


class AdaptRecord(Config):
    """The contents of `adapt.json`.

    Attributes:
        index: Name of the collection.
        fingerprint: Of the document side, which the adapted model shares with the index.
        source: Where the queries came from.
        queries: How many there were.
        fitted: How many the kept head was fitted on.
        chosen: Name of the candidate; `nothing` for the index as it is.
        kind: Of the head; `none` for no head.
        share: What is kept of it.
        feedback: Whether the plan beside the model belongs to it.
        proven: Whether the gain is proven on these queries.
        gain: What was measured of it, with its own 95 % interval.
        candidates: What was measured of all, with lower bounds that hold for all at once.
        beside: What it does on collections that it was not fitted on.
        seconds: That it took, without opening the index.
    """

    index: str
    fingerprint: str
    source: Literal["judged", "examples", "documents"]
    queries: int = Field(ge=0)
    fitted: int = Field(ge=0)
    chosen: str
    kind: str
    share: float
    feedback: bool
    proven: bool
    gain: Gain
    candidates: tuple[Gain, ...]
    beside: tuple[Gain, ...] = ()
    seconds: float


@dataclass(frozen=True)
class Adaptation:
    """An adapted model, and how it came about.

    Attributes:
        model: The model; that of the index where nothing was found to help.
        plan: The plan that searches with it; None for the index's own choice.
        record: What was measured.
    """

    model: Retriever
    plan: Plan | None
    record: AdaptRecord

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the model, `adapt.json` and, where there is a plan, `plan.yaml`.

        Args:
            folder: Its folder; files of an earlier model in it are replaced.

        Raises:
            WriteError: The disk is full or read-only, or the folder is not ours to write to.
        """
        self.model.save(folder)
        path = Path(folder)
        if self.plan is not None:
            with atomic_write(path / PLAN) as file:
                file.write(yaml.safe_dump(self.plan.model_dump(mode="json"), sort_keys=False))
        else:
            (path / PLAN).unlink(missing_ok=True)
        write_json(path / RECORD, self.record.model_dump(mode="json"))


def adapt(
    index: Index,
    judged: Judged | None = None,
    *,
    card: Card | None = None,
    kinds: Sequence[str] | None = None,
    beside: Mapping[str, tuple[Index, Judged]] | None = None,
    certain: bool = False,
    rank: int = 32,
    depth: int = 0,
    seed: int = 0,
) -> Adaptation:
    """Fit a head of queries for an index, and keep it only if it helps; no document is encoded.

    Args:
        index: The index; its vectors and its model stay as they are.
        judged: Queries and the grades of documents, by id; None takes those of the card, or else lets titles and first
            sentences of documents stand for queries that these documents answer.
        card: A task card. Its judged pairs are used where `judged` is not given; its example documents are a direction
            that queries can be moved in.
        kinds: What to try, of `ridge`, `low_rank`, `linear`, `examples`, `card`, `card_ridge`, `qnet` and `lora`; None
            chooses by the number of queries and what is given.
        beside: Further indexes of the same model with judgements, to measure what the head costs elsewhere.
        certain: Whether to keep only what is proven on these queries, and not the default.
        rank: Of low-rank maps and adapters, at least 1.
        depth: Hidden layers of q-nets, at least 0.
        seed: Of draws.

    Returns:
        The adapted model with its record.

    Raises:
        InputError: The index has no flat vectors, there are too few queries, or documents that the index does not have.
        UnknownNameError: There is no such kind.
    """
    if rank < 1 or depth < 0:
        raise InputError(f"rank must be at least 1 and depth at least 0, not {rank} and {depth}")
    source: Literal["judged", "examples", "documents"] = "judged"
    if judged is None and card is not None and card.judged:
        judged = _judged_of(card, index)
    if judged is None:
        documents: Iterable[Document] = index.documents()
        source = "documents"
        if card is not None and card.doc_examples:
            source, documents = "examples", _documents_of(card, index)
        judged = pseudo_queries(documents, seed)
        if len(judged) < 2:
            raise InputError(
                f"there are no judged queries, and {len(judged)} documents have a title or a first sentence of "
                f"{_SHORTEST} to {_LONGEST} characters to stand for one; give judged pairs"
            )
    _check_enough(len(judged))
    model = index.model
    material = material_of(index, judged, model)
    _check_enough(len(material))
    examples = None
    if card is not None and card.doc_examples:
        points = model.encode_documents(card.doc_examples)
        examples = towards(material, points.rows)
    found = None if card is None else query_map(model, card)
    compiled = None if found is None else Map(*(part.float().cpu() for part in found))
    given = {"examples": examples is not None, "card": compiled is not None}
    tried = kinds_for(len(material), **given) if kinds is None else kinds
    fits = Fits(rank, depth, seed, examples=examples, card=compiled)
    choice = choose(material, checked_kinds(tried, **given), fits, certain=certain)
    costs = [
        _beside(name, choice, material_of(other, theirs, model)) for name, (other, theirs) in (beside or {}).items()
    ]
    return _adaptation(index, material, choice, source, costs)


def _check_enough(queries: int) -> None:
    if queries < 2:
        raise InputError(
            f"there are {queries} queries with a relevant document in the index; adapting needs at least 2, and some "
            f"20 to tell what helps"
        )


def _adaptation(
    index: Index,
    material: Material,
    choice: Choice,
    source: Literal["judged", "examples", "documents"],
    beside: Sequence[Gain],
) -> Adaptation:
    kept = choice.candidate
    found = next((gain for gain in choice.gains if gain.name == kept.name), None)
    nothing = Gain(name=kept.name, before=choice.gains[0].before, gain=0, low=0, high=0, queries=len(material))
    record = AdaptRecord(
        index=index.info.name or index.path.name,
        fingerprint=index.info.fingerprint or "",
        source=source,
        queries=len(material),
        fitted=choice.fitted,
        chosen=kept.name,
        kind=kept.kind,
        share=kept.share,
        feedback=kept.feedback,
        proven=choice.proven,
        gain=found or nothing,
        candidates=tuple(choice.gains),
        beside=tuple(beside),
        seconds=choice.seconds,
    )
    model = material.model if choice.head is None else choice.head.model(material, kept.share)
    plan = Auto() >> Feedback() if kept.feedback else None
    return Adaptation(model, plan, record)


def _beside(name: str, choice: Choice, material: Material) -> Gain:
    """Return what the choice does to queries of another index."""
    rows = list(range(len(material)))
    before = gains(NOTHING.scorer(None, material, rows), material, rows)
    after = gains(choice.candidate.scorer(choice.head, material, rows), material, rows)
    return gain_of(name, before, after - before)


def material_of(index: Index, judged: Judged, model: Retriever) -> Material:
    """Return what heads of an index are fitted on and measured with.

    Args:
        index: The index.
        judged: Queries and grades of documents by id. Queries without a relevant document in the index are left out.
        model: What compiles the queries.

    Returns:
        The material.

    Raises:
        InputError: The points of the index are not flat vectors that are compared by inner products, or none of the
            documents is in the index.
    """
    space = index.space
    if not space.plain_product:
        raise InputError(
            f"the index {index.path} has points of a {space.kind!r} space; heads are fitted for vectors that are "
            f"compared by cosine or inner product. Feedback works in every space: plan=Auto() >> Feedback()"
        )
    ids: list[str] = []
    chunks: list[Points] = []
    for names, points in index.points():
        ids += names
        chunks.append(points)
    if not chunks:
        raise InputError(f"the index {index.path} is empty")
    places = {name: row for row, name in enumerate(ids)}
    known: dict[str, dict[int, float]] = {}
    for text, graded in judged.items():
        own = {places[name]: float(grade) for name, grade in graded.items() if name in places}
        if any(grade > 0 for grade in own.values()):
            known[text] = own
    if judged and not known:
        example = next((name for graded in judged.values() for name in graded), None)
        raise InputError(
            f"none of the judged documents is relevant and in the index {index.path}; it has ids like {ids[0]!r}, the "
            f"judgements like {example!r}"
        )
    texts = list(known)
    scorer = model.compile(texts)
    vectors = scorer.linear()
    if vectors is None:
        raise InputError(
            f"queries of the model {model.source!r} are no vectors, so that no head can be fitted behind them; adapt "
            f"the plain encoder of the index"
        )
    queries = space.canonical(vectors.detach().float().cpu().clone())
    points = type(chunks[0]).concatenate(chunks)
    return Material(model, space, points, texts, queries, list(known.values()))


def read_judged(place: PathLike, index: Index) -> dict[str, dict[str, float]]:
    """Read judged pairs.

    Args:
        place: `COLLECTION:SPLIT` as in `hyperseek prepare`, a folder that `prepare` wrote, or a `.jsonl` file with
            `query`, `document` (an id of the index, or a text that it holds) and, if not all are relevant, `grade`.
        index: The index whose documents are judged.

    Returns:
        For each query's text the grades of documents, by id.

    Raises:
        DataError: There is no such file, or a row has no query or document.
        InputError: A collection has several splits, and none is named.
    """
    path = Path(place)
    if (path / INFO).exists():
        examples = read_prepared(path).examples()
        return {
            example.query.text: {source_and_id(item.id)[1]: float(item.grade or 1) for item in example.positives}
            for example in examples
        }
    if path.is_file() and is_table(path):
        return _read_rows(path, index)
    parsed = parse_source(place)
    dataset = open_dataset(parsed.place, name=parsed.name)
    splits = dataset.splits
    if parsed.split is None and len(splits) != 1:
        raise InputError(f"{parsed.given} has the splits {', '.join(splits)}; name the one to fit on: {place}:SPLIT")
    split = parsed.split or splits[0]
    qrels = dataset.qrels(split)
    return {query.text: dict(qrels[query.id]) for query in dataset.queries(split) if query.id in qrels}


def _read_rows(path: Path, index: Index) -> dict[str, dict[str, float]]:
    rows: list[tuple[str, str, float]] = []
    for line, row in file_rows(path, Faults()):
        query, document, grade = row.get("query"), row.get("document"), row.get("grade", 1)
        number = isinstance(grade, int | float) and not isinstance(grade, bool) and abs(grade) <= sys.float_info.max
        if not isinstance(query, str) or not isinstance(document, str) or not number:
            raise DataError(
                f"a judged pair has a text `query`, an id or text `document` and a finite number `grade`, not "
                f"{shown(row)}",
                path=path,
                line=line,
            )
        rows.append((query, document, float(grade)))
    return _by_id(rows, index)


def _judged_of(card: Card, index: Index) -> dict[str, dict[str, float]]:
    return _by_id([(pair.query, pair.document, float(pair.grade)) for pair in card.judged], index)


def _by_id(rows: Sequence[tuple[str, str, float]], index: Index) -> dict[str, dict[str, float]]:
    """Return grades by query and id; documents are given by id or by text."""
    known = set(index.ids)
    unknown = {text_key(document) for _, document, _ in rows if document not in known}
    by_text = _ids_of_texts(unknown, index) if unknown else {}
    judged: dict[str, dict[str, float]] = {}
    missing = 0
    for query, document, grade in rows:
        name = document if document in known else by_text.get(text_key(document))
        if name is None:
            missing += 1
        else:
            judged.setdefault(query, {})[name] = grade
    if missing:
        logger.warning("%d judged documents are not in the index %s, and are left out", missing, index.path)
    return judged


def _ids_of_texts(keys: set[int], index: Index) -> dict[int, str]:
    found: dict[int, str] = {}
    for document in index.documents():
        for text in (document.text, document.full_text):
            if (key := text_key(text)) in keys:
                found.setdefault(key, document.id)
    return found


def _documents_of(card: Card, index: Index) -> list[Document]:
    """Return the documents of an index that are examples of a card; all of them where too few are in it."""
    by_text = _ids_of_texts({text_key(text) for text in card.doc_examples}, index)
    found = index.get(list(dict.fromkeys(by_text.values())))
    return list(found.values()) if len(found) >= 5 else list(index.documents())


def pseudo_queries(documents: Iterable[Document], seed: int = 0) -> dict[str, dict[str, float]]:
    """Return titles, or first sentences, as queries that their documents answer.

    Args:
        documents: Of the index.
        seed: Of the choice of 500, where there are more.

    Returns:
        For each query's text its document, with the grade 1.
    """
    queries: dict[str, dict[str, float]] = {}
    for document in documents:
        body = document.text.strip()
        text = document.title.strip() or _SENTENCE.split(body, maxsplit=1)[0]
        if _SHORTEST <= len(text) <= _LONGEST and text != body:
            queries.setdefault(text, {})[document.id] = 1.0
    order = np.random.default_rng(seed).permutation(len(queries)).tolist()
    names = list(queries)
    return {names[place]: queries[names[place]] for place in islice(order, _PSEUDO)}
