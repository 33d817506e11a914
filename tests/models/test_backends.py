"""Backends: what ONNX Runtime and OpenVINO make of a model, how it is kept, and what is refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import hyperseek
from hyperseek import Document, HyperseekError, Index
from hyperseek.errors import InputError, ModelError
from hyperseek.models import ModelConfig, Retriever, build, load
from hyperseek.models.backends import BACKENDS, Backend, Onnx, Run

if TYPE_CHECKING:
    from programs import Programs

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
TEXTS = ["", "cat", "the small dog and the large bird", "a book on neural search " * 30, "where is the river?"]
FLOAT32, ALL = ["onnx", "openvino"], ["onnx", "onnx-int8", "openvino", "openvino-bfloat16", "openvino-int8"]


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERSEEK_CACHE", str(folder))
        yield folder / "backends"


def needs(backend: str) -> str:
    if backend.startswith("openvino"):
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # the library does so, too
        pytest.importorskip("openvino")
    return backend


def apart(model: Retriever, other: Retriever) -> float:
    """The largest difference of a text's vectors, relative to their norms."""
    found, wanted = (
        each.encode_documents(TEXTS, dtype="auto" if each.backend else "float32") for each in (model, other)
    )
    return float((found.rows - wanted.rows).norm(dim=1).div(wanted.rows.norm(dim=1)).max())


@pytest.mark.parametrize("backend", ALL)
def test_a_backend_encodes_as_torch_does(tiny_encoder: str, backend: str) -> None:
    plain, model = load(tiny_encoder, device="cpu"), load(tiny_encoder, backend=needs(backend))
    assert apart(model, plain) < {"float32": 1e-5, "bfloat16": 0.05, "int8": 0.2}[model.number_type()]
    assert model.fingerprint == plain.fingerprint
    assert model.protocol()["backend"] == model.backend == backend
    assert model.protocol()["dtype"] == model.number_type()
    alone = torch.cat([model.encode_documents([text]).rows for text in TEXTS])
    batched = model.encode_documents(TEXTS).rows
    assert torch.allclose(alone, batched, atol=1e-5 if model.number_type() == "float32" else 0.2)
    scores = (
        each.compile(["the dog"]).score(plain.encode_documents(TEXTS, dtype="float32")) for each in (model, plain)
    )
    assert torch.allclose(*scores, rtol=1e-4 if model.number_type() == "float32" else 0.2)


def qnet(encoder: str) -> Retriever:
    return build(ModelConfig.from_mapping({"trunk": encoder, "family": "qnet"}), device="cpu")


@pytest.mark.parametrize("family", ["qnet", "late", "lorentz", "levels", "card"])
def test_models_of_all_families_are_run(tiny_encoder: str, tmp_path: Path, family: str) -> None:
    built = build(ModelConfig.from_mapping({"trunk": tiny_encoder, "family": family}), device="cpu")
    built.save(tmp_path / "model")
    model = load(tmp_path / "model", backend="onnx")
    assert apart(model, built) < 1e-4
    points = built.encode_documents(TEXTS, dtype="float32")
    scores = [each.compile(["the dog", "a book"]).score(points) for each in (model, built)]
    assert torch.allclose(*scores, rtol=1e-3, atol=1e-4)


def test_an_export_is_kept_for_the_content_of_the_weights(
    tiny_encoder: str, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    exports: list[str] = []
    original = Onnx.export
    monkeypatch.setattr(Onnx, "export", lambda *given: (exports.append("one"), original(*given))[1])
    model = load(tiny_encoder, device="cpu")
    with torch.no_grad():
        next(model.model.parameters()).mul_(1.5)
    model.save(tmp_path / "model")
    found = {folder.name for folder in cache.iterdir()} if cache.exists() else set()
    first = load(tmp_path / "model", backend="onnx")
    again = load(tmp_path / "model", backend="onnx")
    assert exports == ["one"]
    assert apart(first, again) == 0
    (made,) = (folder for folder in cache.iterdir() if folder.is_dir() and folder.name not in found)
    for damage in (lambda: (made / "model.onnx").write_bytes(b"not a model"), lambda: (made / "export.json").unlink()):
        damage()
        assert apart(load(tmp_path / "model", backend="onnx"), first) == 0
    assert exports == ["one"] * 3
    record = json.loads((made / "export.json").read_text())
    assert 0 <= record["differences"]["onnx"] < 1e-5


def test_an_export_that_differs_is_refused(tiny_encoder: str, tmp_path: Path) -> None:
    @BACKENDS.register("inexact")
    class Inexact(Onnx):
        def open(self, folder: Path, names: Any) -> Run:
            run = super().open(folder, names)
            return lambda inputs: run(inputs) * 1.01

    try:
        with pytest.raises(ModelError, match=r"differ by 0\.01 of their norm, and at most 0\.001"):
            load(tiny_encoder, backend="inexact")
    finally:
        BACKENDS.unregister("inexact")
    with pytest.raises(InputError, match="subclass of"):
        BACKENDS.register("wrong", int)
    assert issubclass(Onnx, Backend)


def refused(*given: Any, **options: Any) -> Callable[[], Any]:
    return lambda: load(*given, **options)


def test_what_no_backend_can_do_is_said(tiny_encoder: str, tmp_path: Path) -> None:
    pruned = {"trunk": tiny_encoder, "family": "late", "late": {"pruning": {"importance": "gate"}}}
    build(ModelConfig.from_mapping(pruned), device="cpu").save(tmp_path / "pruned")
    for call, message in [
        (refused(tiny_encoder, backend="onxx"), "onnx"),
        (refused(tiny_encoder, backend="onnx", device="meta"), "on the CPU, not on meta"),
        (refused(tmp_path / "pruned", backend="onnx"), "only torch can run"),
    ]:
        with pytest.raises(HyperseekError, match=message):
            call()
    model = load(tiny_encoder, backend="onnx-int8")
    with pytest.raises(InputError, match="computes in int8, not in 'float32'"):
        model.encode_documents(["a"], dtype="float32")
    with pytest.raises(InputError, match="--backend onnx-int8"):
        load(tiny_encoder, device="cpu").encode_documents(["a"], dtype="int8")
    assert not any(parameter.requires_grad for parameter in model.route("document")[0].parameters())


def test_an_index_in_int8_says_so_and_is_searched_by_either_model(tiny_encoder: str, tmp_path: Path) -> None:
    documents = [Document(str(row), text) for row, text in enumerate(TEXTS)]
    folder = tmp_path / "index"
    index = Index.build(folder, documents, load(tiny_encoder, backend="onnx-int8"))
    assert (index.info.dtype, index.info.protocol["backend"]) == ("int8", "onnx-int8")

    def scores(opened: Index) -> dict[str, float]:
        return {hit.id: hit.score for hit in opened.search("the dog", k=len(TEXTS))}

    wanted = scores(index)
    assert scores(Index.open(folder, backend="onnx-int8")) == pytest.approx(wanted, abs=1e-5)
    assert scores(Index.open(folder)) == pytest.approx(wanted, abs=0.2)  # queries in float32
    assert scores(Index.open(folder)) != pytest.approx(wanted, abs=1e-5)
    with pytest.raises(InputError, match="backend"):
        Index.open(folder).add([Document("new", "a new text")])
    index.add([Document("new", "a new text")])
    assert len(index) == len(TEXTS) + 1
    # Equal vectors: an index in float32 takes documents of either.
    same = Index.build(tmp_path / "same", documents, load(tiny_encoder, device="cpu"), dtype="float32")
    Index.open(same.path, backend="onnx").add([Document("new", "a new text")])
    with pytest.raises(HyperseekError, match="dtype float32"):
        Index.build(same.path, documents, load(tiny_encoder, backend="onnx-int8"))


_QUIET = """
import socket, sys

def refuse(*given, **named):
    raise SystemExit(f"a socket was opened: {given}")

socket.socket.connect = socket.socket.connect_ex = socket.create_connection = refuse
import subprocess
subprocess.Popen.__init__ = refuse
import hyperseek
model = hyperseek.load(sys.argv[1], backend="openvino")
assert model.encode_documents(["a cat"]).vectors.shape == (1, 32)
assert not [name for name in sys.modules if name.startswith("openvino_telemetry.")], "usage is counted"
"""


def test_openvino_sends_nothing(tiny_encoder: str, tmp_path: Path, cache: Path) -> None:
    needs("openvino")
    environment = {**__import__("os").environ, "HOME": str(tmp_path), "CI": ""}
    environment["PYTHONPATH"] = str(Path(hyperseek.__file__).parents[1])
    command = [sys.executable, "-c", _QUIET, tiny_encoder]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr[-2000:]
    assert not (tmp_path / "intel").exists()  # where it keeps the number of a machine


def test_what_a_backend_raises_is_an_error_of_ours(tiny_encoder: str) -> None:
    def fail(inputs: object) -> None:
        raise RuntimeError("no memory")

    model = load(tiny_encoder, backend="onnx")
    model.route("document")[0].model.forward._run = fail
    with pytest.raises(ModelError, match=r"the backend onnx cannot run this model \(RuntimeError: no memory\)"):
        model.encode_documents(TEXTS)


_INTERRUPTED = """
import gc, signal, sys
from hyperseek import load
first = load(sys.argv[1], backend="openvino")
first.encode_documents(["cat"])
second = load(sys.argv[1], backend="openvino")
second.encode_documents(["cat"])
del first
gc.collect()
del second
gc.collect()
signal.raise_signal(signal.SIGINT)
"""


def test_ctrl_c_after_models_are_released_is_no_crash(tiny_encoder: str, programs: Programs) -> None:
    needs("openvino")
    done = programs.run(["-c", _INTERRUPTED, tiny_encoder])
    assert "KeyboardInterrupt" in done.stderr
    assert done.returncode in (1, 130, -signal.SIGINT)
