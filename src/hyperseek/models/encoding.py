"""How texts are encoded: long ones cut before they are tokenised, batches of similar length, and the number format.

A model keeps the first few hundred tokens of a text, and a tokenizer reads all of it. Most tokenizers divide a text
into words first, and nothing after a blank changes the words before it. So a text may be cut at a blank, if what is
left has more tokens than are kept. Tokenizers that do not divide texts at blanks read them whole.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from hyperseek._long_work import timed
from hyperseek.errors import InputError, UnknownNameError, shown
from hyperseek.types import Token

logger = logging.getLogger(__name__)

# Tokens of one batch. On a CPU larger batches leave the cache and return memory to the system between layers (measured
# best at 1,024 to 4,096 in both precisions); a GPU needs more of them.
CPU_BATCH_TOKENS = 2048
GPU_BATCH_TOKENS = 65536


P = ParamSpec("P")
T = TypeVar("T")

_one_thread = threading.RLock()


def _renew() -> None:
    global _one_thread
    _one_thread = threading.RLock()  # in a forked child, where another thread of its parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def tokenising(function: Callable[P, T]) -> Callable[P, T]:
    """Let one thread at a time run a function that tokenises.

    A tokenizer keeps truncation and padding as its own state, which another thread could change before it is used.
    """

    @wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> T:
        with timed("tokenise"), _one_thread:
            return function(*arguments, **options)

    return call


def checked_texts(texts: object) -> list[str]:
    """Return texts as a list.

    Args:
        texts: As a caller gave them.

    Returns:
        The texts.

    Raises:
        InputError: It is a single text, or anything but texts, or one of them is not valid Unicode.
    """
    if isinstance(texts, str | bytes) or not isinstance(texts, Iterable):
        raise InputError(f"texts must be a sequence of strings, not {shown(texts)}; for one text give a list of one")
    found = list(texts)
    for place, text in enumerate(found):
        if not isinstance(text, str):
            raise InputError(f"texts must be strings, and number {place} is {shown(text)}")
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InputError(f"text {place} is not valid Unicode ({error}); repair it or leave it out") from None
    return found


def batches_by_tokens(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Split texts into batches of similar length.

    Args:
        lengths: Tokens of each text, at least 1 each.
        budget: Most tokens of a batch, padding included; a longer text gets a batch of its own.

    Yields:
        Positions in `lengths`, the longest texts first, so that too large a batch fails immediately.
    """
    order = sorted(range(len(lengths)), key=lambda position: -lengths[position])
    start = 0
    while start < len(order):
        count = max(1, budget // lengths[order[start]])
        yield order[start : start + count]
        start += count


def fill_empty(features: dict[str, Any], tokenizer: Any) -> None:
    """Give each text without tokens one token, so that its encoding does not depend on its batch.

    Args:
        features: Features of a batch, changed in place; `input_ids` and `attention_mask` are `(B, T)` if present.
        tokenizer: Source of the token: the unknown one, or else the padding.
    """
    ids, mask = features.get("input_ids"), features.get("attention_mask")
    if not isinstance(ids, Tensor) or not isinstance(mask, Tensor) or ids.ndim != 2 or mask.shape != ids.shape:
        return
    empty = mask.sum(dim=1) == 0
    if not empty.any():
        return
    known = (getattr(tokenizer, name, None) for name in ("unk_token_id", "pad_token_id"))
    token = next((number for number in known if number is not None), 0)
    if ids.shape[1] == 0:
        for name, value in features.items():
            if isinstance(value, Tensor) and value.shape == ids.shape:
                features[name] = value.new_zeros(len(value), 1, dtype=torch.long)
        ids, mask = features["input_ids"], features["attention_mask"]
    place = -1 if getattr(tokenizer, "padding_side", "right") == "left" else 0
    ids[empty, place] = token
    mask[empty, place] = 1


def described_tokens(tokenizer: Any, prompt: str, text: str, features: dict[str, Any]) -> list[Token]:
    """Describe the tokens of one text.

    Args:
        tokenizer: A tokenizer of transformers.
        prompt: What the model puts before the text.
        text: The text.
        features: What the model's first module made of it, for a batch of this one: `input_ids` and `attention_mask`
            `(1, T)`, and perhaps `query_expansion_positions`.

    Returns:
        A token for each of the `T` positions. Places in the text are None where the tokenizer does not say them.
    """
    ids, read = features["input_ids"][0].tolist(), features["attention_mask"][0].bool().tolist()
    added = features.get("query_expansion_positions")
    expansion = [False] * len(ids) if added is None else added[0].bool().tolist()
    own = [place for place in range(len(ids)) if read[place] and not expansion[place]]
    spans = dict(zip(own, _spans(tokenizer, prompt + text, [ids[place] for place in own]), strict=True))
    marks = set(tokenizer.all_special_ids)
    tokens = []
    for place, number in enumerate(ids):
        start, end = spans.get(place) or (0, 0)
        spelt = tokenizer.decode([number]).strip()
        if not spelt or "\ufffd" in spelt:  # a part of a character, or a blank
            spelt = str(tokenizer.convert_ids_to_tokens(number))
        if expansion[place]:
            tokens.append(Token(spelt, "expansion", number=number))
        elif start < end <= len(prompt):
            tokens.append(Token(spelt, "prompt", number=number))
        elif start < end:
            # A tokenizer may join the blank that ends a prompt to the first word.
            tokens.append(Token(spelt, "text", max(0, start - len(prompt)), end - len(prompt), number))
        else:
            tokens.append(Token(spelt, "special" if number in marks else "text", number=number))
    return tokens


@tokenising
def _spans(tokenizer: Any, text: str, ids: list[int]) -> list[tuple[int, int] | None]:
    """Return where each of these tokens is in a text; None where the tokenizer reads others or does not say."""
    if not getattr(tokenizer, "is_fast", False) or not ids:
        return [None] * len(ids)
    read = tokenizer(text, truncation=True, max_length=len(ids), return_offsets_mapping=True)
    return list(read["offset_mapping"]) if list(read["input_ids"]) == ids else [None] * len(ids)


@tokenising
def windows(text: str, tokenizer: Any, limit: int, prompt: str = "") -> list[str]:
    """Divide a text into parts that a model reads whole, at blanks where there are any.

    Args:
        text: Any length.
        tokenizer: A tokenizer of transformers.
        limit: Number of tokens that are kept, with those of the prompt and special ones.
        prompt: The text before each part.

    Returns:
        The parts, of similar length, in order; together they are the text, but for blanks between them.
    """

    def count(part: str) -> int:
        return len(tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"])

    room = max(1, limit - tokenizer.num_special_tokens_to_add() - count(prompt))

    def divided(part: str) -> list[str]:
        if len(part) < 2 or count(part) <= room:
            return [part]
        middle = len(part) // 2
        blanks = (part.rfind(_BLANK, 1, middle + 1), part.find(_BLANK, middle, len(part) - 1))
        place = min((blank for blank in blanks if blank > 0), key=lambda blank: abs(blank - middle), default=middle)
        halves = (part[:place].strip(), part[place:].strip())
        return [piece for half in halves if half for piece in divided(half)]

    return divided(text)


_CHARACTERS = 12  # per token, at first; English has four to five
_FACTOR = 4
_SPARE = 32  # tokens beyond those that are kept: special ones, and those that the model's modules add
_BLANK = " "  # the only character at which all of these divide
_DIVIDING = ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")


def divides_at_blanks(tokenizer: Any) -> bool:
    """Return whether the text after a blank never changes the tokens before it.

    Args:
        tokenizer: A tokenizer of transformers, or anything else.

    Returns:
        False if that is not certain.
    """
    from transformers import PreTrainedTokenizerBase  # which a search of one query may do without

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(tokenizer, PreTrainedTokenizerBase) or backend is None or backend.pre_tokenizer is None:
        return False
    if tokenizer.truncation_side != "right":
        return False
    # A token of several words might be cut.
    if any(character.isspace() for token in tokenizer.get_added_vocab() for character in token):
        return False
    return _divides(json.loads(backend.pre_tokenizer.__getstate__()))


@tokenising
def cut(text: str, tokenizer: Any, limit: int, prompt: str = "") -> str:
    """Return a prefix of a text that has the same first tokens.

    Args:
        text: Any length.
        tokenizer: A tokenizer for which `divides_at_blanks` is True.
        limit: Number of tokens that are kept.
        prompt: The text before it.

    Returns:
        The prefix, of at least `limit` tokens; or the whole text if it is short or has no blank to cut at.
    """
    size = _CHARACTERS * (limit + _SPARE)
    while _FACTOR * size < len(text):
        end = _last_word(text, size)
        if end and len(tokenizer(prompt + text[:end], add_special_tokens=False)["input_ids"]) >= limit + _SPARE:
            return text[:end]
        size *= _FACTOR
    return text


@tokenising
def warn_of_long_queries(texts: Sequence[str], trunk: Any, limit: int | None, prompt: str = "") -> None:
    """Warn of queries that have more tokens than a model reads; not for unusual tokenizers.

    Args:
        texts: The queries.
        trunk: The module that tokenises them.
        limit: Most tokens, special ones included; None for no limit.
        prompt: What the model puts before each query.
    """
    tokenizer: Any = getattr(trunk, "tokenizer", None)
    if limit is None or not hasattr(tokenizer, "num_special_tokens_to_add"):
        return
    special = tokenizer.num_special_tokens_to_add()
    # A token has a character or more, so most queries need no second look, and no more of a long one than this.
    long = [(prompt + text)[: _CHARACTERS * (limit + _SPARE)] for text in texts]
    long = [text for text in long if len(text) + special > limit]
    if long:
        read = tokenizer(long, add_special_tokens=False, truncation=True, max_length=limit, return_attention_mask=False)
        warn_of_cut_queries(sum(len(ids) + special > limit for ids in read["input_ids"]), len(texts), limit)


def warn_of_cut_queries(count: int, of: int, limit: int | None) -> None:
    """Warn that a model reads some queries only in part, if it does.

    Args:
        count: How many.
        of: Of how many.
        limit: Tokens that the model reads.
    """
    if count:
        which = "the query is" if of == 1 else f"{count:,} of {of:,} queries {'are' if count > 1 else 'is'}"
        logger.warning("%s longer than the %s tokens that the model reads of a query, and cut there", which, limit)


def _last_word(text: str, size: int) -> int:
    """Return the end of the last word before a blank, at or before `size`; 0 if there is none."""
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
        # The patterns of byte-level tokenizers, in all of which a word takes at most the blank before it.
        pattern = state["pattern"].get("Regex", "")
        return r"\s+(?!\S)" in pattern and state["behavior"] == "Isolated" and not state["invert"]
    return kind in _DIVIDING


_INT8 = "int8"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Number types that torch computes in, by name."""


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Turn a name into a dtype.

    Args:
        name: `"float32"`, `"bfloat16"`, `"float16"`, or `"auto"`: bfloat16 where the device multiplies it natively
            (there it is about twice as fast and moves cosines by about 1e-4), float32 elsewhere.
        device: Where the model computes.

    Returns:
        The dtype.

    Raises:
        UnknownNameError: The name is not one of these.
    """
    if name == "auto":
        native = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_multiplies_bfloat16(device)
        chosen = torch.bfloat16 if native else torch.float32
        logger.info("dtype auto: %s, since %s %s bfloat16 natively", chosen, device, "has" if native else "lacks")
        return chosen
    if name not in DTYPES:
        raise UnknownNameError("dtype", name, ["auto", *DTYPES])
    return DTYPES[name]


def number_type(dtype: str, device: torch.device, backend: str | None, own: str | None) -> str:
    """Return the name of the number type that a model encodes in.

    Args:
        dtype: As for `resolve_dtype`, or that of a backend.
        device: Where the model computes.
        backend: Name of its backend; None for torch.
        own: The number type of that backend.

    Returns:
        The name, which is not `"auto"`.

    Raises:
        UnknownNameError: torch computes, and knows no such type.
        InputError: The type is that of a backend, and the model has none, or another.
    """
    if backend is not None and own is not None:
        if dtype in ("auto", own):
            return own
        raise InputError(
            f"the backend {backend} computes in {own}, not in {shown(dtype)}; leave dtype out, or load the model "
            f"without this backend"
        )
    if dtype == _INT8:
        raise InputError(
            "int8 is the number type of a backend; load the model with backend='onnx-int8' or 'openvino-int8' "
            "(--backend onnx-int8 or openvino-int8)"
        )
    return str(resolve_dtype(dtype, device)).removeprefix("torch.")


def _cpu_multiplies_bfloat16(device: torch.device) -> bool:
    if device.type != "cpu":
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
