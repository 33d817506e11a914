"""`hyperseek inspect`: what an index holds, and what its engines find and cost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hyperseek import HyperseekError
from hyperseek.cli import app
from hyperseek.index import Index
from hyperseek.models import load
from hyperseek.plan import Plan
from hyperseek.types import Document

WORDS = ("cat", "dog", "bird", "fish", "sea", "sun", "moon", "star")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: str) -> Path:
    path = tmp_path_factory.mktemp("inspect") / "index"
    documents = [
        Document(f"d{number}", f"{WORDS[number % 8]} and {WORDS[number // 8]}", metadata={"n": number, "tags": ["a"]})
        for number in range(24)
    ]
    index = Index.build(path, documents, load(tiny_encoder, device="cpu"))
    index.build_engine("flat")
    index.build_graph(degree=4)
    index.delete(["d23"])
    return path


@pytest.fixture
def index(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "index"))


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    path = tmp_path / "queries.tsv"
    path.write_text("".join(f"q{number}\t{word}\n" for number, word in enumerate(WORDS)))
    return path


def inspect(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["inspect", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0
    return result


def test_an_index_as_json(made: Path, tiny_encoder: str) -> None:
    result = inspect("index", made, "--json")
    description = json.loads(result.stdout)
    opened = Index.open(made)
    assert description == {
        "path": str(made),
        "documents": 23,
        "space": opened.space.to_json(),
        "storage": "float32",
        "model": tiny_encoder,
        "fingerprint": opened.info.fingerprint,
        "created": opened.info.created.isoformat(),
        "fields": {"n": "number", "tags": "list of strings"},
        "engines": {
            "flat": {
                "kind": "flat",
                "documents": 24,
                "of": 23,
                "charts": [opened.space.flat_chart],
                "recall": 1.0,
                "config": {"kind": "flat", "storage": "float32", "device": "auto"},
            },
            "graph": {
                "kind": "graph",
                "documents": 24,
                "of": 23,
                "config": {"kind": "graph", "degree": 4, "method": "auto", "seed": 0},
            },
        },
        "plans": {},
    }


def test_an_index_for_people(made: Path) -> None:
    lines = inspect("index", made).stdout.splitlines()
    assert "documents: 23" in lines
    assert "storage: float32" in lines
    assert lines[lines.index("fields:") + 1] == "  n: number"
    flat = lines[lines.index("engines:") + 1]
    assert flat.startswith("  flat: kind flat, documents 24, of 23, charts ")
    assert "config kind flat" in flat
    assert lines[-1] == "plans: none"


def test_recall_as_json_measures_and_keeps_a_plan(index: Path, queries: Path) -> None:
    result = inspect("recall", index, "--queries", queries, "-k", 3, "--target", 0.9, "--json")
    tuning = json.loads(result.stdout)
    assert (tuning["kind"], tuning["k"], tuning["queries"], tuning["wanted"]) == ("linear", 3, 8, 0.9)
    assert tuning["measured"][0]["recall"] == 1.0
    [chosen] = [one for one in tuning["measured"] if one["chosen"]]
    assert chosen["recall"] >= 0.9
    assert chosen["milliseconds"] == min(one["milliseconds"] for one in tuning["measured"] if one["recall"] >= 0.9)
    plan = json.loads(inspect("index", index, "--json").stdout)["plans"]["linear"]
    assert (plan["k"], plan["recall"], plan["queries"]) == (3, chosen["recall"], 8)
    lines = inspect("index", index).stdout.splitlines()
    [line] = lines[lines.index("plans:") + 1 :]
    shown = f"  linear: {Plan(**plan['plan'])!r}  (recall@3 {plan['recall']:.4f} on 8 queries, "
    assert line.startswith(shown)
    assert line.endswith(" ms per query)")
    assert "{" not in line
    told = CliRunner().invoke(app, ["search", str(index), "cat", "-k", "3", "--explain"], catch_exceptions=False)
    assert "the plan tuned on this index for linear scorers: recall@3" in told.stderr


def test_recall_for_people_of_one_engine_without_keeping_anything(index: Path, queries: Path) -> None:
    result = inspect("recall", index, "-Q", queries, "-k", 3, "--engine", "flat", "--limit", 5, "--no-save")
    assert "5 queries, linear scorers, recall of the exhaustive top 3" in " ".join(result.stdout.split())
    assert "engine" in result.stdout
    assert "graph" not in result.stdout
    assert "chosen" in result.stdout
    assert "cheapest with a recall of 0.99: " in result.stdout
    assert "not stored" in result.stdout
    assert Index.open(index).engines.plans == {}


def test_what_cannot_be_measured_is_said(index: Path, queries: Path, tmp_path: Path) -> None:
    for arguments, message in [
        (["--engine", "falt"], "unknown engine of this index 'falt'; did you mean 'flat'"),
        (["--target", "1.5"], "recall in"),
        (["--queries", tmp_path / "none.tsv"], "no such file"),
    ]:
        with pytest.raises(HyperseekError, match=message):
            inspect("recall", index, "--queries", queries, *arguments)
    (tmp_path / "empty.tsv").write_text("")
    with pytest.raises(HyperseekError, match="queries"):
        inspect("recall", index, "--queries", tmp_path / "empty.tsv")
    for name in ("flat", "graph"):
        Index.open(index).drop(name)
    with pytest.raises(HyperseekError, match="has no engine to tune"):
        inspect("recall", index, "--queries", queries)
    with pytest.raises(HyperseekError, match="none"):
        inspect("index", tmp_path / "none")
