"""LlamaIndex: a retriever, and a node post-processor that ranks again.

```python
from hyperseek.integrations.llama_index import HyperseekRetriever

retriever = HyperseekRetriever("notes.index", k=5, where="year > 2015")
nodes = retriever.retrieve("how are weak references made?")
```
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from pydantic import PrivateAttr

from hyperseek.errors import InputError, UnknownNameError, require, shown
from hyperseek.integrations import (
    best_first,
    both,
    compared,
    described,
    joined,
    loaded,
    negated,
    opened,
    scores,
)

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.callbacks import CallbackManager
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode
    from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
except ImportError:
    require("llama_index.core", extra="llama-index")
    raise

if TYPE_CHECKING:
    from hyperseek.index import Index
    from hyperseek.integrations import AnyIndex, IndexLike, ModelLike
    from hyperseek.types import Hit

_OPERATORS = {
    FilterOperator.EQ: "==",
    FilterOperator.NE: "!=",
    FilterOperator.GT: ">",
    FilterOperator.GTE: ">=",
    FilterOperator.LT: "<",
    FilterOperator.LTE: "<=",
    FilterOperator.IN: "in",
    FilterOperator.NIN: "not in",
    FilterOperator.CONTAINS: "contains",
}
_OWN = ["score", "rank", "passages"]


class HyperseekRetriever(BaseRetriever):
    """A retriever of an index.

    Nodes have the text of a document's best passage, with its offsets, and the document's id as theirs. What the search
    found is in the metadata (`score`, `rank`, `passages`), and not in the text that a language model is shown.

    Args:
        index: An index, the path of one, or the address of a server.
        k: Nodes of a query.
        where: As in `Index.search`, like the rest.
        filters: LlamaIndex' own filters, which hold besides `where`.
        engine: As in `Index.search`.
        plan: Likewise.
        options: Likewise.
        combine: Likewise.
        callback_manager: LlamaIndex' own.

    Attributes:
        index: The index.

    Raises:
        StoreError: There is no index.
        InputError: A filter cannot be written as a condition.
    """

    def __init__(
        self,
        index: IndexLike,
        *,
        k: int = 10,
        where: str | None = None,
        filters: MetadataFilters | None = None,
        engine: str = "auto",
        plan: Any = None,
        options: Mapping[str, Any] | None = None,
        combine: str = "best",
        callback_manager: CallbackManager | None = None,
    ) -> None:
        super().__init__(callback_manager=callback_manager)
        self.index: AnyIndex = opened(index)
        self._asked: dict[str, Any] = {
            "k": k,
            "where": both(where, None if filters is None else _condition(filters)),
            "engine": engine,
            "plan": plan,
            "options": options,
            "combine": combine,
        }

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        index = cast("Index", self.index)  # a connection has the same method
        return [_node(hit) for hit in index.search(query_bundle.query_str, **self._asked)]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)


class HyperseekRerank(BaseNodePostprocessor):
    """Ranks nodes again by a model of any kind, and keeps the best.

    Args:
        model: A model, or its folder or name.
        top_n: How many nodes to keep; None for all.
        options: Options of queries, as in `Index.search`.
        device: Where to load the model.
        **rest: Of LlamaIndex' own base class.

    Attributes:
        model: The model's folder or name.
        top_n: As given.
        options: As given.

    Raises:
        ModelError: There is no such model.
    """

    model: str
    top_n: int | None = None
    options: dict[str, Any] | None = None
    _model: Any = PrivateAttr()

    def __init__(
        self,
        model: ModelLike,
        *,
        top_n: int | None = None,
        options: Mapping[str, Any] | None = None,
        device: str | None = None,
        **rest: Any,
    ) -> None:
        retriever = loaded(model, device=device)
        given: dict[str, Any] = {"model": retriever.source or "", "top_n": top_n, "options": options and dict(options)}
        super().__init__(**given, **rest)
        self._model = retriever

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex knows the class by."""
        return "HyperseekRerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        if query_bundle is None:
            raise InputError("nodes are ranked for a query, and there is none; give query_str or query_bundle")
        texts = [node.node.get_content(metadata_mode=MetadataMode.NONE) for node in nodes]
        found = scores(self._model, query_bundle.query_str, texts, self.options)
        return [NodeWithScore(node=nodes[place].node, score=found[place]) for place in best_first(found, self.top_n)]


def _node(hit: Hit) -> NodeWithScore:
    best = hit.passages[0] if hit.passages else None
    node = TextNode(
        id_=hit.id,
        text=hit.text or hit.title,
        metadata=described(hit),
        start_char_idx=None if best is None else best.start,
        end_char_idx=None if best is None else best.end,
        excluded_llm_metadata_keys=_OWN,
        excluded_embed_metadata_keys=_OWN,
    )
    return NodeWithScore(node=node, score=hit.score)


def _condition(filters: MetadataFilters | MetadataFilter) -> str:
    if isinstance(filters, MetadataFilters):
        parts = [_condition(part) for part in filters.filters]
        if not parts:
            raise InputError("there are no filters in these MetadataFilters; leave them out")
        if filters.condition == FilterCondition.NOT:
            return negated(joined("OR", parts) or "")
        return joined("OR" if filters.condition == FilterCondition.OR else "AND", parts) or ""
    if filters.operator == FilterOperator.IS_EMPTY:
        return compared(filters.key, "==", None)
    if filters.operator in (FilterOperator.ANY, FilterOperator.ALL):
        if not isinstance(filters.value, list) or not filters.value:
            raise InputError(f"the operator {filters.operator.value!r} takes a list, not {shown(filters.value)}")
        word = "OR" if filters.operator == FilterOperator.ANY else "AND"
        return joined(word, (compared(filters.key, "contains", each) for each in filters.value)) or ""
    if filters.operator not in _OPERATORS:
        raise UnknownNameError("operator of filters", filters.operator.value, [each.value for each in _OPERATORS])
    return compared(filters.key, _OPERATORS[filters.operator], filters.value)
