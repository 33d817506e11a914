"""Lengths of texts in a model's tokens: how much its limits truncate, and limits that fit the data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from hyperseek._config import Config
from hyperseek.errors import InputError

if TYPE_CHECKING:
    from hyperseek.data.examples import TrainingExample
    from hyperseek.models.retriever import Retriever, Side

PERCENTILES = (0.5, 0.9, 0.95, 0.99, 1.0)
"""Percentiles in reports; the last is the longest text."""

COMMON_LENGTHS = (32, 48, 64, 128, 256, 300, 512, 1024, 2048, 4096, 8192)
"""Limits that models often have, in tokens."""

_AT_ONCE = 1024  # texts
_UNKNOWN_CONTEXT = 4096  # tokens that a model is assumed to read if it states no limit
_NO_LIMIT = 10**9  # transformers writes 10^30 for "no limit"
_SHORTEST_QUERY, _SHORTEST_DOCUMENT = 32, 128

_Row = TypeVar("_Row")


class Lengths(Config):
    """Lengths of one kind of texts.

    Attributes:
        texts: How many were counted.
        percentiles: Tokens by percentile, as `"p50"`; `"max"` is the longest.
        limit: Most tokens that the model reads of such a text; None for all.
        cut: How many of the texts a limit would truncate, by limit: the model's own, and `COMMON_LENGTHS`.
    """

    texts: int
    percentiles: dict[str, int]
    limit: int | None
    cut: dict[int, int]


class LengthReport(Config):
    """Lengths of training examples, in tokens, with prompts and special tokens.

    Attributes:
        query: Lengths of the queries.
        positive: Lengths of all positives.
        negative: Lengths of all negatives; None if there are none.
        context: Tokens that the model could read, regardless of its limits.
    """

    query: Lengths
    positive: Lengths
    negative: Lengths | None
    context: int


def token_lengths(model: Retriever, texts: Sequence[str], side: Side, *, plain: bool = False) -> list[int]:
    """Count the tokens of texts as a model reads them: with prompt and special tokens, without truncation.

    Tokens added by query expansion do not count, since they do not displace text.

    Args:
        model: The model whose tokenizer and prompts are used.
        texts: Any number.
        side: `"query"` or `"document"`.
        plain: Count the text alone, without prompt and special tokens.

    Returns:
        Tokens of each text.

    Raises:
        InputError: The model has no tokenizer that counts tokens.
    """
    tokenizer: Any = getattr(model.route(side)[0], "tokenizer", None)
    prompt = "" if plain else model.model.prompts.get(side) or ""
    counts: list[int] = []
    for start in range(0, len(texts), _AT_ONCE):
        whole = [prompt + text for text in texts[start : start + _AT_ONCE]]
        if callable(tokenizer):
            # Not verbose: it would warn of every text beyond the model's limit.
            options = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
            options |= {"add_special_tokens": not plain}
            counts.extend(map(len, tokenizer(whole, truncation=False, **options)["input_ids"]))
        elif hasattr(tokenizer, "encode_batch"):  # of static embeddings
            counts.extend(len(encoded.ids) for encoded in tokenizer.encode_batch(whole, add_special_tokens=False))
        else:
            raise InputError(f"{model.source} has no tokenizer that counts tokens; lengths need one")
    return counts


def counts_tokens(model: Retriever) -> bool:
    """Return whether a model has a tokenizer that counts tokens."""
    try:
        token_lengths(model, [""], "document")
    except InputError:
        return False
    return True


def percentile(lengths: Sequence[int], share: float) -> int:
    """Return the length at index round(share · (n - 1)) of the sorted ones, never a mean of two.

    Args:
        lengths: At least one, in any order.
        share: From 0, the shortest, to 1, the longest.

    Returns:
        The length.

    Raises:
        InputError: There are no lengths, or the share is out of range.
    """
    if not lengths or not 0 <= share <= 1:
        raise InputError(f"a percentile needs lengths and a share from 0 to 1, not {len(lengths)} lengths and {share}")
    return sorted(lengths)[round(share * (len(lengths) - 1))]


def every_nth(rows: Sequence[_Row], count: int) -> list[_Row]:
    """Return about `count` evenly spaced rows of a sequence: every n-th from the first, with the largest possible n.

    Args:
        rows: Any number.
        count: How many, at least 1; all rows if there are fewer.

    Returns:
        The rows.
    """
    step = max(1, len(rows) // max(1, count))
    return [rows[position] for position in range(0, len(rows), step)][: max(1, count)]


def context_length(model: Retriever) -> int:
    """Return how many tokens a model could read: the smaller limit of its tokenizer and its positions.

    Args:
        model: The model; its configured limits (`query_length`, `document_length`) are ignored.

    Returns:
        Tokens; 4,096 if it states no limit.
    """
    first: Any = model.route("document")[0]
    config = getattr(getattr(first, "model", None), "config", None)
    given = (
        getattr(getattr(first, "tokenizer", None), "model_max_length", None),
        getattr(config, "max_position_embeddings", None),
    )
    known = [int(limit) for limit in given if limit is not None and 0 < limit < _NO_LIMIT]
    return min(known, default=_UNKNOWN_CONTEXT)


def automatic_lengths(
    model: Retriever,
    rows: Sequence[tuple[str, Sequence[str]]],
    *,
    share: float = 0.95,
    sample: int = 500,
    context: int | None = None,
) -> tuple[int, int]:
    """Choose limits for queries and documents that leave most texts whole.

    They are percentiles of the lengths in a sample, prompts, special tokens and negatives included; at least 32 tokens
    for a query and 128 for a document, and never more than the model can read.

    Args:
        model: The model that will read them.
        rows: Queries, each with the texts of its positives and negatives; only those of the sample are read.
        share: Fraction of the texts that should not be truncated, from 0 to 1.
        sample: Number of rows to measure, evenly spaced.
        context: Most tokens; None for `context_length`.

    Returns:
        Tokens of a query, and of a document.

    Raises:
        InputError: There are no rows or no documents in them, or the share is out of range.
    """
    chosen = every_nth(rows, sample)
    most = context_length(model) if context is None else context
    queries = token_lengths(model, [query for query, _ in chosen], "query")
    documents = token_lengths(model, [text for _, texts in chosen for text in texts], "document")
    return (
        min(most, max(_SHORTEST_QUERY, percentile(queries, share))),
        min(most, max(_SHORTEST_DOCUMENT, percentile(documents, share))),
    )


def measure_lengths(
    model: Retriever, examples: Iterable[TrainingExample], *, common: Sequence[int] = COMMON_LENGTHS
) -> LengthReport:
    """Count the tokens of training examples, and how many texts each limit would truncate.

    Args:
        model: The model that would read them.
        examples: At least one.
        common: Limits to try in addition to the model's own.

    Returns:
        The report.

    Raises:
        InputError: There are no examples, or the model cannot count tokens.
    """
    queries: list[int] = []
    positives: list[int] = []
    negatives: list[int] = []
    batch: list[TrainingExample] = []

    def count() -> None:
        queries.extend(token_lengths(model, [one.query.text for one in batch], "query"))
        positives.extend(token_lengths(model, [item.text for one in batch for item in one.positives], "document"))
        negatives.extend(token_lengths(model, [item.text for one in batch for item in one.negatives], "document"))
        batch.clear()

    for example in examples:
        batch.append(example)
        if len(batch) == _AT_ONCE:
            count()
    count()
    if not queries:
        raise InputError("there are no examples to measure")
    limits = model.max_length
    return LengthReport(
        query=_summary(queries, limits["query"], common),
        positive=_summary(positives, limits["document"], common),
        negative=_summary(negatives, limits["document"], common) if negatives else None,
        context=context_length(model),
    )


def _summary(lengths: list[int], limit: int | None, common: Sequence[int]) -> Lengths:
    limits = sorted({*common, *(() if limit is None else (limit,))})
    names = ["max" if share == 1 else f"p{share * 100:g}" for share in PERCENTILES]
    return Lengths(
        texts=len(lengths),
        percentiles={name: percentile(lengths, share) for name, share in zip(names, PERCENTILES, strict=True)},
        limit=limit,
        cut={one: sum(length > one for length in lengths) for one in limits},
    )
