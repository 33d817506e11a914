"""Answers to the questions of samples: generated, kept on disk, and counted."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from hyperseek._config import Config
from hyperseek._fingerprint import fingerprint_json
from hyperseek._long_work import progress, stop_here, stoppable
from hyperseek.evaluation.rag._generators import Generator
from hyperseek.evaluation.rag._kept import Kept
from hyperseek.evaluation.rag._samples import RagSample
from hyperseek.mining.http_endpoint import RefusedError

logger = logging.getLogger(__name__)


class Usage(Config):
    """What answers took, those of earlier runs included.

    Attributes:
        answers: Number of answers.
        prompt_tokens: Of all prompts; None if the generator does not count them.
        completion_tokens: Of all answers; None if the generator does not count them.
        seconds: That the generator took, summed over requests.
        cost: By the caller's prices; None without prices.
    """

    answers: int = 0
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float = 0.0
    cost: float | None = None


def answer_samples(
    samples: Sequence[RagSample],
    generator: Generator,
    kept: Kept,
    *,
    prices: tuple[float, float] | None = None,
) -> tuple[list[RagSample], dict[str, str], Usage]:
    """Answer the questions of samples from their contexts.

    Args:
        samples: With contexts; responses that they have are replaced.
        generator: What answers.
        kept: Earlier answers, and where new ones go.
        prices: Of a million tokens of prompts, and of answers.

    Returns:
        The samples with responses, reasons by id where there is none, and what it took.

    Raises:
        ModelError: The generator fails altogether; answers so far are kept.
    """
    who = generator.fingerprint
    prompts = {one.id: generator.options.filled(one.user_input, one.retrieved_contexts) for one in samples}
    keys = {identity: fingerprint_json([who, prompt]) for identity, prompt in prompts.items()}
    waiting = {key: identity for identity, key in keys.items() if kept.get(key) is None}
    done = len(prompts) - len(waiting)
    refused: dict[str, str] = {}

    def answer(identity: str) -> None:
        start = time.perf_counter()
        try:
            given = generator.generate(prompts[identity])
        except RefusedError as error:
            refused[keys[identity]] = str(error)
            return
        kept.put(
            keys[identity],
            {
                "id": identity,
                "generator": generator.name,
                "prompt": prompts[identity],
                "response": given.text,
                "prompt_tokens": given.prompt_tokens,
                "completion_tokens": given.completion_tokens,
                "seconds": round(time.perf_counter() - start, 3),
            },
        )

    if waiting:
        logger.info("%s answers %s questions, %s were answered before", generator.name, len(waiting), done)
    with (
        stoppable(lambda: "the answers so far are kept; run the same command again to go on"),
        progress("answering", len(prompts), unit="questions", done=done) as bar,
        ThreadPoolExecutor(generator.at_once) as pool,
    ):
        running = [pool.submit(answer, identity) for identity in waiting.values()]
        try:
            for one in as_completed(running):
                one.result()
                bar.advance()
                stop_here()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    answered, faults = [], {}
    for sample in samples:
        line = kept.get(keys[sample.id])
        if line is None:
            faults[sample.id] = refused[keys[sample.id]]
        answered.append(sample.model_copy(update={"response": None if line is None else str(line["response"])}))
    return answered, faults, _usage([line for key in keys.values() if (line := kept.get(key)) is not None], prices)


def _usage(lines: Sequence[Mapping[str, Any]], prices: tuple[float, float] | None) -> Usage:
    asked, said = _total(lines, "prompt_tokens"), _total(lines, "completion_tokens")
    cost = None
    if prices is not None and asked is not None and said is not None:
        cost = (asked * prices[0] + said * prices[1]) / 1e6
    seconds = round(sum(line["seconds"] for line in lines), 3)
    return Usage(answers=len(lines), prompt_tokens=asked, completion_tokens=said, seconds=seconds, cost=cost)


def _total(lines: Sequence[Mapping[str, Any]], name: str) -> int | None:
    counts = [line.get(name) for line in lines]
    known = [count for count in counts if isinstance(count, int)]
    return sum(known) if known and len(known) == len(counts) else None
