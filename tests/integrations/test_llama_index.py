from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("llama_index.core")

from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from hyperseek import Index, Retriever
from hyperseek.errors import InputError, UnknownNameError
from hyperseek.integrations.llama_index import HyperseekRerank, HyperseekRetriever


def test_nodes_are_the_best_passages(index: Index) -> None:
    retriever = HyperseekRetriever(index.path, k=4)
    nodes = retriever.retrieve("door window table music")
    hits = index.search("door window table music", k=4)
    assert [(node.node.node_id, node.score) for node in nodes] == [(hit.id, hit.score) for hit in hits]
    [long] = [node.node for node in nodes if node.node.node_id == "long/one"]
    assert isinstance(long, TextNode)
    assert index["long/one"].text[long.start_char_idx : long.end_char_idx] == long.text
    assert long.metadata["passages"][0]["start"] == long.start_char_idx
    assert "passages" not in long.get_content(metadata_mode=MetadataMode.LLM)
    assert [node.node.node_id for node in asyncio.run(retriever.aretrieve(QueryBundle("door window table music")))] == [
        hit.id for hit in hits
    ]


def filters(*parts: MetadataFilter | MetadataFilters, condition: str = "and") -> MetadataFilters:
    return MetadataFilters(filters=list(parts), condition=FilterCondition(condition))


YEAR = MetadataFilter(key="year", value=2016, operator=FilterOperator.GT)
KIND = MetadataFilter(key="kind", value="animal")
RED = MetadataFilter(key="tags", value=["red", "blue"], operator=FilterOperator.ANY)


@pytest.mark.parametrize(
    ("chosen", "ids"),
    [
        (filters(YEAR, KIND), {"fish"}),
        (filters(YEAR, RED, condition="or"), {"apple", "fish", "plain"}),
        (filters(YEAR, condition="not"), {"apple", "long/one"}),
        (filters(filters(KIND, RED, condition="or"), YEAR), {"fish"}),
        (filters(MetadataFilter(key="tags", value=["red", "blue"], operator=FilterOperator.ALL)), set()),
        (filters(MetadataFilter(key="kind", value=None, operator=FilterOperator.IS_EMPTY)), {"apple", "long/one"}),
        (filters(MetadataFilter(key="year", value=[2015], operator=FilterOperator.IN)), {"apple"}),
    ],
)
def test_filters_are_conditions(index: Index, chosen: MetadataFilters, ids: set[str]) -> None:
    found = HyperseekRetriever(index, filters=chosen).retrieve("sea")
    assert {node.node.node_id for node in found} == ids
    both = HyperseekRetriever(index, filters=chosen, where="id != 'fish'").retrieve("sea")
    assert {node.node.node_id for node in both} == ids - {"fish"}


def test_filters_that_cannot_be_written_are_errors_of_ours(index: Index) -> None:
    text = MetadataFilter(key="kind", value="a", operator=FilterOperator.TEXT_MATCH)
    with pytest.raises(UnknownNameError, match="text_match"):
        HyperseekRetriever(index, filters=filters(text))
    with pytest.raises(InputError, match="no filters"):
        HyperseekRetriever(index, filters=filters())


def test_nodes_are_ranked_again_by_a_model(encoder: Retriever) -> None:
    nodes = [NodeWithScore(node=TextNode(text=text), score=9) for text in ("cat dog", "sea moon", "river stone")]
    rerank = HyperseekRerank(encoder, top_n=2)
    best, second = rerank.postprocess_nodes(nodes, query_str="sea moon")
    assert best.node.get_content() == "sea moon"
    assert best.score is not None
    assert second.score is not None
    assert best.score > second.score
    assert nodes[1].score == 9
    again = asyncio.run(rerank.apostprocess_nodes(nodes, query_str="cat dog"))
    assert again[0].node.get_content() == "cat dog"
    assert rerank.to_dict()["model"] == encoder.source
    with pytest.raises(InputError, match="give query_str"):
        rerank.postprocess_nodes(nodes)
