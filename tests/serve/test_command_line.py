"""`hyperseek search --server` prints what a search of the folder prints, and loads no model for it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serve_fixtures import running
from typer.testing import CliRunner, Result

from hyperseek.cli import app
from hyperseek.cli._search import broad_to_narrow_plan, hybrid_plan
from hyperseek.plan import as_plan, broad_to_narrow, hybrid


@pytest.fixture(scope="module")
def folder(make_index: Callable[..., Path]) -> Path:
    return make_index("shown", 40, passages={"tokens": 16, "overlap": 2})


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    from hyperseek.serve import create_app

    with running(create_app({"notes": str(folder)}, keys=("right",))) as url:
        yield url


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERSEEK_API_KEY", "right")


def asked(*arguments: object, lines: str | None = None) -> Result:
    return CliRunner().invoke(app, ["search", *map(str, arguments)], input=lines)


def untimed(text: str) -> str:
    """Leave out times, and the bars of a library that this process has imported already."""
    return re.sub(r"\r?Loading weights.*\n?", "", re.sub(r"[\d.]+ ms", "ms", text))


@pytest.mark.parametrize(
    "options",
    [
        ["cat dog sea"],
        ["cat dog sea", "-k", "3", "--json", "--where", "year > 2003", "--combine", "soft"],
        ["cat dog sea", "--no-texts", "--format", "jsonl", "--hybrid"],
        ["--queries", "QUERIES", "--format", "trec", "--exclude-same-id", "--tag", "mine"],
        ["--queries", "QUERIES", "--plan", "PLAN", "--explain"],
        ["cat dog sea", "--group-by", "year"],
        ["cat dog sea", "--level", "2"],
        ["cat dog sea", "--engine", "none"],
    ],
)
def test_the_output_is_that_of_a_search_of_the_folder(
    options: list[str], address: str, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "queries.tsv").write_text("d1\tcat dog\nd2\tsea sun moon\n")
    (tmp_path / "plan.yaml").write_text("stages:\n- {kind: full_text, n: 9}\n- {kind: rescore}\n")
    places = {"QUERIES": tmp_path / "queries.tsv", "PLAN": tmp_path / "plan.yaml"}
    given = [places.get(option, option) for option in options]
    here, there = asked(folder, *given), asked("--server", address, *given)
    assert (there.exit_code, there.stdout) == (here.exit_code, here.stdout)
    assert untimed(there.stderr) == untimed(here.stderr)
    assert str(there.exception) == str(here.exception)
    assert bool(here.stdout) != bool(here.exception)


def test_the_prompt_asks_a_server(address: str, folder: Path) -> None:
    lines = ":k 2\ncat dog sea\n:open 1\n:next\n:where year > 2005\n:hybrid\n:explain\ncat dog sea\n:where\n:nothing\n"
    here, there = asked(folder, lines=lines), asked("--server", address, "--index", "notes", lines=lines)
    assert "cat dog sea" in here.stdout
    assert there.stdout == here.stdout
    assert untimed(there.stderr) == untimed(here.stderr)


def test_mistakes_are_said(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments, said in (
        (["--server", address, "INDEX", "cat"], "neither INDEX nor --model"),
        (["--server", address, "cat", "--model", "minilm"], "neither INDEX nor --model"),
        (["--server", address, "cat", "--index", "note"], "known: notes"),
        (["--server", "localhost", "cat"], "as http://127.0.0.1:8080"),
        (["folder", "cat", "--index", "notes"], "give INDEX"),
    ):
        assert said in str(asked(*arguments).exception)
    monkeypatch.setenv("HYPERSEEK_API_KEY", "wrong")
    refused = asked("--server", address, "cat")
    assert "set HYPERSEEK_API_KEY" in str(refused.exception)
    assert "wrong" not in str(refused.exception)


def test_nothing_heavy_is_imported(address: str) -> None:
    program = (
        "import sys\nfrom hyperseek.cli import main\n"
        f"sys.argv = ['hyperseek', 'search', '--server', {address!r}, 'cat dog', '--hybrid', '--group-by', 'year']\n"
        "main()\n"
    )
    ends = "\nprint([name for name in ('torch', 'transformers', 'pyarrow', 'lance') if name in sys.modules])"
    program = program.replace("main()\n", f"try:\n    main()\nexcept SystemExit:\n    pass{ends}\n")
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "title" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"


def test_plain_plans_are_those_of_the_library() -> None:
    assert as_plan(hybrid_plan(200, "hnsw")) == hybrid(200, engine="hnsw")
    assert as_plan(hybrid_plan(1, "auto")) == hybrid()
    assert as_plan(broad_to_narrow_plan(10, "auto")) == broad_to_narrow()
    assert as_plan(broad_to_narrow_plan(1000, "exact")) == broad_to_narrow(10_000, engine="exhaustive")
