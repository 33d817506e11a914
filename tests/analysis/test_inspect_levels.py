"""Looking at levels: cosines, overlaps, radii, paths, the page and the command."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hyperseek import HyperseekError
from hyperseek.analysis import inspect_levels
from hyperseek.cli import app
from hyperseek.index import Index
from hyperseek.models import ModelConfig, build, load
from hyperseek.scoring import Space
from hyperseek.types import Document

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "firefox")


def tangents() -> torch.Tensor:
    """Sixty texts at two levels of 8 dimensions; the second is not like the first."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(60, 16, generator=generator) * torch.tensor([0.5] * 8 + [1.0] * 8)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    rows = tangents()
    documents = [
        Document(
            f"d{row}", "word " * (row + 1), f"</script>title {row}", {"parent": f"d{(row - 1) // 2}"} if row else {}
        )
        for row in range(60)
    ]
    path = tmp_path_factory.mktemp("levels") / "index"
    return Index.from_vectors(path, zip(documents, rows, strict=True), Space("levels", 8, levels=2, radius_squared=2.0))


def test_cosines_overlaps_and_radii_against_slow_ones(index: Index) -> None:
    report = inspect_levels(index, hierarchy="parent", neighbours=5)
    parts = tangents().double().reshape(60, 2, 8)
    units = parts / parts.norm(dim=-1, keepdim=True)
    assert report.cosines[0][1] == pytest.approx(float((units[:, 0] * units[:, 1]).sum(1).mean()), abs=1e-5)
    assert [report.cosines[0][0], report.cosines[1][1]] == pytest.approx([1, 1])
    space = Space("levels", 8, levels=2, radius_squared=2.0)
    rows = space.canonical(parts.flatten(1))
    near = []
    for level in (1, 2):
        apart = space.one_level.distances(space.at_level(rows, level), space.at_level(rows, level)).numpy()
        np.fill_diagonal(apart, np.inf)
        near.append([set(np.argsort(row)[:5].tolist()) for row in apart])
    common = np.mean([len(first & second) / 5 for first, second in zip(*near, strict=True)])
    assert report.overlap == [[1, pytest.approx(common)], [pytest.approx(common), 1]]
    norms = 2 * parts.norm(dim=-1)
    assert [radii.mean for radii in report.radii] == pytest.approx(norms.mean(0).tolist(), rel=1e-5)
    assert all(one is not None and one.by == "depth" for one in report.specificity)
    path = inspect_levels(index, ids=["d7"], neighbours=5).paths[0]
    assert path.radii == pytest.approx(norms[7].tolist(), rel=1e-5)
    assert [{int(one.id[1:]) for one in listed} for listed in path.near] == [near[0][7], near[1][7]]
    assert all(
        listed[rank].distance <= listed[rank + 1].distance for listed in path.near for rank in range(len(listed) - 1)
    )


def test_levels_without_spread_are_said(tmp_path: Path) -> None:
    rows = tangents().reshape(60, 2, 8)
    rows = (rows / rows.norm(dim=-1, keepdim=True)).flatten(1)
    documents = [Document(str(row), "text " * (row + 1)) for row in range(60)]
    index = Index.from_vectors(tmp_path / "index", zip(documents, rows, strict=True), Space("levels", 8, levels=2))
    report = inspect_levels(index)
    assert report.specificity == [None, None]
    assert report.left_out["radius by length in characters at level 1"] == "all points are 2 from the origin"
    assert len(report.paths) == 6


def test_the_page_holds_everything_and_loads_nothing(index: Index, tmp_path: Path) -> None:
    report = inspect_levels(index, ids=["d3", "d5"], output=tmp_path)
    assert [path.name for path in report.files] == ["levels.json", "levels.html"]
    assert json.loads((tmp_path / "levels.json").read_text()) == report.to_json()
    page = (tmp_path / "levels.html").read_text()
    assert not re.search(r"https?:|//[a-z]+\.|@import|<link|src=", page)
    assert page.count("</script>") == 2  # titles hold one, too
    assert "prefers-color-scheme: dark" in page
    data = json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    assert [path["title"] for path in data["paths"]] == ["</script>title 3", "</script>title 5"]
    assert len(data["background"]) == 2
    assert data["cosines"] == [[pytest.approx(value, rel=1e-4) for value in row] for row in report.cosines]


def test_a_browser_shows_the_page(index: Index, tmp_path: Path) -> None:
    browser = next((found for name in BROWSERS[:-1] if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser is installed: {', '.join(BROWSERS[:-1])}")
    inspect_levels(index, ids=["d3"], output=tmp_path)
    shown = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"file://{tmp_path}/levels.html"],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    assert "<polyline" in shown
    assert shown.count("<h2>Level ") == 2


def test_what_makes_no_sense_is_said(index: Index, tmp_path: Path) -> None:
    flat = Index.from_vectors(tmp_path / "flat", [(Document("a", "text"), torch.ones(2))], Space("dot", 2))
    for opened, settings, message in [
        (flat, {}, "a 'dot' space has no levels to look at"),
        (index, {"sample": 2}, "at least 3 documents"),
        (index, {"ids": ["d99"]}, "no document 'd99'; its ids are like 'd0'"),
        (index, {"texts": ["a cat"]}, "does not name its model"),
    ]:
        given: Any = settings
        with pytest.raises(HyperseekError, match=message):
            inspect_levels(opened, **given)


def test_the_command_shows_texts_side_by_side(tiny_encoder: str, tmp_path: Path) -> None:
    values = {"trunk": tiny_encoder, "family": "levels", "pooling": "mean", "levels": {"d_hrm": 32, "num_segments": 2}}
    build(ModelConfig.from_mapping(values), device="cpu").save(tmp_path / "model")
    texts = ["the cat and the dog", "a bird by the sea", "the moon and the sun", "a river in the city"]
    documents = [Document(f"d{row}", text) for row, text in enumerate(texts)]
    Index.build(tmp_path / "index", documents, load(tmp_path / "model", device="cpu"))
    given = ["inspect", "levels", str(tmp_path / "index"), "--text", "the cat and the dog", "--device", "cpu"]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.output
    assert "mean cosine of a text between levels" in result.stdout
    nearest = next(line for line in result.stdout.splitlines() if line.count(texts[0]) == 2)
    assert nearest.startswith("0")
    assert "no radius by length in characters at level 1" in result.stderr
    found = json.loads(CliRunner().invoke(app, [*given, "--id", "d1", "--json"]).stdout)
    assert [path["id"] for path in found["paths"]] == [None, "d1"]
    assert found["paths"][0]["near"][1][0]["id"] == "d0"
