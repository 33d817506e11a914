"""Checkpoints of the original, against its own recorded numbers."""

from __future__ import annotations

import json
import logging
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hyperseek import HyperseekError
from hyperseek.models import Retriever, import_hypencoder, load
from hyperseek.models.importers.hypencoder import read_weights
from hyperseek.scoring import QNetScorer

QNETS = ["q2_shared", "q2_rect_unshared_mean"]
TOLERANCE = {"atol": 2e-5, "rtol": 0.0}


def recorded(golden: Path, case: str) -> dict[str, Tensor]:
    return {
        name: torch.from_numpy(array) for name, array in np.load(golden / "hypencoder" / case / "golden.npz").items()
    }


@torch.inference_mode()
def run(retriever: Retriever, values: dict[str, Tensor], *, queries: Tensor | None = None) -> tuple[Any, Any, Any]:
    documents = {"input_ids": values["passage_input_ids"], "attention_mask": values["passage_attention_mask"]}
    asked = {"input_ids": values["query_input_ids"], "attention_mask": values["query_attention_mask"]}
    features = retriever.forward(asked, "query")
    return retriever.points(retriever.forward(documents, "document")), retriever.scorer(features), features


@pytest.mark.parametrize("weights", ["pytorch_model.bin", "dedup.safetensors"])
@pytest.mark.parametrize("case", QNETS)
def test_imported_qnets_reproduce_every_recorded_number(golden: Path, case: str, weights: str) -> None:
    folder = golden / "hypencoder" / case
    values = recorded(golden, case)
    retriever = import_hypencoder(folder, weights=folder / weights, legacy_padded_mean=True)
    points, scorer, features = run(retriever, values)
    assert isinstance(scorer, QNetScorer)
    torch.testing.assert_close(points.vectors, values["passage_embeddings"], **TOLERANCE)
    for index, matrix in enumerate(scorer.matrices):
        torch.testing.assert_close(matrix, values[f"qnet_weight_{index}"], **TOLERANCE)
    for index, vector in enumerate(scorer.vectors):
        torch.testing.assert_close(vector, values[f"qnet_bias_{index}"], **TOLERANCE)
    torch.testing.assert_close(scorer.score(points), values["scores_all"], **TOLERANCE)
    own = points.vectors.reshape(len(scorer), -1, points.dimension)
    torch.testing.assert_close(scorer.score_own(own), values["scores_own"], **TOLERANCE)
    if "query_embedding_representation" in values:
        torch.testing.assert_close(
            features["embedding_representation"], values["query_embedding_representation"], **TOLERANCE
        )


@pytest.mark.parametrize("case", QNETS)
def test_padding_of_queries_changes_nothing(golden: Path, case: str) -> None:
    values = recorded(golden, case)
    retriever = import_hypencoder(golden / "hypencoder" / case, legacy_padded_mean=True)
    points, _, _ = run(retriever, values)
    rows = []
    for ids, mask in zip(values["query_input_ids"], values["query_attention_mask"], strict=True):
        length = int(mask.sum())
        with torch.inference_mode():
            asked = {"input_ids": ids[None, :length], "attention_mask": mask[None, :length]}
            rows.append(retriever.scorer(retriever.forward(asked, "query")).score(points))
    torch.testing.assert_close(torch.cat(rows), values["scores_all_unpadded_queries"], **TOLERANCE)


def test_be_base(golden: Path) -> None:
    values = recorded(golden, "bebase_shared")
    retriever = import_hypencoder(golden / "hypencoder" / "bebase_shared")
    points, scorer, _ = run(retriever, values)
    torch.testing.assert_close(points.vectors, values["passage_embeddings"], **TOLERANCE)
    torch.testing.assert_close(scorer.linear(), values["query_embeddings"], **TOLERANCE)
    torch.testing.assert_close(scorer.score(points), values["scores_all"], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("case", [*QNETS, "bebase_shared"])
def test_imported_models_are_saved_in_our_format(golden: Path, case: str, tmp_path: Path) -> None:
    imported = import_hypencoder(golden / "hypencoder" / case, legacy_padded_mean=True)
    imported.save(tmp_path)
    loaded = load(tmp_path, device="cpu")
    values = recorded(golden, case)
    points, scorer, _ = run(loaded, values)
    torch.testing.assert_close(scorer.score(points), values["scores_all"], atol=1e-4, rtol=1e-5)
    assert loaded.fingerprint == imported.fingerprint


def test_the_exhaustive_ranking(golden: Path) -> None:
    values = json.loads((golden / "hypencoder" / "retrieval" / "golden.json").read_text())
    folder = golden / "hypencoder" / values["model"]
    if not folder.is_dir():
        pytest.skip(f"the checkpoint {values['model']} of the recorded ranking is not here")
    retriever = import_hypencoder(folder)
    points = retriever.encode_documents([document["text"] for document in values["docs"]], dtype="float32")
    scores = retriever.compile([query["text"] for query in values["queries"]]).score(points)
    for row, query in zip(scores, values["queries"], strict=True):
        best = row.topk(20)
        found = [values["docs"][index]["id"] for index in best.indices.tolist()]
        expected = values["exhaustive_top20"][query["id"]]
        assert found == [document for document, _ in expected]
        torch.testing.assert_close(best.values, torch.tensor([score for _, score in expected]), atol=1e-3, rtol=0)


def test_queries_compiled_alone_and_together_score_alike(golden: Path) -> None:
    values = json.loads((golden / "hypencoder" / "retrieval" / "golden.json").read_text())
    retriever = import_hypencoder(golden / "hypencoder" / "q2_shared")
    points = retriever.encode_documents([document["text"] for document in values["docs"]], dtype="float32")
    texts = [query["text"] for query in values["queries"]]
    alone = torch.cat([retriever.compile([text]).score(points) for text in texts])
    torch.testing.assert_close(retriever.compile(texts).score(points), alone, atol=2e-4, rtol=1e-4)


def test_the_correct_mean_differs_and_is_announced(golden: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = golden / "hypencoder" / "q2_rect_unshared_mean"
    values = recorded(golden, "q2_rect_unshared_mean")
    with caplog.at_level(logging.WARNING):
        correct, _, _ = run(import_hypencoder(folder), values)
    assert "legacy_padded_mean=True" in caplog.text
    assert (correct.vectors - values["passage_embeddings"]).abs().max() > 0.1


@pytest.fixture
def checkpoint(golden: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    shutil.copytree(golden / "hypencoder" / "backbone", tmp_path / "backbone")
    shutil.copytree(golden / "hypencoder" / "q2_shared", tmp_path / "q2")
    for path in tmp_path.rglob("*"):
        path.chmod(0o755)
    return tmp_path / "q2"


def rewrite(checkpoint: Path, change: Any) -> None:
    tensors = torch.load(checkpoint / "pytorch_model.bin", weights_only=True)
    torch.save(change(dict(tensors)), checkpoint / "pytorch_model.bin")


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: {f"module._orig_mod.{name}": tensor for name, tensor in tensors.items()},
        lambda tensors: {name: t for name, t in tensors.items() if not name.startswith("query_encoder.transformer")},
        lambda tensors: {name: t for name, t in tensors.items() if not name.startswith("passage_encoder")},
        lambda tensors: {name: t for name, t in tensors.items() if "pooler" not in name},
        lambda tensors: {**tensors, "query_encoder.transformer.embeddings.position_ids": torch.arange(64)[None]},
    ],
    ids=["wrapped", "passage prefix only", "query prefix only", "no pooler", "old position ids"],
)
def test_layouts_that_hold_everything_load(golden: Path, checkpoint: Path, change: Any) -> None:
    rewrite(checkpoint, change)
    values = recorded(golden, "q2_shared")
    points, scorer, _ = run(import_hypencoder(checkpoint, weights=checkpoint / "pytorch_model.bin"), values)
    torch.testing.assert_close(scorer.score(points), values["scores_all"], **TOLERANCE)


def test_stray_tensors_are_named_in_a_warning(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    rewrite(checkpoint, lambda tensors: {**tensors, "query_encoder.extra": torch.zeros(1), "loss": torch.zeros(1)})
    with caplog.at_level(logging.WARNING):
        import_hypencoder(checkpoint, weights=checkpoint / "pytorch_model.bin")
    assert "extra" in caplog.text
    assert "loss" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: {n: t for n, t in tensors.items() if "key_projections.1" not in n}, "key_projections.1"),
        (lambda tensors: {n: t for n, t in tensors.items() if "layer.1.attention" not in n}, "lacks .* tensors"),
        (
            lambda tensors: {
                n: t + 1 if n.startswith("passage_encoder") and "word_emb" in n else t for n, t in tensors.items()
            },
            "differ",
        ),
    ],
    ids=["head", "trunk", "shared but different"],
)
def test_damaged_checkpoints_are_refused(checkpoint: Path, change: Any, message: str) -> None:
    rewrite(checkpoint, change)
    with pytest.raises(HyperseekError, match=message):
        import_hypencoder(checkpoint, weights=checkpoint / "pytorch_model.bin")


def test_weights_that_would_grow_are_refused_and_an_old_form_is_read(tmp_path: Path) -> None:
    tensors, file = {"weight": torch.arange(6.0)}, tmp_path / "pytorch_model.bin"
    torch.save(tensors, file, _use_new_zipfile_serialization=False)
    assert torch.equal(read_weights(tmp_path)["weight"], tensors["weight"])
    torch.save(tensors, tmp_path / "whole")
    with zipfile.ZipFile(tmp_path / "whole") as whole, zipfile.ZipFile(file, "w") as small:
        for member in whole.namelist():
            small.writestr(member, whole.read(member), compress_type=zipfile.ZIP_DEFLATED)
    with pytest.raises(HyperseekError, match="compressed parts"):
        read_weights(tmp_path)


def test_the_trunk_can_be_supplied(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    config["query_encoder_kwargs"]["model_name_or_path"] = ""
    config["loss_type"] = None
    config["query_encoder_kwargs"]["embedding_representation"] = None
    del config["passage_encoder_kwargs"]["pooling_type"]
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(HyperseekError, match="names no trunk"):
        import_hypencoder(checkpoint)
    assert import_hypencoder(checkpoint, trunk=checkpoint.parent / "backbone").space.dimension == 32


def test_other_folders_are_refused(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(HyperseekError, match=r"no config\.json"):
        import_hypencoder(tmp_path / "nothing")
    for path in checkpoint.glob("*.bin"):
        path.unlink()
    for path in checkpoint.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(HyperseekError, match="no weights"):
        import_hypencoder(checkpoint)
    (checkpoint / "config.json").write_text("{}")
    with pytest.raises(HyperseekError, match="not a Hypencoder checkpoint"):
        import_hypencoder(checkpoint)
