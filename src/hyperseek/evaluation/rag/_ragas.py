"""The judge of ragas: a language model behind an OpenAI-compatible endpoint, asked by ragas' own prompts."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hyperseek._fingerprint import fingerprint_json
from hyperseek._machine import installed_versions
from hyperseek.errors import InputError, ModelError, brief, require, shown
from hyperseek.evaluation.rag._judging import JUDGED_MEASURES, JudgeError, NoNumberError, check_judged
from hyperseek.evaluation.rag._usage import note_judge_tokens
from hyperseek.mining.http_endpoint import check_address

if TYPE_CHECKING:
    from hyperseek.models import Retriever

JUDGE_KEY_VARIABLE = "HYPERSEEK_JUDGE_KEY"

_CLASSES = {
    "faithfulness": "Faithfulness",
    "context_relevance": "ContextRelevance",
    "context_recall": "ContextRecall",
    "context_precision": "ContextPrecision",
    "answer_relevancy": "AnswerRelevancy",
}
# Errors of the client of which the next judgement would have the same; by name, since `openai` is optional.
_FATAL = {
    "APIConnectionError": "cannot be reached",
    "APITimeoutError": "does not answer in time",
    "AuthenticationError": "refuses the key",
    "PermissionDeniedError": "refuses the key",
    "NotFoundError": "does not know the model or the address",
    "RateLimitError": "is asked too often",
    "InternalServerError": "fails",
    "APIStatusError": "cannot be used there; redirects are not followed",
}

_troubles: ContextVar[list[Exception]] = ContextVar("troubles")

logger = logging.getLogger(__name__)


class RagasJudge:
    """Judges by `ragas.metrics.collections` of ragas 0.4.

    Its calls of the model go to `url` alone; ragas' own reports to its makers are switched off.

    Args:
        model: The judging model's name at the endpoint; better not the generator.
        url: An OpenAI-compatible endpoint, as in `http://localhost:8000/v1`.
        key: Sent as a bearer token; None sends the word `none`, since the client wants one.
        measures: Names of `JUDGED_MEASURES`; None for all.
        embeddings: A model of ours that compares questions, for `answer_relevancy` only.
        max_tokens: Most tokens of one answer of the judge.
        timeout: Seconds to wait for an answer.
        retries: Further attempts after a busy server or a lost connection.
        at_once: Judgements at a time.

    Raises:
        MissingExtraError: ragas is not installed.
        UnknownNameError: There is no such measure.
        InputError: The address cannot be used, or `answer_relevancy` has no embeddings.
    """

    def __init__(
        self,
        model: str,
        *,
        url: str,
        key: str | None = None,
        measures: Sequence[str] | None = None,
        embeddings: Retriever | None = None,
        max_tokens: int = 2048,
        timeout: float = 1200.0,
        retries: int = 5,
        at_once: int = 4,
    ) -> None:
        self.measures = check_judged([*JUDGED_MEASURES] if measures is None else measures)
        if "answer_relevancy" in self.measures and embeddings is None:
            raise InputError("answer_relevancy compares questions by a model; give embeddings=, as load('minilm')")
        if at_once < 1 or max_tokens < 1 or timeout <= 0 or retries < 0:
            raise InputError(
                f"a judge needs at_once and max_tokens of 1 or more, a timeout above 0 and retries of 0 or more, not "
                f"{at_once}, {max_tokens}, {timeout} and {retries}"
            )
        self.name, self.at_once = model, at_once
        self._url = check_address(url, key)
        self._key = key
        self._client = {"api_key": key or "none", "timeout": timeout, "max_retries": retries}
        self._max_tokens, self._embeddings = max_tokens, embeddings
        _ragas()
        compared = None if embeddings is None else embeddings.fingerprint
        versions = installed_versions(("ragas",))
        self.fingerprint = fingerprint_json([versions, self._url, model, max_tokens, compared])

    async def judge(self, measure: str, fields: Mapping[str, Any]) -> float:
        """Judge one sample.

        Args:
            measure: One of `measures`.
            fields: What the measure reads, under ragas' names.

        Returns:
            A number in [0, 1].

        Raises:
            NoNumberError: ragas returns NaN; the reason is that of the model's answers, if they could not be read.
            JudgeError: ragas fails.
            ModelError: The endpoint cannot be used at all.
        """
        troubles: list[Exception] = []
        _troubles.set(troubles)
        try:
            result = await self._metrics[measure].ascore(**fields)
        except Exception as error:
            self._check_fatal(error)
            raise JudgeError(self._safe(_reason(error))) from error
        for trouble in troubles:  # ContextRelevance makes NaN of every exception
            self._check_fatal(trouble)
        value = float(result.value)
        if math.isnan(value):
            raise NoNumberError(self._safe(_reason(troubles[-1])) if troubles else "ragas returns no number")
        return value

    @cached_property
    def _metrics(self) -> dict[str, Any]:
        collections, factory, openai = _ragas()
        # A redirect would carry the contexts, and perhaps the key, to another address.
        plain = openai.DefaultAsyncHttpxClient(follow_redirects=False, event_hooks={"response": [_note_tokens]})
        client = openai.AsyncOpenAI(base_url=self._url, http_client=plain, **self._client)
        model = factory(self.name, client=client, temperature=0.0, max_tokens=self._max_tokens)
        _remember_troubles(model)
        metrics = {}
        for name in self.measures:
            given: dict[str, Any] = {"llm": model}
            if name == "answer_relevancy":
                given["embeddings"] = _embeddings(self._embeddings)
            metrics[name] = getattr(collections, _CLASSES[name])(**given)
        return metrics

    def _check_fatal(self, error: Exception) -> None:
        for cause in _causes(error):
            if type(cause).__module__.split(".")[0] == "openai" and type(cause).__name__ in _FATAL:
                told = self._safe(brief(cause))
                raise ModelError(
                    f"the judge {self.name} at {self._url} {_FATAL[type(cause).__name__]} ({told}); judgements so far "
                    f"are kept, run the same command again to go on"
                ) from None  # the cause may hold the key

    def _safe(self, text: str) -> str:
        return text.replace(self._key, "(key)") if self._key else text


def _ragas() -> tuple[Any, Callable[..., Any], Any]:
    """Import ragas, without its reports to its makers."""
    os.environ.setdefault("RAGAS_DO_NOT_TRACK", "true")
    openai = require("openai", extra="rag")
    collections = require("ragas.metrics.collections", extra="rag")
    return collections, require("ragas.llms", extra="rag").llm_factory, openai


async def _note_tokens(response: Any) -> None:
    """Note the tokens of an answer of the endpoint, of which ragas keeps no account."""
    if response.status_code != 200:
        return
    await response.aread()
    try:
        usage = response.json()["usage"]
        note_judge_tokens(usage["prompt_tokens"], usage["completion_tokens"])
    except (ValueError, KeyError, TypeError):
        note_judge_tokens(None, None)


def _remember_troubles(model: Any) -> None:
    """Let a model of ragas note its exceptions, which some metrics swallow."""
    ask = model.agenerate

    async def agenerate(*arguments: Any, **options: Any) -> Any:
        try:
            return await ask(*arguments, **options)
        except Exception as error:
            _troubles.get([]).append(error)
            raise

    model.agenerate = agenerate


def _embeddings(model: Retriever | None) -> Any:
    """Return a model of ours behind ragas' interface of embeddings."""
    base = require("ragas.embeddings.base", extra="rag").BaseRagasEmbedding

    class Embeddings(base):  # type: ignore[misc, valid-type]
        def embed_text(self, text: str, **options: Any) -> list[float]:
            if model is None:
                raise InputError("answer_relevancy needs embeddings")
            vector: list[float] = model.encode_features([text])[0].tolist()
            return vector

        async def aembed_text(self, text: str, **options: Any) -> list[float]:
            return self.embed_text(text)

    return Embeddings()


def _reason(error: Exception) -> str:
    """Return why an answer could not be used, and its beginning: instructor's own exceptions hide both."""
    causes = [*_causes(error)]
    plain = [one for one in causes if type(one).__module__.split(".")[0] not in ("instructor", "tenacity")]
    reason = f"{type((plain or causes)[0]).__name__}: {brief((plain or causes)[0])}"
    for one in causes:
        try:
            said = one.last_completion.choices[0].message.content  # type: ignore[attr-defined]
        except (AttributeError, IndexError, TypeError):
            continue
        return f"{reason}; the judge said {shown(said)}"
    return reason


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, one.__context__]
