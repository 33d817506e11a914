"""Our own API answers what `Index` answers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from serve_fixtures import running, texts

from hyperseek import Index, load
from hyperseek.cards import Card


@pytest.fixture(scope="module")
def folders(make_index: Callable[..., Path]) -> dict[str, str]:
    """An index of whole documents with an engine, and one of passages."""
    whole, parts = make_index("whole", 80), make_index("parts", 30, passages={"tokens": 16, "overlap": 2})
    Index.open(whole).engines.build("flat", name="flat")
    return {"whole": str(whole), "parts": str(parts)}


@pytest.fixture(scope="module")
def served(folders: dict[str, str]) -> Iterator[httpx.Client]:
    from hyperseek.serve import create_app

    with running(create_app(folders, keys=())) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


CASES: list[dict[str, Any]] = [
    {},
    {"k": 200},
    {"k": 3, "where": "year > 2004 AND year < 2008"},
    {"where": "title LIKE 'title 1%'"},
    {"engine": "exact"},
    {"engine": "flat"},
    {"plan": "hybrid", "k": 5},
    {"plan": [{"kind": "full_text", "n": 20}, {"kind": "rescore"}], "k": 5},
    {"plan": {"kind": "exhaustive"}, "combine": "soft"},
    {"combine": "soft"},
    {"texts": False},
    {"where": "year = 1"},
]


def close(found: list[dict[str, Any]], wanted: list[Any]) -> bool:
    """Whether hits are the same, but for the order of nearly equal scores."""
    scores = [hit.score for hit in wanted]
    if [hit["score"] for hit in found] != pytest.approx(scores, abs=1e-5):
        return False
    names = [hit["id"] for hit in found]
    return all(
        name == hit.id or any(abs(hit.score - other.score) < 1e-5 for other in wanted if other is not hit)
        for name, hit in zip(names, wanted, strict=True)
    )


def test_answers_under_load_are_those_of_the_index(served: httpx.Client, folders: dict[str, str]) -> None:
    indexes = {name: Index.open(folder) for name, folder in folders.items()}
    queries = texts(24, seed=1)
    asked = [
        (name, case, own)
        for (name, case), own in zip(
            itertools.product(folders, CASES), itertools.cycle([queries[:1], queries[1:4], queries[4:5]]), strict=False
        )
        if not (name == "parts" and case.get("engine") == "flat")
    ]
    asked *= 3

    def ask(one: tuple[str, dict[str, Any], list[str]]) -> Any:
        name, case, own = one
        return served.post("/search", json={"index": name, "queries": own, **case}).raise_for_status().json()

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(ask, asked))
    for (name, case, own), answer in zip(asked, answers, strict=True):
        wanted = indexes[name].search(own, **case)
        assert answer["documents"] == len(indexes[name])
        assert [one["query"] for one in answer["queries"]] == own
        for found, hits in zip(answer["queries"], wanted, strict=True):
            assert close(found["hits"], hits), (name, case)
            for hit in found["hits"]:
                assert ("text" in hit) == case.get("texts", True)
                assert ("passages" in hit) == (name == "parts" and case.get("texts", True))


def test_batches_are_made_of_requests_that_ask_alike(served: httpx.Client) -> None:
    with ThreadPoolExecutor(16) as threads:
        for answer in threads.map(lambda query: served.get("/search", params={"q": query}), texts(64, seed=2)):
            answer.raise_for_status()
    lines = served.get("/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values["hyperseek_batch_items_sum"]) > float(values["hyperseek_batch_items_count"])
    for stage in ("queue", "tokenise", "encode", "search"):
        assert float(values[f'hyperseek_stage_seconds_count{{stage="{stage}"}}']) > 0
    assert float(values['hyperseek_documents{index="whole"}']) == 80
    assert float(values["hyperseek_waiting_requests"]) == 0


def test_a_search_by_url_and_snippets(served: httpx.Client) -> None:
    [asked] = served.get("/search", params={"q": "cat dog bird", "k": 3}).raise_for_status().json()["queries"]
    assert [asked] == served.post("/search", json={"query": "cat dog bird", "k": 3}).json()["queries"]
    assert len(asked["hits"]) == 3
    snippets = served.get("/search", params={"q": "cat dog bird", "k": 50}).json()["queries"][0]["hits"]
    marked = [hit["snippet"]["text"][start:end] for hit in snippets for start, end in hit["snippet"]["highlights"]]
    assert set(marked) == {"cat", "dog", "bird"}


def test_an_explanation_has_stages_with_recall(served: httpx.Client) -> None:
    body = {"index": "whole", "query": "cat dog bird", "engine": "flat"}
    answer = served.post("/explain", json=body).raise_for_status().json()
    assert answer["queries"] == served.post("/search", json=body).json()["queries"]
    told = answer["explanation"]
    assert "flat" in told["plan"]
    assert told["documents"] == 80
    assert [stage["title"] for stage in told["stages"]][-1] == "rescore"
    assert told["stages"][0]["recall"] == 1.0
    assert told["stages"][0]["seconds"] > 0


def test_indexes_say_what_can_be_asked(served: httpx.Client) -> None:
    whole, parts = served.get("/indexes").raise_for_status().json()
    assert whole["name"] == "whole"
    assert (whole["documents"], whole["passages"], whole["engines"]) == (80, None, ["flat"])
    assert whole["fields"] == {"year": "number"}
    assert parts["passages"] > 30
    assert "/" not in whole["model"]


REFUSED: list[tuple[dict[str, Any], int, str, str]] = [
    ({"query": "a", "index": "nots"}, 404, "UnknownNameError", "known: parts, whole"),
    ({"query": "a", "engine": "hnsw"}, 404, "UnknownNameError", "flat"),
    ({"query": "a", "k": 1001}, 400, "InputError", "at most 1000"),
    ({"query": "a", "k": 0}, 400, "InputError", "at least 1"),
    ({"query": " "}, 400, "InputError", "blank"),
    ({"queries": ["a"] * 257}, 400, "InputError", "may have 256"),
    ({"query": "a" * 70_000}, 400, "InputError", "characters"),
    ({"query": "a", "where": "nothing = 1"}, 400, "InputError", "nothing"),
    ({"query": "a", "level": 2}, 404, "UnknownNameError", "level"),
    ({"query": "a", "plan": [{"kind": "dense", "model": "/etc/passwd"}]}, 404, "UnknownNameError", "known: "),
    ({"query": "a", "plan": {"kind": "rescore", "model": "minilm"}}, 404, "UnknownNameError", "known: "),
    ({"query": "a", "plan": "plan.yaml"}, 422, "InputError", "hybrid"),
    ({"query": "a", "plan": [["plan.yaml"]]}, 400, "ConfigError", "stage"),
    ({"query": "a", "plan": {"stages": [{"kind": "union", "sources": [{"kind": "engine"}] * 300}]}}, 400, "", "parts"),
    ({"query": "a", "card": "/etc/card.yaml"}, 400, "InputError", "card is an object"),
    ({"query": "a", "options": {"card": "../card.json"}}, 400, "InputError", "card is an object"),
    ({"query": "a", "plan": [{"kind": "auto", "options": {"card": "c.yml"}}]}, 400, "InputError", "card is an object"),
    ({"query": "a", "queries": ["b"]}, 422, "InputError", "either query"),
    ({}, 422, "InputError", "either query"),
    ({"query": 5}, 422, "InputError", "query"),
    ({"query": "a", "top_k": 5}, 422, "InputError", "top_k"),
]


@pytest.mark.parametrize(("body", "status", "kind", "said"), REFUSED)
def test_what_cannot_be_asked(served: httpx.Client, body: dict[str, Any], status: int, kind: str, said: str) -> None:
    answer = served.post("/search", json=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["type"] == (kind or error["type"])
    assert said in error["message"]
    assert "/tmp/" not in answer.text


def test_a_card_is_an_object_or_a_name_that_the_model_knows(tiny_encoder: str, tmp_path: Path) -> None:
    from hyperseek.models import ModelConfig, build
    from hyperseek.serve import create_app

    model = build(ModelConfig.from_mapping({"trunk": tiny_encoder, "family": "card"}))
    known = Card(name="claims", description="what supports a claim")
    model.route("query")[-1].fit_cards([known])  # type: ignore[operator]
    model.save(tmp_path / "model")
    index = Index.build(tmp_path / "cards.index", texts(20), load(str(tmp_path / "model")))
    (tmp_path / "secret.yaml").write_text("name: secret\ndescription: a card in a file\n")
    with running(create_app({"cards": str(index.path)}, keys=())) as url, httpx.Client(base_url=url) as client:

        def ask(card: Any) -> Any:
            return client.post("/search", json={"query": "cat dog", "card": card, "k": 5})

        own = {"name": "own", "description": "animals that live in houses"}
        by_object = ask(own).raise_for_status().json()["queries"][0]["hits"]
        assert close(by_object, index.search("cat dog", card=Card(**own), k=5))
        by_name = ask("claims").raise_for_status().json()["queries"][0]["hits"]
        assert close(by_name, index.search("cat dog", card=known, k=5))
        assert client.get("/indexes").json()[0]["cards"] == ["claims"]
        assert "unknown card 'unknown'" in ask("unknown").json()["error"]["message"]
        for path in (tmp_path / "secret.yaml", tmp_path / "SECRET.YAML"):
            assert ask(str(path)).status_code == 400
        assert ask({"name": "own", "descripton": "x"}).json()["error"]["type"] == "ConfigError"
        long = {"name": "own", "description": "x", "doc_examples": ["a" * 90_000] * 2}
        assert "characters" in ask(long).json()["error"]["message"]


def test_addresses_that_are_not_there_are_said_in_words(client: httpx.Client) -> None:
    missing, wrong = client.get("/nowhere"), client.put("/search", json={})
    assert missing.status_code == 404
    assert "no such address" in missing.json()["error"]["message"]
    assert wrong.status_code == 405
    assert "header Allow" in wrong.json()["error"]["message"]
    assert "POST" in wrong.headers["allow"]
    for address in ("/", "/health"):
        assert client.head(address).status_code == 200
