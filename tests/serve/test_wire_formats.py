"""What other programs' clients get: the real ones of OpenAI, Cohere and Hugging Face, against a real server."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from conftest import WORDS
from hyperseek.cards import Card

from .conftest import running

openai = pytest.importorskip("openai", reason="needs the client of OpenAI")
cohere = pytest.importorskip("cohere", reason="needs the client of Cohere")

KEY = "a-key-of-tests"
TEXTS = ["the cat and the dog", "a small neural network of the city", "sea", "what is the name of the song"]
QUERIES = ["who is the author of the book", "neural search"]


@pytest.fixture(scope="module")
def retrievers(tiny_encoder: str) -> dict[str, Any]:
    """A model of each family; `dense` is first."""
    from hyperseek.models import ModelConfig, build
    from hyperseek.models.modules import declare_shorter_dimensions

    families: dict[str, dict[str, Any]] = {
        "dense": {"family": "dense", "prompts": {"query": "what ", "document": "text "}, "document_length": 16},
        "nested": {"family": "dense", "pooling": "cls"},
        "qnet": {"family": "qnet", "qnet": {"depth": 1, "initialisation": "scaled"}},
        "lorentz": {"family": "lorentz"},
        "levels": {"family": "levels", "pooling": "mean", "levels": {"d_hrm": 32, "num_segments": 3}},
        "cards": {"family": "card", "pooling": "mean", "normalize": True, "card": {"width": 16}},
        "late": {"family": "late", "late": {"dimension": 8, "query_expansion": {"length": 8}}},
    }
    made = {
        name: build(ModelConfig.from_mapping({"trunk": tiny_encoder, **values}), device="cpu")
        for name, values in families.items()
    }
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in made["cards"].route("query")[-1].parameters():
            weight.add_(0.3 * torch.randn_like(weight))  # an untrained head changes nothing
    declare_shorter_dimensions(made["nested"].route("document"), [16, 8])
    return made


@pytest.fixture(scope="module")
def server(retrievers: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server of these models, which asks for a key."""
    from hyperseek.serve import ServeSettings, create_app

    folder = tmp_path_factory.mktemp("models")
    for name, retriever in retrievers.items():
        retriever.save(folder / name)
    models = {name: str(folder / name) for name in retrievers}
    with running(create_app({}, models=models, settings=ServeSettings(most_texts=40), keys=(KEY,))) as url:
        yield url


@pytest.fixture(scope="module")
def client(server: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server, headers={"Authorization": f"Bearer {KEY}"}) as client:
        yield client


@pytest.fixture(scope="module")
def asked(server: str) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def documents_of(retriever: Any, texts: list[str] = TEXTS) -> np.ndarray:
    return np.asarray(retriever.encode_documents(texts, dtype="float32").rows)


def close(given: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.asarray(given), np.asarray(wanted), rtol=1e-5, atol=1e-6)


def test_openai_gives_the_vectors_of_the_model(asked: Any, retrievers: dict[str, Any]) -> None:
    dense = retrievers["dense"]
    plain = asked.embeddings.create(model="dense", input=TEXTS, encoding_format="float")
    packed = asked.embeddings.create(model="dense", input=TEXTS)  # the client asks for base64 and unpacks it
    assert [one.embedding for one in plain.data] == [one.embedding for one in packed.data]
    assert [one.index for one in plain.data] == [0, 1, 2, 3]
    close([one.embedding for one in plain.data], documents_of(dense))
    assert plain.model == "dense"
    read = dense.tokenize(TEXTS, "document")["attention_mask"].sum()
    assert plain.usage.prompt_tokens == plain.usage.total_tokens == read
    for name in ("query", "search_query", "retrieval.query"):
        queries = asked.embeddings.create(model="dense", input=QUERIES, extra_body={"input_type": name})
        vectors = np.array([one.embedding for one in queries.data])
        close(
            vectors @ documents_of(dense).T,
            dense.compile(QUERIES).score(dense.encode_documents(TEXTS, dtype="float32")),
        )
    jina = {"model": "dense", "input": [{"text": QUERIES[0]}], "task": "retrieval.query", "embedding_type": "float"}
    close(
        httpx.post(f"{asked.base_url}embeddings", json=jina, headers={"api-key": KEY}).json()["data"][0]["embedding"],
        vectors[0],
    )
    [single] = asked.embeddings.create(model="dense", input=TEXTS[0]).data
    close(single.embedding, documents_of(dense)[0])
    assert not np.allclose(vectors[0], asked.embeddings.create(model="dense", input=QUERIES[:1]).data[0].embedding)


async def test_the_asynchronous_client_of_openai(server: str, retrievers: dict[str, Any]) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key=KEY, max_retries=0) as client:
        found = await client.embeddings.create(model="dense", input=TEXTS)
        close([one.embedding for one in found.data], documents_of(retrievers["dense"]))
        assert {one.id async for one in client.models.list()} >= {"dense", "late"}
        with pytest.raises(openai.BadRequestError, match="token ids"):
            await client.embeddings.create(model="dense", input=[[1, 2]])


async def test_many_clients_at_once_get_the_answers_to_their_own_texts(server: str, retrievers: dict[str, Any]) -> None:
    dense, late = retrievers["dense"], retrievers["late"]
    own = [f"{first} {second}" for first in ("cat", "dog sea", "moon star tree stone") for second in WORDS[:12]]
    documents, queries = documents_of(dense, own), dense.compile(own).linear()
    scores = late.compile(own[:2]).score(late.encode_documents([*own, "sea"], dtype="float32")).tolist()
    async with (
        openai.AsyncOpenAI(base_url=f"{server}/v1", api_key=KEY, max_retries=0) as client,
        cohere.AsyncClientV2(KEY, base_url=server) as reranker,
    ):

        async def check(place: int) -> None:
            embedded, asked, ranked = await asyncio.gather(
                client.embeddings.create(model="dense", input=own[place]),
                client.embeddings.create(model="dense", input=own[place], extra_body={"input_type": "query"}),
                reranker.rerank(model="late", query=own[place % 2], documents=[own[place], "sea"]),
            )
            close(embedded.data[0].embedding, documents[place])
            close(asked.data[0].embedding, torch.nn.functional.normalize(queries[place], dim=0))
            found = {one.index: one.relevance_score for one in ranked.results}
            close([found[0], found[1]], [scores[place % 2][place], scores[place % 2][-1]])

        await asyncio.gather(*map(check, range(len(own))))


def test_models_of_openai(asked: Any, retrievers: dict[str, Any]) -> None:
    listed = {one.id: one for one in asked.models.list()}
    assert set(retrievers) <= set(listed)
    assert asked.models.retrieve("levels") == listed["levels"]
    extra = {name: (one.model_extra["similarity"], one.model_extra["dimensions"]) for name, one in listed.items()}
    assert extra["dense"] == ("cosine", 32)
    assert extra["lorentz"] == ("dot", 33)
    assert extra["late"] == ("maxsim", None)
    with pytest.raises(openai.NotFoundError, match="'dens'; did you mean 'dense'") as caught:
        asked.models.retrieve("dens")
    assert caught.value.code == "model_not_found"


def test_dimensions_where_the_model_has_them(asked: Any, retrievers: dict[str, Any]) -> None:
    whole = documents_of(retrievers["nested"])
    short = asked.embeddings.create(model="nested", input=TEXTS, dimensions=8)
    expected = whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True)
    close([one.embedding for one in short.data], expected)
    query = asked.embeddings.create(model="nested", input="cat", dimensions=8, extra_body={"input_type": "query"})
    own = asked.embeddings.create(model="nested", input="cat", dimensions=8)
    close(query.data[0].embedding, own.data[0].embedding)
    assert len(asked.embeddings.create(model="dense", input="cat", dimensions=32).data[0].embedding) == 32
    for name, dimension, allowed in (("nested", 12, "8, 16, 32"), ("dense", 8, "only 32"), ("lorentz", 32, "only 33")):
        with pytest.raises(openai.BadRequestError, match=f"allowed: {allowed}") as caught:
            asked.embeddings.create(model=name, input="cat", dimensions=dimension)
        assert caught.value.param == "dimensions"


@pytest.mark.parametrize(
    ("given", "said", "param"),
    [
        ({"input": [1, 2, 3]}, "check_embedding_ctx_length=False", "input"),
        ({"input": [[1, 2], [3]]}, "check_embedding_ctx_length=False", "input"),
        ({"input": ""}, "empty text at place 0", "input"),
        ({"input": ["cat", ""]}, "empty text at place 1", "input"),
        ({"input": []}, "empty list", "input"),
        ({"input": ["cat"] * 41}, "a request may have 40", "input"),
        ({"input": "cat", "encoding_format": "int8"}, "'float' or 'base64'", "encoding_format"),
        ({"input": "cat", "dimensions": 0}, "greater than or equal to 1", "dimensions"),
        ({"input": "cat", "extra_body": {"input_type": "question"}}, "must be 'query' or 'document'", "input_type"),
        ({"input": "cat", "extra_body": {"level": 2}}, "1 to 1", "level"),
        ({"input": "cat", "extra_body": {"inputtype": "query"}}, "Extra inputs", "inputtype"),
    ],
)
def test_openai_clients_raise_bad_requests(asked: Any, given: dict[str, Any], said: str, param: str) -> None:
    with pytest.raises(openai.BadRequestError, match=said) as caught:
        asked.embeddings.create(model="dense", **given)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


def test_openai_clients_raise_their_own_errors(
    asked: Any, server: str, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hyperseek.serve import ServeSettings, create_app
    from hyperseek.serve._served import ServedModel

    with pytest.raises(openai.NotFoundError):
        asked.embeddings.create(model="text-embedding-3-small", input="cat")
    with openai.OpenAI(base_url=f"{server}/v1", api_key="another", max_retries=0) as stranger:
        for ask in (
            lambda: stranger.embeddings.create(model="dense", input="cat"),
            lambda: stranger.models.list(),
            lambda: stranger.models.retrieve("dense"),
        ):
            with pytest.raises(openai.AuthenticationError) as caught:
                ask()
            assert caught.value.code == "invalid_api_key"
    computed, begun, refused_all = ServedModel._run, threading.Event(), threading.Event()

    def compute(self: Any, *batch: Any) -> Any:
        begun.set()
        assert refused_all.wait(60)
        return computed(self, *batch)

    monkeypatch.setattr(ServedModel, "_run", compute)
    busy = ServeSettings(most_waiting=1, most_body_bytes=10_000)
    with (
        running(create_app({}, models={"tiny": tiny_model}, settings=busy, keys=())) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client,
        cohere.Client("any", base_url=url) as reranker,
    ):
        waiting = ThreadPoolExecutor(1).submit(client.embeddings.create, model="tiny", input="cat")
        assert begun.wait(60)
        with pytest.raises(openai.RateLimitError) as refused:
            client.embeddings.create(model="tiny", input="cat")
        assert int(refused.value.response.headers["Retry-After"]) >= 1
        with pytest.raises(cohere.TooManyRequestsError):
            reranker.rerank(query="cat", documents=["dog"], request_options={"max_retries": 0})
        answer = httpx.post(f"{url}/embed", json={"inputs": "cat"})
        assert (answer.status_code, answer.json()["error_type"]) == (429, "Overloaded")
        refused_all.set()
        assert len(waiting.result().data) == 1
        with pytest.raises(openai.APIStatusError, match="10,000 bytes") as large:
            client.embeddings.create(model="tiny", input="cat " * 4000)
        assert (large.value.status_code, large.value.type) == (413, "invalid_request_error")
        answer = httpx.post(f"{url}/embed", json={"inputs": "cat " * 4000})
        assert (answer.status_code, answer.json()["error_type"]) == (413, "Validation")
        with pytest.raises(openai.NotFoundError):  # a route that this server does not have
            client.completions.create(model="tiny", prompt="cat")


@pytest.mark.parametrize("name", ["lorentz", "levels"])
def test_vectors_of_curved_spaces_rank_by_inner_product(asked: Any, retrievers: dict[str, Any], name: str) -> None:
    retriever = retrievers[name]
    for level in [None] if name == "lorentz" else [None, 1, 2, 3]:
        extra = {} if level is None else {"level": level}
        documents = asked.embeddings.create(model=name, input=TEXTS, extra_body=extra)
        queries = asked.embeddings.create(model=name, input=QUERIES, extra_body={**extra, "input_type": "query"})
        products = (
            np.array([one.embedding for one in queries.data]) @ np.array([one.embedding for one in documents.data]).T
        )
        scores = retriever.compile(QUERIES, extra).score(retriever.encode_documents(TEXTS, dtype="float32"))
        assert (products.argsort(axis=1) == scores.numpy().argsort(axis=1)).all()


def test_cards_and_levels_are_options_of_queries(
    asked: Any, client: httpx.Client, retrievers: dict[str, Any], tmp_path: Any
) -> None:
    card = {"name": "sea", "description": "documents about the sea", "query_examples": ["what is the sea"]}
    for name, options in (("cards", {"card": card}), ("levels", {"level": 1, "document_level": 3})):
        retriever = retrievers[name]
        own = {**options, "card": Card.from_mapping(card).to_json_text()} if "card" in options else options
        expected = retriever.compile(QUERIES[:1], own).score(retriever.encode_documents(TEXTS, dtype="float32"))[0]
        body = {"model": name, "query": QUERIES[0], "options": options}
        jina = client.post("/v1/rerank", json={**body, "documents": TEXTS}).raise_for_status().json()["results"]
        close([one["relevance_score"] for one in jina], expected.sort(descending=True).values)
        tei = client.post("/rerank", json={**body, "texts": TEXTS, "raw_scores": True}).raise_for_status().json()
        close([one["score"] for one in tei], expected.sort(descending=True).values)
    extra = {"input_type": "query", "options": {"card": card}}
    vector = asked.embeddings.create(model="cards", input=QUERIES[0], extra_body=extra).data[0].embedding
    own = {"card": Card.from_mapping(card).to_json_text()}
    points = retrievers["cards"].encode_documents(TEXTS, dtype="float32")
    close(points.rows @ torch.tensor(vector), retrievers["cards"].compile(QUERIES[:1], own).score(points)[0])
    file = tmp_path / "card.json"
    file.write_text(json.dumps(card))
    for options, said in (
        ({"card": str(file)}, "a card is an object, or the name"),
        ({"level": 1}, "unknown option"),
        ({"card": 5}, "a card is an object"),
    ):
        with pytest.raises(openai.BadRequestError, match=said) as caught:
            asked.embeddings.create(model="cards", input="x", extra_body={"input_type": "query", "options": options})
        assert caught.value.param == "options"
        with pytest.raises(openai.BadRequestError):
            asked.embeddings.create(model="cards", input="x", extra_body={"options": options})


def test_what_is_no_vector_is_refused_with_the_route_to_use(asked: Any, retrievers: dict[str, Any]) -> None:
    found = asked.embeddings.create(model="qnet", input=TEXTS)
    close([one.embedding for one in found.data], documents_of(retrievers["qnet"]))
    with pytest.raises(openai.BadRequestError, match="/rerank"):
        asked.embeddings.create(model="qnet", input="cat", extra_body={"input_type": "query"})
    with pytest.raises(openai.BadRequestError, match="/v1/multi-vector"):
        asked.embeddings.create(model="late", input="cat")


def test_token_vectors_in_the_form_of_jina(client: httpx.Client, retrievers: dict[str, Any]) -> None:
    def ask(**body: Any) -> httpx.Response:
        return client.post("/v1/multi-vector", json={"model": "late", **body})

    late = retrievers["late"]
    answer = ask(input=TEXTS).raise_for_status().json()
    assert answer["object"] == "list"
    assert {(one["object"], one["index"]) for one in answer["data"]} == {("embeddings", place) for place in range(4)}
    documents = [np.array(one["embeddings"]) for one in answer["data"]]
    close(np.concatenate(documents), documents_of(late))
    given = ask(input=[{"text": text} for text in QUERIES], input_type="query", embedding_type="base64").json()
    queries = [
        np.stack([np.frombuffer(base64.b64decode(token), "<f4") for token in one["embeddings"]])
        for one in given["data"]
    ]
    maxsim = [[(query @ document.T).max(axis=1).sum() for document in documents] for query in queries]
    close(maxsim, late.compile(QUERIES).score(late.encode_documents(TEXTS, dtype="float32")))
    assert given["usage"]["total_tokens"] > 0
    refused = client.post("/v1/multi-vector", json={"model": "dense", "input": "cat"})
    assert refused.status_code == 400
    assert "/v1/embeddings" in refused.json()["error"]["message"]
    assert ask(input="cat", dimensions=4).json()["error"]["param"] == "dimensions"


@pytest.mark.parametrize("name", ["dense", "qnet", "lorentz", "levels", "late"])
def test_cohere_ranks_as_the_scorer_of_every_family(server: str, retrievers: dict[str, Any], name: str) -> None:
    retriever = retrievers[name]
    expected = retriever.compile(QUERIES[:1]).score(retriever.encode_documents(TEXTS, dtype="float32"))[0].tolist()
    best = sorted(range(4), key=lambda place: -expected[place])
    with cohere.Client(KEY, base_url=server) as first, cohere.ClientV2(KEY, base_url=server) as second:
        for answer in (
            first.rerank(model=name, query=QUERIES[0], documents=TEXTS),
            second.rerank(model=name, query=QUERIES[0], documents=TEXTS),
        ):
            assert [one.index for one in answer.results] == best
            close([one.relevance_score for one in answer.results], sorted(expected, reverse=True))
            assert answer.id
            assert answer.meta.tokens.input_tokens > 0


def test_what_cohere_asks_for(server: str) -> None:
    documents = [{"text": "cat dog", "title": "sea", "year": 2020}, {"text": "neural network"}, "moon"]
    with cohere.Client(KEY, base_url=server) as client:
        found = client.rerank(
            query="cat dog", documents=documents, top_n=2, return_documents=True, max_chunks_per_doc=2
        )
        assert len(found.results) == 2
        assert found.results[0].document.text == "cat dog"
        assert found.results[0].document.year == 2020
        assert "max_chunks_per_doc has no effect" in found.meta.warnings[0]
        assert found.meta.api_version.version == "1"
        fields = client.rerank(query="sea", documents=documents[:1], rank_fields=["title", "text"])
        whole = client.rerank(query="sea", documents=["sea cat dog"])
        assert fields.results[0].relevance_score == whole.results[0].relevance_score
        for given, said in (
            ({"documents": []}, "at least 1"),
            ({"documents": [{"title": "x"}]}, "documents.0 needs a text in 'text'"),
            ({"documents": ["x"], "rank_fields": ["title"], "query": " "}, "query is blank"),
            ({"documents": ["x"], "top_n": 0}, "top_n"),
            ({"documents": ["x"] * 41}, "a request may have 40"),
        ):
            with pytest.raises(cohere.BadRequestError) as caught:
                client.rerank(**{"query": "cat", **given})
            assert said in caught.value.body["message"]
        with pytest.raises(cohere.NotFoundError):
            client.rerank(query="cat", documents=["dog"], model="rerank-v3.5")
    with cohere.ClientV2("another", base_url=server) as client, pytest.raises(cohere.UnauthorizedError):
        client.rerank(model="dense", query="cat", documents=["dog"])


async def test_the_asynchronous_clients_of_cohere(server: str) -> None:
    async with cohere.AsyncClient(KEY, base_url=server) as client:
        found = await client.rerank(query="cat", documents=TEXTS, top_n=1)
        assert len(found.results) == 1
        with pytest.raises(cohere.BadRequestError):
            await client.rerank(query="cat", documents=[])
    async with cohere.AsyncClientV2(KEY, base_url=server) as client:
        again = await client.rerank(model="dense", query="cat", documents=TEXTS, top_n=1)
        assert again.results[0].index == found.results[0].index
        assert again.meta.api_version.version == "2"


def test_one_rerank_for_three_clients(client: httpx.Client) -> None:
    jina = client.post("/rerank", json={"query": {"text": "cat"}, "documents": [{"text": one} for one in TEXTS]}).json()
    assert jina == {**client.post("/v1/rerank", json={"query": "cat", "documents": TEXTS}).json(), "id": jina["id"]}
    assert jina["usage"]["total_tokens"] == jina["meta"]["tokens"]["input_tokens"]
    raw = client.post("/rerank", json={"query": "cat", "texts": TEXTS, "raw_scores": True, "return_text": True}).json()
    assert [(one["index"], one["score"]) for one in raw] == [
        (one["index"], one["relevance_score"]) for one in jina["results"]
    ]
    assert [one["text"] for one in raw] == [TEXTS[one["index"]] for one in raw]
    cooked = client.post("/rerank", json={"query": "cat", "texts": TEXTS}).json()
    assert [set(one) for one in cooked] == [{"index", "score"}] * 4
    close([one["score"] for one in cooked], [1 / (1 + math.exp(-one["score"])) for one in raw])
    for body in ({"query": "cat"}, [], None):
        answer = client.post("/rerank", json=body)
        assert answer.status_code == 400
        assert {"message", "detail", "error", "error_type"} == set(answer.json())
    # Jina's clients read `detail`, those of text-embeddings-inference `error`.
    assert "detail" in client.post("/rerank", json={"query": "cat", "documents": 5}).json()
    for body, status, kind in (
        ({"query": "cat", "texts": []}, 400, "Empty"),
        ({"query": "cat", "texts": ["x"] * 41}, 413, "Validation"),
        ({"query": "cat", "texts": [5]}, 422, "Validation"),
        ({"query": "cat", "texts": ["text " * 40], "truncate": False}, 413, "Validation"),
    ):
        answer = client.post("/rerank", json=body)
        assert (answer.status_code, answer.json()["error_type"]) == (status, kind), answer.text


def test_the_client_of_hugging_face(server: str, retrievers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import InferenceClient, constants
    from huggingface_hub.errors import HfHubHTTPError

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # which forbids requests to this machine too
    hub = InferenceClient(model=f"{server}/embed", token=KEY)
    vectors = hub.feature_extraction(TEXTS)  # type: ignore[arg-type]
    close(vectors, documents_of(retrievers["dense"]))
    assert hub.feature_extraction("cat", normalize=True, truncate=True, prompt_name="query").shape == (1, 32)
    with pytest.raises(HfHubHTTPError) as caught:
        hub.feature_extraction("text " * 40, truncate=False)
    assert caught.value.response.status_code == 413
    close(InferenceClient(model=server, token=KEY).feature_extraction("sea"), vectors[2:3])
    with pytest.raises(HfHubHTTPError, match="401"):
        InferenceClient(model=server, token="another").feature_extraction("sea")
    assert httpx.get(server).headers["content-type"].startswith("text/html")
    alike = InferenceClient(model=f"{server}/similarity", token=KEY).sentence_similarity(TEXTS[0], TEXTS[1:])
    close(alike, vectors[1:] @ vectors[0])


def test_the_routes_of_text_embeddings_inference(client: httpx.Client, retrievers: dict[str, Any]) -> None:
    def ask(route: str, **body: Any) -> Any:
        return client.post(route, json=body).raise_for_status().json()

    dense = retrievers["dense"]
    close(ask("/embed", inputs=TEXTS), documents_of(dense))
    close(
        ask("/embed", inputs="cat", model="nested", dimensions=8),
        ask("/embed", inputs=["cat"], model="nested", dimensions=8),
    )
    lengths = np.linalg.norm(ask("/embed", inputs=TEXTS, model="qnet"), axis=1)
    close(lengths, 1)
    close(ask("/embed", inputs=TEXTS, model="qnet", normalize=False), documents_of(retrievers["qnet"]))
    assert np.linalg.norm(ask("/embed", inputs=TEXTS, model="lorentz"), axis=1).min() > 1.01

    states = ask("/embed_all", inputs=TEXTS)
    with torch.inference_mode():
        own = dense.forward(dense.preprocess(TEXTS, "document"), "document")
    for given, vectors, read in zip(states, own["token_embeddings"], own["attention_mask"], strict=True):
        close(given, vectors[read.bool()])
    late = retrievers["late"]
    close(np.concatenate(ask("/embed_all", inputs=TEXTS, model="late")), documents_of(late))
    assert len(ask("/embed_all", inputs="cat", model="late", prompt_name="query")[0]) == 8  # with its expansion

    [tokens] = ask("/tokenize", inputs="The cat")
    assert [(one["text"], one["special"], one["start"], one["stop"]) for one in tokens] == [
        ("[CLS]", True, None, None),
        ("The", False, 0, 3),
        ("cat", False, 4, 7),
        ("[SEP]", True, None, None),
    ]
    assert [one["id"] for one in tokens] == dense.model.tokenizer("The cat")["input_ids"]
    assert [one["text"] for one in ask("/tokenize", inputs=["cat"], add_special_tokens=False)[0]] == ["cat"]
    assert [one["text"] for one in ask("/tokenize", inputs="cat", prompt_name="query")[0]][1:3] == ["what", "cat"]

    described = client.get("/info").json()
    assert described["model_id"] == "dense"
    assert described["max_input_length"] == 16
    assert described["model_type"] == {"embedding": {"pooling": "mean"}}
    assert described["max_client_batch_size"] == 40
    assert described["max_batch_tokens"] >= 1
    assert client.get("/info", params={"model": "late"}).json()["model_type"] == {"embedding": {"pooling": "none"}}


@pytest.mark.parametrize(
    ("route", "body", "status", "kind"),
    [
        ("/embed", {"inputs": []}, 400, "Empty"),
        ("/embed", {"inputs": [[1, 2]]}, 422, "Validation"),
        ("/embed", {"inputs": ["cat"] * 41}, 413, "Validation"),
        ("/embed", {"inputs": "text " * 40, "truncation_direction": "Left"}, 413, "Validation"),
        ("/embed", {"inputs": "cat", "prompt_name": "sts"}, 422, "Validation"),
        ("/embed", {"inputs": "cat", "dimensions": 3}, 422, "Validation"),
        ("/embed", {"inputs": "cat", "model": "late"}, 424, "Backend"),
        ("/embed", {"inputs": "cat", "model": "qnet", "prompt_name": "query"}, 424, "Backend"),
        ("/embed", {"inputs": "cat", "model": "lorentz", "normalize": True}, 424, "Backend"),
        ("/embed", {"inputs": "cat", "model": "other"}, 404, "Validation"),
        ("/embed_all", {"inputs": []}, 400, "Empty"),
        ("/embed", {"inputs": "text " * 4000, "truncate": False}, 413, "Validation"),
        ("/tokenize", {"inputs": "text " * 250_000}, 413, "Validation"),
        ("/similarity", {"inputs": {"source_sentence": "cat", "sentences": []}}, 400, "Empty"),
        ("/similarity", {"inputs": {"source_sentence": "cat", "sentences": ["x"]}, "model": "lorentz"}, 424, "Backend"),
        ("/tokenize", {"inputs": []}, 400, "Empty"),
    ],
)
def test_errors_of_text_embeddings_inference(
    client: httpx.Client, route: str, body: dict[str, Any], status: int, kind: str
) -> None:
    answer = client.post(route, json=body)
    assert (answer.status_code, answer.json()["error_type"]) == (status, kind), answer.text
    assert set(answer.json()) == {"error", "error_type"}


RIGHT: dict[str, dict[str, Any]] = {
    "/v1/embeddings": {"input": "cat"},
    "/v1/multi-vector": {"input": ["cat"]},
    "/rerank": {"query": "cat", "texts": ["dog"]},
    "/v1/rerank": {"query": "cat", "documents": ["dog"]},
    "/v2/rerank": {"query": "cat", "documents": ["dog"]},
    "/embed": {"inputs": "cat"},
    "/embed_all": {"inputs": "cat"},
    "/similarity": {"inputs": {"source_sentence": "cat", "sentences": ["dog"]}},
    "/tokenize": {"inputs": ["cat"]},
}


def test_answers_of_many_token_vectors_are_bounded(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperseek.serve._vectors._MOST_NUMBERS", 500)
    for route, body in (("/embed_all", {"inputs": TEXTS}), ("/v1/multi-vector", {"input": TEXTS * 4, "model": "late"})):
        answer = client.post(route, json=body)
        assert answer.status_code == 413
        assert "an answer may hold 500; send fewer texts" in answer.text
    assert client.post("/v1/multi-vector", json={"input": TEXTS, "model": "late"}).status_code == 200


ROUTES = [*RIGHT]


def test_malformed_bodies_get_errors_of_the_routes_shape(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    draw = random.Random(0)
    values: list[Any] = [
        *(None, True, -1, 0, 2**70, 1.5, "", "cat", "\x00\x1b[31m", "<script>", "\U0001f408" * 9, "query", "base64"),
        *([], ["cat"], [[]], [None], [1], [["cat"]], {}, {"text": "cat"}, {"text": 5}, ["cat", {"text": "dog"}]),
    ]
    names = [
        *("model", "input", "inputs", "query", "documents", "texts", "encoding_format", "dimensions", "input_type"),
        *("level", "top_n", "return_documents", "rank_fields", "prompt_name", "normalize", "truncate", "raw_scores"),
        *("parameters", "source_sentence", "sentences", "relevant_spans", "embedding_type", "add_special_tokens"),
    ]
    raw = [
        *(b"", b"{", b"[]", b"null", b"\xff\xfe", b'"cat"', b'{"input": NaN}', b'{"inputs": "\\udc00"}'),
        *(b'{"input": "\\ud800", "model": "dense"}', b'{"input": "a", "input": "b"}'),
        *(b"[" * 5000, b'{"a":' * 200 + b"1" + b"}" * 200),
    ]
    seen = set()
    for number in range(600):
        route = draw.choice(ROUTES)
        if number < len(raw) * len(ROUTES):
            route, content = ROUTES[number % len(ROUTES)], raw[number // len(ROUTES)]
        else:
            # Often a request that is right, but for one field; else one of fields at random.
            right = {"model": draw.choice(["dense", "late", "qnet"]), **RIGHT[route]} if draw.random() < 0.7 else {}
            body = {**right, **{name: draw.choice(values) for name in draw.sample(names, 1 if right else 5)}}
            content = json.dumps(body).encode()
        answer = client.post(route, content=content, headers={"Content-Type": "application/json"})
        seen.add(answer.status_code)
        assert answer.status_code in (200, 400, 404, 413, 422, 424), (route, content, answer.text)
        if answer.status_code != 200:
            said = answer.json()
            assert "message" in said if route.endswith("rerank") and "error" not in said else said["error"], said
            assert "Traceback" not in answer.text
            assert "/tmp" not in answer.text
    assert {200, 400, 422} <= seen
    assert "a request failed" not in caplog.text
