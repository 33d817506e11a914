"""LangChain's own standard tests, and what they do not ask for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain_core")
pytest.importorskip("langchain_tests")

from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    VectorStoreIntegrationTests,
)
from langchain_tests.unit_tests import EmbeddingsUnitTests

from hyperseek import Index, Retriever
from hyperseek.errors import ArgumentError, InputError, UnknownNameError
from hyperseek.integrations.langchain import (
    HyperseekCompressor,
    HyperseekEmbeddings,
    HyperseekRetriever,
    HyperseekVectorStore,
)


class TestRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _given(self, index: Index) -> None:
        self.given = index

    @property
    def retriever_constructor(self) -> type[HyperseekRetriever]:
        return HyperseekRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"index": self.given}

    @property
    def retriever_query_example(self) -> str:
        return "sea river"


class OurEmbeddings:
    @pytest.fixture(autouse=True)
    def _given(self, encoder: Retriever) -> None:
        self.given = encoder

    @property
    def embeddings_class(self) -> type[HyperseekEmbeddings]:
        return HyperseekEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": self.given}


class TestEmbeddings(OurEmbeddings, EmbeddingsIntegrationTests):
    pass


class TestEmbeddingsUnit(OurEmbeddings, EmbeddingsUnitTests):
    pass


class TestVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, empty: Index) -> VectorStore:
        return HyperseekVectorStore(empty)


def test_documents_carry_what_the_search_found(index: Index) -> None:
    retriever = HyperseekRetriever(index=str(index.path), k=4)
    found = retriever.invoke("door window table music")
    assert [document.id for document in found] == [hit.id for hit in index.search("door window table music", k=4)]
    [long] = [document for document in found if document.id == "long/one"]
    best = long.metadata["passages"][0]
    assert index["long/one"].text[best["start"] : best["end"]] == best["text"] == long.page_content
    assert long.metadata["score"] == pytest.approx(best["score"])
    assert long.metadata["rank"] == 1 + found.index(long)
    [fish] = retriever.invoke("sea", where="kind = 'animal'")
    assert (fish.metadata["year"], fish.metadata["title"]) == (2018, "Fish")
    assert asyncio.run(retriever.ainvoke("sea", k=1, where="year > 2018"))[0].id == "plain"
    with pytest.raises(ArgumentError, match="it is called 'k' here"):
        retriever.invoke("sea", top_k=3)


def test_a_hybrid_plan_and_options_are_passed_on(index: Index) -> None:
    hybrid = HyperseekRetriever(index=index, plan="hybrid", k=2).invoke("sea river")
    assert [document.metadata["score"] for document in hybrid] == [
        hit.score for hit in index.search("sea river", plan="hybrid", k=2)
    ]
    with pytest.raises(UnknownNameError, match="understands no options"):
        HyperseekRetriever(index=index, options={"level": 2}).invoke("sea")


@pytest.mark.parametrize(
    ("chosen", "ids"),
    [
        ({"year": 2015}, {"apple"}),
        ({"year": {"$gte": 2018}, "kind": "animal"}, {"fish"}),
        ({"kind": "it's"}, {"plain"}),
        ({"kind": {"$ne": "animal"}}, {"apple", "long/one", "plain"}),
        ({"year": {"$in": [2015, 2021]}}, {"apple", "plain"}),
        ({"year": {"$nin": [2015, 2021]}}, {"fish", "long/one"}),
        ({"year": {"$in": []}}, set()),
        ({"tags": {"$contains": "red"}}, {"apple"}),
        ({"$or": [{"year": 2015}, {"year": {"$gt": 2020, "$lt": 2030}}]}, {"apple", "plain"}),
        ({"$not": {"$and": [{"year": {"$gt": 2016}}, {"kind": "animal"}]}}, {"apple", "long/one", "plain"}),
        ({"year": None}, {"long/one"}),
    ],
)
def test_filters_are_conditions(index: Index, chosen: dict[str, Any], ids: set[str]) -> None:
    found = HyperseekVectorStore(index).similarity_search("sea", k=10, filter=chosen)
    assert {document.id for document in found} == ids


@pytest.mark.parametrize("chosen", [{}, "year = 1", {"year": {"$near": 1}}, {"year": object()}, {"a`b": 1}, {"$or": 1}])
def test_filters_that_cannot_be_used_are_errors_of_ours(index: Index, chosen: Any) -> None:
    with pytest.raises(InputError):
        HyperseekVectorStore(index).similarity_search("sea", filter=chosen)


def test_a_vector_store_is_built_searched_and_a_retriever(encoder: Retriever, tmp_path: Path) -> None:
    given = HyperseekEmbeddings(encoder)
    metadata = [{"n": 1, "deep": {"a": [1, None]}}, {"n": 2}]
    store = HyperseekVectorStore.from_texts(["cat dog", "sea moon"], given, metadata, path=tmp_path / "a.index")
    [(document, score)] = store.similarity_search_with_score("cat dog", k=1)
    assert document.metadata == metadata[0]
    assert score == pytest.approx(1, abs=1e-4)
    assert store.similarity_search_by_vector(given.embed_query("sea moon"), k=1)[0].metadata["n"] == 2
    retriever = store.as_retriever(search_kwargs={"k": 1, "filter": {"n": 2}})
    assert [each.page_content for each in retriever.invoke("cat dog")] == ["sea moon"]
    assert [each.page_content for each in asyncio.run(retriever.ainvoke("cat dog"))] == ["sea moon"]
    with pytest.raises(InputError, match="no common range"):
        store.similarity_search_with_relevance_scores("cat")
    with pytest.raises(InputError, match="1 texts and 2 ids"):
        store.add_texts(["a"], ids=["1", "2"])
    assert store.delete()
    assert store.similarity_search("cat") == []
    from langchain_core.embeddings import DeterministicFakeEmbedding

    with pytest.raises(InputError, match="built by a model of hyperseek"):
        HyperseekVectorStore.from_texts(["a"], DeterministicFakeEmbedding(size=3), path=tmp_path / "b.index")


def test_documents_are_ranked_again_by_a_model(encoder: Retriever) -> None:
    given = [Document("cat dog", id="a", metadata={"x": 1}), Document("sea moon"), Document("river stone")]
    compressor = HyperseekCompressor(model=encoder, top_n=2)
    best, second = compressor.compress_documents(given, "sea moon")
    assert best.page_content == "sea moon"
    assert best.metadata["relevance_score"] > second.metadata["relevance_score"]
    assert given[0].metadata == {"x": 1}
    again = asyncio.run(compressor.acompress_documents(given, "cat dog"))
    assert (again[0].id, again[0].metadata["x"]) == ("a", 1)
    assert compressor.compress_documents([], "sea") == []
