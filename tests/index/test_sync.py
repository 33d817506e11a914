"""An index follows a folder of files, whatever happens to the files and to the writer."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from index_fakes import FakeRetriever

from hyperseek.data import open_dataset
from hyperseek.errors import InputError, StoreError
from hyperseek.index import Changes, Index, sync
from hyperseek.models import load

PROGRAM = Path(__file__).with_name("slow_sync.py")
FILES = 40


@pytest.fixture
def model() -> FakeRetriever:
    return FakeRetriever()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "notes"
    (place / "deep").mkdir(parents=True)
    (place / "a.md").write_text("# River\n\nstones")
    (place / "deep" / "b.txt").write_text("a road")
    (place / "t.csv").write_text("id,text\nx,one\ny,two\nz#1,three\n")
    (place / "empty.txt").write_text("")
    return place


@pytest.fixture
def index(folder: Path, model: FakeRetriever) -> Index:
    index = Index.build(folder.parent / "index", [], model)  # type: ignore[arg-type]
    assert str(sync(index, open_dataset(folder))) == "+3 files, ~0 changed, -0 gone, 0 as before"
    return index


def names(index: Index) -> list[str]:
    return sorted(document.id for document in index.documents())


def follow(index: Index, folder: Path, **options: object) -> Changes:
    changes = sync(index, open_dataset(folder), **options)  # type: ignore[arg-type]
    found = {document.id: document for document in open_dataset(folder).documents()}
    stored = {document.id: document for document in index.documents()}
    for name in found:
        assert stored[name].text == found[name].text
    return changes


def test_an_update_does_what_changed_and_nothing_else(folder: Path, index: Index, model: FakeRetriever) -> None:
    assert names(index) == ["a.md", "deep/b.txt", "t.csv#x", "t.csv#y", "t.csv#z#1"]
    model.encoded.clear()
    same = follow(index, folder)
    assert (same.same, bool(same), model.encoded) == (4, False, [])
    (folder / "a.md").write_text("# River\n\nother stones")
    (folder / "c.md").write_text("new")
    (folder / "deep" / "b.txt").rename(folder / "deep" / "renamed.txt")
    (folder / "t.csv").write_text("id,text\nx,one\nw,four\n")
    os.utime(folder / "empty.txt")
    changes = follow(index, folder)
    assert (changes.added, changes.changed, changes.gone) == (
        ("c.md", "deep/renamed.txt"),
        ("a.md", "t.csv"),
        ("deep/b.txt",),
    )
    assert str(changes) == "+2 files, ~2 changed, -1 gone, 1 as before"
    assert names(index) == ["a.md", "c.md", "deep/renamed.txt", "t.csv#w", "t.csv#x"]
    assert len(model.encoded) == 5
    assert index.search("new", k=1)[0].id == "c.md"
    assert not follow(index, folder)
    (folder / "c.md").write_text("")
    assert follow(index, folder).changed == ("c.md",)
    assert "c.md" not in names(index)


def test_what_cannot_be_read_now_stays(folder: Path, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    before = names(index)
    open_file, scan = os.open, os.scandir

    def refused(path, *rest, **options):  # type: ignore[no-untyped-def]
        if os.fspath(path).endswith("a.md"):
            raise PermissionError(13, "Permission denied", path)
        return open_file(path, *rest, **options)

    def unlisted(place):  # type: ignore[no-untyped-def]
        if os.fspath(place).endswith("deep"):
            raise PermissionError(13, "Permission denied", place)
        return scan(place)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        patch.setattr(os, "scandir", unlisted)
        (folder / "t.csv").write_bytes(b"id,text\nx,\0")
        changes = sync(index, open_dataset(folder))
        assert changes.kept == ("a.md", "t.csv")
        assert not changes
        assert "2 cannot be read now and stay as they were" in str(changes)
        assert changes.report.counts == {"unreadable_folder": 1, "no_permission": 1, "not_text": 1}
    assert names(index) == before
    (folder / "t.csv").write_text("id,text\nx,one\n")
    assert follow(index, folder).changed == ("t.csv",)
    assert names(index) == ["a.md", "deep/b.txt", "t.csv#x"]


def test_an_emptied_folder_and_another_one_are_refused(folder: Path, index: Index, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.md").write_text("text")
    with pytest.raises(StoreError, match=r"is of .*notes, not of .*other"):
        sync(index, open_dataset(tmp_path / "other"))
    dataset = open_dataset(folder)
    folder.rename(tmp_path / "moved")
    folder.mkdir()
    with pytest.raises(StoreError, match="has no files that can be read now"):
        sync(index, dataset)
    assert len(index) == 5
    with pytest.raises(InputError, match="with a folder of files"):
        sync(index, open_dataset("pydocs"))


def test_an_index_that_was_built_of_files_is_taken_as_it_is(folder: Path, model: FakeRetriever, tmp_path: Path) -> None:
    index = Index.build(tmp_path / "built", open_dataset(folder), model)  # type: ignore[arg-type]
    (folder / "a.md").unlink()
    model.encoded.clear()
    assert follow(index, folder).gone == ("a.md",)
    assert model.encoded == []
    other = Index.build(tmp_path / "other", [("a.md", "text")], model)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match=r"documents that are not of files, as 'a\.md'"):
        sync(other, open_dataset(folder))


def test_what_was_deleted_by_hand_comes_back(folder: Path, index: Index) -> None:
    index.delete(["t.csv#x"])
    assert follow(index, folder).changed == ("t.csv",)


def test_engines_take_in_what_an_interrupted_update_has_stored(
    folder: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    given: list[int] = []
    monkeypatch.setattr("hyperseek.index._sync.keep_up", lambda path, snapshot: given.append(len(snapshot)))
    (folder / "c.md").write_text("new")
    with monkeypatch.context() as patch:
        patch.setattr("hyperseek.index._sync._Sync._finish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sync(index, open_dataset(folder))
    assert not sync(index, open_dataset(folder))
    assert given == [len(index)] == [6]


def test_a_limit_leaves_the_rest_for_later(folder: Path, model: FakeRetriever, tmp_path: Path) -> None:
    index = Index.build(tmp_path / "index", [], model)  # type: ignore[arg-type]
    assert sync(index, open_dataset(folder), limit=1).added == ("a.md",)
    assert not sync(index, open_dataset(folder), limit=1)
    seen: list[str] = []
    changes = sync(index, open_dataset(folder), before=lambda documents: seen.extend(one.id for one in documents))
    assert changes.added == ("t.csv", "deep/b.txt")
    assert seen == ["t.csv#x", "t.csv#y", "t.csv#z#1", "deep/b.txt"]


def test_an_index_within_its_folder_is_not_one_of_the_files(folder: Path, model: FakeRetriever) -> None:
    index = Index.build(folder / "index", [], model)  # type: ignore[arg-type]
    follow(index, folder)
    assert not follow(index, folder)


def started(folder: Path, index: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(PROGRAM), str(folder), str(index)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def states() -> Iterator[dict[str, str]]:
    """Yield what a folder holds, state after state: every file changes or goes, and others come."""
    for state in range(3):
        yield {
            **{f"{number}.txt": f"river {number} state {state}" for number in range(FILES) if number % 3 != state},
            "t.csv": "text\n" + "".join(f"row {number} state {state}\n" for number in range(20 - 5 * state)),
        }


def test_an_update_that_is_killed_is_finished_by_the_next(tmp_path: Path) -> None:
    folder, path = tmp_path / "files", tmp_path / "index"
    folder.mkdir()
    generator = random.Random(0)
    model = FakeRetriever()
    Index.build(path, [], model)  # type: ignore[arg-type]
    for place, state in enumerate(states()):
        for file in folder.iterdir():
            file.unlink()
        for name, text in state.items():
            (folder / name).write_text(text)
        with started(folder, path) as process:
            assert process.stdout is not None
            process.stdout.readline()
            if place == 0:
                with pytest.raises(StoreError, match="in use by another writer"):
                    sync(Index.open(path, model=model), open_dataset(folder))  # type: ignore[arg-type]
            time.sleep(generator.uniform(0, 0.5))
            process.kill()
        index = Index.open(path, model=model)  # type: ignore[arg-type]
        assert len(index)
        if place == 1:
            continue  # the next state finds a half-done update
        sync(index, open_dataset(folder))
        found = {document.id: document.text for document in open_dataset(folder).documents()}
        assert {document.id: document.text for document in index.documents()} == found
        assert not sync(index, open_dataset(folder))
    record = json.loads((path / "files.json").read_text())
    assert set(record["files"]) == set(state)


def test_an_index_of_passages_follows_its_folder(folder: Path, tiny_encoder: str, tmp_path: Path) -> None:
    model = load(tiny_encoder, device="cpu")
    index = Index.build(tmp_path / "index", [], model, passages={"tokens": 16, "overlap": 0})
    (folder / "long.md").write_text("# Part\n\n" + "A sentence of some words. " * 30)
    assert len(follow(index, folder).added) == 4
    assert (len(index), index.passages > 8) == (6, True)
    assert not follow(index, folder)
    (folder / "long.md").write_text("# Part\n\nshort now")
    (folder / "a.md").unlink()
    changes = follow(index, folder)
    assert (changes.changed, changes.gone, changes.same) == (("long.md",), ("a.md",), 3)
    assert (len(index), index.passages) == (5, 5)
