from __future__ import annotations

from typer.testing import CliRunner

from hyperseek.cli import app
from hyperseek.training import find_recipe, list_recipes


def test_recipes_are_listed_with_a_line_each_and_printed_as_they_are_written() -> None:
    listed = CliRunner().invoke(app, ["recipes"], catch_exceptions=False)
    assert (listed.exit_code, listed.stderr) == (0, "")
    known = list_recipes()
    assert [tuple(line.split(maxsplit=1)) for line in listed.stdout.splitlines()] == [*known.items()]
    for name in known:
        printed = CliRunner().invoke(app, ["recipes", name], catch_exceptions=False)
        assert printed.stdout == find_recipe(name).read_text(encoding="utf-8")
    wrong = CliRunner().invoke(app, ["recipes", "qnet-minilm-pydoc"])
    assert "did you mean 'qnet-minilm-pydocs'" in str(wrong.exception)
