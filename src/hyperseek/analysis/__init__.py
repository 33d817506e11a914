"""Looking at spaces, their levels, task cards, the health of indexes, and what tells systems apart query by query.

```python
report = inspect_space(Index.open("wordnet.index"), hierarchy="edges.tsv", output="pictures")
```
"""

from hyperseek.analysis._cards import CardReport, HeadChange, QueryChange, inspect_card
from hyperseek.analysis._curvature import CurvatureEstimate, DeltaEstimate, delta_hyperbolicity, ollivier_ricci
from hyperseek.analysis._duplicates import Duplicates
from hyperseek.analysis._health import Directions, HealthReport, Hub, Hubness, inspect_health
from hyperseek.analysis._queries import inspect_queries
from hyperseek.analysis._query_report import GainBy, QueriesReport, QueryOutcome, TopDocument, WinsAndLosses
from hyperseek.analysis._radii import RadiusReport, SpecificityLevel, SpecificityReport
from hyperseek.analysis._rankings import FusionBounds, Holes, ScoreBin, ScoreReport
from hyperseek.analysis._reports import (
    LevelPath,
    LevelsReport,
    NearDocument,
    SpaceReport,
    inspect_levels,
    inspect_space,
)
from hyperseek.analysis.disk import DiskFit

__all__ = [
    "CardReport",
    "CurvatureEstimate",
    "DeltaEstimate",
    "Directions",
    "DiskFit",
    "Duplicates",
    "FusionBounds",
    "GainBy",
    "HeadChange",
    "HealthReport",
    "Holes",
    "Hub",
    "Hubness",
    "LevelPath",
    "LevelsReport",
    "NearDocument",
    "QueriesReport",
    "QueryChange",
    "QueryOutcome",
    "RadiusReport",
    "ScoreBin",
    "ScoreReport",
    "SpaceReport",
    "SpecificityLevel",
    "SpecificityReport",
    "TopDocument",
    "WinsAndLosses",
    "delta_hyperbolicity",
    "inspect_card",
    "inspect_health",
    "inspect_levels",
    "inspect_queries",
    "inspect_space",
    "ollivier_ricci",
]
