"""Search plans: where candidates come from, how they are fused, and what scores them in the end."""

from hyperseek.plan._context import NOTHING, Candidates, Ground, Search
from hyperseek.plan._exhaustive import scan
from hyperseek.plan._fusion import Fusion, Rescore, Union
from hyperseek.plan._plan import Plan, PlanLike, StageReport, as_plan, hybrid
from hyperseek.plan._sources import BM25, Auto, Dense, Engine, Graph, Scan, Surrogate
from hyperseek.plan.choice import AUTO, EXACT

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
    "hybrid",
    "scan",
]
