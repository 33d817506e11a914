"""The plain records passed between layers: documents, queries and their options, judgements, runs.

They contain neither tensors nor files. `Qrels` and `Run` have the form that every TREC tool uses:
`{query_id: {document_id: value}}`.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Protocol,
    Self,
    TypeAlias,
    TypedDict,
    Unpack,
    overload,
    runtime_checkable,
)

from hyperseek.errors import InputError, UnknownNameError, shortened, shown

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Document", "Hit", "Hits", "Metric", "Passage", "Qrels", "Query", "Run", "Snippet", "Token", "TokenMatch"]

# Characters of a document in the repr of a hit.
MARKDOWN_TEXT: Mapping[str, str] = {"format": "markdown"}
"""Metadata of documents whose text is Markdown."""

_SHOWN = 60
# Characters of a document that are its snippet where no query is known.
_BEGINNING = 240

Metric: TypeAlias = Literal["inner_product", "l2"]
"""What an engine ranks by: the largest inner product, or the smallest Euclidean distance."""

Qrels: TypeAlias = dict[str, dict[str, int]]
"""Judgements: `qrels[query_id][document_id]` is the grade; 0 means judged and not relevant."""

Run: TypeAlias = dict[str, dict[str, float]]
"""A ranking: `run[query_id][document_id]` is the score, higher is better, best first."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a corpus.

    Attributes:
        id: Unique in its corpus.
        text: The body.
        title: May be empty.
        metadata: Further fields of the source, plain JSON values; an index returns them unchanged and rejects other
            values.
    """

    id: str
    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def full_text(self) -> str:
        """Title and text joined by a space, stripped: the input of encoders."""
        return f"{self.title} {self.text}".strip()


@dataclass(frozen=True, slots=True)
class Query:
    """One query.

    Attributes:
        id: Unique among its queries.
        text: The query itself.
        metadata: Further fields of the source, plain JSON values.
    """

    id: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a query or a document, as its model reads it.

    Attributes:
        text: Its spelling.
        kind: `text`; `prompt` for the model's prompt; `special` for special tokens such as `[CLS]`; `expansion` for
            tokens of query expansion.
        start: Start, in characters of the query or of the document's `full_text`; None if unknown, and for tokens that
            are not part of the text.
        end: End, exclusive, likewise.
        number: Id in the model's vocabulary.
    """

    text: str
    kind: Literal["text", "prompt", "special", "expansion"] = "text"
    start: int | None = None
    end: int | None = None
    number: int = -1


@dataclass(frozen=True, slots=True)
class TokenMatch:
    """A token of a query and the token of a document that is most similar to it.

    Attributes:
        query: The query's token; several if query tokens are pooled, none if unknown, as for queries that were compiled
            elsewhere.
        document: The tokens of the best vector of the document: one, or several if they were pooled; none if unknown.
        vector: Number of that vector in the document, from 0.
        similarity: Similarity of the two vectors.
        share: Contribution to the score: the similarity times the weight of the query token.
    """

    query: tuple[Token, ...]
    document: tuple[Token, ...]
    vector: int
    similarity: float
    share: float

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document, in an index of passages.

    Attributes:
        text: What it says: `text[start:end]` of the document.
        start: Where it begins, in characters of the document's text.
        end: Where it ends, exclusive.
        score: Higher is better.
        headings: The headings that it stands under, the outermost first.
    """

    text: str
    start: int
    end: int
    score: float
    headings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {name: getattr(self, name) for name in self.__slots__} | {"headings": list(self.headings)}


@dataclass(frozen=True, slots=True)
class Snippet:
    """The part of a hit's text that says most about the query.

    Attributes:
        text: What is shown, some 240 characters at most.
        start: Where it begins, in characters of the document's text.
        end: Where it ends, exclusive.
        highlights: Start and end of each word that matches the query, in characters of `text`, in order.
    """

    text: str
    start: int
    end: int
    highlights: tuple[tuple[int, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {name: getattr(self, name) for name in self.__slots__} | {"highlights": [*map(list, self.highlights)]}


class _Matched:
    """Holds what finds a hit's matches and its snippet, outside of the fields, which are compared, copied, pickled."""

    __slots__ = ("_excerpt", "_find")


@dataclass(frozen=True, slots=True)
class Hit(_Matched):
    """One search result.

    Attributes:
        id: The document's id.
        score: Higher is better.
        rank: From 1.
        document: The stored document, or None if the search had `texts=False`. Its text is that of the best passage in
            an index of passages, where `index[hit.id]` is the whole document.
        passages: The best passages that were found, at most 3, best first; none in an index of whole documents, or if
            the search had `texts=False`.
    """

    id: str
    score: float
    rank: int
    document: Document | None = None
    passages: tuple[Passage, ...] = ()

    @property
    def title(self) -> str:
        """The document's title; InputError where texts were not asked for, which an empty title could not tell."""
        return self._stored("title").title

    @property
    def text(self) -> str:
        """The document's text; InputError where texts were not asked for."""
        return self._stored("text").text

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The document's metadata; InputError where texts were not asked for."""
        return self._stored("metadata").metadata

    @property
    def matches(self) -> tuple[TokenMatch, ...]:
        """The matches of the query's tokens, for late interaction; shares sum to the score of the model.

        They are found when they are asked for, from the stored points; until the hit is deleted, it keeps the table of
        the index and the model. Empty where the model compares no tokens, and for copies of a hit.
        """
        find: Callable[[], tuple[TokenMatch, ...]] | None = getattr(self, "_find", None)
        return () if find is None else find()

    def matched_by(self, find: Callable[[], tuple[TokenMatch, ...]]) -> Self:
        """Let a function find `matches`, and return the hit itself."""
        object.__setattr__(self, "_find", find)
        return self

    @property
    def snippet(self) -> Snippet:
        """The part of the text that says most about the query, found when it is asked for.

        It is of the best passage, where there are any, and its words that match the query are marked: for late
        interaction by `matches`. The beginning of the text where nothing matches, and for copies of a hit. InputError
        where texts were not asked for.
        """
        text = self.text
        excerpt: Callable[[Hit], Snippet] | None = getattr(self, "_excerpt", None)
        if excerpt is not None:
            return excerpt(self)
        offset = self.passages[0].start if self.passages else 0
        return Snippet(text[:_BEGINNING], offset, offset + len(text[:_BEGINNING]))

    def excerpted_by(self, excerpt: Callable[[Hit], Snippet]) -> Self:
        """Let a function find `snippet`, given the hit, and return the hit itself."""
        object.__setattr__(self, "_excerpt", excerpt)
        return self

    def _stored(self, what: str) -> Document:
        if self.document is None:
            raise InputError(f"the hit {self.id!r} has no {what}, since the search had texts=False; search with texts")
        return self.document

    def _repr_html_(self) -> str:
        return Hits([self])._repr_html_()

    def to_pandas(self) -> pd.DataFrame:
        """Return the hit as a data frame of one row; see `Hits`."""
        return Hits([self]).to_pandas()

    def __repr__(self) -> str:
        said = (
            "" if self.document is None else f", {textwrap.shorten(self.document.full_text, _SHOWN, placeholder='…')!r}"
        )
        return f"Hit({self.rank}, {self.id!r}, score={self.score:.6g}{said})"


class Hits(list[Hit]):
    """The hits of one query, best first: a list, which notebooks show as a table with marked snippets."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        from hyperseek._display import escaped, html_table, marked

        def row(hit: Hit) -> list[str]:
            cells = [escaped(hit.id), f"{hit.score:.4f}"]
            if hit.document is None:
                return [str(hit.rank), *cells, ""]
            headings = hit.passages[0].headings if hit.passages else ()
            above = " \u203a ".join(part for part in (hit.title, *headings) if part.strip())
            title = f"<b>{escaped(above)}</b><br>" if above else ""
            return [str(hit.rank), *cells, title + marked(hit.snippet.text, hit.snippet.highlights)]

        return html_table(["", "document", "score", "text"], map(row, self), left=4)

    def to_pandas(self) -> pd.DataFrame:
        """Return a data frame of the hits.

        Returns:
            Columns `rank`, `id` and `score`, and where the hits have their documents `title`, `text`, `snippet`, and
            one for each field of their metadata, as `metadata.NAME` where the name is one of these.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        from hyperseek._display import data_frame

        return data_frame(map(_frame_row, self), columns=["rank", "id", "score"])


def _frame_row(hit: Hit) -> dict[str, Any]:
    row: dict[str, Any] = {"rank": hit.rank, "id": hit.id, "score": hit.score}
    if hit.document is not None:
        row |= {"title": hit.title, "text": hit.text, "snippet": hit.snippet.text}
        own = set(row)
        row |= {f"metadata.{name}" if name in own else name: value for name, value in hit.metadata.items()}
    return row


Relation: TypeAlias = Literal["distance", "is_a", "cone"]
"""What a query looks for: the nearest documents, those that it is a kind of, or those whose cones it lies in."""


class LevelOptions(TypedDict, total=False):
    """The options of queries of a model with levels, which searches take by name; None, as absent, for the default.

    Attributes:
        level: Level of the query: 1, the broadest, to M, the narrowest and the default.
        document_level: Level of the documents; that of the query unless given.
        broaden: 0 to 1, in place of both: 0 is level M, 1 is level 1, with mixed scores in between.
        relation: `distance`, `is_a` for documents that the query is a kind of, or `cone` for those whose entailment
            cone it lies in.
        radius_weight: How much `is_a` prefers documents near the origin, at least 0; 1 unless given.
    """

    level: int | None
    document_level: int | None
    broaden: float | None
    relation: Relation | None
    radius_weight: float | None


class NamedOptions(LevelOptions, total=False):
    """The options of queries that searches take by name.

    Attributes:
        card: For models with cards, the task; see `QueryOptions`.
    """

    card: _IsText | str | None


@runtime_checkable
class _IsText(Protocol):
    """A card, which cannot be imported here: what its text is."""

    def to_json_text(self) -> str: ...


class QueryOptions(Mapping[str, Any]):
    """Options of a search for its model: a card, a level, or an option specific to the model.

    A frozen mapping of names to plain values; None means that an option is not given. The last module of a model's
    query route declares the options it understands in its attribute `query_options`; every other option is an error:

    ```python
    class LevelHead(nn.Module):
        query_options = {"level": Annotated[int, Field(ge=0, lt=4)]}  # names, and types as pydantic reads them

        def scorer(self, rows: Tensor, options: QueryOptions) -> Scorer: ...
    ```

    Args:
        card: For models with cards, the task: a `Card`, the path of its file, the name of a card that was saved
            with the model, or the JSON of one.
        **own: Options of a family: texts, numbers, booleans, or sequences of them. Those of models with levels are
            `LevelOptions`.

    Raises:
        InputError: A value is not plain.
    """

    __slots__ = ("_values",)

    @overload
    def __init__(self, /, *, card: _IsText | str | None = None, **own: Unpack[LevelOptions]) -> None: ...

    @overload
    def __init__(self, /, *, card: _IsText | str | None = None, **own: Any) -> None: ...

    def __init__(self, /, *, card: _IsText | str | None = None, **own: Any) -> None:
        if isinstance(card, _IsText):
            card = card.to_json_text()
        given = {"card": card, **own}
        self._values = {name: _plain(name, value) for name, value in sorted(given.items()) if value is not None}

    @classmethod
    def of(cls, given: object) -> Self:
        """Return the options that a caller gave.

        Args:
            given: Options, a mapping of names to values, or None for none.

        Returns:
            The options.

        Raises:
            InputError: It is something else.
        """
        if isinstance(given, cls):
            return given
        if given is None:
            return cls()
        if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
            raise InputError(f"options are a mapping of names to values, as in {{'level': 2}}, not {shown(given)}")
        return cls(**given)

    def checked(self, understood: Mapping[str, Any]) -> Self:
        """Check the options against those that a model understands.

        Args:
            understood: The type of each option by its name, as pydantic reads types: `int`, a `Literal`, or
                `Annotated` with bounds and validators of your own. Numbers are not read from texts.

        Returns:
            The validated options.

        Raises:
            UnknownNameError: The model does not understand an option; the message lists those it does.
            InputError: A value is not of its option's type.
        """
        from pydantic import TypeAdapter, ValidationError

        values = {}
        for name, value in self.items():
            if name not in understood:
                hint = f"this model understands no options; leave {name!r} out"
                raise UnknownNameError("option of this model's queries", name, understood, hint=hint)
            try:
                values[name] = TypeAdapter(understood[name]).validate_python(value, strict=True)
            except ValidationError as error:
                said = (fault["msg"].removeprefix("Value error, ") for fault in error.errors(include_url=False))
                faults = shortened("; ".join(said))
                raise InputError(f"the option {name}={shown(value)} does not fit: {faults}") from None
        return type(self)(**values)

    @property
    def card(self) -> Any:
        """The card, or None."""
        return self.get("card")

    @property
    def level(self) -> Any:
        """The level, or None."""
        return self.get("level")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; `of` reads them back."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in self.items()}

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __eq__(self, other: object) -> bool:
        # As texts, since 1, 1.0 and True are equal in Python.
        return isinstance(other, QueryOptions) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        return ", ".join(f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in self.to_json().items())

    def __repr__(self) -> str:
        return f"QueryOptions({', '.join(f'{name}={value!r}' for name, value in self.items())})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic import PlainSerializer, PlainValidator

        return handler.generate_schema(Annotated[Any, PlainValidator(cls.of), PlainSerializer(cls.to_json)])


NO_OPTIONS = QueryOptions()
"""What a search asks of its model unless told otherwise: nothing besides the text."""


def _plain(name: str, value: object) -> Any:
    """Return a value that JSON can hold, sequences as tuples; InputError for any other."""
    if isinstance(value, list | tuple):
        return tuple(_plain(name, part) for part in value)
    finite = not isinstance(value, float) or value - value == 0
    if isinstance(value, str | bool | int | float) and finite:
        return value
    raise InputError(
        f"the option {name}={shown(value)} is not plain; give a text, a finite number, true or false, or a list of them"
    )
