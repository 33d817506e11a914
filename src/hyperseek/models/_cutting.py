"""Long texts cut before they are tokenised, where that cannot change a token that is kept.

A model keeps the first few hundred tokens of a text, and a tokenizer reads all of it. Most tokenizers divide a text
into words first, and nothing behind a blank changes the words before it. So a text may end before a blank, if what
is left has more tokens than are kept. Tokenizers that do not divide texts at blanks read them whole.
"""

from __future__ import annotations

import json
from typing import Any

from transformers import PreTrainedTokenizerBase

_CHARACTERS = 12  # of a token, at first; English has four to five
_FACTOR = 4
_SPARE = 32  # tokens beyond those that are kept: special ones, and those of the model's own modules
_BLANK = " "  # the only character that all of these divide at
_DIVIDING = ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")


def divides_at_blanks(tokenizer: Any) -> bool:
    """Return whether nothing behind a blank changes the tokens before it.

    Args:
        tokenizer: Of transformers, or anything.

    Returns:
        False wherever that is not certain.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or backend is None or backend.pre_tokenizer is None:
        return False
    if tokenizer.truncation_side != "right":
        return False
    # A token of several words may stand across a cut.
    if any(character.isspace() for token in tokenizer.get_added_vocab() for character in token):
        return False
    return _divides(json.loads(backend.pre_tokenizer.__getstate__()))


def cut(text: str, tokenizer: Any, limit: int, prompt: str = "") -> str:
    """Return a beginning of a text that has the same first tokens.

    Args:
        text: Any length.
        tokenizer: One that `divides_at_blanks`.
        limit: How many tokens are kept.
        prompt: What stands before the text.

    Returns:
        The beginning, of at least `limit` tokens; or the text, where it is short or has no blank to cut at.
    """
    size = _CHARACTERS * (limit + _SPARE)
    while _FACTOR * size < len(text):
        end = _last_word(text, size)
        if end and len(tokenizer(prompt + text[:end], add_special_tokens=False)["input_ids"]) >= limit + _SPARE:
            return text[:end]
        size *= _FACTOR
    return text


def _last_word(text: str, size: int) -> int:
    """Return where the last word ends that a blank follows, at or before `size`; 0 for none."""
    end = text.rfind(_BLANK, 0, size + 1)
    while end > 0 and text[end - 1].isspace():
        end = text.rfind(_BLANK, 0, end)
    return max(0, end)


def _divides(state: dict[str, Any]) -> bool:
    kind = state["type"]
    if kind == "Sequence":
        return any(map(_divides, state["pretokenizers"]))
    if kind == "ByteLevel":
        return bool(state.get("use_regex", True))
    if kind == "Metaspace":
        return bool(state.get("split", True))
    if kind == "Split":
        # The patterns of byte-level tokenizers, all of which give a word at most the blank before it.
        pattern = state["pattern"].get("Regex", "")
        return r"\s+(?!\S)" in pattern and state["behavior"] == "Isolated" and not state["invert"]
    return kind in _DIVIDING
