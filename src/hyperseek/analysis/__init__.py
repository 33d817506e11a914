"""The shape of a space: radii by specificity, Gromov's delta, Ollivier-Ricci curvature, pictures of the Poincaré disk.

```python
report = inspect_space(Index.open("wordnet.index"), hierarchy="edges.tsv", output="pictures")
```
"""

from hyperseek.analysis._corpus import Hierarchy, read_hierarchy
from hyperseek.analysis._delta import DeltaEstimate, delta_hyperbolicity
from hyperseek.analysis._disk import DiskFit
from hyperseek.analysis._inspect import RadiusReport, SpaceReport, inspect_space
from hyperseek.analysis._radii import Level, SpecificityReport, radius_by_specificity
from hyperseek.analysis._ricci import CurvatureEstimate, neighbour_graph, ollivier_ricci

__all__ = [
    "CurvatureEstimate",
    "DeltaEstimate",
    "DiskFit",
    "Hierarchy",
    "Level",
    "RadiusReport",
    "SpaceReport",
    "SpecificityReport",
    "delta_hyperbolicity",
    "inspect_space",
    "neighbour_graph",
    "ollivier_ricci",
    "radius_by_specificity",
    "read_hierarchy",
]
