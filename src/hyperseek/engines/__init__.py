"""Candidate engines: what finds the vectors that a query ranks highest, all or nearly all of them.

They know vectors only, by position. What a space's points are as vectors, its charts say.
"""

from hyperseek.engines._build import build_engine, choose_engine, open_engine
from hyperseek.engines._estimate import EngineEstimate, estimate_engine
from hyperseek.engines._qdrant import use_qdrant
from hyperseek.engines.configs import (
    AnyEngineConfig,
    EngineConfig,
    HnswConfig,
    IvfConfig,
    LanceConfig,
    QdrantConfig,
    ScanConfig,
)
from hyperseek.engines.engine import Engine

__all__ = [
    "AnyEngineConfig",
    "Engine",
    "EngineConfig",
    "EngineEstimate",
    "HnswConfig",
    "IvfConfig",
    "LanceConfig",
    "QdrantConfig",
    "ScanConfig",
    "build_engine",
    "choose_engine",
    "estimate_engine",
    "open_engine",
    "use_qdrant",
]
