"""BM25 through bm25s, over the terms of texts in any script.

The defaults are Lucene's variant with k1 = 0.9 and b = 0.4, the Snowball English stemmer and English stop words: on
SciFact's test split they give nDCG@10 0.676. Documents that share no term with the query score 0 and are not ranked.
Equal scores keep the corpus' order.

A word is a run of letters, digits and their combining marks. Scripts without blanks between words (and Korean, with
blanks between phrases) give each character and each pair of neighbours instead, so a word of two characters is found as
a pair wherever it appears. Texts that look alike have the same terms: composed and decomposed letters, wide and narrow
ones, upper and lower case. Hebrew points and Arabic vowel signs, which most texts omit, are ignored.

Words of one letter or digit ("vitamin C", "x") are mostly initials and units. Their weight is so small that they only
break ties, and find documents that no other word finds: published baselines ignore such words.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import Field

from hyperseek._config import Config
from hyperseek._documents import EMOJI
from hyperseek._long_work import progress
from hyperseek._order import best_places
from hyperseek._relevance import excluded_ids
from hyperseek.errors import InputError, MissingDocumentError, UnknownNameError, require
from hyperseek.types import Document, Query, Run

Floats: TypeAlias = npt.NDArray[np.float64]

_FAINT = 1e-3  # weight of words of one letter or digit

# Scripts without blanks between words.
_DENSE = (
    *("Han", "Hiragana", "Katakana", "Bopomofo", "Hangul", "Yi", "Thai", "Lao", "Khmer", "Myanmar"),
    *("Tai_Le", "New_Tai_Lue", "Tai_Tham", "Tai_Viet", "Javanese"),
)
# Letters that an apostrophe cuts off, as in "the cat's" or "don't", are not words.
_CUT_OFF = r"(?<=\w['\u2019])\w\b"
_ASCII = re.compile(rf"{_CUT_OFF}|(\w+)", re.ASCII)
# Words break at a zero-width space, but not at other characters without width, such as soft hyphens and joiners.
_ZERO_WIDTH_SPACE = "\u200b"


def _lucene_idf(holding: Floats, total: int) -> Floats:
    return np.log(1 + (total - holding + 0.5) / (holding + 0.5))


def _robertson_idf(holding: Floats, total: int) -> Floats:
    return np.log(np.maximum((total - holding + 0.5) / (holding + 0.5), 1))


def _atire_idf(holding: Floats, total: int) -> Floats:
    return np.log(total / holding)


# By variant, as bm25s weights documents.
_IDF = {"lucene": _lucene_idf, "robertson": _robertson_idf, "atire": _atire_idf}


class _Part(NamedTuple):
    """Some of the terms: their weight, their index (None where no document has any), and documents' mean length."""

    weight: float
    index: Any
    mean_length: float


class BM25Settings(Config):
    """Tokenisation and term weights of BM25.

    Attributes:
        variant: Variant of the term weight, as named in bm25s.
        k1: How slowly repeated terms saturate, at least 0.
        b: How strongly long documents are penalised, 0 to 1.
        stemmer: A Snowball language, or None for whole words.
        stop_words: `"en"`, another language of bm25s, or None to keep all words.
        query_weights: How often a term counts that the query has `tf` times: `count` for `tf` times, as usual; `bm25`
            for `idf * tf * (k1 + 1) / (tf + k1 * (1 - b + b * length / mean))`, as if the query were a document of the
            corpus, with the query's length in known terms and the documents' mean length. BRIGHT's BM25 does this.
    """

    variant: Literal["lucene", "robertson", "atire"] = "lucene"
    k1: float = Field(default=0.9, ge=0)
    b: float = Field(default=0.4, ge=0, le=1)
    stemmer: str | None = "english"
    stop_words: str | None = "en"
    query_weights: Literal["count", "bm25"] = "count"


class BM25:
    """A BM25 index in memory; it keeps the documents' ids and term weights, not their texts.

    Args:
        documents: The corpus, read once; title and text are joined.
        settings: None for the defaults.
        total: Number of documents, for the progress bar.

    Raises:
        InputError: The corpus is empty or has no terms.
        UnknownNameError: There is no such stemmer.
    """

    def __init__(
        self, documents: Iterable[Document], *, settings: BM25Settings | None = None, total: int | None = None
    ) -> None:
        self.settings = settings or BM25Settings()
        self.ids: list[str] = []
        self._places: dict[str, int] | None = None
        self._tokenizer = _tokenizer(self.settings)
        found = list(self._tokenizer.streaming_tokenize(self._texts(documents, total), allow_empty=False))
        vocabulary = self._tokenizer.get_vocab_dict()
        if not vocabulary:
            raise InputError(f"BM25 found no term in the {len(self.ids)} given documents")
        self._faint = frozenset(number for term, number in vocabulary.items() if is_faint(term))
        full = [[number for number in own if number not in self._faint] for own in found]
        faint = [[number for number in own if number in self._faint] for own in found]
        self._parts = [
            _Part(weight, self._index(own, vocabulary), sum(map(len, own)) / len(own))
            for weight, own in ((1.0, full), (_FAINT, faint))
        ]

    def __len__(self) -> int:
        return len(self.ids)

    def run(self, queries: Mapping[str, str] | Iterable[Query], *, k: int = 100, exclude_same_id: bool = False) -> Run:
        """Rank the corpus for each query.

        Documents that a query's metadata list as `excluded_ids` are left out of its ranking.

        Args:
            queries: Texts by id, or queries.
            k: Most documents per query, at least 1.
            exclude_same_id: Leave out a document whose id is the query's.

        Returns:
            The best documents of each query, best first; none for a query without a known term.

        Raises:
            InputError: `k` is below 1.
        """
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}")
        records = () if isinstance(queries, Mapping) else tuple(queries)
        texts = queries if isinstance(queries, Mapping) else {query.id: query.text for query in records}
        excluded = excluded_ids(records)
        places = {identifier: place for place, identifier in enumerate(self.ids)} if excluded or exclude_same_id else {}
        ranking: Run = {}
        with progress("searching with BM25", len(texts), unit="queries") as bar:
            for identifier, scores in zip(texts, self._score(texts.values()), strict=True):
                unwanted = excluded.get(identifier, frozenset()) | ({identifier} if exclude_same_id else set())
                scores[[places[name] for name in unwanted if name in places]] = 0
                found = np.flatnonzero(scores > 0)
                best = found[best_places(scores[found], k)]
                ranking[identifier] = {self.ids[place]: float(scores[place]) for place in best}
                bar.advance()
        return ranking

    def scores(self, queries: Sequence[str], ids: Sequence[Sequence[str]]) -> list[list[float]]:
        """Score documents of the caller's choice.

        Args:
            queries: Texts.
            ids: For each query the ids of its documents.

        Returns:
            For each query its documents' scores, in the order of the ids; 0 without a common term.

        Raises:
            MissingDocumentError: An id is not in the corpus.
        """
        if self._places is None:
            self._places = {identifier: place for place, identifier in enumerate(self.ids)}
        try:
            chosen = [[self._places[one] for one in own] for own in ids]
        except KeyError as error:
            raise MissingDocumentError(f"the document {error.args[0]!r} is not in the corpus of BM25") from None
        found = zip(chosen, self._score(queries), strict=True)
        return [[float(score) for score in scores[places]] for places, scores in found]

    @property
    def nbytes(self) -> int:
        """Bytes of the term weights."""
        stored = [part.index.scores for part in self._parts if part.index is not None]
        return sum(array.nbytes for scores in stored for array in scores.values() if hasattr(array, "nbytes"))

    def _index(self, documents: Sequence[Sequence[int]], vocabulary: Mapping[str, int]) -> Any:
        if not any(documents):
            return None
        settings = self.settings
        # Summed in float64 and rounded once, so that equal sums stay equal in any order.
        index = _bm25s().BM25(method=settings.variant, k1=settings.k1, b=settings.b, dtype="float64")
        index.index((documents, dict(vocabulary)), show_progress=False)
        return index

    def _score(self, texts: Iterable[str]) -> Iterator[npt.NDArray[np.float32]]:
        # Other forms of a known stem match; unknown stems do not.
        for asked in self._tokenizer.streaming_tokenize(texts, update_vocab=False, allow_empty=False):
            scores = np.zeros(len(self.ids))
            for part in self._parts:
                own = [term for term in asked if (term in self._faint) == (part.weight == _FAINT)]
                if own and part.index is not None:
                    scores += part.weight * self._scores(part, own)
            yield scores.astype(np.float32)

    def _scores(self, part: _Part, asked: Sequence[int]) -> Floats:
        if self.settings.query_weights == "count":
            counted: Floats = part.index.get_scores_from_ids(asked)
            return counted
        scores = np.zeros(len(self.ids))
        data, indices, starts = (part.index.scores[key] for key in ("data", "indices", "indptr"))  # terms are columns
        terms, counts = np.unique(asked, return_counts=True)
        k1, b = self.settings.k1, self.settings.b
        length = len(asked) / part.mean_length
        idf = _IDF[self.settings.variant](starts[terms + 1] - starts[terms], len(self.ids))
        weights = idf * counts * (k1 + 1) / (counts + k1 * (1 - b + b * length))
        for term, weight in zip(terms, weights, strict=True):
            own = slice(starts[term], starts[term + 1])
            scores[indices[own]] += weight * data[own]  # a document is once in each column
        return scores

    def _texts(self, documents: Iterable[Document], total: int | None) -> Iterable[str]:
        with progress("indexing for BM25", total, unit="documents") as bar:
            for document in documents:
                self.ids.append(document.id)
                yield document.full_text
                bar.advance()


def _bm25s() -> Any:
    module = require("bm25s", extra="eval")
    # It sets its own logger to DEBUG, and its records would reach every handler of the program.
    logging.getLogger("bm25s").setLevel(logging.WARNING)
    return module


def _tokenizer(settings: BM25Settings) -> Any:
    bm25s = _bm25s()
    stemmer = None
    if settings.stemmer is not None:
        snowball = require("Stemmer", extra="eval")
        if settings.stemmer not in snowball.algorithms():
            raise UnknownNameError("stemmer", settings.stemmer, snowball.algorithms())
        stemmer = snowball.Stemmer(settings.stemmer)
    try:
        return bm25s.tokenization.Tokenizer(lower=False, splitter=terms, stopwords=settings.stop_words, stemmer=stemmer)
    except ValueError as error:
        raise InputError(f"stop_words={settings.stop_words!r} cannot be used: {error}") from None


def stop_words(language: str = "en") -> frozenset[str]:
    """Return the stop words of a language, in lower case.

    Args:
        language: `"en"`, or another language of bm25s.

    Returns:
        The words.

    Raises:
        InputError: There is no such list.
    """
    return frozenset(_tokenizer(BM25Settings(stemmer=None, stop_words=language)).stopwords)


def terms(text: str) -> list[str]:
    """Split a text into its terms, in order.

    Args:
        text: Any text.

    Returns:
        Words, emoji and, in scripts without blanks, characters and pairs of them; in lower case.
    """
    if text.isascii():
        return [word for word in _ASCII.findall(text.lower()) if word]
    return _split(_folded(text))


def is_faint(term: str) -> bool:
    """Return whether a term is a single letter or digit of a script whose words have several."""
    return len(term) == 1 and (term.isascii() or not _patterns().whole.match(term))


def _folded(text: str) -> str:
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return plain.replace(_ZERO_WIDTH_SPACE, " ").replace("i\u0307", "i")  # the lower case of the Turkish capital


class _Patterns(NamedTuple):
    ignored: Any
    whole: Any
    term: Any


@cache
def _patterns() -> _Patterns:
    regex: Any = require("regex", extra="eval")
    dense = "".join(rf"\p{{Script_Extensions={name}}}" for name in _DENSE)
    character = rf"[[\p{{L}}\p{{N}}]&&[{dense}]]"
    word = rf"[\w--\p{{M}}--[{dense}]][[\w\p{{M}}]--[{dense}]]*"
    unwritten = r"[\p{Mn}&&[\p{Script=Hebrew}\u064b-\u065f\u0670\u06d6-\u06ed]]"
    return _Patterns(
        regex.compile(rf"\p{{Cf}}|{unwritten}|\u0640", regex.V1),
        regex.compile(f"{character}|{EMOJI}", regex.V1),
        regex.compile(rf"{_CUT_OFF}|({character}\p{{M}}*)+|({word}|{EMOJI})", regex.V1),
    )


def _split(text: str) -> list[str]:
    result: list[str] = []
    for match in _patterns().term.finditer(_patterns().ignored.sub("", text)):
        characters = match.captures(1)
        if characters:
            result += characters
            result += map("".join, pairwise(characters))
        elif match[2]:
            result.append(match[2])
    return result
