"""`hyperseek inspect space` as a command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from hyperseek import HyperseekError
from hyperseek.cli import app
from hyperseek.index import Index
from hyperseek.scoring import Space
from hyperseek.types import Document


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("space") / "index"
    pairs = []
    for row in range(40):
        direction = torch.randn(3, generator=torch.Generator().manual_seed(row))
        inner = direction / direction.norm() * torch.sinh(torch.tensor(0.1 * row))
        point = torch.cat([(1 + inner.square().sum(0, True)).sqrt(), inner])
        above = {"parent": str((row - 1) // 2)} if row else {}
        pairs.append((Document(str(row), "text", f"title {row}", {"rank": row, **above}), point))
    Index.from_vectors(path, pairs, Space("lorentz", 3))
    return path


def inspect_space(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["inspect", "space", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0
    return result


def test_for_people(index: Path, tmp_path: Path) -> None:
    result = inspect_space(index, "--hierarchy", "parent", "--edges", 10, "-o", tmp_path)
    text = result.stdout
    assert "40 documents in Space(kind='lorentz', dimension=3" in text
    assert "radius by depth: Spearman 0.9" in text
    assert "  0  mean 0 ± 0, 1 documents" in text
    assert "2 delta / diameter 0." in text
    assert "all quadruples with 10 of 40 random points, and 1,000,000 random ones, seed 0" in text
    assert "10-nearest-neighbour graph of 40 points, alpha 0.5" in text
    assert "disk by projection: " in text
    assert f"wrote {tmp_path / 'disk.html'}" in result.stderr


def test_as_json(index: Path) -> None:
    arguments = (index, "--by", "rank", "--sample", 30, "--neighbours", 3, "--edges", 7, "--seed", 4, "--json")
    report = json.loads(inspect_space(*arguments).stdout)
    assert report["specificity"]["spearman"] == pytest.approx(1)
    assert len(report["specificity"]["levels"]) == 10
    curvature = report["curvature"]
    assert [curvature[name] for name in ("points", "neighbours", "edges", "seed")] == [30, 3, 7, 4]
    assert report == json.loads(inspect_space(*arguments).stdout)


def test_errors(index: Path) -> None:
    with pytest.raises(HyperseekError, match="did you mean 'rank'"):
        inspect_space(index, "--by", "rnak")
