"""Search plans: where candidates come from, how they are fused, and what scores them in the end."""

from hyperseek._order import NOTHING
from hyperseek.plan._engine_search import Surrogate
from hyperseek.plan._open_index import Candidates, OpenIndex, Search, fuse
from hyperseek.plan._plan import (
    Plan,
    PlanLike,
    Source,
    StageReport,
    Step,
    Union,
    as_plan,
    broad_to_narrow,
    hybrid,
    register_stage,
)
from hyperseek.plan.exhaustive import scan
from hyperseek.plan.stages import (
    AUTO,
    EXACT,
    Auto,
    Dense,
    Engine,
    Exhaustive,
    Feedback,
    FullText,
    Fusion,
    Graph,
    Nearest,
    Rescore,
)

__all__ = [
    "AUTO",
    "EXACT",
    "NOTHING",
    "Auto",
    "Candidates",
    "Dense",
    "Engine",
    "Exhaustive",
    "Feedback",
    "FullText",
    "Fusion",
    "Graph",
    "Nearest",
    "OpenIndex",
    "Plan",
    "PlanLike",
    "Rescore",
    "Search",
    "Source",
    "StageReport",
    "Step",
    "Surrogate",
    "Union",
    "as_plan",
    "broad_to_narrow",
    "fuse",
    "hybrid",
    "register_stage",
    "scan",
]
