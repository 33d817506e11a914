"""`hyperseek search INDEX` without a text: lines of a pipe and of a real terminal, commands, mistakes, history."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from typer.testing import CliRunner, Result

from hyperseek.cli import app
from hyperseek.index import Index
from hyperseek.models import load
from hyperseek.types import Document

TEXTS = ["the cat and the dog", "music and song. " * 30 + "A window on the sea.", "road of the city", "star and moon"]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: str) -> Path:
    folder = tmp_path_factory.mktemp("prompt")
    SentenceTransformer(modules=[Transformer(tiny_encoder), Pooling(32)], device="cpu").save(str(folder / "model"))
    documents = [Document(f"d{i}", text, "Seasons" * (i == 1), {"n": i}) for i, text in enumerate(TEXTS)]
    Index.build(folder / "index", documents, load(folder / "model", device="cpu"))
    return folder / "index"


def ask(index: Path, lines: str, *options: object) -> Result:
    return CliRunner().invoke(app, ["search", str(index), *map(str, options)], input=lines)


def rows(result: Result) -> list[dict[str, list[dict[str, str]]]]:
    assert result.exception is None, result.exception
    return [json.loads(line) for line in result.stdout.splitlines()]


def ids(row: dict[str, list[dict[str, str]]]) -> list[str]:
    return [hit["id"] for hit in row["hits"]]


def test_lines_of_a_pipe_are_queries(index: Path) -> None:
    first, second = rows(ask(index, f"{TEXTS[2]}\n\n  {TEXTS[3]} \r\n", "--json", "-k", 2))
    assert first["query"] == {"id": "1", "text": TEXTS[2]}
    assert (ids(first)[0], ids(second)[0], len(ids(second))) == ("d2", "d3", 2)
    table = ask(index, TEXTS[1], "-k", 1).stdout
    assert TEXTS[1][:20] in table
    assert "Seasons" in table
    assert ask(index, TEXTS[2], "-f", "trec").stdout.splitlines()[0].split()[:4] == ["1", "Q0", "d2", "1"]


def test_commands_change_what_follows(index: Path) -> None:
    lines = f":k 3\n{TEXTS[2]}\n:where n > 2\n{TEXTS[2]}\n:where\n:k 1\n{TEXTS[0]}\n:next\n:next\n:quit\nnever\n"
    found = [ids(row) for row in rows(ask(index, lines, "--json"))]
    assert [len(each) for each in found] == [3, 1, 1, 1, 1]
    assert found[0][0] == "d2"
    assert found[1] == ["d3"]
    assert found[2][0] == "d0"
    assert len({*found[2], *found[3], *found[4]}) == 3  # each page has other documents


def test_hybrid_and_explanations_are_switched(index: Path) -> None:
    result = ask(index, ":hybrid\n:explain\nmoon\n:explain\n:hybrid\nmoon\n", "--json", "-k", 1)
    first, _ = rows(result)
    assert ids(first) == ["d3"]
    assert "hybrid search is on" in result.stderr
    assert "fusion:" in result.stderr
    assert result.stderr.count("4 documents;") == 1


def test_a_whole_document_is_opened(index: Path) -> None:
    result = ask(index, "window on the sea\n:open 1\n", "-k", 1, "--where", "n = 1")
    assert result.exception is None
    before, _, after = result.stdout.partition('{"n": 1}')
    assert "A window on the sea." in " ".join(before.split())
    assert "…" in before
    assert " ".join(after.split()) == TEXTS[1]


def test_help_lists_every_command(index: Path) -> None:
    from hyperseek.cli._prompt import _COMMANDS

    told = ask(index, ":help\n").stderr
    assert all(f":{name}" in told for name in (*_COMMANDS, "quit"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (":kk 3", "':kk'.*did you mean ':k'"),
        (":k none", ":k takes a whole number from 1 to 10,000, not 'none'"),
        (":k 0", ":k takes a whole number"),
        (":k " + "9" * 5000, ":k takes a whole number"),
        (":where n >", "."),
        (":next", "there is no query yet"),
        (":open 1", "there are no hits yet"),
        (":next 3", ":next takes nothing after it"),
        (":plan nowhere.yaml", "nowhere.yaml"),
        (":card x", "."),
        (":level 2", "."),
        (":\x1b[31m", "."),
    ],
)
def test_mistakes_are_one_line_and_the_next_query_is_answered(index: Path, line: str, message: str) -> None:
    undo = {":where n >": ":where\n", ":card x": ":card\n", ":level 2": ":level\n"}.get(line, "")
    result = ask(index, f"{line}\n{'moon' + chr(10) if undo else ''}{undo}moon\n", "--json", "-k", 1)
    [told] = [each for each in result.stderr.splitlines() if each and "Loading weights" not in each]
    assert re.search(message, told)
    assert "\x1b" not in told
    assert json.loads(result.stdout)["query"]["text"] == "moon"
    assert "one line of standard input could not be answered" in str(result.exception)


def test_an_empty_pipe_is_a_mistake(index: Path) -> None:
    assert "queries on standard input, one on a line" in str(ask(index, "").exception)


def test_one_of_text_and_queries_and_one_format(index: Path) -> None:
    assert "not both" in str(ask(index, "", "cat", "--queries", "q.tsv").exception)
    assert "--json or --format trec" in str(ask(index, "", "cat", "--json", "-f", "trec").exception)


@pytest.mark.parametrize("error", [OSError("no space"), RuntimeError("Could not determine home directory.")])
def test_a_prompt_does_without_a_history(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hyperseek.cli import _prompt

    def fail() -> Path:
        raise error

    def end(self: object) -> str:
        raise EOFError

    monkeypatch.setattr(_prompt, "_history_file", fail)
    monkeypatch.setattr("prompt_toolkit.PromptSession.prompt", end)
    assert not list(_prompt._typed(_prompt.Session([], {})))  # type: ignore[arg-type]
    assert f"not remembered: {error}" in capsys.readouterr().err


def test_a_prompt_goes_on_where_a_query_cannot_be_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hyperseek.cli import _prompt

    def typed(self: Any) -> str:
        self.history.store_string("a query")
        raise EOFError

    monkeypatch.setattr(_prompt, "_history_file", lambda: tmp_path / "gone" / "history")
    monkeypatch.setattr("prompt_toolkit.PromptSession.prompt", typed)
    assert not list(_prompt._typed(_prompt.Session([], {})))  # type: ignore[arg-type]
    assert "the query is not remembered: " in capsys.readouterr().err


def test_a_depth_of_many_digits_is_a_mistake(index: Path) -> None:
    assert "--group-by is FIELD or FIELD:DEPTH" in str(ask(index, "", "cat", "--group-by", "n:" + "9" * 5000).exception)


def test_json_has_snippets(index: Path) -> None:
    [row] = json.loads(ask(index, "", "window", "--json", "-k", 1, "--where", "n = 1").stdout)
    [hit] = row["hits"]
    snippet = hit["snippet"]
    [[start, end]] = snippet["highlights"]
    assert snippet["text"][start:end] == "window"
    assert hit["text"][snippet["start"] : snippet["end"]] == snippet["text"]


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="needs pseudo-terminals")
def test_a_real_terminal_has_a_prompt_with_history(index: Path, tmp_path: Path) -> None:
    main, side = os.openpty()
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
    command = [sys.executable, "-m", "hyperseek", "search", str(index), "-k", "1"]
    with subprocess.Popen(
        command, stdin=side, stdout=side, stderr=side, env=environment, start_new_session=True
    ) as run:
        os.close(side)
        shown = b""

        def until(text: str, seconds: float = 120) -> None:
            nonlocal shown
            end = time.monotonic() + seconds
            while text.encode() not in shown:
                ready, _, _ = select.select([main], [], [], max(0, end - time.monotonic()))
                assert ready, shown
                shown += os.read(main, 4096)
            shown = shown.partition(text.encode())[2]

        prompt = "\x1b[?2004h"  # pastes are bracketed while a line is read
        try:
            until(prompt)
            os.write(main, b"half a que\x03")  # Ctrl-C drops the line
            until(prompt)
            os.write(main, TEXTS[3].encode() + b"\r")
            until("score")
            until("d3")
            until(prompt)
            os.write(main, b":bogus\r")
            until("unknown command")
            until(prompt)
            os.write(main, b"\x04")
            assert run.wait(60) == 0
        finally:
            run.kill()
            os.close(main)
    history = tmp_path / "hyperseek" / "search-history"
    assert f"+{TEXTS[3]}" in history.read_text()
    assert "half a que" not in history.read_text()
    assert history.stat().st_mode & 0o077 == 0
