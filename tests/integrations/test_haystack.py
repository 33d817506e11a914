from __future__ import annotations

import ast
import asyncio
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("haystack")

from haystack import Document, Pipeline

from hyperseek import Index, Retriever
from hyperseek.errors import InputError
from hyperseek.integrations.haystack import (
    HyperseekDocumentEmbedder,
    HyperseekRanker,
    HyperseekRetriever,
    HyperseekTextEmbedder,
)

TRUSTED = ["hyperseek.integrations.haystack"]


def test_a_pipeline_is_written_as_yaml_and_read_again(index: Index, encoder: Retriever, tmp_path: Path) -> None:
    pipeline = Pipeline()
    plan = {"stages": [{"kind": "full_text", "n": 10}]}
    pipeline.add_component("retriever", HyperseekRetriever(index, top_k=3, where="year > 2000", plan=plan))
    pipeline.add_component("ranker", HyperseekRanker(encoder, top_k=1, device="cpu"))
    pipeline.connect("retriever.documents", "ranker.documents")
    asked = {"retriever": {"query": "sea river"}, "ranker": {"query": "sea river"}}
    [expected] = pipeline.run(asked)["ranker"]["documents"]
    (tmp_path / "pipeline.yaml").write_text(pipeline.dumps())
    with (tmp_path / "pipeline.yaml").open() as file:
        again = Pipeline.load(file, allowed_modules=TRUSTED)
    assert again.run(asked)["ranker"]["documents"] == [expected]
    assert expected.id == "fish"
    assert again.get_component("retriever").index == str(index.path)
    assert asyncio.run(again.run_async(asked))["ranker"]["documents"] == [expected]


def test_documents_are_the_best_passages(index: Index) -> None:
    retriever = HyperseekRetriever(index.path, top_k=4)
    found = retriever.run("door window table music")["documents"]
    [long] = [document for document in found if document.id == "long/one"]
    best = long.meta["passages"][0]
    assert index["long/one"].text[best["start"] : best["end"]] == long.content
    assert [document.score for document in found] == [hit.score for hit in index.search("door window table music", k=4)]
    assert asyncio.run(retriever.run_async("sea", top_k=1))["documents"][0].score is not None
    assert HyperseekRetriever.from_dict(retriever.to_dict()).to_dict() == retriever.to_dict()
    assert HyperseekRetriever("http://127.0.0.1:9/#notes").to_dict()["init_parameters"]["index"].endswith("#notes")


def met(field: str, operator: str, value: Any) -> dict[str, Any]:
    return {"field": field, "operator": operator, "value": value}


def joined(operator: str, *conditions: dict[str, Any]) -> dict[str, Any]:
    return {"operator": operator, "conditions": list(conditions)}


@pytest.mark.parametrize(
    "chosen",
    [
        met("meta.year", "==", 2015),
        met("year", ">=", 2018),
        met("meta.kind", "!=", "animal"),
        met("meta.kind", "==", "it's"),
        met("meta.kind", "==", None),
        met("meta.year", "in", [2015, 2021]),
        met("meta.year", "not in", [2015, 2021]),
        met("meta.year", "in", []),
        joined("AND", met("meta.year", ">", 2000), joined("OR", met("id", "==", "fish"), met("id", "==", "apple"))),
        joined("NOT", met("meta.year", ">", 2016), met("meta.kind", "==", "animal")),
        joined("NOT", joined("NOT", met("meta.year", ">", 2016))),
    ],
)
def test_filters_mean_what_they_mean_in_haystack(index: Index, chosen: dict[str, Any]) -> None:
    from haystack.utils.filters import document_matches_filter

    found = HyperseekRetriever(index, filters=chosen).run("sea")["documents"]
    stored = [Document(id=each.id, content=each.text, meta=dict(each.metadata)) for each in index]
    nested = ast.literal_eval(str(chosen).replace("'year'", "'meta.year'"))
    assert {document.id for document in found} == {
        document.id for document in stored if document_matches_filter(nested, document)
    }


@pytest.mark.parametrize("chosen", [{"field": "meta.year"}, joined("XOR", met("a", "==", 1)), met("meta.year", "~", 1)])
def test_filters_that_cannot_be_written_are_errors_of_ours(index: Index, chosen: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        HyperseekRetriever(index).run("sea", filters=chosen)


def test_embedders_fill_a_store_and_ask_it(encoder: Retriever) -> None:
    from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    given = [Document(content="cat dog", meta={"title": "Sea"}), Document(content="sea moon")]
    embedder = HyperseekDocumentEmbedder(encoder, meta_fields_to_embed=["title"])
    embedded = asyncio.run(embedder.run_async(given))["documents"]
    assert embedder.run(given)["documents"] == embedded
    assert given[0].embedding is None
    titled = HyperseekDocumentEmbedder(encoder).run([Document(content="Sea cat dog")])["documents"][0]
    assert embedded[0].embedding == pytest.approx(titled.embedding, abs=1e-5)
    store = InMemoryDocumentStore(embedding_similarity_function="dot_product")
    store.write_documents(embedded)
    pipeline = Pipeline()
    pipeline.add_component("embedder", HyperseekTextEmbedder(encoder))
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=1))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    again = Pipeline.loads(pipeline.dumps(), allowed_modules=TRUSTED)
    assert again.get_component("embedder").model == encoder.source
    [best] = pipeline.run({"embedder": {"text": "sea moon"}})["retriever"]["documents"]
    assert best.content == "sea moon"
    assert asyncio.run(HyperseekTextEmbedder(encoder).run_async("sea"))["embedding"] == pytest.approx(
        HyperseekTextEmbedder(encoder).run("sea")["embedding"]
    )
    for each in (embedder, HyperseekTextEmbedder(encoder), HyperseekRanker(encoder, top_k=2, options={})):
        assert type(each).from_dict(each.to_dict()).to_dict() == each.to_dict()
    with pytest.raises(InputError, match="takes a text"):
        HyperseekTextEmbedder(encoder).run(given)  # type: ignore[arg-type]


def test_a_ranker_ranks_again(encoder: Retriever) -> None:
    given = [Document(content=text) for text in ("cat dog", "sea moon", "river stone")]
    found = HyperseekRanker(encoder).run("sea moon", given, top_k=2)["documents"]
    assert found[0].content == "sea moon"
    assert len(found) == 2
    assert given[1].score is None
    assert asyncio.run(HyperseekRanker(encoder).run_async("sea moon", given))["documents"][0] == found[0]
