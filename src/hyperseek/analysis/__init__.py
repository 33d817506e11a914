"""The shape of a space: radii by specificity, Gromov's delta, Ollivier-Ricci curvature, pictures of the Poincaré disk.

```python
report = inspect_space(Index.open("wordnet.index"), hierarchy="edges.tsv", output="pictures")
```
"""

from hyperseek.analysis._curvature import CurvatureEstimate, DeltaEstimate, delta_hyperbolicity, ollivier_ricci
from hyperseek.analysis._disk import DiskFit
from hyperseek.analysis._level_paths import LevelPath, LevelsReport, NearDocument, inspect_levels
from hyperseek.analysis._radii import RadiusReport, SpecificityLevel, SpecificityReport
from hyperseek.analysis._shape import SpaceReport, inspect_space

__all__ = [
    "CurvatureEstimate",
    "DeltaEstimate",
    "DiskFit",
    "LevelPath",
    "LevelsReport",
    "NearDocument",
    "RadiusReport",
    "SpaceReport",
    "SpecificityLevel",
    "SpecificityReport",
    "delta_hyperbolicity",
    "inspect_levels",
    "inspect_space",
    "ollivier_ricci",
]
