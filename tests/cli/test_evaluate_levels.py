"""`hyperseek evaluate --levels` and `--hierarchy`: a tiny model with levels, nodes that ask with their own points."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from hyperseek.cli import app
from hyperseek.data import Dataset, write_beir
from hyperseek.evaluation import Evaluation, rank_index, rank_levels
from hyperseek.index import Index
from hyperseek.models import ModelConfig, Retriever, build, load
from hyperseek.scoring import Space
from hyperseek.types import Document, Query, QueryOptions

WORDS = [
    "cat",
    "dog",
    "bird",
    "fish",
    "sea",
    "sun",
    "moon",
    "star",
    "tree",
    "leaf",
    "river",
    "stone",
    "city",
    "road",
    "house",
    "door",
]
EDGES = [(f"d{row}", f"d{(row - 1) // 2}") for row in range(1, 16)]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def answer(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture(scope="module")
def folder(tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model with levels, its index, the trunk's, a collection whose relevant documents are ancestors, edges."""
    folder = tmp_path_factory.mktemp("levels")
    documents = [Document(f"d{row}", f"the {word} and the {WORDS[row // 2]}") for row, word in enumerate(WORDS)]
    above = {f"d{row}": {f"d{(row - 1) // 2}": 2, f"d{((row - 1) // 2 - 1) // 2}": 1} for row in range(7, 15)}
    queries = [Query(f"q-{name}", f"a {WORDS[int(name[1:])]}") for name in above]
    qrels = {"test": {f"q-{name}": judged for name, judged in above.items()}}
    dataset = Dataset.from_records("nodes", documents, queries=queries, qrels=qrels)
    write_beir(dataset, folder / "nodes")
    (folder / "edges.tsv").write_text("".join(f"{child}\t{parent}\n" for child, parent in EDGES))
    values = {"trunk": tiny_encoder, "family": "levels", "pooling": "mean", "levels": {"d_hrm": 32, "num_segments": 2}}
    model = build(ModelConfig.from_mapping(values), device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.route("document")[-1].parameters():
            if weight.ndim:
                weight.add_(0.1 * torch.randn_like(weight))
    model.save(folder / "model")
    Index.build(folder / "index", dataset.documents(), load(folder / "model", device="cpu"))
    Index.build(folder / "trunk.index", dataset.documents(), load(tiny_encoder, device="cpu"))
    return folder


def test_all_levels_are_compared_and_queries_are_encoded_once(
    folder: Path, tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    forward = Retriever._compile_batches

    def counted(self: Retriever, queries: Any, options: Any) -> Any:
        encoded.extend([8] * (len(queries) == 8))  # all of them, not a probe
        return forward(self, queries, options)

    monkeypatch.setattr(Retriever, "_compile_batches", counted)
    index = folder / "index"
    found = answer(index, folder / "nodes", "-m", "RR@5 nDCG@5", "--levels", "--output", tmp_path / "out")
    assert encoded == [8]
    assert found["comparison"]["systems"] == ["model@2", "model@1", "model@1-2", "model@2-1"]
    assert found["comparison"]["recorded"]["system.level"] == {
        "model@2": 2, "model@1": 1, "model@1-2": 1, "model@2-1": 2
    }  # fmt: skip
    encoded.clear()
    beside = ["--beside", folder / "trunk.index", "--bm25"]
    found = answer(index, folder / "nodes", "-m", "RR@5", "--levels", *beside)
    assert encoded == [8, 8]
    assert found["comparison"]["systems"][4:] == ["trunk.index", "BM25"]
    one = answer(index, folder / "nodes", "-m", "RR@5", "--option", "level=1")
    by_name = {each["name"]: each["per_query"] for each in found["evaluations"]}
    assert one["evaluations"][0]["per_query"] == by_name["model@1"]
    trunk = answer(folder / "trunk.index", folder / "nodes", "-m", "RR@5")
    assert trunk["evaluations"][0]["per_query"] == by_name["trunk.index"]
    related = answer(index, folder / "nodes", "-m", "RR@5", "--levels", "--option", "relation=is_a", *beside)
    assert related["evaluations"][-2]["per_query"] == by_name["trunk.index"]
    saved = Evaluation.load(tmp_path / "out/model@2-1/evaluation.json")
    assert (saved.protocol.system["level"], saved.protocol.system["document_level"]) == (2, 1)


def test_rankings_at_levels_are_those_of_searches_at_levels(folder: Path) -> None:
    from hyperseek.data import open_dataset

    index, dataset = Index.open(folder / "index"), open_dataset(folder / "nodes")
    rankings = rank_levels(index, dataset, k=5, options={"relation": "is_a"})
    for ranking, pair in zip(rankings, [(2, 2), (1, 1), (1, 2), (2, 1)], strict=True):
        options = {"relation": "is_a", "level": pair[0], "document_level": pair[1]}
        assert ranking.run == rank_index(index, dataset, k=5, options=options).run
        assert ranking.protocol.options == QueryOptions(relation="is_a")


def test_ancestors_by_hops_for_all_systems(folder: Path, tmp_path: Path) -> None:
    given = [folder / "index", folder / "nodes", "-m", "R@3 RR@5", "--hierarchy", folder / "edges.tsv"]
    found = answer(*given, "--levels", "--bm25", "--output", tmp_path / "out")
    assert list(found["hops"]) == ["1", "2"]
    assert found["hops"]["1"]["comparison"]["measures"] == ["R@3", "RR@5", "R@A"]
    assert len(found["hops"]["2"]["evaluations"]) == 5
    assert json.loads((tmp_path / "out/hops.json").read_text()) == found["hops"]
    assert "## 2" in (tmp_path / "out/hops.md").read_text()
    runs = ["--runs", tmp_path / "out/BM25/run.trec", "--qrels", folder / "nodes/qrels/test.tsv"]
    for name in ("a", "b"):
        shutil.copy(runs[1], tmp_path / f"{name}.trec")
        shutil.copy(runs[3], tmp_path / f"{name}.tsv")
    of_sets = ["--runs", tmp_path / "{set}.trec", "--qrels", tmp_path / "{set}.tsv", "--sets", "a,b", *given[2:]]
    sets = answer(*of_sets)["sets"]
    assert sets["a"]["hops"]["2"]["evaluations"][0]["aggregate"] == found["hops"]["2"]["evaluations"][-1]["aggregate"]
    assert run(*of_sets).stdout.count("ancestors 1 hop away, ") == len(sets) == 2
    again = answer(*runs, "-m", "R@3 RR@5", "--hierarchy", folder / "edges.tsv")
    last = found["hops"]["2"]["evaluations"][-1]
    assert again["hops"]["2"]["evaluations"][0]["per_query"] == last["per_query"]
    shown = run(*given)
    assert "ancestors 1 hop away, 8 queries" in shown.stdout
    assert "ancestors 2 hops away, 8 queries" in shown.stdout


def test_nodes_ask_with_their_own_points(folder: Path, tmp_path: Path) -> None:
    given = [folder / "index", "--hierarchy", folder / "edges.tsv", "-m", "R@10 RR@10", "--resamples", "200"]
    found = answer(*given, "--levels", "--beside", folder / "trunk.index", "--output", tmp_path / "out")
    assert found["comparison"]["systems"][0] == "index@2"
    assert found["comparison"]["systems"][-1] == "trunk.index"
    assert found["comparison"]["sections"][0]["queries"] == 15
    assert set(found["hierarchy"]) == {"index", "trunk.index"}
    report = found["hierarchy"]["index"]
    assert (report["nodes"], report["sampled"]) == (16, 15)
    assert json.loads((tmp_path / "out/hierarchy.json").read_text()) == found["hierarchy"]
    shown = run(*given, "--radius-weight", "0")
    assert "radius weight 0, threshold" in shown.stdout
    assert "level 1 minus level 2" in shown.stdout
    assert "no radii: all radii of a level are equal" in shown.stderr


def test_what_makes_no_sense_is_said(folder: Path, tmp_path: Path) -> None:
    edges = folder / "edges.tsv"
    for arguments, message in [
        ([folder / "index", "--hierarchy", edges, "--bm25"], "--bm25: nodes of --hierarchy"),
        ([folder / "trunk.index", folder / "nodes", "--levels"], "these queries have no levels to compare"),
        ([folder / "index", folder / "nodes", "--levels", "--option", "level=1"], "leave out the option 'level'"),
        ([folder / "index", "--hierarchy", "parent"], "neither a file nor a metadata field"),
        ([folder / "index", folder / "nodes", "--hierarchy", edges, "--pairs", folder], "--pairs: only for nodes"),
        ([folder / "index", folder / "nodes", "--radius-weight", 0], "--radius-weight: only for nodes that ask"),
    ]:
        result = run(*arguments)
        assert message in str(result.exception), result.output
    other = Index.from_vectors(tmp_path / "other", [(Document("x", "text"), torch.ones(2))], Space("dot", 2))
    result = run(folder / "index", "--hierarchy", edges, "--beside", other.path)
    assert "hold different documents" in str(result.exception)


def test_indexes_of_other_texts_are_compared_where_that_is_allowed(folder: Path, tmp_path: Path) -> None:
    rows = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    documents = [Document(f"d{row}", f"another text {row}") for row in range(16)]
    other = Index.from_vectors(tmp_path / "other", zip(documents, rows, strict=True), Space("dot", 4))
    given = [folder / "trunk.index", "--hierarchy", folder / "edges.tsv", "--beside", other.path, "-m", "RR@5"]
    assert "--allow-unlike" in str(run(*given).exception)
    found = answer(*given, "--allow-unlike", "--resamples", 100)
    assert "data" in found["comparison"]["unlike"]
    assert "data" in found["hops"]["1"]["comparison"]["unlike"]
