"""The snippets of docs/data.md and docs/mining.md run as they stand, in order, in an empty folder."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

from hyperseek.cli import app
from hyperseek.data import _known_collections

GUIDES = Path(__file__).parents[2] / "docs"


def run_commands(block):
    """Run commands of ours in this process, which has imported the encoder; `> FILE` takes what one prints."""
    for line in block.splitlines():
        command, arrow, file = line.partition(" > ")
        program, *arguments = shlex.split(command)
        assert program == "hyperseek", f"this test runs no {program}"
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        if arrow:
            Path(file).write_text(result.stdout)


def test_snippets_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    docstrings = list(
        _known_collections.standard_library()
    )  # parsed once, though the guide opens the corpus five times
    monkeypatch.setattr(_known_collections, "standard_library", lambda: iter(docstrings))
    text = "".join((GUIDES / name).read_text() for name in ("data.md", "mining.md"))
    blocks = re.findall(r"```(python|sh)\n(.*?)```", text, re.DOTALL)
    assert {language for language, _ in blocks} == {"python", "sh"}
    names: dict[str, object] = {}
    for language, code in blocks:
        if language == "python":
            exec(compile(code, str(GUIDES), "exec"), names)
        else:
            run_commands(code)
    printed = capsys.readouterr().out
    assert "Soup Boil water. {'minutes': 5}" in printed
    assert "broken.jsonl:2: id 'a' appears a second time" in printed
    assert "1 {'duplicate_id': 1, 'missing_field': 1}" in printed
    assert "{'q1': {'d1': 1}} {'q1': {'d2': 2.0, 'd1': 0.5}}" in printed
    assert "{'teacher_above_margin': 1}" in printed
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["options"] == {"qrels": {"maximum_positives": 4}}
    assert [source["split"] for source in report["sources"]] == ["train", "dev"]
