"""The snippet of docs/hyperbolic.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

GUIDE = (Path(__file__).parents[2] / "docs" / "hyperbolic.md").read_text()


def test_the_guide_finds_each_point_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    [snippet] = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    names: dict[str, object] = {}
    exec(snippet, names)
    hits: list[list[object]] = names["hits"]  # type: ignore[assignment]
    assert [found[0].id for found in hits] == ["0", "1"]  # type: ignore[attr-defined]
    assert [len(found) for found in hits] == [5, 5]
