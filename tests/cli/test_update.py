"""`hyperseek update` as a command line: documents come, change and go, engines are built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hyperseek import HyperseekError
from hyperseek.cli import app
from hyperseek.index import Index
from hyperseek.models import load
from hyperseek.plan import Graph, Plan, Rescore
from hyperseek.types import Document

TEXTS = ["the cat and the dog", "music and song", "road of the city", "star and moon"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: str) -> Path:
    path = tmp_path_factory.mktemp("update") / "index"
    Index.build(path, [Document(f"d{i}", text) for i, text in enumerate(TEXTS)], load(tiny_encoder, device="cpu"))
    return path


@pytest.fixture
def index(made: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(made, tmp_path / "index"))


def corpus(path: Path, **texts: str) -> Path:
    path.write_text("".join(json.dumps({"_id": name, "text": text}) + "\n" for name, text in texts.items()))
    return path


def update(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["update", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout == ""
    return result


def stored(index: Path) -> dict[str, str]:
    return {document.id: document.text for document in Index.open(index).documents()}


def test_documents_are_added_and_replaced(index: Path, tmp_path: Path) -> None:
    result = update(index, "--add", corpus(tmp_path / "new.jsonl", d4="sun and sea", d5="door"))
    assert "added 2" in result.stderr
    assert f"{index}: 6 documents" in result.stderr
    changed = corpus(tmp_path / "changed.jsonl", d1="python module", d6="window")
    assert "replaced or added 2" in update(index, "--replace", changed).stderr
    assert stored(index) == {
        "d0": TEXTS[0],
        "d2": TEXTS[2],
        "d3": TEXTS[3],
        "d4": "sun and sea",
        "d5": "door",
        "d1": "python module",
        "d6": "window",
    }
    assert Index.open(index).search("python module", k=1)[0].id == "d1"
    with pytest.raises(HyperseekError, match="'d1' is stored already, and 1 others of this batch; use replace"):
        update(index, "--add", changed)
    assert len(Index.open(index)) == 7


def test_documents_are_deleted_by_id_and_by_file(index: Path, tmp_path: Path) -> None:
    assert "deleted 2 of 3 ids" in update(index, "--delete", "d0", "--delete", "d2", "--delete", "nobody").stderr
    ids = tmp_path / "ids.txt"
    ids.write_text("d3\n\nd9\r\n")
    assert "deleted 1 of 2 ids" in update(index, "--delete-file", ids).stderr
    assert list(stored(index)) == ["d1"]
    with pytest.raises(HyperseekError, match="no such file"):
        update(index, "--delete-file", tmp_path / "none.txt")


def test_ids_of_a_file_are_taken_as_they_are(index: Path, tmp_path: Path) -> None:
    new = tmp_path / "new.tsv"
    new.write_text(" e1\ta\ne2 \tb\ne3\tc\n")
    update(index, "--add", new)
    ids = tmp_path / "ids.txt"
    ids.write_text(" e1\r\ne2 \n e3 \n")
    assert "deleted 2 of 3 ids" in update(index, "--delete-file", ids).stderr
    assert "e3" in stored(index)
    assert not {" e1", "e2 "} & set(stored(index))


def test_one_command_deletes_then_replaces_then_adds_then_compacts_then_builds(index: Path, tmp_path: Path) -> None:
    result = update(
        *(index, "--engine", "scan", "--graph", "--compact", "--delete", "d0", "--delete", "d3"),
        *("--add", corpus(tmp_path / "a.jsonl", d0="the cat again")),
        *("--replace", corpus(tmp_path / "r.jsonl", d1="song")),
    )
    lines = [line for line in result.stderr.splitlines() if line.startswith(("deleted", "replaced", "added", "engine"))]
    words = [line.split()[0] for line in lines]
    assert words == ["deleted", "replaced", "added", "engine", "engine"]
    assert stored(index) == {"d2": TEXTS[2], "d1": "song", "d0": "the cat again"}
    opened = Index.open(index)
    assert opened.info.table == "documents-1.lance"
    assert [(item.name, item.kind, item.count) for item in opened.attachments] == [
        ("flat", "flat", 3),
        ("graph", "graph", 3),
    ]


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf", "lance", "qdrant"])
def test_engines_say_what_they_cost_before_they_are_built(index: Path, kind: str) -> None:
    lines = update(index, "--engine", kind).stderr.splitlines()
    cost, built = [line for line in lines if line.startswith(f"engine {kind}: ")]
    assert "MB of memory to build, " in cost
    assert "MB to search, " in cost
    assert " on disk" in cost
    assert "built for 4 documents, on inner_product" in built or "built for 4 documents, on balanced" in built
    assert Index.open(index).attachments[0].config.kind == kind  # type: ignore[union-attr]


def test_auto_says_why_it_chose_what(index: Path) -> None:
    first, *_ = [line for line in update(index, "--engine", "auto").stderr.splitlines() if line.startswith("engine")]
    assert first == "engine flat: flat and exact, because 4 vectors of 32 dimensions are compared in some milliseconds"


def test_a_cap_of_memory_is_kept(index: Path) -> None:
    with pytest.raises(HyperseekError, match=r"building 'hnsw' for 4 documents of .* more than the 10,000,000 that"):
        update(index, "--engine", "hnsw", "--max-gigabytes", "0.01")
    with pytest.raises(HyperseekError, match="no engine for 4 vectors"):
        update(index, "--engine", "auto", "--max-gigabytes", "0.01")
    assert Index.open(index).attachments == ()
    update(index, "--engine", "hnsw", "--max-gigabytes", "0.2")
    assert [item.name for item in Index.open(index).attachments] == ["hnsw"]


def test_a_graph_of_the_original_is_taken_over(index: Path, tmp_path: Path) -> None:
    path = tmp_path / "graph.jsonl"
    names = [f"d{number}" for number in range(4)]
    lines = [{"item_id": name, "neighbors": [other for other in names if other != name]} for name in names]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    update(index, "--import-graph", path)
    opened = Index.open(index)
    assert [(item.name, item.kind, item.count) for item in opened.attachments] == [("graph", "graph", 4)]
    hits = opened.search("music", k=4, plan=Plan(stages=(Graph(n=4), Rescore())))
    assert [hit.id for hit in hits] == [hit.id for hit in opened.search("music", k=4, engine="exact")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is nothing to do; give --add"),
        (["--compact", "--max-gigabytes", "1"], "--max-gigabytes limits the building of an engine"),
        (["--engine", "hsnw"], "unknown kind of engine 'hsnw'; did you mean 'hnsw'"),
        (["--add", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--import-graph", "nowhere.jsonl"], "there is no file nowhere.jsonl"),
        (["--import-graph", "nowhere.jsonl", "--graph"], "give one of them"),
    ],
)
def test_what_cannot_be_done_is_said(index: Path, arguments: list[str], message: str) -> None:
    before = stored(index)
    with pytest.raises(HyperseekError, match=message):
        update(index, *arguments)
    assert stored(index) == before
    assert Index.open(index).attachments == ()


def test_wrong_options_change_nothing(index: Path, tmp_path: Path) -> None:
    """An engine that does not exist is found out before documents are deleted."""
    with pytest.raises(HyperseekError, match="unknown kind of engine"):
        update(index, "--delete", "d0", "--engine", "hsnw")
    with pytest.raises(HyperseekError, match="no such"):
        update(index, "--delete", "d0", "--add", tmp_path / "none.jsonl")
    assert len(stored(index)) == 4
