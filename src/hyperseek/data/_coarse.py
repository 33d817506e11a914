"""Coarse positives: what answers a query more broadly than its positives do, by rules."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, TypeAlias

from pydantic import AfterValidator, Field

from hyperseek._ancestors import path_parts
from hyperseek._config import Config
from hyperseek._registry import Registry, check_function
from hyperseek.data.examples import ExampleItem, TrainingExample, without_instruction
from hyperseek.types import Document

CoarseRule: TypeAlias = Callable[[TrainingExample, Mapping[str, Document], "CoarseOptions"], list[ExampleItem]]
"""From an example, what is known of its documents by item id, and options to coarse positives, the coarsest first."""

_HOME = __name__
COARSE_RULES: Registry[CoarseRule] = Registry(
    "rule for coarse positives",
    "hyperseek.coarse",
    {name: f"{_HOME}:_{name}" for name in ("parent", "path", "far", "title", "first_sentence", "shorter", "truncated")},
    check=check_function,
)


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
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

    rules: Annotated[tuple[str, ...], AfterValidator(_known)] = ()
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
