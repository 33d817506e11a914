"""Our own API answers what `Index` answers."""

from __future__ import annotations

import httpx


def test_a_search_has_hits_with_snippets(client: httpx.Client) -> None:
    answer = client.post("/search", json={"query": "cat dog bird", "k": 3}).raise_for_status().json()
    assert answer["index"] == "notes"
    assert answer["documents"] == 60
    [asked] = answer["queries"]
    assert asked["query"] == "cat dog bird"
    assert len(asked["hits"]) == 3
    assert {"id", "score", "title", "text", "metadata", "snippet"} <= set(asked["hits"][0])
    assert client.get("/search", params={"q": "cat dog bird", "k": 3}).json()["queries"] == answer["queries"]
