"""The shape of whole indexes, and the files that show it."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr

from hyperseek import HyperseekError
from hyperseek.analysis import inspect_space
from hyperseek.analysis._radii import distances, metric_of, radii
from hyperseek.errors import MissingExtraError
from hyperseek.index import Index
from hyperseek.scoring import Space
from hyperseek.types import Document


def test_a_tree_in_its_space(lorentz_index: Index, edges_file: Path, tree: Any) -> None:
    report = inspect_space(lorentz_index, hierarchy=edges_file, neighbours=3, edges=40)
    assert report.documents == len(tree.parents)
    assert report.radii is not None
    assert report.radii.quantiles[0] == 0
    assert report.radii.quantiles[-1] == pytest.approx(6.0, rel=1e-5)
    assert sum(report.radii.histogram) == report.documents
    assert report.specificity is not None
    assert (report.specificity.by, report.specificity.spearman) == ("depth", pytest.approx(1))
    assert [level.mean for level in report.specificity.levels] == pytest.approx([0, 1.5, 3, 4.5, 6], rel=1e-5)
    assert [level.count for level in report.specificity.levels] == [1, 3, 9, 27, 81]
    assert report.delta is not None
    assert report.delta.greatest <= math.log(2) + 1e-9
    assert report.curvature is not None
    assert report.curvature.edges == 40
    assert report.left_out == {}
    assert (report.files, report.disks) == ([], [])


@pytest.mark.parametrize(
    ("settings", "by", "sign"),
    [
        ({"hierarchy": "parent"}, "depth", 1),
        ({"by": "level"}, "level", 1),
        ({"by": "level", "hierarchy": "parent"}, "level", 1),
        ({}, "length in characters", 1),
    ],
)
def test_specificity_from_fields_hierarchies_and_lengths(
    lorentz_index: Index, tree: Any, settings: dict[str, str], by: str, sign: int
) -> None:
    found = inspect_space(lorentz_index, edges=5, neighbours=2, **settings).specificity
    assert found is not None
    lengths = [len(document.full_text) for document in lorentz_index.documents()]
    expected = spearmanr(lengths, tree.depths).statistic if "length" in by else 1.0
    assert (found.by, found.spearman) == (by, pytest.approx(expected))
    assert found.p_value < 1e-10


def test_the_files_show_everything_and_load_nothing(lorentz_index: Index, tmp_path: Path, tree: Any) -> None:
    report = inspect_space(lorentz_index, hierarchy="parent", edges=5, neighbours=2, output=tmp_path / "pictures")
    names = [path.name for path in report.files]
    assert names == ["space.json", "space.png", "disk.png", "disk-hierarchy.png", "disk.html"]
    assert json.loads((tmp_path / "pictures" / "space.json").read_text()) == report.to_json()
    for path in report.files[1:4]:
        with Image.open(path) as picture:
            colours = picture.convert("RGB").getcolors(1 << 24)
        assert len(colours) > 50
    projection, hierarchy = report.disks
    assert (projection.layout, projection.variance) == ("projection", pytest.approx(1))
    assert projection.spearman == pytest.approx(1, abs=1e-3)
    assert hierarchy.layout == "hierarchy"
    assert hierarchy.spearman > 0.95
    page = (tmp_path / "pictures" / "disk.html").read_text()
    assert not re.search(r"https?:|//[a-z]+\.|@import|<link|src=", page)
    assert page.count("</script>") == 2  # titles hold one, too
    data = json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    assert data["titles"] == [f"</script>node {row}" for row in range(len(tree.parents))]
    assert data["parents"] == tree.parents
    assert data["rho"] == pytest.approx([1.5 * depth for depth in tree.depths], rel=1e-4)
    assert data["values"] == tree.depths
    assert [layout["name"] for layout in data["layouts"]] == ["the space", "the hierarchy"]
    assert all(len(layout["angles"]) == len(tree.parents) for layout in data["layouts"])


def test_a_disk_without_a_hierarchy_is_coloured_by_ranges(lorentz_index: Index, tmp_path: Path) -> None:
    report = inspect_space(lorentz_index, by="level", sample=50, edges=5, neighbours=2, output=tmp_path)
    assert not (tmp_path / "disk-hierarchy.png").exists()
    assert [fit.layout for fit in report.disks] == ["projection"]
    page = (tmp_path / "disk.html").read_text()
    data = json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    assert len(data["titles"]) == 50
    assert "coloured by level" in data["notes"]
    assert set(data["groups"]) == set(range(len(data["names"])))
    for group, level in zip(data["groups"], data["values"], strict=True):
        ends = [float(end) for end in data["names"][group].split(" to ")]
        assert ends[0] <= level <= ends[-1]
    # A range of one number says so.
    assert all(len(set(name.split(" to "))) == name.count(" to ") + 1 for name in data["names"])


@pytest.mark.parametrize("kind", ["euclidean", "dot", "cosine"])
def test_flat_spaces_have_what_makes_sense(flat_indexes: dict[str, Index], tmp_path: Path, kind: str) -> None:
    report = inspect_space(flat_indexes[kind], edges=20, neighbours=3, output=tmp_path)
    assert report.metric == ("angle in radians" if kind == "cosine" else "Euclidean distance")
    assert f"this is a {kind} one" in report.left_out["disk"]
    assert report.delta is not None
    assert report.curvature is not None
    assert (report.radii is None) == (report.specificity is None) == (kind == "cosine")
    assert ("radii" in report.left_out) == (kind == "cosine")
    assert [path.name for path in report.files] == ["space.json", "space.png"]
    assert not (tmp_path / "disk.html").exists()
    json.dumps(report.to_json(), allow_nan=False)


def test_what_makes_no_sense_is_said(
    lorentz_index: Index, flat_indexes: dict[str, Index], tmp_path: Path, tree: Any
) -> None:
    with pytest.raises(HyperseekError, match="norm 1, so their radii carry no information; leave out --by"):
        inspect_space(flat_indexes["cosine"], by="level")
    for settings, message in [
        ({"by": "levl"}, "unknown specificity 'levl'; did you mean 'level'"),
        ({"by": "kind"}, "must be a number, and the field 'kind' is a string"),
        ({"by": "depth"}, "depth needs a hierarchy"),
        ({"hierarchy": "parnet"}, "neither a file nor a metadata field: 'parnet'; did you mean 'parent'"),
        ({"sample": 3}, "at least 4 documents"),
    ]:
        with pytest.raises(HyperseekError, match=message):
            inspect_space(lorentz_index, **settings)
    strange = tmp_path / "strange.tsv"
    strange.write_text("x\ty\n")
    with pytest.raises(HyperseekError, match="names no document of the index; its ids are like 'x'"):
        inspect_space(lorentz_index, hierarchy=strange)
    with pytest.raises(HyperseekError, match="no distance between documents"):
        metric_of(Space("tokens", 4))


def test_an_index_of_too_few_documents_is_said(tmp_path: Path) -> None:
    pairs = [(Document(str(row), "text"), torch.ones(2)) for row in range(3)]
    index = Index.from_vectors(tmp_path / "index", pairs, Space("euclidean", 2))
    with pytest.raises(HyperseekError, match="at least 4 documents, and the index has 3"):
        inspect_space(index)


@pytest.mark.parametrize("kind", ["lorentz", "poincare", "euclidean", "dot"])
def test_radii_are_distances_from_the_origin(kind: str) -> None:
    space = Space(kind, 3, **({"radius_squared": 2.5} if kind in ("lorentz", "poincare") else {}))
    generator = torch.Generator().manual_seed(0)
    inner = torch.randn(20, 3, generator=generator).double() * (0.4 if kind == "poincare" else 1)
    points = inner if kind != "lorentz" else torch.cat([(2.5 + inner.square().sum(1, True)).sqrt(), inner], 1)
    vectors = space.canonical(points)
    origin = torch.zeros(1, space.width).double()
    expected = distances(space, origin, vectors)[0]
    np.testing.assert_allclose(radii(space, vectors), expected, rtol=1e-6)
    other = Space(kind, 3, 2.5, "inner") if space.hyperbolic else space
    np.testing.assert_allclose(distances(other, origin, vectors)[0], expected)


def test_angles_are_exact_for_near_vectors() -> None:
    near = torch.tensor([[1.0, 0.0], [1.0, 1e-4], [-1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    found = distances(Space("cosine", 2), near[:1], near)[0]
    np.testing.assert_allclose(found, [0, 1e-4, np.pi, np.pi / 2], rtol=1e-8)
    with pytest.raises(HyperseekError, match="norm 1"):
        radii(Space("cosine", 2), near)


@pytest.mark.parametrize("storage", ["float32", "float16"])
def test_radii_that_are_alike_but_for_rounding_are_said_to_be_so(tmp_path: Path, storage: Any) -> None:
    vectors = torch.randn(40, 24, generator=torch.Generator().manual_seed(0))
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    items = [(Document(str(row), "text " * (row + 1)), vector) for row, vector in enumerate(vectors)]
    index = Index.from_vectors(tmp_path / "index", items, Space("dot", 24), storage=storage)
    report = inspect_space(index, edges=10, neighbours=3, output=tmp_path / "out")
    assert (report.radii, report.specificity) == (None, None)
    assert f"up to the rounding of {storage}" in report.left_out["radii"]
    with pytest.raises(
        HyperseekError, match=r"all points are 1 from the origin .* so their radii carry no information; leave out --by"
    ):
        inspect_space(index, by="length", edges=10, neighbours=3)


@pytest.mark.parametrize(("module", "output"), [("ot", False), ("scipy", False), ("matplotlib", True)])
def test_a_missing_package_is_found_before_the_work(
    lorentz_index: Index, module: str, output: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str, *, extra: str) -> None:
        if name.startswith(module):
            raise MissingExtraError(f"{name} is not there; {extra} brings it")

    def work(*_: Any, **__: Any) -> None:
        pytest.fail("the work began")

    monkeypatch.setattr("hyperseek.analysis._reports.require", missing)
    monkeypatch.setattr("hyperseek.analysis._reports._read_points", work)
    with pytest.raises(MissingExtraError):
        inspect_space(lorentz_index, output=tmp_path if output else None)
