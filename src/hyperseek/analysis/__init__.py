"""Looking at spaces, their levels, and task cards: radii, Gromov's delta, Ollivier-Ricci curvature, pictures, gains.

```python
report = inspect_space(Index.open("wordnet.index"), hierarchy="edges.tsv", output="pictures")
```
"""

from hyperseek.analysis._cards import CardReport, HeadChange, QueryChange, inspect_card
from hyperseek.analysis._curvature import CurvatureEstimate, DeltaEstimate, delta_hyperbolicity, ollivier_ricci
from hyperseek.analysis._radii import RadiusReport, SpecificityLevel, SpecificityReport
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
    "DiskFit",
    "HeadChange",
    "LevelPath",
    "LevelsReport",
    "NearDocument",
    "QueryChange",
    "RadiusReport",
    "SpaceReport",
    "SpecificityLevel",
    "SpecificityReport",
    "delta_hyperbolicity",
    "inspect_card",
    "inspect_levels",
    "inspect_space",
    "ollivier_ricci",
]
