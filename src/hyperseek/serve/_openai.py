"""OpenAI's `/v1/embeddings` and `/v1/models`, and the `/v1/multi-vector` of Jina AI for models of token vectors.

A plain vector is given where comparing it is what the model does: a point of a flat space, or the vector of a chart,
whose inner products rank as distances in a hyperbolic space do. Everything else is refused with the route to use.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import numpy as np
from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field
from pydantic_core import to_json

from hyperseek.errors import InputError, UnknownNameError, shown
from hyperseek.serve._limits import Problem, Refused, ServeSettings, routes
from hyperseek.serve._search import Body, TheShelf, plain_options
from hyperseek.serve._shelf import ServedModel, Shelf
from hyperseek.types import NO_OPTIONS, QueryOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hyperseek.models import Retriever
    from hyperseek.scoring import Points, Scorer

_STARTED = int(time.time())  # what clients are told as the time of models

_CHARACTERS = 4  # of a token, about
_MOST_NUMBERS = 1 << 23

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

Side: TypeAlias = Literal["query", "document"]

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


def similarity(retriever: Retriever) -> str:
    """Return the name of what compares a model's vectors: `cosine`, `dot`, `euclidean`, or `maxsim` for token vectors.

    Vectors of hyperbolic spaces are compared by `dot`, which ranks as their distance does.
    """
    space = retriever.space
    if space.ragged:
        return "maxsim"
    if space.unit_norm:
        return "cosine"
    return "euclidean" if is_flat(retriever) and not space.plain_product else "dot"


def is_flat(retriever: Retriever) -> bool:
    """Whether a model's stored points are its vectors, not the vectors of a chart."""
    space = retriever.space
    return not space.ragged and space.width == space.dimension


def vector_size(retriever: Retriever) -> int | None:
    """Return how many numbers a model's vectors have; None where it has none for a text, or that is not known."""
    space = retriever.space
    if is_flat(retriever):
        return space.dimension
    return space.dimension + 1 if space.hyperbolic else None


def check_number(texts: Sequence[str], settings: ServeSettings, field: str) -> None:
    """Raise InputError if there are more texts than a request may have."""
    if len(texts) > settings.most_texts:
        most = f"a request may have {settings.most_texts:,}"
        raise Refused(400, f"there are {len(texts):,} texts, and {most}; send several requests", field=field)


def check_tokens(model: ServedModel, texts: Sequence[str], side: Side) -> None:
    """Refuse texts whose token vectors are more numbers, as far as can be told, than one answer may hold."""
    retriever = model.retriever
    longest = retriever.max_length[side] or _MOST_NUMBERS
    width = retriever.space.dimension
    count = width * sum(min(longest, 1 + len(text) // _CHARACTERS) for text in texts)
    if count > _MOST_NUMBERS:
        message = f"the vectors of all tokens are about {count:,} numbers, and an answer may hold {_MOST_NUMBERS:,}"
        raise Refused(413, f"{message}; send fewer texts")


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


@dataclass(frozen=True, slots=True)
class Counted:
    """What a model makes of a text, and how many tokens it read.

    Attributes:
        made: What it makes.
        tokens: With the prompt and special tokens.
    """

    made: Any
    tokens: int


@dataclass(frozen=True, slots=True)
class _Vectors:
    """Makes the vectors of texts; for `ServedModel.each`.

    Attributes:
        side: Of the texts.
        dtype: In which documents are encoded.
        tokens: Whether those of tokens are wanted, `(t, d)` for each text, in place of one of the text, `(d,)`.
        dimension, level, options: As in `plain_vectors`.
    """

    side: Side
    dtype: str
    tokens: bool = False
    dimension: int | None = None
    level: int | None = None
    options: QueryOptions = NO_OPTIONS

    def __call__(self, retriever: Retriever, texts: list[str]) -> list[Counted]:
        made = self._of_documents(retriever, texts) if self.side == "document" else self._of_queries(retriever, texts)
        return list(map(Counted, made, token_counts(retriever, texts, self.side)))

    def _of_documents(self, retriever: Retriever, texts: list[str]) -> Iterable[NDArray[np.float32]]:
        points = retriever.encode_documents(texts, dtype=self.dtype)
        if not self.tokens:
            return _document_vectors(points, retriever, self.dimension, self.level)
        return [points[place : place + 1].rows.numpy() for place in range(len(points))]

    def _of_queries(self, retriever: Retriever, texts: list[str]) -> Iterable[NDArray[np.float32]]:
        # A batch at a time, since some models make millions of numbers of a query.
        for scorer in retriever.compile_batches(texts, self.options):
            if not self.tokens:
                yield from _query_vectors(scorer, retriever, self.dimension, self.level)
            elif (found := scorer.token_vectors()) is not None:
                for vectors, weights in zip(*found, strict=True):
                    yield vectors[weights > 0].float().cpu().numpy()


def token_counts(retriever: Retriever, texts: list[str], side: Side) -> list[int]:
    """Return how many tokens the model reads of each text, with its prompt and special tokens."""
    features = retriever.tokenize(texts, side)
    mask, ids = features.get("attention_mask"), features.get("input_ids")
    if mask is not None:
        counts: list[int] = mask.sum(dim=1).tolist()
        return counts
    if ids is not None and "offsets" in features:  # static embeddings: all tokens in a row
        starts = features["offsets"].tolist()
        return [end - start for start, end in zip(starts, [*starts[1:], len(ids)], strict=True)]
    return [0] * len(texts)


async def plain_vectors(
    model: ServedModel,
    texts: Sequence[str],
    side: Side,
    *,
    dimension: int | None = None,
    level: int | None = None,
    options: QueryOptions = NO_OPTIONS,
) -> tuple[NDArray[np.float32], int]:
    """Return a vector for each text.

    Args:
        model: The model.
        texts: At least one.
        side: `"query"` or `"document"`.
        dimension: To which the vectors are cut, where the model was trained for it; None for all numbers.
        level: Of a model with levels; None for the narrowest.
        options: Of queries.

    Returns:
        `(N, d)`, and how many tokens the model read.

    Raises:
        InputError: The model has no such vectors; the message names the route to use.
    """
    retriever = model.retriever
    space = retriever.space
    if space.ragged:
        raise Refused(
            400,
            "this model has a vector for each token and none for a text; ask /v1/multi-vector or /embed_all",
            "NoVectors",
        )
    if level is not None and not 1 <= level <= space.levels:
        raise Refused(400, f"level {level} is not one of this model's, which are 1 to {space.levels}", field="level")
    if dimension is not None:
        dimension = _checked_dimension(retriever, side, dimension)
    found = await model.each(_Vectors(side, model.dtype, dimension=dimension, level=level, options=options), texts)
    return np.stack([one.made for one in found]), sum(one.tokens for one in found)


def _checked_dimension(retriever: Retriever, side: Side, dimension: int) -> int | None:
    """Return a dimension to cut vectors to, None for no cut; Refused where the model was not trained for it."""
    from hyperseek.models.modules import shorter_dimensions

    whole = vector_size(retriever)
    if dimension == whole:
        return None
    known = shorter_dimensions(retriever.route(side)) if is_flat(retriever) else ()
    if dimension in known:
        return dimension
    if not known:
        allowed = f"only {whole}, since its first numbers alone were not trained to be a vector"
    elif len(known) + 1 == whole:
        allowed = f"1 to {whole}"
    else:
        allowed = ", ".join(map(str, (*known, whole)))
    raise Refused(400, f"this model gives no vectors of {dimension} dimensions; allowed: {allowed}", field="dimensions")


def _document_vectors(
    points: Points, retriever: Retriever, dimension: int | None, level: int | None
) -> NDArray[np.float32]:
    space, rows = retriever.space, points.rows
    if dimension is not None:
        rows = space.shorten(rows, dimension)
    elif not is_flat(retriever):
        rows = space.chart("inner_product", **_chart(space.levels, level)).lift_documents(points)
    return np.asarray(rows.float().cpu().numpy())


def _query_vectors(
    scorer: Scorer, retriever: Retriever, dimension: int | None, level: int | None
) -> NDArray[np.float32]:
    space = scorer.space
    if not is_flat(retriever):
        rows = scorer.at(level=level).lift(space.chart("inner_product", **_chart(space.levels, level)))
    else:
        if dimension is not None and scorer.points:
            scorer = scorer.shortened(dimension)
        rows = scorer.linear()
        if rows is None and space.plain_product:
            rows = scorer.lift(space.chart("inner_product"))
        if rows is not None and scorer.points:
            rows = scorer.space.canonical(rows)
    if rows is None:
        raise Refused(
            400,
            "the queries of this model are functions, not vectors: rank texts with /rerank, or documents of an index "
            "with /search. Documents have vectors: input_type 'document'",
            "NoVectors",
            field="input_type",
        )
    if dimension is not None and rows.shape[1] != dimension:
        raise Refused(400, "the queries of this model cannot be cut to fewer dimensions", field="dimensions")
    return np.asarray(rows.detach().float().cpu().numpy())


def _chart(levels: int, level: int | None) -> dict[str, Any]:
    return {"level": level} if levels > 1 and level is not None else {}


async def token_vectors(model: ServedModel, texts: Sequence[str], side: Side) -> tuple[list[NDArray[np.float32]], int]:
    """Return the token vectors of each text, of a model of late interaction.

    Args:
        model: The model.
        texts: At least one.
        side: `"query"` or `"document"`.

    Returns:
        `(t, d)` for each text, and how many tokens the model read. MaxSim of a query's and a document's is the score.
    """
    found = await model.each(_Vectors(side, model.dtype, tokens=True), texts)
    return [one.made for one in found], sum(one.tokens for one in found)
