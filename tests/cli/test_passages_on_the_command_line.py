from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from hyperseek import HyperseekError
from hyperseek.cli import app
from hyperseek.index import Index, _writing

TEXTS = {
    "house.md": "# House\n\n" + "stone river " * 80 + "\n\n## Door\n\n" + "window door " * 80,
    "cat.md": "the cat and the dog",
    "music.txt": "music and song " * 60,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "notes"
    place.mkdir()
    for name, text in TEXTS.items():
        (place / name).write_text(text)
    return place


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_what_many_files_cost_is_said_before(
    folder: Path, tmp_path: Path, tiny_encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("semantic_text_splitter", reason="needs semantic-text-splitter")
    for number in range(70):
        (folder / f"{number}.txt").write_text("stone river " * 40)
    totals = []
    reported = _writing.progress
    monkeypatch.setattr(_writing, "progress", lambda *of, **rest: totals.append(of[1]) or reported(*of, **rest))
    said = run("encode", tiny_encoder, folder, "-i", tmp_path / "index", "--dtype", "float32").stderr
    passages = Index.open(tmp_path / "index").passages
    assert f"73 documents in {passages} passages: about" in said
    assert totals[-1] == passages


def test_files_have_passages_unless_told_otherwise(folder: Path, tmp_path: Path, tiny_encoder: str) -> None:
    pytest.importorskip("semantic_text_splitter", reason="needs semantic-text-splitter")
    place = tmp_path / "index"
    encode = ("encode", tiny_encoder, folder, "-i", place, "--dtype", "float32")
    said = run(*encode).stderr
    index = Index.open(place)
    assert index.info.passages == {"tokens": 64, "overlap": 0}
    assert index.passages is not None
    assert index.passages > 8
    assert "67% of the documents are longer than the 64 tokens that the model reads" in said
    assert "passages: about" not in said  # so few are encoded before their cost is known
    assert f"0 as before; 3 documents in {index.passages} passages" in said
    assert "3 as before" in run(*encode, "--passages", "auto").stderr
    assert "3 as before" in run(*encode, "--passages", "64").stderr
    with pytest.raises(HyperseekError, match=r"made with passages \{'tokens': 64, 'overlap': 0\}"):
        run(*encode, "--passages", "32")
    for wrong in ("many", "32:", "32:few", "-3", "32:4:1"):
        with pytest.raises(HyperseekError, match="--passages is auto, off, TOKENS or TOKENS:OVERLAP"):
            run(*encode, "--passages", wrong)
    with pytest.raises(HyperseekError, match="64 of a document"):
        run(*encode, "--overwrite", "--passages", "65")
    run(*encode, "--overwrite", "--passages", "32:4")
    assert Index.open(place).info.passages == {"tokens": 32, "overlap": 4}

    search = ("search", place, "window door", "-k", 2, "-f", "json")
    for combine in ("best", "soft"):
        [query] = json.loads(run(*search, "--combine", combine).stdout)
        expected = Index.open(place).search("window door", k=2, combine=combine)  # type: ignore[call-overload]
        assert [hit["id"] for hit in query["hits"]] == [hit.id for hit in expected]
        assert [hit["score"] for hit in query["hits"]] == pytest.approx([hit.score for hit in expected], abs=1e-5)
        for hit in query["hits"]:
            for passage in hit["passages"]:
                assert TEXTS[hit["id"]][passage["start"] : passage["end"]] == passage["text"]
    assert CliRunner().invoke(app, [*map(str, search), "--combine", "mean"]).exit_code != 0

    run(*encode, "--overwrite", "--passages", "off")
    assert Index.open(place).passages is None
    with pytest.raises(HyperseekError, match="made with passages None"):
        run(*encode, "--passages", "auto")


def test_collections_have_passages_if_asked(folder: Path, tmp_path: Path, tiny_encoder: str) -> None:
    pytest.importorskip("semantic_text_splitter", reason="needs semantic-text-splitter")
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"_id": name, "text": text}) + "\n" for name, text in TEXTS.items()))
    encode = ("encode", tiny_encoder, corpus, "-i", tmp_path / "index")
    assert "would be cut off without passages; --passages auto searches them" in run(*encode).stderr
    assert Index.open(tmp_path / "index").passages is None
    said = run(*encode, "--overwrite", "--passages", "32").stderr
    index = Index.open(tmp_path / "index")
    assert (len(index), index.info.passages) == (3, {"tokens": 32, "overlap": 0})
    assert f"3 documents in {index.passages} passages, " in said.splitlines()[-1]


def test_without_the_splitter_files_stay_whole(
    folder: Path, tmp_path: Path, tiny_encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "semantic_text_splitter", None)
    encode = ("encode", tiny_encoder, folder, "-i", tmp_path / "index")
    with pytest.raises(HyperseekError, match=r"'semantic_text_splitter'.*hyperseek\[files\]"):
        run(*encode, "--passages", "auto")
    assert not (tmp_path / "index").exists()
    said = run(*encode).stderr
    assert "documents stay whole, and what the model does not read of them is not searched" in said
    assert "pip install 'hyperseek[files]'" in said
    index = Index.open(tmp_path / "index")
    assert (len(index), index.passages) == (3, None)
    assert "3 as before" in run(*encode).stderr
