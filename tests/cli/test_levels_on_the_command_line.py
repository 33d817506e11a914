"""Models with levels on the command line: an engine of a level, levels of searches, broad to narrow, groups."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hyperseek.cli import app
from hyperseek.models import ModelConfig, build

WORDS = ("cat", "dog", "bird", "fish", "sea", "sun", "moon", "star", "tree", "leaf", "river", "stone")


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, list(map(str, words)))


@pytest.fixture(scope="module")
def index(tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("levels")
    levels = {"refinement": "linear", "num_segments": 3, "start": "original"}
    values = {"trunk": tiny_encoder, "family": "levels", "levels": levels}
    build(ModelConfig.from_mapping(values, source="test"), device="cpu").save(folder / "model")
    with (folder / "corpus.jsonl").open("w") as file:
        for number, word in enumerate(WORDS):
            path = f"{'animal' if number < 4 else 'thing'} > {word}"
            line = {"_id": f"d{number}", "text": f"{word} and {WORDS[number // 2]}", "title": "", "path": path}
            file.write(json.dumps(line) + "\n")
    made = invoke(
        "encode", folder / "model", folder / "corpus.jsonl", "-i", folder / "index", "--engine", "hnsw", "--level", 1
    )
    assert made.exit_code == 0, made.output
    assert "engine hnsw-level-1: built for 12 documents" in made.stderr
    return folder / "index"


def ranking(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return [hit["id"] for hit in json.loads(result.stdout)[0]["hits"]]


def test_a_search_takes_levels(index: Path) -> None:
    search = ("search", index, "the cat", "-k", 12, "-f", "json")
    narrow, broad = ranking(invoke(*search)), ranking(invoke(*search, "--level", 1))
    assert set(narrow) == set(broad)
    assert narrow != broad
    assert ranking(invoke(*search, "--option", "level=1")) == broad
    assert ranking(invoke(*search, "--broaden", 1)) == broad
    assert ranking(invoke(*search, "--broaden", 0)) == ranking(invoke(*search, "--level", 3)) == narrow
    assert ranking(invoke(*search, "--relation", "is_a", "--radius-weight", 0)) == narrow
    assert len(ranking(invoke(*search, "--level", 3, "--document-level", 1, "--relation", "cone"))) == 12
    refused = invoke(*search, "--level", 1, "--broaden", 0.5)
    assert refused.exit_code != 0


def test_broad_to_narrow_is_a_plan_that_explain_shows(index: Path) -> None:
    search = ("search", index, "the cat", "-k", 4, "-f", "json")
    told = invoke(*search, "--broad-to-narrow", "--explain")
    assert ranking(told) == ranking(invoke(*search))
    assert "nearest (level=1): " in told.stderr
    assert "rescore: " in told.stderr
    assert "recall 1.0000" in told.stderr
    assert ranking(invoke(*search, "--broad-to-narrow", "--engine", "hnsw-level-1")) == ranking(invoke(*search))
    refused = invoke(*search, "--broad-to-narrow", "--hybrid")
    assert refused.exit_code != 0
    assert "exclude each other" in str(refused.exception) + refused.output


def test_tables_are_grouped_by_a_path(index: Path) -> None:
    table = invoke("search", index, "the cat", "-k", 12, "--group-by", "path:1")
    assert table.exit_code == 0, table.output
    assert table.stdout.count("animal") == table.stdout.count("thing") == 1
    whole = invoke("search", index, "the cat", "-k", 12, "--group-by", "path")
    assert whole.stdout.count("animal > ") == 4
    for wrong in ("path:x", ":1", "paht"):
        assert invoke("search", index, "the cat", "--group-by", wrong).exit_code != 0
    assert invoke("search", index, "the cat", "--group-by", "path", "-f", "json").exit_code != 0


def test_update_builds_engines_and_graphs_of_levels(index: Path) -> None:
    updated = invoke("update", index, "--engine", "flat", "--level", 2, "--graph")
    assert updated.exit_code == 0, updated.output
    assert "engine flat-level-2: built" in updated.stderr
    shown = invoke("inspect", "index", index)
    assert "graph-level-2" in shown.stdout + shown.stderr
    assert invoke("update", index, "--level", 2).exit_code != 0
    too_high = invoke("update", index, "--engine", "flat", "--level", 9)
    assert too_high.exit_code != 0
