"""Hierarchies from files and fields: depths, ancestors, circles."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from hyperseek import HyperseekError
from hyperseek.analysis._specificity import Hierarchy, read_hierarchy


def test_a_graph_with_two_ways_up_takes_the_shorter() -> None:
    hierarchy = Hierarchy.from_edges(
        [("b", "root"), ("c", "b"), ("d", "c"), ("d", "root"), ("d", "c"), ("e", "d"), ("x", "other")]
    )
    assert hierarchy.roots == ["root", "other"]
    assert hierarchy.depths == {"root": 0, "b": 1, "c": 2, "d": 1, "e": 2, "other": 0, "x": 1}
    assert list(hierarchy.ancestors("e")) == ["d", "root"]
    assert list(hierarchy.ancestors("c")) == ["b", "root"]
    assert list(hierarchy.ancestors("unknown")) == []
    assert hierarchy.parents["d"] == ["c", "root"]


def test_parents_come_before_children() -> None:
    tree = Hierarchy.from_edges([("c", "b"), ("b", "a"), ("d", "c")]).tree
    assert list(tree) == ["a", "b", "c", "d"]


def test_circles_are_said() -> None:
    with pytest.raises(HyperseekError, match="'a': its ancestors form a circle"):
        Hierarchy.from_edges([("a", "b"), ("b", "a"), ("c", "root")]).depths  # noqa: B018


@pytest.mark.parametrize("packed", [False, True])
def test_files_with_and_without_a_header(tmp_path: Path, packed: bool) -> None:
    for text in ("a\troot\nb\ta\tleft out\n", "parent\tchild\nroot\ta\na\tb\n"):
        path = tmp_path / ("edges.tsv.gz" if packed else "edges.tsv")
        path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
        assert read_hierarchy(path).depths == {"root": 0, "a": 1, "b": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [("a\tb\nc\n", r":2: an edge is .* not 'c'"), ("a\t\n", "an edge is"), ("child\tparent\n", "contains no edges")],
)
def test_bad_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "edges.tsv"
    path.write_text(text)
    with pytest.raises(HyperseekError, match=message):
        read_hierarchy(path)
    with pytest.raises(HyperseekError, match="no such file"):
        read_hierarchy(tmp_path / "none.tsv")
