"""The snippet of docs/geometry.md."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from hyperseek import geometry

GUIDE = (Path(__file__).parents[2] / "docs" / "geometry.md").read_text()


def test_the_guide_pools_and_trains_the_curvature() -> None:
    [snippet] = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    names: dict[str, Tensor] = {}
    exec(snippet, names)
    assert names["distances"].shape == (2, 2)
    assert names["tokens"].shape == (2, 7, 17)
    assert names["radius_squared"].grad is not None
    assert names["radius_squared"].grad.isfinite()


def test_the_guide_names_functions_that_exist() -> None:
    names = re.findall(r"`((?:lorentz|poincare|mobius|klein)_\w+)[`(]", GUIDE)
    assert len(set(names)) > 15
    for name in names:
        assert hasattr(geometry, name), name
