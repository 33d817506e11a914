"""A folder of text files as a collection."""

import errno
import gzip
import os

import pytest

from hyperseek.data import open_dataset
from hyperseek.errors import DataError, InputError


@pytest.fixture
def notes(tmp_path):
    folder = tmp_path / "notes"
    (folder / "animals" / ".git").mkdir(parents=True)
    (folder / "animals" / "dogs.md").write_text("# All dogs #\n\nA dog barks.\nLoudly.\n", encoding="utf-8")
    (folder / "animals" / "cats.txt").write_bytes(b"\xef\xbb\xbfA cat is small.\r\n\r\nIt climbs.\r\n")
    (folder / "animals" / ".git" / "HEAD.txt").write_text("hidden")
    (folder / "empty.txt").write_text(" \n\n")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    with gzip.open(folder / "long.rst.gz", "wt", encoding="utf-8") as file:
        file.write("\n\n".join([f"{number} " + "é" * 600 for number in range(3)]))
    return folder


def test_files_are_passages_with_the_place_of_the_file_as_path(notes):
    dataset = open_dataset(notes)
    found = {document.id: document for document in dataset.documents()}
    assert list(found) == ["long.rst.gz", "long.rst.gz#2", "long.rst.gz#3", "animals/cats.txt", "animals/dogs.md"]
    assert found["animals/dogs.md"].title == "All dogs"
    assert found["animals/dogs.md"].text == "A dog barks.\nLoudly."
    assert found["animals/dogs.md"].metadata == {"path": ["animals", "All dogs"]}
    assert (found["animals/cats.txt"].text, found["animals/cats.txt"].title) == (
        "A cat is small.\n\nIt climbs.",
        "cats",
    )
    assert "".join(found[name].text for name in list(found)[:3]).count("é") == 1800
    assert dataset.report.counts == {"other_kind_of_file": 1}
    assert dataset.splits == ()


def test_a_file_that_is_no_text_is_an_error_or_counted(notes):
    (notes / "latin.txt").write_bytes("schön".encode("latin-1"))
    (notes / "packed.md").write_bytes(gzip.compress(b"text"))
    with pytest.raises(DataError, match=r"latin\.txt.*not valid UTF-8"):
        open_dataset(notes).count()
    dataset = open_dataset(notes, on_error="skip")
    assert dataset.count() == 5
    assert dataset.report.counts == {"other_kind_of_file": 1, "bad_encoding": 1, "unreadable_file": 1}


def test_a_folder_that_cannot_be_read_is_an_error_or_counted(notes, monkeypatch):
    scan = os.scandir

    def refused(place):
        if os.fspath(place).endswith("animals"):
            raise PermissionError(errno.EACCES, "Permission denied", place)
        return scan(place)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(DataError, match=r"animals: cannot be read \(Permission denied\)"):
        open_dataset(notes).count()
    dataset = open_dataset(notes, on_error="skip")
    assert dataset.count() == 3
    assert dataset.report.counts == {"other_kind_of_file": 1, "unreadable_folder": 1}


def test_a_beir_folder_without_its_corpus_is_not_read_as_texts(notes):
    (notes / "qrels").mkdir()
    with pytest.raises(DataError, match=r"has no corpus.*folder of text files"):
        open_dataset(notes)


def test_texts_may_be_called_as_parts_of_a_beir_folder_are(tmp_path):
    (tmp_path / "queries.md").write_text("How to ask.\n")
    assert [document.id for document in open_dataset(tmp_path).documents()] == ["queries.md"]
    (tmp_path / "corpus").mkdir()  # as of Parquet files beside a README
    with pytest.raises(DataError, match="has no corpus"):
        open_dataset(tmp_path)


def test_texts_have_no_fields(notes):
    with pytest.raises(InputError, match="id_key"):
        open_dataset(notes, text_key="body")


def test_a_folder_of_empty_files_has_no_documents(tmp_path):
    (tmp_path / "a.txt").write_text("\n")
    with pytest.raises(DataError, match="have no text"):
        open_dataset(tmp_path).count()
