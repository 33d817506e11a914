"""The terms of a text, in any script.

A word is a run of letters, digits and the marks on them. Scripts that put no blanks between words (and Korean, which
puts them between phrases) give each character and each pair of neighbours instead: a word of two is found as a pair
wherever it stands. Texts that look alike have the same terms: composed and decomposed letters, wide and narrow ones,
upper and lower case. Hebrew points and Arabic vowel signs, which most texts leave out, do not count.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

from hyperseek._errors import require

# Scripts whose words stand without blanks.
_DENSE = (
    *("Han", "Hiragana", "Katakana", "Bopomofo", "Hangul", "Yi", "Thai", "Lao", "Khmer", "Myanmar"),
    *("Tai_Le", "New_Tai_Lue", "Tai_Tham", "Tai_Viet", "Javanese"),
)
# What an apostrophe cuts off: "the cat's", "don't"; it is no word.
_CUT_OFF = r"(?<=\w['\u2019])\w\b"
_ASCII = re.compile(rf"{_CUT_OFF}|(\w+)", re.ASCII)
# A word may break at a zero-width space, and at no other character without width, as soft hyphens and joiners.
_ZERO_WIDTH_SPACE = "\u200b"


def terms(text: str) -> list[str]:
    """Split a text into its terms, in order.

    Args:
        text: Any text.

    Returns:
        Words and, of scripts without blanks, characters and pairs of them; without upper case.
    """
    if text.isascii():
        return [word for word in _ASCII.findall(text.lower()) if word]
    return _split(_folded(text))


def is_faint(term: str) -> bool:
    """Whether a term is one letter or digit of a script that writes words with several."""
    return len(term) == 1 and (term.isascii() or not _patterns().dense.match(term))


def _folded(text: str) -> str:
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return plain.replace(_ZERO_WIDTH_SPACE, " ").replace("i\u0307", "i")  # the small form of the Turkish capital


class _Patterns(NamedTuple):
    ignored: Any
    dense: Any
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
        regex.compile(character, regex.V1),
        regex.compile(rf"{_CUT_OFF}|({character}\p{{M}}*)+|({word})", regex.V1),
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
