"""Judged measures: what a judge says of samples, with every value that is missing, and why.

A judge that gives no number (NaN) or fails is counted and shown, never left out in silence: a mean over the rest alone
may flatter a system.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from pydantic import Field

from hyperseek._config import Config
from hyperseek._fingerprint import fingerprint_json
from hyperseek._long_work import POLL, progress, stop_here, stoppable
from hyperseek.errors import HyperseekError, InputError, UnknownNameError, brief
from hyperseek.evaluation.rag._kept import Kept
from hyperseek.evaluation.rag._samples import RagSample
from hyperseek.evaluation.rag._usage import SPENT, Prices, Spent, Usage, usage_of

JUDGED_MEASURES = {
    "faithfulness": ("response", "retrieved_contexts"),
    "context_relevance": ("retrieved_contexts",),
    "context_recall": ("retrieved_contexts", "reference"),
    "context_precision": ("retrieved_contexts", "reference"),
    "answer_relevancy": ("response",),
}
"""The judged measures, and the fields of a sample that each reads besides the question."""


class NoNumberError(Exception):
    """A judge gives no number for a sample; the message says why."""


class JudgeError(Exception):
    """A judgement failed; the message is the whole reason."""


class Judge(Protocol):
    """What judges samples.

    Attributes:
        name: Its name in records.
        fingerprint: Changes with its judgements.
        measures: Names of what it judges, of `JUDGED_MEASURES`.
        at_once: Judgements that it makes at a time.
    """

    name: str
    fingerprint: str
    measures: tuple[str, ...]
    at_once: int

    async def judge(self, measure: str, fields: Mapping[str, Any]) -> float:
        """Return a number in [0, 1] or NaN for a sample's fields under ragas' names.

        Any exception is a failure of this judgement alone, with its message as the reason, except errors of this
        library, which end the work. It may tell what its requests cost by `note_judge_tokens`.
        """
        ...


class Judged(Config):
    """What a judge said of the samples of one system.

    Attributes:
        values: Numbers by measure and question.
        nan: Reasons by measure and question where the judge gave no number.
        failed: Reasons by measure and question where it failed.
        unasked: By measure, the number of questions that lack a field it reads.
        usage: What the judgements took, with those that failed.
    """

    values: dict[str, dict[str, float]] = Field(default_factory=dict)
    nan: dict[str, dict[str, str]] = Field(default_factory=dict)
    failed: dict[str, dict[str, str]] = Field(default_factory=dict)
    unasked: dict[str, int] = Field(default_factory=dict)
    usage: Usage | None = None


def check_judged(names: Sequence[str]) -> tuple[str, ...]:
    """Return names of judged measures, each once; UnknownNameError for others."""
    for name in names:
        if name not in JUDGED_MEASURES:
            raise UnknownNameError("judged measure", name, JUDGED_MEASURES)
    if not names:
        raise InputError(f"a judge needs a measure; give one or more of {', '.join(JUDGED_MEASURES)}")
    return tuple(dict.fromkeys(names))


def judge_samples(
    samples: Sequence[RagSample], judge: Judge, kept: Kept, *, again: bool = False, prices: Prices | None = None
) -> Judged:
    """Judge samples by all measures of a judge.

    Args:
        samples: With contexts, and responses where a measure reads them.
        judge: The judge.
        kept: Earlier judgements, failed ones too, and where new ones go.
        again: Whether failed judgements are asked for again.
        prices: Of a million tokens of the judge's prompts, and of its answers.

    Returns:
        Its judgements.

    Raises:
        HyperseekError: The judge fails altogether; judgements so far are kept.
    """
    jobs: dict[str, tuple[str, str, dict[str, Any]]] = {}
    places: list[tuple[str, str, str]] = []
    unasked = dict.fromkeys(judge.measures, 0)
    for measure in judge.measures:
        for sample in samples:
            fields = _fields(measure, sample)
            if fields is None:
                unasked[measure] += 1
                continue
            key = fingerprint_json([judge.fingerprint, measure, fields])
            places.append((measure, sample.id, key))
            jobs[key] = (measure, sample.id, fields)
    waiting = {key: job for key, job in jobs.items() if _is_open(kept.get(key), again)}
    with (
        stoppable(lambda: "the judgements so far are kept; run the same command again to go on"),
        progress("judging", len(jobs), unit="judgements", done=len(jobs) - len(waiting)) as bar,
    ):
        if waiting:
            _run(_judge_all(judge, waiting, kept, bar.advance))
    found: dict[str, dict[str, dict[str, Any]]] = {"value": {}, "nan": {}, "failed": {}}
    for kind in found:
        found[kind] = {measure: {} for measure in judge.measures}
    for measure, identity, key in places:
        line = kept.get(key) or {}
        kind = next((name for name in ("nan", "failed") if name in line), "value")
        found[kind][measure][identity] = line[kind]
    lines = [said for _, _, key in places if (said := kept.get(key)) is not None]
    return Judged(
        values=found["value"], nan=found["nan"], failed=found["failed"], unasked=unasked, usage=usage_of(lines, prices)
    )


def is_judgement(line: Mapping[str, Any]) -> bool:
    """Return whether a line that was kept is a judgement."""
    if "value" in line:
        value = line["value"]
        return isinstance(value, int | float) and not isinstance(value, bool)
    return any(isinstance(line.get(name), str) for name in ("nan", "failed"))


def _fields(measure: str, sample: RagSample) -> dict[str, Any] | None:
    """Return what a measure reads of a sample, or None if something is missing."""
    given = sample.to_ragas()
    fields = {name: given.get(name) for name in ("user_input", *JUDGED_MEASURES[measure])}
    return fields if all(fields.values()) else None


def _is_open(line: Mapping[str, Any] | None, again: bool) -> bool:
    return line is None or (again and "value" not in line)


async def _judge_all(
    judge: Judge, jobs: Mapping[str, tuple[str, str, dict[str, Any]]], kept: Kept, advance: Any
) -> None:
    gate = asyncio.Semaphore(judge.at_once)

    async def one(key: str, measure: str, identity: str, fields: Mapping[str, Any]) -> None:
        async with gate:
            stop_here()
            line: dict[str, Any] = {"id": identity, "judge": judge.name, "measure": measure}
            start, spent = time.perf_counter(), Spent()
            SPENT.set(spent)
            try:
                value = float(await judge.judge(measure, fields))
                line |= {"value": value} if math.isfinite(value) else {"nan": "the judge gave no number"}
            except HyperseekError:
                raise
            except NoNumberError as error:
                line["nan"] = brief(error)
            except JudgeError as error:
                line["failed"] = brief(error)
            except Exception as error:
                line["failed"] = f"{type(error).__name__}: {brief(error)}"
            line |= {"seconds": round(time.perf_counter() - start, 3), **spent.to_line()}
            kept.put(key, _with_earlier(line, kept.get(key)))
            advance()

    tasks = [asyncio.ensure_future(one(key, *job)) for key, job in jobs.items()]
    waiting: set[asyncio.Future[None]] = set(tasks)
    try:
        while waiting:
            stop_here()  # also while all judgements wait for an endpoint that hangs
            done, waiting = await asyncio.wait(waiting, timeout=POLL, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _with_earlier(line: dict[str, Any], earlier: Mapping[str, Any] | None) -> dict[str, Any]:
    """Add what an earlier attempt, which failed, has spent."""
    if earlier is not None:
        for name in ("seconds", "requests", "prompt_tokens", "completion_tokens"):
            if isinstance(earlier.get(name), int | float):
                line[name] = line.get(name, 0) + earlier[name]
    return line


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end, also where a loop runs in this thread already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()
