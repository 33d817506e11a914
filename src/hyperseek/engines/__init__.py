"""Candidate engines: what finds the vectors that a query ranks highest, all or nearly all of them.

They know vectors only, by position. What a space's points are as vectors, its charts say.
"""

from hyperseek.engines._build import build_engine, open_engine, what_fits
from hyperseek.engines._choose import choose_engine
from hyperseek.engines._configs import (
    AnyEngineConfig,
    EngineConfig,
    HnswConfig,
    IvfConfig,
    LanceConfig,
    QdrantConfig,
    ScanConfig,
    parse_engine,
)
from hyperseek.engines._engine import LONGEST, Engine
from hyperseek.engines._estimate import EngineEstimate, estimate_engine
from hyperseek.engines._qdrant import use_qdrant

__all__ = [
    "LONGEST",
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
    "parse_engine",
    "use_qdrant",
    "what_fits",
]
