"""Reranking as Cohere (versions 1 and 2), Jina AI and text-embeddings-inference publish it.

All three have a `/rerank`; a request of text-embeddings-inference is known by its `texts`, where the others have
`documents`.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import Field, ValidationError

from hyperseek.errors import shown
from hyperseek.serve._limits import Problem, Refused, routes
from hyperseek.serve._openai import check_number, checked_options, json_response
from hyperseek.serve._search import Body, TheShelf
from hyperseek.serve._shelf import ServedModel, Shelf
from hyperseek.serve._tei import TeiBody, check_batch, check_length, tei_shape
from hyperseek.serve._vectors import Counted, token_counts

if TYPE_CHECKING:
    from hyperseek.models import Retriever
    from hyperseek.types import QueryOptions


def cohere_shape(problem: Problem) -> tuple[int, Mapping[str, Any]]:
    """Return status and body of an error for clients of Cohere, which read `message`, and of Jina: `detail`."""
    status = 400 if problem.status == 422 else problem.status
    return status, {"message": problem.message, "detail": problem.message}


def either_shape(problem: Problem) -> tuple[int, Mapping[str, Any]]:
    """Return status and body of an error where it is not known yet whose client it is."""
    status, body = cohere_shape(problem)
    return status, {**body, **tei_shape(problem)[1]}


router = APIRouter(route_class=routes(cohere_shape))
plain = APIRouter(route_class=routes(either_shape))


class RerankBody(Body):
    """A request of Cohere's or Jina's clients.

    What has no meaning for our models is read, and named in the warnings of the answer. `options` is a field of ours.
    """

    model: str | None = None
    query: str | dict[str, Any]
    documents: list[str | dict[str, Any]] = Field(min_length=1)
    top_n: int | None = Field(default=None, ge=1)
    return_documents: bool = False
    rank_fields: list[str] | None = Field(default=None, min_length=1)
    max_chunks_per_doc: int | None = None
    max_tokens_per_doc: int | None = None
    relevant_spans: dict[str, Any] | None = None
    priority: int | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    truncation: Literal[True] | None = None


class TeiRerankBody(TeiBody):
    """A request of clients of text-embeddings-inference, with the field `options` of ours."""

    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False
    options: dict[str, Any] = Field(default_factory=dict)


@router.post("/v1/rerank")
@router.post("/v2/rerank")
async def rerank(body: RerankBody, shelf: TheShelf, request: Request) -> Response:
    """Sort documents by their relevance to a query, the best first."""
    model = shelf.model(body.model)
    check_number([""] * len(body.documents), shelf.settings, "documents")
    query = _text(body.query, None, "query")
    if not query.strip():
        raise Refused(400, "query is blank; give it a text", field="query")
    texts = [_text(one, body.rank_fields, f"documents.{place}") for place, one in enumerate(body.documents)]
    ranked, tokens = await scores(model, query, texts, checked_options(model, body.options))
    results = []
    for place, score in ranked[: body.top_n]:
        result: dict[str, Any] = {"index": place, "relevance_score": score}
        if body.return_documents:
            given = body.documents[place]
            result["document"] = {"text": given} if isinstance(given, str) else {"text": texts[place], **given}
        results.append(result)
    version = "1" if request.url.path != "/v2/rerank" else "2"
    meta: dict[str, Any] = {"api_version": {"version": version}, "tokens": {"input_tokens": tokens, "output_tokens": 0}}
    if warnings := _warnings(body):
        meta["warnings"] = warnings
    answer = {
        "id": str(uuid.uuid4()),
        "model": body.model or model.name,
        "results": results,
        "meta": meta,
        "usage": {"total_tokens": tokens, "prompt_tokens": tokens},
    }
    return await json_response(lambda: answer)


@plain.post("/rerank")
async def rerank_either(body: dict[str, Any], shelf: TheShelf, request: Request) -> Response:
    """Sort texts by their relevance to a query, in the form of the request."""
    if "texts" in body and "documents" not in body:
        request.state.shape = tei_shape
        return await rerank_tei(_validated(TeiRerankBody, body), shelf)
    if "documents" not in body:
        raise Refused(422, "give documents, as Cohere and Jina publish it, or texts, as text-embeddings-inference does")
    request.state.shape = cohere_shape
    return await rerank(_validated(RerankBody, body), shelf, request)


async def rerank_tei(body: TeiRerankBody, shelf: Shelf) -> Response:
    """Sort texts by their relevance to a query, the best first."""
    model = shelf.model(body.model)
    check_batch(body.texts, shelf.settings, "texts")
    await check_length(model, [body.query], "query", body)
    await check_length(model, body.texts, "document", body)
    ranked, _ = await scores(model, body.query, body.texts, checked_options(model, body.options))
    results = []
    for place, score in ranked:
        result: dict[str, Any] = {"index": place}
        if body.return_text:
            result["text"] = body.texts[place]
        results.append({**result, "score": score if body.raw_scores else _logistic(score)})
    return await json_response(lambda: results)


async def scores(
    model: ServedModel, query: str, texts: list[str], options: QueryOptions
) -> tuple[list[tuple[int, float]], int]:
    """Score texts by a query.

    Args:
        model: A model of any family.
        query: The query.
        texts: At least one.
        options: Of the query.

    Returns:
        Place and score of each text, the highest score first and of equal ones the earlier text; and how many tokens
        were read, where each text is read with the query as others' rerankers do.
    """
    found: list[Counted] = await model.each(
        _Score(model.dtype, options), texts, items=[(query, text) for text in texts]
    )
    ranked = sorted(enumerate(one.made for one in found), key=lambda pair: (-pair[1], pair[0]))
    return ranked, sum(one.tokens for one in found)


@dataclass(frozen=True, slots=True)
class _Score:
    """Scores pairs of a query and a text; for `ServedModel.each`."""

    dtype: str
    options: QueryOptions

    def __call__(self, retriever: Retriever, pairs: list[tuple[str, str]]) -> list[Counted]:
        queries, texts = (list(dict.fromkeys(pair[side] for pair in pairs)) for side in (0, 1))
        points = retriever.encode_documents(texts, dtype=self.dtype)
        row_of = {text: row for row, text in enumerate(texts)}
        scores: dict[tuple[str, str], float] = {}
        unscored = iter(queries)
        for compiled in retriever.compile_batches(queries, self.options):
            for place in range(len(compiled)):
                scorer, query = compiled[place : place + 1], next(unscored)
                own = list(dict.fromkeys(text for asked, text in pairs if asked == query))
                chosen = points[torch.tensor([row_of[text] for text in own])].to(scorer.device)
                scores |= zip(((query, text) for text in own), scorer.score(chosen)[0].tolist(), strict=True)
        asked = dict(zip(queries, token_counts(retriever, queries, "query"), strict=True))
        read = dict(zip(texts, token_counts(retriever, texts, "document"), strict=True))
        return [Counted(scores[pair], asked[pair[0]] + read[pair[1]]) for pair in pairs]


def _text(given: str | dict[str, Any], fields: list[str] | None, place: str) -> str:
    """Return the text of a document: itself, its `text`, or the values of fields, in the order of the fields."""
    if isinstance(given, str):
        return given
    wanted = fields or ["text"]
    found = [given[name] for name in wanted if given.get(name) is not None]
    if not found or not all(isinstance(value, str | int | float) for value in found):
        raise Refused(400, f"{place} needs a text in {' or '.join(map(repr, wanted))}, not {shown(given)}", field=place)
    return " ".join(map(str, found))


def _warnings(body: RerankBody) -> list[str]:
    said = []
    for name in ("max_chunks_per_doc", "max_tokens_per_doc"):
        if getattr(body, name) is not None:
            said.append(f"{name} has no effect: each document is read once, up to the length that the model reads")
    if body.relevant_spans is not None and body.relevant_spans.get("mode") != "disabled":
        said.append("relevant_spans has no effect: this server gives none")
    if body.priority:
        said.append("priority has no effect: requests are answered in the order of their arrival")
    return said


def _logistic(score: float) -> float:
    return 1 / (1 + math.exp(-score)) if score >= 0 else (power := math.exp(max(score, -700.0))) / (1 + power)


Kind = TypeVar("Kind", bound=Body)


def _validated(kind: type[Kind], values: dict[str, Any]) -> Kind:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None
