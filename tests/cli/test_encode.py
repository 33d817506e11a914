from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hyperseek import HyperseekError
from hyperseek.cli import app
from hyperseek.errors import InputError
from hyperseek.index import Index
from hyperseek.models import ModelConfig, build


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rows = [{"_id": f"d{i}", "title": f"title {i}", "text": f"the cat number {i}"} for i in range(5)]
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_encode_says_what_it_costs_and_makes_an_index(tmp_path: Path, tiny_encoder: str, corpus: Path) -> None:
    arguments = ["encode", tiny_encoder, str(corpus), "--index", str(tmp_path / "index")]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "5 documents: about" in result.stderr
    assert result.stdout == ""
    index = Index.open(tmp_path / "index")
    assert list(index.ids) == [f"d{i}" for i in range(5)]
    again = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "5 documents, 5 of them done" in again.stderr


def test_limit_and_storage(tmp_path: Path, tiny_encoder: str, corpus: Path) -> None:
    arguments = ["encode", tiny_encoder, str(corpus), "-i", str(tmp_path / "index"), "--limit", "2"]
    CliRunner().invoke(app, [*arguments, "--storage", "float16"], catch_exceptions=False)
    index = Index.open(tmp_path / "index")
    assert len(index) == 2
    assert index.info.storage == "float16"


def test_pooling_leaves_fewer_token_vectors(tmp_path: Path, tiny_encoder: str, corpus: Path) -> None:
    late = ModelConfig(trunk=tiny_encoder, family="late", late={"dimension": 8})
    build(late, device="cpu").save(tmp_path / "late")
    arguments = ["encode", str(tmp_path / "late"), str(corpus), "--dtype", "float32", "-i"]
    lengths = {}
    for name, pooling in (("all", []), ("some", ["--pooling", "budget=3", "--pooling", "linkage=ward"])):
        result = CliRunner().invoke(app, [*arguments, str(tmp_path / name), *pooling], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        index = Index.open(tmp_path / name)
        lengths[name] = [length for _, points in index.points() for length in points.lengths.tolist()]
    assert lengths["some"] == [3] * 5
    assert min(lengths["all"]) > 3
    noted = index.info.pooling
    assert noted is not None
    assert (noted["budget"], noted["linkage"]) == (3, "ward")
    shown = CliRunner().invoke(app, ["inspect", "index", str(tmp_path / "some")], catch_exceptions=False).stdout
    assert "pooling: method hierarchical, budget 3, rounding floor, linkage ward" in shown
    for wrong, words in (("budgett=3", "did you mean 'budget'"), ("linkage=wart", "linkage")):
        with pytest.raises(HyperseekError, match=words):
            CliRunner().invoke(app, [*arguments, str(tmp_path / "wrong"), "--pooling", wrong], catch_exceptions=False)
        assert not (tmp_path / "wrong").exists()


def test_bad_lines_are_counted_where_that_is_asked_for(tmp_path: Path, tiny_encoder: str, corpus: Path) -> None:
    with corpus.open("a") as file:
        file.write("{broken\n")
    arguments = ["encode", tiny_encoder, str(corpus), "-i", str(tmp_path / "index")]
    with pytest.raises(HyperseekError, match=r"corpus\.jsonl:6"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)
    result = CliRunner().invoke(app, [*arguments, "--on-error", "skip"], catch_exceptions=False)
    assert "skipped" in result.stderr
    assert len(Index.open(tmp_path / "index")) == 5


def test_docarray_files(tmp_path: Path, golden: Path, tiny_encoder: str) -> None:
    from hyperseek.models import import_hypencoder

    folder = golden / "hypencoder"
    items = folder / "retrieval" / "items.docs"
    import_hypencoder(folder / "q2_shared").save(tmp_path / "model")
    arguments = ["encode", str(tmp_path / "model"), str(items), "-i", str(tmp_path / "index")]
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    index = Index.open(tmp_path / "index")
    with np.load(folder / "retrieval" / "embeddings.npz") as arrays:
        [expected] = [array for array in arrays.values() if array.shape == (300, 32)]
    stored = np.concatenate([points.vectors.numpy() for _, points in index.points()])
    assert np.array_equal(stored, expected)
    # The checkpoint has the trunk that made these vectors, so its queries can search them.
    assert len(index.search("neural search", k=3)) == 3

    few = ["encode", str(tmp_path / "model"), str(items), "-i", str(tmp_path / "few"), "--limit", "3"]
    CliRunner().invoke(app, few, catch_exceptions=False)
    assert len(Index.open(tmp_path / "few")) == 3
    with pytest.raises(HyperseekError, match="leave out --id-key, --dtype"):
        CliRunner().invoke(app, [*few, "--id-key", "x", "--dtype", "float32"], catch_exceptions=False)

    arguments = ["encode", tiny_encoder, str(items), "-i", str(tmp_path / "second")]
    with pytest.raises(HyperseekError, match=r"fingerprint|not what|vectors"):
        CliRunner().invoke(app, arguments, catch_exceptions=False)


def test_an_engine_is_built_too(tmp_path: Path, tiny_encoder: str, corpus: Path) -> None:
    arguments = ["encode", tiny_encoder, str(corpus), "-i", str(tmp_path / "index"), "--engine"]
    with pytest.raises(HyperseekError, match="unknown kind of engine 'hsnw'"):
        CliRunner().invoke(app, [*arguments, "hsnw"], catch_exceptions=False)
    assert not (tmp_path / "index").exists()
    result = CliRunner().invoke(app, [*arguments, "hnsw"], catch_exceptions=False)
    assert "engine hnsw: about" in result.stderr
    assert [item.name for item in Index.open(tmp_path / "index").attachments] == ["hnsw"]


def test_a_folder_is_encoded_whole_where_a_model_cannot_split(
    tmp_path: Path, tiny_encoder: str, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(model: object) -> None:
        raise InputError("passages are measured in tokens, and this model has no tokenizer")

    monkeypatch.setattr("hyperseek.index._splitting._tokenizer_of", fail)
    arguments = ["encode", tiny_encoder, str(notes), "--index", str(tmp_path / "index")]
    with pytest.raises(InputError, match="has no tokenizer"):
        CliRunner().invoke(app, [*arguments, "--passages", "auto"], catch_exceptions=False)
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "documents stay whole" in result.stderr
    assert Index.open(tmp_path / "index").passages is None


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "cats.md").write_text("# Cats\n\nthe cat")
    (folder / "rows.csv").write_text("text\nthe dog\nthe sea\n")
    (folder / "zero\nline.txt").write_bytes(b"\0")
    (folder / "photo.png").write_bytes(b"\x89PNG")
    return folder


def test_the_same_command_brings_an_index_of_files_up_to_date(tmp_path: Path, tiny_encoder: str, notes: Path) -> None:
    arguments = ["encode", tiny_encoder, str(notes), "--index", str(tmp_path / "index")]
    first = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert (first.exit_code, first.stdout) == (0, "")
    assert "+2 files, ~0 changed, -0 gone, 0 as before; 3 documents" in first.stderr
    assert f"not read, not_text: {notes}/zero␊line.txt: is not text" in first.stderr
    assert "left out: 1 other_kind_of_file .png" in first.stderr
    assert "measured on" not in first.stderr  # few documents are not encoded twice to say how long they take
    (notes / "cats.md").write_text("# Cats\n\nthe dog")
    (notes / "new.md").write_text("the moon")
    (notes / "rows.csv").unlink()
    again = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "+1 files, ~1 changed, -1 gone, 0 as before; 2 documents" in again.stderr
    assert "0 as before" in CliRunner().invoke(app, [*arguments, "--overwrite"], catch_exceptions=False).stderr
    for options, words in (
        (["--storage", "float16"], "storage float32 again"),
        (["--no-resume"], "holds an index already"),
    ):
        with pytest.raises(HyperseekError, match=words):
            CliRunner().invoke(app, [*arguments, *options], catch_exceptions=False)


def test_watching_follows_the_folder_whatever_happens(
    tmp_path: Path, tiny_encoder: str, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watchfiles = pytest.importorskip("watchfiles")
    moved = tmp_path / "moved"

    def watch(place: Path, **options: object):  # type: ignore[no-untyped-def]
        assert place == notes
        chosen = options["watch_filter"]
        assert chosen(watchfiles.Change.added, str(notes / "a.md"))  # type: ignore[operator]
        assert not chosen(watchfiles.Change.added, str(tmp_path / "index" / "index.json"))  # type: ignore[operator]
        (notes / "new.md").write_text("the moon")
        yield set()  # it was made while the index was brought up to date, so it is not reported
        notes.rename(moved)
        notes.mkdir()
        yield {(watchfiles.Change.deleted, str(notes))}
        notes.rmdir()
        moved.rename(notes)
        (notes / "cats.md").unlink()
        yield set()  # a minute later
        (notes / "new.md").unlink()
        yield set()  # nothing failed, so nothing is done
        raise KeyboardInterrupt

    monkeypatch.setattr(watchfiles, "watch", watch)
    arguments = ["encode", tiny_encoder, str(notes), "--index", str(tmp_path / "index"), "--watch"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "not up to date:" in result.stderr
    assert "+1 files, ~0 changed, -0 gone, 2 as before" in result.stderr
    assert "+0 files, ~0 changed, -1 gone, 2 as before" in result.stderr
    assert sorted(Index.open(tmp_path / "index").ids) == ["new.md", "rows.csv#1", "rows.csv#2"]
    with pytest.raises(HyperseekError, match="another kind of source"):
        CliRunner().invoke(
            app, ["encode", tiny_encoder, "pydocs", "-i", str(tmp_path / "x"), "--watch"], catch_exceptions=False
        )


def test_passages_of_too_many_digits_are_a_mistake() -> None:
    from hyperseek.cli._encode import _split

    assert _split("256:32") == {"tokens": 256, "overlap": 32}
    for given in ("9" * 5000, "1:" + "9" * 5000, "256:", "few"):
        with pytest.raises(HyperseekError, match="--passages is auto, off"):
            _split(given)
