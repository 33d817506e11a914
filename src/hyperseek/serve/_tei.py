"""The routes of text-embeddings-inference: `/embed`, `/embed_all`, `/similarity`, `/tokenize`, `/info`.

Its servers have one model. Here requests may name another one in the field `model`; without it the first one is meant.
Its prompts are by name; here `prompt_name` is `query` or `document`, and the latter without it, as if the server had
been started with `--default-prompt-name document`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import Field

from hyperseek._version import __version__
from hyperseek.models.encoding import tokenising
from hyperseek.models.retriever import Side
from hyperseek.serve._limits import Problem, Refused, ServeSettings, routes
from hyperseek.serve._openai import AskedSide, Texts, json_response
from hyperseek.serve._search import Body, TheShelf
from hyperseek.serve._shelf import ServedModel
from hyperseek.serve._vectors import check_tokens, is_flat, plain_vectors, similarity, token_vectors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hyperseek.models import Retriever

_CHARACTERS = 250  # of a token at most, where no more than so many tokens may be given
_MOST_CHARACTERS = 1 << 20  # of the texts whose tokens are listed: an object each

_OF_MODELS = ("FingerprintError", "ModelError", "NoVectors")
_TYPES = {413: "Validation", 422: "Validation", 424: "Backend", 429: "Overloaded", 500: "Backend", 503: "Unhealthy"}


def tei_shape(problem: Problem) -> tuple[int, Mapping[str, Any]]:
    """Return status and body of an error as text-embeddings-inference publishes them.

    What its own servers have no status for keeps that of ours, with the type `Validation`.
    """
    status = problem.status
    if problem.kind in _OF_MODELS:
        status = 424
    elif status == 400 and problem.kind != "Empty":
        status = 422
    kind = "Empty" if problem.kind == "Empty" else _TYPES.get(status, "Validation")
    return status, {"error": problem.message, "error_type": kind}


router = APIRouter(route_class=routes(tei_shape))


class TeiBody(Body):
    """What the bodies of several routes have in common.

    Attributes:
        model: A field of ours; None for the first model.
        truncate: Whether texts that are too long are cut; None, the default, cuts them as all of this project does.
        truncation_direction: Only `Right`.
    """

    model: str | None = None
    truncate: bool | None = None
    truncation_direction: Literal["Left", "Right", "left", "right"] = "Right"


class EmbedAllBody(TeiBody):
    """A request for the vectors of tokens."""

    inputs: Texts
    prompt_name: AskedSide = "document"


class EmbedBody(EmbedAllBody):
    """A request for vectors."""

    normalize: bool | None = None
    dimensions: int | None = Field(default=None, ge=1)


class SentencesBody(Body):
    """A sentence, and those that it is compared with."""

    source_sentence: str
    sentences: list[str]


class SimilarityParameters(TeiBody):
    """How sentences are encoded."""

    prompt_name: AskedSide = "document"


class SimilarityBody(Body):
    """A request for similarities of sentences."""

    inputs: SentencesBody
    parameters: SimilarityParameters | None = None
    model: str | None = None


class TokenizeBody(Body):
    """A request for tokens."""

    inputs: Texts
    add_special_tokens: bool = True
    prompt_name: AskedSide | None = None
    model: str | None = None


@router.post("/", include_in_schema=False)
@router.post("/embed")
async def embed(body: EmbedBody, shelf: TheShelf) -> Response:
    """Return a vector for each text, scaled to norm 1 unless the request says otherwise."""
    model = shelf.model(body.model)
    check_batch(body.inputs, shelf.settings, "inputs")
    flat = is_flat(model.retriever)
    if body.normalize and not flat:
        raise Refused(
            424,
            "vectors of this model lose their order when they are scaled to norm 1; leave normalize out, and compare "
            "them by inner product",
            "NoVectors",
        )
    await check_length(model, body.inputs, body.prompt_name, body)
    vectors, _ = await plain_vectors(model, body.inputs, body.prompt_name, dimension=body.dimensions)
    if body.normalize is not False and flat:
        vectors = _normal(vectors)
    return await json_response(lambda: vectors)


@router.post("/embed_all")
async def embed_all(body: EmbedAllBody, shelf: TheShelf) -> Response:
    """Return a vector for each token of each text.

    Those of late interaction are what the model compares; those of other models are the states of their transformer,
    with the ones of special tokens.
    """
    model = shelf.model(body.model)
    check_batch(body.inputs, shelf.settings, "inputs")
    await check_length(model, body.inputs, body.prompt_name, body)
    check_tokens(model, body.inputs, body.prompt_name)
    if model.retriever.space.ragged:
        found, _ = await token_vectors(model, body.inputs, body.prompt_name)
    else:
        found = await model.each(_States(body.prompt_name), body.inputs)
    return await json_response(lambda: found)


@router.post("/similarity")
async def sentence_similarity(body: SimilarityBody, shelf: TheShelf) -> Response:
    """Return the cosine of a sentence with each of the others."""
    asked = body.parameters or SimilarityParameters()
    model = shelf.model(body.model or asked.model)
    if not (is_flat(model.retriever) and model.retriever.space.plain_product):
        raise Refused(
            424, f"this model compares by {similarity(model.retriever)!r}, not by cosines; ask /rerank", "NoVectors"
        )
    texts = [body.inputs.source_sentence, *body.inputs.sentences]
    check_batch(body.inputs.sentences, shelf.settings, "sentences")
    await check_length(model, texts, asked.prompt_name, asked)
    vectors, _ = await plain_vectors(model, texts, asked.prompt_name)
    first, *others = _normal(vectors)
    return await json_response(lambda: [float(other @ first) for other in others])


@router.post("/tokenize")
async def tokenize(body: TokenizeBody, shelf: TheShelf) -> Response:
    """Return all tokens of each text, also those that the model would not read any more."""
    model = shelf.model(body.model)
    check_batch(body.inputs, shelf.settings, "inputs")
    if (count := sum(map(len, body.inputs))) > _MOST_CHARACTERS:
        raise Refused(
            413, f"`inputs` must have less than {_MOST_CHARACTERS} characters. Given: {count}", field="inputs"
        )
    found = await model.each(_Tokens(body.prompt_name, body.add_special_tokens), body.inputs)
    return await json_response(lambda: found)


@router.get("/info")
async def info(shelf: TheShelf, model: str | None = None) -> dict[str, Any]:
    """Describe the server and its first model, or another one."""
    served = shelf.model(model)
    retriever, settings = served.retriever, shelf.settings
    pooling = next((mode for one in retriever.route("document") if (mode := getattr(one, "pooling_mode", None))), None)
    longest = retriever.max_length["document"]
    return {
        "model_id": served.name,
        "model_sha": None,
        "model_dtype": retriever.backend_dtype or served.dtype,
        "model_type": {"embedding": {"pooling": str(pooling or "none")}},
        "max_concurrent_requests": settings.most_waiting,
        "max_input_length": settings.most_body_bytes if longest is None else longest,
        "max_batch_tokens": served.batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": settings.most_texts,
        "auto_truncate": True,
        "tokenization_workers": 1,
        "version": __version__,
        "sha": None,
        "docker_label": None,
    }


def check_batch(texts: Sequence[str], settings: ServeSettings, field: str) -> None:
    """Refuse no texts, or more than a request may have."""
    if not texts:
        raise Refused(400, f"`{field}` cannot be empty", "Empty", field=field)
    if len(texts) > settings.most_texts:
        most = settings.most_texts
        raise Refused(413, f"batch size {len(texts)} > maximum allowed batch size {most}", field=field)


async def check_length(model: ServedModel, texts: Sequence[str], side: Side, body: TeiBody) -> None:
    """Refuse texts that the model does not read whole, where the request does not let them be cut at the right."""
    longest = model.retriever.max_length[side]
    left = body.truncation_direction.lower() == "left"
    if longest is None or not (body.truncate is False or left):
        return
    if (most := max(map(len, texts))) > longest * _CHARACTERS:
        raise Refused(413, f"`inputs` must have less than {longest * _CHARACTERS} characters. Given: {most}")
    if (most := max(map(len, await model.each(_Tokens(side, True), texts)))) > longest:
        end = "; texts can be cut at the right only" if body.truncate is not False else ""
        raise Refused(413, f"`inputs` must have less than {longest} tokens. Given: {most}{end}")


def _normal(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, np.finfo(np.float32).tiny))


@dataclass(frozen=True, slots=True)
class _States:
    """Computes the states of a transformer; for `ServedModel.each`."""

    side: Side

    def __call__(self, retriever: Retriever, texts: list[str]) -> list[NDArray[np.float32]]:
        with torch.inference_mode():
            features = retriever.forward(retriever.preprocess(texts, self.side), self.side)
        states, mask = features.get("token_embeddings"), features.get("attention_mask")
        if states is None or mask is None or states.shape[:2] != mask.shape:
            raise Refused(424, "this model has no vectors of tokens; ask /embed", "NoVectors")
        return [own[read.bool()].float().cpu().numpy() for own, read in zip(states, mask, strict=True)]


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Divides texts into tokens; for `ServedModel.each`.

    Attributes:
        side: Whose prompt is put before each text; None for none.
        marks: Whether special tokens are added.
    """

    side: Side | None
    marks: bool

    def __call__(self, retriever: Retriever, texts: list[str]) -> list[list[dict[str, Any]]]:
        tokenizer: Any = getattr(retriever.route(self.side or "document")[0], "tokenizer", None)
        prompt = "" if self.side is None else retriever.model.prompts.get(self.side) or ""
        return [_tokens(tokenizer, prompt + text, self.marks) for text in texts]


@tokenising
def _tokens(tokenizer: Any, text: str, marks: bool) -> list[dict[str, Any]]:
    if hasattr(tokenizer, "encode_batch"):  # the bare tokenizer of static embeddings
        read = tokenizer.encode(text, add_special_tokens=marks)
        numbers, special, spans = read.ids, read.special_tokens_mask, read.offsets
    elif callable(tokenizer) and getattr(tokenizer, "is_fast", False):
        read = tokenizer(
            text,
            add_special_tokens=marks,
            truncation=False,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            verbose=False,
        )
        numbers, special, spans = read["input_ids"], read["special_tokens_mask"], read["offset_mapping"]
    else:
        raise Refused(424, "the tokenizer of this model does not tell where its tokens are", "NoVectors")
    return [
        {"id": number, "text": _spelt(tokenizer, number), "special": True, "start": None, "stop": None}
        if mark
        else {"id": number, "text": text[start:stop], "special": False, "start": start, "stop": stop}
        for number, mark, (start, stop) in zip(numbers, special, spans, strict=True)
    ]


def _spelt(tokenizer: Any, number: int) -> str:
    name = "id_to_token" if hasattr(tokenizer, "id_to_token") else "convert_ids_to_tokens"
    return str(getattr(tokenizer, name)(number))
