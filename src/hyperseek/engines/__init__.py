"""Candidate structures: what is built on the documents of an index to find those that a query ranks highest.

Engines know only vectors, by position; the charts of a space turn its points into vectors.
"""

from hyperseek.engines._centroids import CentroidsConfig
from hyperseek.engines._faiss import HnswConfig, IvfConfig
from hyperseek.engines._flat import FlatConfig
from hyperseek.engines._lance import LanceConfig
from hyperseek.engines._qdrant import QdrantConfig, use_qdrant
from hyperseek.engines._qdrant_tokens import QdrantTokensConfig
from hyperseek.engines.charts import VectorStructure, choose_engine
from hyperseek.engines.engine import (
    ChartRecord,
    Engine,
    EngineConfig,
    build_engine,
    estimate_engine,
    open_engine,
)
from hyperseek.engines.structure import (
    STRUCTURES,
    CandidateRequest,
    Documents,
    Structure,
    StructureConfig,
    StructureEstimate,
)

__all__ = [
    "STRUCTURES",
    "CandidateRequest",
    "CentroidsConfig",
    "ChartRecord",
    "Documents",
    "Engine",
    "EngineConfig",
    "FlatConfig",
    "HnswConfig",
    "IvfConfig",
    "LanceConfig",
    "QdrantConfig",
    "QdrantTokensConfig",
    "Structure",
    "StructureConfig",
    "StructureEstimate",
    "VectorStructure",
    "build_engine",
    "choose_engine",
    "estimate_engine",
    "open_engine",
    "use_qdrant",
]
