"""The neighbour graph of a corpus, and the search of the Hypencoder paper, which walks along it."""

from hyperseek.graph._graph import NeighbourGraph
from hyperseek.graph._search import GRAPH_PRESETS, GraphSearchConfig, GraphSearchResult, graph_search
from hyperseek.graph.building import GraphInfo
from hyperseek.graph.index_graph import GraphConfig, GraphEstimate, estimate_graph

__all__ = [
    "GRAPH_PRESETS",
    "GraphConfig",
    "GraphEstimate",
    "GraphInfo",
    "GraphSearchConfig",
    "GraphSearchResult",
    "NeighbourGraph",
    "estimate_graph",
    "graph_search",
]
