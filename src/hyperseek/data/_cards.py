"""Task cards from collections: drafted, checked, and compared."""

from __future__ import annotations

import logging
import random
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from hyperseek._bounded import PathLike, existing_file, whole_text
from hyperseek._config import Config
from hyperseek._relevance import is_relevant, normal_text, text_key
from hyperseek.cards import Card, JudgedPair, hydra_card, hydra_templates
from hyperseek.data._dataset import Dataset
from hyperseek.data.lengths import token_lengths
from hyperseek.data.open import open_dataset, parse_source, training_split
from hyperseek.errors import InputError, UnknownNameError, shortened, shown
from hyperseek.types import Query

if TYPE_CHECKING:
    from hyperseek.models.retriever import Retriever, Side

PLACEHOLDER = "TODO"
"""How a part begins that a draft leaves for its author to write."""

_DESCRIPTION = f"{PLACEHOLDER}: say in a sentence or two what makes a document relevant to a query"
_DOMAIN, _QUERY_TYPE = f"{PLACEHOLDER}: the subject, as in finance", f"{PLACEHOLDER}: as in question, claim or title"
_README = ("README.md", "README.txt", "README")
_LONGEST_PARAGRAPH = 500  # characters of a README that become a description
_POOL = 500  # texts that examples are chosen from, drawn by seed
_WIDTH = 4096  # hashed words of a text's vector
_FEW, _SHORT, _LONG = 3, 3, 150  # examples; words of a description
_OVERLAP = 40  # characters of an example that is found inside a document

_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"[.!?]\s|[\u3002\uff01\uff1f]")

logger = logging.getLogger(__name__)


class CardFinding(Config):
    """Something that a check found.

    Attributes:
        kind: `placeholder`, `length`, `duplicate`, `evaluation` or `split`.
        place: The part of the card, as in `query_examples[3]`, from 0.
        message: What it is, and what to do.
        wrong: Whether it must be mended; otherwise it is advice.
    """

    kind: Literal["placeholder", "length", "duplicate", "evaluation", "split"]
    place: str
    message: str
    wrong: bool


class CardComparison(Config):
    """What two cards have in common.

    Attributes:
        same: Whether they differ in their names at most.
        shared_queries: Example queries that both have, by the text of the first.
        shared_documents: Example documents that both have, or of which one holds the other.
        query_overlap: Shared example queries over all different ones; 0 where there are none.
        document_overlap: The same of documents.
        cosines: Cosines of what the cards say (`about`), of their mean example query (`queries`) and document
            (`documents`), where both have them; empty without a model.
    """

    same: bool
    shared_queries: tuple[str, ...]
    shared_documents: tuple[str, ...]
    query_overlap: float
    document_overlap: float
    cosines: dict[str, float]


def draft_card(
    source: PathLike,
    *,
    name: str | None = None,
    queries: int = 20,
    documents: int = 10,
    judged: int = 0,
    characters: int = 600,
    seed: int = 0,
) -> Card:
    """Draft the card of a collection, for its author to complete.

    Examples come from a split to learn from, or, where a collection has none, from the documents alone; never from a
    test. Documents that a test judges relevant, and queries that it asks, are left out as well. Of a sample drawn by
    seed, those are chosen that together are most like all of it, so they differ from each other.

    Args:
        source: `[NAME=]COLLECTION[:SPLIT]`; the split is `train` if not given.
        name: The card's name; None takes the collection's.
        queries: Example queries.
        documents: Example documents: relevant ones where judgements are known.
        judged: Judged pairs, of the split.
        characters: Longest example document; longer ones end after a sentence or a word before.
        seed: Of the sample.

    Returns:
        The card. Its description, domain and type of queries are Hydra's for collections of BEIR; otherwise the
        description is the first paragraph of the collection's README, and what is not known begins with `TODO`.

    Raises:
        InputError: A test split, a table, or a number that cannot be used.
        DataError: The collection has a bad record.
        UnknownNameError: There is no such split.
    """
    if min(queries, documents, judged) < 0 or characters < 1:
        raise InputError("numbers of examples are 0 or more, and characters 1 or more")
    parsed = parse_source(source)
    if parsed.kind != "qrels":
        raise InputError(f"a card is drafted from a collection, not from the table {parsed.given!r}")
    collection = open_dataset(parsed.place, name=parsed.name)
    alone = bool(collection.splits) and parsed.split is None and "train" not in collection.splits
    split = None if alone else training_split(collection, parsed.split, allow_test=None)
    if alone:
        logger.warning(
            "%s has no split to learn from, only %s: the examples are documents alone",
            collection.name,
            ", ".join(collection.splits),
        )
    taken = _Kept(collection, split, asks=not alone)
    pairs = taken.pairs(judged, characters, seed)
    used = {pair.query for pair in pairs}
    asked = [query.text for query in taken.queries if query.text not in used]
    return _described(collection, parsed.place, name or collection.name).model_copy(
        update={
            "query_examples": tuple(_diverse(asked, queries, seed)),
            "doc_examples": tuple(_diverse(taken.documents(characters), documents, seed)),
            "judged": pairs,
        }
    )


class _Kept:
    """The queries and documents of a collection that examples may be chosen from."""

    def __init__(self, collection: Dataset, split: str | None, *, asks: bool) -> None:
        self._collection = collection
        self._qrels = {} if split is None else collection.qrels(split)
        others = [other for other in collection.splits if other != split]
        asked = {text_key(query.text) for other in others for query in collection.queries(other)}
        self._relevant_elsewhere = {
            one
            for other in others
            for own in collection.qrels(other).values()
            for one, grade in own.items()
            if is_relevant(grade)
        }
        found: list[Query] = collection.queries(split) if asks else []
        self.queries = [query for query in found if text_key(query.text) not in asked]

    def documents(self, characters: int) -> list[str]:
        """Return the documents relevant to the queries; without judgements all of them."""
        relevant = {one for query in self.queries for one in self._relevant(query.id)}
        return [text for _, text in self._texts(relevant if self._qrels else None, characters)]

    def pairs(self, count: int, characters: int, seed: int) -> tuple[JudgedPair, ...]:
        """Return judged pairs of different queries."""
        if count and not self._qrels:
            raise InputError(f"{self._collection.name} has no judgements to take pairs from")
        able = [(query, self._relevant(query.id)) for query in self.queries]
        able = [(query, own) for query, own in able if own]
        drawn = random.Random(f"{seed}-pairs").sample(able, min(count, len(able)))
        chosen = [(query, next(iter(own))) for query, own in drawn]
        texts = dict(self._texts({one for _, one in chosen}, characters)) if chosen else {}
        return tuple(
            JudgedPair(query=query.text, document=texts[one], grade=self._qrels[query.id][one])
            for query, one in chosen
            if one in texts
        )

    def _relevant(self, query_id: str) -> list[str]:
        own = self._qrels.get(query_id, {})
        kept = [one for one, grade in own.items() if is_relevant(grade) and one not in self._relevant_elsewhere]
        return sorted(kept, key=lambda one: -own[one])

    def _texts(self, wanted: set[str] | None, characters: int) -> Iterator[tuple[str, str]]:
        for document in self._collection.documents():
            if (wanted is None or document.id in wanted) and document.id not in self._relevant_elsewhere:
                text = _beginning(document.full_text, characters)
                if text:
                    yield document.id, text


def _beginning(text: str, characters: int) -> str:
    """Return a text of at most so many characters that ends, if it can, with a sentence or a word."""
    if len(text) <= characters:
        return text
    ends = [match.end() for match in _SENTENCE_END.finditer(text[:characters])]
    if ends and ends[-1] > characters // 2:
        return text[: ends[-1]].strip()
    return text[:characters].rsplit(maxsplit=1)[0].strip() or text[:characters]


def _diverse(texts: Iterable[str], count: int, seed: int) -> list[str]:
    """Choose texts that are together most like a sample: each next one adds most to what those before cover."""
    different = list({text_key(text): text for text in texts if text.strip()}.values())
    draw = random.Random(f"{seed}-{count}")
    pool = draw.sample(different, min(len(different), _POOL))
    if len(pool) <= count:
        return pool
    alike = _likeness(pool)
    covered = np.zeros(len(pool))
    chosen: list[int] = []
    while len(chosen) < count:
        gains = np.maximum(alike, covered).sum(axis=1)
        gains[chosen] = -1
        chosen.append(int(np.argmax(gains)))
        covered = np.maximum(covered, alike[chosen[-1]])
    return [pool[place] for place in chosen]


def _likeness(texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return the cosines of hashed words, `(n, n)`, rare words weighing more."""
    counted = [
        Counter(zlib.crc32(word.encode()) % _WIDTH for word in _WORD.findall(normal_text(text))) for text in texts
    ]
    holding = Counter(place for own in counted for place in own)
    vectors = np.zeros((len(texts), _WIDTH))
    for line, own in zip(vectors, counted, strict=True):
        for place, times in own.items():
            line[place] = (1 + np.log(times)) * np.log((1 + len(texts)) / holding[place])
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return np.asarray(vectors @ vectors.T)


def _described(collection: Dataset, place: str, name: str) -> Card:
    if collection.name in hydra_templates():
        return hydra_card(collection.name).model_copy(update={"name": name})
    description = _readme(Path(place)) or _DESCRIPTION
    return Card(name=name, description=description, domain=_DOMAIN, query_type=_QUERY_TYPE)


def _readme(folder: Path) -> str:
    """Return the first paragraph of prose of a folder's README; nothing where there is none."""
    found = next((folder / one for one in _README if (folder / one).is_file()), None)
    if found is None:
        return ""
    text = re.sub(r"\A---\n.*?\n---\n", "", whole_text(existing_file(found)), flags=re.DOTALL)
    for paragraph in re.split(r"\n\s*\n", text):
        line = " ".join(paragraph.split())
        if len(_WORD.findall(line)) > _SHORT and not re.match(r"[#|<>`*\-\[!]|\d+\.", line):
            return shortened(line, _LONGEST_PARAGRAPH)
    return ""


def check_card(card: Card, *, against: Sequence[str] = (), model: Retriever | None = None) -> list[CardFinding]:
    """Check a card for what would make it useless, or its evaluation.

    Args:
        card: The card.
        against: Evaluations, as in `beir/scifact:test`; the split is `test` if not given.
        model: Tells which parts it reads in several pieces.

    Returns:
        What was found, in the order of the card; empty for a good card.

    Raises:
        DataError: An evaluation has a bad record.
        UnknownNameError: There is no such split.
        InputError: An evaluation is a table, or the model cannot count tokens.
    """
    parts = _parts(card)
    found = [*_placeholders(parts), *_lengths(card), *_duplicates(card)]
    for given in against:
        found += _known_to(given, card)
    if model is not None:
        found += _pieces(model, parts)
    return found


def _parts(card: Card) -> dict[str, tuple[str, Side]]:
    """Return all texts of a card by place, with the side that reads them."""
    parts: dict[str, tuple[str, Side]] = {"description": (card.description, "query")}
    parts |= {"domain": (card.domain, "query"), "query_type": (card.query_type, "query")}
    parts |= {f"query_examples[{place}]": (text, "query") for place, text in enumerate(card.query_examples)}
    parts |= {f"doc_examples[{place}]": (text, "document") for place, text in enumerate(card.doc_examples)}
    for place, pair in enumerate(card.judged):
        parts |= {f"judged[{place}].query": (pair.query, "query")}
        parts |= {f"judged[{place}].document": (pair.document, "document")}
    return parts


def _placeholders(parts: Mapping[str, tuple[str, Side]]) -> Iterator[CardFinding]:
    for place, (text, _) in parts.items():
        if text.lstrip().startswith(PLACEHOLDER):
            message = f"is still a placeholder ({shown(text)}); write it, or remove it where it is optional"
            yield CardFinding(kind="placeholder", place=place, message=message, wrong=True)
        elif text and not text.strip():
            yield CardFinding(kind="length", place=place, message="is blank; write or remove it", wrong=True)


def _lengths(card: Card) -> Iterator[CardFinding]:
    words = len(_WORD.findall(card.description))
    if not card.description.startswith(PLACEHOLDER) and not _SHORT <= words <= _LONG:
        message = f"has {words} words; a sentence or two say best what is relevant"
        yield CardFinding(kind="length", place="description", message=message, wrong=False)
    for place, examples in (("query_examples", card.query_examples), ("doc_examples", card.doc_examples)):
        if len(examples) < _FEW:
            message = f"has {len(examples)}; {_FEW} or more tell a task from others"
            yield CardFinding(kind="length", place=place, message=message, wrong=False)


def _duplicates(card: Card) -> Iterator[CardFinding]:
    first: dict[int, str] = {}
    pairs: dict[tuple[int, int], str] = {}
    for place, (text, _) in _parts(card).items():
        if place.startswith(("query_examples", "doc_examples", "description")) and text.strip():
            earlier = first.setdefault(text_key(text), place)
            if earlier != place:
                yield CardFinding(kind="duplicate", place=place, message=f"repeats {earlier}; remove one", wrong=True)
    for number, pair in enumerate(card.judged):
        place = f"judged[{number}]"
        earlier = pairs.setdefault((text_key(pair.query), text_key(pair.document)), place)
        if earlier != place:
            yield CardFinding(kind="duplicate", place=place, message=f"repeats {earlier}; remove one", wrong=True)


def _known_to(given: str, card: Card) -> Iterator[CardFinding]:
    """Find examples that an evaluation asks for, or judges relevant; parts of documents count."""
    parsed = parse_source(given)
    if parsed.kind != "qrels":
        raise InputError(f"a card is checked against a collection with judgements, not the table {given!r}")
    collection, split = open_dataset(parsed.place, name=parsed.name), parsed.split or "test"
    if split not in collection.splits:
        raise UnknownNameError(f"split of {collection.name}", split, collection.splits)
    asked = {text_key(query.text): query.id for query in collection.queries(split)}
    relevant = {one for own in collection.qrels(split).values() for one, grade in own.items() if is_relevant(grade)}
    texts = {place: (normal_text(text), side) for place, (text, side) in _parts(card).items() if "[" in place}
    answers: dict[str, str] = {}
    for document in collection.documents():
        if document.id in relevant:
            whole = normal_text(document.full_text)
            for place, (text, side) in texts.items():
                if side == "document" and place not in answers and _within(text, whole):
                    answers[place] = document.id
    for place, (text, side) in texts.items():
        query = asked.get(text_key(text)) if side == "query" else None
        known = (
            f"query {query!r}" if query is not None else f"document {answers[place]!r}" if place in answers else None
        )
        if known is not None:
            message = f"is {known} of {given}, which could not be measured with this card; choose another example"
            yield CardFinding(kind="evaluation", place=place, message=message, wrong=True)


def _within(one: str, other: str) -> bool:
    """Return whether of two normal texts one is the other, or a part of it that is long enough to tell."""
    return one == other or (len(one) >= _OVERLAP and one in other) or (len(other) >= _OVERLAP and other in one)


def _pieces(model: Retriever, parts: Mapping[str, tuple[str, Side]]) -> Iterator[CardFinding]:
    for side in ("query", "document"):
        limit = model.max_length[side]
        own = {place: text for place, (text, of) in parts.items() if of == side and text.strip()}
        if limit is None or not own:
            continue
        for place, tokens in zip(own, token_lengths(model, list(own.values()), side), strict=True):
            if tokens > limit:
                message = f"has {tokens:,} tokens, and the model reads {limit:,}; it is read in pieces, or shorten it"
                yield CardFinding(kind="split", place=place, message=message, wrong=False)


def compare_cards(first: Card, second: Card, *, model: Retriever | None = None) -> CardComparison:
    """Compare two cards.

    Args:
        first: A card.
        second: Another.
        model: Encodes their texts, each by itself; None leaves the cosines out. Of texts longer than it reads the
            beginnings are compared.

    Returns:
        What they have in common.

    Raises:
        InputError: The model gives a text several vectors, or points that a cosine does not compare.
    """
    queries = _shared(first.query_examples, second.query_examples, lambda one, other: one == other)
    documents = _shared(first.doc_examples, second.doc_examples, _within)
    return CardComparison(
        same=first.fingerprint == second.fingerprint,
        shared_queries=queries,
        shared_documents=documents,
        query_overlap=_overlap(queries, first.query_examples, second.query_examples),
        document_overlap=_overlap(documents, first.doc_examples, second.doc_examples),
        cosines={} if model is None else _cosines(first, second, model),
    )


def _shared(first: Sequence[str], second: Sequence[str], same: Callable[[str, str], bool]) -> tuple[str, ...]:
    others = [normal_text(text) for text in second]
    return tuple(text for text in first if any(same(normal_text(text), other) for other in others))


def _overlap(shared: Sequence[str], first: Sequence[str], second: Sequence[str]) -> float:
    together = len(first) + len(second) - len(shared)
    return len(shared) / together if together else 0.0


def _cosines(first: Card, second: Card, model: Retriever) -> dict[str, float]:
    from hyperseek.scoring import vectors_of

    if not model.space.plain_product:
        raise InputError(f"cards are compared by cosines, which the points of {model.source} do not have")
    parts = {
        "about": ((first.about,), (second.about,)),
        "queries": (first.query_examples, second.query_examples),
        "documents": (first.doc_examples, second.doc_examples),
    }
    cosines = {}
    for name, (one, other) in parts.items():
        if one and other:
            vectors = vectors_of(model.encode_documents([*one, *other])).double().cpu().numpy()
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
            means = vectors[: len(one)].mean(axis=0), vectors[len(one) :].mean(axis=0)
            lengths = [float(np.linalg.norm(mean)) for mean in means]
            cosines[name] = float(means[0] @ means[1] / max(lengths[0] * lengths[1], 1e-30))
    return cosines
