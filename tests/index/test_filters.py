"""Conditions over metadata: exact, whatever finds the candidates."""

from __future__ import annotations

from pathlib import Path

import pytest
from index_fakes import FakeRetriever

from hyperseek import HyperseekError
from hyperseek.index import Index
from hyperseek.plan import Dense, Exhaustive, FullText, Rescore
from hyperseek.types import Document

WORDS = ("river", "stone", "city", "road")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    documents = [
        Document(
            f"d{number}",
            f"{WORDS[number % 4]} {WORDS[number % 3]}",
            title=WORDS[number % 4],
            metadata={
                "year": 2000 + number,
                "venue": "ACL" if number % 2 else "it's SIGIR",
                "open": number % 5 == 0,
                "tags": ["a", "b"] if number % 4 == 0 else [],
                "odd": number if number % 2 else str(number),
                "Page Count": number * 1.5,
            },
        )
        for number in range(60)
    ]
    index = Index.build(tmp_path_factory.mktemp("filters") / "index", documents, FakeRetriever())  # type: ignore[arg-type]
    index.build_engine("flat")
    return index


CONDITIONS = {
    "year >= 2040": lambda n: n >= 40,
    "year = 2007": lambda n: n == 7,
    "venue = 'ACL' AND year < 2011": lambda n: n % 2 == 1 and n < 11,
    "venue = 'it''s SIGIR'": lambda n: n % 2 == 0,
    "open AND NOT venue = 'ACL'": lambda n: n % 5 == 0 and n % 2 == 0,
    "array_has(tags, 'a')": lambda n: n % 4 == 0,
    "year IN (2001, 2002, 1999)": lambda n: n in (1, 2),
    "title LIKE 'ri%'": lambda n: n % 4 == 0,
    "`Page Count` > 80": lambda n: n * 1.5 > 80,
    "id = 'd9'": lambda n: n == 9,
    "year > 5000": lambda n: False,
}


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("engine", ["exact", "flat"])
def test_only_documents_that_meet_the_condition_are_found(index: Index, condition: str, engine: str) -> None:
    wanted = {f"d{number}" for number in range(60) if CONDITIONS[condition](number)}
    hits = index.search("river stone", k=60, where=condition, engine=engine)
    assert {hit.id for hit in hits} == wanted
    everything = {hit.id: hit.score for hit in index.search("river stone", k=60, engine="exact")}
    assert all(hit.score == pytest.approx(everything[hit.id], abs=1e-5) for hit in hits)


def test_words_and_plans_keep_to_the_condition(index: Index) -> None:
    condition = "year >= 2030 AND venue = 'ACL'"
    plan = (FullText(n=50) | Dense(n=50)) >> Rescore()
    wanted = {hit.id for hit in index.search("river", k=60, where=condition, plan=Exhaustive() >> Rescore())}
    assert {hit.id for hit in index.search("river", k=60, where=condition, plan=plan)} == wanted
    words = index.search("river", k=60, where=condition, plan=FullText(n=60) >> Rescore(n=60))
    assert {hit.id for hit in words} <= wanted
    assert words


def test_fields_are_found_by_themselves(index: Index) -> None:
    assert index.fields == {
        "year": "number",
        "venue": "string",
        "open": "boolean",
        "tags": "list of strings",
        "Page Count": "number",
    }


def test_bad_conditions_are_explained(index: Index) -> None:
    with pytest.raises(HyperseekError, match=r"there is no field yeer.*Fields: id, title, text, year \(number\)"):
        index.search("river", where="yeer > 3")
    with pytest.raises(HyperseekError, match="several types, which cannot be used: odd"):
        index.search("river", where="odd = 3")
    with pytest.raises(HyperseekError, match="cannot be used"):
        index.search("river", where="year >")
    with pytest.raises(HyperseekError, match="cannot be used"):
        index.search("river", where="yeer > 3", plan=FullText(n=5) >> Rescore())


def test_fields_grow_with_the_documents(tmp_path: Path) -> None:
    model = FakeRetriever()
    index = Index.build(tmp_path / "index", [Document("a", "river", metadata={"year": 1})], model)  # type: ignore[arg-type]
    index.add([Document("b", "river", metadata={"year": 2, "place": "here", "weird.name": 1, "id": "x"})])
    assert index.fields == {"year": "number", "place": "string"}
    assert [hit.id for hit in index.search("river", where="place = 'here'")] == ["b"]
    assert [hit.id for hit in index.search("river", where="place IS NULL")] == ["a"]
    index.add([Document("c", "river", metadata={"place": 3})])
    assert index.fields == {"year": "number"}
    assert {document.id: dict(document.metadata) for document in index.documents()}["c"] == {"place": 3}
    index.compact()
    with pytest.raises(HyperseekError, match="several types, which cannot be used: place"):
        index.search("river", where="place = 'here'")
