"""An ONNX model as a scorer: loaded once, whatever is sliced, joined and searched; its faults in our words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hyperseek import HyperseekError
from hyperseek.index import Index
from hyperseek.plan import Rescore, Surrogate
from hyperseek.scoring import OnnxScorer, Space, VectorPoints
from hyperseek.types import Document

onnx: Any = pytest.importorskip("onnx")
onnxruntime: Any = pytest.importorskip("onnxruntime")

SPACE = Space("dot", 6)


def normal(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A model that multiplies."""
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Transpose", ["query"], ["column"], perm=[1, 0]),
        helper.make_node("MatMul", ["documents", "column"], ["score"]),
    ]
    inputs = [
        helper.make_tensor_value_info("query", number, [1, 6]),
        helper.make_tensor_value_info("documents", number, ["n", 6]),
    ]
    graph = helper.make_graph(nodes, "cross", inputs, [helper.make_tensor_value_info("score", number, ["n", 1])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, str(tmp_path / "cross.onnx"))
    return tmp_path / "cross.onnx"


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was loaded, one entry a session."""
    sessions: list[object] = []
    load: Callable[..., object] = onnxruntime.InferenceSession

    def counted(given: object, **options: object) -> object:
        sessions.append(given)
        return load(given, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", counted)
    return sessions


def test_a_model_is_loaded_once_for_all_its_queries(path: Path, tmp_path: Path, loaded: list[object]) -> None:
    items = zip([Document(f"d{number}", "") for number in range(50)], normal(50), strict=True)
    index = Index.from_vectors(tmp_path / "index", items, SPACE)
    queries = normal(64, seed=1)
    scorer = OnnxScorer(SPACE, path, queries)
    exact = [[hit.id for hit in hits] for hits in index.search(scorer)]
    assert exact == [[f"d{row}" for row in rows] for rows in (queries @ normal(50).T).topk(10).indices.tolist()]
    plan = Surrogate(n=20, landmarks=30, refits=1) >> Rescore()
    assert [[hit.id for hit in hits] for hits in index.search(scorer, plan=plan)] == exact
    joined = OnnxScorer.concatenate([scorer[:3], scorer[3:].to("cpu").detach()])
    path.unlink()  # what is loaded stays what it is
    assert torch.equal(joined[10:12].score(VectorPoints(normal(50))), scorer.score(VectorPoints(normal(50)))[10:12])
    assert len(loaded) == 1


def test_what_is_no_such_model_is_said(path: Path, tmp_path: Path) -> None:
    (tmp_path / "damaged.onnx").write_bytes(path.read_bytes()[:40])
    (tmp_path / "text.onnx").write_text("no model")
    for name in ("none.onnx", "damaged.onnx", "text.onnx", "."):
        with pytest.raises(HyperseekError, match=r"an ONNX model|not exist"):
            OnnxScorer(SPACE, tmp_path / name, normal(2))
    with pytest.raises(HyperseekError, match=r"query of the shape \(1, 5\).*query \[1, 6\]"):
        OnnxScorer(SPACE, path, torch.zeros(2, 5)).score(VectorPoints(normal(3)))
