"""Filters are a subset of SQL that is read and evaluated here: within bounds, and exact for numbers of any size."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_fakes import FakeRetriever

from hyperseek.errors import InputError
from hyperseek.index import Index
from hyperseek.plan import FullText, Rescore
from hyperseek.store._conditions import Numbers, digit_array, number_array
from hyperseek.types import Document

TWEETS = [1234567890123456780 + n for n in range(5)]
RECORDS: list[dict[str, Any]] = [
    {"n": 0, "tweet": TWEETS[0], "x": 0.1, "name": "Ann's café", "open": True, "tags": ["a", "b"], "Year": 1},
    {"n": 1, "tweet": TWEETS[1], "x": math.nan, "name": 'the "Ox"', "open": False, "tags": [], "year": 2},
    {"n": 2, "tweet": TWEETS[2], "x": math.inf, "name": "100%_\\x", "open": True, "tags": ["", "c"], "_rowid": 7},
    {"n": 3, "tweet": TWEETS[3], "x": 10**400, "name": " a\nb\x00 ", "_score": 8, "key": 9, "größe": 3},
    {"n": 4, "tweet": TWEETS[4], "x": -(2**63), "name": "", "open": False, "tags": ["a"], "is": "word"},
    {"n": -5, "tweet": -TWEETS[4], "big": 2**64 + 1, "metadata": "m", "vector": 1, "text_checksum": 5},
]
COUNT = len(RECORDS)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    documents = [Document(f"d{place}", f"river {place}", f"T{place}", record) for place, record in enumerate(RECORDS)]
    folder = tmp_path_factory.mktemp("language") / "index"
    return Index.build(folder, documents, FakeRetriever())  # type: ignore[arg-type]


def found(index: Index, where: str, **options: Any) -> list[int]:
    return sorted(int(hit.id[1:]) for hit in index.search("river", k=COUNT, where=where, **options))


ANSWERS = {
    f"tweet = {TWEETS[2]}": [2],
    f"tweet > {TWEETS[2]}": [3, 4],
    f"tweet <= {TWEETS[1]}": [0, 1, 5],
    f"tweet IN ({TWEETS[0]}, {TWEETS[3]}, 5)": [0, 3],
    f"tweet NOT IN ({TWEETS[0]}, {TWEETS[3]})": [1, 2, 4, 5],
    f"tweet BETWEEN {TWEETS[1]} AND {TWEETS[2]}": [1, 2],
    f"{TWEETS[3]} < tweet": [4],
    f"tweet = -{TWEETS[4]}": [5],
    f"x = {10**400}": [3],
    f"x > {10**399} AND x < {10**401}": [3],
    f"x > {10**400}": [2],
    "x > 5": [2, 3],
    "x = 0.1": [0],
    "x IS NULL": [1, 5],
    "x = -9223372036854775808": [4],
    "big = 18446744073709551617": [5],
    "big = 18446744073709551616": [],
    "n = 1.0": [1],
    "n = +1": [1],
    "n == 1 OR n <> 1 AND n != 2": [0, 1, 3, 4, 5],
    "n > 1.5 AND n < 1e400": [2, 3, 4],
    "n < tweet": [0, 1, 2, 3, 4],
    "_rowid = 7": [2],
    "`_rowid` = 7": [2],
    "_score = 8 AND key = 9": [3],
    "metadata = 'm' AND vector = 1 AND text_checksum = 5": [5],
    "Year = 1": [0],
    "year = 2": [1],
    "größe = 3": [3],
    "`is` = 'word'": [4],
    "TWEET > 0 AND Name = ''": [4],
    "name = 'Ann''s café'": [0],
    'name = "Ann\'s café"': [0],
    'name LIKE "%""Ox"""': [1],
    "name LIKE '100\\%\\_%'": [2],
    "name LIKE '%b%'": [3],
    "name LIKE '_nn%'": [0],
    "name NOT LIKE '%a%'": [1, 2, 4],
    "name ILIKE 'ANN%CAFÉ'": [0],
    "name = ' a\nb\x00 '": [3],
    "lower(name) = 'ann''s café'": [0],
    "upper(name) LIKE 'THE%'": [1],
    "length(name) = 0": [4],
    "char_length(name) > 9": [0],
    "starts_with(name, 'Ann')": [0],
    "ends_with(lower(name), 'é')": [0],
    "contains(name, '%_')": [2],
    "array_has(tags, '')": [2],
    "NOT array_has(tags, 'a')": [1, 2],
    "array_length(tags) = 0": [1],
    "cardinality(tags) >= 2": [0, 2],
    "tags IS NULL": [3, 5],
    "open": [0, 2],
    "NOT open": [1, 4],
    "open IS NOT TRUE": [1, 3, 4, 5],
    "open IS FALSE": [1, 4],
    "open = false": [1, 4],
    "open OR n = 3": [0, 2, 3],
    "NOT (open OR n = 3)": [1, 4],
    "NOT NOT NOT open": [1, 4],
    "(((n))) = (1)": [1],
    "true AND NOT false AND 1 = 1.0 AND 'a' < 'b'": [0, 1, 2, 3, 4, 5],
    "id IN ('d1', 'd2', 'it''s')": [1, 2],
    "text LIKE '%3' OR title = 'T4'": [3, 4],
    "n IN (1)\n\tand\r\nNot open": [1],
}


def test_answers(index: Index) -> None:
    for where, wanted in ANSWERS.items():
        assert found(index, where) == wanted, where
        assert found(index, where, plan=FullText(n=COUNT) >> Rescore()) == wanted, where


REFUSED = {
    "length(repeat(text, 20000000)) > 3": "no function 'repeat'",
    "n = 1; DROP TABLE x": "';.*not understood",
    "n = 1 -- and more": "not understood",
    "n = 1 /* x */": "not understood",
    " \n": "",
    "n": "a number is not a condition",
    "n AND open": "a number is not a condition",
    "NOT n": "a number is not a condition",
    "name": "a string is not a condition",
    "n = 'x'": "a number cannot be compared with a string",
    "name = 1": "a string cannot be compared with a number",
    "n IN ('a')": "a number cannot be compared with a string",
    "n IN ()": "not understood",
    "n IN (open)": "followed by literals",
    "n = NULL": "IS NULL",
    "open > true": "booleans are compared",
    "tags = 'a'": "array_has",
    "1 < n < 3": "two comparisons",
    "n = 1 2": "not understood",
    "n >": "not understood at its end",
    "n = (1": r"\) is missing",
    "n = 1)": "not understood",
    "name = 'x": "not closed",
    "`name = 'x'": "not closed",
    "name LIKE name": "a text in quotes",
    "n LIKE '1'": "LIKE is for strings",
    f"name LIKE '{'%a' * 200}'": "at most 256",
    "yeer = 1": "did you mean 'year'",
    "YEAR = 1": "differ in case",
    "a.b = 1": "there is no field a.b",
    "CAST(n AS INT) = 1": "no function 'CAST'",
    "n + 1 = 2": "not understood",
    "n = 1 OR": "not understood at its end",
    "(" * 51 + "open" + ")" * 51: "more than 50 nested parentheses",
    "NOT (" * 5000 + "open" + ")" * 5000: "more than 50 nested parentheses",
    "lower(" * 60 + "name" + ")" * 60 + " = ''": "more than 50 nested parentheses",
    " OR ".join(["open"] * 2001): "more than 2,000 conditions",
    "n = " + "1" * 5000: "at most 4,000 digits",
    "n = 1" + " " * (5 << 20): "characters",
    "n = '\ud800'": "Unicode",
    "(SELECT 1) = 1": "",
    "EXISTS (SELECT 1)": "",
    "CASE WHEN open THEN true END": "",
    "n = 0x10": "not understood",
    "n = 1_000": "not understood",
    "open = 1": "a boolean cannot be compared with a number",
    "lower(n) = 'x'": "lower is for fields",
    "starts_with(name)": ", is missing",
    "starts_with(name, name)": "a text in quotes",
    "lower('A') = 'a'": "not for a literal",
}


def test_what_is_refused_is_refused_at_once_and_in_plain_words(index: Index) -> None:
    for where, message in REFUSED.items():
        start = time.monotonic()
        with pytest.raises(
            InputError, match=rf"(?s)(cannot be used: |where is |where must be |the condition is ).*{message}"
        ) as caught:
            found(index, where)
        assert time.monotonic() - start < 5
        assert len(str(caught.value)) <= 4_000
        assert ".rs" not in str(caught.value)


def test_large_filters_are_answered(index: Index) -> None:
    start = time.monotonic()
    assert found(index, f"n IN ({', '.join(map(str, range(2, 50_000)))})") == [2, 3, 4]
    assert found(index, " OR ".join(f"tweet = {TWEETS[0] + n}" for n in range(1, 1_500))) == [1, 2, 3, 4]
    assert found(index, "NOT " * 10_001 + "open") == [1, 4]
    assert found(index, f"name ILIKE '{'_' * 256}'") == []
    assert found(index, "(" * 49 + "open" + ")" * 49) == [0, 2]
    assert time.monotonic() - start < 20


def test_mutilated_filters_end_in_our_errors_or_answers(index: Index) -> None:
    draw = random.Random(5)
    pieces = [piece for where in ANSWERS if len(where) < 200 for piece in where.split(" ")]
    read = 0
    for _ in range(600):
        text = " ".join(draw.choices(pieces, k=draw.randint(1, 8)))
        place = draw.randrange(len(text))
        text = text[:place] + draw.choice(["", *"'\"`()%;-\\\x00é€ "]) + text[place + draw.randrange(2) :]
        try:
            found(index, text)
            read += 1
        except InputError:
            continue
    assert read


COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
LARGE = st.builds(lambda power, off: 2**power + off, st.integers(50, 1100), st.integers(-3, 3))
NUMBERS = st.one_of(st.integers(), LARGE, LARGE.map(lambda n: -n), st.floats(allow_nan=False), st.sampled_from(TWEETS))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.none() | NUMBERS | st.just(math.nan), min_size=1, max_size=8), st.lists(NUMBERS, min_size=1), st.data()
)
def test_numbers_are_compared_as_python_compares_them(values: list[Any], others: list[Any], data: Any) -> None:
    others += [value for value in values if value is not None and value == value]
    other = data.draw(st.sampled_from(others))
    column = Numbers.of(number_array(values), digit_array(values))
    valid = [value is not None and value == value for value in values]

    def wanted(check: Callable[[Any], bool]) -> list[bool | None]:
        return [check(value) if fine else None for value, fine in zip(values, valid, strict=True)]

    for name, compare in COMPARISONS.items():
        assert column.compare(name, other).to_pylist() == wanted(lambda value, c=compare: c(value, other))
        assert column.compare_all(name, column).to_pylist() == wanted(lambda value, c=compare: c(value, value))
    assert column.among(others).to_pylist() == wanted(lambda value: value in others)


def test_fields_that_come_later_and_go_again(tmp_path: Path) -> None:
    model: Any = FakeRetriever()
    index = Index.build(tmp_path / "index", [Document("d0", "river", metadata={"n": 1.5, "_rowid": 1})], model)
    index.add([Document("d1", "river", metadata={"n": TWEETS[0], "_rowid": TWEETS[1], "a.b": 1, "": 2})])
    index.add([Document("d2", "river", metadata={"n": TWEETS[1], "x" * 101: 1, "title": "t"})])
    assert index.fields == {"n": "number", "_rowid": "number"}
    assert found(index, f"n = {TWEETS[0]}") == [1]
    assert found(index, f"_rowid = {TWEETS[1]} OR n > {TWEETS[0]}") == [1, 2]
    with pytest.raises(InputError, match=r"there is no field a\.b.*cannot write.*: '', a\.b, 'xxx.*, title"):
        found(index, "a.b = 1")
    index.add([Document("d3", "river", metadata={"_rowid": "text"})])
    assert index.fields == {"n": "number"}
    index.compact()
    assert found(index, f"n = {TWEETS[0]}") == [1]
    assert {document.id: dict(document.metadata) for document in index.documents()}["d1"]["a.b"] == 1


def test_the_list_of_many_documents_is_not_sent_to_the_full_text_search(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyperseek.store.table._MOST_LISTED", 1)
    assert found(index, "n IN (1, 3, 4)", plan=FullText(n=2) >> Rescore()) != []
    assert found(index, "n IN (1, 3, 4)", plan=FullText(n=3) >> Rescore()) == [1, 3, 4]
