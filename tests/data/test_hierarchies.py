"""Hierarchies from files and fields: depths, ancestors, hops, circles."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from hyperseek import HyperseekError
from hyperseek._ancestors import HOP_RANGES, Hierarchy, hop_range
from hyperseek.data.hierarchy import parent_edges, read_hierarchy
from hyperseek.types import Document


def random_edges(nodes: int, seed: int) -> list[tuple[str, str]]:
    """Edges of a random graph without circles: most nodes have several parents, some none."""
    generator = np.random.default_rng(seed)
    names = [f"n{place}" for place in generator.permutation(nodes)]
    return [
        (names[child], names[parent])
        for child in range(1, nodes)
        for parent in generator.choice(child, size=min(child, int(generator.integers(0, 4))), replace=False)
    ]


def test_a_graph_with_two_ways_up_takes_the_shorter() -> None:
    hierarchy = Hierarchy.from_edges(
        [("b", "root"), ("c", "b"), ("d", "c"), ("d", "root"), ("d", "c"), ("e", "d"), ("x", "other")]
    )
    assert hierarchy.roots == ["root", "other"]
    assert hierarchy.leaves == ["x", "e"]
    assert hierarchy.depths == {"root": 0, "b": 1, "c": 2, "d": 1, "e": 2, "other": 0, "x": 1}
    assert hierarchy.path("e") == ["d", "root"]
    assert hierarchy.path("c") == ["b", "root"]
    assert hierarchy.path("unknown") == []
    assert hierarchy.parents["d"] == ["c", "root"]
    assert hierarchy.ancestors("e") == {"d": 1, "c": 2, "root": 2, "b": 3}
    assert hierarchy.descendants("root") == {"b": 1, "d": 1, "c": 2, "e": 2}
    assert hierarchy.ancestors("root") == hierarchy.ancestors("unknown") == {}


@pytest.mark.parametrize("seed", range(5))
def test_ancestors_depths_and_order_against_powers_of_the_matrix_of_edges(seed: int) -> None:
    hierarchy = Hierarchy.from_edges(random_edges(40, seed))
    names = hierarchy.nodes
    place = {name: row for row, name in enumerate(names)}
    step = np.zeros((len(names), len(names)), int)
    for child, above in hierarchy.parents.items():
        for parent in above:
            step[place[child], place[parent]] = 1
            assert place[parent] < place[child]
    hops = np.zeros_like(step)
    power = np.eye(len(names), dtype=int)
    for length in range(1, len(names)):
        power = (power @ step > 0).astype(int)
        hops[(hops == 0) & (power > 0)] = length
    roots = [place[name] for name in hierarchy.roots]
    for row, name in enumerate(names):
        above = {names[column]: int(hops[row, column]) for column in np.flatnonzero(hops[row])}
        assert hierarchy.ancestors(name) == above
        assert list(above.values()) == [above[each] for each in above]
        below = {names[column]: int(hops[column, row]) for column in np.flatnonzero(hops[:, row])}
        assert hierarchy.descendants(name) == below
        assert hierarchy.depths[name] == (
            0 if row in roots else min(hops[row, root] for root in roots if hops[row, root])
        )


def test_parents_come_before_children() -> None:
    hierarchy = Hierarchy.from_edges([("c", "b"), ("b", "a"), ("d", "c"), ("c", "a")])
    assert hierarchy.nodes == ["a", "b", "c", "d"]
    assert hierarchy.tree == {"a": None, "b": "a", "c": "a", "d": "c"}


def test_hops_have_ranges() -> None:
    assert [hop_range(hops) for hops in (1, 2, 3, 4, 5, 8, 9, 30)] == ["1", "2", "3-4", "3-4", "5-8", "5-8", "9+", "9+"]
    assert [last for _, last in HOP_RANGES.values()][:-1] == [first - 1 for first, _ in HOP_RANGES.values()][1:]


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([("a", "b"), ("b", "a"), ("c", "root")], "circle of 2 edges, each below the next: 'a' < 'b' < 'a'"),
        ([("a", "root"), ("a", "c"), ("b", "a"), ("c", "b"), ("d", "c")], "3 edges, .* 'a' < 'c' < 'b' < 'a'"),
        ([("a", "a")], "1 edges, .* 'a' < 'a'"),
        ([(str(row), str((row + 1) % 9)) for row in range(9)], "9 edges, .* '5' < …"),
        ([], "no edges"),
    ],
)
def test_circles_are_named(edges: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(HyperseekError, match=message):
        Hierarchy.from_edges(edges)


def test_parents_of_metadata() -> None:
    documents = [
        Document("a", "text", "", {"parent": "root"}),
        Document("root", "text", "", {"parent": "root"}),
        Document("b", "text", "", {"parent": ["a", "c"]}),
        Document("d", "text", "", {"parent": 7.0}),
        Document("e", "text", "", {"parent": ""}),
        Document("f", "text", "", {"parent": [12345678.0, 2.5]}),
    ]
    found = [("a", "root"), ("b", "a"), ("b", "c"), ("d", "7"), ("f", "12345678"), ("f", "2.5")]
    assert list(parent_edges(documents, "parent")) == found


@pytest.mark.parametrize("packed", [False, True])
def test_files_with_and_without_a_header(tmp_path: Path, packed: bool) -> None:
    for text in (
        "a\troot\nb\ta\tleft out\n",
        "parent\tchild\nroot\ta\na\tb\n",
        "\n\nchild\tparent\na\troot\nb\ta\n",
        "\ufeffChild\tParent\r\nb\ta\r\na\troot\r\n",
    ):
        path = tmp_path / ("edges.tsv.gz" if packed else "edges.tsv")
        path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
        assert read_hierarchy(path).depths == {"root": 0, "a": 1, "b": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tb\nc\n", r":2: an edge is .* not 'c'"),
        ("a\t\n", "an edge is"),
        ("child\tparent\n", "contains no edges"),
        ("id\tparent_id\na\tb\n", "first line, .*, seems to name columns; call them child and parent"),
        ("a\tb\rb\tc\r", "an edge is"),
        ("a\tb\nb\ta\n", r"edges\.tsv.*circle of 2"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "edges.tsv"
    path.write_bytes(text.encode())
    with pytest.raises(HyperseekError, match=message):
        read_hierarchy(path)
    with pytest.raises(HyperseekError, match="no such file"):
        read_hierarchy(tmp_path / "none.tsv")


def test_wordnet_has_one_root_and_far_ancestors(collections: Path) -> None:
    hierarchy = read_hierarchy(collections / "wordnet-nouns" / "edges.tsv.gz")
    assert (len(hierarchy.nodes), hierarchy.roots) == (82115, ["n00001740"])
    farthest = max(max(hierarchy.ancestors(name).values()) for name in hierarchy.leaves[::100])
    assert farthest >= 9
