"""Training examples: their schema and its rules, their file format, and rules for coarse positives."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, Field

from hyperseek._ancestors import path_parts
from hyperseek._config import Config
from hyperseek._fingerprint import fingerprint_texts
from hyperseek._registry import Registry, check_function
from hyperseek._relevance import key_name, key_of_name, text_key
from hyperseek.data.reading import ErrorReport
from hyperseek.types import Document, Query

_INSTRUCTED = re.compile(r"\s*instruct\s*:.*?query\s*:\s*", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class ExampleItem:
    """A document of a training example.

    Attributes:
        id: `SOURCE/ID`: the collection's name, a slash, and the document's id there.
        text: The text that encoders read: title and text.
        score: A teacher's score, any real number, or None.
        grade: The judgement, or None.
        hops: How far above the query it is in a hierarchy, in edges; 0 for the query's own node, None if unknown.
    """

    id: str
    text: str
    score: float | None = None
    grade: int | None = None
    hops: int | None = None


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """A query with documents that answer it and documents that do not.

    Attributes:
        query: The query; its id is `SOURCE/ID` too.
        positives: At least one, best first.
        negatives: May be empty, with in-batch negatives.
        source: Name of the collection.
        task: Name of a task card, or None.
        instruction: The query's instruction in addition to its text, or None.
        relevant: Ids of other documents that are never negatives: judged relevant but not positives here, or, if
            documents are queries, the query itself.
        relevant_texts: Keys of their texts, as far as known (see `hyperseek._relevance`).
        coarse: Coarser answers to the query, the coarsest first: titles, ancestors, shortened positives, or positives
            themselves. A positive that is one of them counts as finer than those before it.
        weight: How much it counts, above 0: the confidence of the teachers that made it, relative to other examples.
    """

    query: Query
    positives: tuple[ExampleItem, ...]
    negatives: tuple[ExampleItem, ...] = ()
    source: str = ""
    task: str | None = None
    instruction: str | None = None
    relevant: tuple[str, ...] = ()
    relevant_texts: tuple[int, ...] = ()
    coarse: tuple[ExampleItem, ...] = ()
    weight: float = 1.0

    @property
    def items(self) -> tuple[ExampleItem, ...]:
        """All of its items: positives, negatives, coarse positives."""
        return (*self.positives, *self.negatives, *self.coarse)

    def relevant_keys(self) -> set[int]:
        """Return the keys of all texts that are relevant: of positives, coarse ones included, and `relevant_texts`."""
        return {*self.relevant_texts, *(text_key(item.text) for item in (*self.positives, *self.coarse))}


def qualified(source: str, identity: str) -> str:
    """Return the id of a record, unique across collections."""
    return f"{source}/{identity}"


def source_and_id(identity: str) -> tuple[str, str]:
    """Split an id that `qualified` made; names of collections contain no slash."""
    source, _, original = identity.partition("/")
    return source, original


def content_id(text: str) -> str:
    """Return an id derived from a text's content, 16 hexadecimal digits."""
    return fingerprint_texts([text])[:16]


def instruction_before(text: str) -> str:
    """Return the `Instruct: ... Query:` that a text begins with, blanks after it included; nothing without one."""
    found = _INSTRUCTED.match(text)
    return "" if found is None else found[0]


def without_instruction(text: str) -> str:
    """Return a text, stripped, without `Instruct: ... Query:` before it."""
    return text[len(instruction_before(text)) :].strip()


def cleaned(example: TrainingExample, report: ErrorReport) -> TrainingExample | None:
    """Apply the rules of the schema.

    Empty texts, a document that appears twice, a coarse positive that is the query itself, and a negative that is also
    a positive, coarse or not, otherwise known to be relevant, or the query itself are dropped, whether recognised by
    id or by text; so is an example without a query or without a positive. Each is counted.

    Args:
        example: The output of a converter.
        report: Counts drops.

    Returns:
        The example without dropped items, or None.
    """
    if not example.query.text.strip():
        report.add("empty_query", example.query.id)
        return None
    place = f"query {example.query.id}"
    seen: set[str] = set()
    positives = _distinct(example.positives, seen, "positive_twice", place, report)
    query = text_key(example.query.text)
    coarse = _distinct(
        [item for item in example.coarse if text_key(item.text) != query], set(), "coarse_twice", place, report
    )
    seen |= {item.id for item in coarse}
    answers = {text_key(item.text) for item in (*positives, *coarse)}
    different = []
    for item in example.negatives:
        key = text_key(item.text)
        if item.id in seen or key in answers:
            report.add("negative_is_positive", f"{place}: {item.id}")
        elif item.id in example.relevant or key in example.relevant_texts:
            report.add("relevant_document", f"{place}: {item.id}")
        elif key == query:
            report.add("query_itself", f"{place}: {item.id}")
        else:
            different.append(item)
    negatives = _distinct(different, seen, "negative_twice", place, report)
    if not positives:
        report.add("no_positive", place)
        return None
    return dataclasses.replace(example, positives=positives, negatives=negatives, coarse=coarse)


def _distinct(
    items: list[ExampleItem] | tuple[ExampleItem, ...], seen: set[str], reason: str, place: str, report: ErrorReport
) -> tuple[ExampleItem, ...]:
    kept = []
    for item in items:
        if not item.text.strip():
            report.add("empty_text", f"{place}: {item.id}")
        elif item.id in seen:
            report.add(reason, f"{place}: {item.id}")
        else:
            seen.add(item.id)
            kept.append(item)
    return tuple(kept)


def example_record(example: TrainingExample) -> dict[str, Any]:
    """Return an example without the texts of its items.

    Args:
        example: Any.

    Returns:
        An object without empty fields.
    """
    query = {"_id": example.query.id, "text": example.query.text}
    record = {
        "query": query | ({"metadata": dict(example.query.metadata)} if example.query.metadata else {}),
        "positives": [_reference(item) for item in example.positives],
        "negatives": [_reference(item) for item in example.negatives],
        "coarse": [_reference(item) for item in example.coarse] or None,
        "source": example.source,
        "task": example.task,
        "instruction": example.instruction,
        "relevant": list(example.relevant) or None,
        "relevant_texts": [key_name(key) for key in example.relevant_texts] or None,
        "weight": None if example.weight == 1 else example.weight,
    }
    return {key: value for key, value in record.items() if value is not None}


def example_from_record(record: Mapping[str, Any], texts: Mapping[str, str]) -> TrainingExample:
    """Read an example back from its `example_record`.

    Args:
        record: The object.
        texts: Texts by id, including those of its items.

    Returns:
        The example.

    Raises:
        KeyError: A field or a text is missing.
    """
    relevant = tuple(record.get("relevant", ()))
    names = record.get("relevant_texts")
    # Folders of earlier versions have ids alone; a text is known only if it is an item of an example.
    known = map(key_of_name, names) if names is not None else (text_key(texts[one]) for one in relevant if one in texts)
    query = record["query"]

    def items(key: str) -> tuple[ExampleItem, ...]:
        return tuple(
            ExampleItem(item["_id"], texts[item["_id"]], item.get("score"), item.get("grade"), item.get("hops"))
            for item in (record.get(key, ()) if key == "coarse" else record[key])
        )

    return TrainingExample(
        Query(query["_id"], query["text"], query.get("metadata", {})),
        items("positives"),
        items("negatives"),
        record["source"],
        record.get("task"),
        record.get("instruction"),
        relevant,
        tuple(dict.fromkeys(known)),
        items("coarse"),
        record.get("weight", 1.0),
    )


def _reference(item: ExampleItem) -> dict[str, Any]:
    values = {"_id": item.id, "score": item.score, "grade": item.grade, "hops": item.hops}
    return {key: value for key, value in values.items() if value is not None}


CoarseRule: TypeAlias = Callable[[TrainingExample, Mapping[str, Document], "CoarseOptions"], list[ExampleItem]]
"""From an example, what is known of its documents by item id, and options to coarse positives, the coarsest first."""

_HOME = __name__
COARSE_RULES: Registry[CoarseRule] = Registry(
    "rule for coarse positives",
    "hyperseek.coarse",
    {name: f"{_HOME}:_{name}" for name in ("parent", "path", "far", "title", "first_sentence", "shorter", "truncated")},
    check=check_function,
)


def _known_rules(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(COARSE_RULES.checked(name) for name in names)


class CoarseOptions(Config):
    """Where the coarse positives of examples come from.

    Attributes:
        rules: Rules in order, of which the first that finds something is taken: `parent` (documents above a positive in
            `qrels.hierarchy`), `path` (a positive's metadata field `path` without its last part), `far` (positives with
            more hops, or a lower grade, than the best one), `title`, `first_sentence`, `shorter` (positives shorter
            than the longest), `truncated` (the beginning). Empty for no coarse positives.
        coarse_max_chars: Characters of `truncated` ones; they end with a whole word.
    """

    rules: Annotated[tuple[str, ...], AfterValidator(_known_rules)] = ()
    coarse_max_chars: int = Field(default=60, ge=1)


def with_coarse(
    example: TrainingExample, options: CoarseOptions, documents: Mapping[str, Document] | None = None
) -> TrainingExample:
    """Add the coarse positives of the first rule that finds any; examples that have some keep theirs.

    Without positives there is nothing to be coarser than, and no rule is asked.

    Args:
        example: The example.
        options: The rules.
        documents: Its positives, and what is above them, by item id, as far as known.

    Returns:
        The example.
    """
    if example.coarse or not example.positives:
        return example
    for name in options.rules:
        found = COARSE_RULES[name](example, documents or {}, options)
        if found:
            return dataclasses.replace(example, coarse=tuple(found))
    return example


def _parent(example: TrainingExample, documents: Mapping[str, Document], _: CoarseOptions) -> list[ExampleItem]:
    """Documents that are known but no items of the example: whoever gathers them adds what is above positives."""
    own = {item.id for item in example.items}
    return [ExampleItem(name, document.full_text) for name, document in documents.items() if name not in own]


def _path(example: TrainingExample, documents: Mapping[str, Document], _: CoarseOptions) -> list[ExampleItem]:
    found = []
    for item, document in _documents(example, documents):
        parts = path_parts(document.metadata.get("path"))
        above = parts[:-1] if parts and parts[-1] in (document.title, document.text, document.id) else parts
        if above:
            found.append(ExampleItem(f"{item.id}#path", " > ".join(above)))
    return found


def _far(example: TrainingExample, _: Mapping[str, Document], __: CoarseOptions) -> list[ExampleItem]:
    """All positives but the nearest, the farthest first; hops decide if all have them, or else grades."""
    ranks = [item.hops for item in example.positives]
    if None in ranks:
        ranks = [None if item.grade is None else -item.grade for item in example.positives]
    known = [(rank, item) for rank, item in zip(ranks, example.positives, strict=True) if rank is not None]
    if len(known) < len(example.positives):
        return []
    nearest = min(rank for rank, _ in known)
    return [item for rank, item in sorted(known, key=lambda pair: -pair[0]) if rank > nearest]


def _title(example: TrainingExample, documents: Mapping[str, Document], _: CoarseOptions) -> list[ExampleItem]:
    return [
        ExampleItem(f"{item.id}#title", document.title.strip())
        for item, document in _documents(example, documents)
        if document.title.strip() and document.text.strip()
    ]


def _first_sentence(example: TrainingExample, documents: Mapping[str, Document], _: CoarseOptions) -> list[ExampleItem]:
    found = []
    for item in example.positives:
        document = documents.get(item.id)
        text = without_instruction(item.text if document is None or not document.text.strip() else document.text)
        sentence = first_sentence(text)
        if sentence and len(sentence) < len(text):
            found.append(ExampleItem(f"{item.id}#sentence", sentence))
    return found


def _shorter(example: TrainingExample, _: Mapping[str, Document], __: CoarseOptions) -> list[ExampleItem]:
    longest = max(len(item.text) for item in example.positives)
    return sorted((item for item in example.positives if len(item.text) < longest), key=lambda item: len(item.text))


def _truncated(example: TrainingExample, _: Mapping[str, Document], options: CoarseOptions) -> list[ExampleItem]:
    found = []
    for item in example.positives:
        text = without_instruction(item.text)
        beginning = truncated(text, options.coarse_max_chars)
        if len(beginning) < len(text):
            found.append(ExampleItem(f"{item.id}#{options.coarse_max_chars}", beginning))
    return found


def _documents(example: TrainingExample, documents: Mapping[str, Document]) -> Iterator[tuple[ExampleItem, Document]]:
    for item in example.positives:
        if item.id in documents:
            yield item, documents[item.id]


def truncated(text: str, characters: int) -> str:
    """Return the beginning of a text that ends with a whole word, or within a word that is longer."""
    if len(text) <= characters:
        return text
    cut = text[: characters + 1]
    words, blank, _ = cut.rpartition(" ")
    return words.rstrip() if blank and words.strip() else text[:characters]


# An end of Latin script with quotation marks or brackets after it, one of Chinese or Japanese, or an empty line.
_END = re.compile(r"[.!?\u2026]+[\"'\u201d\u2019)\]]*(?=\s|$)|[\u3002\uff01\uff1f]|\n\s*\n")
_WORDS = (
    "al approx assn ca cf ch corp dept dr ed eds esp est etc fig figs gen gov inc jr ltd mr mrs ms nos pp prof resp "
    "rev sec sr st syn var viz vol vs"
)
# The number of a list, an initial, or an abbreviation, with inner stops or one of those above.
_ABBREVIATED = re.compile(
    rf"(?:^\d+|(?:^|[\s(\[\"'])(?:[a-z]|(?:[a-z]\.)+[a-z]|{'|'.join(_WORDS.split())}))$", re.IGNORECASE
)


def first_sentence(text: str) -> str:
    """Return the first sentence of a text, stripped; all of it if no other follows.

    A full stop is no end after an abbreviation, an initial or the number of a list (`e.g.`, `Dr.`, `J.`, `3.`), nor
    before a word in lower case.
    """
    text = text.strip()
    for end in _END.finditer(text):
        rest = text[end.end() :].lstrip()
        if not rest:
            break
        stop = end.group().rstrip("\"'\u201d\u2019)]")
        if stop == "." and (rest[0].islower() or _ABBREVIATED.search(text[: end.start()])):
            continue
        return text[: end.end()].strip()
    return text
