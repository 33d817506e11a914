"""Search plans: where candidates come from, how they are fused, and what scores them in the end."""

from hyperseek.plan._candidates import NOTHING, Candidates
from hyperseek.plan._choice import AUTO, EXACT
from hyperseek.plan._combine import Fusion, Rescore, Union
from hyperseek.plan._context import Ground, Search
from hyperseek.plan._fusion import fuse
from hyperseek.plan._plan import Plan, PlanLike, StageReport, as_plan, hybrid
from hyperseek.plan._scan import scan
from hyperseek.plan._sources import BM25, Auto, Dense, Engine, Graph, Scan, Surrogate

__all__ = [
    "AUTO",
    "BM25",
    "EXACT",
    "NOTHING",
    "Auto",
    "Candidates",
    "Dense",
    "Engine",
    "Fusion",
    "Graph",
    "Ground",
    "Plan",
    "PlanLike",
    "Rescore",
    "Scan",
    "Search",
    "StageReport",
    "Surrogate",
    "Union",
    "as_plan",
    "fuse",
    "hybrid",
    "scan",
]
