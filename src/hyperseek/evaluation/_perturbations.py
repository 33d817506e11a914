"""Perturbed queries: the same need, typed badly, in another order, as keywords, with synonyms, or paraphrased.

The kinds are those of Penha, Câmara and Hauff, "Evaluating the Robustness of Retrieval Pipelines with Query Variation
Generators" (ECIR 2022), by which the reproduction study of Hypencoder (arXiv 2604.27037) measured: misspelling,
ordering, naturality, synonyms, paraphrases. The kinds of typos, one in a word of the query, are those of Zhuang and
Zuccon, "CharacterBERT and Self-Teaching" (SIGIR 2022).

Every draw depends on the seed, the kind and the query's id alone, so a query is perturbed alike in any collection.
"""

from __future__ import annotations

import os
import random
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby

from hyperseek._registry import Registry, check_function
from hyperseek._relevance import normal_text
from hyperseek.data import read_id_list, read_queries
from hyperseek.errors import DataError, InputError
from hyperseek.mining import stop_words
from hyperseek.types import Query

_SHORTEST = 4  # letters of a word that gets a typo, unless the query has none as long
_LATIN = "abcdefghijklmnopqrstuvwxyz"
_KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_LONGEST_TERM = 4  # words of an entry of a file of synonyms

Perturb = Callable[[Query, random.Random], str]
"""Returns another text for a query; its own where it cannot be perturbed."""
Perturbation = Callable[[str | None], Perturb]
"""Makes one from what follows the colon of its name; None without one."""

TYPOS = ("insert", "delete", "substitute", "swap", "qwerty")
"""Kinds of typos: a letter too many, too few, another, two neighbours swapped, a neighbour on a QWERTY keyboard."""

_OURS = {
    **{
        name: f"{__name__}:_{name.replace('-', '_')}"
        for name in ("typos", "order", "word-swap", "keywords", "synonyms", "paraphrases")
    },
    **{f"typo-{kind}": f"{__name__}:_typo_{kind}" for kind in TYPOS},
}
PERTURBATIONS: Registry[Perturbation] = Registry("perturbation", "hyperseek.perturbations", _OURS, check=check_function)


def register_perturbation(name: str) -> Callable[[Perturbation], Perturbation]:
    """Register a kind of perturbation for `evaluate --perturb`, as a decorator.

    The function gets what follows the colon of the name, or None, and returns a function of a query and a
    `random.Random` that returns the query's other text. Another package registers one by an entry point of
    `hyperseek.perturbations`.

    Args:
        name: What is given before the colon, if there is one.

    Returns:
        The decorator, which returns the function unchanged.

    Raises:
        InputError: The name is taken.
    """
    return PERTURBATIONS.register(name)


def perturb(queries: Iterable[Query], kind: str, *, seed: int = 0) -> list[Query]:
    """Perturb queries; one that cannot be perturbed stays as it is.

    Args:
        queries: The queries.
        kind: `typos`, of random kinds, or `typo-insert`, `typo-delete`, `typo-substitute`, `typo-swap` and
            `typo-qwerty`, each in one word, or in N as in `typos:2`; `order`, all words shuffled; `word-swap`, two
            words swapped; `keywords`, without stop words, of English or another language as in `keywords:de`;
            `synonyms:FILE`, one word or phrase replaced by a synonym, from lines of a word and its synonyms, with tabs
            between; `paraphrases:FILE`, the texts of a file of queries by the same ids.
        seed: Of the draws.

    Returns:
        The queries, in order, with their ids and metadata.

    Raises:
        UnknownNameError: There is no such kind.
        InputError: It needs a file or a number that is not given.
        DataError: Its file cannot be read.
    """
    name, colon, argument = kind.partition(":")
    changed = PERTURBATIONS[name](argument if colon else None)
    found = []
    for query in queries:
        text = changed(query, random.Random(f"{seed}\n{name}\n{query.id}"))
        if not isinstance(text, str):
            raise InputError(f"the perturbation {name} must return a text, not {type(text).__name__}")
        found.append(replace(query, text=text) if text.strip() else query)
    return found


def _typo(kinds: Sequence[str], argument: str | None) -> Perturb:
    if argument is not None and not re.fullmatch(r"[1-9][0-9]?", argument):
        raise InputError(f"typos take a number of words from 1 to 99 after the colon, as in typos:2, not {argument!r}")
    return partial(_mistype, kinds, int(argument or 1))


_typos = partial(_typo, TYPOS)
_typo_insert, _typo_delete, _typo_substitute, _typo_swap, _typo_qwerty = (partial(_typo, (kind,)) for kind in TYPOS)


def _mistype(kinds: Sequence[str], count: int, query: Query, draw: random.Random) -> str:
    words = list(_words(query.text))
    long = [span for span in words if len(_characters(query.text[slice(*span)])) >= _SHORTEST]
    text = query.text
    edits: list[tuple[int, int, str]] = []
    for start, end in draw.sample(long or words, len(long or words)):
        if len(edits) == count:
            break
        characters = _characters(text[start:end])
        mistyped = next(_mistyped(characters, draw.sample(kinds, len(kinds)), query.text, draw), None)
        if mistyped is not None:
            edits.append((start, end, mistyped))
    for start, end, mistyped in sorted(edits, reverse=True):  # from the end, so that places stay
        text = text[:start] + mistyped + text[end:]
    return text


def _words(text: str) -> Iterator[tuple[int, int]]:
    """Yield start and end of each run of letters and their marks."""
    for is_word, run in groupby(enumerate(text), key=lambda item: unicodedata.category(item[1])[0] in "LM"):
        places = [place for place, _ in run]
        if is_word:
            yield places[0], places[-1] + 1


def _characters(word: str) -> list[str]:
    """Split a word into letters, each with its combining marks."""
    found: list[str] = []
    for character in word:
        if found and unicodedata.category(character)[0] == "M":
            found[-1] += character
        else:
            found.append(character)
    return found


def _mistyped(word: list[str], kinds: Iterable[str], text: str, draw: random.Random) -> Iterator[str]:
    """Yield a word with a typo of each kind that is possible in it, in the order of the kinds."""
    # Letters of the query's own script: of its text, where that is not ASCII.
    letters = _LATIN if "".join(word).isascii() else sorted({letter for letter in text.lower() if letter.isalpha()})
    for kind in kinds:
        choices: list[list[str]] = []
        for place in draw.sample(range(len(word)), len(word)):
            before, own, after = word[:place], word[place], word[place + 1 :]
            if kind == "delete" and len(word) > 1:
                choices.append(before + after)
            elif kind == "insert":
                choices.append([*before, own, draw.choice(letters), *after])
            elif kind == "substitute":
                others = [letter for letter in letters if letter != own.lower()]
                choices += [[*before, _cased(draw.choice(others), own), *after]] if others else []
            elif kind == "swap" and after and after[0].lower() != own.lower():
                choices.append([*before, after[0], own, *after[1:]])
            elif kind == "qwerty" and (near := _near_keys(own.lower())):
                choices.append([*before, _cased(draw.choice(near), own), *after])
        yield from ("".join(choice) for choice in choices[:1])


def _cased(letter: str, like: str) -> str:
    return letter.upper() if like.isupper() else letter


def _near_keys(letter: str) -> list[str]:
    """Return the neighbours of a letter on a QWERTY keyboard, whose rows are each half a key further right."""
    for row, keys in enumerate(_KEYBOARD):
        place = keys.find(letter)
        if place >= 0 and len(letter) == 1:
            beside, above = [(row, place - 1), (row, place + 1)], [(row - 1, place), (row - 1, place + 1)]
            around = [*beside, *above, (row + 1, place - 1), (row + 1, place)]
            return [_KEYBOARD[r][p] for r, p in around if 0 <= r < len(_KEYBOARD) and 0 <= p < len(_KEYBOARD[r])]
    return []


def _no_argument(kind: str, argument: str | None) -> None:
    if argument is not None:
        raise InputError(f"the perturbation {kind} takes nothing after a colon, not {argument!r}")


def _order(argument: str | None) -> Perturb:
    _no_argument("order", argument)

    def shuffled(query: Query, draw: random.Random) -> str:
        words = query.text.split()
        if len(set(words)) < 2:
            return query.text
        while (found := draw.sample(words, len(words))) == words:
            pass
        return " ".join(found)

    return shuffled


def _word_swap(argument: str | None) -> Perturb:
    _no_argument("word-swap", argument)

    def swapped(query: Query, draw: random.Random) -> str:
        words = query.text.split()
        if len(set(words)) < 2:
            return query.text
        while words[(places := draw.sample(range(len(words)), 2))[0]] == words[places[1]]:
            pass
        i, j = places
        words[i], words[j] = words[j], words[i]
        return " ".join(words)

    return swapped


def _keywords(argument: str | None) -> Perturb:
    dropped = stop_words(argument or "en")

    def without_stop_words(query: Query, _: random.Random) -> str:
        words = query.text.split()
        kept = [word for word in words if re.sub(r"^\W+|\W+$", "", word).casefold() not in dropped]
        return " ".join(kept) if kept and len(kept) < len(words) else query.text

    return without_stop_words


def _synonyms(argument: str | None) -> Perturb:
    known = read_synonyms(_given(argument, "synonyms", "a word and its synonyms on each line, with tabs between"))

    def replaced(query: Query, draw: random.Random) -> str:
        words = [match.span() for match in re.finditer(r"\w+(?:[-'\u2019]\w+)*", query.text)]
        spans = []
        for first, (start, _) in enumerate(words):
            for last in range(first, min(len(words), first + _LONGEST_TERM)):
                end = words[last][1]
                others = known.get(normal_text(query.text[start:end]), ())
                spans += [(start, end, other) for other in others]
        if not spans:
            return query.text
        start, end, other = draw.choice(spans)
        return query.text[:start] + other + query.text[end:]

    return replaced


def read_synonyms(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Read a file of synonyms: on each line a word or phrase and its synonyms, with tabs between.

    Args:
        path: The file, UTF-8, plain or `.gz`.

    Returns:
        Synonyms by word, in the form of `normal_text`; none is the word itself.

    Raises:
        DataError: The file cannot be read, or no line has a synonym.
    """
    known: dict[str, list[str]] = {}
    for line in read_id_list(path):
        word, *others = (part.strip() for part in line.split("\t"))
        own = [other for other in others if other and normal_text(other) != normal_text(word)]
        if word and own:
            known.setdefault(normal_text(word), []).extend(own)
    if not known:
        raise DataError("has no synonyms; write a word and its synonyms on each line, with tabs between", path=path)
    return known


def _paraphrases(argument: str | None) -> Perturb:
    file = _given(argument, "paraphrases", "queries, whose ids are those of the originals")
    texts = {query.id: query.text for query in read_queries(file)}

    def rephrased(query: Query, _: random.Random) -> str:
        return texts.get(query.id, query.text)

    return rephrased


def _given(argument: str | None, kind: str, holds: str) -> str:
    if not argument:
        raise InputError(f"the perturbation {kind} needs a file: {kind}:FILE, of {holds}")
    return argument
