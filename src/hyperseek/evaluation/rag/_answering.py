"""Answers to the questions of samples: generated, kept on disk, and counted."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from hyperseek._fingerprint import fingerprint_json
from hyperseek._long_work import in_threads, progress, stoppable
from hyperseek.evaluation.rag._generators import Generator
from hyperseek.evaluation.rag._kept import Kept
from hyperseek.evaluation.rag._samples import RagSample
from hyperseek.evaluation.rag._usage import Prices, Usage, usage_of
from hyperseek.mining.http_endpoint import RefusedError

logger = logging.getLogger(__name__)


def answer_samples(
    samples: Sequence[RagSample],
    generator: Generator,
    kept: Kept,
    *,
    prices: Prices | None = None,
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
    ):
        for _ in in_threads(answer, list(waiting.values()), generator.at_once):
            bar.advance()
    answered, faults = [], {}
    for sample in samples:
        line = kept.get(keys[sample.id])
        if line is None:
            faults[sample.id] = refused[keys[sample.id]]
        answered.append(sample.model_copy(update={"response": None if line is None else str(line["response"])}))
    return answered, faults, usage_of([line for key in keys.values() if (line := kept.get(key)) is not None], prices)


def is_answer(line: Mapping[str, Any]) -> bool:
    """Return whether a line that was kept is an answer."""
    return isinstance(line.get("response"), str)
