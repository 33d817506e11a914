"""OpenAI's `/v1/embeddings` and `/v1/models`, and the `/v1/multi-vector` of Jina AI for models of token vectors."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import numpy as np
from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field
from pydantic_core import to_json

from hyperseek.errors import InputError, UnknownNameError, shown
from hyperseek.models.retriever import Side
from hyperseek.serve._limits import Problem, Refused, ServeSettings, routes
from hyperseek.serve._search import Body, TheShelf, plain_options
from hyperseek.serve._shelf import ServedModel, Shelf
from hyperseek.serve._vectors import check_tokens, plain_vectors, similarity, token_vectors, vector_size
from hyperseek.types import QueryOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STARTED = int(time.time())  # what clients are told as the time of models

_KINDS = {401: ("invalid_request_error", "invalid_api_key"), 429: ("requests", "rate_limit_exceeded")}


def openai_shape(problem: Problem) -> tuple[int, Mapping[str, Any]]:
    """Return status and body of an error as OpenAI publishes them: what is wrong with a body has status 400."""
    kind, code = _KINDS.get(
        problem.status, ("server_error" if problem.status >= 500 else "invalid_request_error", None)
    )
    if problem.kind == UnknownNameError.__name__:
        code = "model_not_found"
    status = 400 if problem.status == 422 else problem.status
    return status, {"error": {"message": problem.message, "type": kind, "param": problem.field, "code": code}}


router = APIRouter(route_class=routes(openai_shape))

_SIDES: dict[str, Side] = {
    "query": "query",
    "search_query": "query",
    "retrieval.query": "query",
    "document": "document",
    "passage": "document",
    "search_document": "document",
    "retrieval.passage": "document",
}


def _side_of(name: Any) -> Side:
    """Return the side that a name stands for; ValueError for another name."""
    if name is None:
        return "document"
    if not isinstance(name, str) or name not in _SIDES:
        raise ValueError(f"must be 'query' or 'document', not {shown(name)}; {', '.join(_SIDES)} are understood too")
    return _SIDES[name]


AskedSide = Annotated[Side, BeforeValidator(_side_of)]
"""The side of texts under its names in other APIs too; null stands for documents."""


def _texts(given: Any) -> list[Any]:
    """Return the texts of an `input`: a text, or a list of texts, or of objects with one."""
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list):
        raise ValueError("must be a text or a list of texts")
    if any(isinstance(part, int | list) for part in given):
        raise ValueError(
            "must be a text or a list of texts; token ids are not read, since they are of another model's vocabulary. "
            "Send the texts: with LangChain's OpenAIEmbeddings by check_embedding_ctx_length=False"
        )
    texts = [part["text"] if isinstance(part, dict) and part.keys() == {"text"} else part for part in given]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("must be a text or a list of texts")
    return texts


def _not_empty(texts: list[str]) -> list[str]:
    if not texts:
        raise ValueError("is an empty list; give at least one text")
    if not all(texts):
        raise ValueError(f"holds an empty text at place {texts.index('')}; every text needs a character")
    return texts


Texts = Annotated[list[str], BeforeValidator(_texts)]
"""Texts, given as one or as a list."""


# What Jina AI names otherwise than others do.
_Format: TypeAlias = Annotated[
    Literal["float", "base64"] | None, Field(validation_alias=AliasChoices("encoding_format", "embedding_type"))
]
_InputType: TypeAlias = Annotated[AskedSide, Field(validation_alias=AliasChoices("input_type", "task"))]


class EmbeddingsBody(Body):
    """A request for vectors, as OpenAI publishes it, with fields of ours: `input_type`, `level` and `options`."""

    model: str
    input: Annotated[Texts, AfterValidator(_not_empty)]
    encoding_format: _Format = None
    dimensions: int | None = Field(default=None, ge=1)
    user: str | None = None
    input_type: _InputType = "document"
    level: int | None = None
    options: dict[str, Any] = Field(default_factory=dict)


class MultiVectorBody(Body):
    """A request for the vectors of tokens, as Jina AI publishes it."""

    model: str
    input: Annotated[Texts, AfterValidator(_not_empty)]
    input_type: _InputType = "document"
    encoding_format: _Format = None
    dimensions: int | None = Field(default=None, ge=1)


@router.post("/v1/embeddings")
async def embeddings(body: EmbeddingsBody, shelf: TheShelf) -> Response:
    """Return a vector for each text."""
    model = shelf.model(body.model)
    check_number(body.input, shelf.settings, "input")
    options = checked_options(model, body.options)
    if options and body.input_type == "document":
        raise Refused(400, "options are of queries; leave them out, or give input_type 'query'", field="options")
    vectors, tokens = await plain_vectors(
        model, body.input, body.input_type, dimension=body.dimensions, level=body.level, options=options
    )
    spelt = _SPELT[body.encoding_format or "float"]
    return await json_response(
        lambda: {
            "object": "list",
            "data": [
                {"object": "embedding", "index": place, "embedding": spelt(vector)}
                for place, vector in enumerate(vectors)
            ],
            "model": body.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


@router.post("/v1/multi-vector")
async def multi_vector(body: MultiVectorBody, shelf: TheShelf) -> Response:
    """Return a vector for each token of each text."""
    model = shelf.model(body.model)
    check_number(body.input, shelf.settings, "input")
    space = model.retriever.space
    if not space.ragged:
        raise Refused(400, "this model has one vector for a text; ask /v1/embeddings for it", "NoVectors")
    if body.dimensions not in (None, space.dimension):
        raise Refused(400, f"the token vectors of this model have {space.dimension} dimensions", field="dimensions")
    check_tokens(model, body.input, body.input_type)
    found, tokens = await token_vectors(model, body.input, body.input_type)
    spelt = _SPELT[body.encoding_format or "float"]
    return await json_response(
        lambda: {
            "object": "list",
            "data": [
                {"object": "embeddings", "index": place, "embeddings": [spelt(vector) for vector in vectors]}
                for place, vectors in enumerate(found)
            ],
            "model": body.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


@router.get("/v1/models")
async def models(shelf: TheShelf) -> dict[str, Any]:
    """List the models, and the names of indexes, which stand for their models."""
    return {"object": "list", "data": [_described(name, shelf) for name in shelf.models]}


@router.get("/v1/models/{name:path}")
async def model(name: str, shelf: TheShelf) -> dict[str, Any]:
    """Describe one model."""
    return _described(name, shelf)


def _described(name: str, shelf: Shelf) -> dict[str, Any]:
    """Describe a model: OpenAI's fields, then ours."""
    retriever = shelf.model(name).retriever
    space = retriever.space
    return {
        "id": name,
        "object": "model",
        "created": _STARTED,
        "owned_by": "hyperseek",
        "dimensions": vector_size(retriever),
        "similarity": similarity(retriever),
        "levels": space.levels,
        "max_length": retriever.max_length,
    }


def check_number(texts: Sequence[str], settings: ServeSettings, field: str) -> None:
    """Raise InputError if there are more texts than a request may have."""
    if len(texts) > settings.most_texts:
        most = f"a request may have {settings.most_texts:,}"
        raise Refused(400, f"there are {len(texts):,} texts, and {most}; send several requests", field=field)


def checked_options(model: ServedModel, given: Mapping[str, Any]) -> QueryOptions:
    """Return options of queries as the model understands them; Refused where it does not."""
    try:
        return model.retriever.check_options(plain_options(given))
    except InputError as error:  # also of an unknown name, whose status would be that of an unknown model
        raise Refused(400, str(error), field="options") from None


async def json_response(make: Callable[[], Any]) -> Response:
    """Return plain values and arrays as JSON, both made in a thread: millions of numbers take a second."""

    def text() -> bytes:
        # An array is made a list when it is written: as objects, its numbers take eight times the memory.
        return to_json(make(), fallback=lambda array: array.tolist())

    return Response(await asyncio.to_thread(text), media_type="application/json")


def _as_it_is(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return vector


def _as_base64(vector: NDArray[np.float32]) -> str:
    return base64.b64encode(np.ascontiguousarray(vector, "<f4").tobytes()).decode()


_SPELT: dict[str, Callable[[NDArray[np.float32]], Any]] = {"float": _as_it_is, "base64": _as_base64}
