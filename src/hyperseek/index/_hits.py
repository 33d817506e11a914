"""What is asked of hits: what each token of a query found in them, and their snippets.

A snippet is the part of a hit that says why it was found, with the words of the query marked. Words are compared
folded, and by their stems where a stemmer is installed. For late interaction, the tokens that matched are marked
instead. A sentence counts by the distinct words of the query in it, those that are rare in the text more than others.
"""

from __future__ import annotations

import importlib
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, cast

from hyperseek.index._passages import best_passage
from hyperseek.scoring import Scorer
from hyperseek.store.table import Store
from hyperseek.types import Document, Hit, Snippet, Token, TokenMatch

if TYPE_CHECKING:
    from hyperseek.models import Encoder
    from hyperseek.models.retriever import Side


_LENGTH = 240  # characters of a snippet, about
_BEFORE = 60  # characters before the first match in a sentence that is too long
# Characters of a text that are looked at, so that a text of any length has a snippet at once.
_LOOKED_AT = 200_000

# Scripts that are written without blanks: each character is a word.
_DENSE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0e7f"
_WORD = re.compile(rf"[{_DENSE}]|[^\W{_DENSE}]+")
_SENTENCE_END = re.compile(r"[.!?]['\")\]]*\s+|[\u3002\uff01\uff1f]|\n\s*\n|\n(?=\s*[-*#])")
# The stop words of Lucene.
_STOP_WORDS = frozenset(
    _WORD.findall(
        "a an and are as at be but by for if in into is it no not of on or such that the their then there these they "
        "this to was will with what which who how when where why do does did can"
    )
)

_Span = tuple[int, int]
_Rows = list[tuple[Token, ...]]


@dataclass(eq=False)
class AskedTokens:
    """A query as its hits see it; they share it.

    Attributes:
        scorer: Queries, of which this is one.
        place: Which.
        text: Its text; None for a query that was compiled elsewhere.
        model: What splits texts into tokens; None for nothing.
        encoded: How documents were encoded, as keywords of `LateRetriever.row_tokens`.
    """

    scorer: Scorer
    place: int
    text: str | None
    model: Encoder | None
    encoded: Mapping[str, Any]
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _known: list[_Rows | None] = field(default_factory=list, repr=False)

    def tokens(self) -> _Rows | None:
        """Return the tokens of each row of the query; None where they are unknown."""
        with self._lock:
            if not self._known:
                self._known.append(None if self.text is None else self._rows(self.text, "query"))
            return self._known[0]

    def document_tokens(self, text: str) -> _Rows | None:
        """Return the tokens of each row of a document; None where they are unknown."""
        return self._rows(text, "document")

    def _rows(self, text: str, side: Side) -> _Rows | None:
        split: Any = getattr(self.model, "row_tokens", None)  # which a model may offer
        return None if split is None else cast("_Rows | None", split(text, side, **self.encoded))


class Matching:
    """Finds the matches of one hit when it is called, once.

    Args:
        asked: The query.
        store: The table that the hit was found in.
        row: Where in it the document is.
    """

    def __init__(self, asked: AskedTokens, store: Store, row: int) -> None:
        self._asked = asked
        self._store = store
        self._row = row
        self._found: tuple[TokenMatch, ...] | None = None

    def __call__(self) -> tuple[TokenMatch, ...]:
        """Return the matches."""
        if self._found is None:
            self._found = self._find()
        return self._found

    def _find(self) -> tuple[TokenMatch, ...]:
        asked = self._asked
        document = self._store.take_points([self._row])
        own = asked.scorer[asked.place : asked.place + 1].detach().to("cpu")
        found = own.matches(document)
        if found is None:
            return ()
        rows, similarities, shares = (part[0].tolist() for part in found)
        matched = [place for place, row in enumerate(rows) if row >= 0]
        if not matched:
            return ()
        queries = asked.tokens()
        if queries is not None and len(queries) != len(matched):
            queries = None  # they are not the rows that were scored
        [text] = self._store.take([self._row])
        members = asked.document_tokens(text.full_text)
        if members is not None and len(members) != len(document.rows):
            members = None  # vectors that were made elsewhere, or pooled since
        if members is not None and self._store.passages:
            members = [tuple(_in_hit(token, text) for token in tokens) for tokens in members]
        return tuple(
            TokenMatch(
                query=() if queries is None else queries[number],
                document=() if members is None else members[rows[place]],
                vector=rows[place],
                similarity=similarities[place],
                share=shares[place],
            )
            for number, place in enumerate(matched)
        )


def _in_hit(token: Token, row: Document) -> Token:
    """Return a token of a passage with its place in the full text of the hit, whose title lacks the headings."""
    hit = best_passage(row)
    if token.start is None or token.end is None or row.title == hit.title:
        return token
    before, after = _text_start(row), _text_start(hit)
    if token.start < before:
        return replace(token, start=None, end=None)
    return replace(token, start=token.start - before + after, end=token.end - before + after)


def _text_start(document: Document) -> int:
    """Return where the text begins in `full_text`, below 0 if blanks at its beginning are left out."""
    whole = f"{document.title} "
    return len(whole) - len(whole + document.text) + len((whole + document.text).lstrip())


def snippet_of(query: str | None, hit: Hit) -> Snippet:
    """Return the snippet of a hit.

    Args:
        query: The text of the query; None for one that was compiled elsewhere.
        hit: The hit, with its document.

    Returns:
        The snippet: the beginning of the text where nothing matches.
    """
    text = hit.text[:_LOOKED_AT]
    marked = _matched(hit, len(text)) or _found(query or "", text)
    start, end = _window(text, marked)
    inside = tuple((first - start, last - start) for first, last, _ in marked if start <= first and last <= end)
    offset = hit.passages[0].start if hit.passages else 0
    return Snippet(text[start:end], offset + start, offset + end, inside)


def _found(query: str, text: str) -> list[tuple[int, int, str]]:
    """Return the places in a text of the words of a query, each with the word's stem."""
    wanted = {stem: word for word, stem in _stems(query)}
    telling = {stem for stem, word in wanted.items() if word not in _STOP_WORDS} or wanted.keys()
    places = []
    for match in _WORD.finditer(text):
        word = match[0]
        stem = _stem(word) if len(word) <= _LONGEST_KEPT else _stem.__wrapped__(word)
        if stem in telling:
            places.append((*match.span(), stem))
    return places


def _matched(hit: Hit, length: int) -> list[tuple[int, int, str]]:
    """Return the places in a hit's text of the tokens that matched the query, for late interaction."""
    document = hit.document
    if document is None:
        return []
    before = f"{document.title} "
    shift = len(before) if before.strip() else -len(document.text) + len(document.text.lstrip())
    spans: dict[_Span, str] = {}
    for match in hit.matches:
        if match.share > 0 and any(_tells(token) for token in match.query):
            for token in match.document:
                if _tells(token) and token.start is not None and token.end is not None:
                    spans[token.start - shift, token.end - shift] = " ".join(one.text for one in match.query)
    joined: list[tuple[int, int, str]] = []
    for (start, end), stem in sorted(spans.items()):
        if joined and start <= joined[-1][1]:  # pieces of one word
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]), joined[-1][2])
        elif start >= 0 and end <= length:
            joined.append((start, end, stem))
    return joined


def _tells(token: Token) -> bool:
    return token.kind == "text" and token.text.casefold() not in _STOP_WORDS and token.text.strip("#").isalnum()


def _window(text: str, marked: list[tuple[int, int, str]]) -> _Span:
    """Return where the snippet begins and ends."""
    if not marked:
        return _cut(text, *_stripped(text, 0, len(text)))
    counts = Counter(stem for _, _, stem in marked)
    best, best_weight, used = (0, 0), -1.0, 0
    first = 0
    for start, end in _sentences(text):
        while used < len(marked) and marked[used][0] < start:
            used += 1
        inside: dict[str, int] = {}
        place = used
        while place < len(marked) and marked[place][0] < end:
            inside.setdefault(marked[place][2], marked[place][0])
            place += 1
        weight = sum(counts[stem] ** -0.5 for stem in inside)
        if inside and weight > best_weight:
            best, best_weight, first = (start, end), weight, min(inside.values())
    start, end = best
    if end - start > _LENGTH and first - start > _BEFORE:
        start = _word_start(text, first - _BEFORE)
        return _cut(text, start, end)
    # More of the text after a short sentence, and where there is none, before it.
    _, last = _stripped(text, 0, len(text))
    if last - start < _LENGTH:
        start = min(start, _word_start(text, max(0, last - _LENGTH)))
    return _cut(text, *_stripped(text, start, last))


def _sentences(text: str) -> Iterator[_Span]:
    start = 0
    for match in _SENTENCE_END.finditer(text):
        yield start, match.end()
        start = match.end()
    yield start, len(text)


def _cut(text: str, start: int, end: int) -> _Span:
    """Shorten a part of a text to the length of a snippet, between words where there are any."""
    if end - start <= _LENGTH:
        return start, end
    blank = max(text.rfind(" ", start, start + _LENGTH), text.rfind("\n", start, start + _LENGTH))
    return start, blank if blank > start + _LENGTH // 2 else start + _LENGTH


def _word_start(text: str, place: int) -> int:
    """Return the beginning of the first word at or after a place, unless it is far."""
    while 0 < place < len(text) and not text[place - 1].isspace():
        if not (blank := re.compile(r"\s").search(text, place, place + _BEFORE // 2)):
            break
        place = blank.end()
    return place


def _stripped(text: str, start: int, end: int) -> _Span:
    part = text[start:end]
    return start + len(part) - len(part.lstrip()), end - len(part) + len(part.rstrip()) if part.strip() else end


def _folded(word: str) -> str:
    return word.lower() if word.isascii() else unicodedata.normalize("NFKC", word).casefold()


def _stems(text: str) -> Iterator[tuple[str, str]]:
    """Yield each word of a text, folded, and its stem."""
    stem_of = _stemmer()
    for match in _WORD.finditer(text):
        word = _folded(match[0])
        yield word, stem_of(word)


_LONGEST_KEPT = 32  # characters of a word


@lru_cache(maxsize=1 << 16)
def _stem(word: str) -> str:
    """Return the stem of a word; hits of many searches have the same words."""
    return _stemmer()(_folded(word))


@cache
def _stemmer() -> Callable[[str], str]:
    """Return what stems English words; where no stemmer is installed, they stay as they are."""
    try:
        module: Any = importlib.import_module("Stemmer")
    except ImportError:
        return str
    stem: Callable[[str], str] = module.Stemmer("english").stemWord
    return stem
