"""What answers and judgements took: requests, tokens, seconds, and their cost by the caller's prices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from hyperseek._config import Config

Prices = tuple[float, float]
"""Of a million tokens of prompts, and of answers."""


class Usage(Config):
    """What answers or judgements took, those of earlier runs included.

    Attributes:
        answers: Number of answers, or of judgements, each of which may take several requests.
        prompt_tokens: Of all prompts; None if they are not counted.
        completion_tokens: Of all answers; None if they are not counted.
        seconds: Summed over answers or judgements, of which several may run at a time.
        cost: By the caller's prices; None without prices.
    """

    answers: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float = 0.0
    cost: float | None = None


def usage_of(lines: Sequence[Mapping[str, Any]], prices: Prices | None) -> Usage:
    """Sum up lines with `prompt_tokens`, `completion_tokens` and `seconds`; tokens that one lacks have no sum."""
    asked, said = _total(lines, "prompt_tokens"), _total(lines, "completion_tokens")
    cost = None
    if prices is not None and asked is not None and said is not None:
        cost = (asked * prices[0] + said * prices[1]) / 1e6
    seconds = round(math.fsum(second for line in lines if isinstance(second := line.get("seconds"), int | float)), 3)
    return Usage(answers=len(lines), prompt_tokens=asked, completion_tokens=said, seconds=seconds, cost=cost)


def token_count(value: object) -> int | None:
    """Return a number of tokens as an endpoint states it, or None if it is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _total(lines: Sequence[Mapping[str, Any]], name: str) -> int | None:
    counts = [token_count(line.get(name)) for line in lines]
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None


@dataclass(slots=True)
class Spent:
    """Tokens of the requests of one judgement; None as soon as a request does not state them."""

    requests: int = 0
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0

    def add(self, prompt_tokens: int | None, completion_tokens: int | None) -> None:
        """Add those of one request."""
        self.requests += 1
        self.prompt_tokens = _sum(self.prompt_tokens, prompt_tokens)
        self.completion_tokens = _sum(self.completion_tokens, completion_tokens)

    def to_line(self) -> dict[str, int]:
        """Return what is known, for a line of what is kept."""
        if not self.requests:
            return {}
        known = {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens}
        return {"requests": self.requests, **{name: count for name, count in known.items() if count is not None}}


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


SPENT: ContextVar[Spent | None] = ContextVar("spent", default=None)
"""What the judgement that runs has spent so far."""


def note_judge_tokens(prompt_tokens: int | None, completion_tokens: int | None) -> None:
    """Note the tokens of a request that a judge makes, called within its `judge`.

    Args:
        prompt_tokens: Of the prompt; None if unknown.
        completion_tokens: Of the answer; None if unknown.
    """
    spent = SPENT.get()
    if spent is not None:
        spent.add(token_count(prompt_tokens), token_count(completion_tokens))
