"""Building, resuming, opening and importing graphs."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperseek.errors import DataError, InputError, StoreError
from hyperseek.graph import NeighbourGraph, building, estimate_graph


@pytest.fixture
def small_blocks() -> Iterator[None]:
    """Blocks and chunks of a few documents."""
    with few_documents():
        yield


@contextmanager
def few_documents() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "ROWS", 16)
        patch.setattr(building, "COLUMNS", 24)
        yield


def draw(count, dimension=6, seed=0):
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed))


def closeness(vectors, metric):
    wide = vectors.double()
    scores = wide @ wide.T if metric == "inner_product" else -torch.cdist(wide, wide)
    return scores.fill_diagonal_(-torch.inf)


@settings(deadline=None, max_examples=40)
@given(
    values=st.lists(st.lists(st.integers(-3, 3), min_size=2, max_size=2), min_size=1, max_size=60),
    degree=st.integers(1, 9),
    metric=st.sampled_from(["l2", "inner_product"]),
)
def test_exact_graph_equals_all_pairs(tmp_path_factory, values, degree, metric):
    vectors = torch.tensor(values, dtype=torch.float32)
    folder = tmp_path_factory.mktemp("graph")
    with few_documents():
        graph = NeighbourGraph.build(folder, vectors, degree=degree, metric=metric, method="exact")
    scores = closeness(vectors, metric)
    present = min(degree, len(vectors) - 1)
    assert graph.neighbours.shape == (len(vectors), degree)
    assert (graph.neighbours[:, present:] == -1).all()
    rows = torch.from_numpy(graph.neighbours[:, :present].astype(np.int64))
    expected = scores.sort(dim=1, descending=True).values[:, :present]
    torch.testing.assert_close(scores.gather(1, rows), expected)  # many are equally near: compare how near they are
    for own, line in enumerate(rows.tolist()):
        assert own not in line
        assert len(set(line)) == len(line)


def test_golden_lists(golden, tmp_path):
    folder = golden / "hypencoder" / "retrieval"
    recorded = json.loads((folder / "golden.json").read_text())
    vectors = np.load(folder / "embeddings.npz")["embeddings"]
    ids = [document["id"] for document in recorded["docs"]]
    graph = NeighbourGraph.build(tmp_path / "built", vectors, degree=9)
    lists = {ids[row]: [ids[other] for other in line] for row, line in enumerate(graph.neighbours.tolist())}
    assert lists == recorded["neighbors_top10_l2"]
    lines = [{"item_id": item, "neighbors": own} for item, own in recorded["neighbors_top10_l2"].items()]
    (tmp_path / "graph.jsonl").write_text("\n".join(map(json.dumps, lines)))
    imported = NeighbourGraph.import_jsonl(tmp_path / "imported", tmp_path / "graph.jsonl", ids)
    np.testing.assert_array_equal(imported.neighbours, graph.neighbours)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("metric", ["l2", "inner_product"])
def test_approximate_graph_finds_most(tmp_path, metric):
    centres = draw(20, seed=1).repeat_interleave(40, dim=0)
    vectors = torch.nn.functional.normalize(centres + 0.3 * draw(800, seed=2), dim=1)
    graph = NeighbourGraph.build(tmp_path / "a", vectors, degree=10, metric=metric, method="approximate")
    exact = NeighbourGraph.build(tmp_path / "e", vectors, degree=10, metric=metric, method="exact")
    assert graph.info.method == "approximate"
    shared = [len(set(a) & set(b)) for a, b in zip(graph.neighbours.tolist(), exact.neighbours.tolist(), strict=True)]
    assert np.mean(shared) / 10 > 0.9
    for own, line in enumerate(graph.neighbours.tolist()):
        assert own not in line
        assert len(set(line)) == 10
    again = NeighbourGraph.build(tmp_path / "b", vectors.numpy(), degree=10, metric=metric, method="approximate")
    np.testing.assert_array_equal(again.neighbours, graph.neighbours)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("method", ["exact", "approximate"])
def test_a_killed_build_goes_on(tmp_path, monkeypatch, method):
    vectors = draw(150)
    expected = NeighbourGraph.build(tmp_path / "whole", vectors, degree=5, method=method).neighbours
    monkeypatch.setattr(building, "_COMMIT_EVERY", 0.0)
    monkeypatch.setattr(building, "_BATCH", 1)
    calls, nearest = [], building.nearest

    def die_at_the_fifth(*arguments, **options):
        calls.append(None)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return nearest(*arguments, **options)

    monkeypatch.setattr(building, "nearest", die_at_the_fifth)
    with pytest.raises(KeyboardInterrupt, match=r"4 of .* blocks of the graph are kept in .*killed"):
        NeighbourGraph.build(tmp_path / "killed", vectors, degree=5, method=method)
    with pytest.raises(StoreError, match="no finished graph"):
        NeighbourGraph.open(tmp_path / "killed")
    blocks = []

    def count(*arguments, **options):
        blocks.append(None)
        return nearest(*arguments, **options)

    monkeypatch.setattr(building, "nearest", count)
    graph = NeighbourGraph.build(tmp_path / "killed", vectors, degree=5, method=method)
    np.testing.assert_array_equal(graph.neighbours, expected)
    left = len(blocks)
    NeighbourGraph.build(tmp_path / "other", vectors, degree=5, method=method)
    assert left == len(blocks) - left - 4
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["graph.json", "neighbours.npy"]


BUILD = """
import sys
import numpy as np, torch
from hyperseek.graph import NeighbourGraph, building
torch.set_num_threads(1)
building._COMMIT_EVERY = 0.0
building._BATCH = 1
NeighbourGraph.build(sys.argv[1], np.load(sys.argv[2], mmap_mode="r"), degree=20, method=sys.argv[3])
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["exact", "approximate"])
def test_a_build_survives_sigkill(tmp_path, method):
    np.save(tmp_path / "vectors.npy", draw(30_000, dimension=64).numpy())
    command = [sys.executable, "-c", BUILD, str(tmp_path / "graph"), str(tmp_path / "vectors.npy"), method]
    kills = 0
    state = tmp_path / "graph" / "building.json"
    for blocks in (0, 2, 5, 9):
        process = subprocess.Popen(command)
        while process.poll() is None and not (state.exists() and json.loads(state.read_text())["blocks"] > blocks):
            time.sleep(0.005)
        if process.poll() is None:
            process.kill()
            kills += 1
        process.wait()
    assert kills == 4
    vectors = np.load(tmp_path / "vectors.npy")
    graph = NeighbourGraph.build(tmp_path / "graph", vectors, degree=20, method=method)
    whole = NeighbourGraph.build(tmp_path / "whole", vectors, degree=20, method=method)
    shared = [len(set(a) & set(b)) for a, b in zip(graph.neighbours.tolist(), whole.neighbours.tolist(), strict=True)]
    assert np.mean(shared) / 20 > 0.999  # threads round differently, and near ties fall either way


def test_the_beginning_of_another_graph_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr(building, "_COMMIT_EVERY", 0.0)
    with pytest.raises(KeyboardInterrupt):
        NeighbourGraph.build(tmp_path / "graph", draw(40, seed=1), degree=3)
    monkeypatch.undo()
    graph = NeighbourGraph.build(tmp_path / "graph", draw(30, seed=2), degree=4)
    np.testing.assert_array_equal(
        graph.neighbours, NeighbourGraph.build(tmp_path / "b", draw(30, seed=2), degree=4).neighbours
    )


def test_a_finished_graph_is_opened_or_refused(tmp_path, monkeypatch):
    graph = NeighbourGraph.build(tmp_path, draw(20), degree=3)
    assert (len(graph), graph.degree, graph.nbytes) == (20, 3, 240)
    monkeypatch.setattr(building, "nearest", None)  # nothing is built again
    again = NeighbourGraph.build(tmp_path, draw(20), degree=3)
    np.testing.assert_array_equal(again.neighbours, graph.neighbours)
    with pytest.raises(StoreError, match="another graph \\(degree: 3, now 4\\)"):
        NeighbourGraph.build(tmp_path, draw(20), degree=4)
    with pytest.raises(StoreError, match="vectors: "):
        NeighbourGraph.build(tmp_path, draw(20, seed=5), degree=3)
    with pytest.raises(ValueError, match="read-only"):
        again.neighbours[0, 0] = 1


def test_memory_mapped_half_precision_vectors(tmp_path):
    np.save(tmp_path / "vectors.npy", draw(100).half().numpy())
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    graph = NeighbourGraph.build(tmp_path / "a", mapped, degree=5)
    plain = NeighbourGraph.build(tmp_path / "b", draw(100).half(), degree=5)
    np.testing.assert_array_equal(graph.neighbours, plain.neighbours)


def test_far_from_the_origin_near_ties_survive(tmp_path):
    vectors = draw(200, dimension=8)
    moved = NeighbourGraph.build(tmp_path / "a", vectors + 1000.0, degree=5)
    exact = closeness((vectors + 1000.0), "l2").topk(5, dim=1).indices
    assert np.mean(moved.neighbours == exact.numpy()) > 0.99


@pytest.mark.parametrize(
    ("vectors", "options", "message"),
    [
        (torch.ones(3), {}, "floating matrix"),
        (torch.ones(3, 2, dtype=torch.int64), {}, "floating matrix"),
        (np.ones((3, 2), dtype=np.int32), {}, "floating matrix"),
        (torch.ones(3, 2), {"degree": 0}, "degree must be at least 1"),
        (torch.tensor([[0.0], [torch.inf]]), {}, "document 1 .* infinite"),
    ],
)
def test_building_refuses(tmp_path, vectors, options, message):
    with pytest.raises(InputError, match=message):
        NeighbourGraph.build(tmp_path, vectors, **options)


def test_opening_damaged_graphs(tmp_path):
    with pytest.raises(StoreError, match="no finished graph"):
        NeighbourGraph.open(tmp_path)
    NeighbourGraph.build(tmp_path, draw(20), degree=3)
    whole = (tmp_path / "neighbours.npy").read_bytes()
    (tmp_path / "neighbours.npy").write_bytes(whole[:-8])
    with pytest.raises(StoreError, match="cannot be read"):
        NeighbourGraph.open(tmp_path)
    np.save(tmp_path / "neighbours.npy", np.zeros((20, 4), dtype=np.int32))
    with pytest.raises(StoreError, match="it has 448 bytes and was written with 368"):
        NeighbourGraph.open(tmp_path)
    description = json.loads((tmp_path / "graph.json").read_text())
    del description["files"], description["checksum"]  # as earlier versions wrote it
    (tmp_path / "graph.json").write_text(json.dumps(description))
    with pytest.raises(StoreError, match=r"should be int32 of shape \(20, 3\)"):
        NeighbourGraph.open(tmp_path)
    (tmp_path / "graph.json").write_text("{")
    with pytest.raises(StoreError, match="is damaged, or is not the description of a graph"):
        NeighbourGraph.open(tmp_path)


def line(item, *neighbours):
    return json.dumps({"item_id": item, "neighbors": list(neighbours)})


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz"])
def test_import_pads_and_drops_self(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("hyperseek.graph._graph._CHUNK", 2)
    path = tmp_path / f"graph.{suffix}"
    opened = gzip.open if suffix.endswith("gz") else open
    with opened(path, "wt") as file:
        file.write("\n".join([line("c", "a", "c", "b"), "", line("a", "b", "a"), line("e", "a", "b", "c", "d")]) + "\n")
    graph = NeighbourGraph.import_jsonl(tmp_path / "graph", path, ["a", "b", "c", "d", "e"])
    assert graph.neighbours.tolist() == [[1, -1, -1, -1], [-1] * 4, [0, 1, -1, -1], [-1] * 4, [0, 1, 2, 3]]
    assert graph.info.method == "imported"
    with pytest.raises(StoreError, match="holds a graph already"):
        NeighbourGraph.import_jsonl(tmp_path / "graph", path, ["a", "b", "c", "d", "e"])


@pytest.mark.parametrize(
    ("lines", "number", "message"),
    [
        ([line("a", "b"), line("b", "x")], 2, "the id 'x' is not among the 2 documents"),
        ([line("x", "b")], 1, "the id 'x'"),
        ([line("a", "b"), "", line("a")], 3, "'a' has a line already"),
        (["{"], 1, "not JSON"),
        (['{"item_id": "a"}'], 1, "each line must be"),
        (["[]"], 1, "each line must be"),
    ],
)
def test_import_names_the_line(tmp_path, lines, number, message):
    (tmp_path / "graph.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match=message) as caught:
        NeighbourGraph.import_jsonl(tmp_path / "graph", tmp_path / "graph.jsonl", ["a", "b"])
    assert caught.value.line == number
    assert not (tmp_path / "graph" / "graph.json").exists()


def test_import_of_nothing(tmp_path):
    (tmp_path / "graph.jsonl").write_text("")
    graph = NeighbourGraph.import_jsonl(tmp_path / "graph", tmp_path / "graph.jsonl", ["a", "b"])
    assert graph.neighbours.shape == (2, 0)
    with pytest.raises(InputError, match="'b' is given twice"):
        NeighbourGraph.import_jsonl(tmp_path / "other", tmp_path / "graph.jsonl", ["a", "b", "c", "b"])
    with pytest.raises(DataError, match="cannot be read"):
        NeighbourGraph.import_jsonl(tmp_path / "other", tmp_path / "missing.jsonl", ["a"])


def test_estimates(tmp_path):
    graph = NeighbourGraph.build(tmp_path, draw(20), degree=3)
    small = estimate_graph(count=20, dimension=6, degree=3)
    assert small.disk_bytes == (tmp_path / "neighbours.npy").stat().st_size
    assert small.memory_bytes > graph.nbytes
    paper = estimate_graph(count=8_841_823, dimension=768)
    assert 3.4e9 < paper.disk_bytes < 3.6e9
    assert paper.building_bytes < 6e9
