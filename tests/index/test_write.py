from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from index_fakes import DIMENSION, FakeRetriever

from hyperseek import Document, HyperseekError
from hyperseek.errors import FingerprintError, InputError, StoreError, UnknownNameError
from hyperseek.index import Index
from hyperseek.index._build import build_index
from hyperseek.scoring import Space, TokenPoints
from hyperseek.store.lance import writer_lock

Documents = list[Document]


class Stopped(Exception):
    pass


def build(
    folder: Path, documents: object, model: FakeRetriever | None = None, *, shard: int = 8, **options: object
) -> None:
    settings = {
        "storage": "float32",
        "dtype": "float32",
        "name": None,
        "total": None,
        "resume": True,
        "overwrite": False,
        **options,
    }
    build_index(folder, documents, model or FakeRetriever(), shard=shard, **settings)  # type: ignore[arg-type]


def stopping(documents: Documents, after: int) -> Iterator[Document]:
    yield from documents[:after]
    raise Stopped


def vectors(folder: Path) -> torch.Tensor:
    return torch.cat([points.vectors for _, points in Index.open(folder).points()])


def test_a_stopped_build_goes_on_where_it_stopped(tmp_path: Path, documents: Documents) -> None:
    build(tmp_path / "whole", documents)
    with pytest.raises(Stopped):
        build(tmp_path / "index", stopping(documents, 20))
    with pytest.raises(StoreError, match="unfinished, with 16 documents so far"):
        Index.open(tmp_path / "index")
    model = FakeRetriever()
    build(tmp_path / "index", documents, model)
    assert model.encoded == [document.full_text for document in documents[16:]]
    assert list(Index.open(tmp_path / "index").documents()) == documents
    assert torch.equal(vectors(tmp_path / "index"), vectors(tmp_path / "whole"))
    infos = [Index.open(tmp_path / name).info.model_dump(exclude={"created"}) for name in ("index", "whole")]
    assert infos[0] == infos[1]


@pytest.mark.parametrize("lost", [["documents.lance"], ["documents.lance", "index.json"]])
def test_a_build_that_was_killed_at_its_very_beginning_goes_on(
    tmp_path: Path, documents: Documents, lost: list[str]
) -> None:
    with pytest.raises(Stopped):
        build(tmp_path / "index", stopping(documents, 0))
    for name in lost:
        path = tmp_path / "index" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    build(tmp_path / "index", documents)
    assert list(Index.open(tmp_path / "index").documents()) == documents


def test_a_finished_index_is_done_at_once(tmp_path: Path, documents: Documents) -> None:
    build(tmp_path / "index", documents)
    created = Index.open(tmp_path / "index").info
    model = FakeRetriever()
    index = Index.build(tmp_path / "index", documents, model, dtype="float32")  # type: ignore[arg-type]
    assert model.encoded == []
    assert index.info == created


def test_only_the_same_corpus_may_go_on(tmp_path: Path, documents: Documents) -> None:
    with pytest.raises(Stopped):
        build(tmp_path / "index", stopping(documents, 20))
    changed = [replace(documents[0], text="something else"), *documents[1:]]
    for corpus, message in (
        (documents[::-1], "document 0 of the index .* is 'd0' but in the corpus it is 'd39'.*--overwrite"),
        (changed, "document 'd0' of the index .* has another text now"),
        (documents[:5], "has 16 documents but the corpus ends after 5"),
    ):
        with pytest.raises(StoreError, match=message):
            build(tmp_path / "index", corpus)
    build(tmp_path / "index", documents)
    with pytest.raises(StoreError, match="finished with 40 documents but the corpus continues with 'more'"):
        build(tmp_path / "index", [*documents, Document("more", "text")])


def test_only_the_same_settings_may_go_on(tmp_path: Path, documents: Documents) -> None:
    build(tmp_path / "index", documents)
    for options, message in (
        ({"storage": "float16"}, "begun with storage float32 and is now to be built with float16"),
        ({"dtype": "bfloat16"}, "begun with dtype float32"),
        ({"resume": False}, "holds an index already"),
    ):
        with pytest.raises(StoreError, match=message):
            build(tmp_path / "index", documents, **options)


def test_overwriting_begins_anew(tmp_path: Path, documents: Documents) -> None:
    build(tmp_path / "index", documents)
    build(tmp_path / "index", documents[:5], FakeRetriever(fingerprint="0" * 32), storage="float16", overwrite=True)
    index = Index.open(tmp_path / "index")
    assert len(index) == 5
    assert index.info.storage == "float16"
    (tmp_path / "index" / "index.json").write_text("damaged")
    build(tmp_path / "index", documents, overwrite=True)
    assert len(Index.open(tmp_path / "index")) == 40


def test_folders_with_other_content_are_left_alone(tmp_path: Path, documents: Documents) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match=r"holds no index but has other content \(thesis.tex\)"):
            build(tmp_path, documents, overwrite=overwrite)
    with pytest.raises(StoreError, match="is a file"):
        build(tmp_path / "thesis.tex", documents)


def test_two_writers_are_refused(tmp_path: Path, documents: Documents) -> None:
    (tmp_path / "index").mkdir()
    with (
        writer_lock(tmp_path / "index"),
        pytest.raises(StoreError, match="in use by another writer"),
    ):
        build(tmp_path / "index", documents)
    build(tmp_path / "index", documents)


@pytest.mark.parametrize("twin", [3, 20])
def test_duplicate_ids_are_refused(tmp_path: Path, documents: Documents, twin: int) -> None:
    corpus = [*documents[:22], replace(documents[twin], text="again"), *documents[22:]]
    with pytest.raises(InputError, match=f"document id 'd{twin}' appears twice"):
        build(tmp_path / "index", corpus)


def test_an_id_with_quotes_is_no_trap(tmp_path: Path) -> None:
    corpus = [Document("it's", "a"), Document("it''s", "b"), *(Document(str(number), "c") for number in range(9))]
    build(tmp_path / "index", corpus, shard=2)
    assert Index.open(tmp_path / "index").ids[:2] == ["it's", "it''s"]
    with pytest.raises(InputError, match="appears twice"):
        build(tmp_path / "other", [*corpus, Document("it's", "a")], shard=2)


@pytest.mark.parametrize(("value", "message"), [(np.nan, "infinite or undefined"), (np.inf, "infinite or undefined")])
def test_vectors_must_be_finite(tmp_path: Path, documents: Documents, value: float, message: str) -> None:
    pairs = [(document, np.zeros(DIMENSION, np.float32)) for document in documents]
    pairs[7][1][2] = value
    with pytest.raises(InputError, match=f"document 'd7' has {message}"):
        Index.from_vectors(tmp_path / "index", pairs, Space("dot", DIMENSION))


def test_float16_must_hold_the_numbers(tmp_path: Path) -> None:
    pairs = [(Document("a", ""), [1e5, 0.0])]
    with pytest.raises(InputError, match="'a' reaches 100000, which float16 cannot hold"):
        Index.from_vectors(tmp_path / "index", pairs, Space("dot", 2), storage="float16")
    index = Index.from_vectors(tmp_path / "other", pairs, Space("dot", 2))
    assert len(index) == 1
    for longer in (1e39, -1e300):  # float64 holds them, and neither an index nor a query does
        with pytest.raises(InputError, match=r"'b' reaches .* which float32 cannot hold"):
            Index.from_vectors(tmp_path / "far", [(Document("b", ""), [0.0, longer])], Space("dot", 2))
        with pytest.raises(InputError, match=r"'b' reaches .* which float32 cannot hold"):
            index.add([Document("b", "")], vectors=[[0.0, longer]])
        with pytest.raises(InputError, match="query 1 has numbers beyond float32"):
            index.search(np.array([[0.0, 1.0], [0.0, longer]]))
    assert len(index) == 1


def test_spaces_storage_and_pairs_are_checked_before_a_folder_is_made(tmp_path: Path) -> None:
    make: Any = Index.from_vectors
    for space in ("cosine", 3, None, {"kind": "cosine"}):
        with pytest.raises(InputError, match="need a space or the model"):
            make(tmp_path / "index", [], space)
    for storage in ("int8", None, 32, "float64"):
        with pytest.raises(UnknownNameError, match="known: float16, float32"):
            make(tmp_path / "index", [], Space("dot", 2), storage=storage)
        with pytest.raises(UnknownNameError, match="known: float16, float32"):
            Index.build(tmp_path / "index", [], FakeRetriever(), storage=storage)  # type: ignore[arg-type]
    assert not (tmp_path / "index").exists()
    for pairs in (None, 3):
        with pytest.raises(InputError, match="pairs"):
            make(tmp_path / "index", pairs, Space("dot", 2))


def test_text_must_be_unicode(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="document 'b' has text that is not valid Unicode"):
        build(tmp_path / "index", [Document("a", "fine"), Document("b", "half a pair: \ud800")])


def test_vectors_from_elsewhere(tmp_path: Path, documents: Documents) -> None:
    model = FakeRetriever(space="cosine")
    own = model.encode_documents([document.full_text for document in documents]).vectors
    pairs = list(zip(documents, 3 * own, strict=True))
    index = Index.from_vectors(tmp_path / "index", pairs, model=model, name="theirs")  # type: ignore[arg-type]
    torch.testing.assert_close(vectors(index.path), own)  # canonical: of norm 1
    assert index.info.fingerprint == model.fingerprint
    assert index.search("river stone", k=1)
    shuffled = list(zip(documents, own.flip(0), strict=True))
    with pytest.raises(FingerprintError, match="is not what fake"):
        Index.from_vectors(tmp_path / "other", shuffled, model=model)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"'d0' has the shape \(8,\), not \(9,\)"):
        Index.from_vectors(tmp_path / "third", pairs, Space("dot", 9))
    with pytest.raises(HyperseekError, match="need a space or the model"):
        Index.from_vectors(tmp_path / "fourth", pairs)


class FakeLateRetriever(FakeRetriever):
    """A point for each word of a text."""

    def __init__(self) -> None:
        super().__init__()
        self.space = Space("tokens", DIMENSION)

    def encode_documents(self, texts: Sequence[str], *, dtype: str = "auto") -> TokenPoints:
        words = [text.split() for text in texts]
        parts = [FakeRetriever().encode_documents(own).rows for own in words]
        offsets = torch.tensor([0, *map(len, words)]).cumsum(0)
        return TokenPoints(self.space.canonical(torch.cat(parts)), offsets)


def test_token_vectors_from_elsewhere_are_compared_one_by_one(tmp_path: Path) -> None:
    model: Any = FakeLateRetriever()
    texts = ["river stone", "", "the cat sat"]
    documents = [Document(f"d{number}", text) for number, text in enumerate(texts)]
    own = model.encode_documents(texts)
    sets = list(torch.split(own.rows, own.lengths.tolist()))
    index = Index.from_vectors(tmp_path / "index", list(zip(documents, sets, strict=True)), model=model)
    [(_, stored)] = index.points()
    assert torch.equal(stored.rows, own.rows)
    assert stored.lengths.tolist() == [2, 0, 3]

    def refused(place: int, vectors: torch.Tensor) -> str:
        changed = [vectors if number == place else part for number, part in enumerate(sets)]
        with pytest.raises(FingerprintError, match=rf"'d{place}' is not what fake \(fingerprint ffff") as caught:
            Index.from_vectors(tmp_path / "other", list(zip(documents, changed, strict=True)), model=model)
        return str(caught.value)

    assert "it has 1 rows, not 2" in refused(0, sets[0][:1])
    assert "it has 1 rows, not 0" in refused(1, sets[0][:1])
    other = sets[2].clone()
    other[2] *= -1  # the last one alone
    assert f"they are {2 * float(sets[2][2].norm()):.3g} apart" in refused(2, other)
    with pytest.raises(InputError, match=r"'d0' has the shape \(8,\), not \(tokens, 8\)"):
        Index.from_vectors(tmp_path / "third", [(documents[0], sets[0][0])], model=model)


def test_an_index_of_unknown_origin_takes_any_model_of_its_size(tmp_path: Path, documents: Documents) -> None:
    pairs = [(document, [1.0, 0.0]) for document in documents]
    index = Index.from_vectors(tmp_path / "index", pairs, Space("dot", 2))
    assert index.info.fingerprint is None
    with pytest.raises(HyperseekError, match="8 dimensions, but the index has 2"):
        Index.open(index.path, model=FakeRetriever())  # type: ignore[arg-type]


def test_shards_have_documents(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 1 document, not 0"):
        build(tmp_path / "index", [], shard=0)
