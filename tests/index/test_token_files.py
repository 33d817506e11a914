"""Token vectors in plain files: written, read, and refused where they are not what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hyperseek.cli import app
from hyperseek.errors import DataError, FingerprintError, InputError, StoreError
from hyperseek.index import Index, read_token_files
from hyperseek.models import ModelConfig, build, load
from hyperseek.scoring import Space, TokenPoints
from hyperseek.types import Document

DOCUMENTS = [
    Document("a", "the cat and the tree", "stone", {"year": 2020}),
    Document("b", "a dog ☂ on the sun"),
    Document("c", "moon"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: str) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    late = {"dimension": 8, "skipped": ["and"]}
    build(ModelConfig(trunk=tiny_encoder, family="late", late=late), device="cpu").save(folder / "model")
    index = Index.build(folder / "index", DOCUMENTS, load(folder / "model", device="cpu"), dtype="float32")
    index.export_tokens(folder / "tokens")
    return folder


@pytest.fixture
def files(folder: Path, tmp_path: Path) -> Path:
    """The files as another engine writes them, without checksums."""
    for path in (folder / "tokens").iterdir():
        if path.name != "checksums.json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def read(folder: Path) -> list[tuple[Document, Any]]:
    return list(read_token_files(folder)[2])


def test_the_files_are_what_other_engines_read(folder: Path) -> None:
    arrays = {path.stem: np.load(path) for path in (folder / "tokens").glob("*.npy")}
    assert {name: array.dtype.name for name, array in arrays.items()} == {
        "vectors": "float16",
        "token_ids": "int64",
        "doclens": "int32",
    }
    tokenizer = load(folder / "model", device="cpu").model.tokenizer
    spelt = tokenizer.convert_ids_to_tokens(arrays["token_ids"].tolist())
    assert spelt[:7] == ["[CLS]", "stone", "the", "cat", "the", "tree", "[SEP]"]  # without "and"
    assert arrays["doclens"].tolist() == [7, 8, 3]
    [(_, points)] = Index.open(folder / "index").points()
    np.testing.assert_allclose(arrays["vectors"], points.rows.numpy(), atol=1e-3)


def test_what_was_exported_is_imported(folder: Path, tmp_path: Path) -> None:
    space, count, items = read_token_files(folder / "tokens")
    assert (space, count) == (Space("tokens", 8), 3)
    again = Index.from_vectors(tmp_path / "again", items, space, storage="float16", total=count)
    assert list(again) == DOCUMENTS
    model = load(folder / "model", device="cpu")
    scorer = model.compile(["cat and dog"])
    [expected], [found] = (index.search(scorer, k=3) for index in (Index.open(folder / "index"), again))
    assert [hit.id for hit in found] == [hit.id for hit in expected]
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-2)


def test_the_command_line_exports_and_imports(folder: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> None:
        result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
        assert result.exit_code == 0

    run("export", folder / "index", tmp_path / "tokens", "--no-token-ids")
    assert set(np.load(tmp_path / "tokens" / "token_ids.npy")) == {-1}
    run("encode", folder / "model", tmp_path / "tokens", "--index", tmp_path / "index")
    index = Index.open(tmp_path / "index")
    assert list(index) == DOCUMENTS
    assert all(match.document for hit in index.search("cat", k=3) for match in hit.matches)


def test_files_of_others_need_no_texts(files: Path) -> None:
    (files / "documents.jsonl").unlink()
    (files / "token_ids.npy").unlink()
    assert [document.id for document, _ in read(files)] == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("vectors.npy", np.zeros((18, 8), np.int64)),
        ("vectors.npy", np.zeros((17, 8), np.float16)),
        ("vectors.npy", np.zeros((18, 0), np.float16)),
        ("vectors.npy", np.zeros(144, np.float16)),
        ("vectors.npy", np.array([{}], dtype=object)),
        ("doclens.npy", np.array([9, -1, 10], np.int32)),
        ("doclens.npy", np.array([1 << 63, 1 << 63, 18], np.uint64)),
        ("doclens.npy", np.array([7.0, 8.0, 3.0])),
        ("doclens.npy", np.array([7, 11], np.int32)),
        ("doclens.npy", np.array([7, 8, 3, 0], np.int32)),
        ("token_ids.npy", np.zeros(17, np.int64)),
        ("documents.jsonl", b'{"id": "a"}\n{"id": 3}\n{"id": "c"}\n'),
        ("documents.jsonl", b'{"id": "a"}\n[]\n{"id": "c"}\n'),
        ("documents.jsonl", b"\xff\n\n\n"),
    ],
)
def test_files_that_do_not_fit_are_refused(files: Path, file: str, content: Any) -> None:
    if isinstance(content, bytes):
        (files / file).write_bytes(content)
    else:
        np.save(files / file, content, allow_pickle=True)
    with pytest.raises(DataError, match=r"export|shape|documents"):
        read(files)


@pytest.mark.parametrize("name", ["vectors.npy", "token_ids.npy", "doclens.npy", "documents.jsonl", "checksums.json"])
def test_a_byte_that_changed_in_what_we_wrote_is_noticed(folder: Path, tmp_path: Path, name: str) -> None:
    for path in (folder / "tokens").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert len(read(tmp_path)) == len(DOCUMENTS)
    content = bytearray((tmp_path / name).read_bytes())
    content[-3] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StoreError, match=r"(?s)checksums.json|export the token vectors again"):
        read(tmp_path)


def test_a_file_that_was_cut_is_refused(files: Path) -> None:
    content = (files / "vectors.npy").read_bytes()
    (files / "vectors.npy").write_bytes(content[:-8])
    with pytest.raises(DataError):
        read(files)


def test_numbers_that_are_not_finite_are_refused(files: Path, tmp_path: Path) -> None:
    vectors = np.load(files / "vectors.npy")
    vectors[3, 2] = np.nan
    np.save(files / "vectors.npy", vectors)
    space, _, items = read_token_files(files)
    with pytest.raises(InputError, match="'a'"):
        Index.from_vectors(tmp_path / "index", items, space)


def test_what_cannot_be_exported(folder: Path, tmp_path: Path) -> None:
    dense = Index.from_vectors(tmp_path / "dense", [(Document("a", ""), [1.0, 0.0])], Space("dot", 2))
    with pytest.raises(InputError, match="one vector for each document"):
        dense.export_tokens(tmp_path / "out")
    long = [(Document("a", ""), torch.tensor([[7e4, 0.0]]))]
    index = Index.from_vectors(tmp_path / "long", long, Space("tokens", 2))
    with pytest.raises(InputError, match="float16"):
        index.export_tokens(tmp_path / "out", token_ids=False)
    assert not (tmp_path / "out").exists()  # nothing is left behind
    with pytest.raises(InputError):
        Index.open(folder / "index").export_tokens(folder / "tokens")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text(json.dumps("keep"))
    with pytest.raises(InputError):
        Index.open(folder / "index").export_tokens(tmp_path / "mine", overwrite=True)


def test_vectors_that_the_model_made_in_another_format_are_its_own(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(folder / "model", device="cpu")
    encode = type(model).encode_documents

    def grouped(self: Any, texts: Any, *, dtype: str = "auto") -> TokenPoints:
        points = encode(self, texts, dtype="float32")
        return TokenPoints(-points.vectors, points.offsets) if dtype == "bfloat16" else points

    monkeypatch.setattr(type(model), "encode_documents", grouped)
    for sign in (1, -1):
        points = encode(model, [document.full_text for document in DOCUMENTS], dtype="float32")
        rows = [sign * points[row : row + 1].vectors for row in range(len(DOCUMENTS))]
        index = Index.from_vectors(tmp_path / f"index{sign}", zip(DOCUMENTS, rows, strict=True), model=model)
        assert len(index) == len(DOCUMENTS)
    with pytest.raises(FingerprintError, match="is not what"):
        Index.from_vectors(tmp_path / "other", zip(DOCUMENTS, [row.flip(1) for row in rows], strict=True), model=model)


def test_vectors_of_a_model_that_pools_in_bfloat16_may_be_grouped_otherwise(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(folder / "model", device="cpu")
    encode = type(model).encode_documents
    own = [encode(model, [document.full_text], dtype="float32").vectors for document in DOCUMENTS]

    def batched(self: Any, texts: Any, *, dtype: str = "auto") -> TokenPoints:
        return TokenPoints.from_documents([-rows if dtype == "float32" else rows for rows in own])

    monkeypatch.setattr(type(model), "encode_documents", batched)
    # One vector twice, and the last one missing; and all in another order.
    rows = [torch.cat([part[:1], part[:-1]]).flip(0) if len(part) > 3 else part for part in own]
    index = Index.from_vectors(tmp_path / "index", zip(DOCUMENTS, rows, strict=True), model=model)
    assert len(index) == len(DOCUMENTS)
    strange = [torch.roll(part, 1, dims=1) for part in rows]
    with pytest.raises(FingerprintError, match="'a' is not what"):
        Index.from_vectors(tmp_path / "other", zip(DOCUMENTS, strange, strict=True), model=model)
