"""Hierarchies as training data: splits, negatives and hops against a brute-force closure of random graphs."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hyperseek._ancestors import Hierarchy, hops_above
from hyperseek.cli import app
from hyperseek.data import ErrorReport, HierarchyOptions, open_dataset, prepare_hierarchy, read_prepared
from hyperseek.data.hierarchy import NegativeSampler, held_out_leaves, read_hierarchy, split_pairs
from hyperseek.data.reading import Faults, json_lines
from hyperseek.errors import DataError, HyperseekError, InputError

Edges = list[tuple[str, str]]


def random_edges(seed: int, nodes: int = 60) -> Edges:
    """Make a graph in which children have one to three parents of smaller number."""
    draw = random.Random(seed)
    return [
        (f"n{child}", f"n{parent}")
        for child in range(1, nodes)
        for parent in draw.sample(range(child), min(child, draw.choice((1, 1, 1, 2, 3))))
    ]


def closure(edges: Edges) -> dict[tuple[str, str], int]:
    """Return the hops of every pair of a node and an ancestor, by relaxing all edges until nothing changes."""
    hops = dict.fromkeys(edges, 1)
    while True:
        found = dict(hops)
        for (child, middle), count in hops.items():
            for other, parent in edges:
                if other == middle and count + 1 < found.get((child, parent), 1_000):
                    found[child, parent] = count + 1
        if found == hops:
            return hops
        hops = found


def write_edges(path: Path, edges: Edges) -> Path:
    path.write_text("child\tparent\n" + "".join(f"{child}\t{parent}\n" for child, parent in edges))
    return path


@pytest.mark.parametrize("seed", range(4))
def test_splits_of_pairs_are_disjoint_and_complete(seed: int) -> None:
    edges = random_edges(seed)
    known = closure(edges)
    splits = split_pairs(Hierarchy.from_edges(edges), share=0.05, seed=seed)
    further = {pair for pair, hops in known.items() if hops > 1}
    for task, made in splits.items():
        parts = [
            {(child, name): hops for child, name, hops in part} for part in (made.train, made.validation, made.test)
        ]
        assert all(known[pair] == hops for part in parts for pair, hops in part.items())
        pairs = [set(part) for part in parts]
        assert sum(map(len, pairs)) == len(set().union(*pairs)), "no pair is in two parts"
        held = round(0.05 * len(further)), round(0.05 * len(edges)) if task == "mixed_hop" else 0
        for part in parts[1:]:
            assert (sum(hops > 1 for hops in part.values()), sum(hops == 1 for hops in part.values())) == held
        assert pairs[0] == set(edges) - pairs[1] - pairs[2]
    assert set(splits["multi_hop"].validation) <= set(splits["mixed_hop"].validation)
    assert split_pairs(Hierarchy.from_edges(edges), seed=seed) == splits
    assert split_pairs(Hierarchy.from_edges(edges), seed=seed + 1) != splits


@pytest.mark.parametrize("kind", ["random", "hard"])
@pytest.mark.parametrize("seed", range(4))
def test_negatives_are_never_the_node_nor_above_it(seed: int, kind: str) -> None:
    edges = random_edges(seed)
    known, hierarchy = closure(edges), Hierarchy.from_edges(edges)
    without = {"n7", "n50"}
    sampler = NegativeSampler(hierarchy, seed=seed, without=without)
    for child in hierarchy.nodes:
        above = {name for one, name in known if one == child}
        allowed = set(hierarchy.nodes) - above - {child} - without
        drawn = sampler.sample(child, 10, kind)  # type: ignore[arg-type]
        assert len(drawn) == len(set(drawn)) == min(10, len(allowed))
        assert set(drawn) <= allowed
        parents = {parent for one, parent in edges if one == child}
        siblings = {one for one, parent in edges if parent in parents} & allowed
        if kind == "hard":
            first = min(10, len(siblings))
            assert set(drawn[:first]) <= siblings
            assert len(siblings & set(drawn)) >= first


def test_small_hierarchies_are_refused_and_flat_ones_have_one_task() -> None:
    flat = Hierarchy.from_edges([(f"leaf{number}", "root") for number in range(40)])
    assert set(split_pairs(flat)) == {"mixed_hop"}
    with pytest.raises(InputError, match="too small to hold out 1 twice"):
        held_out_leaves(Hierarchy.from_edges([("a", "root"), ("b", "root")]))
    assert len(NegativeSampler(flat, seed=0).sample("leaf3", 10, "hard")) == 10


@pytest.fixture
def made(tmp_path: Path, write_lines: Callable[..., Path]) -> tuple[Path, Edges]:
    edges = random_edges(5)
    folder = tmp_path / "animals"
    folder.mkdir()
    write_edges(folder / "edges.tsv", edges)
    nodes = [{"_id": f"n{number}", "title": f"name {number}", "text": f"what {number} is"} for number in range(59)]
    write_lines("animals/nodes.jsonl", [*nodes, {"_id": "alone", "title": "no edges", "text": ""}])
    return folder, edges


def test_held_out_leaves_are_in_no_training_example(made: tuple[Path, Edges], tmp_path: Path) -> None:
    folder, edges = made
    info = prepare_hierarchy(folder, tmp_path / "out", options=HierarchyOptions(share=0.1))
    known, names = closure(edges), {node for edge in edges for node in edge}
    collection = open_dataset(tmp_path / "out" / "animals")
    assert (collection.name, collection.splits, collection.count()) == ("animals", ("dev", "test", "train"), 61)
    held = {query.metadata["node"] for split in ("dev", "test") for query in collection.queries(split)}
    assert (
        len(held) == info.queries["dev"] + info.queries["test"] == 2 * round(0.1 * len(names - {p for _, p in edges}))
    )
    examples = list(read_prepared(tmp_path / "out" / "train").examples())
    assert len(examples) == info.examples == info.queries["train"]
    for example in examples:
        node = example.query.metadata["node"]
        items = {item.id.removeprefix("animals/") for item in example.items}
        assert not held & {node, *items}
        hops = {item.id.removeprefix("animals/"): item.hops for item in example.positives}
        assert hops == {name: count for (one, name), count in known.items() if one == node}
        assert not {item.id for item in example.negatives} & {item.id for item in example.positives}
        far = [item.hops for item in example.coarse]
        assert far == sorted((count for count in hops.values() if count and count > 1), reverse=True)


def test_the_collection_has_ancestors_as_judgements_and_its_edges_beside(
    made: tuple[Path, Edges], tmp_path: Path
) -> None:
    folder, edges = made
    info = prepare_hierarchy(folder, tmp_path / "out", name="zoo", options=HierarchyOptions(share=0.1, hit=False))
    collection = open_dataset(tmp_path / "out" / "zoo")
    hierarchy = read_hierarchy(tmp_path / "out" / "zoo" / "edges.tsv.gz")
    known = closure(edges)
    assert (info.edges, info.pairs, info.hit) == (len(edges), len(known), {})
    for split in collection.splits:
        queries = {query.id: query for query in collection.queries(split)}
        for query_id, judged in collection.qrels(split).items():
            node = queries[query_id].metadata["node"]
            assert queries[query_id].metadata["excluded_ids"] == [node]
            hops = {name: count for (one, name), count in known.items() if one == node}
            assert hops_above(hierarchy, node, judged) == hops
            assert judged == {name: max(1, 8 - count) for name, count in hops.items()}
    documents = {document.id: document for document in collection.documents()}
    assert documents["n59"].title == "n59", "a node without a record is called by its id"
    assert documents["n3"].metadata["path"][-1] == "name 3"
    assert documents["n0"].metadata["path"] == ["name 0"]


def test_a_node_can_be_its_own_nearest_positive(made: tuple[Path, Edges], tmp_path: Path) -> None:
    folder, edges = made
    options = HierarchyOptions(share=0.1, hit=False, itself=True)
    prepare_hierarchy(folder, tmp_path / "out", options=options)
    known = closure(edges)
    for example in read_prepared(tmp_path / "out" / "train").examples():
        node = f"animals/{example.query.metadata['node']}"
        assert (example.positives[0].id, example.positives[0].hops) == (node, 0)
        assert node not in {item.id for item in example.coarse}
        assert len(example.coarse) == len(example.positives) - 1
    collection = open_dataset(tmp_path / "out" / "animals")
    (query, *_) = collection.queries("dev")
    node = query.metadata["node"]
    assert "excluded_ids" not in query.metadata
    above = {name: max(1, 8 - hops) for (one, name), hops in known.items() if one == node}
    assert collection.qrels("dev")[query.id] == {node: 8, **above}


def test_hits_files_have_its_columns(made: tuple[Path, Edges], tmp_path: Path) -> None:
    folder, edges = made
    options = HierarchyOptions(share=0.1, negatives=3, entities="id")
    info = prepare_hierarchy(folder, tmp_path / "out", options=options)
    known = closure(edges)
    for task, counts in info.hit.items():
        for kind in ("random", "hard"):
            for split, count in counts.items():
                path = tmp_path / "out" / "hit" / f"{task}-{kind}" / f"{split}.jsonl.gz"
                rows = [row for _, row in json_lines(path, Faults())]
                assert all(list(row) == ["child", "parent", "negative", "hops"] for row in rows)
                assert all(known[row["child"], row["parent"]] == row["hops"] for row in rows)
                assert not any((row["child"], row["negative"]) in known for row in rows)
                assert len({(row["child"], row["parent"]) for row in rows}) == count


def test_hits_files_need_negatives(made: tuple[Path, Edges], tmp_path: Path) -> None:
    with pytest.raises(HyperseekError, match="set hit=false"):
        HierarchyOptions.from_mapping({"negatives": 0}, source="here")
    options = HierarchyOptions(share=0.1, negatives=0, hit=False)
    prepare_hierarchy(made[0], tmp_path / "out", options=options)
    assert not any(example.negatives for example in read_prepared(tmp_path / "out" / "train").examples())


def test_the_same_seed_writes_the_same_bytes(made: tuple[Path, Edges], tmp_path: Path) -> None:
    for out in ("one", "two"):
        prepare_hierarchy(made[0], tmp_path / out)
    files = [file.relative_to(tmp_path / "one") for file in (tmp_path / "one").rglob("*") if file.is_file()]
    assert len(files) > 15
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)


def test_circles_are_refused_or_left_out_and_counted(tmp_path: Path) -> None:
    path = write_edges(tmp_path / "e.tsv", [("a", "b"), ("b", "c"), ("c", "a"), ("d", "d"), ("d", "b")])
    with pytest.raises(DataError, match="circle"):
        read_hierarchy(path)
    report = ErrorReport()
    hierarchy = read_hierarchy(path, on_error="skip", report=report)
    assert report.counts == {"circle": 2}
    assert hierarchy.ancestors("d") == {"b": 1, "c": 2}


@pytest.mark.parametrize("seed", range(4))
def test_leaving_out_circles_leaves_a_hierarchy_of_all_else(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    forward = random_edges(seed, 30)
    back = [(f"n{a}", f"n{b}") for a, b in (sorted(draw.sample(range(30), 2)) for _ in range(5))]
    path, report = write_edges(tmp_path / "e.tsv", [*forward, *back]), ErrorReport()
    hierarchy = read_hierarchy(path, on_error="skip", report=report)
    kept = {(child, parent) for child, above in hierarchy.parents.items() for parent in above}
    everything = {*forward, *back}
    assert kept <= everything
    assert len(everything) - len(kept) == report.counts.get("circle", 0)
    for edge in everything - kept:
        with pytest.raises(InputError, match="circle"):
            Hierarchy.from_edges([*kept, edge])


def test_the_command_reports_what_it_wrote(made: tuple[Path, Edges], tmp_path: Path) -> None:
    arguments = ["prepare", "hierarchy", str(made[0]), str(tmp_path / "out"), "share=0.1", "seed=3"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "61 nodes" in result.stderr
    assert "1 node_without_text" in result.stderr
    assert (tmp_path / "out" / "hierarchy.json").is_file()


def test_chains_with_too_many_pairs_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyperseek.data.hierarchy.hierarchy_folder._MOST_PAIRS", 2_000_000)  # a tenth, to be quick
    edges = tmp_path / "edges.tsv"
    edges.write_text("".join(f"n{node + 1}\tn{node}\n" for node in range(100_000)))
    with pytest.raises(DataError, match=r"more than 2,000,000 pairs .* 100,000 edges deep"):
        prepare_hierarchy(edges, tmp_path / "made")
    assert list(tmp_path.iterdir()) == [edges]


def test_more_negatives_than_nodes_are_all_there_are() -> None:
    hierarchy = Hierarchy.from_edges([(f"n{node}", "root") for node in range(5)])
    sampler = NegativeSampler(hierarchy, seed=1)
    for kind in ("hard", "random"):
        assert sorted(sampler.sample("n0", 10**12, kind)) == ["n1", "n2", "n3", "n4"]
