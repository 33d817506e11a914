"""Task cards: files that say what "relevant" means for a task, in words and by examples.

A model of the family `card` compiles a card to a small change of query vectors, so that one index of one frozen encoder
serves every task. A card is data: it holds no code, no paths and no tensors.

```python
card = Card(name="claims", description="Abstracts that support or refute a scientific claim")
card.write("claims.yaml")
read_card("claims.yaml") == card
```
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

import yaml
from pydantic import Field, StringConstraints

from hyperseek._bounded import json_value, path_text
from hyperseek._config import LARGEST_YAML, Config, read_yaml
from hyperseek._files import LARGEST_JSON, atomic_write, check_regular, read_json, reading
from hyperseek._fingerprint import fingerprint_json
from hyperseek.errors import ConfigError, InputError, UnknownNameError, brief, shown

__all__ = ["GENERIC", "Card", "JudgedPair", "hydra_card", "hydra_templates", "read_card"]

GENERIC = "Retrieve relevant documents for diverse information needs"
"""What Hydra says of a search without a task."""

_MOST_EXAMPLES = 1_000
_YAML, _JSON = (".yaml", ".yml"), (".json",)

_Name: TypeAlias = Annotated[
    str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\r\n\v\f\x85\u2028\u2029]*$")
]
_Example: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=100_000)]
_Examples: TypeAlias = Annotated[tuple[_Example, ...], Field(max_length=_MOST_EXAMPLES)]


class JudgedPair(Config):
    """A query and a document that somebody judged.

    Attributes:
        query: The query's text.
        document: The document's text.
        grade: How relevant it is; 0 is not relevant.
    """

    query: _Example
    document: _Example
    grade: int = Field(default=1, ge=0, le=1_000)


class Card(Config):
    """What "relevant" means for a task.

    Attributes:
        version: Version of the format.
        name: A short name of one line; it says nothing about relevance, and cards that differ in it alone are equal in
            `fingerprint`.
        description: What makes a document relevant to a query, in one sentence or a few.
        query_examples: Queries of the task, at most 1,000.
        doc_examples: Documents that are relevant to queries of the task, or passages of them, at most 1,000.
        domain: Subject, as in `finance`.
        query_type: Kind of queries, as in `factoid`.
        judged: Judged pairs of a query and a document, at most 1,000.
    """

    version: Literal[1] = 1
    name: _Name
    description: str = Field(min_length=1, max_length=10_000)
    query_examples: _Examples = ()
    doc_examples: _Examples = ()
    domain: str = Field(default="", max_length=1_000)
    query_type: str = Field(default="", max_length=1_000)
    judged: Annotated[tuple[JudgedPair, ...], Field(max_length=_MOST_EXAMPLES)] = ()

    @property
    def fingerprint(self) -> str:
        """Identifies the content, without the name."""
        return fingerprint_json(self.model_dump(mode="json", exclude={"name"}))

    @property
    def about(self) -> str:
        """The task in words, without its name and its examples: description, domain and type of queries, in lines."""
        return "\n".join(self._about())

    def _about(self) -> list[str]:
        named = {"Domain": self.domain, "Query type": self.query_type}
        return [self.description, *(f"{name}: {value}" for name, value in named.items() if value)]

    def to_text(self, max_query_examples: int = 20, max_doc_examples: int = 10) -> str:
        """Return Hydra's text of a card.

        An encoder reads the beginning of a long text only, so that late examples of this one are lost; the card
        encoders of this library read each example by itself.

        Args:
            max_query_examples: How many of the first example queries it has.
            max_doc_examples: How many of the first example documents.

        Returns:
            Lines of name, description and, where they are given, domain, type of queries and numbered examples.
        """
        description, *named = self._about()
        lines = [f"Task: {self.name}", f"Description: {description}", *named]
        for title, examples, most in (
            ("Example queries:", self.query_examples, max_query_examples),
            ("Example documents:", self.doc_examples, max_doc_examples),
        ):
            if examples:
                lines += [title, *(f"  {number}. {text}" for number, text in enumerate(examples[:most], start=1))]
        return "\n".join(lines)

    def to_mapping(self) -> dict[str, Any]:
        """Return the card as plain values, without the fields that are empty."""
        values = self.model_dump(mode="json", exclude_defaults=True)
        return {"version": self.version, **values}

    def to_json_text(self) -> str:
        """Return the card as one line of JSON, equal for equal cards: what the option `card` of queries holds."""
        return json.dumps(self.to_mapping(), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json_text(cls, text: str) -> Self:
        """Read a card from JSON text.

        Args:
            text: A JSON object, as `to_json_text` returns it.

        Returns:
            The card.

        Raises:
            ConfigError: It is not JSON, is too long, or is not a card.
        """
        try:
            if len(text) > LARGEST_JSON:
                raise ValueError(f"more than {LARGEST_JSON:,} characters")
            values = json_value(text)
        except ValueError as error:
            raise ConfigError(f"the card {shown(text)} is not valid JSON: {brief(error)}") from None
        return cls.from_mapping(values, source="the card")

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the card, atomically.

        Args:
            path: A file that ends in `.yaml`, `.yml` or `.json`.

        Raises:
            InputError: The path ends otherwise, or the card is too large for YAML.
            WriteError: The disk is full or read-only, or the folder is not writable.
        """
        target = Path(path_text(path))
        if target.suffix.lower() in _JSON:
            text = json.dumps(self.to_mapping(), ensure_ascii=False, indent=2) + "\n"
        elif target.suffix.lower() in _YAML:
            text = yaml.safe_dump(self.to_mapping(), sort_keys=False, allow_unicode=True, width=100)
            if len(text.encode()) > LARGEST_YAML:
                raise InputError(
                    f"{target}: this card takes more than the {LARGEST_YAML:,} bytes that are read as YAML; write it "
                    f"as .json, or leave some examples out"
                )
        else:
            raise InputError(f"{target}: a card is written as .yaml, .yml or .json")
        with atomic_write(target) as file:
            file.write(text)


def is_card_file(text: str) -> bool:
    """Whether a text looks like the path of a card: it ends in `.yaml`, `.yml` or `.json`."""
    return text.lower().endswith((*_YAML, *_JSON))


def read_card(place: str | os.PathLike[str]) -> Card:
    """Read a card from a file.

    Args:
        place: A file of YAML, at most 256 KiB, or of JSON, at most 16 MiB, which then ends in `.json`.

    Returns:
        The card.

    Raises:
        ConfigError: The file is missing, is neither YAML nor JSON, or is not a card; all mistakes are listed.
    """
    named = path_text(place)
    if named.lower().endswith(_JSON):
        return Card.from_mapping(read_json(named, "a card", error=ConfigError), source=named)
    with reading(named, "a card", error=ConfigError), suppress(FileNotFoundError):  # which read_yaml says
        check_regular(named)
    return Card.from_mapping(read_yaml(named), source=named)


# Description, domain and type of queries of BEIR's collections, as Hydra has them.
_HYDRA: Mapping[str, tuple[str, str, str]] = {
    "trec-covid": ("Find scientific articles about COVID-19 that answer biomedical questions", "biomedical", "factoid"),
    "nfcorpus": ("Find nutrition and health documents relevant to medical queries", "health/nutrition", "factoid"),
    "fiqa": ("Find financial opinion and advice passages that answer financial questions", "finance", "opinion"),
    "scidocs": ("Find related scientific papers given a paper as query", "scientific", "similarity"),
    "scifact": (
        "Find scientific abstracts that support or refute scientific claims",
        "scientific",
        "claim_verification",
    ),
    "arguana": ("Find the best counter-argument to a given argument", "argumentation", "counter_argument"),
    "quora": (
        "Find duplicate questions that ask the same thing in different words",
        "community_qa",
        "duplicate_detection",
    ),
    "hotpotqa": (
        "Find Wikipedia passages needed to answer multi-hop factoid questions",
        "wikipedia",
        "multi_hop_factoid",
    ),
    "fever": (
        "Find Wikipedia evidence passages that support or refute factual claims",
        "wikipedia",
        "fact_verification",
    ),
    "climate-fever": (
        "Find evidence passages that support or refute climate change claims",
        "climate_science",
        "fact_verification",
    ),
    "dbpedia-entity": (
        "Find relevant Wikipedia entity pages given entity-seeking queries",
        "wikipedia",
        "entity_retrieval",
    ),
}


def hydra_templates() -> list[str]:
    """Return the names of the collections of BEIR that Hydra has a card for."""
    return list(_HYDRA)


def hydra_card(name: str, query_examples: Sequence[str] = (), doc_examples: Sequence[str] = ()) -> Card:
    """Return Hydra's card of a collection.

    Args:
        name: One of `hydra_templates()`.
        query_examples: Queries of the collection; Hydra took the first twenty of its test set, which leaks.
        doc_examples: Documents; Hydra took the first 200 characters of the first ten of the corpus.

    Returns:
        The card.

    Raises:
        UnknownNameError: Hydra has no card of that name.
    """
    if name not in _HYDRA:
        raise UnknownNameError("card of Hydra", name, _HYDRA)
    description, domain, query_type = _HYDRA[name]
    return Card(
        name=name,
        description=description,
        query_examples=tuple(query_examples),
        doc_examples=tuple(doc_examples),
        domain=domain,
        query_type=query_type,
    )
